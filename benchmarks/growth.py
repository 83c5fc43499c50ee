"""Scaling of time and memory of check, fit and predict from 1,000 to 100,000 images.

    .venv/bin/python benchmarks/growth.py [--sizes 1000 10000 100000] [--data IMAGES.zip] [--keep FOLDER] [--json]

There are not 100,000 photos here: each folder holds random crops of the photos of ../shared/data/hymenoptera.zip (396, two
labels), resized to the size of the photo, half of them mirrored, brighter or darker. So every file has other pixels, and
another digest, hash and vector, as distinct photos have. But they show no more than 396 photos do, and some are near-duplicates
for the audit: of two crops of one photo, 3 % of the pairs. Making them takes 6 ms of CPU time per image. Each command runs in a
separate process: `graft check`, `graft fit --strategy probe` with an empty cache, the same fit with cached features,
`graft predict`. The backbone is exported before anything is timed.

The memory target is the peak of anonymous memory of all processes together. File-backed pages can be dropped at any time, so
the maximum resident set size (of one process, from the kernel) is only reported, beside it. Ratios are relative to the
smallest size. Each run has a fixed cost (imports, compiling the graph), and up to 5,000 images a fit also extracts features of
mirrored images; both favor the large sizes. So the marginal time per image is compared with the time per image at the previous
size. CPU time is reported beside wall-clock time, which means little on a shared machine.

Writes benchmarks/results/growth.md and growth.json if all three default sizes were measured, and prints one of them. The exit
code is 1 if a target was missed.
"""

import argparse
import json
import multiprocessing
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from itertools import cycle, pairwise
from pathlib import Path

from measuring.pictures import random_crop
from measuring.watching import read_proc, sample_memory

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared" / "data" / "hymenoptera.zip"
RESULTS = Path(__file__).parent / "results"
SIZES = (1_000, 10_000, 100_000)
COMMANDS = ("check", "fit", "fit again", "predict")
# Phases of a fit, with the log text that marks the end of each.
PHASE_MARKERS = {"scan": " labels (", "features": " train, ", "train": ""}
LIBRARIES = ("numpy", "scipy", "openvino", "pillow")
MAX_RATIO, MAX_GROWTH_MB = 1.15, 300.0
IMAGES = (
    "The images are random crops of 396 photos of ants and bees, 28 KB on average, with two labels: no two have the same"
    " pixels, but they show no more than those photos, and some are near-duplicates of each other. Memory is the peak of the"
    " anonymous memory of all processes, and the largest resident set of one process, mapped files included."
)


@dataclass(frozen=True)
class Run:
    """Measurements of one command on one folder.

    Attributes:
        seconds: wall-clock time.
        busy_s: CPU time of all processes.
        anonymous_mb: sampled peak of the anonymous memory of all processes together.
        resident_mb: maximum resident set size of one process, including file-backed pages.
        parts: seconds of each phase of a fit.
        computed: whether the backbone ran on any image.
    """

    verb: str
    n_images: int
    seconds: float
    busy_s: float
    anonymous_mb: float
    resident_mb: float
    parts: dict[str, float]
    computed: bool

    @property
    def ms_per_image(self) -> float:
        return 1e3 * self.seconds / self.n_images


def read_photos(archive: Path) -> list[tuple[str, bytes]]:
    """Label and bytes of each JPEG in an archive of class folders, shuffled so that the first few cover every label."""
    with zipfile.ZipFile(archive) as file:
        names = [name for name in file.namelist() if name.lower().endswith((".jpg", ".jpeg"))]
        random.Random(0).shuffle(names)
        return [(Path(name).parent.name, file.read(name)) for name in names]


def write_image(job: tuple[Path, bytes, int]) -> None:
    path, photo, seed = job
    path.write_bytes(random_crop(photo, seed))


def make_images(folder: Path, n_images: int, originals: Sequence[tuple[str, bytes]]) -> None:
    """Create `n_images` different images in class folders under `folder`, the same every time, unless the folder exists."""
    if folder.is_dir():
        return
    temporary = folder.with_name(f".{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    for label in {label for label, _ in originals}:
        (temporary / label).mkdir(parents=True)
    jobs = (
        (temporary / label / f"{number:07d}.jpg", photo, number)
        for number, (label, photo) in zip(range(n_images), cycle(originals), strict=False)
    )
    with multiprocessing.Pool() as pool:
        for _ in pool.imap_unordered(write_image, jobs, chunksize=64):
            pass
    temporary.rename(folder)


def run_command(command_name: str, n_images: int, arguments: Iterable[str], cache: Path) -> Run:
    """Run one command to completion and measure it.

    Raises:
        RuntimeError: with the end of its output, if it failed.
    """
    environment = os.environ | {"GRAFT_CACHE": str(cache), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    started = time.monotonic()
    command = [sys.executable, "-m", "graft", *arguments]
    process = subprocess.Popen(
        command, env=environment, cwd=cache, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    with sample_memory(process.pid) as samples_mb:
        log_lines = [(time.monotonic() - started, line) for line in process.stderr or ()]
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    log = "".join(line for _, line in log_lines)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in ((0, 1) if command_name == "check" else (0,)):  # 1: something is wrong with the data
        raise RuntimeError(f"graft {' '.join(arguments)} ended with {process.returncode}:\n{log[-2000:]}")
    phases = phase_seconds(log_lines, seconds) if command_name.startswith("fit") else {}
    computed = command_name != "fit again" or "features were cached" not in log
    busy_s = usage.ru_utime + usage.ru_stime
    return Run(command_name, n_images, seconds, busy_s, max(samples_mb), usage.ru_maxrss / 1024, phases, computed)


def phase_seconds(log_lines: Sequence[tuple[float, str]], seconds: float) -> dict[str, float]:
    """Seconds of each phase of a fit, from the times of the log lines that mark the end of a phase."""
    ends = [
        next((time_s for time_s, line in log_lines if marker and marker in line), seconds) for marker in PHASE_MARKERS.values()
    ]
    return dict(zip(PHASE_MARKERS, (end - start for start, end in pairwise([0.0, *ends])), strict=True))


def measure(folder: Path, sizes: Sequence[int], originals: Sequence[tuple[str, bytes]]) -> list[Run]:
    """Run every command on every size, smallest first. The smallest size runs twice; the first time is a warm-up."""
    cache = folder / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    runs: list[Run] = []
    for n_images in (sizes[0], *sizes):
        images = folder / f"images-{n_images}"
        make_images(images, n_images, originals)
        shutil.rmtree(cache / "features", ignore_errors=True)
        for verb in COMMANDS:
            run = run_command(verb, n_images, command_arguments(verb, images, folder / "run"), cache)
            print(
                f"{n_images:,} {verb}: {run.seconds:.1f} s, {run.anonymous_mb:.0f} MB (resident {run.resident_mb:.0f})",
                file=sys.stderr,
            )
            runs.append(run)
    return runs[len(COMMANDS) :]


def command_arguments(command_name: str, images: Path, run: Path) -> list[str]:
    """Arguments of `graft`; removes the run of an earlier fit."""
    if command_name == "check":
        return ["check", str(images)]
    if command_name == "predict":
        return ["predict", str(run / "package"), str(images)]
    shutil.rmtree(run, ignore_errors=True)
    return ["fit", str(images), "--strategy", "probe", "--out", str(run)]


def marginal_costs(runs: Sequence[Run]) -> list[float | None]:
    """Marginal milliseconds per image relative to the previous size; None for the first."""
    return [None, *(marginal_ms_per_image(less, more) for less, more in pairwise(runs))]


def marginal_ms_per_image(smaller: Run, larger: Run) -> float:
    return 1e3 * (larger.seconds - smaller.seconds) / (larger.n_images - smaller.n_images)


def runs_of(command_name: str, runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.verb == command_name]


def targets(runs: Sequence[Run]) -> list[tuple[str, float, str, bool]]:
    """Name, value, limit, and whether the target was met."""
    rows = []
    for verb in COMMANDS:
        runs_of_command = runs_of(verb, runs)
        first, previous, last = runs_of_command[0], runs_of_command[-2], runs_of_command[-1]
        ratio = last.ms_per_image / first.ms_per_image
        marginal_ratio = marginal_ms_per_image(previous, last) / previous.ms_per_image
        growth = last.anonymous_mb - first.anonymous_mb
        limit = f"at most {MAX_RATIO}"
        rows += [
            (f"{verb}: time per image, {last.n_images:,} / {first.n_images:,} images", ratio, limit, ratio <= MAX_RATIO),
            (
                f"{verb}: marginal time per image above {previous.n_images:,} / time per image at {previous.n_images:,}",
                marginal_ratio,
                limit,
                marginal_ratio <= MAX_RATIO,
            ),
            (f"{verb}: memory growth, MB", growth, f"less than {MAX_GROWTH_MB:g}", growth < MAX_GROWTH_MB),
        ]
    n_computed = sum(run.computed for run in runs_of("fit again", runs))
    return [*rows, ("repeated fits that ran the backbone", n_computed, "0", n_computed == 0)]


def machine_text() -> str:
    """Date, hardware and library versions."""
    cpu_names = [
        line.partition(":")[2].strip() for line in read_proc(Path("/proc/cpuinfo")).splitlines() if "model name" in line
    ]
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    cores = len(os.sched_getaffinity(0))
    cpu = cpu_names[0] if cpu_names else platform.machine()
    return f"{date.today()}, {cpu}, {cores} cores, Python {platform.python_version()}, {libraries}"


def tables(runs: Sequence[Run]) -> str:
    columns = (
        "command",
        "images",
        "relative time per image",
        "marginal ms per image",
        "ms per image",
        "CPU ms per image",
        "anonymous memory, MB",
        "growth, MB",
        "resident memory, MB",
    )
    lines = [machine_text(), "", IMAGES, "", row(columns), row(["---"] * len(columns))]
    for verb in COMMANDS:
        runs_of_command = runs_of(verb, runs)
        lines += [
            row(cells(run, runs_of_command[0], marginal_ms))
            for run, marginal_ms in zip(runs_of_command, marginal_costs(runs_of_command), strict=True)
        ]
    lines += ["", row(["seconds", "images", *PHASE_MARKERS]), row(["---"] * (len(PHASE_MARKERS) + 2))]
    fits = [run for run in runs if run.parts]
    lines += [row([run.verb, f"{run.n_images:,}", *(f"{phase_s:.1f}" for phase_s in run.parts.values())]) for run in fits]
    lines += ["", row(["target", "measured", "required", ""]), row(["---"] * 4)]
    for name, value, limit, met in targets(runs):
        lines.append(row([name, f"{value:.3g}", limit, "met" if met else "**missed**"]))
    return "\n".join(lines)


def cells(run: Run, first: Run, marginal_ms: float | None) -> list[str]:
    """The cells of one row of the main table."""
    return [
        run.verb,
        f"{run.n_images:,}",
        f"**{run.ms_per_image / first.ms_per_image:.2f}**",
        "" if marginal_ms is None else f"{marginal_ms:.2f}",
        f"{run.ms_per_image:.2f}",
        f"{1e3 * run.busy_s / run.n_images:.2f}",
        f"{run.anonymous_mb:.0f}",
        f"{run.anonymous_mb - first.anonymous_mb:+.0f}",
        f"{run.resident_mb:.0f}",
    ]


def row(values: Iterable[str]) -> str:
    return f"| {' | '.join(values)} |"


def int_at_least(minimum: int) -> Callable[[str], int]:
    """Argument type: an integer of at least `minimum`."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least {minimum}")
        return int(text)

    return parse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", type=int_at_least(100), nargs="+", default=SIZES)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--keep", type=Path, help="folder for the images, the cache and the run (default: a temporary folder)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    sizes = sorted(set(arguments.sizes))
    if len(sizes) < 2:
        parser.error("--sizes needs at least two different sizes")
    with tempfile.TemporaryDirectory() as folder:
        runs = measure((arguments.keep or Path(folder)).resolve(), sizes, read_photos(arguments.data))
    as_json = json.dumps(
        {"machine": machine_text(), "images": IMAGES, "runs": [asdict(run) for run in runs], "promises": targets(runs)},
        indent=2,
    )
    if sizes == sorted(SIZES):
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "growth.json").write_text(as_json + "\n", encoding="utf-8")
        (RESULTS / "growth.md").write_text(tables(runs) + "\n", encoding="utf-8")
    print(as_json if arguments.json else tables(runs))
    raise SystemExit(not all(met for *_, met in targets(runs)))


if __name__ == "__main__":
    main()
