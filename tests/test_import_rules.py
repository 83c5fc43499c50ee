"""Which modules may load which libraries, checked in fresh interpreters, and how long imports may take."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OFFLINE = {"graft.training", "pytorch_lightning", "albumentations", "timm", "sklearn"}
MODULES = sorted(
    str(path.relative_to(ROOT / "service").with_suffix(""))
    for path in (ROOT / "service").rglob("*.py")
    if path.stem != "__init__"
)


def python(program: str) -> str:
    return subprocess.check_output([sys.executable, "-c", program], text=True, cwd=ROOT).strip()


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("graft.service", {"pydantic", "numpy", "bentoml"}),
        ("graft.service.artifact", {"torch", "numpy", "bentoml", "PIL"}),
        ("graft.service.imaging.preprocess", {"torch", "bentoml", "openvino"}),
        ("graft.service.inference.postprocess", {"torch", "bentoml", "PIL"}),
        ("graft.service.inference.engine", {"torch", "bentoml", "openvino", "timm"}),
        ("graft.service.inference.batcher", {"torch", "bentoml"}),
        ("graft.service.explain.explainer", {"torch", "bentoml", "openvino", "safetensors", *OFFLINE}),
        ("graft.service.inference.model", {"torch", "bentoml", *OFFLINE}),
        ("graft.training.architecture.receptive_field", {"torch", "numpy"}),
        ("graft.training.architecture.summary", {"torch", "timm"}),
        ("graft.service.app", {"torch", "openvino", *OFFLINE}),
        ("graft.training.cli.main", {"torch", "numpy", "timm", "pydantic", "sklearn"}),
        ("graft.training.data.dataset", {"torch", "timm", "sklearn"}),
        ("graft.training.backbones.registry", {"torch", "timm"}),
        ("graft.training.backbones.onnx_cache", {"torch", "timm", "onnx"}),
        ("graft.training.data.splits", {"torch", "timm", "sklearn"}),
        ("graft.training.features.extraction", {"torch", "timm", "sklearn"}),
        ("graft.training.features.linear_probe", {"torch", "timm"}),
        ("graft.training.evaluation.metrics", {"torch", "sklearn"}),
        ("graft.training.evaluation.calibration", {"torch", "sklearn"}),
        ("graft.training.evaluation.learning_curve", {"torch", "sklearn"}),
        ("graft.training.inference.ten_crop", {"torch", "sklearn", "openvino"}),
        ("graft.training.robustness.measure", {"torch", "sklearn", "openvino"}),
        ("graft.training.inference.detector", {"torch", "sklearn", "openvino"}),
        ("graft.training.config.recipe", {"torch", "numpy"}),
        ("graft.training.strategies.hpo", {"torch", "optuna"}),
        ("graft.training.pipelines.fit", {"torch", "timm", "sklearn", "pytorch_lightning"}),
    ],
)
def test_importing_it_never_loads(module: str, forbidden: set[str]):
    program = f"import sys, {module}; print(*sorted({forbidden!r} & set(sys.modules)))"
    assert python(program) == ""


@pytest.mark.parametrize("module", MODULES)
def test_the_deployed_half_imports_itself_relatively_and_the_offline_half_never(module: str):
    tree = ast.parse((ROOT / "service" / f"{module}.py").read_text())
    named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    named |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    allowed = {"timm"} if module.startswith("networks/") else set()
    assert {name.partition(".")[0] for name in named} & {"graft", "service", "training", *OFFLINE} <= allowed


def test_only_the_augmentations_import_albumentations():
    importers = [path.name for path in (ROOT / "training").rglob("*.py") if "import albumentations" in path.read_text()]
    assert importers == ["augmentations.py"]


def test_serving_a_package_on_a_cpu_loads_no_torch(fitted):
    program = (
        "import sys; from pathlib import Path; from graft.service.inference import model;"
        f"loaded = model.load(Path({str(fitted.artifact.path)!r}), 'cpu');"
        "print(*sorted({'torch', 'timm', 'pytorch_lightning', 'graft.training'} & set(sys.modules)))"
    )
    assert python(program) == ""


@pytest.mark.slow
def test_a_probe_on_known_images_loads_no_torch(fitted, tmp_path):
    program = (
        "import sys; from pathlib import Path; from graft.training.pipelines import fit as run;"
        "from graft.training.config.recipe import Recipe;"
        "from graft.training.sample import SAMPLE;"
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


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "1000 None"), ({"GOMP_SPINCOUNT": "5"}, "5 None"), ({"OMP_WAIT_POLICY": "active"}, "None active")],
)
def test_threads_of_torch_soon_sleep_unless_the_user_decides(given, expected):
    unset = "import os; [os.environ.pop(name, None) for name in ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')];"
    program = f"{unset} os.environ.update({given}); import sys, graft.training; assert 'torch' not in sys.modules;"
    assert python(program + "print(os.environ.get('GOMP_SPINCOUNT'), os.environ.get('OMP_WAIT_POLICY'))") == expected


def test_the_environment_is_set_before_the_libraries_that_read_it_are_imported():
    program = (
        "import os; os.environ['PROMETHEUS_MULTIPROC_DIR'] = '/nonexistent'; import sys; sys.path.insert(0, '.');"
        "import service.app; from prometheus_client import values;"
        "print(values.ValueClass.__name__, os.environ['BENTOML_DO_NOT_TRACK'])"
    )
    assert python(program) == "MutexValue True"
