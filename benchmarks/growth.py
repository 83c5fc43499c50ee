"""Whether a hundred times the images take a hundred times as long, and how much more memory: check, fit and predict.

    .venv/bin/python benchmarks/growth.py [--sizes 1000 10000 100000] [--data IMAGES.zip] [--keep FOLDER] [--json]

Folders of so many images: the photos of ../shared/data/hymenoptera.zip (396 of 40 KB, two labels) again and again, each file
with a JPEG comment of its own and so with a digest of its own. That is the hardest case for the audit, which finds hundreds
of near copies of each photo, and must keep them together; and the fairest for all else, because every size holds the same
photos. On each, every command as a process of its own: `graft check`, `graft fit --strategy probe` on an empty cache,
the same again, `graft predict`.

What counts is the peak of anonymous memory, of all processes together: pages that stand for a file can be dropped whenever
somebody else needs the room, so the largest resident set (of one process, as the kernel reports it) is only told. A part of
each run is the same for ten images as for a million (imports, compiling the graph, choosing the regularisation): so beside the
seconds an image stands the slope, what each further image costs. Ratios are against the smallest size. The backbone is
exported before anything is timed. Prints Markdown tables, or one JSON object; ends with 1 if a promise was broken.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from itertools import cycle, pairwise
from pathlib import Path

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared" / "data" / "hymenoptera.zip"
SIZES = (1_000, 10_000, 100_000)
VERBS = ("check", "fit", "fit again", "predict")
PARTS = {"list": "images of", "look": " train, ", "learn": ""}  # of a fit, each with what is said at its end
LIBRARIES = ("numpy", "scipy", "openvino", "pillow")
MOST_TIMES, MOST_GROWTH_MB = 1.15, 300.0
SAMPLE_EVERY_S = 0.05


@dataclass(frozen=True)
class Run:
    """One command on one folder.

    Attributes:
        seconds: from its start to its end.
        anonymous_mb: the peak of what its processes held together that no file backs, as far as it was sampled.
        resident_mb: the largest resident set of one process, pages of files included.
        parts: seconds of each part of a fit.
        computed: whether any image went through the backbone.
    """

    verb: str
    n_images: int
    seconds: float
    anonymous_mb: float
    resident_mb: float
    parts: dict[str, float]
    computed: bool

    @property
    def ms_per_image(self) -> float:
        return 1e3 * self.seconds / self.n_images


def photos(archive: Path) -> list[tuple[str, bytes]]:
    """The label and the bytes of each JPEG in an archive of class folders."""
    with zipfile.ZipFile(archive) as opened:
        names = [name for name in opened.namelist() if name.lower().endswith((".jpg", ".jpeg"))]
        return [(Path(name).parent.name, opened.read(name)) for name in names]


def commented(photo: bytes, comment: bytes) -> bytes:
    """The same picture in a file of its own: a comment right after a JPEG's first marker."""
    return photo[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + photo[2:]


def make(folder: Path, n_images: int, originals: Sequence[tuple[str, bytes]]) -> None:
    """So many images below `folder`, in class folders; left alone if they are there already."""
    if folder.is_dir():
        return
    beside = folder.with_name(f".{folder.name}")
    shutil.rmtree(beside, ignore_errors=True)
    for label in {label for label, _ in originals}:
        (beside / label).mkdir(parents=True)
    for number, (label, photo) in zip(range(n_images), cycle(originals), strict=False):
        (beside / label / f"{number:07d}.jpg").write_bytes(commented(photo, b"copy %d" % number))
    beside.rename(folder)


def tree(process: int) -> Iterator[int]:
    """A process and all that it started, directly or not."""
    yield process
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        for child in read(task).split():
            yield from tree(int(child))


def anonymous_mb(process: int) -> float:
    """What a process and its children hold that no file backs, now."""
    lines = (line for each in tree(process) for line in read(Path(f"/proc/{each}/status")).splitlines())
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


def read(path: Path) -> str:
    """A file of /proc, whose process may have just ended."""
    try:
        return path.read_text()
    except OSError:
        return ""


@contextmanager
def watched(process: int) -> Iterator[list[float]]:
    """Collects the anonymous memory of a process and its children, many times a second."""
    found, ended = [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(SAMPLE_EVERY_S):
            found.append(anonymous_mb(process))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()


def graft(verb: str, n_images: int, words: Iterable[str], cache: Path) -> Run:
    """Runs one command to its end.

    Raises:
        RuntimeError: with what it said, if it failed.
    """
    environment = os.environ | {"GRAFT_CACHE": str(cache), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    begun = time.monotonic()
    command = [sys.executable, "-m", "training", *words]
    process = subprocess.Popen(
        command, env=environment, cwd=cache, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    with watched(process.pid) as memory:
        said = [(time.monotonic() - begun, line) for line in process.stderr or ()]
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - begun
    text = "".join(line for _, line in said)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"graft {' '.join(words)} ended with {process.returncode}:\n{text[-2000:]}")
    parts = parted(said, seconds) if verb.startswith("fit") else {}
    computed = verb != "fit again" or "features were cached" not in text
    return Run(verb, n_images, seconds, max(memory), usage.ru_maxrss / 1024, parts, computed)


def parted(said: Sequence[tuple[float, str]], seconds: float) -> dict[str, float]:
    """How long each part of a fit took, by when it said that the part before was done."""
    ends = [next((when for when, line in said if mark and mark in line), seconds) for mark in PARTS.values()]
    return dict(zip(PARTS, (end - start for start, end in pairwise([0.0, *ends])), strict=True))


def measure(folder: Path, sizes: Sequence[int], originals: Sequence[tuple[str, bytes]]) -> list[Run]:
    """Every command on every size, the smallest first; once before, so that the backbone is there."""
    cache, out = folder / "cache", folder / "run"
    cache.mkdir(parents=True, exist_ok=True)
    runs: list[Run] = []
    for n_images in (min(sizes), *sizes):
        images = folder / f"images-{n_images}"
        make(images, n_images, originals)
        shutil.rmtree(cache / "features", ignore_errors=True)
        found = []
        for verb in VERBS:
            words = {"check": ["check", str(images)], "predict": ["predict", str(out / "package"), str(images)]}
            if verb.startswith("fit"):
                shutil.rmtree(out, ignore_errors=True)
            fit = ["fit", str(images), "--strategy", "probe", "--out", str(out)]
            found.append(graft(verb, n_images, words.get(verb, fit), cache))
            print(f"{n_images:,} {verb}: {found[-1].seconds:.1f} s, {found[-1].anonymous_mb:.0f} MB", file=sys.stderr)
        runs += found
    return runs[len(VERBS) :]


def slopes(runs: Sequence[Run]) -> list[float | None]:
    """What each image more than in the run before took, in milliseconds; None for the first."""
    between = [1e3 * (more.seconds - less.seconds) / (more.n_images - less.n_images) for less, more in pairwise(runs)]
    return [None, *between]


def of(verb: str, runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.verb == verb]


def promises(runs: Sequence[Run]) -> list[tuple[str, float, str, bool]]:
    """What, how much, the limit, and whether it was held."""
    told = []
    for verb in VERBS:
        first, *_, last = of(verb, runs)
        times = last.ms_per_image / first.ms_per_image
        growth = last.anonymous_mb - first.anonymous_mb
        span = f"{first.n_images:,} to {last.n_images:,} images"
        told.append((f"{verb}: time an image, {span}, times", times, f"at most {MOST_TIMES}", times <= MOST_TIMES))
        told.append((f"{verb}: memory growing, {span}, MB", growth, f"less than {MOST_GROWTH_MB:g}", growth < MOST_GROWTH_MB))
    passes = float(sum(run.computed for run in of("fit again", runs)))
    told.append(("forward passes of a second fit", passes, "0", passes == 0))
    return told


def machine() -> str:
    """What it was measured on."""
    models = [line.partition(":")[2].strip() for line in read(Path("/proc/cpuinfo")).splitlines() if "model name" in line]
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    cores = len(os.sched_getaffinity(0))
    processor = models[0] if models else platform.machine()
    return f"{date.today()}, {processor}, {cores} cores, Python {platform.python_version()}, {libraries}"


def tables(runs: Sequence[Run]) -> str:
    lines = [
        machine(),
        "",
        "| command | images | time an image | slope, ms | ms an image | peak memory, MB | more | resident |",
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    for verb in VERBS:
        group = of(verb, runs)
        for run, slope in zip(group, slopes(group), strict=True):
            times = f"**{run.ms_per_image / group[0].ms_per_image:.2f}**"
            steep = "" if slope is None else f"{slope:.2f}"
            more = f"{run.anonymous_mb - group[0].anonymous_mb:+.0f}"
            memory = f"{run.anonymous_mb:.0f} | {more} | {run.resident_mb:.0f}"
            lines.append(f"| {verb} | {run.n_images:,} | {times} | {steep} | {run.ms_per_image:.2f} | {memory} |")
    lines += ["", f"| fit, seconds | images | {' | '.join(PARTS)} |", f"|---|---|{'---|' * len(PARTS)}"]
    for run in runs:
        if run.parts:
            lines.append(f"| {run.verb} | {run.n_images:,} | {' | '.join(f'{part:.1f}' for part in run.parts.values())} |")
    lines += ["", "| what | found | promised | |", "|---|---|---|---|"]
    for what, found, promised, held in promises(runs):
        lines.append(f"| {what} | {found:.3g} | {promised} | {'held' if held else '**broken**'} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--keep", type=Path, help="a folder for the images, the cache and the run; else a temporary one")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = measure(arguments.keep or Path(folder), sorted(arguments.sizes), photos(arguments.data))
    told = {"machine": machine(), "runs": [asdict(run) for run in runs], "promises": promises(runs)}
    print(json.dumps(told) if arguments.json else tables(runs))
    raise SystemExit(not all(held for *_, held in promises(runs)))


if __name__ == "__main__":
    main()
