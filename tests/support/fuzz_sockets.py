"""Raw bytes for a service's socket: sequences of valid, broken and unfinished pieces of HTTP, and what they did to the service.

python tests/support/fuzz_sockets.py PORT WORKER_PID SECONDS [SEED]
"""

import random
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

N_CONNECTIONS = 40  # at one time
PROBE_INTERVAL_S = 0.05
PROBE = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
LINES = [
    b"GET /livez HTTP/1.1\r\n",
    b"GET / HTTP/1.1\r\n",
    b"HEAD /openapi.json HTTP/1.0\r\n",
    b"POST /v1/classify HTTP/1.1\r\n",
    b"POST /v1/classify/batch?top_k=2 HTTP/1.1\r\n",
    b"OPTIONS * HTTP/1.1\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /%ff%00?a=%zz HTTP/1.1\r\n",
    b"GET http://localhost/v1/labels HTTP/1.1\r\n",
]
HEADERS = [
    b"Host: localhost\r\n",
    b"Content-Type: image/png\r\n",
    b"Content-Type: application/json\r\n",
    b"Content-Type: multipart/form-data; boundary=x\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: 10\r\n",
    b"Content-Length: 99999999\r\n",
    b"Content-Length: -1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"Connection: upgrade\r\nUpgrade: h2c\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAA\r\n",
    b"Connection: keep-alive\r\n",
    b"Connection: close\r\n",
    b"X: " + b"x" * 5000 + b"\r\n",
    b": nameless\r\n",
    b"X\0: 1\r\n",
    b" folded\r\n",
]
PIECES = [
    b"\r\n",
    b"\n",
    b"\r\n" * 50,
    b"3\r\nabc\r\n",
    b"1;ext=1\r\na\r\n",
    b"ffffffffffffffff\r\n",
    b"0\r\n",
    b"0\r\n\r\n",
    b"T: 1\r\n",
    b"T: " + b"t" * 3000,
    b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\nabc\r\n--x--\r\n',
    b'{"image": "AAAA", "threshold": "' + b"0" * 3000 + b'x"}',
    b"\x89PNG\r\n\x1a\n" + bytes(30),
    bytes(range(256)),
    b"a" * 20_000,
    b"GET /livez HTTP/1.1\r\n\r\n" * 100,
]
ENDS: list[Callable[[socket.socket], object]] = [
    lambda connection: connection.close(),
    lambda connection: connection.shutdown(socket.SHUT_WR),
    lambda connection: connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)),  # a reset
    lambda connection: time.sleep(0.2),
]


@dataclass
class Report:
    """What the service did.

    Attributes:
        statuses: of the answers to what was sent.
        longest_probe_s: the longest answer of /livez meanwhile.
        failed_probes: those that were not answered with 200.
        growth_bytes: of the worker's resident memory, after a warm-up of a fifth of the time.
    """

    n_connections: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    longest_probe_s: float = 0.0
    failed_probes: list[str] = field(default_factory=list)
    growth_bytes: int = 0


def message(choose: random.Random) -> bytes:
    """Some bytes for a connection: a request that may be broken anywhere, or anything."""
    parts = []
    for _ in range(choose.randint(1, 3)):
        if choose.random() < 0.8:
            parts.append(choose.choice(LINES))
            parts += choose.choices(HEADERS, k=choose.randint(0, 6))
            parts += [b"\r\n"] * (choose.random() < 0.8)
        parts += choose.choices(PIECES, k=choose.randint(0, 5))
    content = bytearray(b"".join(parts) or b"\0")
    if choose.random() < 0.3:
        for _ in range(choose.randint(1, 5)):
            content[choose.randrange(len(content))] = choose.randrange(256)
    return bytes(content[: choose.randint(1, len(content))] if choose.random() < 0.2 else content)


def _attack(port: int, seed: int, stopped: threading.Event, report: Report, lock: threading.Lock) -> None:
    choose = random.Random(seed)
    while not stopped.is_set():
        received = b""
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.settimeout(choose.choice([0.05, 0.3, 2.0]))
            for _ in range(choose.randint(1, 4)):
                connection.sendall(message(choose))
                if choose.random() < 0.3:
                    received += connection.recv(2**16)
            choose.choice(ENDS)(connection)
            received += connection.recv(2**16)
        statuses = [
            int(line[9:12]) for line in received.split(b"\r\n") if line.startswith(b"HTTP/1.1 ") and line[9:12].isdigit()
        ]
        with lock:
            report.n_connections += 1
            report.statuses.update(statuses)


def _probe(port: int, stopped: threading.Event, report: Report) -> None:
    while not stopped.wait(PROBE_INTERVAL_S):
        start = time.perf_counter()
        received = b""
        try:
            with socket.create_connection(("127.0.0.1", port), 30) as connection:
                connection.sendall(PROBE)
                while chunk := connection.recv(2**16):
                    received += chunk
        except OSError as error:
            report.failed_probes.append(repr(error))
        else:
            if not received.startswith(b"HTTP/1.1 200 "):
                report.failed_probes.append(f"{received[:100]!r}")
        report.longest_probe_s = max(report.longest_probe_s, time.perf_counter() - start)


def fuzz(port: int, worker: psutil.Process, seconds: float, seed: int) -> Report:
    """Attacks a service for some time, and watches it."""
    report, stopped, lock = Report(), threading.Event(), threading.Lock()
    threads = [
        threading.Thread(target=_attack, args=(port, seed + number, stopped, report, lock), daemon=True)
        for number in range(N_CONNECTIONS)
    ]
    threads.append(threading.Thread(target=_probe, args=(port, stopped, report), daemon=True))
    for thread in threads:
        thread.start()
    time.sleep(seconds / 5)
    before = worker.memory_info().rss
    time.sleep(seconds * 4 / 5)
    stopped.set()
    for thread in threads:
        thread.join(30)
    report.growth_bytes = worker.memory_info().rss - before
    return report


if __name__ == "__main__":
    port, pid, seconds, *seeds = sys.argv[1:]
    print(fuzz(int(port), psutil.Process(int(pid)), float(seconds), int(seeds[0]) if seeds else 0))
