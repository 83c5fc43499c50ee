"""One handler per command: runs a pipeline and prints the result."""

import argparse
import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import graft
from graft.training.cli import show
from graft.training.cli.output import print_text
from graft.training.runtime.progress import log, step
from graft.training.runtime.terminal import sanitize

if TYPE_CHECKING:
    from graft.service.api.schemas import Classification
    from graft.service.errors import ImageError
    from graft.service.settings import DeviceSetting
    from graft.training.architecture.summary import Inspection
    from graft.training.config.recipe import Recipe
    from graft.training.interpret.collect import Interpretation

LOADING = "loading libraries"


def fit(arguments: argparse.Namespace) -> int:
    """graft fit DIR"""
    recipe = _recipe(arguments)
    if arguments.replay:
        return _replay(arguments, recipe)
    _load_pipeline("fit")
    result = graft.fit(arguments.data, out=arguments.out, resume=arguments.resume, recipe=recipe)
    if arguments.json:
        _print_json(result.to_dict())
    else:
        show.fit(result)
    return 0


def _replay(arguments: argparse.Namespace, recipe: "Recipe") -> int:
    with step(LOADING):
        from graft.training.pipelines import replay as pipeline

    repeated = pipeline.replay(arguments.data, arguments.out, arguments.replay, recipe)
    if arguments.json:
        rows = [{"what": name, "before": str(before), "now": str(now)} for name, before, now in repeated.differences]
        _print_json(repeated.result.to_dict() | {"tolerance": repeated.tolerance, "differences": rows})
    else:
        show.replay(repeated, arguments.replay)
    return 1 if repeated.differences else 0


def predict(arguments: argparse.Namespace) -> int:
    """graft predict PACKAGE IMAGE_OR_DIR..."""
    if arguments.out:
        return _score(arguments)
    _select_device(arguments.device)
    with step(LOADING):
        from graft.service.errors import ImageError
        from graft.training.pipelines import arguments as checks
        from graft.training.pipelines import predict as bulk

    checks.check_order(arguments.package, arguments.images)
    with step(f"loading {arguments.package}"):
        classifier, n_failed = graft.load(arguments.package, device=arguments.device), 0

    def report_errors() -> "Iterator[tuple[Path, Classification | ImageError]]":
        nonlocal n_failed
        predictions = bulk.predict(classifier, arguments.images, arguments.top_k, arguments.max_error)
        for path, prediction in bulk.write_csv(predictions, arguments.csv) if arguments.csv else predictions:
            if isinstance(prediction, ImageError):
                n_failed += 1
                log(f"error: {path}: {prediction}")
            yield path, prediction

    if arguments.json:
        for text in bulk.to_json(classifier, report_errors()):
            print(text, end="")
    else:
        for path, prediction in report_errors():
            if not isinstance(prediction, ImageError) and not arguments.csv:
                print(sanitize(f"{path}\t{bulk.to_text(prediction)}"), flush=True)
        if arguments.csv:
            print_text(str(arguments.csv))
    return 1 if n_failed else 0


def _score(arguments: argparse.Namespace) -> int:
    """graft predict PACKAGE DIR --out PARTS"""
    if arguments.csv or len(arguments.images) > 1:
        problem = "--out and --csv exclude each other." if arguments.csv else "--out takes one folder or archive."
        raise ValueError(problem)
    _load_pipeline("predict")
    result = graft.predict(
        arguments.package,
        arguments.images[0],
        arguments.out,
        top_k=arguments.top_k,
        max_error=arguments.max_error,
        device=arguments.device,
    )
    if arguments.json:
        _print_json(result.to_dict())
    else:
        show.predict(result)
    return 1 if result.n_failed else 0


def compare(arguments: argparse.Namespace) -> int:
    """graft compare DIR"""
    recipe = _recipe(arguments)
    _load_pipeline("compare")
    result = graft.compare(
        arguments.data,
        strategies=_split_commas(arguments.strategies),
        backbones=_split_commas(arguments.backbones),
        seeds=arguments.seeds,
        out=arguments.out,
        recipe=recipe,
    )
    show.compare(result, arguments.data)
    return 0


def check(arguments: argparse.Namespace) -> int:
    """graft check DIR"""
    recipe = _recipe(arguments)
    _load_pipeline("check")
    report = graft.check(
        arguments.data,
        use_features=not arguments.no_vectors,
        max_label_issues=arguments.max_label_issues,
        recipe=recipe,
    )
    if arguments.report:
        report.save_report(arguments.report)
    if arguments.json:
        _print_json(report.to_dict())
    else:
        show.check(report, arguments.data, arguments.report)
    return 1 if report.count("error") else 0


def _split_commas(text: str) -> list[str]:
    return list(dict.fromkeys(filter(None, text.split(","))))


def evaluate(arguments: argparse.Namespace) -> int:
    """graft evaluate PACKAGE DIR"""
    recipe = _recipe(arguments)
    _load_pipeline("evaluate")
    result = graft.evaluate(
        arguments.package,
        arguments.data,
        ten_crop=arguments.ten_crop,
        robust=arguments.robust,
        sample=arguments.sample,
        include_training=arguments.include_training,
        recipe=recipe,
    )
    if arguments.report:
        result.save_report(arguments.report)
    if arguments.json:
        _print_json(result.to_dict())
    else:
        show.evaluate(result, arguments.report)
    return 1 if result.evaluation.primary_metric.value < arguments.min_accuracy else 0


def locate(arguments: argparse.Namespace) -> int:
    """graft locate PACKAGE IMAGE"""
    _select_device(arguments.device)
    with step(LOADING):
        from graft.service.inference import model
        from graft.training.inference import detector, draw_boxes
        from graft.training.pipelines import arguments as checks
        from graft.training.runtime import atomic_files

    checks.check_order(arguments.package, [arguments.image])
    encoded = arguments.image.read_bytes()
    with step(f"loading {arguments.package}"):
        loaded = model.load(arguments.package, arguments.device)
    with step("locating objects"):
        detections = detector.locate(loaded, encoded, arguments.min_probability)
    if arguments.out:
        image, size = detector.load_upright(loaded, encoded)
        with atomic_files.atomic_write(arguments.out) as file:
            file.write(draw_boxes.draw_boxes(image, size, detections.boxes, loaded.manifest.labels))
    if arguments.json:
        print(detector.to_json(detections, arguments.package, arguments.image))
    else:
        show.locate(detections, arguments.package, arguments.image, arguments.out)
    return 0


def inspect(arguments: argparse.Namespace) -> int:
    """graft inspect BACKBONE|PACKAGE"""
    recipe = _recipe(arguments)
    with step(LOADING):
        from graft.training.architecture import summary
        from graft.training.pipelines import arguments as checks
        from graft.training.report import render

    if arguments.data and not (arguments.html and Path(arguments.subject).is_dir()):
        raise ValueError("--data needs a package and --html FILE, because heat maps and activations are shown on the page.")
    if arguments.data:
        checks.check_order(Path(arguments.subject), [arguments.data])
    with step(f"inspecting {arguments.subject}"):
        inspection = summary.inspect(arguments.subject, arguments.input_size, recipe.device)
    if arguments.html:
        interpretation = _interpret(arguments, inspection, recipe) if arguments.data else None
        render.save(render.inspect_page(inspection, interpretation), arguments.html)
    if arguments.json:
        _print_json(inspection.to_dict())
    else:
        show.inspect(inspection, arguments.html)
    return 0


def _interpret(arguments: argparse.Namespace, inspection: "Inspection", recipe: "Recipe") -> "Interpretation":
    from graft.service.inference import model
    from graft.training.interpret import collect

    with step(f"loading {arguments.subject}"):
        loaded = model.load(Path(arguments.subject), recipe.device)
    channels = _split_commas(arguments.channels)
    return collect.interpret_package(loaded, inspection.model_summary, arguments.data, arguments.images, channels, recipe)


def verify(arguments: argparse.Namespace) -> int:
    """graft verify PACKAGE"""
    _select_device(arguments.device)
    with step(LOADING):
        from graft.service.inference import model

    with step(f"verifying {arguments.package}"):
        loaded = model.load(arguments.package, arguments.device)
    show.verify(loaded, arguments.package)
    return 0


def package(arguments: argparse.Namespace) -> int:
    """graft package [RUN]"""
    show.package(graft.package(arguments.run))
    return 0


def serve(arguments: argparse.Namespace) -> int:
    """graft serve [PACKAGE]"""
    from graft.service.settings import LATEST_PACKAGE
    from graft.training.pipelines import serve as pipeline

    device = vars(arguments).get("device")
    pipeline.serve(arguments.package or LATEST_PACKAGE, arguments.host, arguments.port, device)
    return 0


def build(arguments: argparse.Namespace) -> int:
    """graft build [PACKAGE]"""
    from graft.service.settings import LATEST_PACKAGE
    from graft.training.pipelines import build as bento

    with step("building the Bento"):
        tag = bento.build(arguments.package or LATEST_PACKAGE, arguments.gpu)
    show.build(tag)
    return 0


def demo(arguments: argparse.Namespace) -> int:
    """graft demo"""
    _select_device(arguments.device)
    with step(LOADING):
        from graft.training.pipelines import demo as pipeline

    with pipeline.demo(arguments.device) as result:
        print(result.to_text(keep_serving=arguments.serve), flush=True)
        if arguments.serve:
            result.server.wait()
    return 0


def info(arguments: argparse.Namespace) -> int:
    """graft info"""
    from graft.training.pipelines import info as pipeline

    with step("looking at this machine"):
        found = pipeline.collect()
    if arguments.json:
        _print_json(found.to_dict())
    else:
        show.info(found)
    return 0


def completion(arguments: argparse.Namespace) -> int:
    """graft completion SHELL"""
    from graft.training.cli import completion as shell_completion

    print(shell_completion.script(arguments.shell))
    return 0


def _print_json(record: dict[str, object]) -> None:
    print(json.dumps(record, ensure_ascii=False))


def _load_pipeline(name: str) -> None:
    """Imports what `graft.NAME` is going to use, and says so, because it takes seconds."""
    with step(LOADING):
        import_module(f"graft.training.pipelines.{name}")


def _select_device(setting: "DeviceSetting") -> None:
    """Fails at once if the device cannot be used, before anything slow is imported."""
    from graft.training.runtime.device import select_device

    select_device(setting)


def _recipe(arguments: argparse.Namespace) -> "Recipe":
    """The options of the recipe file and of the flags; its device can be used."""
    from graft.training.config.recipe import Recipe, resolve_recipe

    options = {name: value for name, value in vars(arguments).items() if name in Recipe.model_fields}
    recipe = resolve_recipe(arguments.recipe, options)
    _select_device(recipe.device)
    return recipe


_TRAINING = check, fit, compare, evaluate, predict, locate, inspect
_OTHERS = verify, package, serve, build, demo, info, completion
HANDLERS = {handler.__name__: handler for handler in (*_TRAINING, *_OTHERS)}
