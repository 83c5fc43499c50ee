"""Exit codes and messages of exceptions: ours are shown, those of libraries are not."""

import errno
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from graft.service.artifact import ArtifactError
from graft.service.inference.devices import DeviceError
from graft.service.inference.engine import DeviceFailed
from graft.training.cli.exit_codes import EXIT_BUG, error_message, exit_code
from graft.training.config.recipe import Recipe, resolve_recipe
from graft.training.runtime import os_errors


class OutOfMemoryError(RuntimeError):
    """torch's, by name."""


class AcceleratorError(RuntimeError):
    """torch's, by name."""


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), 5, "The memory of the GPU is full."),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), 5, "The memory of the GPU is full."),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 5, "The memory of this machine is full."),
        (MemoryError(), 5, "The memory of this machine is full."),
        (AssertionError("Torch not compiled with CUDA enabled"), 2, "The GPU cannot be used with the installed torch."),
        (RuntimeError("Found no NVIDIA driver on your system."), 2, "The GPU cannot be used with the installed torch."),
        (DeviceFailed("CUDA error: unspecified launch failure"), 7, "The GPU has failed."),
        (DeviceFailed("CUDA out of memory. Tried to allocate 2.00 GiB"), 5, "The memory of the GPU is full."),
        (AcceleratorError("CUDA error: an illegal memory access was encountered"), 7, "The GPU has failed."),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), 7, "The GPU has failed."),
        (DeviceError("device cuda: torch is not installed. Use auto or cpu."), 2, "device cuda: torch is not installed."),
        (
            RuntimeError("Exception from src/inference/src/cpp/core.cpp:121:"),
            EXIT_BUG,
            "This is a bug in Graft, or in a library",
        ),
        (ValueError("nncf: The model has no quantizable operation"), EXIT_BUG, "This is a bug in Graft, or in a library"),
        (KeyError("x"), EXIT_BUG, "This is a bug in Graft, or in a library"),
        (ImportError("libGL.so.1: cannot open shared object file", name="cv2"), 2, "cv2 is installed but cannot be loaded"),
        (ModuleNotFoundError("No module named 'timm'", name="timm"), 2, "timm is not installed. Training needs: pip install"),
        (OSError(errno.ENOSPC, "No space left on device", "run"), 6, "run: the disk is full."),
        (PermissionError(errno.EACCES, "Permission denied", "run"), 2, "run: permission denied."),
        (PermissionError(errno.EACCES, "The run folder is not writable", "run"), 2, "run: The run folder is not writable."),
        (ArtifactError("x was altered"), 3, "x was altered"),
    ],
)
def test_error_has_a_code_and_our_words(error: Exception, code: int, message: str):
    assert exit_code(error) == code
    assert error_message(error).startswith(message)


def raised(function, *arguments) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - any
        function(*arguments)
    return caught.value


def test_value_error_is_ours_only_if_our_code_raises_it():
    from graft.training.config.recipe import parse_duration

    assert exit_code(raised(parse_duration, "10")) == 2
    assert exit_code(raised(int, "x")) == EXIT_BUG
    assert exit_code(raised(np.zeros, -1)) == EXIT_BUG


def test_function_in_c_called_by_our_code_is_not_ours():
    from graft.training.runs.run_folder import to_json

    assert exit_code(raised(to_json, object())) == EXIT_BUG  # a TypeError of json


def test_option_has_the_name_of_its_flag():
    assert error_message(raised(resolve_recipe, None, {"head_lr": -1})) == "--head-lr -1: must be greater than 0."
    assert error_message(raised(resolve_recipe, None, {"from_model": ""})) == "--from : must not be empty."


def test_option_of_a_file_has_its_name(tmp_path):
    (tmp_path / "r.yaml").write_text("epochs: 0\nhead-lr: 1\nflips: maybe\n")
    message = error_message(raised(resolve_recipe, tmp_path / "r.yaml", {"seed": -1}))
    assert set(message.splitlines()) == {
        f"{tmp_path}/r.yaml: epochs: 0: must be greater than 0.",
        f"{tmp_path}/r.yaml: flips: maybe: must be true or false.",
        f"{tmp_path}/r.yaml: head-lr: 1: there is no such option (did you mean head_lr?).",
        "--seed -1: must be at least 0.",
    }


def test_broken_yaml_names_the_line(tmp_path):
    (tmp_path / "r.yaml").write_text("epochs: 3\nflips: [\n")
    message = str(raised(Recipe.load, tmp_path / "r.yaml", {}))
    assert message == f"{tmp_path}/r.yaml cannot be read as a recipe: line 3 is not valid YAML."


@pytest.mark.parametrize("number", sorted(os_errors.REASONS))
def test_system_error_has_no_number_and_no_path(number: int):
    text = os_errors.describe(OSError(number, os.strerror(number), "x"))
    assert text == os_errors.REASONS[number]
    assert not re.search(r"Errno|\[", text)


def test_bug_prints_a_traceback_and_exits_with_70():
    program = (
        "import sys; from graft.training.cli import main, commands\n"
        "def broken(arguments): return {}['x']\n"
        "commands.HANDLERS['info'] = broken\n"
        "sys.exit(main.main(['info']))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 70
    assert "KeyError: 'x'" in result.stderr
    assert result.stderr.splitlines()[-1] == (
        "error: This is a bug in Graft, or in a library that it uses. Please report the lines above with the output of"
        " `graft info`."
    )
