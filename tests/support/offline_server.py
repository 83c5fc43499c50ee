"""Starts a server without network access except loopback, sends requests, and stops it.

    python offline_server.py PORT COMMAND... < IMAGE    (under `unshare --net`, to make other networks unreachable)

Prints one JSON object: the `answer` of /v1/classify, the `model`, the exit `code`, and the `log`.
"""

import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request

SIOCSIFFLAGS, UP_AND_RUNNING = 0x8914, 0x41
TIMEOUT_S = 60  # seconds


def main() -> None:
    port, command, image = sys.argv[1], sys.argv[2:], sys.stdin.buffer.read()
    if os.environ.get("NEW_NETWORK"):
        _raise_loopback()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        url = f"http://127.0.0.1:{port}"
        try:
            _wait_until_ready(server, url)
            request = urllib.request.Request(f"{url}/v1/classify", data=image, headers={"Content-Type": "image/png"})
            answer, model = _request_json(request), _request_json(f"{url}/v1/model")
        finally:
            server.send_signal(signal.SIGTERM)
        log = server.communicate(timeout=TIMEOUT_S)[0]
    print(json.dumps({"answer": answer, "model": model, "code": server.returncode, "log": log}))


def _raise_loopback() -> None:
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", UP_AND_RUNNING))


def _wait_until_ready(server: "subprocess.Popen[str]", url: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/readyz", timeout=2).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    server.kill()
    sys.exit(f"not ready:\n{server.communicate()[0]}")


def _request_json(request: "urllib.request.Request | str") -> object:
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        return json.load(response)


if __name__ == "__main__":
    main()
