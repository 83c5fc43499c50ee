"""Training leaves the process as it was."""

import logging
import os
import random
import warnings

import numpy as np
import torch

from graft.training.runtime.isolation import preserved_environment, preserved_state


def test_random_states_are_restored():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.random(), torch.rand(1).item()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with preserved_state():
        random.seed(2), np.random.seed(2), torch.manual_seed(2)
    assert (random.random(), np.random.random(), torch.rand(1).item()) == expected


def test_warning_filters_and_log_levels_are_restored():
    filters, level = list(warnings.filters), logging.getLogger("pytorch_lightning").level
    with preserved_state():
        warnings.simplefilter("ignore")
        logging.getLogger("pytorch_lightning").setLevel(logging.CRITICAL)
    assert (list(warnings.filters), logging.getLogger("pytorch_lightning").level) == (filters, level)


def test_everything_is_restored_after_an_error(monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    try:
        with preserved_state():
            os.environ["PL_GLOBAL_SEED"] = "3"
            raise ValueError
    except ValueError:
        pass
    assert "PL_GLOBAL_SEED" not in os.environ


def test_a_variable_that_is_set_keeps_its_value(monkeypatch):
    monkeypatch.setenv("NNCF_CI", "0")
    with preserved_environment(NNCF_CI="1"):
        assert os.environ["NNCF_CI"] == "0"
    assert os.environ["NNCF_CI"] == "0"


def test_a_temporary_variable_is_removed(monkeypatch):
    monkeypatch.delenv("NO_ALBUMENTATIONS_UPDATE", raising=False)
    with preserved_environment(NO_ALBUMENTATIONS_UPDATE="1"):
        assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"
    assert "NO_ALBUMENTATIONS_UPDATE" not in os.environ
