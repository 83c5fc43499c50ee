"""One handler per command: runs a pipeline and prints the result."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graft.service.errors import ImageError
    from graft.service.inference.model import ClassificationResult, Model
    from graft.training.architecture.summary import Inspection
    from graft.training.config.recipe import Recipe
    from graft.training.data.dataset import Dataset, Sample
    from graft.training.interpret.collect import Interpretation
    from graft.training.pipelines.fit import FitResult


def fit(arguments: argparse.Namespace) -> int:
    """graft fit DIR"""
    from graft.training.pipelines import fit as run

    if arguments.replay:
        return _replay(arguments)
    if arguments.resume:
        return _resume(arguments)
    _print_result(run.fit(arguments.data, arguments.out, _recipe(arguments)), arguments.json)
    return 0


def _resume(arguments: argparse.Namespace) -> int:
    from graft.training.pipelines import fit as run
    from graft.training.runs import lifecycle, run_folder

    path = lifecycle.find_resumable(arguments.data, arguments.out)
    recipe = run_folder.load_recipe(path, _explicit_options(arguments))
    if lifecycle.is_finished(path):
        result = {"run": str(path), "package": str(path / run_folder.PACKAGE)}
        text = f"{path} is finished\npackage: {result['package']}\nnext: graft serve {result['package']}"
        print(json.dumps(result, ensure_ascii=False) if arguments.json else text)
    else:
        _print_result(run.fit(arguments.data, path, recipe, resume=True), arguments.json)
    return 0


def _replay(arguments: argparse.Namespace) -> int:
    from graft.training.pipelines import replay
    from graft.training.runs import run_folder

    result, differences = replay.replay(arguments.data, arguments.out, arguments.replay, _explicit_options(arguments))
    if arguments.json:
        rows = [{"what": name, "before": str(before), "now": str(now)} for name, before, now in differences]
        print(json.dumps(result.to_dict() | {"differences": rows}, ensure_ascii=False))
    elif differences:
        print(f"{result.run} differs from {arguments.replay}:\n{run_folder.format_differences(differences)}")
    else:
        print(f"{result.run} is identical to {arguments.replay} in all metrics and weights")
    return 1 if differences else 0


def _print_result(result: "FitResult", as_json: bool) -> None:
    from graft.training.pipelines import fit as run

    if as_json:
        print(json.dumps(result.to_dict(), ensure_ascii=False))
    else:
        print(run.summary(result))
        print(f"next: graft serve {result.artifact.path}")


def predict(arguments: argparse.Namespace) -> int:
    """graft predict PACKAGE IMAGE_OR_DIR..."""
    from graft.service.errors import ImageError
    from graft.service.inference import model
    from graft.training.pipelines import predict as bulk

    loaded, n_failed = model.load(arguments.package), 0

    def report_errors() -> "Iterator[tuple[Path, ClassificationResult | ImageError]]":
        nonlocal n_failed
        predictions = bulk.predict(loaded, arguments.images, arguments.top_k)
        for path, prediction in bulk.write_csv(predictions, arguments.csv) if arguments.csv else predictions:
            if isinstance(prediction, ImageError):
                n_failed += 1
                print(f"{path}: {prediction}", file=sys.stderr)
            yield path, prediction

    if arguments.json:
        sys.stdout.writelines(bulk.to_json(loaded, report_errors()))
    else:
        for path, prediction in report_errors():
            if not isinstance(prediction, ImageError) and not arguments.csv:
                print(f"{path}\t{bulk.to_text(prediction)}", flush=True)
        if arguments.csv:
            print(arguments.csv)
    return 1 if n_failed else 0


def compare(arguments: argparse.Namespace) -> int:
    """graft compare DIR"""
    from graft.training.evaluation import comparison
    from graft.training.pipelines import compare as pipeline

    out = arguments.out or Path("compare") / arguments.data.resolve().stem
    result = pipeline.compare(
        arguments.data,
        out,
        _recipe(arguments),
        _split_commas(arguments.strategies),
        _split_commas(arguments.backbones),
        arguments.seeds,
    )
    print(comparison.to_text(result))
    best = result.rows[0]
    print(f"all runs: {out / 'compare.csv'}\nreport: {out / 'report.html'}")
    print(f"next: graft fit {arguments.data} --strategy {best.strategy} --backbone {best.backbone}")
    return 0


def check(arguments: argparse.Namespace) -> int:
    """graft check DIR"""
    from graft.training.pipelines import check as pipeline
    from graft.training.report import render

    report = pipeline.check(arguments.data, _recipe(arguments), not arguments.no_vectors)
    if arguments.report:
        render.save(pipeline.to_html(report, arguments.data.resolve().name), arguments.report)
    if arguments.json:
        print(json.dumps(report.to_dict(), ensure_ascii=False))
    else:
        print(pipeline.to_text(report))
        print(f"report: {arguments.report}" if arguments.report else "to view the images, add --report FILE.html")
        print(f"next: {pipeline.next_command(report, arguments.data)}")
    return 1 if report.count("error") else 0


def _split_commas(text: str) -> list[str]:
    return list(dict.fromkeys(filter(None, text.split(","))))


def evaluate(arguments: argparse.Namespace) -> int:
    """graft evaluate PACKAGE DIR"""
    from graft.service.inference import model
    from graft.training.inference import held_out
    from graft.training.pipelines import evaluate as pipeline

    if arguments.report and not arguments.robust:
        raise ValueError("--report needs --robust: the page shows its results.")
    loaded = model.load(arguments.package)
    dataset, samples = held_out.load_test_split(loaded, arguments.data)
    evaluation = pipeline.evaluate_package(loaded, dataset, samples, arguments.ten_crop)
    primary = evaluation.primary_metric
    score = {"accuracy": primary.value, "low": primary.low, "high": primary.high, "n": evaluation.n}
    robustness, lines, next_command = (
        _measure_robustness(arguments, loaded, dataset, samples) if arguments.robust else ({}, "", "")
    )
    if arguments.json:
        result = {"package": str(arguments.package), "score": score, "evaluation": evaluation.model_dump(mode="json")}
        print(json.dumps(result | robustness, ensure_ascii=False))
    else:
        print(pipeline.to_text(evaluation) + lines)
        print(f"next: {next_command or f'graft serve {arguments.package}'}")
    return 1 if primary.value < arguments.min_accuracy else 0


def _measure_robustness(
    arguments: argparse.Namespace, loaded: "Model", dataset: "Dataset", samples: tuple["Sample", ...]
) -> tuple[dict[str, object], str, str]:
    """Measures robustness; returns fields for the JSON output, lines of text, and the recommended command."""
    from graft.training.report import render
    from graft.training.robustness import measure, recommendations

    robustness = measure.measure(loaded, dataset, samples, arguments.sample)
    # Training data is in the same data set only if that has predefined splits.
    data = str(arguments.data) if len(samples) < len(dataset.samples) else "DATA"
    recommendation = recommendations.recommend(robustness, data, loaded.manifest.backbone.name)
    lines = f"\n{recommendations.to_text(robustness, recommendation)}\n"
    if arguments.report:
        render.save(render.robust_page(loaded.manifest.name, robustness, recommendation), arguments.report)
        lines += f"report: {arguments.report}"
    else:
        lines += "to view the curves and images, add --report FILE.html"
    return recommendations.to_dict(robustness, recommendation), lines, recommendation.command


def locate(arguments: argparse.Namespace) -> int:
    """graft locate PACKAGE IMAGE"""
    from graft.service.inference import model
    from graft.training.inference import detector, draw_boxes
    from graft.training.runtime import atomic_files

    loaded, encoded = model.load(arguments.package), arguments.image.read_bytes()
    detections = detector.locate(loaded, encoded, arguments.min_probability)
    if arguments.out:
        image, size = detector.load_upright(loaded, encoded)
        with atomic_files.atomic_write(arguments.out) as file:
            file.write(draw_boxes.draw_boxes(image, size, detections.boxes, loaded.manifest.labels))
    if arguments.json:
        print(detector.to_json(detections, arguments.package, arguments.image))
    else:
        print(detector.to_text(detections))
        print(
            f"image: {arguments.out}"
            if arguments.out
            else f"to view the boxes: graft locate {arguments.package} {arguments.image} --out FILE.png"
        )
        print(f"next: graft predict {arguments.package} {arguments.image}")
    return 0


def inspect(arguments: argparse.Namespace) -> int:
    """graft inspect BACKBONE|PACKAGE"""
    from graft.training.architecture import summary
    from graft.training.report import render

    if arguments.data and not (arguments.html and Path(arguments.subject).is_dir()):
        raise ValueError("--data needs a package and --html FILE, because heat maps and activations are shown on the page.")
    inspection = summary.inspect(arguments.subject, arguments.input_size)
    if arguments.html:
        interpretation = _interpret(arguments, inspection) if arguments.data else None
        render.save(render.inspect_page(inspection, interpretation), arguments.html)
    if arguments.json:
        print(json.dumps(inspection.to_dict(), ensure_ascii=False))
    else:
        print(summary.to_text(inspection))
        print(f"page: {arguments.html}" if arguments.html else "to write a page, add --html FILE")
    return 0


def _interpret(arguments: argparse.Namespace, inspection: "Inspection") -> "Interpretation":
    from graft.service.inference import model
    from graft.training.interpret import collect

    loaded = model.load(Path(arguments.subject))
    return collect.interpret_package(
        loaded, inspection.model_summary, arguments.data, arguments.images, _split_commas(arguments.channels)
    )


def verify(arguments: argparse.Namespace) -> int:
    """graft verify PACKAGE"""
    from graft.service.inference import model

    loaded = model.load(arguments.package)
    manifest = loaded.manifest
    print(f"{arguments.package}: checksums match; golden outputs within {loaded.golden_difference:.1g}")
    print(f"model {manifest.name} {manifest.version}, {len(manifest.labels)} labels, sha256 {manifest.sha256}")
    print(f"next: graft serve {arguments.package}")
    return 0


def package(arguments: argparse.Namespace) -> int:
    """graft package [RUN]"""
    from graft.training.runs import latest

    artifact = latest.set_latest(arguments.run)
    print(f"{artifact.path}: checksums match; this package is now served and built by default")
    print(f"model {artifact.manifest.name} {artifact.manifest.version}, sha256 {artifact.manifest.sha256}")
    print("next: graft serve, or in a checkout: bentoml build")
    return 0


def serve(arguments: argparse.Namespace) -> int:
    """graft serve [PACKAGE]"""
    from graft.service.settings import LATEST_PACKAGE
    from graft.training.pipelines import serve as pipeline

    pipeline.serve(arguments.package or LATEST_PACKAGE, arguments.host, arguments.port)
    return 0


def build(arguments: argparse.Namespace) -> int:
    """graft build [PACKAGE]"""
    from graft.service.settings import LATEST_PACKAGE
    from graft.training.pipelines import build as bento

    tag = bento.build(arguments.package or LATEST_PACKAGE)
    print(f"{tag}\nnext: bentoml serve {tag}, or bentoml containerize {tag}")
    return 0


def demo(_: argparse.Namespace) -> int:
    """graft demo"""
    from graft.training.pipelines import demo as pipeline

    print(pipeline.demo())
    return 0


def _recipe(arguments: argparse.Namespace) -> "Recipe":
    from graft.training.config.recipe import Recipe

    return Recipe.model_validate(_explicit_options(arguments))


def _explicit_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options set by flags or in a recipe file, without defaults."""
    from graft.training.config.recipe import Recipe

    options = {name: value for name, value in vars(arguments).items() if name in Recipe.model_fields}
    return Recipe.load(arguments.recipe, options).model_dump(exclude_unset=True) if arguments.recipe else options


HANDLERS = {
    "check": check,
    "fit": fit,
    "compare": compare,
    "evaluate": evaluate,
    "predict": predict,
    "locate": locate,
    "inspect": inspect,
    "verify": verify,
    "package": package,
    "serve": serve,
    "build": build,
    "demo": demo,
}
