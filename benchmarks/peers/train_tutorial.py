"""The loop of PyTorch's "Transfer Learning for Computer Vision Tutorial", on a folder with splits, from given weights.

    .bench/bin/python benchmarks/peers/train_tutorial.py FOLDER WEIGHTS.safetensors OUT.pt [--frozen] [--epochs 25] [--size 224]

All settings are those of the tutorial: batch size 4, four DataLoader workers, SGD with a learning rate of 0.001 and momentum
0.9, the rate divided by 10 every 7 epochs, random crops and flips, and the best epoch is kept. Only the network differs, with
its own mean and standard deviation. Prints one JSON object.
"""

import argparse
import copy
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

HELD_OUT_SPLITS = ("val", "test")


def loaders(folder: Path, size: int, normalize: transforms.Normalize) -> tuple[Any, Any]:
    """Loaders of the training split and of the held-out split, as in the tutorial."""
    train_transform = transforms.Compose(
        [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), transforms.ToTensor(), normalize]
    )
    eval_transform = transforms.Compose(
        [transforms.Resize(round(size * 256 / 224)), transforms.CenterCrop(size), transforms.ToTensor(), normalize]
    )
    held_out_folder = next(folder / name for name in HELD_OUT_SPLITS if (folder / name).is_dir())
    image_sets = datasets.ImageFolder(folder / "train", train_transform), datasets.ImageFolder(held_out_folder, eval_transform)
    first, second = (DataLoader(images, batch_size=4, shuffle=True, num_workers=4) for images in image_sets)
    return first, second


def accuracy(network: nn.Module, held_out: Iterable[Any]) -> float:
    """Accuracy on the held-out split."""
    n_correct = n_images = 0
    network.eval()
    with torch.no_grad():
        for images, labels in held_out:
            n_correct += int((network(images).argmax(1) == labels).sum())
            n_images += len(labels)
    return n_correct / n_images


def fit(network: nn.Module, train: Iterable[Any], held_out: Iterable[Any], parameters: Any, epochs: int) -> list[float]:
    """Train, restore the best epoch, and return the accuracy after each epoch."""
    optimizer = torch.optim.SGD(parameters, lr=0.001, momentum=0.9)
    scheduler = lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    criterion, accuracies, best = nn.CrossEntropyLoss(), [], network.state_dict()
    for _ in range(epochs):
        network.train()
        for images, labels in train:
            optimizer.zero_grad()
            criterion(network(images), labels).backward()
            optimizer.step()
        scheduler.step()
        accuracies.append(accuracy(network, held_out))
        if accuracies[-1] == max(accuracies):
            best = copy.deepcopy(network.state_dict())
    network.load_state_dict(best)
    return accuracies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--frozen", action="store_true", help="train the head only, as in the second half of the tutorial")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--size", type=int, default=224)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    started = time.monotonic()
    overlay = {"file": str(arguments.weights)}
    network = timm.create_model("tf_efficientnet_lite0", pretrained=True, pretrained_cfg_overlay=overlay)
    data_config = network.pretrained_cfg
    train, held_out = loaders(arguments.folder, arguments.size, transforms.Normalize(data_config["mean"], data_config["std"]))
    if arguments.frozen:
        network.requires_grad_(False)
    network.reset_classifier(len(train.dataset.classes))
    parameters = network.get_classifier().parameters() if arguments.frozen else network.parameters()
    accuracies = fit(network, train, held_out, parameters, arguments.epochs)
    torch.save(network.state_dict(), arguments.out)
    n_images = arguments.epochs * len(train.dataset)
    print(json.dumps({"learning_s": time.monotonic() - started, "images_learned": n_images, "accuracies": accuracies}))


if __name__ == "__main__":
    main()
