"""`graft compare`: runs every strategy on every backbone with every seed, on the same images."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from graft.service.inference import engine_speed
from graft.service.inference.openvino import OpenVinoEngine
from graft.training.backbones import registry
from graft.training.config import finetune_config
from graft.training.config.recipe import FINETUNE_STRATEGIES, Recipe, Strategy
from graft.training.evaluation.comparison import Comparison, RunResult, StrategySummary, compare_runs, grid, write_csv
from graft.training.evaluation.paired import per_sample_score
from graft.training.report import collect, notebook, render
from graft.training.results import describe_sample
from graft.training.runs.run_folder import RunFolder
from graft.training.runtime.device import select_device
from graft.training.runtime.isolation import preserved_state
from graft.training.runtime.progress import format_duration, log, step
from graft.training.strategies import auto, hpo
from graft.training.strategies.context import prepare
from graft.training.strategies.model_selection import SCORES
from graft.training.strategies.trained_model import TrainedModel

COMPARISONS = Path("compare")  # in the current folder
TABLE_FILE = "compare.csv"  # in a comparison folder


@dataclass(frozen=True)
class CompareResult:
    """A comparison of strategies and backbones on the same images. In a notebook it shows its tables.

    Attributes:
        folder: with `compare.csv` and `report.html`.
        comparison: the strategies, best first, and the differences between them with intervals.
    """

    folder: Path
    comparison: Comparison

    @property
    def table(self) -> Path:
        """A CSV file with one row per run."""
        return self.folder / TABLE_FILE

    @property
    def report(self) -> Path:
        """The offline HTML report."""
        return self.folder / render.REPORT_FILE

    @property
    def best(self) -> StrategySummary:
        """The strategy with the highest score."""
        return self.comparison.rows[0]

    def _repr_html_(self) -> str:
        best = self.best
        title = f"best: {best.strategy} on {best.backbone}"
        lines = tuple(filter(None, [self.comparison.correction_text, f"report: {self.report}"]))
        return notebook.fragment(title, lines, notebook.comparison_tables(self.comparison))


@preserved_state()
def compare(
    data: Path, out: Path | None, recipe: Recipe, strategies: Sequence[str], backbones: Sequence[str], n_seeds: int
) -> CompareResult:
    """Trains every combination in sequence. Updates `compare.csv` in `out` after each run and writes a report at the end.

    Args:
        out: None for a folder in `compare/`.
        recipe: for every run; strategy, backbone and seed are replaced. The budget applies to each run separately.

    Raises:
        ValueError: if a strategy does not exist, or the device cannot be used.
        BackboneError, DatasetError: the message says what to do.
    """
    if unknown := set(strategies) - set(get_args(Strategy)):
        raise ValueError(f"Unknown strategy: {', '.join(sorted(unknown))}. Available: {', '.join(get_args(Strategy))}.")
    if recipe.from_model:
        raise ValueError("--from cannot be combined with a comparison, which trains every backbone from its own weights.")
    select_device(recipe.device)
    for strategy in set(strategies) & set(FINETUNE_STRATEGIES):
        finetune_config.check_augment_corruptions(recipe.model_copy(update={"strategy": strategy}))
        hpo.check(recipe.model_copy(update={"strategy": strategy}))
    for network in backbones:  # fail before hours are spent on the first one
        registry.resolve(network, recipe.weights)
    out = out or COMPARISONS / data.resolve().stem
    out.mkdir(parents=True, exist_ok=True)
    results: list[RunResult] = []
    for backbone, seed, strategy in grid(strategies, backbones, n_seeds):
        log(f"{strategy} on {backbone}, seed {seed}")
        fine_tunes = strategy in FINETUNE_STRATEGIES
        fine_tuning = {
            "search": recipe.search if fine_tunes else None,
            "augment_corruptions": recipe.augment_corruptions if fine_tunes else (),
        }
        overrides = {"strategy": strategy, "backbone": backbone, "seed": seed} | fine_tuning
        results.append(_run_once(data, out, Recipe.model_validate(recipe.model_dump() | overrides)))
        log(f"test {results[-1].metric} {results[-1].accuracy:.1%} in {format_duration(results[-1].seconds)}")
        write_csv(results, out / TABLE_FILE)
    comparison = compare_runs(results)
    extra_args = ("--strategies", ",".join(strategies), "--backbones", ",".join(backbones), "--seeds", str(n_seeds))
    reproduction = collect.reproduction(collect.command_line("compare", data, recipe, *extra_args), recipe, range(n_seeds))
    seeds = f"{n_seeds} seed{'s' * (n_seeds > 1)}"
    sample = describe_sample(len(results[0].scores), len(set(results[0].groups.values())), "test images")
    summary = f"{sample}, a budget of {recipe.budget} per run, {seeds}"
    with step("writing the report"):
        render.save(render.compare_page(data.resolve().name, summary, comparison, reproduction), out / render.REPORT_FILE)
    return CompareResult(out, comparison)


def _run_once(data: Path, out: Path, recipe: Recipe) -> RunResult:
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=".run-", dir=out) as folder:
        context = prepare(data, RunFolder(Path(folder)), recipe)
        trained = auto.select_strategy(context, start, lambda trained: None).model
        seconds, latency_s = time.monotonic() - start, _measure_latency(trained, Path(folder))
    scores = per_sample_score(trained.test.logits, trained.test.targets, recipe.metric).tolist()
    measure = "mAP" if context.dataset.multilabel else SCORES.get(recipe.metric, "accuracy")
    right = {sample.digest: value for sample, value in zip(context.splits.test, scores, strict=True)}
    groups = {sample.digest: sample.group or sample.digest for sample in context.splits.test}
    return RunResult(recipe.strategy, recipe.backbone, recipe.seed, seconds, right, measure, groups, latency_s)


@step("measuring the latency")
def _measure_latency(trained: TrainedModel, folder: Path) -> float:
    """The time of one image in the engine of the service, in seconds."""
    graph = folder / "latency.onnx"
    graph.write_bytes(trained.graph)
    engine = OpenVinoEngine(graph)
    engine.compile_for_latency()
    return engine_speed.latency(engine, trained.preprocessing.crop)
