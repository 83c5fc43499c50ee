"""The words of the `graft` command: its verbs and their flags. Nothing heavy is imported before a verb needs it."""

import argparse
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from graft.training.config.corruptions import SAMPLE

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


Action = Callable[[argparse.Namespace], int]
Verb = argparse.ArgumentParser
CHECKED = {"group_by", "follow_links", "backbone", "weights", "input_size", "fit"}  # what a check asks of a recipe
WRONG_USE = 2  # the exit code


def parser(argv: list[str], actions: Mapping[str, Action]) -> argparse.ArgumentParser:
    """The command line; the flags of `fit` are the fields of `Recipe`, so none is declared twice.

    Args:
        actions: what each verb does.
    """
    root = _Parser(prog="graft", description="From a folder of labelled images to an answering endpoint.")
    root.add_argument("--version", action=_Version)
    verbs = root.add_subparsers(metavar="VERB", required=True)
    for name, (help_text, add) in VERBS.items():
        verb = verbs.add_parser(name, help=help_text, description=help_text.capitalize() + ".")
        verb.add_argument("--debug", action="store_true", help="show the traceback of an error (default: one line)")
        verb.set_defaults(action=actions[name])
        # The recipe's model takes longer to import than `graft --help` may take in all.
        add(verb, name in argv)
    return root


def _fit(verb: Verb, named: bool) -> None:
    verb.add_argument("data", type=Path, metavar="DATA", help="a folder of images for each label, a .zip of that, a .csv, ...")
    verb.add_argument("--out", type=Path, metavar="RUN", help="the run's folder (default: a new one below runs/)")
    again = verb.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with --out, or the newest unfinished run (default: no)")
    again.add_argument("--replay", type=Path, metavar="RUN", help="repeat a finished run and compare (default: none)")
    verb.add_argument("--json", action="store_true", help="print one JSON object (default: a summary)")
    _add_recipe(verb, named)


def _check(verb: Verb, named: bool) -> None:
    verb.add_argument("data", type=Path, metavar="DATA", help="as for fit")
    verb.add_argument("--report", type=Path, metavar="FILE", help="write a page with the images concerned (default: none)")
    verb.add_argument("--no-vectors", action="store_true", help="no search for suspect labels and outliers (default: both)")
    verb.add_argument("--json", action="store_true", help="print one JSON object (default: a line for each finding)")
    _add_recipe(verb, named, only=CHECKED)


def _compare(verb: Verb, named: bool) -> None:
    verb.add_argument("data", type=Path, metavar="DATA", help="as for fit")
    verb.add_argument("--strategies", default="probe,finetune", metavar="A,B", help="(default: probe,finetune)")
    verb.add_argument("--backbones", default="tf_efficientnet_lite0", metavar="A,B", help="(default: %(default)s)")
    verb.add_argument("--seeds", type=_positive, default=1, metavar="N", help="runs of each, with seeds 0 to N-1 (default: 1)")
    verb.add_argument("--out", type=Path, metavar="FOLDER", help="for compare.csv (default: one below compare/)")
    _add_recipe(verb, named, without={"strategy", "backbone", "seed"})


def _predict(verb: Verb, _: bool) -> None:
    verb.add_argument("package", type=Path, metavar="PACKAGE")
    verb.add_argument("images", type=Path, nargs="+", metavar="IMAGE_OR_DIR")
    verb.add_argument("--top-k", type=_positive, default=3, metavar="K", help="labels per image (default: 3)")
    verb.add_argument("--json", action="store_true", help="print one JSON object (default: a line per image)")
    verb.add_argument("--csv", type=Path, metavar="FILE", help="write a table instead of lines (default: none)")


def _evaluate(verb: Verb, _: bool) -> None:
    verb.add_argument("package", type=Path, metavar="PACKAGE")
    verb.add_argument("data", type=Path, metavar="DATA")
    verb.add_argument("--min-accuracy", type=float, default=0.0, help="exit with 1 below it, or below that mAP (default: 0)")
    verb.add_argument("--ten-crop", action="store_true", help="look at each image ten times too (default: no)")
    verb.add_argument("--robust", action="store_true", help="disturb the images, and see what answers change (default: no)")
    verb.add_argument(
        "--sample", type=_positive, default=SAMPLE, metavar="N", help="images for --robust (default: %(default)s)"
    )
    verb.add_argument("--report", type=Path, metavar="FILE", help="write a page of what --robust found (default: none)")
    verb.add_argument("--json", action="store_true", help="print one JSON object (default: a table)")


def _locate(verb: Verb, _: bool) -> None:
    verb.add_argument("package", type=Path, metavar="PACKAGE")
    verb.add_argument("image", type=Path, metavar="IMAGE")
    verb.add_argument("--out", type=Path, metavar="FILE", help="write a PNG of the image with its boxes (default: none)")
    verb.add_argument("--probable", type=_share, default=0.9, metavar="P", help="least probability of a box (default: 0.9)")
    verb.add_argument("--json", action="store_true", help="print one JSON object (default: a line per box)")


def _inspect(verb: Verb, _: bool) -> None:
    verb.add_argument("subject", metavar="BACKBONE|PACKAGE", help="a network's name, or a package's folder")
    verb.add_argument("--input-size", type=_positive, metavar="N", help="pixels, for a backbone (default: its own)")
    verb.add_argument("--data", type=Path, metavar="DATA", help="show on the page what a package sees in it (default: none)")
    verb.add_argument("--images", type=_positive, default=300, metavar="N", help="of DATA, at most (default: 300)")
    verb.add_argument("--channels", default="", metavar="A,B", help="such as 17,stage3:5 (default: those that tell most)")
    verb.add_argument("--html", type=Path, metavar="FILE", help="write a page (default: none)")
    verb.add_argument("--json", action="store_true", help="print one JSON object (default: a table)")


def _verify(verb: Verb, _: bool) -> None:
    verb.add_argument("package", type=Path, metavar="PACKAGE")


def _package(verb: Verb, _: bool) -> None:
    verb.add_argument("run", type=Path, nargs="?", default=Path("runs/latest"), metavar="RUN", help="(default: the latest)")


def _serve(verb: Verb, _: bool) -> None:
    verb.add_argument("package", type=Path, nargs="?", metavar="PACKAGE", help="default: the latest run's")
    verb.add_argument("--host", default="127.0.0.1", help="an IP address to listen on (default: 127.0.0.1)")
    verb.add_argument("--port", type=int, default=3000, help="(default: 3000)")


def _demo(_: Verb, __: bool) -> None:
    """It has no flags of its own."""


VERBS = {
    "check": ("find what is wrong with images before anything is learned from them; exit with 1 if a fit would stop", _check),
    "fit": ("learn from labelled images, and package the result", _fit),
    "compare": ("learn in several ways and show which is really better on your images", _compare),
    "evaluate": ("score a package on labelled images", _evaluate),
    "predict": ("classify images with a package", _predict),
    "locate": ("find where in an image the things are that a package knows", _locate),
    "inspect": ("show what a network is, layer by layer", _inspect),
    "verify": ("check every byte of a package, and its golden answers", _verify),
    "package": ("choose the run whose package is served, built into a Bento, and shipped in an image", _package),
    "serve": ("answer over HTTP", _serve),
    "demo": ("the whole road on a small sample: fit, package, serve, ask", _demo),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        print(f"error: {message}\nSee: {self.prog} --help", file=sys.stderr)
        raise SystemExit(WRONG_USE)


class _Version(argparse.Action):
    def __init__(self, **settings: Any) -> None:
        super().__init__(nargs=0, help="print the version", **{k: v for k, v in settings.items() if k != "nargs"})

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(version("graft-vision"))
        raise SystemExit(0)


def _add_recipe(verb: Verb, named: bool, without: Collection[str] = (), only: Collection[str] = ()) -> None:
    verb.add_argument("--recipe", type=Path, metavar="FILE", help="YAML with any of the choices below (default: none)")
    if not named:
        return
    from graft.training.config.recipe import Recipe

    group = verb.add_argument_group("recipe")
    for name, field in Recipe.model_fields.items():
        if name in without or (only and name not in only):
            continue
        default = _unset(field) if field.default in (None, ()) else field.default
        settings: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS}
        settings["help"] = f"{field.description} (default: {str(default).lower() if isinstance(default, bool) else default})"
        if field.annotation in (bool, bool | None):
            settings["action"] = argparse.BooleanOptionalAction
        else:
            settings["metavar"] = _metavar(name, field)
        group.add_argument(f"--{name.replace('_', '-')}", **settings)


def _metavar(name: str, field: "FieldInfo") -> str:
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "metavar" in extra:
        return str(extra["metavar"])
    kinds = (field.annotation, *get_args(field.annotation))  # a Literal by itself, or beside None
    choices = next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())
    return "|".join(map(str, choices)) or name.upper()


def _unset(field: "FieldInfo") -> object:
    """What None means, for a person."""
    extra = field.json_schema_extra
    return extra["unset"] if isinstance(extra, dict) and "unset" in extra else "derived from the data"


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1")
    return share


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)
