"""The README: its length, pictures and install size, and what its commands print. test_doc_examples.py runs all commands."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from doc_blocks import ROOT, blocks, read
from PIL import Image

README = read("README.md")
START = json.loads(read("benchmarks/results/start.json"))
PICTURES = ("docs/images/page.png", "docs/images/report.png")
MAX_LINES, MAX_PICTURE_BYTES = 180, 300_000


def run(command: str | list[str], folder: Path) -> str:
    """Run a command; return its output, and its messages before it as in a terminal."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        command, shell=isinstance(command, str), cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stderr + result.stdout


def block(language: str, text: str) -> str:
    """The block that contains a text."""
    [found] = [block.text for block in blocks("README.md", language) if text in block.text]
    return found


def masked(line: str) -> str:
    """A line without what differs in every run: times, ports and digits."""
    return re.sub(r"\d+ min \d+ s|[\d.,]+ s\b", "TIME", re.sub(r"\d{8}-\d{6}|(?<=127.0.0.1:)\d+|\.\d{3,}", "#", line)).rstrip()


def test_readme_is_short():
    assert len(README.splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", PICTURES)
def test_picture_is_shown_sharp_and_small(path):
    assert f"]({path})" in README
    with Image.open(ROOT / path) as picture:
        assert picture.width >= 1280
    assert (ROOT / path).stat().st_size <= MAX_PICTURE_BYTES


@pytest.mark.slow
def test_demo_prints_what_the_readme_shows(fitted, tmp_path):
    output = [masked(line).removesuffix("; features were cached") for line in run("graft demo", tmp_path).splitlines()]
    shown = [masked(line) for line in block("text", "Next steps").splitlines() if line != "…"]
    assert [line for line in shown if line not in output] == []


def test_curl_gets_a_prediction_and_a_heat_map(server, clothes, tmp_path):
    (tmp_path / "cat.jpg").write_bytes(clothes[0][1])
    commands = block("sh", "curl").replace("http://127.0.0.1:3000", server).splitlines()
    answer, explanation = (run(command, tmp_path) for command in commands)
    assert '"label":"ankle boot"' in answer
    assert '"method":"cam"' in explanation


def test_python_client_gets_a_prediction(server, clothes, tmp_path):
    (tmp_path / "cat.jpg").write_bytes(clothes[0][1])
    program = block("python", "bentoml").replace("http://127.0.0.1:3000", server)
    assert "'label': 'ankle boot'" in run([sys.executable, "-c", program], tmp_path)


def test_install_size_is_that_of_the_results():
    [table] = (table for table in START["tables"] if table["title"] == "Packages needed for serving")
    [size] = (row[table["columns"].index("MB")] for row in table["rows"] if row[0] == "Graft")
    assert f"{size:.0f} MB installed" in README
