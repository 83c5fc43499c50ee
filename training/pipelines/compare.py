"""`graft compare`: runs every strategy on every backbone with every seed, on the same images."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from graft.training.backbones import registry
from graft.training.config import finetune_config
from graft.training.config.recipe import FINE_TUNINGS, Recipe, Strategy
from graft.training.evaluation.comparison import Cell, Table, grid, save, table
from graft.training.evaluation.metrics import by_image
from graft.training.report import collect, render
from graft.training.runs.run_folder import Folder
from graft.training.runtime.progress import duration, say
from graft.training.strategies import auto, hpo
from graft.training.strategies.context import prepare


def compare(data: Path, out: Path, choices: Recipe, strategies: Sequence[str], networks: Sequence[str], n_seeds: int) -> Table:
    """Trains every combination in sequence. Updates `compare.csv` in `out` after each run and writes a report at the end.

    Args:
        recipe: for every run; strategy, backbone and seed are replaced. The budget applies to each run separately.

    Raises:
        ValueError: if a strategy does not exist.
        BackboneError, DatasetError: the message says what to do.
    """
    if unknown := set(strategies) - set(get_args(Strategy)):
        raise ValueError(f"Unknown strategy: {', '.join(sorted(unknown))}. Available: {', '.join(get_args(Strategy))}.")
    for strategy in set(strategies) & set(FINE_TUNINGS):
        finetune_config.check(choices.model_copy(update={"strategy": strategy}))
        hpo.check(choices.model_copy(update={"strategy": strategy}))
    for network in networks:  # fail before hours are spent on the first one
        registry.choose(network, choices.weights)
    out.mkdir(parents=True, exist_ok=True)
    results: list[Cell] = []
    for backbone, seed, strategy in grid(strategies, networks, n_seeds):
        say(f"{strategy} on {backbone}, seed {seed}")
        fine_tunes = strategy in FINE_TUNINGS
        fine_tuning = {"search": choices.search if fine_tunes else None, "harden": choices.harden if fine_tunes else ()}
        overrides = {"strategy": strategy, "backbone": backbone, "seed": seed} | fine_tuning
        results.append(_cell(data, out, Recipe.model_validate(choices.model_dump() | overrides)))
        say(f"test {results[-1].measure} {results[-1].accuracy:.1%} in {duration(results[-1].seconds)}")
        save(results, out / "compare.csv")
    comparison = table(results)
    extra_args = ("--strategies", ",".join(strategies), "--backbones", ",".join(networks), "--seeds", str(n_seeds))
    reproduction = collect.repeat(collect.command("compare", data, choices, *extra_args), choices, range(n_seeds))
    seeds = f"{n_seeds} seed{'s' * (n_seeds > 1)}"
    summary = f"{len(results[0].right):,} test images, a budget of {choices.budget} per run, {seeds}"
    render.save(render.compare_page(data.resolve().name, summary, comparison, reproduction), out / render.NAME)
    return comparison


def _cell(data: Path, out: Path, choices: Recipe) -> Cell:
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=".run-", dir=out) as folder:
        context = prepare(data, Folder(Path(folder)), choices)
        trained = auto.climb(context, start, lambda trained: None).trained
    scores = by_image(trained.test.logits, trained.test.targets).tolist()
    measure = "mAP" if context.dataset.multilabel else "accuracy"
    right = {sample.digest: value for sample, value in zip(context.splits.test, scores, strict=True)}
    return Cell(choices.strategy, choices.backbone, choices.seed, time.monotonic() - start, right, measure)
