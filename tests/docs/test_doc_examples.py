"""Runs the code blocks of the README and of docs/ in a prepared folder, page by page, as a reader does."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from doc_blocks import PAGES, ROOT, Block, Reader, blocks, commands, graft_arguments, parse, program, prose
from PIL import Image

from graft.service.settings import Settings
from graft.training.sample import SAMPLE

RUNNABLE = ("sh", "python", "py", "js")
LABELS, IMAGES_PER_LABEL = ("bag", "coat", "sandal"), 40
# Programs in `sh` blocks that are not run here, with the reason.
NOT_RUN = {
    "make": "runs the tests or benchmarks themselves; below, `make -n` checks that the target exists",
    "source": "the tests have their own environment",
    ".": "the same",
    "git": "there is no network",
    "pip": "there is no network; tests/e2e/test_wheel.py installs the wheel",
    "uv": "there is no network",
    "docker": "there is no container engine; tests/e2e/test_docker_image.py checks the Dockerfile",
    "kubectl": "there is no cluster; tests/e2e/test_kubernetes_manifests.py checks the manifests",
}
SERVERS = ("bentoml serve", "graft serve")  # never end; the `server` fixture and tests/e2e start them
BENTO_BUILDS = ("bentoml build", "graft build", "bentoml containerize")  # tests/e2e/test_bento_build.py runs them


def test_every_page_is_found():
    assert {"README.md", "docs/index.md", "docs/reference/cli.md"} <= set(PAGES)


@pytest.fixture(scope="module")
def folder(fork_server, tmp_path_factory) -> Path:
    """The folder of a reader: photos/, scans/, cat.jpg, the sample, and a run with its package."""
    folder = tmp_path_factory.mktemp("reader")
    with zipfile.ZipFile(SAMPLE) as archive:
        for name in archive.namelist():
            split, label, number = name.split("/")
            if split == "train" and label in LABELS and int(Path(number).stem) <= IMAGES_PER_LABEL:
                for photos in ("photos", "scans"):
                    target = folder / photos / label / number
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.read(name))
        with archive.open("test/ankle boot/001.png") as file:
            Image.open(file).convert("RGB").save(folder / "cat.jpg")
    (folder / "training" / "sample").mkdir(parents=True)
    shutil.copy(SAMPLE, folder / "training" / "sample")
    shutil.copytree(ROOT / "examples", folder / "examples")
    assert fork_server.run(folder, "fit", "photos", "--strategy", "probe", "--out", "runs/prepared") == 0
    return folder


@pytest.fixture
def reader(folder, server) -> Iterator[Reader]:
    """Runs blocks in the folder; the service answers for http://127.0.0.1:3000."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    settings = {"PATH": path, "PYTHONPATH": str(ROOT), "BENTOML_HOME": str(folder / "bentoml"), "OMP_NUM_THREADS": "1"}
    reader = Reader(folder, os.environ | settings, server)
    yield reader
    reader.close()


def is_run(command: str) -> bool:
    return program(command) not in NOT_RUN and not command.startswith((*SERVERS, *BENTO_BUILDS))


def is_runnable(block: Block) -> bool:
    return block.language != "sh" or any(map(is_run, commands(block)))


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(map(is_runnable, blocks(page, *RUNNABLE)))])
def test_blocks_run_in_order(page, reader):
    for block in blocks(page, *RUNNABLE):
        if block.language == "sh":
            if lines := [shortened(command) for command in commands(block) if is_run(command)]:
                reader.run_shell(block, lines)
        elif block.language == "js":
            if shutil.which("node"):
                reader.run_javascript(block)
        else:
            reader.run_python(block)


def shortened(command: str) -> str:
    """Training from random weights takes a hundred epochs to be good; one is enough to test the command."""
    return f"{command} --epochs 1" if "--weights none" in command and "--epochs" not in command else command


SHELL_BLOCKS = [block for page in PAGES for block in blocks(page, "sh", "console", "bash", "shell")]


@pytest.mark.parametrize("block", SHELL_BLOCKS, ids=str)
def test_shell_block_is_valid(block: Block):
    assert block.language in ("sh", "console"), "use `sh` for blocks that the tests can run, `console` with `$ ` for others"
    assert commands(block)
    subprocess.run(["bash", "-n", "-c", "\n".join(commands(block))], check=True)


@pytest.mark.parametrize("block", [block for block in SHELL_BLOCKS if "graft " in block.text], ids=str)
def test_graft_command_is_accepted_by_the_parser(block: Block):
    for command in commands(block):
        for arguments in graft_arguments(command):
            parse(arguments)


@pytest.mark.parametrize("block", [block for page in PAGES for block in blocks(page, "python3")], ids=str)
def test_fragment_is_valid_python(block: Block):
    """`python3` marks excerpts that depend on code around them."""
    ast.parse(block.text)


def test_make_targets_exist():
    lines = {command for block in SHELL_BLOCKS for command in commands(block) if program(command) == "make"}
    for command in sorted(lines):
        dry_run = command.replace("make", "make -n", 1)
        subprocess.run(["bash", "-c", dry_run], cwd=ROOT, capture_output=True, check=True)


def test_docker_commands_use_existing_settings_and_port():
    text = "\n".join(command for block in SHELL_BLOCKS for command in commands(block) if program(command) == "docker")
    assert set(re.findall(r"-e GRAFT_(\w+)=", text)) <= {name.upper() for name in Settings.model_fields}
    assert set(re.findall(r"-p \d+:(\d+)", text)) <= {"3000"}


@pytest.mark.parametrize("page", PAGES)
def test_page_names_existing_flags_and_settings(page):
    code = "\n".join(re.findall(r"`([^`\n]+)`", prose(page)))
    settings = set(re.findall(r"\bGRAFT_[A-Z0-9_]+\b", code)) - OTHER_SETTINGS
    assert settings <= {f"GRAFT_{name.upper()}" for name in Settings.model_fields}
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", code))
    assert flags - known_flags() - OTHER_FLAGS == set()


OTHER_SETTINGS = {"GRAFT_CACHE", "GRAFT_EXAMPLE_PACKAGE", "GRAFT_PORT"}
# Of other programs, and of the example in docs/extending.md.
OTHER_FLAGS = {
    "--build-arg",
    "--cap-drop",
    "--docs-only",
    "--data-binary",
    "--fail-with-body",
    "--grayscale",
    "--inplace",
    "--no-deps",
    "--read-only",
    "--require-hashes",
    "--shm-size",
    "--target",
    "--tmpfs",
}


def known_flags() -> set[str]:
    """Every flag of every command."""
    from generator.commands import parsers

    actions = [action for parser in parsers().values() for action in parser._actions]
    return {"--version", *(flag for action in actions for flag in action.option_strings)}
