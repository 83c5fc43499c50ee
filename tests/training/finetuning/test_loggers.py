"""Trackers write files to the run folder, and a missing library is an error."""

import socket
from pathlib import Path

import pytest

from graft.training.config.recipe import Recipe
from graft.training.finetuning import loggers


@pytest.fixture
def no_network(monkeypatch):
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a tracker went to the network")

    monkeypatch.setattr(socket.socket, "connect", refused)


def logged(tracker: str, run: Path) -> None:
    for logger in loggers.make_loggers(Recipe(tracker=tracker), run):
        for epoch in range(2):
            logger.log_metrics({"val/loss": 1.0 / (epoch + 1)}, step=epoch)
        logger.save()
        logger.finalize("success")


def test_no_tracker_writes_nothing(tmp_path: Path):
    logged("none", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_gets_metrics_and_hyperparameters(tmp_path: Path, no_network):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logged("tensorboard", tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [round(point.value, 3) for point in events.Scalars("val/loss")] == [1.0, 0.5]
    assert "backbone: tf_efficientnet_lite0" in (tmp_path / "tensorboard" / "hparams.yaml").read_text()


def test_mlflow_gets_metrics_and_hyperparameters_as_files(tmp_path: Path, no_network):
    logged("mlflow", tmp_path)
    [curve] = tmp_path.glob("mlruns/*/*/metrics/val/loss")
    assert [line.split()[1] for line in curve.read_text().splitlines()] == ["1.0", "0.5"]
    [choice] = tmp_path.glob("mlruns/*/*/params/backbone")
    assert choice.read_text() == "tf_efficientnet_lite0"


@pytest.mark.parametrize("tracker", ["tensorboard", "mlflow"])
def test_missing_library_is_named_with_the_install_command(tmp_path: Path, monkeypatch, tracker: str):
    monkeypatch.setattr(loggers, "find_spec", lambda name: None if name == tracker else object())
    with pytest.raises(ValueError, match=rf"{tracker} is not installed\. Try: pip install 'graft-vision\[track\]'$"):
        loggers.make_loggers(Recipe(tracker=tracker), tmp_path)
