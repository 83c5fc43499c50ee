"""`graft info`: complete, fast, and without secrets."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from graft.training.pipelines import info

ROOT = Path(__file__).parents[3]
SECRET = "a-key-that-nobody-may-see"


def graft_info(*options: str, **variables: str) -> str:
    env = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    return subprocess.check_output([sys.executable, "-m", "graft", "info", *options], text=True, env=env)


def test_it_names_versions_hardware_and_the_engine():
    start = time.monotonic()
    lines = dict(line.split(None, 1) for line in graft_info().splitlines())
    assert time.monotonic() - start < 10  # about one second on an idle machine
    assert lines["graft-vision"] == "0.1.0"
    assert lines["python"].startswith("CPython 3.")
    assert set(info.LIBRARIES) <= set(lines)
    assert lines["inference"].startswith("OpenVINO on cpu: f32")
    assert "usable of" in lines["cores"]


def test_json_has_the_same_facts():
    found = json.loads(graft_info("--json"))
    assert found["libraries"]["graft-vision"] == "0.1.0"
    assert found["inference"]["precisions"][0] == "f32"
    assert found["cores"] >= 1


def test_keys_the_home_folder_and_the_user_are_not_shown(tmp_path: Path):
    home = tmp_path / "home" / "alice"
    (home / "graft-cache").mkdir(parents=True)
    variables = {
        "HOME": str(home),
        "LOGNAME": "alice",
        "GRAFT_API_KEY": SECRET,
        "GRAFT_API_KEY_FILE": f"{home}/key",
        "GRAFT_TOKEN": SECRET,
        "GRAFT_CACHE": f"{home}/graft-cache",
        "GRAFT_PACKAGE": "/srv/alice/package",
        "GRAFT_MAX_BATCH_IMAGES": "8",
    }
    for output in (graft_info(**variables), graft_info("--json", **variables)):
        assert SECRET not in output
        assert str(home) not in output
        assert "alice" not in output
    settings = json.loads(graft_info("--json", **variables))["settings"]
    assert settings == {
        "GRAFT_API_KEY": "set",
        "GRAFT_API_KEY_FILE": "~/key",
        "GRAFT_CACHE": "~/graft-cache",
        "GRAFT_MAX_BATCH_IMAGES": "8",
        "GRAFT_PACKAGE": "/srv/USER/package",
        "GRAFT_TOKEN": "set",
    }


def test_missing_library_is_said():
    program = "import sys; sys.modules['openvino'] = None; from graft.training.cli.main import main; sys.exit(main(['info']))"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    output = subprocess.check_output([sys.executable, "-c", program], text=True, env=env)
    assert "OpenVINO on cpu: ModuleNotFoundError" in output


def test_library_without_metadata_is_not_installed(monkeypatch):
    monkeypatch.setattr(info, "LIBRARIES", ("no-such-library",))
    assert info.collect().libraries == {"no-such-library": None}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx2 avx512f amx_tile amx_int8", ("AVX2", "AVX-512", "AMX", "AMX int8")),
        ("fp asimd bf16", ("NEON", "bf16")),
        ("", ()),
    ],
)
def test_instruction_sets(flags: str, expected: tuple[str, ...]):
    assert info.instruction_sets(flags) == expected


def test_home_is_replaced_only_as_a_whole_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/al")
    monkeypatch.setenv("LOGNAME", "al")
    assert info.anonymize("/home/al/x") == "~/x"
    assert info.anonymize("/home/alice/x") == "/home/alice/x"
    assert info.anonymize("cannot open /home/al/lib.so: denied") == "cannot open ~/lib.so: denied"
    assert info.anonymize("/data/al/photos") == "/data/USER/photos"


def test_size_of_a_missing_cache_is_zero(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "none"))
    found = info.collect()
    assert (found.cache_bytes, found.cache_complete) == (0, True)
