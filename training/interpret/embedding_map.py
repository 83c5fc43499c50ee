"""A data set's features as a map in two dimensions: what lies together looks alike to the network. No torch.

At once by PCA; by t-SNE (van der Maaten & Hinton 2008, "Visualizing Data using t-SNE"), which shows groups far better, but
whose distances between groups mean nothing.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from graft.service.inference.neighbours import unit

Places = NDArray[np.float64]

FEWEST = 10  # images from which on there are groups to be found
PERPLEXITY = 30
KEPT = 50  # principal components that t-SNE looks at
ROUNDS = 500


def sampled(n_images: int, most: int, seed: int = 0) -> NDArray[np.intp]:
    """Rows of at most so many images, in their order, the same ones each time."""
    if n_images <= most:
        return np.arange(n_images)
    return np.sort(np.random.default_rng(seed).choice(n_images, most, replace=False))


def components(vectors: NDArray[np.floating]) -> tuple[Places, NDArray[np.float64]]:
    """Where vectors (N, D), brought to length 1, lie along their principal components, and each one's share of all variance.

    Returns:
        float64 (N, K) and (K,), K being at most 50, N and D; each component points to where its largest value is above 0, so
        that no map is another one's mirror image by accident.
    """
    from threadpoolctl import threadpool_limits

    centred = unit(vectors).astype(np.float64)
    centred -= centred.mean(axis=0)
    # From the smaller of the two squares; several threads would cost more than they save.
    with threadpool_limits(1):
        tall = len(centred) > centred.shape[1]
        sizes, found = np.linalg.eigh(centred.T @ centred if tall else centred @ centred.T)
        order = np.argsort(-sizes)[:KEPT]
        variances = np.maximum(sizes[order], 0)
        places = centred @ found[:, order] if tall else found[:, order] * np.sqrt(variances)
    turned = np.where(places[np.abs(places).argmax(axis=0), np.arange(places.shape[1])] < 0, -1, 1)
    return places * turned, variances / max(float((centred**2).sum()), 1e-12)


def tsne(along: Places, seed: int = 0) -> Places:
    """Where t-SNE puts images (N, 2) that lie there along their principal components, (N, K), beginning from the first two.

    With a single thread: several wait for each other most of the time, for minutes where the machine is busy.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    begin = along[:, :2] / max(float(along[:, 0].std()), 1e-12) * 1e-4
    perplexity = min(PERPLEXITY, (len(along) - 1) / 3)
    with threadpool_limits(1):
        made = TSNE(init=begin, perplexity=perplexity, max_iter=ROUNDS, random_state=seed, n_jobs=1)
        found: Places = made.fit_transform(along).astype(np.float64)
    return found


def squared(places: Places) -> Places:
    """Places (N, 2) moved into the unit square, their proportions kept, its y pointing down as a page's does."""
    low, high = places.min(axis=0), places.max(axis=0)
    size = max(float((high - low).max()), 1e-12)
    found: Places = 0.5 + (places - (low + high) / 2) / size * np.array([1, -1])
    return found


def agreement(places: Places, labels: Sequence[int]) -> float:
    """The share of images (N, K) whose nearest image has the same label."""
    sizes = (places**2).sum(axis=1)
    apart = sizes[:, None] + sizes[None] - 2 * places @ places.T
    np.fill_diagonal(apart, np.inf)
    own = np.array(labels)
    return float((own[apart.argmin(axis=1)] == own).mean())
