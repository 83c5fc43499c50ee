"""What a package holds besides its network: golden samples, neighbors and thumbnails, read and checked at once."""

from dataclasses import dataclass

from ..artifact import Artifact, ArtifactError
from ..manifest import GOLDEN, MANIFEST, NEIGHBORS, THUMBNAILS
from ..package_arrays import checking
from ..package_contents import Index, check_neighbors, check_thumbnails
from .golden import GoldenSamples
from .head import check_head
from .neighbors import NeighborIndex, Thumbnails


@dataclass(frozen=True)
class Contents:
    """The contents of a package, which fit its manifest and each other.

    Attributes:
        neighbors: the training images for outlier scores and similarity search.
        thumbnails: of the neighbors.
    """

    golden: GoldenSamples
    neighbors: NeighborIndex
    thumbnails: Thumbnails


def load_contents(artifact: Artifact) -> Contents:
    """Reads and checks the contents of a package, and its head. The network is not touched.

    Raises:
        ArtifactError: if a file is not what the manifest says; the message names it.
    """
    check_head(artifact)
    golden, neighbors = _load_golden(artifact), _load_neighbors(artifact)
    return Contents(golden, neighbors, _load_thumbnails(artifact, len(neighbors.paths)))


def _load_golden(artifact: Artifact) -> GoldenSamples:
    with checking(artifact, GOLDEN):
        golden = GoldenSamples.load(artifact.golden, artifact.manifest.precisions)
    n_labels = len(artifact.manifest.labels)
    for logits in golden.logits.values():
        if logits.shape[1] != n_labels:
            manifest, path = artifact.path / MANIFEST, artifact.location(GOLDEN)
            raise ArtifactError(f"{manifest} lists {n_labels} labels, but {path} has {logits.shape[1]} logits.")
    return golden


def _load_neighbors(artifact: Artifact) -> NeighborIndex:
    manifest = artifact.manifest
    with checking(artifact, NEIGHBORS):
        neighbors = NeighborIndex.load(artifact.neighbors)
        index, k = Index(neighbors.labels, neighbors.paths), manifest.calibration.outlier_k
        check_neighbors(neighbors.vectors, index, len(manifest.labels), manifest.backbone.width, k)
    return neighbors


def _load_thumbnails(artifact: Artifact, n_expected: int) -> Thumbnails:
    with checking(artifact, THUMBNAILS):
        thumbnails = Thumbnails.load(artifact.thumbnails)
        check_thumbnails([thumbnails[row] or b"" for row in range(len(thumbnails))], n_expected)
    return thumbnails
