"""Keeps Lightning quiet: Graft reports devices, progress and loggers itself."""

import logging
import warnings

from graft.training.runtime.isolation import LIGHTNING_LOGGERS
from graft.training.runtime.progress import is_verbose

# Lightning steps the learning rate also after a step that the gradient scaler has skipped, such as the first ones.
SKIPPED_STEP = r"Detected call of `lr_scheduler\.step\(\)` before `optimizer\.step\(\)`"
# Operations without a deterministic algorithm; a replay on a GPU is compared within a tolerance.
NOT_DETERMINISTIC = r".*does not have a deterministic implementation"


def silence_lightning() -> None:
    """Turns off Lightning's messages and tips, unless the messages of libraries are wanted."""
    if is_verbose():
        return
    for name in LIGHTNING_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="(pytorch_lightning|lightning_fabric)")
    for message in (SKIPPED_STEP, NOT_DETERMINISTIC):
        warnings.filterwarnings("ignore", message=message)
