"""What a confined decode worker can still do."""

import json
import multiprocessing
import os
import platform
import socket
import sys
from pathlib import Path
from subprocess import run

import pytest

from graft.service.decoding.sandbox import confine

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"),
    reason="the filter is for Linux on x86-64 or ARM",
)
SCRIPT = """
import ctypes, json, os, signal, socket, sys
from graft.service.decoding.sandbox import confine
victim, folder = int(sys.argv[1]), sys.argv[2]
connected = socket.create_connection(("127.0.0.1", int(sys.argv[3])))
restrictions = confine(2**30)
attempts = {
    "connect": lambda: socket.create_connection(("127.0.0.1", int(sys.argv[3])), 5),
    "listen": lambda: socket.create_server(("127.0.0.1", 0)),
    "unix socket": lambda: socket.socket(socket.AF_UNIX),
    "start a program": lambda: os.execv("/bin/true", ["true"]),
    "kill": lambda: os.kill(victim, signal.SIGKILL),
    "delete": lambda: os.unlink(f"{folder}/file"),
    "rename": lambda: os.rename(f"{folder}/file", f"{folder}/other"),
    "make a folder": lambda: os.mkdir(f"{folder}/made"),
    "change rights": lambda: os.chmod(f"{folder}/file", 0o777),
    "write": lambda: open(f"{folder}/new", "w").write("x" * 10_000),
}
def succeeds(attempt):
    try:
        attempt()
    except OSError:
        return False
    return True
print(json.dumps([restrictions, [name for name, attempt in attempts.items() if succeeds(attempt)]]))
connected.send(b"still open")
"""


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def test_a_confined_process_reaches_nothing_and_changes_nothing(tmp_path: Path, listener):
    (tmp_path / "file").write_text("kept")
    port = listener.getsockname()[1]
    arguments = [str(os.getpid()), str(tmp_path), str(port)]
    result = run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=False)
    restrictions, succeeded = json.loads(result.stdout)
    if "system calls" not in restrictions:
        pytest.skip("this system does not allow the filter")
    assert succeeded == []
    assert [path.name for path in tmp_path.iterdir() if path.stat().st_size] == ["file"]
    connection, _ = listener.accept()
    with connection:
        assert connection.recv(100) == b"still open"  # what it was given keeps working


def decode_confined(queue: multiprocessing.Queue) -> None:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (300, 200), "red").save(buffer, "JPEG")
    confine(2**30)
    queue.put(Image.open(io.BytesIO(buffer.getvalue())).convert("RGB").resize((10, 10)).getpixel((5, 5)))


def test_a_confined_process_decodes():
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=decode_confined, args=[queue])
    process.start()
    assert queue.get(timeout=60)[0] > 250
    process.join()
