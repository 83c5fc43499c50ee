"""The README: its length, pictures and figures, and what its commands print. test_doc_examples.py runs all commands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from doc_blocks import ROOT, blocks, read
from PIL import Image

README = read("README.md")
RESULTS = read("benchmarks/RESULTS.md")
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


def table(title: str) -> list[dict[str, str]]:
    """The rows of the table below a title in RESULTS.md, by column."""
    lines = RESULTS.partition(f"**{title}**\n\n")[2].partition("\n\n")[0].splitlines()
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(header, row, strict=True)) for row in rows]


def figure(text: str) -> float:
    return float(text.replace(",", ""))


@pytest.mark.parametrize("photos", ["photos of 40 KB", "photos of 12 megapixels"])
def test_serving_figures_are_those_of_the_results(photos):
    rates = {row["server"]: figure(row["images/s"]) for row in table(photos) if row["connections"] == "8"}
    best = max((name for name in rates if "torch" in name), key=lambda name: rates[name])
    peer = best.replace(" + ", " with ")
    row = f"| {photos} per second, 8 clients | {rates['/v1/classify, form']:.0f} | {peer}: {rates[best]:.0f} |"
    assert row in README


def test_training_figures_are_those_of_the_results():
    rows = {row["tool"]: row for row in table("hymenoptera, 224 pixels")}
    probe, first, peer = (
        rows[name] for name in ("graft fit --strategy probe", "probe, first run (exports the backbone)", "fastai fine_tune(4)")
    )
    seconds = [f"{figure(row['seconds']):.0f} s" for row in (probe, first, peer)]
    accuracy = [f"{figure(row['accuracy']):.1%}".replace("%", " %") for row in (probe, peer)]
    graft_cell = f"{seconds[0]} ({seconds[1]} with an empty cache), {accuracy[0]}"
    peer_cell = f"fastai's `fine_tune(4)`: {seconds[2]}, {accuracy[1]}"
    assert f"| training on 243 photos of ants and bees; accuracy on 153 test photos | {graft_cell} | {peer_cell} |" in README
    assert figure(peer["accuracy"]) == max(figure(row["accuracy"]) for row in rows.values())


def test_install_size_is_that_of_the_results():
    rows = {row["what"]: row for row in table("Packages needed for serving")}
    smallest = min((name for name in rows if "torch" in name), key=lambda name: figure(rows[name]["MB without CUDA libraries"]))
    without, with_cuda = (f"{figure(rows[smallest][column]) / 1000:.1f} GB" for column in ("MB without CUDA libraries", "MB"))
    peer = smallest.replace(" + ", " with ")
    expected = f"| {rows['Graft']['MB']} MB | {peer}: {without} without CUDA, {with_cuda} with it |"
    assert f"| install size for serving {expected}" in README
    assert f"{rows['Graft']['MB']} MB installed" in README
