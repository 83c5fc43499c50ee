"""fastai's quick start: `vision_learner(...).fine_tune(epochs)` on a folder of parts, with given weights.

    .bench/bin/python benchmarks/peers/train_fastai.py FOLDER WEIGHTS.safetensors OUT.pkl [--epochs 4] [--size 224]

As its documentation does it: `Resize` on every item, no other changes, its own defaults for everything else; the first
epoch trains the head alone and is not one of `epochs`. Prints one JSON object.
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
    begun = time.monotonic()
    held_out = "val" if (arguments.folder / "val").is_dir() else "test"
    loaders = ImageDataLoaders.from_folder(arguments.folder, train="train", valid=held_out, item_tfms=Resize(arguments.size))
    weights = {"file": str(arguments.weights)}
    learner = vision_learner(loaders, "tf_efficientnet_lite0", metrics=accuracy, pretrained_cfg_overlay=weights)
    with learner.no_bar():
        learner.fine_tune(arguments.epochs)
    learner.export(arguments.out.resolve())
    # Of the last training's epochs; the recorder forgets those of the head alone.
    accuracies = [values[-1] for values in learner.recorder.values]
    seen = (arguments.epochs + 1) * len(loaders.train_ds)
    print(json.dumps({"learning_s": time.monotonic() - begun, "images_learned": seen, "accuracies": accuracies}))


if __name__ == "__main__":
    main()
