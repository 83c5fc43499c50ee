"""Runs what `graft compare` compares: every strategy on every backbone with every seed, on the same images."""

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
    """Learns once for each cell, one after the other; `compare.csv` in `out` grows with each, and a page ends it.

    Args:
        choices: of every run; strategy, backbone and seed are replaced. The budget holds for each run by itself.

    Raises:
        ValueError: if a strategy does not exist.
        BackboneError, DatasetError: with what to do about it.
    """
    if unknown := set(strategies) - set(get_args(Strategy)):
        raise ValueError(f"No such strategy: {', '.join(sorted(unknown))}. There are {', '.join(get_args(Strategy))}.")
    for strategy in set(strategies) & set(FINE_TUNINGS):
        finetune_config.check(choices.model_copy(update={"strategy": strategy}))
        hpo.check(choices.model_copy(update={"strategy": strategy}))
    for network in networks:  # all of them before hours are spent on the first
        registry.choose(network, choices.weights)
    out.mkdir(parents=True, exist_ok=True)
    cells: list[Cell] = []
    for backbone, seed, strategy in grid(strategies, networks, n_seeds):
        say(f"{strategy} on {backbone}, seed {seed}")
        tuned = strategy in FINE_TUNINGS
        asked = {"search": choices.search if tuned else None, "harden": choices.harden if tuned else ()}
        chosen = {"strategy": strategy, "backbone": backbone, "seed": seed} | asked
        cells.append(_cell(data, out, Recipe.model_validate(choices.model_dump() | chosen)))
        say(f"{cells[-1].accuracy:.1%} of test in {duration(cells[-1].seconds)}")
        save(cells, out / "compare.csv")
    found = table(cells)
    more = ("--strategies", ",".join(strategies), "--backbones", ",".join(networks), "--seeds", str(n_seeds))
    repeat = collect.repeat(collect.command("compare", data, choices, *more), choices, range(n_seeds))
    seeds = f"{n_seeds} seed{'s' * (n_seeds > 1)}"
    summary = f"{len(cells[0].right):,} test images and {choices.budget} at most for each run; {seeds}"
    render.save(render.compare_page(data.resolve().name, summary, found, repeat), out / render.NAME)
    return found


def _cell(data: Path, out: Path, choices: Recipe) -> Cell:
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=".run-", dir=out) as folder:
        ground = prepare(data, Folder(Path(folder)), choices)
        trained = auto.climb(ground, begun, lambda first: None).trained
    rights = by_image(trained.test.logits, trained.test.targets).tolist()
    measure = "mAP" if ground.dataset.multilabel else "accuracy"
    right = {sample.digest: value for sample, value in zip(ground.splits.test, rights, strict=True)}
    return Cell(choices.strategy, choices.backbone, choices.seed, time.monotonic() - begun, right, measure)
