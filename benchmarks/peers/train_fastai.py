"""fastai's quick start: `vision_learner(...).fine_tune(epochs)` on a folder with splits, from given weights.

    .bench/bin/python benchmarks/peers/train_fastai.py FOLDER WEIGHTS.safetensors OUT.pkl [--epochs 4] [--size 224] [--augment]

As in its documentation: `Resize` on every item, defaults for everything else; `--augment` adds its `aug_transforms`.
`fine_tune` first trains the head for one epoch, which is not counted in `--epochs`. Prints one JSON object.
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
    parser.add_argument("--augment", action="store_true")
    arguments = parser.parse_args()
    from fastai.vision.all import ImageDataLoaders, Resize, accuracy, aug_transforms, set_seed, vision_learner
    from scores import score

    set_seed(0)
    started = time.monotonic()
    held_out = "val" if (arguments.folder / "val").is_dir() else "test"
    transforms = {"item_tfms": Resize(arguments.size), "batch_tfms": aug_transforms() if arguments.augment else None}
    loaders = ImageDataLoaders.from_folder(arguments.folder, train="train", valid=held_out, **transforms)
    weights = {"file": str(arguments.weights)}
    learner = vision_learner(loaders, "tf_efficientnet_lite0", metrics=accuracy, pretrained_cfg_overlay=weights)
    with learner.no_bar():
        learner.fine_tune(arguments.epochs)
    learner.export(arguments.out.resolve())
    # The recorder only keeps the last training phase, without the epoch of the head.
    accuracies = [values[-1] for values in learner.recorder.values]
    n_images = (arguments.epochs + 1) * len(loaders.train_ds)
    record = {"learning_s": time.monotonic() - started, "images_learned": n_images, "accuracies": accuracies}
    with learner.no_bar():
        probabilities, labels = learner.get_preds()
    print(json.dumps(record | {"test": score(probabilities.numpy(), labels.numpy())}))


if __name__ == "__main__":
    main()
