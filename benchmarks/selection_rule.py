"""What the rule that keeps a model loses against the best choice, in simulations.

    .venv/bin/python benchmarks/selection_rule.py [--runs 1500] [--json]

Models are made up: a baseline and one to four candidates, whose margins on an image are those of the baseline, moved by a
gain that may be negative, plus noise of their own. A fifth of the candidates brings nothing. Each rule sees 20 to 1,000 images
and chooses; its loss is the log-loss of its choice on many images, above that of the best model, in percent. Takes a minute.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from functools import reduce

import numpy as np
from measuring.tables import Report, Table, to_markdown
from numpy.typing import NDArray

from graft.training.evaluation.paired import standard_error
from graft.training.strategies.model_selection import Comparison, Difference

Numbers = NDArray[np.float64]
Rule = Callable[[Numbers], int]  # log-loss of each model on each image (K, N), the baseline first, to the chosen model

N_MODELS, N_IMAGES = (2, 3, 5), (20, 50, 100, 300, 1000)
N_POPULATION = 4_000
NO_ACCURACY = Difference(0.0, 0.0, 0.0)


def make_losses(n_models: int, random: np.random.Generator) -> Numbers:
    """The log-loss of each model on each image of a population, in nats, (K, N): that of a binary classifier's margin."""
    baseline = random.normal(random.uniform(0.3, 5), random.uniform(1.5, 4), N_POPULATION)
    margins = [baseline]
    for _ in range(n_models - 1):
        gain = 0.0 if random.random() < 0.2 else random.normal(0.15, 0.6)
        margins.append(baseline + gain + random.normal(0, random.uniform(0.2, 2), N_POPULATION))
    return np.logaddexp(0, -np.stack(margins))


def is_expected_lower(candidate: Numbers, baseline: Numbers) -> bool:
    """The rule of `auto`: a lower expected log-loss."""
    means = float(candidate.mean()), float(baseline.mean())
    return Comparison(NO_ACCURACY, means, standard_error(baseline - candidate), len(baseline)).is_better


def is_significantly_lower(candidate: Numbers, baseline: Numbers) -> bool:
    """A significantly lower log-loss (95 %)."""
    gains = baseline - candidate
    return bool(gains.mean() > 1.96 * standard_error(gains))


def one_by_one(is_better: Callable[[Numbers, Numbers], bool]) -> Rule:
    """Compares one model after the other with the best so far."""
    return lambda losses: reduce(lambda best, one: one if is_better(losses[one], losses[best]) else best, range(len(losses)))


RULES: Mapping[str, Rule] = {
    "expected log-loss (Graft)": one_by_one(is_expected_lower),
    "lowest measured log-loss": lambda losses: int(losses.mean(axis=1).argmin()),
    "significantly lower": one_by_one(is_significantly_lower),
    "always the baseline": lambda losses: 0,
}


def excess_losses(n_models: int, n_images: int, n_runs: int, random: np.random.Generator) -> dict[str, float]:
    """The mean loss of each rule above the best model's, in percent of it."""
    excess: dict[str, list[float]] = {name: [] for name in RULES}
    for _ in range(n_runs):
        losses = make_losses(n_models, random)
        seen, truth = losses[:, random.integers(0, N_POPULATION, n_images)], losses.mean(axis=1)
        for name, rule in RULES.items():
            excess[name].append(100 * (truth[rule(seen)] / truth.min() - 1))
    return {name: float(np.mean(values)) for name, values in excess.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=1500, help="simulations of each row (default: 1500)")
    parser.add_argument("--json", action="store_true", help="print the record as JSON")
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    cells = [(n_models, n_images) for n_models in N_MODELS for n_images in N_IMAGES]
    measured = {cell: excess_losses(*cell, arguments.runs, random) for cell in cells}
    rows = tuple((*cell, *(f"{value:.1f}" for value in found.values())) for cell, found in measured.items())
    report = Report("selection rule", "What a rule of selection loses against the best choice, in percent of its log-loss")
    report.tables = [Table("simulated models", ("models", "images", *RULES), rows)]
    report.measured = {f"{n_models} models, {n_images} images": measured[n_models, n_images] for n_models, n_images in cells}
    record = report.to_dict()
    print(json.dumps(record) if arguments.json else to_markdown(record))


if __name__ == "__main__":
    main()
