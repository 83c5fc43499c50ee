"""Training against fastai, PyTorch's tutorial and timm's parts: seconds until there is a model, and its accuracy.

    .venv/bin/python benchmarks/fitting.py [--minutes 10] [--quick] [--json]

`make bench` makes the peers' environment. All begin with the same weights file of tf_efficientnet_lite0, learn from the same
folders and are judged by the same held-out images; ours neither stops nor chooses by those, while of a peer's epochs the best
counts, although these very images chose it. Seconds are of the whole command, imports included, until a package
(ours) or a file of weights (peers) is written. hymenoptera is 244 photos to learn from and 153 held out, at 224 pixels;
cifar10-6k 5,000 and 1,000 pictures of 32x32, at 128 pixels, which is what Graft derives for them. A peer that would take too
long gets fewer epochs than its documentation gives it, and the table says how many. Then feature extraction against bare
threads (benchmarks/features.py) and epochs of fine-tuning against a bare torch loop (benchmarks/epoch.py).
"""

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from measuring import peers
from measuring.pictures import CIFAR, HYMENOPTERA
from measuring.tables import Promise, Report, Table, markdown, ratio, say

ROOT = Path(__file__).parent.parent
LEAST_TIMES, LEAST_OF_BARE = 20.0, 0.9
LONGEST_S = 480.0  # of one command
PROBE, COLD, AGAIN = "graft fit --strategy probe", "the same, this machine's first", "the same, the same images again"
FASTAI = "fastai fine_tune"
SAVE_WEIGHTS = """
import sys
from safetensors.torch import save_file
from graft.training.backbones import pretrained, registry as backbones
network = pretrained.load(backbones.choose("tf_efficientnet_lite0"))
save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, sys.argv[1])
"""


@dataclass(frozen=True)
class Fit:
    """What one command came to.

    Attributes:
        seconds: of the whole command.
        processor_s: that all its processes used.
        accuracies: on the held-out images: a peer's after each epoch; ours only in the end.
        images_s: images learned from, times epochs, over the seconds after the imports; NaN for ours.
        finished: whether it got to its end in the time that it had.
    """

    who: str
    seconds: float
    processor_s: float
    accuracies: tuple[float, ...]
    images_s: float
    finished: bool

    @property
    def best(self) -> float:
        return max(self.accuracies, default=math.nan)


def run(who: str, command: Sequence[str], environment: Mapping[str, str]) -> Fit:
    """One command, whose last line is a JSON object."""
    say(who)
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    finished, said = _until_its_end(command, environment)
    seconds, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if not finished:
        return Fit(who, seconds, used, (), math.nan, finished=False)
    found = json.loads(said.strip().splitlines()[-1])
    if "accuracies" in found:
        return Fit(who, seconds, used, tuple(found["accuracies"]), found["images_learned"] / found["learning_s"], True)
    return Fit(who, seconds, used, (found["test"]["accuracy"],), math.nan, finished=True)


def _until_its_end(command: Sequence[str], environment: Mapping[str, str]) -> tuple[bool, str]:
    """Whether it got there in time, and what it printed. Raises RuntimeError if it failed."""
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            said, _ = child.communicate(timeout=LONGEST_S)
        except subprocess.TimeoutExpired:
            child.terminate()
            child.communicate()
            return False, ""
        if child.returncode != 0:
            errors.seek(0)
            raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}:\n{errors.read()[-2000:]}")
    return True, said


class Contest:
    """All who learn from one folder.

    Args:
        folder: `train` and one other part, a folder for each label in both.
        weights: of the backbone, with its classifier, by timm's names.
        size: pixels of the square that the network sees.
    """

    def __init__(self, folder: Path, weights: Path, scratch: Path, size: int) -> None:
        self.folder, self.weights, self.scratch, self.size = folder, weights, scratch, size
        self.cache = scratch / "cache"
        self.fits: list[Fit] = []

    def peer(self, who: str, script: str, epochs: int, *flags: str) -> None:
        command = [str(peers.PYTHON), str(peers.SCRIPTS / script), str(self.folder), str(self.weights)]
        command += [str(self.scratch / "peer.model"), "--epochs", str(epochs), "--size", str(self.size), *flags]
        self.fits.append(run(who, command, {}))

    def graft(self, who: str, *flags: str, forgets: str = "") -> None:
        """Args: forgets: the part of the cache that is emptied first: "", "features" for images never seen, "." for all."""
        if forgets:
            shutil.rmtree(self.cache / forgets, ignore_errors=True)
        out = self.scratch / "run"
        shutil.rmtree(out, ignore_errors=True)
        command = [sys.executable, "-m", "graft", "fit", str(self.folder), "--json", "--out", str(out), *flags]
        self.fits.append(run(who, command, {"GRAFT_CACHE": str(self.cache), "PYTHONPATH": str(ROOT)}))

    def of(self, who: str) -> list[Fit]:
        return [fit for fit in self.fits if fit.who == who]

    def seconds(self, who: str) -> float:
        return median(fit.seconds for fit in self.of(who))

    def table(self, title: str) -> Table:
        """Each once, with medians, over the probe's time."""
        names = list(dict.fromkeys(fit.who for fit in self.fits))
        rows = []
        for who in names:
            fits = self.of(who)
            late = "" if all(fit.finished for fit in fits) else f" (stopped after {LONGEST_S:.0f} s)"
            middle = [median(getattr(fit, key) for fit in fits) for key in ("seconds", "processor_s", "best", "images_s")]
            rows.append((who + late, middle[0] / self.seconds(PROBE), *middle))
        columns = ("what", "times the probe's seconds", "seconds", "processor seconds", "accuracy", "images learned/s")
        return Table(title, columns, tuple(rows))


def hymenoptera(contest: Contest, quick: bool) -> None:
    """The probe several times, in turns with everything else."""
    few = 1 if quick else 4
    contest.graft(COLD, "--strategy", "probe", forgets=".")
    turns = (
        lambda: contest.peer(f"{FASTAI}({few})", "train_fastai.py", few),
        lambda: contest.peer(f"timm's parts, {few} epochs", "train_timm.py", few),
        lambda: contest.peer(f"PyTorch's tutorial, head alone, {few} of 25 epochs", "train_tutorial.py", few, "--frozen"),
        lambda: contest.graft(f"graft fit --strategy finetune, {few} epochs", "--strategy", "finetune", "--epochs", str(few)),
    )
    for turn in turns[:1] if quick else turns:
        contest.graft(PROBE, "--strategy", "probe", forgets="features")
        contest.graft(AGAIN, "--strategy", "probe")
        turn()


def cifar(contest: Contest) -> None:
    """The first is the first at this size, for which the backbone is exported anew."""
    contest.graft(COLD, "--strategy", "probe", forgets="features")
    contest.peer(f"{FASTAI}(1)", "train_fastai.py", 1)
    contest.graft(PROBE, "--strategy", "probe", forgets="features")


def the_rest(photos: Contest, small: Contest, end: float) -> None:
    """As many of these as there is time for, the most telling first."""
    turns = (
        lambda: small.graft("graft fit --strategy finetune, 1 epoch", "--strategy", "finetune", "--epochs", "1"),
        lambda: small.peer("timm's parts, 1 epoch", "train_timm.py", 1),
        lambda: photos.peer("PyTorch's tutorial, 4 of 25 epochs", "train_tutorial.py", 4),
        lambda: small.peer("PyTorch's tutorial, head alone, 1 of 25 epochs", "train_tutorial.py", 1, "--frozen"),
    )
    for turn in turns:
        if time.monotonic() < end:
            turn()


def extraction(quick: bool, cache: Path) -> list[float]:
    """Ratios of feature extraction over bare threads."""
    found = _script("features.py", ["--rounds", "1" if quick else "5"], cache)
    return [mine / bare for mine, bare in zip(found["ours"], found["bare"], strict=True)]


def epochs(quick: bool, cache: Path) -> dict[str, list[float]]:
    """Images a second of fine-tuning's epochs and of a bare loop's, in turns."""
    flags = ["--batches", "2", "--epochs", "2"] if quick else ["--batches", "8", "--epochs", "3"]
    found = _script("epoch.py", flags, cache)
    return {who: [found["n_images"] / seconds for seconds in found[who]] for who in ("ours", "theirs")}


def _script(name: str, flags: Sequence[str], cache: Path) -> dict[str, list[float]]:
    say(name)
    command = [sys.executable, str(ROOT / "benchmarks" / name), "--json", *flags]
    environment = {**os.environ, "GRAFT_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{name} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(minutes: float, quick: bool) -> Report:
    """All of it; what is less telling only while there is time."""
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        weights = scratch / "weights.safetensors"
        subprocess.run([sys.executable, "-c", SAVE_WEIGHTS, str(weights)], cwd=ROOT, check=True)
        photos = Contest(unpacked(HYMENOPTERA, scratch), weights, scratch, 224)
        hymenoptera(photos, quick)
        ratios, rates = extraction(quick, photos.cache), epochs(quick, photos.cache)
        small = Contest(unpacked(CIFAR, scratch), weights, scratch, 128)
        if not quick:
            cifar(small)
            the_rest(photos, small, end)
    return report([("hymenoptera, 224 pixels", photos), ("cifar10-6k, 128 pixels", small)], ratios, rates)


def unpacked(archive: Path, scratch: Path) -> Path:
    """The one folder in the archive."""
    folder = scratch / archive.stem
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    [inside] = folder.iterdir()
    return inside


def report(contests: Sequence[tuple[str, Contest]], ratios: Sequence[float], rates: Mapping[str, Sequence[float]]) -> Report:
    found = Report("fitting", "Training, against other tools from the same weights, and against bare loops")
    [photos, *_] = (contest for _, contest in contests)
    found.promises = promises(photos.fits, ratios)
    found.tables = [contest.table(title) for title, contest in contests if contest.fits]
    of_bare = ratio(rates["ours"], rates["theirs"])
    bare = (
        ("features over bare threads of decode and engine", median(ratios)),
        ("an epoch of fine-tuning over a bare torch loop over ready tensors", of_bare),
    )
    found.tables.append(Table("Of what bare loops do", ("what", "ratio"), bare))
    found.notes = [
        "A peer's accuracy is that of its best epoch by the held-out images themselves; Graft's is of the one package that it"
        " wrote without having looked at them.",
        "'The same, this machine's first' begins with an empty cache, so that the backbone is exported first; every other probe"
        " sees images that are new to it, but for 'the same images again'.",
    ]
    found.measured = {
        "fits": {title: [asdict(fit) for fit in contest.fits] for title, contest in contests},
        "features_over_bare": list(ratios),
        "epochs_images_s": {who: list(values) for who, values in rates.items()},
    }
    return found


def promises(fits: Sequence[Fit], ratios: Sequence[float]) -> list[Promise]:
    """The probe against fastai on hymenoptera, with a machine that knows the backbone and one that does not."""
    [theirs] = (fit for fit in fits if fit.who.startswith(FASTAI))
    probes = {who: [fit for fit in fits if fit.who == who] for who in (PROBE, COLD)}
    times = {who: theirs.seconds / median(fit.seconds for fit in several) for who, several in probes.items()}
    # Shares of the same images: where they differ by less, one of them was rounded to float32.
    gain = round(min(fit.best for fit in probes[PROBE]) - theirs.best, 6)
    return [
        Promise(f"{PROBE}: times faster than {theirs.who}", times[PROBE], LEAST_TIMES),
        Promise("the same on a machine that has never exported the backbone", times[COLD], LEAST_TIMES),
        Promise("its accuracy, less that of fastai's best epoch", gain, 0.0),
        Promise("feature extraction, of bare threads", median(ratios), LEAST_OF_BARE),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10.0, help="after which nothing more is begun that can be left out")
    parser.add_argument("--quick", action="store_true", help="little of everything, to see that it works")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    peers.check()
    begun = time.monotonic()
    found = measure(arguments.minutes, arguments.quick)
    found.seconds = time.monotonic() - begun
    print(json.dumps(found.record()) if arguments.json else markdown(found.record()))


if __name__ == "__main__":
    main()
