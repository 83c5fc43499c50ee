"""The commands of `graft`: arguments and help texts. Must not import heavy modules at the top level."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from graft.training.cli import usage_errors
from graft.training.cli.base_parser import Parser, Version
from graft.training.cli.examples import ROOT_EPILOG, format_examples
from graft.training.cli.recipe_options import add_recipe_options
from graft.training.config.corruptions import DEFAULT_SAMPLE_SIZE

Action = Callable[[argparse.Namespace], int]
CHECK_OPTIONS = {
    "backbone",
    "weights",
    "input_size",
    "fit",
    "device",
}  # the recipe fields of `graft check`, besides how to read
DEVICE_HELP = "device that runs the network; auto: a CUDA GPU that works, else the CPU"
DATA_HELP = "a folder with one subfolder per label, a .zip of it, a .csv, ..."
PACKAGE_HELP = "a package folder, such as runs/latest/package"
DEVICES = ("auto", "cpu", "cuda")
SHELLS = ("bash", "zsh", "fish", "tcsh")


def build_parser(argv: list[str], handlers: Mapping[str, Action]) -> Parser:
    """Builds the parser.

    Args:
        argv: the arguments to parse. A command that is not among them gets no recipe options, because importing the recipe
            is slow.
        handlers: the function that runs each command, by name.
    """
    root = Parser(prog="graft", description="Train, evaluate and serve image classifiers.", epilog=ROOT_EPILOG)
    root.add_argument("-V", "--version", action=Version)
    root.add_verbosity("normal")
    root.usage = "graft COMMAND [options]"
    subparsers = root.add_subparsers(dest="command", metavar="COMMAND", required=True, prog="graft", title="commands")
    for name, (help_text, add_arguments) in COMMANDS.items():
        description = f"{help_text[0].upper()}{help_text[1:]}."
        command = subparsers.add_parser(name, help=help_text, description=description, epilog=format_examples(name))
        command.add_verbosity(argparse.SUPPRESS)
        command.set_defaults(action=handlers[name], parser=command)
        add_arguments(command, name in argv)
        command.set_usage()
    return root


def parse(argv: list[str], handlers: Mapping[str, Action]) -> argparse.Namespace:
    """The arguments of a command.

    Raises:
        SystemExit: after printing the help or the version, or an error and what may have been meant.
    """
    if argv[:1] == ["help"]:
        argv = [*argv[1:], "--help"]
    root = build_parser(argv, handlers)
    word = next((word for word in argv if not word.startswith("-")), None)  # no option of `graft` itself takes a value
    if word is not None and word not in COMMANDS:
        root.error(usage_errors.unknown_command(word, list(COMMANDS)))
    arguments, unknown = root.parse_known_args(argv)
    if unknown:
        arguments.parser.error(usage_errors.unknown_words(unknown, argv, arguments.parser, _option_owners(handlers)))
    return arguments


def _option_owners(handlers: Mapping[str, Action]) -> dict[str, list[str]]:
    """For each option, the commands that have it."""
    [subparsers] = [action for action in build_parser(list(COMMANDS), handlers)._actions if action.dest == "command"]
    owners: dict[str, list[str]] = {}
    for name, command in dict(subparsers.choices or {}).items():
        for option in [option for action in command._actions for option in action.option_strings]:
            owners.setdefault(option, []).append(name)
    return owners


def _fit(command: Parser, selected: bool) -> None:
    command.add_argument("data", type=Path, metavar="DATA", help=DATA_HELP)
    output = command.groups["output"]
    output.add_argument("--out", type=Path, metavar="RUN", help="run folder (default: a new folder in runs/)")
    mode = output.add_mutually_exclusive_group()
    mode.add_argument(
        "--resume", action="store_true", help="resume the run in --out, or the newest unfinished run (default: no)"
    )
    mode.add_argument(
        "--replay", type=Path, metavar="RUN", help="repeat a finished run and compare the results (default: none)"
    )
    output.add_argument("--json", action="store_true", help="print one JSON object (default: a summary)")
    add_recipe_options(command, selected)


def _check(command: Parser, selected: bool) -> None:
    command.add_argument("data", type=Path, metavar="DATA", help=DATA_HELP)
    output = command.groups["output"]
    output.add_argument(
        "--report", type=Path, metavar="FILE", help="write an HTML report with the affected images (default: none)"
    )
    command.groups["data"].add_argument(
        "--no-vectors", action="store_true", help="skip the search for label issues and outliers (default: both)"
    )
    output.add_argument(
        "--max-label-issues",
        type=_positive_int,
        metavar="N",
        help="report the N most probable label errors (default: those that are almost certain)",
    )
    output.add_argument("--json", action="store_true", help="print one JSON object (default: one line per finding)")
    add_recipe_options(command, selected, only_reading_and=CHECK_OPTIONS)


def _compare(command: Parser, selected: bool) -> None:
    command.add_argument("data", type=Path, metavar="DATA", help=DATA_HELP)
    command.groups["training"].add_argument(
        "--strategies", default="probe,finetune", metavar="A,B", help="strategies to compare (default: probe,finetune)"
    )
    command.groups["model"].add_argument(
        "--backbones", default="tf_efficientnet_lite0", metavar="A,B", help="timm models (default: %(default)s)"
    )
    command.groups["training"].add_argument(
        "--seeds", type=_positive_int, default=1, metavar="N", help="runs of each combination, with seeds 0 to N-1 (default: 1)"
    )
    command.groups["output"].add_argument(
        "--out", type=Path, metavar="FOLDER", help="output folder (default: a new folder in compare/)"
    )
    add_recipe_options(command, selected, exclude={"strategy", "backbone", "seed", "from_model"})


def _predict(command: Parser, _: bool) -> None:
    command.add_argument("package", type=Path, metavar="PACKAGE", help=PACKAGE_HELP)
    command.add_argument("images", type=Path, nargs="+", metavar="IMAGE_OR_DIR", help="images, or folders of images")
    command.add_argument("--top-k", type=_positive_int, default=3, metavar="K", help="labels per image (default: 3)")
    command.add_argument(
        "--max-error",
        type=_proportion,
        metavar="SHARE",
        help="abstain unless predictions this sure are wrong at most this often (default: the model's)",
    )
    command.add_argument("--json", action="store_true", help="print one JSON object (default: one line per image)")
    command.add_argument("--csv", type=Path, metavar="FILE", help="write predictions to a CSV file (default: none)")
    command.add_argument(
        "--out",
        type=Path,
        metavar="PARTS",
        help="write predictions for one folder or archive to Parquet files in this folder; after an interruption, the same"
        " command goes on (default: none)",
    )
    _add_device(command)


def _evaluate(command: Parser, selected: bool) -> None:
    command.add_argument("package", type=Path, metavar="PACKAGE", help=PACKAGE_HELP)
    command.add_argument("data", type=Path, metavar="DATA", help=DATA_HELP)
    # A score on images that the model has learned from says nothing about whether it is good enough.
    either = command.add_mutually_exclusive_group()
    either.add_argument(
        "--min-accuracy", type=_proportion, default=0.0, help="exit with code 1 if accuracy (or mAP) is lower (default: 0)"
    )
    either.add_argument(
        "--include-training",
        action="store_true",
        help="do not leave out the images that the model has learned from or was chosen by (default: leave them out)",
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
    command.add_argument("--report", type=Path, metavar="FILE", help="write an HTML report (default: none)")
    command.add_argument("--json", action="store_true", help="print one JSON object (default: a table)")
    add_recipe_options(command, selected, only_reading_and=("device",))


def _locate(command: Parser, _: bool) -> None:
    command.add_argument("package", type=Path, metavar="PACKAGE", help=PACKAGE_HELP)
    command.add_argument("image", type=Path, metavar="IMAGE", help="an image file")
    command.add_argument("--out", type=Path, metavar="FILE", help="write a PNG of the image with the boxes (default: none)")
    command.add_argument(
        "--min-probability", type=_probability, default=0.9, metavar="P", help="minimum probability of a box (default: 0.9)"
    )
    command.add_argument("--json", action="store_true", help="print one JSON object (default: one line per box)")
    _add_device(command)


def _inspect(command: Parser, selected: bool) -> None:
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
    add_recipe_options(command, selected, only_reading_and=("device",))


def _verify(command: Parser, _: bool) -> None:
    command.add_argument("package", type=Path, metavar="PACKAGE", help=PACKAGE_HELP)
    _add_device(command)


def _package(command: Parser, _: bool) -> None:
    command.add_argument(
        "run", type=Path, nargs="?", default=Path("runs/latest"), metavar="RUN", help="run folder (default: the latest run)"
    )


def _serve(command: Parser, _: bool) -> None:
    command.add_argument(
        "package", type=Path, nargs="?", metavar="PACKAGE", help="package folder (default: that of the latest run)"
    )
    command.add_argument("--host", default="127.0.0.1", help="IP address or host name to listen on (default: 127.0.0.1)")
    command.add_argument("--port", type=int, default=3000, help="port to listen on; 0: any free port (default: 3000)")
    _add_device(command, default=argparse.SUPPRESS, default_text="GRAFT_DEVICE, else auto")


def _build(command: Parser, _: bool) -> None:
    command.add_argument(
        "package", type=Path, nargs="?", metavar="PACKAGE", help="package folder (default: that of the latest run)"
    )
    command.add_argument("--gpu", action="store_true", help="build it for a GPU, with torch and CUDA, 5 GB (default: no)")


def _demo(command: Parser, _: bool) -> None:
    command.add_argument("--serve", action="store_true", help="keep the server running until Ctrl-C (default: no)")
    _add_device(command)


def _info(command: Parser, _: bool) -> None:
    command.add_argument("--json", action="store_true", help="print one JSON object (default: one fact per line)")


def _completion(command: Parser, _: bool) -> None:
    command.add_argument("shell", choices=SHELLS, help="bash, zsh, fish or tcsh; the examples below install the script")


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
    "info": ("print versions, hardware and settings, for a bug report; shows no key and no user name", _info),
    "completion": ("print a script that completes commands, options and file names in a shell", _completion),
}


def _add_device(command: Parser, default: str = "auto", default_text: str = "auto") -> None:
    command.add_argument(
        "--device", choices=DEVICES, default=default, metavar="|".join(DEVICES), help=f"{DEVICE_HELP} (default: {default_text})"
    )


def _probability(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a number between 0 and 1")
    return value


def _proportion(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a number from 0 to 1, such as 0.9 for 90 %")
    return value


def _positive_int(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number greater than 0")
    return int(text)
