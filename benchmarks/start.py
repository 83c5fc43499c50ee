"""What a start costs: from `bentoml serve` to the first right answer, imports, and what must be installed to serve.

    .venv/bin/python benchmarks/start.py [PACKAGE] [--repeats 5] [--quick] [--json]

Against an empty BentoML service that answers one word, with the same BentoML in the same environment; and against what
FastAPI with torch needs on the disk, in the peers' environment, which `make bench` makes. A right answer of ours is the label
that the package's own model gives. Without a package: one fitted on hymenoptera.zip with `--strategy probe`. In turns,
medians: on a shared machine only the differences and the ratios mean something.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from measuring import peers
from measuring.packages import packaged
from measuring.pictures import PHOTOS, photos
from measuring.servers import Server, ended_in_order, free_port, stopping
from measuring.tables import Promise, Report, Table, markdown, ratio, say

from graft.service.inference import model
from graft.training.pipelines.serve import command, environment

ROOT = Path(__file__).parent.parent
MOST_MORE_S = 2.0
PATIENCE_S = 300.0
EMPTY, OURS = "an empty BentoML service", "Graft"
IMPORTS = {
    "import bentoml (lazy: nothing of it is loaded yet)": ["-c", "import bentoml"],
    "import an empty BentoML service": ["-c", "import empty"],
    "import graft.service.app": ["-c", "import graft.service.app"],
    "graft --help": ["-m", "graft", "--help"],
}
NEEDED = {
    "FastAPI + torch": ["fastapi", "uvicorn[standard]", "python-multipart", "pillow", "timm", "safetensors"],
    "LitServe + torch": ["litserve", "pillow", "timm", "safetensors"],
    "BentoML + torch": ["bentoml", "pillow", "timm", "safetensors"],
}


@dataclass(frozen=True)
class Question:
    """A request, and how its answer shows that the service works."""

    path: str
    body: bytes
    kind: str
    is_right: Callable[[bytes], bool]

    def ask(self, port: int) -> bool:
        """Whether there was an answer, and the right one."""
        request = urllib.request.Request(f"http://127.0.0.1:{port}{self.path}", self.body, {"Content-Type": self.kind})
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                return self.is_right(response.read())
        except (urllib.error.URLError, OSError):  # not yet
            return False


def first_answer(server: Server, question: Question) -> tuple[float, bool]:
    """Seconds from the command to the first right answer, and whether torch was loaded by then. Raises RuntimeError."""
    begun = time.monotonic()
    with stopping(server):
        while not question.ask(server.port):
            if time.monotonic() > begun + PATIENCE_S:
                raise RuntimeError(f"{server.name} gave no right answer.")
            time.sleep(0.01)
        return time.monotonic() - begun, server.libraries("libtorch")


def servers(package: Path, home: Path) -> dict[str, tuple[Server, Question]]:
    """Both, each with the question that it is asked."""
    photo, port = photos(PHOTOS)[0], free_port()
    expected = model.load(package).classify(photo, 1).ranked[0].label
    serve = [sys.executable, "-m", "bentoml", "serve", "empty:Empty", "--port", "{port}"]
    surroundings = {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
    return {
        EMPTY: (
            Server(EMPTY, serve, "/readyz", surroundings, peers.SCRIPTS),
            Question("/ask", b"{}", "application/json", lambda said: said.strip(b'"') == b"right"),
        ),
        OURS: (
            Server(OURS, command("127.0.0.1", port), "/readyz", environment(package, port), ROOT, port),
            Question("/v1/classify", photo, "image/jpeg", lambda said: json.loads(said)["predictions"][0]["label"] == expected),
        ),
    }


def import_seconds(repeats: int) -> dict[str, list[float]]:
    """Seconds of whole commands, in turns."""
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join([str(peers.SCRIPTS), str(ROOT)])}
    found: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(repeats):
        for name, words in IMPORTS.items():
            begun = time.monotonic()
            subprocess.run([sys.executable, *words], env=surroundings, check=True, stdout=subprocess.DEVNULL)
            found[name].append(time.monotonic() - begun)
    return found


def installed(python: str, requirements: Sequence[str]) -> dict[str, int]:
    """How much these requirements bring into an environment."""
    script = str(ROOT / "benchmarks" / "measuring" / "installed.py")
    return json.loads(subprocess.check_output([python, script, *requirements], text=True))


def locked(lock: Path) -> list[str]:
    """The requirements of a lock file, by name."""
    return re.findall(r"^([A-Za-z0-9._-]+)==", lock.read_text(encoding="utf-8"), re.MULTILINE)


def measure(package: Path, repeats: int) -> Report:
    """All of it."""
    seconds: dict[str, list[float]] = {EMPTY: [], OURS: []}
    torch = False
    with tempfile.TemporaryDirectory() as home:
        both = servers(package, Path(home))
        for number in range(repeats):
            say(f"start {number + 1} of {repeats}")
            for name, (server, question) in both.items():
                took, loaded = first_answer(server, question)
                seconds[name].append(took)
                torch = torch or (name == OURS and loaded)
    sizes = {OURS: installed(sys.executable, locked(ROOT / "requirements-service.lock"))}
    sizes |= {name: installed(str(peers.PYTHON), needed) for name, needed in NEEDED.items()}
    return report(seconds, import_seconds(repeats), sizes, torch)


def report(
    seconds: Mapping[str, Sequence[float]],
    imports: Mapping[str, Sequence[float]],
    sizes: Mapping[str, Mapping[str, int]],
    torch: bool,
) -> Report:
    found = Report("start", "Starting, against an empty BentoML service")
    more = median(mine - empty for mine, empty in zip(seconds[OURS], seconds[EMPTY], strict=True))
    found.promises = [
        Promise("seconds more than an empty service until the first right answer", more, MOST_MORE_S, at_most=True),
        Promise("processes of ours with torch loaded", int(torch), 0, at_most=True),
    ]
    base = imports["import an empty BentoML service"]
    found.tables = [
        Table(
            "From `bentoml serve` to the first right answer",
            ("what", "against an empty service", "seconds"),
            tuple((name, ratio(times, seconds[EMPTY]), median(times)) for name, times in seconds.items()),
        ),
        Table(
            "Imports, as whole commands",
            ("what", "against an empty service", "seconds"),
            tuple((name, ratio(times, base), median(times)) for name, times in imports.items()),
        ),
        Table(
            "What must be installed to serve",
            ("what", "against Graft", "MB", "MB without CUDA libraries", "packages"),
            tuple(
                (
                    name,
                    own["bytes"] / sizes[OURS]["bytes"],
                    own["bytes"] / 1e6,
                    own["bytes_without_cuda"] / 1e6,
                    own["packages"],
                )
                for name, own in sizes.items()
            ),
        ),
    ]
    found.measured = {"seconds": seconds, "imports": imports, "sizes": sizes}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("package", type=Path, nargs="?")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="once, to see that it works")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    peers.check()
    ended_in_order()
    begun = time.monotonic()
    with packaged(arguments.package) as package:
        found = measure(package, 1 if arguments.quick else arguments.repeats)
    found.seconds = time.monotonic() - begun
    print(json.dumps(found.record()) if arguments.json else markdown(found.record()))


if __name__ == "__main__":
    main()
