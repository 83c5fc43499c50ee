"""Where a run's curves go besides `metrics.csv`: TensorBoard or MLflow, as files in the run folder. No server, no network."""

from importlib.util import find_spec
from pathlib import Path

from pytorch_lightning.loggers import CSVLogger, Logger

from training.recipe import Recipe

NEEDED = {"tensorboard": "tensorboard", "mlflow": "mlflow"}


def require(tracker: str) -> None:
    """Raises ValueError, with what to install, if a tracker's library is not there."""
    if tracker in NEEDED and find_spec(NEEDED[tracker]) is None:
        raise ValueError(f"--tracker {tracker}: {tracker} is not installed. Try: pip install 'graft-vision[track]'")


def loggers(recipe: Recipe, run: Path) -> list[Logger]:
    """CSV always, and the tracker that the recipe names.

    Raises:
        ValueError: if the tracker's library is not installed.
    """
    return [CSVLogger(run, name=None, version=""), *tracked(recipe, run)]


def tracked(recipe: Recipe, run: Path) -> list[Logger]:
    """The tracker alone, for whoever writes `metrics.csv` by other means."""
    require(recipe.tracker)
    if recipe.tracker == "tensorboard":
        from pytorch_lightning.loggers import TensorBoardLogger

        loggers: list[Logger] = [TensorBoardLogger(run, name="tensorboard", version="")]
    elif recipe.tracker == "mlflow":
        from pytorch_lightning.loggers import MLFlowLogger

        loggers = [MLFlowLogger(experiment_name="graft", run_name=run.name, save_dir=str(run / "mlruns"))]
    else:
        return []
    for logger in loggers:
        logger.log_hyperparams(recipe.model_dump(mode="json"))
    return loggers
