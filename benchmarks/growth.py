"""Whether a hundred times the images take a hundred times as long, and how much more memory: check, fit and predict.

    .venv/bin/python benchmarks/growth.py [--sizes 1000 10000 100000] [--data IMAGES.zip] [--keep FOLDER] [--json]

Folders of so many images: the photos of ../shared/data/hymenoptera.zip (396 of 40 KB, two labels) again and again, each file
with a JPEG comment of its own and so with a digest of its own. That is the hardest case for the audit, which finds hundreds
of near copies of each photo and must keep them together; and the fairest for all else, because every size holds the same
photos. On each, every command as a process of its own: `graft check`, `graft fit --strategy probe` on an empty cache,
the same again, `graft predict`. The backbone is exported before anything is timed.

What counts is the peak of anonymous memory, of all processes together: pages that stand for a file can be dropped whenever
somebody else needs the room, so the largest resident set (of one process, as the kernel reports it) is only told. Ratios are
against the smallest size. A part of each run is the same for ten images as for a million (imports, compiling the graph), and
up to 5,000 images a fit looks at mirror images too: both flatter the large sizes. So the slope, what each further image
costs, is held against the time an image at the size before. Seconds of processor time are told beside the wall's, because on
a machine that others use too the wall's mean little.

Leaves benchmarks/results/growth.md and growth.json where all three sizes were measured; prints the one or the other; ends
with 1 if a promise was broken.
"""

import argparse
import json
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

from measuring.watching import read, watched

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared" / "data" / "hymenoptera.zip"
RESULTS = Path(__file__).parent / "results"
SIZES = (1_000, 10_000, 100_000)
VERBS = ("check", "fit", "fit again", "predict")
PARTS = {"list": "images of", "look": " train, ", "learn": ""}  # of a fit, each with what is said at its end
LIBRARIES = ("numpy", "scipy", "openvino", "pillow")
MOST_TIMES, MOST_GROWTH_MB = 1.15, 300.0


@dataclass(frozen=True)
class Run:
    """One command on one folder.

    Attributes:
        seconds: from its start to its end.
        busy_s: of processor time, of its processes together.
        anonymous_mb: the peak of what its processes held together that no file backs, as far as it was sampled.
        resident_mb: the largest resident set of one process, pages of files included.
        parts: seconds of each part of a fit.
        computed: whether any image went through the backbone.
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


def photos(archive: Path) -> list[tuple[str, bytes]]:
    """The label and the bytes of each JPEG in an archive of class folders, shuffled: the first few are of every label."""
    with zipfile.ZipFile(archive) as opened:
        names = [name for name in opened.namelist() if name.lower().endswith((".jpg", ".jpeg"))]
        random.Random(0).shuffle(names)
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


def graft(verb: str, n_images: int, words: Iterable[str], cache: Path) -> Run:
    """Runs one command to its end.

    Raises:
        RuntimeError: with what it said, if it failed.
    """
    environment = os.environ | {"GRAFT_CACHE": str(cache), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    begun = time.monotonic()
    command = [sys.executable, "-m", "graft", *words]
    process = subprocess.Popen(
        command, env=environment, cwd=cache, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    with watched(process.pid) as memory:
        said = [(time.monotonic() - begun, line) for line in process.stderr or ()]
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - begun
    text = "".join(line for _, line in said)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in ((0, 1) if verb == "check" else (0,)):  # 1: something is wrong with the data
        raise RuntimeError(f"graft {' '.join(words)} ended with {process.returncode}:\n{text[-2000:]}")
    parts = parted(said, seconds) if verb.startswith("fit") else {}
    computed = verb != "fit again" or "features were cached" not in text
    busy_s = usage.ru_utime + usage.ru_stime
    return Run(verb, n_images, seconds, busy_s, max(memory), usage.ru_maxrss / 1024, parts, computed)


def parted(said: Sequence[tuple[float, str]], seconds: float) -> dict[str, float]:
    """How long each part of a fit took, by when it said that the part before was done."""
    ends = [next((when for when, line in said if mark and mark in line), seconds) for mark in PARTS.values()]
    return dict(zip(PARTS, (end - start for start, end in pairwise([0.0, *ends])), strict=True))


def measure(folder: Path, sizes: Sequence[int], originals: Sequence[tuple[str, bytes]]) -> list[Run]:
    """Every command on every size, the smallest first; that one twice, and only the second time counts."""
    cache = folder / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    runs: list[Run] = []
    for n_images in (sizes[0], *sizes):
        images = folder / f"images-{n_images}"
        make(images, n_images, originals)
        shutil.rmtree(cache / "features", ignore_errors=True)
        for verb in VERBS:
            found = graft(verb, n_images, words(verb, images, folder / "run"), cache)
            print(f"{n_images:,} {verb}: {found.seconds:.1f} s, {found.anonymous_mb:.0f} MB", file=sys.stderr)
            runs.append(found)
    return runs[len(VERBS) :]


def words(verb: str, images: Path, run: Path) -> list[str]:
    """What to type after `graft`; a fit finds no earlier run."""
    if verb == "check":
        return ["check", str(images)]
    if verb == "predict":
        return ["predict", str(run / "package"), str(images)]
    shutil.rmtree(run, ignore_errors=True)
    return ["fit", str(images), "--strategy", "probe", "--out", str(run)]


def slopes(runs: Sequence[Run]) -> list[float | None]:
    """What each image more than in the run before took, in milliseconds; None for the first."""
    return [None, *(slope(less, more) for less, more in pairwise(runs))]


def slope(less: Run, more: Run) -> float:
    return 1e3 * (more.seconds - less.seconds) / (more.n_images - less.n_images)


def of(verb: str, runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.verb == verb]


def promises(runs: Sequence[Run]) -> list[tuple[str, float, str, bool]]:
    """What, how much, the limit, and whether it was held."""
    told = []
    for verb in VERBS:
        group = of(verb, runs)
        first, before, last = group[0], group[-2], group[-1]
        times = last.ms_per_image / first.ms_per_image
        steeper = slope(before, last) / before.ms_per_image
        growth = last.anonymous_mb - first.anonymous_mb
        what, limit = f"{verb}: an image of {last.n_images:,} over", f"at most {MOST_TIMES}"
        told += [
            (f"{what} one of {first.n_images:,}, time", times, limit, times <= MOST_TIMES),
            (f"{what} one of {before.n_images:,}, slope over time", steeper, limit, steeper <= MOST_TIMES),
            (f"{verb}: memory growing, MB", growth, f"less than {MOST_GROWTH_MB:g}", growth < MOST_GROWTH_MB),
        ]
    passes = sum(run.computed for run in of("fit again", runs))
    return [*told, ("second fits with a forward pass", passes, "0", passes == 0)]


def machine() -> str:
    """What it was measured on."""
    models = [line.partition(":")[2].strip() for line in read(Path("/proc/cpuinfo")).splitlines() if "model name" in line]
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    cores = len(os.sched_getaffinity(0))
    processor = models[0] if models else platform.machine()
    return f"{date.today()}, {processor}, {cores} cores, Python {platform.python_version()}, {libraries}"


def tables(runs: Sequence[Run]) -> str:
    heads = (
        "command",
        "images",
        "time an image",
        "slope, ms",
        "ms an image",
        "of processors",
        "peak MB",
        "more",
        "resident MB",
    )
    lines = [machine(), "", row(heads), row(["---"] * len(heads))]
    for verb in VERBS:
        group = of(verb, runs)
        lines += [row(cells(run, group[0], steep)) for run, steep in zip(group, slopes(group), strict=True)]
    lines += ["", row(["seconds", "images", *PARTS]), row(["---"] * (len(PARTS) + 2))]
    fits = [run for run in runs if run.parts]
    lines += [row([run.verb, f"{run.n_images:,}", *(f"{part:.1f}" for part in run.parts.values())]) for run in fits]
    lines += ["", row(["what", "found", "promised", ""]), row(["---"] * 4)]
    for what, found, promised, held in promises(runs):
        lines.append(row([what, f"{found:.3g}", promised, "held" if held else "**broken**"]))
    return "\n".join(lines)


def cells(run: Run, first: Run, steep: float | None) -> list[str]:
    return [
        run.verb,
        f"{run.n_images:,}",
        f"**{run.ms_per_image / first.ms_per_image:.2f}**",
        "" if steep is None else f"{steep:.2f}",
        f"{run.ms_per_image:.2f}",
        f"{1e3 * run.busy_s / run.n_images:.2f}",
        f"{run.anonymous_mb:.0f}",
        f"{run.anonymous_mb - first.anonymous_mb:+.0f}",
        f"{run.resident_mb:.0f}",
    ]


def row(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def at_least(fewest: int) -> Callable[[str], int]:
    """What reads a whole number from `fewest` on."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < fewest:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {fewest} on")
        return int(text)

    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", type=at_least(100), nargs="+", default=SIZES)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--keep", type=Path, help="a folder for the images, the cache and the run; else a temporary one")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    sizes = sorted(set(arguments.sizes))
    if len(sizes) < 2:
        parser.error("growth needs two sizes to be seen")
    with tempfile.TemporaryDirectory() as folder:
        runs = measure((arguments.keep or Path(folder)).resolve(), sizes, photos(arguments.data))
    as_json = json.dumps({"machine": machine(), "runs": [asdict(run) for run in runs], "promises": promises(runs)}, indent=2)
    if sizes == sorted(SIZES):
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "growth.json").write_text(as_json + "\n", encoding="utf-8")
        (RESULTS / "growth.md").write_text(tables(runs) + "\n", encoding="utf-8")
    print(as_json if arguments.json else tables(runs))
    raise SystemExit(not all(held for *_, held in promises(runs)))


if __name__ == "__main__":
    main()
