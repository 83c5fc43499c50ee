"""A linear probe as an expert would write it: features of a frozen timm network, and scikit-learn's LogisticRegression.

    .bench/bin/python benchmarks/peers/train_sklearn.py FOLDER WEIGHTS.safetensors OUT.joblib [--size 224] [--tune]

timm's transform for evaluation, channels_last, `torch.inference_mode`, batches of 32, two DataLoader workers; standardized
features; everything else as scikit-learn's defaults, with more iterations; `--tune` chooses the regularization by
cross-validation. Without augmentation, calibration or an exported
network. Prints one JSON object.
"""

import argparse
import json
import time
from pathlib import Path

import joblib
import numpy as np
import timm
import torch
from scores import score
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from timm.data import create_transform, resolve_model_data_config
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

HELD_OUT_SPLITS = ("val", "test")
BATCH_SIZE, N_WORKERS, MAX_ITERATIONS = 32, 2, 1000


@torch.inference_mode()
def features(network: torch.nn.Module, images: ImageFolder) -> tuple[np.ndarray, np.ndarray]:
    """Features, float32 (N, D), and labels, int64 (N,)."""
    batches = DataLoader(images, BATCH_SIZE, num_workers=N_WORKERS)
    rows = [(network(pixels.contiguous(memory_format=torch.channels_last)), labels) for pixels, labels in batches]
    vectors, labels = (torch.cat(parts).numpy() for parts in zip(*rows, strict=True))
    return vectors, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--tune", action="store_true")
    arguments = parser.parse_args()
    started = time.monotonic()
    overlay = {"file": str(arguments.weights)}
    network = timm.create_model("tf_efficientnet_lite0", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0)
    network = network.eval().to(memory_format=torch.channels_last)
    data_config = resolve_model_data_config(network) | {"input_size": (3, arguments.size, arguments.size)}
    transform, folder = create_transform(**data_config), arguments.folder
    held_out_split = next(name for name in HELD_OUT_SPLITS if (folder / name).is_dir())
    train, held_out = (ImageFolder(folder / split, transform) for split in ("train", held_out_split))
    tuned = LogisticRegressionCV(Cs=np.logspace(-5, 1, 13), scoring="neg_log_loss", max_iter=MAX_ITERATIONS, n_jobs=2)
    classifier = make_pipeline(StandardScaler(), tuned if arguments.tune else LogisticRegression(max_iter=MAX_ITERATIONS))
    classifier.fit(*features(network, train))
    vectors, labels = features(network, held_out)
    accuracies = [float(classifier.score(vectors, labels))]
    joblib.dump(classifier, arguments.out)
    record = {"learning_s": time.monotonic() - started, "images_learned": len(train), "accuracies": accuracies}
    print(json.dumps(record | {"test": score(classifier.predict_proba(vectors), labels)}))


if __name__ == "__main__":
    main()
