"""Projects the features of a data set to two dimensions. No torch.

PCA is immediate. t-SNE (van der Maaten & Hinton 2008, "Visualizing Data using t-SNE") separates clusters better, but the
distances between clusters have no meaning.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from graft.service.inference.neighbours import unit

Places = NDArray[np.float64]

FEWEST = 10  # minimum for a useful map
PERPLEXITY = 30
KEPT = 50  # principal components for t-SNE
ROUNDS = 500


def sampled(n_images: int, most: int, seed: int = 0) -> NDArray[np.intp]:
    """A deterministic random sample of row indices, ascending."""
    if n_images <= most:
        return np.arange(n_images)
    return np.sort(np.random.default_rng(seed).choice(n_images, most, replace=False))


def components(vectors: NDArray[np.floating]) -> tuple[Places, NDArray[np.float64]]:
    """PCA of L2-normalized vectors (N, D): the principal components and the explained variance ratio.

    Returns:
        float64 (N, K) and (K,), where K is at most 50, N and D. The sign of each component is fixed so that its largest
        absolute value is positive, which makes maps reproducible.
    """
    from threadpoolctl import threadpool_limits

    centered = unit(vectors).astype(np.float64)
    centered -= centered.mean(axis=0)
    # Decomposes the smaller of the two Gram matrices; one thread is faster than several at this size.
    with threadpool_limits(1):
        tall = len(centered) > centered.shape[1]
        eigenvalues, eigenvectors = np.linalg.eigh(centered.T @ centered if tall else centered @ centered.T)
        order = np.argsort(-eigenvalues)[:KEPT]
        variances = np.maximum(eigenvalues[order], 0)
        scores = centered @ eigenvectors[:, order] if tall else eigenvectors[:, order] * np.sqrt(variances)
    signs = np.where(scores[np.abs(scores).argmax(axis=0), np.arange(scores.shape[1])] < 0, -1, 1)
    return scores * signs, variances / max(float((centered**2).sum()), 1e-12)


def tsne(along: Places, seed: int = 0) -> Places:
    """t-SNE coordinates (N, 2) of principal components (N, K), initialized with the first two.

    Uses one thread, because several threads mostly wait for each other, for minutes on a busy machine.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    init = along[:, :2] / max(float(along[:, 0].std()), 1e-12) * 1e-4
    perplexity = min(PERPLEXITY, (len(along) - 1) / 3)
    with threadpool_limits(1):
        model = TSNE(init=init, perplexity=perplexity, max_iter=ROUNDS, random_state=seed, n_jobs=1)
        coordinates: Places = model.fit_transform(along).astype(np.float64)
    return coordinates


def squared(places: Places) -> Places:
    """Coordinates (N, 2) scaled into the unit square with their aspect ratio; y points down, as in SVG."""
    low, high = places.min(axis=0), places.max(axis=0)
    size = max(float((high - low).max()), 1e-12)
    layout: Places = 0.5 + (places - (low + high) / 2) / size * np.array([1, -1])
    return layout


def agreement(places: Places, labels: Sequence[int]) -> float:
    """The share of images, at coordinates (N, K), whose nearest neighbor has the same label."""
    squared_norms = (places**2).sum(axis=1)
    distances = squared_norms[:, None] + squared_norms[None] - 2 * places @ places.T
    np.fill_diagonal(distances, np.inf)
    targets = np.array(labels)
    return float((targets[distances.argmin(axis=1)] == targets).mean())
