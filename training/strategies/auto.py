"""Strategy selection: trains the requested strategy, or tries them in order of cost and keeps the best (`auto`).

All of them cost the same to serve, so the one with the lowest expected loss on new images is kept, by the recipe's metric. It
is estimated on images that a model has not learned from: heads on frozen features are compared out of fold on train and
validation, others on validation. Test images are not used here.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from graft.service.manifest import MetricName
from graft.training.config.recipe import EQUAL_FREQUENCY_METRICS
from graft.training.evaluation import metrics
from graft.training.evaluation.clusters import n_clusters
from graft.training.finetuning.epoch_plan import EpochPlan
from graft.training.results import StrategyAttempt, TransferRegime
from graft.training.runtime.progress import format_duration, format_rate, log
from graft.training.strategies import finetune, hpo, kernel, model_selection, probe
from graft.training.strategies.context import TrainingContext, extract_crops
from graft.training.strategies.model_selection import MIN_PROBABILITY, MIN_PROBABILITY_TO_REPLACE
from graft.training.strategies.probe import ProbeResult, is_balanced
from graft.training.strategies.trained_model import TrainedModel, compare

OVERHEAD_S = 30.0  # fixed cost of fine-tuning outside its training steps: imports, ONNX export, scoring
CROP_SHARE = 0.2  # of the time left, for the features of random crops
MIN_EPOCHS = 3  # with fewer, most of the training is warm-up
MIN_EPOCHS_LAST = 1  # of finetune-last: it is the cheapest, starts from the probe, and a kernel machine follows


@dataclass(frozen=True)
class SelectionResult:
    """The selected model and how it was selected.

    Attributes:
        attempts: every strategy that was tried, in order.
        probe_result: the linear probe, which is always trained first.
        regime: dataset size and similarity to ImageNet; None if they were not measured.
        stop_reason: why a more expensive strategy was skipped, the first if there are several; "" if none was.
    """

    model: TrainedModel
    attempts: tuple[StrategyAttempt, ...]
    probe_result: ProbeResult
    regime: TransferRegime | None = None
    stop_reason: str = ""


def select_strategy(context: TrainingContext, started_at: float, publish: Callable[[TrainedModel], object]) -> SelectionResult:
    """Trains the recipe's strategy; `auto` tries several and keeps the one with the lowest expected loss.

    Args:
        started_at: start of the run, as `time.monotonic()`; the budget counts from there.
        publish: packages a model; `auto` calls it with the probe, so that a package exists early.
    """
    strategy = context.recipe.strategy
    if strategy == "auto":
        return _auto_select(context, started_at, publish)
    if strategy in ("probe", "svm", "stages"):
        probe_result, model, attempt = _run_probe(context, strategy)
        return SelectionResult(model, (attempt,), probe_result)
    if strategy == "kernel":
        probe_result, _, baseline = _run_probe(context, "probe")
        model, attempt = _run_kernel(context, probe_result, started_at)
        return SelectionResult(model, (baseline.model_copy(update={"kept": False}), attempt), probe_result)
    probe_result, _, baseline = _run_probe(context, "probe")
    log(f"probe: {baseline.validation.value:.1%} on validation")
    epochs = max(1, _decide_epochs(context, strategy, started_at))
    search_summary = hpo.search(context, probe_result, strategy, epochs, lambda: _remaining_s(context, started_at) - OVERHEAD_S)
    model, attempt = _run_finetune(context, probe_result, strategy, _plan(context, strategy, epochs, started_at))
    attempt = attempt.model_copy(update={"verdict": "; ".join(filter(None, [attempt.verdict, search_summary]))})
    return SelectionResult(model, (baseline.model_copy(update={"kept": False}), attempt), probe_result)


def _auto_select(context: TrainingContext, started_at: float, publish: Callable[[TrainedModel], object]) -> SelectionResult:
    probe_result, best, attempt = _run_probe(context, "probe")
    attempts = [attempt]
    log(f"probe: {attempt.validation.value:.1%} on validation")
    start = probe_result
    if previous := probe.previous_probe(context):
        model = probe.export_probe(previous, context)
        best = _select_previous(model, best, attempts)
        if best is model and previous.selection.best.feature_set == "last" and not previous.train_head.kernel:
            start = replace(previous, test_logits=model.test.logits)  # fine-tuning starts from the better head
    publish(best)
    if reason := _early_exit_reason(best, context.recipe.metric):
        log(f"auto keeps the {best.strategy}: {reason}")
        attempts = [one.model_copy(update={"verdict": f"kept: {reason}"}) if one.kept else one for one in attempts]
        return SelectionResult(best, tuple(attempts), probe_result)
    log("a first package is ready; trying more strategies (press Ctrl-C to stop and keep this package)")
    if problem := kernel.kernel_problem(context, is_balanced(context)):
        log(f"kernel is skipped: {problem}")
    else:
        best = _select(best, *_run_kernel(context, probe_result, started_at), attempts)
    stages_result, model, attempt = _run_probe(context, "stages")
    best = _select(best, model, attempt, attempts)
    regime = model_selection.transfer_regime(
        len(context.splits.train), len(context.dataset.labels), _losses_by_feature_set(stages_result)
    )
    log(regime.description)
    skipped: list[str] = []
    for alternatives in _next_strategies(context):
        if chosen := _first_that_fits(context, alternatives, started_at, skipped):
            strategy, plan = chosen
            best = _select(best, *_run_finetune(context, start, strategy, plan), attempts)
    return SelectionResult(best, tuple(attempts), probe_result, regime, skipped[0] if skipped else "")


def _early_exit_reason(best: TrainedModel, metric: MetricName) -> str:
    """Why no other strategy is worth trying; "" if one may gain more."""
    if metric in EQUAL_FREQUENCY_METRICS:
        return ""  # few errors in all say little about a rare label, which may be all wrong
    held_out = best.held_out
    n_errors, n_groups = metrics.n_errors(held_out.logits, held_out.targets), n_clusters(held_out.clusters)
    return model_selection.early_exit_reason(n_errors, len(held_out.targets), n_groups)


def _next_strategies(context: TrainingContext) -> list[tuple[str, ...]]:
    """The fine-tuning strategies worth trying, in order; of alternatives, the first of which enough epochs fit is trained.

    All layers get the whole budget, because they end better than the last ones wherever they fit into it. Training from
    scratch pays only with a very large dataset.
    """
    n_images, n_labels = len(context.splits.train), len(context.dataset.labels)
    large = n_images >= model_selection.MIN_SCRATCH_IMAGES_PER_LABEL * n_labels
    return [("finetune", "finetune-last"), *([("scratch",)] if large else [])]


def _first_that_fits(
    context: TrainingContext, strategies: Sequence[str], started_at: float, skipped: list[str]
) -> tuple[str, EpochPlan] | None:
    """The first strategy of which enough epochs fit into the budget, and its plan; adds why others are skipped."""
    for strategy in strategies:
        epochs = _decide_epochs(context, strategy, started_at)
        min_epochs = MIN_EPOCHS_LAST if strategy == "finetune-last" else MIN_EPOCHS
        if epochs >= min_epochs or context.recipe.epochs:
            return strategy, _plan(context, strategy, epochs, started_at)
        skipped.append(f"{strategy} is skipped: only {epochs} epochs fit in the budget; increase --budget to train it")
        log(skipped[-1])
    return None


def _select(
    best: TrainedModel, candidate: TrainedModel, attempt: StrategyAttempt, attempts: list[StrategyAttempt]
) -> TrainedModel:
    """The model with the lower expected loss; that of `--from` stays until another is shown to be better. Records it."""
    min_probability = MIN_PROBABILITY_TO_REPLACE if best.strategy == "previous" else MIN_PROBABILITY
    comparison = compare(candidate, best, min_probability)
    verdict = comparison.to_text(candidate.strategy, best.strategy)
    log(verdict)
    if comparison.is_better:
        attempts[:] = [earlier.model_copy(update={"kept": False}) for earlier in attempts]
    attempts.append(attempt.model_copy(update={"kept": comparison.is_better, "verdict": verdict}))
    return candidate if comparison.is_better else best


def _select_previous(previous: TrainedModel, new: TrainedModel, attempts: list[StrategyAttempt]) -> TrainedModel:
    """The model of `--from` unchanged, unless the new probe is shown to be better; records the attempt."""
    [attempt] = attempts
    earlier = _attempt(previous, 0.0, "the model of --from, unchanged")
    log(f"previous model: {earlier.validation.value:.1%} on validation")
    attempts[:] = [earlier]
    return _select(previous, new, attempt, attempts)


def _losses_by_feature_set(stages_result: ProbeResult) -> dict[str, float]:
    """The lowest cross-validated log-loss of each feature set."""
    losses: dict[str, float] = {}
    for candidate in stages_result.selection.candidates:
        losses[candidate.feature_set] = min(candidate.loss, losses.get(candidate.feature_set, candidate.loss))
    return losses


def _run_probe(context: TrainingContext, strategy: str) -> tuple[ProbeResult, TrainedModel, StrategyAttempt]:
    started = time.monotonic()
    probe_result = probe.fit_probe(context, strategy)
    model = probe.export_probe(probe_result, context)
    best = probe_result.selection.best
    verdict = (
        f"{best.kind} regression on {best.feature_set}" if best.kind == "logistic" else f"linear SVM on {best.feature_set}"
    )
    probe_result = replace(probe_result, test_logits=model.test.logits)
    return probe_result, model, _attempt(model, time.monotonic() - started, verdict)


def _run_kernel(context: TrainingContext, probe_result: ProbeResult, started_at: float) -> tuple[TrainedModel, StrategyAttempt]:
    started = time.monotonic()
    context = extract_crops(context, CROP_SHARE * _remaining_s(context, started_at))
    kernel_result = kernel.fit_kernel(context, probe_result)
    model = probe.export_probe(kernel_result, context, probe_result)
    return model, _attempt(model, time.monotonic() - started, "linear head and kernel machine on all features")


def _run_finetune(
    context: TrainingContext, probe_result: ProbeResult, strategy: str, plan: EpochPlan
) -> tuple[TrainedModel, StrategyAttempt]:
    started = time.monotonic()
    model = finetune.finetune(context, probe_result, strategy, plan)
    return model, _attempt(model, time.monotonic() - started, "requested by name")


def _plan(context: TrainingContext, strategy: str, epochs: int, started_at: float) -> EpochPlan:
    """The plan of a fine-tuning that is revised after every epoch, unless the recipe has the number of epochs."""
    if context.recipe.epochs:
        return EpochPlan(epochs)
    return EpochPlan(
        epochs,
        finetune.default_config(context, strategy).epochs,
        time.monotonic() + _remaining_s(context, started_at) - OVERHEAD_S,
        lambda trained, make: context.folder.decide_once(f"epochs of {strategy} after {trained}", make),
        kernel.epochs_after(context),
    )


def _decide_epochs(context: TrainingContext, strategy: str, started_at: float) -> int:
    """The number of epochs, computed once per run: a resumed run would measure another speed."""
    return context.folder.decide_once(f"epochs of {strategy}", lambda: _compute_epochs(context, strategy, started_at))


def _compute_epochs(context: TrainingContext, strategy: str, started_at: float) -> int:
    """The recipe's number of epochs; by default as many as recommended for the dataset size, limited by the budget."""
    if context.recipe.epochs:
        return context.recipe.epochs
    train, validation = context.splits.train, context.splits.validation
    if _remaining_s(context, started_at) < OVERHEAD_S:
        return 0  # to measure the speed would only use up more
    speed = finetune.images_per_second(context, strategy)
    n_fit = model_selection.max_epochs(
        _remaining_s(context, started_at) - OVERHEAD_S, len(train), len(validation), speed, kernel.epochs_after(context)
    )
    recommended = finetune.default_config(context, strategy).epochs
    used, budget = format_duration(time.monotonic() - started_at), format_duration(context.recipe.budget_s)
    log(
        f"budget {budget}, {used} used; training speed {format_rate(speed, 'images')}: {n_fit} epochs fit, {recommended} are"
        " recommended"
    )
    return min(recommended, hpo.epochs_per_trial(n_fit, context.recipe.search, MIN_EPOCHS))


def _remaining_s(context: TrainingContext, started_at: float) -> float:
    """Seconds left of the budget."""
    return context.recipe.budget_s - (time.monotonic() - started_at)


def _attempt(model: TrainedModel, seconds: float, verdict: str) -> StrategyAttempt:
    estimate = metrics.primary_metric(model.validation)
    return StrategyAttempt.model_validate(
        {"strategy": model.strategy, "validation": estimate, "seconds": seconds, "kept": True, "verdict": verdict}
    )
