"""fastai's quick start: `vision_learner(...).fine_tune(epochs)` on a folder with splits, from given weights.

    .bench/bin/python benchmarks/peers/train_fastai.py FOLDER WEIGHTS.safetensors OUT.pkl [--epochs 4] [--size 224]

As in its documentation: `Resize` on every item, no augmentation, defaults for everything else. `fine_tune` first trains the
head for one epoch, which is not counted in `--epochs`. Prints one JSON object.
"""

import argparse
import json
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--size", type=int, default=224)
    arguments = parser.parse_args()
    from fastai.vision.all import ImageDataLoaders, Resize, accuracy, set_seed, vision_learner

    set_seed(0)
    started = time.monotonic()
    held_out = "val" if (arguments.folder / "val").is_dir() else "test"
    loaders = ImageDataLoaders.from_folder(arguments.folder, train="train", valid=held_out, item_tfms=Resize(arguments.size))
    weights = {"file": str(arguments.weights)}
    learner = vision_learner(loaders, "tf_efficientnet_lite0", metrics=accuracy, pretrained_cfg_overlay=weights)
    with learner.no_bar():
        learner.fine_tune(arguments.epochs)
    learner.export(arguments.out.resolve())
    # The recorder only keeps the last training phase, without the epoch of the head.
    accuracies = [values[-1] for values in learner.recorder.values]
    n_images = (arguments.epochs + 1) * len(loaders.train_ds)
    print(json.dumps({"learning_s": time.monotonic() - started, "images_learned": n_images, "accuracies": accuracies}))


if __name__ == "__main__":
    main()
