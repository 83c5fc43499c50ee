"""Experiment trackers in addition to `metrics.csv`: TensorBoard or MLflow, as files in the run folder. No server or network."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from graft.training.config.recipe import Recipe

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger


def require(tracker: str) -> None:
    """Raises ValueError, with the command to install it, if the library of a tracker is missing."""
    if tracker != "none" and find_spec(tracker) is None:
        raise ValueError(f"--tracker {tracker}: {tracker} is not installed. Try: pip install 'graft-vision[track]'")


def make_loggers(recipe: Recipe, run: Path) -> list["Logger"]:
    """Creates the logger of the recipe's tracker, and logs the recipe as hyperparameters.

    Raises:
        ValueError: if the tracker's library is not installed.
    """
    require(recipe.tracker)
    if recipe.tracker == "none":
        return []
    logger = _tensorboard(run) if recipe.tracker == "tensorboard" else _mlflow(run)
    logger.log_hyperparams(recipe.model_dump(mode="json"))
    return [logger]


def _tensorboard(run: Path) -> "Logger":
    from pytorch_lightning.loggers import TensorBoardLogger

    return TensorBoardLogger(run, name="tensorboard", version="")


def _mlflow(run: Path) -> "Logger":
    # Newer versions default to a database. `mlflow ui` and `mlflow migrate-filestore` also read a file store.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from pytorch_lightning.loggers import MLFlowLogger

    return MLFlowLogger(experiment_name="graft", run_name=run.name, save_dir=str(run / "mlruns"))
