"""`bentoml build` makes something that serves by itself: moved anywhere, with no network, it gives the model's own answers."""

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

from graft.service.artifact import FILES, MANIFEST

ROOT = Path(__file__).parents[2]
LOCK = "requirements-service.lock"
SHIPPED = ("bentofile.yaml", LOCK, "service")
ALONE = ["unshare", "--net"]
CAN_BE_ALONE = shutil.which("unshare") is not None and subprocess.run([*ALONE, "true"], check=False).returncode == 0


def bentoml(*words: str, home: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    given = {name: value for name, value in os.environ.items() if not name.startswith(("GRAFT_", "BENTOML_"))}
    given |= {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
    command = [sys.executable, "-m", "bentoml", *words]
    return subprocess.run(command, cwd=cwd, env=given, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def checkout(fitted, workplace, tmp_path_factory) -> Path:
    """The repository as `graft fit` leaves it, without anybody else's runs."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in SHIPPED:
        source = ROOT / name
        shutil.copytree(source, folder / name) if source.is_dir() else shutil.copy(source, folder)
    (folder / "runs").mkdir()
    (folder / "runs" / "latest").symlink_to(fitted.run)
    shutil.copytree(workplace / "runs" / "latest-package", folder / "runs" / "latest-package")
    return folder


@pytest.fixture(scope="module")
def home(checkout, tmp_path_factory) -> Path:
    """A BentoML home that was empty before the one Bento in it was built."""
    home = tmp_path_factory.mktemp("home")
    built = bentoml("build", "--output", "tag", home=home, cwd=checkout)
    assert built.returncode == 0, built.stderr
    return home


@pytest.fixture(scope="module")
def bento(home) -> Path:
    [folder] = (path.parent for path in (home / "bentos" / "graft").glob("*/bento.yaml"))
    return folder


@pytest.fixture(scope="module")
def served(home, clothes, tmp_path_factory) -> dict[str, Any]:
    """What the Bento answers about the first picture of clothes, out of reach of any network, started amid traps."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for trap in ("service", "runs/latest/package", "runs/latest-package"):
        (elsewhere / trap).mkdir(parents=True)
    (elsewhere / "service" / "__init__.py").write_text("raise ImportError('this is somebody else\\'s service')")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    serve = [str(Path(sys.executable).with_name("bentoml")), "serve", "graft:latest", "--port", port]
    done = subprocess.run(
        [*(ALONE if CAN_BE_ALONE else []), sys.executable, str(ROOT / "tests" / "support" / "offline_server.py"), port, *serve],
        input=clothes[0][1],
        cwd=elsewhere,
        env={"PATH": os.environ["PATH"], "BENTOML_HOME": str(home)} | ({"NEW_NETWORK": "1"} if CAN_BE_ALONE else {}),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def test_it_holds_the_service_its_page_and_the_package_and_nothing_else(bento):
    source = bento / "src"
    found = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    service = {str(path.relative_to(ROOT)) for path in (ROOT / "service").rglob("*") if path.is_file()}
    code = {path for path in service if "__pycache__" not in path}
    package = {f"runs/latest-package/{name}" for name in (*FILES, MANIFEST)}
    assert found == code | package | {"bentofile.yaml"}
    assert not [path for path in bento.rglob("*") if path.is_symlink()]


def test_its_package_is_the_latest_runs_byte_for_byte(bento, fitted):
    for name in (*FILES, MANIFEST):
        assert (bento / "src/runs/latest-package" / name).read_bytes() == (fitted.artifact.path / name).read_bytes()


def test_it_holds_no_pickle(bento):
    package = bento / "src/runs/latest-package"
    for path in package.glob("*.npz"):
        with zipfile.ZipFile(path) as archive:
            heads = [archive.read(name)[:128] for name in archive.namelist()]
        assert [head for head in heads if b"'descr': '|O'" in head] == []
    assert not [path for path in package.iterdir() if path.suffix in {".pkl", ".pt", ".pth", ".ckpt", ".bin"}]


def test_it_installs_what_the_lock_file_names_and_no_torch(bento):
    wanted = (bento / "env/python/requirements.txt").read_text()
    pinned = r"^\S+==[^\s;]+|--hash=\S+"
    assert set(re.findall(pinned, wanted, re.M)) == set(re.findall(pinned, (ROOT / LOCK).read_text(), re.M))
    assert re.findall(r"^(?:torch|timm|pytorch-lightning|nvidia-cu\S*)\b", wanted, re.M) == []


def test_its_own_image_listens_to_the_outside_and_reports_to_nobody(bento):
    dockerfile = (bento / "env/docker/Dockerfile").read_text()
    assert "ARG BENTOML_HOST=0.0.0.0\n" in dockerfile
    assert "ARG BENTOML_DO_NOT_TRACK=True\n" in dockerfile


def test_its_readme_is_the_model_card(bento, fitted):
    assert (bento / "README.md").read_text() == (fitted.artifact.path / "README.md").read_text()


def test_it_gives_the_answers_of_the_model_in_memory(served, model, clothes):
    expected = model.classify(clothes[0][1], 5)
    answered = [(found["label"], found["probability"]) for found in served["answer"]["predictions"]]
    assert [label for label, _ in answered] == [ranked.label for ranked in expected.ranked]
    assert [chance for _, chance in answered] == pytest.approx([ranked.probability for ranked in expected.ranked], abs=1e-6)
    assert served["answer"]["prediction_set"] == list(expected.prediction_set)
    assert served["model"]["sha256"] == model.manifest.sha256


@pytest.mark.skipif(not CAN_BE_ALONE, reason="a network of one's own needs `unshare --net`, which this user may not")
def test_it_needs_no_network(served):
    assert served["code"] == 0


def test_on_a_host_it_is_reached_from_that_host_only(served):
    assert "listening on http://127.0.0.1:" in served["said"]
    assert "WARNING: anybody" not in served["said"]


def test_without_a_package_nothing_is_built(checkout, tmp_path):
    shutil.copytree(checkout, tmp_path / "checkout", symlinks=True, ignore=shutil.ignore_patterns("latest-package"))
    built = bentoml("build", home=tmp_path / "home", cwd=tmp_path / "checkout")
    assert built.returncode != 0
    assert "runs/latest-package/README.md not found" in built.stdout + built.stderr
