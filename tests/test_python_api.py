"""`import graft`: the functions of the Python API, inside somebody else's program."""

import logging
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import graft
from graft.service.inference import cuda_check
from graft.service.inference.cuda_check import CudaCheck
from graft.training.cli.main import main
from graft.training.sample import SAMPLE

QUICK = {"input_size": 64, "flips": False}


def python(program: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_import_loads_nothing_dear(tmp_path: Path):
    program = "import sys, graft; print(*{'torch','numpy','pydantic','PIL','bentoml','rich','yaml'} & set(sys.modules))"
    assert python(program, tmp_path).stdout == "\n"


def test_every_public_name_exists_and_is_documented():
    for name in graft.__all__:
        assert getattr(graft, name).__doc__, name
    assert set(graft.__all__) <= set(dir(graft))
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        _ = graft.train


def test_loading_needs_no_training_library(fitted, tmp_path: Path):
    program = (
        f"import sys, graft; graft.load({str(fitted.package)!r});"
        "print(*{'torch', 'pytorch_lightning', 'sklearn', 'yaml', 'graft.training'} & set(sys.modules))"
    )
    assert python(program, tmp_path).stdout == "\n"


def test_invalid_option_is_named_in_the_words_of_python(tmp_path: Path):
    with pytest.raises(ValueError, match=r"^epochs=0: must be greater than 0\.$"):
        graft.fit(tmp_path, epochs=0)


def test_run_stands_for_its_package(fitted):
    assert graft.load(fitted.run).labels == fitted.artifact.manifest.labels


def test_a_misspelled_option_names_the_nearest(tmp_path: Path):
    with pytest.raises(ValueError, match=r"There is no option 'epoch'\. Did you mean 'epochs'\?"):
        graft.fit(tmp_path, epoch=3)


def test_options_take_precedence_over_a_recipe_and_its_file(tmp_path: Path):
    from graft.training.config.recipe import resolve_recipe

    recipe = graft.Recipe(epochs=3, seed=7)
    assert resolve_recipe(recipe, {"epochs": 5}) == graft.Recipe(epochs=5, seed=7)
    recipe.save(tmp_path / "recipe.yaml")
    assert resolve_recipe(str(tmp_path / "recipe.yaml"), {"epochs": 5}).epochs == 5
    assert resolve_recipe(recipe, {"epochs": 5}).model_dump(exclude_unset=True) == {"epochs": 5, "seed": 7}


def test_fit_result_knows_its_files_and_shows_itself(fitted):
    assert fitted.package.is_dir()
    assert fitted.report.is_file()
    assert repr(fitted).startswith("FitResult(run=")
    assert len(repr(fitted)) < 300
    html = fitted._repr_html_()
    assert "accuracy 8" in html
    assert "Confusion matrix" in html
    assert "ankle boot" in html
    assert "<script" not in html


def test_labels_are_escaped_in_notebooks(fitted):
    evaluation = fitted.evaluation
    scores = (evaluation.labels[0].model_copy(update={"label": "<b>&"}), *evaluation.labels[1:])
    from graft.training.report import notebook

    html = notebook.evaluation_fragment("t", [], evaluation.model_copy(update={"labels": scores}))
    assert "&lt;b&gt;&amp;" in html
    assert "<b>" not in html


def test_check_shows_itself(cache, make_folder):
    report = graft.check(make_folder({"cat": 3, "dog": 3}), use_features=False)
    assert "2 labels" in report._repr_html_() or "cat" in report._repr_html_()
    assert repr(report).startswith("AuditReport(")


def test_evaluate_of_the_sample_equals_the_run(fitted, tmp_path: Path):
    result = graft.evaluate(fitted.package, SAMPLE)
    assert result.evaluation.metrics["accuracy"].value == fitted.evaluation.metrics["accuracy"].value
    assert "Confusion matrix" in result._repr_html_()
    result.save_report(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert ('id="confusion"' in page, 'id="robustness"' in page) == (True, False)
    assert page.count("<img") > 20


def test_package_selects_a_run(fitted, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert graft.package(fitted.run).path == fitted.package
    assert graft.load("runs/latest/package").labels == fitted.artifact.manifest.labels


def test_a_finished_run_is_loaded_again(fitted):
    again = graft.fit(SAMPLE, out=fitted.run, resume=True)
    assert (again.evaluation, again.attempts, again.package) == (fitted.evaluation, fitted.attempts, fitted.package)
    assert again.to_dict() | {"seconds": 0} == fitted.to_dict() | {"seconds": 0}


class ProcessState:
    """The state of this process that a library must leave alone."""

    def __init__(self) -> None:
        self.environment = dict(os.environ)
        self.filters = list(warnings.filters)
        self.show = warnings.showwarning
        self.signals = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
        self.threads = torch.get_num_threads(), {thread.name for thread in threading.enumerate()}
        self.levels = {name: logging.getLogger(name).level for name in ("", "pytorch_lightning", "lightning_fabric", "timm")}
        self.handlers = list(logging.getLogger().handlers)
        self.flags = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark, torch.is_grad_enabled()
        self.folder = Path.cwd()
        self.random = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


@pytest.mark.slow
def test_two_fits_in_one_process_change_no_global_state(cache, make_folder, tmp_path: Path, monkeypatch):
    # Some libraries set variables when they are imported, such as OpenCV's LD_LIBRARY_PATH.
    import graft.training.finetuning.augmentations
    import graft.training.finetuning.trainer
    import graft.training.pipelines.fit

    monkeypatch.chdir(tmp_path)
    data = make_folder({"a": 12, "b": 12})
    before = ProcessState()
    first = graft.fit(data, strategy="finetune", epochs=1, **QUICK)
    second = graft.fit(data, strategy="finetune", epochs=1, **QUICK)
    assert vars(ProcessState()) == vars(before)
    assert first.run != second.run
    assert first.evaluation == second.evaluation
    assert graft.load(second.package).labels == ("a", "b")


@pytest.mark.slow
def test_a_fit_in_a_thread(cache, make_folder, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, results = make_folder({"a": 12, "b": 12}), []
    thread = threading.Thread(target=lambda: results.append(graft.fit(data, strategy="finetune", epochs=1, **QUICK)))
    thread.start()
    thread.join()
    assert results[0].package.is_dir()


@pytest.mark.slow
def test_ctrl_c_raises_keyboard_interrupt_and_the_run_can_be_resumed(cache, make_folder, tmp_path: Path):
    data = make_folder({"a": 40, "b": 40})
    program = f"""
import os, signal, threading, graft
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
from graft.training.finetuning.trainer import ProgressCallback

taken = ProgressCallback.on_train_batch_end
def interrupt(self, trainer, *rest):
    taken(self, trainer, *rest)
    if trainer.current_epoch == 1:
        os.kill(os.getpid(), signal.SIGINT)
ProgressCallback.on_train_batch_end = interrupt
options = dict(strategy="finetune", epochs=2, input_size=64, flips=False)
try:
    graft.fit({str(data)!r}, **options)
except KeyboardInterrupt:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ProgressCallback.on_train_batch_end = taken
    print("interrupted")
print(graft.fit({str(data)!r}, resume=True).package)
"""
    done = python(program, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("interrupted\nruns/")


@pytest.mark.slow
def test_compare_returns_its_files(cache, make_folder, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = graft.compare(make_folder({"a": 8, "b": 8}), strategies=["probe", "svm"], **QUICK)
    assert result.table.is_file()
    assert result.report.is_file()
    assert result.best.strategy in ("probe", "svm")
    assert "difference" in result._repr_html_()


def test_the_command_line_calls_the_api(fitted, monkeypatch, capsys):
    calls = {}
    monkeypatch.setattr(graft, "fit", lambda data, **rest: calls.update(data=data, **rest) or fitted)
    assert main(["fit", "photos", "--epochs", "3", "--out", "here"]) == 0
    assert (calls["data"], calls["out"], calls["recipe"]) == (Path("photos"), Path("here"), graft.Recipe(epochs=3))
    assert f"package: {fitted.package}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["fit", "check", "compare", "evaluate", "load"])
def test_device_means_the_same_to_every_function(name, fitted, monkeypatch):
    before = cuda_check.known_check()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    cuda_check.adopt(CudaCheck("the memory of NVIDIA L4 is full", n_devices=1, name="NVIDIA L4"))
    arguments = {"evaluate": (fitted.package, "nowhere"), "load": (fitted.package,)}.get(name, ("nowhere",))
    try:
        with pytest.raises(ValueError, match="device cuda: the memory of NVIDIA L4 is full"):
            getattr(graft, name)(*arguments, device="cuda")
    finally:
        cuda_check.adopt(before)
