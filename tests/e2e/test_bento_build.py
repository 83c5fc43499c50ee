"""Tests the Bento made by `bentoml build`: it is self-contained and serves the model's predictions without network."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from graft.service.manifest import FILES, MANIFEST

ROOT = Path(__file__).parents[2]
LOCK, GPU_LOCK = "requirements-service.lock", "requirements-gpu.lock"
SOURCE_PATHS = ("bentofile.yaml", "bentofile.gpu.yaml", LOCK, GPU_LOCK, "service")
UNSHARE_NETWORK = ["unshare", "--net"]
CAN_UNSHARE_NETWORK = (
    shutil.which("unshare") is not None and subprocess.run([*UNSHARE_NETWORK, "true"], check=False).returncode == 0
)


def bentoml(*words: str, home: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("GRAFT_", "BENTOML_"))}
    env |= {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
    command = [sys.executable, "-m", "bentoml", *words]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def checkout(fitted, workplace, tmp_path_factory) -> Path:
    """A copy of the repository with only the fitted run."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in SOURCE_PATHS:
        source = ROOT / name
        shutil.copytree(source, folder / name) if source.is_dir() else shutil.copy(source, folder)
    (folder / "runs").mkdir()
    (folder / "runs" / "latest").symlink_to(fitted.run)
    shutil.copytree(workplace / "runs" / "latest-package", folder / "runs" / "latest-package")
    return folder


@pytest.fixture(scope="module")
def home(checkout, tmp_path_factory) -> Path:
    """A fresh BentoML home with one Bento."""
    home = tmp_path_factory.mktemp("home")
    result = bentoml("build", "--output", "tag", home=home, cwd=checkout)
    assert result.returncode == 0, result.stderr
    return home


@pytest.fixture(scope="module")
def bento(home) -> Path:
    [folder] = (path.parent for path in (home / "bentos" / "graft").glob("*/bento.yaml"))
    return folder


@pytest.fixture(scope="module")
def served(home, clothes, tmp_path_factory) -> dict[str, Any]:
    """Responses of the Bento, served without network from a folder with misleading names (`service/`, `runs/`)."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for name in ("service", "runs/latest/package", "runs/latest-package"):
        (folder / name).mkdir(parents=True)
    (folder / "service" / "__init__.py").write_text("raise ImportError('this is another package\\'s service')")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    serve = [str(Path(sys.executable).with_name("bentoml")), "serve", "graft:latest", "--port", port]
    result = subprocess.run(
        [
            *(UNSHARE_NETWORK if CAN_UNSHARE_NETWORK else []),
            sys.executable,
            str(ROOT / "tests" / "support" / "offline_server.py"),
            port,
            *serve,
        ],
        input=clothes[0][1],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "BENTOML_HOME": str(home)} | ({"NEW_NETWORK": "1"} if CAN_UNSHARE_NETWORK else {}),
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr.decode()
    return json.loads(result.stdout)


def test_bento_contains_only_service_and_package(bento):
    source = bento / "src"
    files = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    service = {str(path.relative_to(ROOT)) for path in (ROOT / "service").rglob("*") if path.is_file()}
    code = {path for path in service if "__pycache__" not in path}
    package = {f"runs/latest-package/{name}" for name in (*FILES, MANIFEST)}
    assert files == code | package | {"bentofile.yaml"}
    assert not [path for path in bento.rglob("*") if path.is_symlink()]


def test_package_is_identical_to_that_of_the_latest_run(bento, fitted):
    for name in (*FILES, MANIFEST):
        assert (bento / "src/runs/latest-package" / name).read_bytes() == (fitted.artifact.path / name).read_bytes()


def test_bento_contains_no_pickle(bento):
    package = bento / "src/runs/latest-package"
    for path in package.glob("*.npz"):
        with zipfile.ZipFile(path) as archive:
            heads = [archive.read(name)[:128] for name in archive.namelist()]
        assert [head for head in heads if b"'descr': '|O'" in head] == []
    assert not [path for path in package.iterdir() if path.suffix in {".pkl", ".pt", ".pth", ".ckpt", ".bin"}]


def test_requirements_match_the_lock_file_without_torch(bento):
    requirements = (bento / "env/python/requirements.txt").read_text()
    pattern = r"^\S+==[^\s;]+|--hash=\S+"
    assert set(re.findall(pattern, requirements, re.M)) == set(re.findall(pattern, (ROOT / LOCK).read_text(), re.M))
    assert re.findall(r"^(?:torch|timm|pytorch-lightning|nvidia-cu\S*)\b", requirements, re.M) == []


@pytest.fixture(scope="module")
def gpu_bento(checkout, tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("gpu-home")
    result = bentoml("build", "--bentofile", "bentofile.gpu.yaml", home=home, cwd=checkout)
    assert result.returncode == 0, result.stderr
    [folder] = (path.parent for path in (home / "bentos" / "graft").glob("*/bento.yaml"))
    return folder


def test_only_the_bento_for_gpus_asks_for_one(bento, gpu_bento):
    [config], [gpu_config] = (
        [service["config"] for service in yaml.safe_load((folder / "bento.yaml").read_text())["services"]]
        for folder in (bento, gpu_bento)
    )
    assert gpu_config["resources"] == {"gpu": 1}
    assert config == {name: value for name, value in gpu_config.items() if name != "resources"}


def test_the_bento_for_gpus_installs_torch_with_cuda(gpu_bento):
    requirements = (gpu_bento / "env/python/requirements.txt").read_text()
    pattern = r"^\S+==[^\s;]+|--hash=\S+"
    assert set(re.findall(pattern, requirements, re.M)) == set(re.findall(pattern, (ROOT / GPU_LOCK).read_text(), re.M))
    assert {"torch", "timm"} <= set(re.findall(r"^([a-z]+)==", requirements, re.M))


def test_the_bentos_differ_in_nothing_else(bento, gpu_bento):
    files, gpu_files = (
        {path.relative_to(folder / "src"): path.read_bytes() for path in (folder / "src").rglob("*") if path.is_file()}
        for folder in (bento, gpu_bento)
    )
    bentofile = Path("bentofile.yaml")
    assert files.pop(bentofile) != gpu_files.pop(bentofile)
    assert files == gpu_files


def test_container_listens_on_all_interfaces_and_disables_tracking(bento):
    dockerfile = (bento / "env/docker/Dockerfile").read_text()
    assert "ARG BENTOML_HOST=0.0.0.0\n" in dockerfile
    assert "ARG BENTOML_DO_NOT_TRACK=True\n" in dockerfile


def test_readme_is_the_model_card(bento, fitted):
    assert (bento / "README.md").read_text() == (fitted.artifact.path / "README.md").read_text()


def test_bento_gives_the_predictions_of_the_model(served, model, clothes):
    expected = model.classify(clothes[0][1], 5)
    predictions = [(item["label"], item["probability"]) for item in served["answer"]["predictions"]]
    assert [label for label, _ in predictions] == [ranked.label for ranked in expected.ranked]
    assert [probability for _, probability in predictions] == pytest.approx(
        [ranked.probability for ranked in expected.ranked], abs=1e-6
    )
    assert served["answer"]["prediction_set"] == list(expected.prediction_set)
    assert served["model"]["sha256"] == model.manifest.sha256


@pytest.mark.skipif(not CAN_UNSHARE_NETWORK, reason="`unshare --net` is not permitted for this user")
def test_bento_needs_no_network(served):
    assert served["code"] == 0


def test_outside_a_container_it_listens_on_localhost(served):
    assert "listening on http://127.0.0.1:" in served["log"]
    assert "WARNING: no API key is set" not in served["log"]


def test_build_fails_without_a_package(checkout, tmp_path):
    shutil.copytree(checkout, tmp_path / "checkout", symlinks=True, ignore=shutil.ignore_patterns("latest-package"))
    result = bentoml("build", home=tmp_path / "home", cwd=tmp_path / "checkout")
    assert result.returncode != 0
    assert "runs/latest-package/README.md not found" in result.stdout + result.stderr
