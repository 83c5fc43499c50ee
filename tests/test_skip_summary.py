"""The last line of a test session: how many tests were skipped, and what they need."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from skip_summary import needed, skip_summary

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("reason", "need"),
    [
        ("Skipped: trashnet is not in ../shared/data; the embedded sample covers the same code path", "../shared/data"),
        ("Skipped: needs a CUDA device, and the driver offers none here", "a GPU"),
        ("Skipped: node is not installed; the JavaScript program needs it", "node"),
        ("Skipped: could not import 'markdown_it': No module named 'markdown_it'", "markdown_it"),
        ("Skipped: curl is not installed", "curl"),
        ("Skipped: pillow-heif is installed", "pillow-heif to be absent"),
        ("Skipped: needs graft-vision[int8]", "graft-vision[int8]"),
        ("Skipped: it rains", "it rains"),
    ],
)
def test_reason_tells_what_a_test_needs(reason: str, need: str):
    assert needed(reason) == need


def test_skips_are_counted_by_kind_most_frequent_first():
    reasons = ["Skipped: node is not installed", *["Skipped: needs a CUDA device"] * 3]
    assert skip_summary(reasons) == "skipped 4: 3 need a GPU, 1 needs node"
    assert skip_summary([]) == ""


def test_last_line_of_a_session_counts_the_skips(tmp_path: Path):
    (tmp_path / "conftest.py").write_text("from skip_counter import pytest_sessionfinish\n", encoding="utf-8")
    test = (
        "import pytest\n\n@pytest.mark.parametrize('n', range(3))\ndef test_it(n):\n    pytest.skip('node is not installed')\n"
    )
    (tmp_path / "test_it.py").write_text(test, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests" / "support")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.stdout.splitlines()[-1] == "skipped 3: 3 need node", done.stdout + done.stderr
