"""The climb: from the cheapest rung upwards, as long as validation and the time left say that it pays."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from graft.training.evaluation import metrics
from graft.training.results import Quadrant, Rung
from graft.training.runtime.progress import duration, say
from graft.training.strategies import finetune as rungs
from graft.training.strategies import hpo, model_selection, probe
from graft.training.strategies.context import Ground
from graft.training.strategies.probe import Probed
from graft.training.strategies.trained_model import Trained

START_S = 30.0  # what fine-tuning costs before its first step and after its last: imports, export, scoring
WORTH_IT = 3  # epochs: with fewer, the learning rate has hardly risen before it falls


@dataclass(frozen=True)
class Climb:
    """The network that is kept, and the story of how it was chosen.

    Attributes:
        probed: the first rung, where all began.
        quadrant: where the data were found; None if nobody looked.
        ended: why no higher rung was tried, if one would have been worth it.
    """

    trained: Trained
    rungs: tuple[Rung, ...]
    probed: Probed
    quadrant: Quadrant | None = None
    ended: str = ""


def climb(ground: Ground, begun: float, publish: Callable[[Trained], object]) -> Climb:
    """Learns as the recipe's strategy says; `auto` keeps a higher rung only if validation shows that it is better.

    Args:
        begun: when the run began, by time.monotonic(); the budget counts from there.
        publish: packages a network; called with the first one as soon as it exists.
    """
    strategy = ground.choices.strategy
    if strategy == "auto":
        return _climb(ground, begun, publish)
    if strategy in ("probe", "svm", "stages"):
        probed, trained, rung = _headed(ground, strategy)
        return Climb(trained, (rung,), probed)
    probed, _, first = _headed(ground, "probe")
    say(f"probe: {first.validation.value:.1%} of validation")
    epochs = max(1, _decided_epochs(ground, strategy, begun))
    found = hpo.decide(ground, probed, strategy, epochs, lambda: _left(ground, begun) - START_S)
    trained, rung = _finetuned(ground, probed, strategy, epochs)
    rung = rung.model_copy(update={"verdict": "; ".join(filter(None, [rung.verdict, found]))})
    return Climb(trained, (first.model_copy(update={"kept": False}), rung), probed)


def _climb(ground: Ground, begun: float, publish: Callable[[Trained], object]) -> Climb:
    probed, best, rung = _headed(ground, "probe")
    story = [rung]
    say(f"probe: {rung.validation.value:.1%} of validation")
    publish(best)
    n_mistakes = metrics.mistakes(best.validation.logits, best.validation.targets)
    if reason := model_selection.nothing_to_gain(n_mistakes, len(ground.splits.validation)):
        say(f"auto keeps the probe: {reason}")
        return Climb(best, (rung.model_copy(update={"verdict": f"kept: {reason}"}),), probed)
    say("a first model is ready; still climbing, Ctrl-C keeps it")
    staged, trained, rung = _headed(ground, "stages")
    best = _judged(best, trained, rung, story)
    place = model_selection.quadrant(len(ground.splits.train), len(ground.dataset.labels), _costs(staged))
    say(place.sentence)
    ended = ""
    for strategy in _higher(place, ground):
        epochs = _decided_epochs(ground, strategy, begun)
        if epochs < WORTH_IT and not ground.choices.epochs:
            ended = f"{strategy} is not tried: only {epochs} epochs fit into the budget; a longer --budget allows more"
            say(ended)
            break
        best = _judged(best, *_finetuned(ground, probed, strategy, epochs), story)
    return Climb(best, tuple(story), probed, place, ended)


def _higher(place: Quadrant, ground: Ground) -> list[str]:
    """Which rungs are worth their time where the data were found.

    Few images that look like ImageNet's need little change, so the last layers are tried first; elsewhere the whole
    network gets all the time there is. From scratch pays only with very many images.
    """
    n_images, n_labels = len(ground.splits.train), len(ground.dataset.labels)
    last = [] if place.large or place.different else ["last"]
    return [*last, "finetune", *(["scratch"] if n_images >= model_selection.ENOUGH_FOR_SCRATCH * n_labels else [])]


def _judged(best: Trained, higher: Trained, rung: Rung, story: list[Rung]) -> Trained:
    """The higher one if it is really better, else the cheaper one; the story goes on."""
    said, rival = higher.validation, best.validation
    found = model_selection.compare(said.logits, higher.temperature, rival.logits, best.temperature, said.targets)
    verdict = found.sentence(higher.strategy, best.strategy)
    say(f"on validation, {verdict}")
    if found.better:
        story[:] = [earlier.model_copy(update={"kept": False}) for earlier in story]
    story.append(rung.model_copy(update={"kept": found.better, "verdict": verdict}))
    return higher if found.better else best


def _costs(staged: Probed) -> dict[str, float]:
    """The best log-loss of each block of features, under cross-validation."""
    costs: dict[str, float] = {}
    for candidate in staged.chosen.table:
        costs[candidate.block] = min(candidate.loss, costs.get(candidate.block, candidate.loss))
    return costs


def _headed(ground: Ground, strategy: str) -> tuple[Probed, Trained, Rung]:
    started = time.monotonic()
    probed = probe.probe(ground, strategy)
    trained = probe.finish_probe(probed, ground)
    best = probed.chosen.best
    verdict = f"{best.kind} regression on {best.block}" if best.kind == "logistic" else f"linear SVM on {best.block}"
    return probed, trained, _rung(trained, time.monotonic() - started, verdict)


def _finetuned(ground: Ground, probed: Probed, strategy: str, epochs: int) -> tuple[Trained, Rung]:
    started = time.monotonic()
    trained = rungs.finetune(ground, probed, strategy, epochs)
    return trained, _rung(trained, time.monotonic() - started, "asked for by name")


def _decided_epochs(ground: Ground, strategy: str, begun: float) -> int:
    """As many as were found to fit when the run began: a measured time would differ after an interruption."""
    return ground.folder.decided(f"epochs of {strategy}", lambda: _epochs(ground, strategy, begun))


def _epochs(ground: Ground, strategy: str, begun: float) -> int:
    """How many epochs of fine-tuning: a person's choice, else what the rule asks for and the budget allows."""
    if ground.choices.epochs:
        return ground.choices.epochs
    train, validation = ground.splits.train, ground.splits.validation
    speed = rungs.images_per_second(ground)
    fit = model_selection.epochs_that_fit(_left(ground, begun) - START_S, len(train), len(validation), speed)
    wanted = rungs.by_rule(ground, strategy).epochs
    used, budget = duration(time.monotonic() - begun), duration(ground.choices.budget_s)
    say(f"budget {budget}, {used} used; {speed:.0f} images/s of fine-tuning here: {fit} epochs fit, {wanted} are wanted")
    return min(wanted, hpo.share(fit, ground.choices.search, WORTH_IT))


def _left(ground: Ground, begun: float) -> float:
    return ground.choices.budget_s - (time.monotonic() - begun)


def _rung(trained: Trained, seconds: float, verdict: str) -> Rung:
    estimate = metrics.headline(trained.validation)
    return Rung.model_validate(
        {"strategy": trained.strategy, "validation": estimate, "seconds": seconds, "kept": True, "verdict": verdict}
    )
