"""Runs everything in `examples/` as a user does, with the package of the session's fit."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
NOTEBOOK = EXAMPLES / "fit_and_predict.ipynb"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def image(clothes, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("images") / "boot.png"
    path.write_bytes(clothes[0][1])
    return path


@pytest.fixture(scope="module")
def expected(model, image) -> list[tuple[str, float]]:
    """Graft's three most probable labels of the image, with their probabilities."""
    return [tuple(row) for row in model.classify(image.read_bytes(), 3).ranked]


def run(script: str, *arguments: str | Path) -> str:
    command = [sys.executable, EXAMPLES / script, *arguments]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def load(script: str):
    """The module of an example."""
    spec = importlib.util.spec_from_file_location(Path(script).stem, EXAMPLES / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_listed_and_tested():
    files = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    readme, tests = (EXAMPLES / "README.md").read_text(), Path(__file__).read_text()
    assert [name for name in files if f"[{name}]({name})" not in readme or name not in tests] == []


def test_both_clients_of_serve_and_ask_get_the_predictions_of_graft(fitted, image, expected):
    output = run("serve_and_ask.py", fitted.artifact.path, image)
    best = f"{expected[0][0]}\t{expected[0][1]:.4f}\tabstain: False"
    assert output.splitlines() == [f"ask_with_bentoml: {best}", f"ask_with_urllib: {best}"]


def test_onnxruntime_only_gets_the_predictions_of_graft(fitted, image, expected):
    golden, *rows = run("onnxruntime_only.py", fitted.artifact.path, image).splitlines()
    assert golden.startswith("golden answers: within ")
    assert [row.split("\t")[0] for row in rows] == [label for label, _ in expected]
    assert [float(row.split("\t")[1]) for row in rows] == pytest.approx([probability for _, probability in expected], abs=0.01)


def test_onnxruntime_only_preprocesses_as_graft_does(fitted, model, encode, photo):
    """For each kind of image and each way to fit it into a square."""
    package = load("onnxruntime_only.py")
    from graft.service.imaging.preprocess import decode

    large = photo.repeat(20, axis=0).repeat(20, axis=1)
    images = [encode(photo), encode(photo[..., 0]), encode(large, "JPEG", quality=90), encode(photo.transpose(1, 0, 2))]
    for fit in ("crop", "squash", "letterbox"):
        preprocessing = model.manifest.preprocessing.model_copy(update={"fit": fit})
        for encoded in images:
            pixels = package.preprocess(encoded, preprocessing.model_dump())
            assert (pixels == decode(encoded, preprocessing).pixels).all()


def test_onnxruntime_only_imports_nothing_of_graft():
    program = f"import sys; sys.path.insert(0, {str(EXAMPLES)!r}); import onnxruntime_only; print('graft' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "False\n"


def test_fastapi_app_gets_the_predictions_of_graft(fitted, image, expected, monkeypatch):
    from fastapi.testclient import TestClient

    monkeypatch.setenv("PACKAGE", str(fitted.artifact.path))
    with TestClient(load("fastapi_app.py").app) as client:
        answer = client.post("/classify", files={"image": image.read_bytes()}).json()
        assert [row["label"] for row in answer["predictions"]] == [label for label, _ in expected]
        assert answer["predictions"][0]["probability"] == pytest.approx(expected[0][1], abs=0.01)
        damaged = client.post("/classify", files={"image": image.read_bytes()[:50]})
        assert damaged.status_code == 422
        assert client.get("/labels").json() == list(fitted.artifact.manifest.labels)


def test_notebook_runs(cache, tmp_path):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()  # raises if a cell does
    last = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    assert "of 500 correct" in last.outputs[-1].text


def test_notebook_is_stored_with_its_outputs():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    types = {name for cell in code for output in cell["outputs"] for name in output.get("data", {})}
    assert {"image/png", "text/html"} <= types
    assert not any(path in NOTEBOOK.read_text(encoding="utf-8") for path in ("/home/", "/root/", "/tmp/", str(ROOT)))
    assert NOTEBOOK.stat().st_size < 300_000
