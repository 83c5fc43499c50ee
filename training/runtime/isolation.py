"""Keeps a fit from changing the process that it runs in: random states, warnings, log levels, environment. Imports no torch."""

import logging
import os
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

# Set by Lightning's seed_everything, and by Graft for the libraries that read them.
VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "MLFLOW_ALLOW_FILE_STORE", "MLFLOW_DISABLE_TELEMETRY", "NNCF_CI")
# Read by cuBLAS at its first call: without it, some of its sums have another order in every run.
CUBLAS_WORKSPACE = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
LIGHTNING_LOGGERS = ("pytorch_lightning", "lightning_fabric", "lightning.pytorch")


@contextmanager
def preserved_state() -> Iterator[None]:
    """Restores the process-wide state that training changes: random states, warning filters, log levels and environment."""
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(preserved_environment(*VARIABLES, **CUBLAS_WORKSPACE))
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())
        for name in LIGHTNING_LOGGERS:
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
        _preserve_torch(stack)
        yield


def _preserve_torch(stack: ExitStack) -> None:
    """Only if torch is loaded: nothing but training draws from its generators."""
    if "torch" not in sys.modules:
        return
    import torch

    stack.callback(torch.set_rng_state, torch.get_rng_state())
    # Asking for its state would initialize it, and fail on a card that is full or broken.
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        stack.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())


@contextmanager
def preserved_environment(*names: str, **temporary: str) -> Iterator[None]:
    """Restores environment variables at the end.

    Args:
        names: variables that the block may change.
        temporary: variables that are set within the block, unless they are set already.
    """
    previous = {name: os.environ.get(name) for name in (*names, *temporary)}
    for name, value in temporary.items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        for name, before in previous.items():
            if before is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = before
