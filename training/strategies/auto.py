"""Strategy selection: trains the requested strategy, or tries them in order of cost and keeps the best (`auto`).

A more expensive strategy is kept only if it is significantly better on validation. Test images are not used here.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from graft.training.evaluation import metrics
from graft.training.results import Quadrant, Rung
from graft.training.runtime.progress import duration, say
from graft.training.strategies import finetune, hpo, model_selection, probe
from graft.training.strategies.context import Ground
from graft.training.strategies.probe import Probed
from graft.training.strategies.trained_model import Trained

START_S = 30.0  # fixed cost of fine-tuning outside its training steps: imports, ONNX export, scoring
WORTH_IT = 3  # epochs; with fewer, most of the training is warm-up


@dataclass(frozen=True)
class Climb:
    """The selected model and how it was selected.

    Attributes:
        attempts: every strategy that was tried, in order.
        probe_result: the linear probe, which is always trained first.
        regime: dataset size and similarity to ImageNet; None if they were not measured.
        stop_reason: why a more expensive strategy was skipped, "" if none was.
    """

    trained: Trained
    rungs: tuple[Rung, ...]
    probed: Probed
    quadrant: Quadrant | None = None
    ended: str = ""


def climb(ground: Ground, begun: float, publish: Callable[[Trained], object]) -> Climb:
    """Trains the recipe's strategy; `auto` keeps a more expensive one only if it is better on validation.

    Args:
        started_at: start of the run, as `time.monotonic()`; the budget counts from there.
        publish: packages a model; `auto` calls it with the probe, so that a package exists early.
    """
    strategy = ground.choices.strategy
    if strategy == "auto":
        return _climb(ground, begun, publish)
    if strategy in ("probe", "svm", "stages"):
        probe_result, model, attempt = _headed(ground, strategy)
        return Climb(model, (attempt,), probe_result)
    probe_result, _, baseline = _headed(ground, "probe")
    say(f"probe: {baseline.validation.value:.1%} on validation")
    epochs = max(1, _decided_epochs(ground, strategy, begun))
    search_summary = hpo.decide(ground, probe_result, strategy, epochs, lambda: _left(ground, begun) - START_S)
    model, attempt = _finetuned(ground, probe_result, strategy, epochs)
    attempt = attempt.model_copy(update={"verdict": "; ".join(filter(None, [attempt.verdict, search_summary]))})
    return Climb(model, (baseline.model_copy(update={"kept": False}), attempt), probe_result)


def _climb(ground: Ground, begun: float, publish: Callable[[Trained], object]) -> Climb:
    probe_result, best, attempt = _headed(ground, "probe")
    attempts = [attempt]
    say(f"probe: {attempt.validation.value:.1%} on validation")
    publish(best)
    n_errors = metrics.mistakes(best.validation.logits, best.validation.targets)
    if reason := model_selection.nothing_to_gain(n_errors, len(ground.splits.validation)):
        say(f"auto keeps the probe: {reason}")
        return Climb(best, (attempt.model_copy(update={"verdict": f"kept: {reason}"}),), probe_result)
    say("a first package is ready; trying more strategies (press Ctrl-C to stop and keep this package)")
    stages_result, model, attempt = _headed(ground, "stages")
    best = _judged(best, model, attempt, attempts)
    regime = model_selection.quadrant(len(ground.splits.train), len(ground.dataset.labels), _costs(stages_result))
    say(regime.sentence)
    stop_reason = ""
    for strategy in _higher(regime, ground):
        epochs = _decided_epochs(ground, strategy, begun)
        if epochs < WORTH_IT and not ground.choices.epochs:
            stop_reason = f"{strategy} is skipped: only {epochs} epochs fit in the budget; increase --budget to train it"
            say(stop_reason)
            break
        best = _judged(best, *_finetuned(ground, probe_result, strategy, epochs), attempts)
    return Climb(best, tuple(attempts), probe_result, regime, stop_reason)


def _higher(place: Quadrant, ground: Ground) -> list[str]:
    """The fine-tuning strategies worth trying for this dataset size and similarity to ImageNet.

    A small dataset similar to ImageNet needs few changes, so the last layers are fine-tuned first. Otherwise the full
    network gets the whole budget. Training from scratch pays only with a very large dataset.
    """
    n_images, n_labels = len(ground.splits.train), len(ground.dataset.labels)
    last_only = [] if place.large or place.different else ["last"]
    return [*last_only, "finetune", *(["scratch"] if n_images >= model_selection.ENOUGH_FOR_SCRATCH * n_labels else [])]


def _judged(best: Trained, higher: Trained, rung: Rung, story: list[Rung]) -> Trained:
    """The candidate if it is significantly better, else the cheaper model; records the attempt."""
    predictions, baseline = higher.validation, best.validation
    comparison = model_selection.compare(
        predictions.logits, higher.temperature, baseline.logits, best.temperature, predictions.targets
    )
    verdict = comparison.sentence(higher.strategy, best.strategy)
    say(f"on validation, {verdict}")
    if comparison.better:
        story[:] = [earlier.model_copy(update={"kept": False}) for earlier in story]
    story.append(rung.model_copy(update={"kept": comparison.better, "verdict": verdict}))
    return higher if comparison.better else best


def _costs(staged: Probed) -> dict[str, float]:
    """The lowest cross-validated log-loss of each feature set."""
    losses: dict[str, float] = {}
    for candidate in staged.chosen.table:
        losses[candidate.block] = min(candidate.loss, losses.get(candidate.block, candidate.loss))
    return losses


def _headed(ground: Ground, strategy: str) -> tuple[Probed, Trained, Rung]:
    started = time.monotonic()
    probe_result = probe.probe(ground, strategy)
    model = probe.finish_probe(probe_result, ground)
    best = probe_result.chosen.best
    verdict = f"{best.kind} regression on {best.block}" if best.kind == "logistic" else f"linear SVM on {best.block}"
    return probe_result, model, _rung(model, time.monotonic() - started, verdict)


def _finetuned(ground: Ground, probed: Probed, strategy: str, epochs: int) -> tuple[Trained, Rung]:
    started = time.monotonic()
    model = finetune.finetune(ground, probed, strategy, epochs)
    return model, _rung(model, time.monotonic() - started, "requested by name")


def _decided_epochs(ground: Ground, strategy: str, begun: float) -> int:
    """The number of epochs, computed once per run: a resumed run would measure another speed."""
    return ground.folder.decided(f"epochs of {strategy}", lambda: _epochs(ground, strategy, begun))


def _epochs(ground: Ground, strategy: str, begun: float) -> int:
    """The recipe's number of epochs; by default as many as recommended for the dataset size, limited by the budget."""
    if ground.choices.epochs:
        return ground.choices.epochs
    train, validation = ground.splits.train, ground.splits.validation
    speed = finetune.images_per_second(ground)
    n_fit = model_selection.epochs_that_fit(_left(ground, begun) - START_S, len(train), len(validation), speed)
    recommended = finetune.by_rule(ground, strategy).epochs
    used, budget = duration(time.monotonic() - begun), duration(ground.choices.budget_s)
    say(f"budget {budget}, {used} used; training speed {speed:.0f} images/s: {n_fit} epochs fit, {recommended} are recommended")
    return min(recommended, hpo.share(n_fit, ground.choices.search, WORTH_IT))


def _left(ground: Ground, begun: float) -> float:
    """Seconds left of the budget."""
    return ground.choices.budget_s - (time.monotonic() - begun)


def _rung(trained: Trained, seconds: float, verdict: str) -> Rung:
    estimate = metrics.headline(trained.validation)
    return Rung.model_validate(
        {"strategy": trained.strategy, "validation": estimate, "seconds": seconds, "kept": True, "verdict": verdict}
    )
