"""Scores of a peer on held-out images."""

import numpy as np
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss


def score(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, balanced accuracy and log-loss of probabilities, float (N, C), with labels, int64 (N,)."""
    predicted, columns = probabilities.argmax(axis=1), np.arange(probabilities.shape[1])
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "balanced_accuracy": float(balanced_accuracy_score(labels, predicted)),
        "log_loss": float(log_loss(labels, probabilities.astype(np.float64), labels=columns)),
    }
