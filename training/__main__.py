"""The `graft` command: parse, call one function, print. Heavy imports sit inside the verbs, so `--help` is instant."""

import argparse
import errno
import json
import signal
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from training.recipe import Recipe
    from training.run import Result

CHECKED = {"group_by", "follow_links", "backbone", "weights", "input_size", "fit"}  # what a check asks of a recipe
WRONG_USE, CORRUPT, DIVERGED, OUT_OF_MEMORY, DISK = 2, 3, 4, 5, 6
CODES = {
    "ArtifactError": CORRUPT,
    "CorruptCheckpoint": CORRUPT,
    "Diverged": DIVERGED,
    "OutOfMemoryError": OUT_OF_MEMORY,
    "MemoryError": OUT_OF_MEMORY,
}


def fit(arguments: argparse.Namespace) -> int:
    """graft fit DIR"""
    from training import run

    if arguments.replay:
        return _replay(arguments)
    if arguments.resume:
        return _resume(arguments)
    _print_result(run.fit(arguments.data, arguments.out, _recipe(arguments)), arguments.json)
    return 0


def _resume(arguments: argparse.Namespace) -> int:
    from training import folder, run, runs

    path = runs.resumable(arguments.data, arguments.out)
    recipe = folder.recorded_recipe(path, _given(arguments))
    if runs.finished(path):
        facts = {"run": str(path), "package": str(path / folder.PACKAGE)}
        done = f"{path} is finished\npackage: {facts['package']}\nnext: graft serve {facts['package']}"
        print(json.dumps(facts, ensure_ascii=False) if arguments.json else done)
    else:
        _print_result(run.fit(arguments.data, path, recipe, resume=True), arguments.json)
    return 0


def _replay(arguments: argparse.Namespace) -> int:
    from training import folder, replay

    result, differences = replay.replay(arguments.data, arguments.out, arguments.replay, _given(arguments))
    if arguments.json:
        rows = [{"what": name, "before": str(before), "now": str(now)} for name, before, now in differences]
        print(json.dumps(result.facts() | {"differences": rows}, ensure_ascii=False))
    elif differences:
        print(f"{result.run} differs from {arguments.replay}:\n{folder.table(differences)}")
    else:
        print(f"{result.run} equals {arguments.replay}: every metric and every weight")
    return 1 if differences else 0


def _print_result(result: "Result", as_json: bool) -> None:
    from training import run

    if as_json:
        print(json.dumps(result.facts(), ensure_ascii=False))
    else:
        print(run.summary(result))
        print(f"next: graft serve {result.artifact.path}")


def predict(arguments: argparse.Namespace) -> int:
    """graft predict PACKAGE IMAGE_OR_DIR..."""
    from service import model
    from service.preprocess import ImageError
    from training import predict as bulk

    loaded, failed = model.load(arguments.package), 0
    found: list[dict[str, object]] = []
    answers = bulk.predict(loaded, arguments.images, arguments.top_k)
    for path, answer in bulk.saved(answers, arguments.csv) if arguments.csv else answers:
        if isinstance(answer, ImageError):
            failed += 1
            print(f"{path}: {answer}", file=sys.stderr)
        if arguments.json:
            found.append({"path": str(path)} | bulk.facts(answer))
        elif not isinstance(answer, ImageError) and not arguments.csv:
            print(f"{path}\t{bulk.line(answer)}")
    if arguments.json:
        print(json.dumps({"model": loaded.manifest.sha256, "images": found}, ensure_ascii=False))
    elif arguments.csv:
        print(arguments.csv)
    return 1 if failed else 0


def compare(arguments: argparse.Namespace) -> int:
    """graft compare DIR"""
    from training import compare as comparing
    from training import contest

    out = arguments.out or Path("compare") / arguments.data.resolve().stem
    found = contest.compare(
        arguments.data, out, _recipe(arguments), _listed(arguments.strategies), _listed(arguments.backbones), arguments.seeds
    )
    print(comparing.text(found))
    print(f"every run: {out / 'compare.csv'}\nreport: {out / 'report.html'}")
    return 0


def check(arguments: argparse.Namespace) -> int:
    """graft check DIR"""
    from training import check as checking
    from training import report

    checked = checking.check(arguments.data, _recipe(arguments), not arguments.no_vectors)
    if arguments.report:
        report.save(checking.page(checked, arguments.data.resolve().name), arguments.report)
    if arguments.json:
        print(json.dumps(checked.facts(), ensure_ascii=False))
    else:
        print(checking.text(checked))
        print(f"report: {arguments.report}" if arguments.report else "see the images: --report FILE.html")
        print(f"next: {checking.advice(checked, arguments.data)}")
    return 1 if checked.count("error") else 0


def _listed(text: str) -> list[str]:
    return list(dict.fromkeys(filter(None, text.split(","))))


def evaluate(arguments: argparse.Namespace) -> int:
    """graft evaluate PACKAGE DIR"""
    from service import model
    from training import appraise

    found = appraise.package(model.load(arguments.package), arguments.data, arguments.ten_crop)
    score = {"accuracy": found.headline.value, "low": found.headline.low, "high": found.headline.high, "n": found.n}
    if arguments.json:
        print(json.dumps({"package": str(arguments.package), "score": score, "evaluation": found.model_dump(mode="json")}))
    else:
        print(appraise.text(found))
    return 1 if found.headline.value < arguments.min_accuracy else 0


def verify(arguments: argparse.Namespace) -> int:
    """graft verify PACKAGE"""
    from service import model

    loaded = model.load(arguments.package)
    manifest = loaded.manifest
    print(f"{arguments.package}: every byte as promised; golden answers within {loaded.drift:.1g}")
    print(f"model {manifest.name} {manifest.version}, {len(manifest.labels)} labels, sha256 {manifest.sha256}")
    print(f"next: graft serve {arguments.package}")
    return 0


def serve(arguments: argparse.Namespace) -> int:
    """graft serve [PACKAGE]"""
    from service.limits import LATEST
    from training import serve as serving

    serving.serve(arguments.package or LATEST, arguments.host, arguments.port)
    return 0


def demo(_: argparse.Namespace) -> int:
    """graft demo"""
    from training import demo as road

    print(road.demo())
    return 0


def _recipe(arguments: argparse.Namespace) -> "Recipe":
    from training.recipe import Recipe

    return Recipe.model_validate(_given(arguments))


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The choices that were made, by flags or in a file, without the defaults."""
    from training.recipe import Recipe

    given = {name: value for name, value in vars(arguments).items() if name in Recipe.model_fields}
    return Recipe.load(arguments.recipe, given).model_dump(exclude_unset=True) if arguments.recipe else given


def parser(argv: list[str]) -> argparse.ArgumentParser:
    """The command line; the flags of `fit` are the fields of `Recipe`, so none is declared twice."""
    root = _Parser(prog="graft", description="From a folder of labelled images to an answering endpoint.")
    root.add_argument("--version", action=_Version)
    verbs = root.add_subparsers(metavar="VERB", required=True)

    fitting = _verb(verbs, "fit", fit, "learn from a folder or .zip of images, and package the result")
    fitting.add_argument("data", type=Path, metavar="DIR", help="one folder of images for each label, or a .zip of that")
    fitting.add_argument("--out", type=Path, metavar="RUN", help="the run's folder (default: a new one below runs/)")
    again = fitting.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with --out, or the newest unfinished run (default: no)")
    again.add_argument("--replay", type=Path, metavar="RUN", help="repeat a finished run and compare (default: none)")
    fitting.add_argument("--recipe", type=Path, metavar="FILE", help="YAML with any of the choices below (default: none)")
    fitting.add_argument("--json", action="store_true", help="print one JSON object (default: a summary)")
    if "fit" in argv:  # the recipe's model takes longer to import than `graft --help` may take in all
        _add_recipe(fitting.add_argument_group("recipe"))

    checking = _verb(verbs, "check", check, "find what is wrong with a data set, all at once; exit with 1 if a fit would stop")
    checking.add_argument("data", type=Path, metavar="DIR", help="as for fit")
    checking.add_argument("--report", type=Path, metavar="FILE", help="write a page with the images concerned (default: none)")
    checking.add_argument("--no-vectors", action="store_true", help="no search for suspect labels and outliers (default: both)")
    checking.add_argument("--json", action="store_true", help="print one JSON object (default: a line for each finding)")
    checking.add_argument("--recipe", type=Path, metavar="FILE", help="YAML with any of the choices below (default: none)")
    if "check" in argv:
        _add_recipe(checking.add_argument_group("recipe"), only=CHECKED)

    comparing = _verb(verbs, "compare", compare, "learn in several ways and show which is really better on your images")
    comparing.add_argument("data", type=Path, metavar="DIR", help="as for fit")
    comparing.add_argument("--strategies", default="probe,finetune", metavar="A,B", help="(default: probe,finetune)")
    comparing.add_argument("--backbones", default="tf_efficientnet_lite0", metavar="A,B", help="(default: %(default)s)")
    comparing.add_argument(
        "--seeds", type=_positive, default=1, metavar="N", help="runs of each, with seeds 0 to N-1 (default: 1)"
    )
    comparing.add_argument("--out", type=Path, metavar="FOLDER", help="for compare.csv (default: one below compare/)")
    comparing.add_argument("--recipe", type=Path, metavar="FILE", help="YAML with any of the choices below (default: none)")
    if "compare" in argv:
        _add_recipe(comparing.add_argument_group("recipe"), without={"strategy", "backbone", "seed"})

    predicting = _verb(verbs, "predict", predict, "classify images with a package")
    predicting.add_argument("package", type=Path, metavar="PACKAGE")
    predicting.add_argument("images", type=Path, nargs="+", metavar="IMAGE_OR_DIR")
    predicting.add_argument("--top-k", type=_positive, default=3, metavar="K", help="labels per image (default: 3)")
    predicting.add_argument("--json", action="store_true", help="print one JSON object (default: a line per image)")
    predicting.add_argument("--csv", type=Path, metavar="FILE", help="write a table instead of lines (default: none)")

    evaluating = _verb(verbs, "evaluate", evaluate, "score a package on labelled images")
    evaluating.add_argument("package", type=Path, metavar="PACKAGE")
    evaluating.add_argument("data", type=Path, metavar="DIR")
    evaluating.add_argument(
        "--min-accuracy",
        type=float,
        default=0.0,
        help="exit with 1 below it, or below that mAP (default: 0)",
    )
    evaluating.add_argument("--ten-crop", action="store_true", help="look at each image ten times too (default: no)")
    evaluating.add_argument("--json", action="store_true", help="print one JSON object (default: a table)")

    verifying = _verb(verbs, "verify", verify, "check every byte of a package, and its golden answers")
    verifying.add_argument("package", type=Path, metavar="PACKAGE")

    serving = _verb(verbs, "serve", serve, "answer over HTTP")
    serving.add_argument("package", type=Path, nargs="?", metavar="PACKAGE", help="default: the latest run's")
    serving.add_argument("--host", default="127.0.0.1", help="an IP address to listen on (default: 127.0.0.1)")
    serving.add_argument("--port", type=int, default=3000, help="(default: 3000)")

    _verb(verbs, "demo", demo, "the whole road on a small sample: fit, package, serve, ask")
    return root


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


def _verb(verbs: Any, name: str, action: Callable[[argparse.Namespace], int], help_text: str) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=help_text, description=help_text.capitalize() + ".")
    verb.add_argument("--debug", action="store_true", help="show the traceback of an error (default: one line)")
    verb.set_defaults(action=action)
    return verb


def _add_recipe(group: Any, without: Collection[str] = (), only: Collection[str] = ()) -> None:
    from training.recipe import Recipe

    for name, field in Recipe.model_fields.items():
        if name in without or (only and name not in only):
            continue
        default = _unset(field) if field.default is None else field.default
        settings: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS}
        settings["help"] = f"{field.description} (default: {str(default).lower() if isinstance(default, bool) else default})"
        if field.annotation in (bool, bool | None):
            settings["action"] = argparse.BooleanOptionalAction
        else:
            settings["metavar"] = _metavar(name, field)
        group.add_argument(f"--{name.replace('_', '-')}", **settings)


def _metavar(name: str, field: "FieldInfo") -> str:
    kinds = (field.annotation, *get_args(field.annotation))  # a Literal by itself, or beside None
    choices = next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())
    return "|".join(map(str, choices)) or name.upper()


def _unset(field: "FieldInfo") -> object:
    """What None means, for a person."""
    extra = field.json_schema_extra
    return extra["unset"] if isinstance(extra, dict) and "unset" in extra else "derived from the data"


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _code(error: BaseException) -> int:
    """The exit code for an error that has a text for people; 0 means: a bug of ours, show the traceback."""
    # By name, because their modules take seconds to import.
    if code := CODES.get(type(error).__name__):
        return code
    if isinstance(error, OSError) and error.errno is not None:
        return DISK if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else WRONG_USE
    return WRONG_USE if isinstance(error, (ValueError, ModuleNotFoundError, RuntimeError)) else 0


def _text(error: BaseException) -> str:
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        lines = (f"--{str(e['loc'][0]).replace('_', '-')} {e['input']}: {e['msg']}." for e in error.errors())
        return "\n".join(lines)
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed. Training needs: pip install 'graft-vision[train]'"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."
    return str(error) or type(error).__name__


def _terminated(_: int, __: FrameType | None) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def main(argv: list[str] | None = None) -> int:
    """Runs one verb; the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = parser(argv).parse_args(argv)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        action: Callable[[argparse.Namespace], int] = arguments.action
        return action(arguments)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        code = _code(error)
        if code == 0 or arguments.debug:
            raise
        print(f"error: {_text(error)}", file=sys.stderr)
        return code


if __name__ == "__main__":
    sys.exit(main())
