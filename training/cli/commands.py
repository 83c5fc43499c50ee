"""One function a verb: call a pipeline, print what it found."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graft.service.errors import ImageError
    from graft.service.inference.model import Answer, Model
    from graft.training.architecture.summary import Inspection
    from graft.training.config.recipe import Recipe
    from graft.training.data.dataset import Dataset, Sample
    from graft.training.interpret.collect import Seen
    from graft.training.pipelines.fit import Result


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

    path = lifecycle.resumable(arguments.data, arguments.out)
    recipe = run_folder.recorded_recipe(path, _given(arguments))
    if lifecycle.finished(path):
        facts = {"run": str(path), "package": str(path / run_folder.PACKAGE)}
        done = f"{path} is finished\npackage: {facts['package']}\nnext: graft serve {facts['package']}"
        print(json.dumps(facts, ensure_ascii=False) if arguments.json else done)
    else:
        _print_result(run.fit(arguments.data, path, recipe, resume=True), arguments.json)
    return 0


def _replay(arguments: argparse.Namespace) -> int:
    from graft.training.pipelines import replay
    from graft.training.runs import run_folder

    result, differences = replay.replay(arguments.data, arguments.out, arguments.replay, _given(arguments))
    if arguments.json:
        rows = [{"what": name, "before": str(before), "now": str(now)} for name, before, now in differences]
        print(json.dumps(result.facts() | {"differences": rows}, ensure_ascii=False))
    elif differences:
        print(f"{result.run} differs from {arguments.replay}:\n{run_folder.table(differences)}")
    else:
        print(f"{result.run} equals {arguments.replay}: every metric and every weight")
    return 1 if differences else 0


def _print_result(result: "Result", as_json: bool) -> None:
    from graft.training.pipelines import fit as run

    if as_json:
        print(json.dumps(result.facts(), ensure_ascii=False))
    else:
        print(run.summary(result))
        print(f"next: graft serve {result.artifact.path}")


def predict(arguments: argparse.Namespace) -> int:
    """graft predict PACKAGE IMAGE_OR_DIR..."""
    from graft.service.errors import ImageError
    from graft.service.inference import model
    from graft.training.pipelines import predict as bulk

    loaded, failed = model.load(arguments.package), 0

    def answered() -> "Iterator[tuple[Path, Answer | ImageError]]":
        nonlocal failed
        answers = bulk.predict(loaded, arguments.images, arguments.top_k)
        for path, answer in bulk.saved(answers, arguments.csv) if arguments.csv else answers:
            if isinstance(answer, ImageError):
                failed += 1
                print(f"{path}: {answer}", file=sys.stderr)
            yield path, answer

    if arguments.json:
        sys.stdout.writelines(bulk.as_json(loaded, answered()))
    else:
        for path, answer in answered():
            if not isinstance(answer, ImageError) and not arguments.csv:
                print(f"{path}\t{bulk.line(answer)}", flush=True)
        if arguments.csv:
            print(arguments.csv)
    return 1 if failed else 0


def compare(arguments: argparse.Namespace) -> int:
    """graft compare DIR"""
    from graft.training.evaluation import comparison
    from graft.training.pipelines import compare as contest

    out = arguments.out or Path("compare") / arguments.data.resolve().stem
    found = contest.compare(
        arguments.data, out, _recipe(arguments), _listed(arguments.strategies), _listed(arguments.backbones), arguments.seeds
    )
    print(comparison.text(found))
    best = found.rows[0]
    print(f"every run: {out / 'compare.csv'}\nreport: {out / 'report.html'}")
    print(f"next: graft fit {arguments.data} --strategy {best.strategy} --backbone {best.backbone}")
    return 0


def check(arguments: argparse.Namespace) -> int:
    """graft check DIR"""
    from graft.training.pipelines import check as checking
    from graft.training.report import render

    checked = checking.check(arguments.data, _recipe(arguments), not arguments.no_vectors)
    if arguments.report:
        render.save(checking.page(checked, arguments.data.resolve().name), arguments.report)
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
    from graft.service.inference import model
    from graft.training.inference import held_out
    from graft.training.pipelines import evaluate as appraise

    if arguments.report and not arguments.robust:
        raise ValueError("--report: the page tells what --robust found; add --robust.")
    loaded = model.load(arguments.package)
    dataset, samples = held_out.held_out(loaded, arguments.data)
    found = appraise.package(loaded, dataset, samples, arguments.ten_crop)
    score = {"accuracy": found.headline.value, "low": found.headline.low, "high": found.headline.high, "n": found.n}
    more, lines, following = _robust(arguments, loaded, dataset, samples) if arguments.robust else ({}, "", "")
    if arguments.json:
        facts = {"package": str(arguments.package), "score": score, "evaluation": found.model_dump(mode="json")}
        print(json.dumps(facts | more, ensure_ascii=False))
    else:
        print(appraise.text(found) + lines)
        print(f"next: {following or f'graft serve {arguments.package}'}")
    return 1 if found.headline.value < arguments.min_accuracy else 0


def _robust(
    arguments: argparse.Namespace, loaded: "Model", dataset: "Dataset", samples: tuple["Sample", ...]
) -> tuple[dict[str, object], str, str]:
    """What `--robust` adds: to the JSON, to the lines, and the command that it advises."""
    from graft.training.report import render
    from graft.training.robustness import measure, recommendations

    found = measure.measure(loaded, dataset, samples, arguments.sample)
    # What was learned from and what it is judged by are one data set only where it comes in parts.
    data = str(arguments.data) if len(samples) < len(dataset.samples) else "DATA"
    advice = recommendations.advise(found, data, loaded.manifest.backbone.name)
    lines = f"\n{recommendations.text(found, advice)}\n"
    if arguments.report:
        render.save(render.robust_page(loaded.manifest.name, found, advice), arguments.report)
        lines += f"report: {arguments.report}"
    else:
        lines += "see the curves and the images: --report FILE.html"
    return recommendations.facts(found, advice), lines, advice.command


def locate(arguments: argparse.Namespace) -> int:
    """graft locate PACKAGE IMAGE"""
    from graft.service.inference import model
    from graft.training.inference import detector, draw_boxes
    from graft.training.runtime import atomic_files

    loaded, encoded = model.load(arguments.package), arguments.image.read_bytes()
    found = detector.locate(loaded, encoded, arguments.probable)
    if arguments.out:
        picture, size = detector.upright(loaded, encoded)
        with atomic_files.whole(arguments.out) as file:
            file.write(draw_boxes.marked(picture, size, found.boxes, loaded.manifest.labels))
    if arguments.json:
        print(detector.as_json(found, arguments.package, arguments.image))
    else:
        print(detector.text(found))
        print(
            f"picture: {arguments.out}"
            if arguments.out
            else f"see them: graft locate {arguments.package} {arguments.image} --out FILE.png"
        )
        print(f"next: graft predict {arguments.package} {arguments.image}")
    return 0


def inspect(arguments: argparse.Namespace) -> int:
    """graft inspect BACKBONE|PACKAGE"""
    from graft.training.architecture import summary
    from graft.training.report import render

    if arguments.data and not (arguments.html and Path(arguments.subject).is_dir()):
        raise ValueError("--data: what a network sees in images is shown of a package, on a page: --html FILE.")
    found = summary.inspect(arguments.subject, arguments.input_size)
    if arguments.html:
        render.save(render.inspect_page(found, _sees(arguments, found) if arguments.data else None), arguments.html)
    if arguments.json:
        print(json.dumps(found.facts(), ensure_ascii=False))
    else:
        print(summary.text(found))
        print(f"page: {arguments.html}" if arguments.html else "the same as a page: --html FILE")
    return 0


def _sees(arguments: argparse.Namespace, found: "Inspection") -> "Seen":
    from graft.service.inference import model
    from graft.training.interpret import collect

    loaded = model.load(Path(arguments.subject))
    return collect.of_package(loaded, found.anatomy, arguments.data, arguments.images, _listed(arguments.channels))


def verify(arguments: argparse.Namespace) -> int:
    """graft verify PACKAGE"""
    from graft.service.inference import model

    loaded = model.load(arguments.package)
    manifest = loaded.manifest
    print(f"{arguments.package}: every byte as promised; golden answers within {loaded.drift:.1g}")
    print(f"model {manifest.name} {manifest.version}, {len(manifest.labels)} labels, sha256 {manifest.sha256}")
    print(f"next: graft serve {arguments.package}")
    return 0


def package(arguments: argparse.Namespace) -> int:
    """graft package [RUN]"""
    from graft.training.runs import latest

    chosen = latest.choose(arguments.run)
    print(f"{chosen.path}: every byte as promised; it is what is served and built from here on")
    print(f"model {chosen.manifest.name} {chosen.manifest.version}, sha256 {chosen.manifest.sha256}")
    print("next: graft serve, or in a checkout: bentoml build")
    return 0


def serve(arguments: argparse.Namespace) -> int:
    """graft serve [PACKAGE]"""
    from graft.service.settings import LATEST
    from graft.training.pipelines import serve as serving

    serving.serve(arguments.package or LATEST, arguments.host, arguments.port)
    return 0


def demo(_: argparse.Namespace) -> int:
    """graft demo"""
    from graft.training.pipelines import demo as road

    print(road.demo())
    return 0


def _recipe(arguments: argparse.Namespace) -> "Recipe":
    from graft.training.config.recipe import Recipe

    return Recipe.model_validate(_given(arguments))


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The choices that were made, by flags or in a file, without the defaults."""
    from graft.training.config.recipe import Recipe

    given = {name: value for name, value in vars(arguments).items() if name in Recipe.model_fields}
    return Recipe.load(arguments.recipe, given).model_dump(exclude_unset=True) if arguments.recipe else given


ACTIONS = {
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
    "demo": demo,
}
