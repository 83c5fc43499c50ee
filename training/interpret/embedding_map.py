"""Projects the features of a data set to two dimensions. No torch.

PCA is immediate. t-SNE (van der Maaten & Hinton 2008, "Visualizing Data using t-SNE") separates clusters better, but the
distances between clusters have no meaning.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from graft.service.inference.neighbors import l2_normalize

Coordinates = NDArray[np.float64]

MIN_IMAGES = 10  # minimum for a useful map
PERPLEXITY = 30
MAX_COMPONENTS = 50  # principal components for t-SNE
MAX_ITER = 500


def sample_rows(n_images: int, max_images: int, seed: int = 0) -> NDArray[np.intp]:
    """A deterministic random sample of row indices, ascending."""
    if n_images <= max_images:
        return np.arange(n_images)
    return np.sort(np.random.default_rng(seed).choice(n_images, max_images, replace=False))


def pca(vectors: NDArray[np.floating]) -> tuple[Coordinates, NDArray[np.float64]]:
    """PCA of L2-normalized vectors (N, D): the principal components and the explained variance ratio.

    Returns:
        float64 (N, K) and (K,), where K is at most 50, N and D. The sign of each component is fixed so that its largest
        absolute value is positive, which makes maps reproducible.
    """
    from threadpoolctl import threadpool_limits

    centered = l2_normalize(vectors).astype(np.float64)
    centered -= centered.mean(axis=0)
    # Decomposes the smaller of the two Gram matrices; one thread is faster than several at this size.
    with threadpool_limits(1):
        tall = len(centered) > centered.shape[1]
        eigenvalues, eigenvectors = np.linalg.eigh(centered.T @ centered if tall else centered @ centered.T)
        order = np.argsort(-eigenvalues)[:MAX_COMPONENTS]
        variances = np.maximum(eigenvalues[order], 0)
        scores = centered @ eigenvectors[:, order] if tall else eigenvectors[:, order] * np.sqrt(variances)
    signs = np.where(scores[np.abs(scores).argmax(axis=0), np.arange(scores.shape[1])] < 0, -1, 1)
    return scores * signs, variances / max(float((centered**2).sum()), 1e-12)


def tsne(components: Coordinates, seed: int = 0) -> Coordinates:
    """t-SNE coordinates (N, 2) of principal components (N, K), initialized with the first two.

    Uses one thread, because several threads mostly wait for each other, for minutes on a busy machine.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    init = components[:, :2] / max(float(components[:, 0].std()), 1e-12) * 1e-4
    perplexity = min(PERPLEXITY, (len(components) - 1) / 3)
    with threadpool_limits(1):
        model = TSNE(init=init, perplexity=perplexity, max_iter=MAX_ITER, random_state=seed, n_jobs=1)
        coordinates: Coordinates = model.fit_transform(components).astype(np.float64)
    return coordinates


def normalize_layout(coordinates: Coordinates) -> Coordinates:
    """Coordinates (N, 2) scaled into the unit square with their aspect ratio; y points down, as in SVG."""
    low, high = coordinates.min(axis=0), coordinates.max(axis=0)
    size = max(float((high - low).max()), 1e-12)
    layout: Coordinates = 0.5 + (coordinates - (low + high) / 2) / size * np.array([1, -1])
    return layout


def knn_label_agreement(coordinates: Coordinates, labels: Sequence[int]) -> float:
    """The share of images, at coordinates (N, K), whose nearest neighbor has the same label."""
    squared_norms = (coordinates**2).sum(axis=1)
    distances = squared_norms[:, None] + squared_norms[None] - 2 * coordinates @ coordinates.T
    np.fill_diagonal(distances, np.inf)
    targets = np.array(labels)
    return float((targets[distances.argmin(axis=1)] == targets).mean())
