"""What a start costs: `graft --help`, and importing the service against importing an empty BentoML service.

    .venv/bin/python benchmarks/start.py

In turns, medians of seven: on a shared machine only the ratios mean something.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
EMPTY = """import bentoml
@bentoml.service
class Empty:
    @bentoml.api
    def ask(self) -> str:
        return ""
"""
REPEATS = 7


def seconds(command: list[str], environment: dict[str, str]) -> float:
    """The wall time of one whole command."""
    begun = time.monotonic()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begun


def main() -> None:
    """Prints a Markdown table."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "empty.py").write_text(EMPTY, encoding="utf-8")
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([folder, str(ROOT)])}
        commands = {
            "import bentoml (lazy: nothing of it is loaded yet)": [sys.executable, "-c", "import bentoml"],
            "import an empty BentoML service": [sys.executable, "-c", "import empty"],
            "import service.app": [sys.executable, "-c", "import service.app"],
            "graft --help": [sys.executable, "-m", "training", "--help"],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(REPEATS):
            for name, command in commands.items():
                times[name].append(seconds(command, environment))
    medians = {name: statistics.median(values) for name, values in times.items()}
    base = medians["import an empty BentoML service"]
    print("| what | median s | against an empty service |\n|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {median:.2f} | {median / base:.2f} |")


if __name__ == "__main__":
    main()
