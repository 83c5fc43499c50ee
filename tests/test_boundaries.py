"""Who may import whom, proven in fresh interpreters; and how dear an import may be."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OFFLINE = {"training", "pytorch_lightning", "albumentations", "timm", "sklearn"}
MODULES = sorted(path.stem for path in (ROOT / "service").glob("*.py") if path.stem != "__init__")


def python(program: str) -> str:
    return subprocess.check_output([sys.executable, "-c", program], text=True, cwd=ROOT).strip()


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("service", {"pydantic", "numpy", "bentoml"}),
        ("service.artifact", {"torch", "numpy", "bentoml", "PIL"}),
        ("service.preprocess", {"torch", "bentoml", "openvino"}),
        ("service.classifier", {"torch", "bentoml", "PIL"}),
        ("service.engine", {"torch", "bentoml", "openvino", "timm"}),
        ("service.batcher", {"torch", "bentoml"}),
        ("service.explain", {"torch", "bentoml", "openvino", "safetensors", *OFFLINE}),
        ("service.model", {"torch", "bentoml", *OFFLINE}),
        ("training.receptive", {"torch", "numpy"}),
        ("training.inspection", {"torch", "timm"}),
        ("service.app", {"torch", "openvino", *OFFLINE}),
        ("training.__main__", {"torch", "numpy", "timm", "pydantic", "sklearn"}),
        ("training.dataset", {"torch", "timm", "sklearn"}),
        ("training.backbones", {"torch", "timm"}),
        ("training.graphs", {"torch", "timm", "onnx"}),
        ("training.splits", {"torch", "timm", "sklearn"}),
        ("training.features", {"torch", "timm", "sklearn"}),
        ("training.probes", {"torch", "timm"}),
        ("training.evaluate", {"torch", "sklearn"}),
        ("training.calibrate", {"torch", "sklearn"}),
        ("training.curve", {"torch", "sklearn"}),
        ("training.tencrop", {"torch", "sklearn", "openvino"}),
        ("training.robustness", {"torch", "sklearn", "openvino"}),
        ("training.locate", {"torch", "sklearn", "openvino"}),
        ("training.recipe", {"torch", "numpy"}),
        ("training.search", {"torch", "optuna"}),
        ("training.run", {"torch", "timm", "sklearn", "pytorch_lightning"}),
    ],
)
def test_importing_it_never_loads(module: str, forbidden: set[str]):
    program = f"import sys, {module}; print(*sorted({forbidden!r} & set(sys.modules)))"
    assert python(program) == ""


@pytest.mark.parametrize("module", MODULES)
def test_the_deployed_half_never_names_the_offline_half(module: str):
    tree = ast.parse((ROOT / "service" / f"{module}.py").read_text())
    named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    named |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    allowed = {"timm"} if module in ("network", "zoo", "borrowed") else set()
    assert {name.partition(".")[0] for name in named} & OFFLINE <= allowed


def test_only_batches_imports_albumentations():
    importers = [path.name for path in (ROOT / "training").glob("*.py") if "import albumentations" in path.read_text()]
    assert importers == ["batches.py"]


def test_serving_a_package_on_a_cpu_loads_no_torch(fitted):
    program = (
        "import sys; from pathlib import Path; from service import model;"
        f"loaded = model.load(Path({str(fitted.artifact.path)!r}), 'cpu');"
        "print(*sorted({'torch', 'timm', 'pytorch_lightning', 'training'} & set(sys.modules)))"
    )
    assert python(program) == ""


def test_a_probe_on_known_images_loads_no_torch(fitted, tmp_path):
    program = (
        "import sys; from pathlib import Path; from training import run; from training.recipe import Recipe;"
        "from training.sample import SAMPLE;"
        f"run.fit(SAMPLE, Path({str(tmp_path / 'run')!r}), Recipe(strategy='probe'));"
        "print(*sorted({'torch', 'timm', 'pytorch_lightning'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path, env=_environment()
    )
    assert found.stdout.strip() == ""


def _environment() -> dict[str, str]:
    import os

    return os.environ | {"PYTHONPATH": str(ROOT)}
