"""What the int8 model of a package costs in quality and brings in speed, on several sets.

    .venv/bin/python benchmarks/int8.py [--sets NAME...] [--strategies kernel finetune] [--epochs N] [--json]

For each set and strategy: the f32 model and the int8 model on the test images, how often both give the same label out of fold,
and whether `auto` would serve int8. The speed is that of the network alone, in images per second of a busy service, side by
side in every precision that this processor has. The sets are those of ../shared/data; copies across the given parts are
allowed, because they are part of these sets. Takes ten minutes, and writes benchmarks/results/int8.json and int8.md.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import save
from fitting import unpack
from measuring.pictures import DATA
from measuring.tables import Report, Table, log, to_markdown

from graft.service.artifact import read
from graft.service.inference import loader, model
from graft.service.inference.engine_speed import images_per_second
from graft.training.config.recipe import Recipe
from graft.training.evaluation import metrics
from graft.training.packaging import writer
from graft.training.runs import lifecycle
from graft.training.strategies import auto, starting_point
from graft.training.strategies.context import TrainingContext, prepare
from graft.training.strategies.int8 import train_int8
from graft.training.strategies.trained_model import TrainedModel

RESULTS = Path(__file__).parent / "results"
SETS, STRATEGIES = ("hymenoptera", "flowers12", "trashnet", "emoji"), ("probe", "kernel")


@dataclass(frozen=True)
class Outcome:
    """One set and strategy.

    Attributes:
        accuracy, log_loss, calibration_error: on test, of the f32 and the int8 model; the error is the expected one (ECE).
        agreement, accuracy_change, log_loss_change: out of fold, or on validation for a fine-tuned network.
        served: whether `auto` may serve int8.
        seconds: that the int8 model took, without packaging.
        images_per_second: by precision.
    """

    data: str
    strategy: str
    n_test: int
    accuracy: tuple[float, float]
    log_loss: tuple[float, float]
    calibration_error: tuple[float, float]
    n_compared: int
    agreement: float
    accuracy_change: float
    log_loss_change: float
    served: bool
    seconds: float
    images_per_second: dict[str, float]


def measure(data: Path, name: str, strategy: str, epochs: int | None, folder: Path) -> Outcome:
    """Trains both models on one set, writes the package and measures."""
    recipe, start = starting_point.resolve(Recipe(strategy=strategy, epochs=epochs, allow_near_leaks=True))
    with lifecycle.open_run(folder, data, recipe, False, None) as run:
        context = prepare(data, run, recipe, start)
        trained = auto.select_strategy(context, time.monotonic(), lambda _: None).model
        started = time.monotonic()
        int8 = train_int8(context, trained)
        seconds = time.monotonic() - started
        if int8 is None:
            raise SystemExit(f"error: the network of {name} cannot be quantized")
        return _outcome(name, context, trained, int8, seconds, folder / "package")


def _outcome(
    data: str, context: TrainingContext, trained: TrainedModel, int8: TrainedModel, seconds: float, package: Path
) -> Outcome:
    writer.write(trained, context.dataset, context.splits, context.seen, data, package, int8=int8)
    manifest = read(package).manifest
    fidelity, models = manifest.precisions["int8"], (trained, int8)
    tests = [(one.test.logits, one.test.targets, one.temperature) for one in models]
    supported = [name for name in loader.supported_precisions("cpu") if name in manifest.precisions]
    engines = [model.load(package, "cpu", precision=name).engine for name in supported]
    speeds = images_per_second(engines, manifest.preprocessing.crop)
    return Outcome(
        data,
        trained.strategy,
        len(trained.test.targets),
        tuple(one.scores["test"].accuracy for one in models),
        tuple(metrics.log_loss(*test) for test in tests),
        tuple(calibration_error(one) for one in models),
        fidelity.n_images,
        fidelity.agreement,
        fidelity.accuracy_change,
        fidelity.log_loss_change,
        manifest.is_equivalent("int8"),
        seconds,
        dict(zip(supported, speeds, strict=True)),
    )


def calibration_error(trained: TrainedModel) -> float:
    """The expected calibration error on test."""
    return metrics.calibration_errors(trained.test, trained.temperature)[1].value


def to_report(outcomes: Sequence[Outcome], seconds: float) -> Report:
    """The tables of quality and of speed."""
    names = tuple(outcomes[0].images_per_second)
    quality = tuple(
        (
            one.data,
            one.strategy,
            *(f"{100 * value:.1f}" for value in one.accuracy),
            *(f"{value:.3f}" for value in one.log_loss),
            *(f"{100 * value:.1f}" for value in one.calibration_error),
            f"{100 * one.agreement:.1f}",
            f"{100 * one.accuracy_change:+.1f}",
            f"{one.log_loss_change:+.4f}",
            "yes" if one.served else "no",
        )
        for one in outcomes
    )
    speed = tuple(
        (one.data, one.strategy, *(f"{one.images_per_second[name]:.0f}" for name in names), f"{one.seconds:.0f}")
        for one in outcomes
    )
    pairs = tuple(f"{name} {one}" for name in ("accuracy", "log-loss", "ECE") for one in ("f32", "int8"))
    compared = ("same label, %", "accuracy, points", "log-loss, nats", "may be served")
    report = Report("int8", "The int8 model of a package")
    report.tables = [
        Table("on test in percent and nats, then compared out of fold", ("set", "strategy", *pairs, *compared), quality),
        Table("images per second of the network, all cores busy", ("set", "strategy", *names, "seconds to make int8"), speed),
    ]
    report.notes = [
        "Both models have a head, a temperature and thresholds of their own. ECE is the expected calibration error.",
        "`auto` serves int8 if, out of fold, its accuracy is at most 0.2 points or one image lower, and its log-loss at most"
        " 0.01 nats higher, and if it is faster when the service starts.",
    ]
    report.measured = {f"{one.data}, {one.strategy}": asdict(one) for one in outcomes}
    report.seconds = seconds
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sets", nargs="+", default=SETS, metavar="NAME", help="archives in ../shared/data")
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES, help="what to train")
    parser.add_argument("--epochs", type=int, help="of fine-tuning (default: as many as fit into the budget)")
    parser.add_argument("--json", action="store_true", help="print the record as JSON, and write no files")
    arguments = parser.parse_args()
    started, outcomes = time.monotonic(), []
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.sets:
            data = unpack(DATA / f"{name}.zip", Path(scratch))
            for strategy in arguments.strategies:
                outcomes.append(measure(data, name, strategy, arguments.epochs, Path(scratch) / f"{name} {strategy}"))
                log(f"{name} {strategy}: done")
    record = to_report(outcomes, time.monotonic() - started).to_dict()
    if not arguments.json:
        save(record, RESULTS)
    print(json.dumps(record) if arguments.json else to_markdown(record))


if __name__ == "__main__":
    main()
