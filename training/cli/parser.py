"""The command-line parser: commands, options and help texts. Must not import heavy modules at the top level."""

import argparse
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from graft.training.config.corruptions import DEFAULT_SAMPLE_SIZE

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


Action = Callable[[argparse.Namespace], int]
Command = argparse.ArgumentParser
# The recipe fields that `graft check` uses.
CHECK_OPTIONS = {"group_by", "follow_links", "backbone", "weights", "input_size", "fit"}
EXIT_USAGE = 2  # exit code


def build_parser(argv: list[str], handlers: Mapping[str, Action]) -> argparse.ArgumentParser:
    """Builds the parser. The options of `fit` are generated from the fields of `Recipe`.

    Args:
        handlers: the function that runs each command, by name.
    """
    root = _Parser(prog="graft", description="Train, evaluate and serve image classifiers.")
    root.add_argument("--version", action=_Version)
    subparsers = root.add_subparsers(metavar="COMMAND", required=True)
    for name, (help_text, add_arguments) in COMMANDS.items():
        command = subparsers.add_parser(name, help=help_text, description=f"{help_text[0].upper()}{help_text[1:]}.")
        command.add_argument("--debug", action="store_true", help="show the full traceback of an error (default: one line)")
        command.set_defaults(action=handlers[name])
        # Importing the recipe is slow, so only the selected command gets its options.
        add_arguments(command, name in argv)
    return root


def _fit(command: Command, selected: bool) -> None:
    command.add_argument(
        "data", type=Path, metavar="DATA", help="a folder with one subfolder per label, a .zip of it, a .csv, ..."
    )
    command.add_argument("--out", type=Path, metavar="RUN", help="run folder (default: a new folder in runs/)")
    mode = command.add_mutually_exclusive_group()
    mode.add_argument(
        "--resume", action="store_true", help="resume the run in --out, or the newest unfinished run (default: no)"
    )
    mode.add_argument(
        "--replay", type=Path, metavar="RUN", help="repeat a finished run and compare the results (default: none)"
    )
    command.add_argument("--json", action="store_true", help="print one JSON object (default: a summary)")
    _add_recipe(command, selected)


def _check(command: Command, selected: bool) -> None:
    command.add_argument("data", type=Path, metavar="DATA", help="as for fit")
    command.add_argument(
        "--report", type=Path, metavar="FILE", help="write an HTML report with the affected images (default: none)"
    )
    command.add_argument(
        "--no-vectors", action="store_true", help="skip the search for label issues and outliers (default: both)"
    )
    command.add_argument("--json", action="store_true", help="print one JSON object (default: one line per finding)")
    _add_recipe(command, selected, include=CHECK_OPTIONS)


def _compare(command: Command, selected: bool) -> None:
    command.add_argument("data", type=Path, metavar="DATA", help="as for fit")
    command.add_argument(
        "--strategies", default="probe,finetune", metavar="A,B", help="strategies to compare (default: probe,finetune)"
    )
    command.add_argument(
        "--backbones", default="tf_efficientnet_lite0", metavar="A,B", help="timm models (default: %(default)s)"
    )
    command.add_argument(
        "--seeds", type=_positive_int, default=1, metavar="N", help="runs of each combination, with seeds 0 to N-1 (default: 1)"
    )
    command.add_argument("--out", type=Path, metavar="FOLDER", help="output folder (default: a new folder in compare/)")
    _add_recipe(command, selected, exclude={"strategy", "backbone", "seed"})


def _predict(command: Command, _: bool) -> None:
    command.add_argument("package", type=Path, metavar="PACKAGE")
    command.add_argument("images", type=Path, nargs="+", metavar="IMAGE_OR_DIR")
    command.add_argument("--top-k", type=_positive_int, default=3, metavar="K", help="labels per image (default: 3)")
    command.add_argument("--json", action="store_true", help="print one JSON object (default: one line per image)")
    command.add_argument("--csv", type=Path, metavar="FILE", help="write predictions to a CSV file (default: none)")


def _evaluate(command: Command, _: bool) -> None:
    command.add_argument("package", type=Path, metavar="PACKAGE")
    command.add_argument("data", type=Path, metavar="DATA")
    command.add_argument(
        "--min-accuracy", type=float, default=0.0, help="exit with code 1 if accuracy (or mAP) is lower (default: 0)"
    )
    command.add_argument("--ten-crop", action="store_true", help="also measure ten-crop accuracy (default: no)")
    command.add_argument("--robust", action="store_true", help="measure robustness to image corruptions (default: no)")
    command.add_argument(
        "--sample",
        type=_positive_int,
        default=DEFAULT_SAMPLE_SIZE,
        metavar="N",
        help="number of images for --robust (default: %(default)s)",
    )
    command.add_argument("--report", type=Path, metavar="FILE", help="write an HTML report of --robust (default: none)")
    command.add_argument("--json", action="store_true", help="print one JSON object (default: a table)")


def _locate(command: Command, _: bool) -> None:
    command.add_argument("package", type=Path, metavar="PACKAGE")
    command.add_argument("image", type=Path, metavar="IMAGE")
    command.add_argument("--out", type=Path, metavar="FILE", help="write a PNG of the image with the boxes (default: none)")
    command.add_argument(
        "--min-probability", type=_probability, default=0.9, metavar="P", help="minimum probability of a box (default: 0.9)"
    )
    command.add_argument("--json", action="store_true", help="print one JSON object (default: one line per box)")


def _inspect(command: Command, _: bool) -> None:
    command.add_argument("subject", metavar="BACKBONE|PACKAGE", help="name of a backbone, or folder of a package")
    command.add_argument(
        "--input-size",
        type=_positive_int,
        metavar="N",
        help="input size of a backbone in pixels (default: its pretrained size)",
    )
    command.add_argument(
        "--data", type=Path, metavar="DATA", help="add heat maps and activations on these images to the page (default: none)"
    )
    command.add_argument(
        "--images", type=_positive_int, default=300, metavar="N", help="maximum number of images from DATA (default: 300)"
    )
    command.add_argument(
        "--channels", default="", metavar="A,B", help="channels to show, such as 17,stage3:5 (default: the most discriminative)"
    )
    command.add_argument("--html", type=Path, metavar="FILE", help="write an HTML page (default: none)")
    command.add_argument("--json", action="store_true", help="print one JSON object (default: a table)")


def _verify(command: Command, _: bool) -> None:
    command.add_argument("package", type=Path, metavar="PACKAGE")


def _package(command: Command, _: bool) -> None:
    command.add_argument(
        "run", type=Path, nargs="?", default=Path("runs/latest"), metavar="RUN", help="run folder (default: the latest run)"
    )


def _serve(command: Command, _: bool) -> None:
    command.add_argument(
        "package", type=Path, nargs="?", metavar="PACKAGE", help="package folder (default: that of the latest run)"
    )
    command.add_argument("--host", default="127.0.0.1", help="IP address to listen on (default: 127.0.0.1)")
    command.add_argument("--port", type=int, default=3000, help="port to listen on (default: 3000)")


def _build(command: Command, _: bool) -> None:
    command.add_argument(
        "package", type=Path, nargs="?", metavar="PACKAGE", help="package folder (default: that of the latest run)"
    )


def _demo(_: Command, __: bool) -> None:
    """`graft demo` has no options."""


COMMANDS = {
    "check": ("check a data set for issues before training; exit with code 1 if fit would stop", _check),
    "fit": ("train a classifier on labeled images and package it", _fit),
    "compare": ("compare strategies and backbones on your images, with significance tests", _compare),
    "evaluate": ("evaluate a package on labeled images", _evaluate),
    "predict": ("classify images with a package", _predict),
    "locate": ("locate objects in an image with a trained classifier", _locate),
    "inspect": ("show the layers of a network: shapes, parameters, receptive fields", _inspect),
    "verify": ("verify the checksums and golden outputs of a package", _verify),
    "package": ("select the run that is served by default and built into a Bento or a container image", _package),
    "serve": ("serve a package over HTTP", _serve),
    "build": ("build a Bento of the service and a package", _build),
    "demo": ("run fit, package, serve and a request on a small sample", _demo),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        print(f"error: {message}\nSee: {self.prog} --help", file=sys.stderr)
        raise SystemExit(EXIT_USAGE)


class _Version(argparse.Action):
    def __init__(self, **options: Any) -> None:
        super().__init__(nargs=0, help="print the version", **{k: v for k, v in options.items() if k != "nargs"})

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(version("graft-vision"))
        raise SystemExit(0)


def _add_recipe(command: Command, selected: bool, exclude: Collection[str] = (), include: Collection[str] = ()) -> None:
    command.add_argument("--recipe", type=Path, metavar="FILE", help="YAML file with any of the options below (default: none)")
    if not selected:
        return
    from graft.training.config.recipe import Recipe

    group = command.add_argument_group("recipe")
    for name, field in Recipe.model_fields.items():
        if name in exclude or (include and name not in include):
            continue
        default = _default_text(field) if field.default in (None, ()) else field.default
        options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS}
        options["help"] = f"{field.description} (default: {str(default).lower() if isinstance(default, bool) else default})"
        if field.annotation in (bool, bool | None):
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["metavar"] = _metavar(name, field)
        group.add_argument(f"--{name.replace('_', '-')}", **options)


def _metavar(name: str, field: "FieldInfo") -> str:
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "metavar" in extra:
        return str(extra["metavar"])
    types = (field.annotation, *get_args(field.annotation))  # a Literal, or a Literal in a union with None
    choices = next((get_args(kind) for kind in types if get_origin(kind) is Literal), ())
    return "|".join(map(str, choices)) or name.upper()


def _default_text(field: "FieldInfo") -> object:
    """What None means, for the help text."""
    extra = field.json_schema_extra
    return extra["unset"] if isinstance(extra, dict) and "unset" in extra else "derived from the data"


def _probability(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1")
    return value


def _positive_int(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)
