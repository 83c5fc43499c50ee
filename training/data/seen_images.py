"""The images that a model has learned from or was chosen by, as its package keeps them: an evaluation must leave them out.

Of each file, the package has the beginning of its SHA-256 and its perceptual hash, so that copies in another size or encoding
are found too, but no image can be made from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graft.service.errors import ImageError
from graft.service.imaging.preprocess import load_preview
from graft.service.inference.devices import available_cpus
from graft.service.inference.thread_map import ordered_map
from graft.service.package_arrays import ArraySpec, ContentError, read_arrays
from graft.training.data.dataset import Dataset, Sample, digest_prefixes
from graft.training.data.near_duplicates import THUMBNAIL_SIDE, Pairs, candidate_pairs, dhash, hamming_distances, to_grayscale
from graft.training.data.splits import Splits
from graft.training.runtime.progress import Progress

# Of 128 bits. Measured on copies of 300 photos of flowers, insects and garbage: of those that were resized, blurred, made gray
# or saved again as JPEG, 94 to 100 % differ in no more bits; of those saved as WebP, 68 to 86 %. No two distinct photos are so
# close, but 4 % of the images of clothes on a white ground have such a pair, and there is no thumbnail here to tell them apart.
MAX_COPY_DISTANCE = 4
_SPECS = {"digests": ArraySpec("<u8", 1), "hashes": ArraySpec("<u8", 2), "test": ArraySpec("<u8", 1)}

Words = NDArray[np.uint64]


@dataclass(frozen=True)
class ImageHashes:
    """What tells N files apart.

    Attributes:
        digests: uint64 (N,), of the files, as `digest_prefixes` shortens them.
        hashes: uint64 (N, 2), the horizontal and vertical dHash.
        mirrored: the same of their mirror images.
    """

    digests: Words
    hashes: Words
    mirrored: Words

    @classmethod
    def of(cls, samples: Sequence[Sample], hashes: Words, mirrored: Words) -> "ImageHashes":
        """The hashes of scanned samples and of their mirror images, uint64 (N, 2) each; row i is that of the i-th sample."""
        return cls(digest_prefixes(sample.digest for sample in samples), hashes, mirrored)

    @classmethod
    def read(cls, dataset: Dataset, samples: Sequence[Sample]) -> "ImageHashes":
        """Reads the files and hashes them. A file that is no usable image has a perceptual hash that is like no other."""

        def hash_one(sample: Sample) -> tuple[bytes, tuple[int, ...]]:
            encoded = dataset.read(sample)
            try:
                gray = to_grayscale(load_preview(encoded, THUMBNAIL_SIDE).pixels)
            except ImageError:
                return sha256(encoded).digest(), (0, 0, 0, 0)
            return sha256(encoded).digest(), (*dhash(gray), *dhash(gray[:, ::-1]))

        with Progress("comparing with the images of the model", len(samples), "images") as progress:
            rows = list(progress.track(ordered_map(hash_one, samples, available_cpus())))
        hashes = np.array([words for _, words in rows], np.uint64).reshape(-1, 4)
        return cls(digest_prefixes(digest for digest, _ in rows), hashes[:, :2], hashes[:, 2:])


@dataclass(frozen=True)
class SeenImages:
    """The images of a run.

    Attributes:
        digests, hashes: of the training and validation images, as in `ImageHashes`; each file once.
        test: digests of the test images, uint64 (M,).
    """

    digests: Words
    hashes: Words
    test: Words

    @classmethod
    def of(cls, images: ImageHashes, splits: Splits) -> "SeenImages":
        """The images of a run's splits, whose hashes are among `images`."""
        seen = digest_prefixes(sample.digest for sample in (*splits.train, *splits.validation))
        rows = np.flatnonzero(np.isin(images.digests, seen))
        digests, first = np.unique(images.digests[rows], return_index=True)
        return cls(digests, images.hashes[rows[first]], np.unique(digest_prefixes(sample.digest for sample in splits.test)))

    def contain(self, images: ImageHashes) -> NDArray[np.bool_]:
        """Which of N files the model has seen, byte for byte or as a copy that looks the same, or mirrored: bool (N,).

        A test image of the run is no copy, however similar it is: the run has compared it with the others by more than a hash.
        """
        contained: NDArray[np.bool_] = np.isin(images.digests, self.digests)
        n, n_images = len(self.digests), len(images.digests)
        hashes = np.concatenate([self.hashes, images.hashes, images.mirrored])
        pairs = copy_pairs(hashes)
        pairs = pairs[(pairs[:, 0] < n) & (pairs[:, 1] >= n)]
        copies = np.zeros(n_images, bool)
        copies[(pairs[:, 1] - n) % max(1, n_images)] = True
        return contained | (copies & ~np.isin(images.digests, self.test))

    def save(self, path: Path) -> None:
        """Writes an .npz file. It contains only plain arrays, so that it can be read without pickle."""
        np.savez(path, digests=self.digests, hashes=self.hashes, test=self.test)

    @classmethod
    def load(cls, path: Path) -> "SeenImages":
        """Reads what `save` wrote. Raises ContentError if it is anything else."""
        arrays = read_arrays(path, _SPECS)
        digests, hashes = arrays["digests"], arrays["hashes"]
        if hashes.shape != (len(digests), 2):
            raise ContentError(f"has {len(digests):,} digests, and hashes of shape {hashes.shape}")
        return cls(digests, hashes, arrays["test"])


def copy_pairs(hashes: Words) -> Pairs:
    """The pairs of rows of hashes (N, 2) that are as close as those of copies: (P, 2), each once, the smaller row first."""
    pairs = candidate_pairs(hashes[:, 0], hashes[:, 1])
    return pairs[hamming_distances(hashes[:, 0], hashes[:, 1], *pairs.T) <= MAX_COPY_DISTANCE]


NO_IMAGES = SeenImages(np.zeros(0, np.uint64), np.zeros((0, 2), np.uint64), np.zeros(0, np.uint64))
