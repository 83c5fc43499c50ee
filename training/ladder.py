"""The climb: from the cheapest rung upwards, as long as validation and the time left say that it pays."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from training import judge, recipe, rungs
from training.dataset import Dataset
from training.evaluate import score
from training.features import Features
from training.folder import Folder
from training.graphs import Exported
from training.progress import duration, say
from training.recipe import Recipe
from training.rungs import Probed, Trained, labels_of
from training.splits import Splits
from training.story import Estimate, Rung

START_S = 30.0  # what fine-tuning costs before its first step and after its last: imports, export, scoring
WORTH_IT = 3  # epochs: with fewer, the learning rate has hardly risen before it falls


@dataclass(frozen=True)
class Ground:
    """What every rung stands on."""

    dataset: Dataset
    splits: Splits
    exported: Exported
    features: Features
    choices: Recipe
    folder: Folder


@dataclass(frozen=True)
class Climb:
    """The network that is kept, and the story of how it was chosen."""

    trained: Trained
    rungs: tuple[Rung, ...]


def climb(ground: Ground, begun: float, publish: Callable[[Trained], object]) -> Climb:
    """Learns as the recipe's strategy says; `auto` keeps a higher rung only if validation shows that it is better.

    Args:
        begun: when the run began, by time.monotonic(); the budget counts from there.
        publish: packages a network; called with the first one as soon as it exists.
    """
    started = time.monotonic()
    probed = rungs.probe(ground.features, ground.splits, ground.choices)
    first = rungs.finish_probe(probed, ground.exported, ground.splits)
    story = [_rung(first, ground, time.monotonic() - started, True, "the first rung: always tried")]
    if ground.choices.strategy == "probe":
        return Climb(first, tuple(story))
    say(f"probe: {story[0].validation.value:.1%} of validation")
    if ground.choices.strategy == "finetune":
        trained, rung = _finetuned(ground, probed, max(1, _decided_epochs(ground, probed, begun)), "asked for by name")
        return Climb(trained, (story[0].model_copy(update={"kept": False}), rung))
    publish(first)
    labels = labels_of(ground.splits.validation)
    mistakes = int((probed.validation.argmax(axis=1) != labels).sum())
    if reason := judge.nothing_to_gain(mistakes, len(labels)):
        return _kept(first, story[0], reason)
    say("a first model is ready; still climbing, Ctrl-C keeps it")
    epochs = _decided_epochs(ground, probed, begun)
    if epochs < WORTH_IT and not ground.choices.epochs:
        return _kept(first, story[0], f"only {epochs} epochs of fine-tuning fit into the budget; a longer --budget allows more")
    return _better(first, story[0], *_finetuned(ground, probed, epochs, ""), ground)


def _kept(first: Trained, rung: Rung, reason: str) -> Climb:
    say(f"auto keeps the probe: {reason}")
    return Climb(first, (rung.model_copy(update={"verdict": f"kept: {reason}"}),))


def _better(first: Trained, lower: Rung, higher: Trained, rung: Rung, ground: Ground) -> Climb:
    """The higher one if it is really better, else the cheaper one."""
    found = judge.compare(
        higher.validation, higher.temperature, first.validation, first.temperature, labels_of(ground.splits.validation)
    )
    verdict = found.sentence(higher.strategy, first.strategy)
    say(f"on validation, {verdict}")
    story = (
        lower.model_copy(update={"kept": not found.better}),
        rung.model_copy(update={"kept": found.better, "verdict": verdict}),
    )
    return Climb(higher if found.better else first, story)


def _finetuned(ground: Ground, probed: Probed, epochs: int, verdict: str) -> tuple[Trained, Rung]:
    started = time.monotonic()
    trained = rungs.finetune(ground.dataset, ground.splits, ground.exported, probed, ground.choices, epochs, ground.folder.path)
    return trained, _rung(trained, ground, time.monotonic() - started, True, verdict)


def _decided_epochs(ground: Ground, probed: Probed, begun: float) -> int:
    """As many as were found to fit when the run began: a measured time would differ after an interruption."""
    return ground.folder.decided("fine-tuning epochs", lambda: _epochs(ground, probed, begun))


def _epochs(ground: Ground, probed: Probed, begun: float) -> int:
    """How many epochs of fine-tuning: a person's choice, else what the rule asks for and the budget allows."""
    if ground.choices.epochs:
        return ground.choices.epochs
    train, validation = ground.splits.train, ground.splits.validation
    speed = rungs.images_per_second(ground.exported, len(probed.start.bias), ground.choices)
    fit = judge.epochs_that_fit(_left(ground, begun) - START_S, len(train), len(validation), speed)
    wanted = recipe.epochs(len(train))
    used, budget = duration(time.monotonic() - begun), duration(ground.choices.budget_s)
    say(f"budget {budget}, {used} used; {speed:.0f} images/s of fine-tuning here: {fit} epochs fit, {wanted} are wanted")
    return min(wanted, fit)


def _left(ground: Ground, begun: float) -> float:
    return ground.choices.budget_s - (time.monotonic() - begun)


def _rung(trained: Trained, ground: Ground, seconds: float, kept: bool, verdict: str) -> Rung:
    found = score(trained.validation, labels_of(ground.splits.validation))
    estimate = Estimate(value=found.accuracy, low=found.low, high=found.high)
    return Rung.model_validate(
        {"strategy": trained.strategy, "validation": estimate, "seconds": seconds, "kept": kept, "verdict": verdict}
    )
