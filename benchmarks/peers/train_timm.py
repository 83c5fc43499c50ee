"""Fine-tuning with components of timm: dataset, loader, augmentation, loss, optimizer and scheduler, as in its training script.

    .bench/bin/python benchmarks/peers/train_timm.py FOLDER WEIGHTS.safetensors OUT.pt [--epochs 4] [--size 224]

AdamW with a learning rate of 5e-4 for the whole network, which suits so few steps better than the script's rate for training
from scratch; batch size 32, cosine schedule without warm-up, label smoothing 0.1, no EMA. Prints one JSON object.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from scores import score
from timm.data import create_dataset, create_loader, resolve_model_data_config
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2

HELD_OUT_SPLITS = ("val", "test")
BATCH_SIZE, LEARNING_RATE, N_WORKERS = 32, 5e-4, 2


def loaders(folder: Path, size: int, data_config: dict[str, Any]) -> tuple[Any, Any]:
    """Loaders of the training split and of the held-out split."""
    split = next(name for name in HELD_OUT_SPLITS if (folder / name).is_dir())
    preprocessing = {key: data_config[key] for key in ("mean", "std", "interpolation", "crop_pct")}
    shared = {
        "input_size": (3, size, size),
        "batch_size": BATCH_SIZE,
        "use_prefetcher": False,
        "num_workers": N_WORKERS,
        **preprocessing,
    }
    train_set = create_dataset("", root=folder, split="train", is_training=True)
    eval_set = create_dataset("", root=folder, split=split)
    return create_loader(train_set, is_training=True, **shared), create_loader(eval_set, is_training=False, **shared)


def predict(network: torch.nn.Module, held_out: Any) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities of the held-out split, float32 (N, C), and its labels, int64 (N,)."""
    network.eval()
    with torch.inference_mode():
        batches = [(network(images.contiguous(memory_format=torch.channels_last)), labels) for images, labels in held_out]
    logits, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return logits.softmax(dim=1).numpy(), labels.numpy()


def fit(network: torch.nn.Module, train: Any, held_out: Any, epochs: int) -> list[dict[str, float]]:
    """Train, and return the scores after each epoch."""
    optimizer = create_optimizer_v2(network, opt="adamw", lr=LEARNING_RATE, weight_decay=0.05)
    scheduler, _ = create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=epochs, step_on_epochs=False, updates_per_epoch=len(train)
    )
    criterion, scores, n_updates = LabelSmoothingCrossEntropy(0.1), [], 0
    for _ in range(epochs):
        network.train()
        for images, labels in train:
            loss = criterion(network(images.contiguous(memory_format=torch.channels_last)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            n_updates += 1
            scheduler.step_update(n_updates)
        scores.append(score(*predict(network, held_out)))
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--size", type=int, default=224)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    started = time.monotonic()
    overlay = {"file": str(arguments.weights)}
    network = timm.create_model("tf_efficientnet_lite0", pretrained=True, pretrained_cfg_overlay=overlay)
    train, held_out = loaders(arguments.folder, arguments.size, resolve_model_data_config(network))
    network.reset_classifier(len(train.dataset.reader.class_to_idx))
    scores = fit(network.to(memory_format=torch.channels_last), train, held_out, arguments.epochs)
    torch.save(network.state_dict(), arguments.out)
    n_images = arguments.epochs * len(train.dataset)
    accuracies = [one["accuracy"] for one in scores]
    record = {"learning_s": time.monotonic() - started, "images_learned": n_images, "accuracies": accuracies}
    print(json.dumps(record | {"test": scores[-1]}))


if __name__ == "__main__":
    main()
