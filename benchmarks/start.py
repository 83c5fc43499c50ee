"""Start-up cost: time from `bentoml serve` to the first correct response, import times, and installed size.

    .venv/bin/python benchmarks/start.py [PACKAGE] [--repeats 5] [--quick] [--json]

Compared with an empty BentoML service that returns one word, with the same BentoML in the same environment; and with the disk
space that servers of experts and servers with torch need, in the environment of the peers, which `make bench` creates. A
correct response of Graft names the label that the package's model predicts. Without a package, one is fitted on hymenoptera.zip
with `--strategy probe`. Runs alternate and medians are reported: on a shared machine only differences and ratios count. A first
start of each, which compiles Python modules where the installer has not, is not counted.
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
from measuring.packages import given_or_fitted_package
from measuring.pictures import PHOTOS, read_photos
from measuring.servers import Server, exit_on_sigterm, free_port, started_server
from measuring.tables import Report, Table, Target, log, median_ratio, to_markdown

from graft.service.inference import model
from graft.training.pipelines.serve import command, environment

ROOT = Path(__file__).parent.parent
MAX_EXTRA_S = 2.0
TIMEOUT_S = 300.0
EMPTY, GRAFT = "an empty BentoML service", "Graft"
IMPORTS = {
    "import bentoml (lazy: loads nothing yet)": ["-c", "import bentoml"],
    "import an empty BentoML service": ["-c", "import empty"],
    "import graft.service.app": ["-c", "import graft.service.app"],
    "graft --help": ["-m", "graft", "--help"],
}
PEER_REQUIREMENTS = {
    "Starlette + ONNX Runtime": ["starlette", "uvicorn[standard]", "python-multipart", "pillow", "onnxruntime"],
    "Starlette + OpenVINO": ["starlette", "uvicorn[standard]", "python-multipart", "pillow", "openvino"],
    "FastAPI + torch": ["fastapi", "uvicorn[standard]", "python-multipart", "pillow", "timm", "safetensors"],
    "LitServe + torch": ["litserve", "pillow", "timm", "safetensors"],
    "BentoML + torch": ["bentoml", "pillow", "timm", "safetensors"],
}


@dataclass(frozen=True)
class CheckedRequest:
    """A request and a check of its response."""

    path: str
    body: bytes
    content_type: str
    is_correct: Callable[[bytes], bool]

    def succeeds(self, port: int) -> bool:
        """Send the request; True if the response is correct."""
        request = urllib.request.Request(f"http://127.0.0.1:{port}{self.path}", self.body, {"Content-Type": self.content_type})
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                return self.is_correct(response.read())
        except (urllib.error.URLError, OSError):  # not ready yet
            return False


def time_to_first_response(server: Server, request: CheckedRequest) -> tuple[float, bool]:
    """Seconds from the start to the first correct response, and whether torch was loaded by then. Raises RuntimeError."""
    started = time.monotonic()
    with started_server(server):
        while not request.succeeds(server.port):
            if time.monotonic() > started + TIMEOUT_S:
                raise RuntimeError(f"{server.name} did not return a correct response within {TIMEOUT_S:.0f} s.")
            time.sleep(0.01)
        return time.monotonic() - started, server.has_library("libtorch")


def build_servers(package: Path, bentoml_home: Path) -> dict[str, tuple[Server, CheckedRequest]]:
    """Both servers, each with its request."""
    photo, port = read_photos(PHOTOS)[0], free_port()
    expected = model.load(package).classify(photo, 1).ranked[0].label
    serve_empty = [sys.executable, "-m", "bentoml", "serve", "empty:Empty", "--port", "{port}"]
    env = {"BENTOML_HOME": str(bentoml_home), "BENTOML_DO_NOT_TRACK": "True"}
    return {
        EMPTY: (
            Server(EMPTY, serve_empty, "/readyz", env, peers.SCRIPTS),
            CheckedRequest("/ask", b"{}", "application/json", lambda body: body.strip(b'"') == b"right"),
        ),
        GRAFT: (
            Server(GRAFT, command("127.0.0.1", port), "/readyz", environment(package, port), ROOT, port),
            CheckedRequest(
                "/v1/classify", photo, "image/jpeg", lambda body: json.loads(body)["predictions"][0]["label"] == expected
            ),
        ),
    }


def import_seconds(repeats: int) -> dict[str, list[float]]:
    """Seconds of each whole command, alternating."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(peers.SCRIPTS), str(ROOT)])}
    seconds: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(repeats):
        for name, arguments in IMPORTS.items():
            started = time.monotonic()
            subprocess.run([sys.executable, *arguments], env=env, check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.monotonic() - started)
    return seconds


def installed_size(python: str, requirements: Sequence[str]) -> dict[str, int]:
    """Number and size of the packages that these requirements install in an environment."""
    script = str(ROOT / "benchmarks" / "measuring" / "installed.py")
    return json.loads(subprocess.check_output([python, script, *requirements], text=True))


def locked_packages(lock_file: Path) -> list[str]:
    """Package names in a lock file."""
    return re.findall(r"^([A-Za-z0-9._-]+)==", lock_file.read_text(encoding="utf-8"), re.MULTILINE)


def measure(package: Path, repeats: int) -> Report:
    """Run all measurements."""
    seconds: dict[str, list[float]] = {EMPTY: [], GRAFT: []}
    torch_loaded = False
    with tempfile.TemporaryDirectory() as home:
        measured_servers = build_servers(package, Path(home))
        for number in range(repeats + 1):
            log(f"start {number} of {repeats}")
            for name, (server, question) in measured_servers.items():
                elapsed_s, loaded = time_to_first_response(server, question)
                if number > 0:
                    seconds[name].append(elapsed_s)
                torch_loaded = torch_loaded or (name == GRAFT and loaded)
    sizes = {GRAFT: installed_size(sys.executable, locked_packages(ROOT / "requirements-service.lock"))}
    sizes |= {name: installed_size(str(peers.PYTHON), needed) for name, needed in PEER_REQUIREMENTS.items()}
    return report(seconds, import_seconds(repeats), sizes, torch_loaded)


def report(
    seconds: Mapping[str, Sequence[float]],
    imports: Mapping[str, Sequence[float]],
    sizes: Mapping[str, Mapping[str, int]],
    torch_loaded: bool,
) -> Report:
    """Build the report: targets and tables."""
    result = Report("start", "Start-up: comparison with an empty BentoML service")
    extra_s = median(graft_s - empty_s for graft_s, empty_s in zip(seconds[GRAFT], seconds[EMPTY], strict=True))
    result.promises = [
        Target("seconds to the first correct response, minus those of an empty service", extra_s, MAX_EXTRA_S, at_most=True),
        Target("Graft servers with torch loaded", int(torch_loaded), 0, at_most=True),
    ]
    empty_import = imports["import an empty BentoML service"]
    result.tables = [
        Table(
            "From `bentoml serve` to the first correct response",
            ("what", "ratio to an empty service", "seconds"),
            tuple((name, median_ratio(times, seconds[EMPTY]), median(times)) for name, times in seconds.items()),
        ),
        Table(
            "Import times (whole command)",
            ("what", "ratio to an empty service", "seconds"),
            tuple((name, median_ratio(times, empty_import), median(times)) for name, times in imports.items()),
        ),
        Table(
            "Packages needed for serving",
            ("what", "ratio to Graft", "MB", "MB without CUDA libraries", "packages"),
            tuple(
                (
                    name,
                    size["bytes"] / sizes[GRAFT]["bytes"],
                    size["bytes"] / 1e6,
                    size["bytes_without_cuda"] / 1e6,
                    size["packages"],
                )
                for name, size in sizes.items()
            ),
        ),
    ]
    result.measured = {"seconds": seconds, "imports": imports, "sizes": sizes}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("package", type=Path, nargs="?")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="smoke test with one repetition")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    peers.check_installed()
    exit_on_sigterm()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # with it, every start and every import would compile
    started = time.monotonic()
    with given_or_fitted_package(arguments.package) as package:
        result = measure(package, 1 if arguments.quick else arguments.repeats)
    result.seconds = time.monotonic() - started
    print(json.dumps(result.to_dict()) if arguments.json else to_markdown(result.to_dict()))


if __name__ == "__main__":
    main()
