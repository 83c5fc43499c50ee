"""What only a GPU can tell: eleven checks in under six minutes. Each prints PASS, FAIL or what it measured.

    .venv/bin/python benchmarks/gpu_check.py [--only N...] [--seconds 340] [--out FILE.json] [--dry-run]
    .venv/bin/python benchmarks/gpu_check.py --pack FOLDER

Run it in the root of a checkout. No check needs another one to have passed, except that all need the package of the first.
`--pack` writes into FOLDER what a machine without a network lacks: the wheels of the lock file for Python 3.12 on x86-64,
without torch and its CUDA libraries, which such a machine has. Copy the checkout and FOLDER there, and run with
PYTHONPATH=.:FOLDER. `--dry-run` runs on the CPU, with less work: it checks this script, and measures nothing. The exit code
is 1 if a check failed, 2 without a GPU.
"""

import argparse
import asyncio
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from measuring.pictures import synthetic_photos
from measuring.servers import Server

if TYPE_CHECKING:
    from graft.service.artifact import Artifact

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "training" / "sample" / "fashion-mnist.zip"
SAMPLE_ACCURACY = 85.0  # of the probe, in percent, on any machine; 1 point is allowed for another order of sums
MAX_DIFFERENCE = 0.1  # of a logit; wrong weights or labels differ by whole logits
MIN_ENGINE_RATIO = 0.9  # of the compiled loop's images per second
CHECKS: list[tuple[str, int, Callable[["Bench"], None]]] = []  # title, seconds it needs, and the check


@dataclass
class Bench:
    """What the checks share.

    Attributes:
        device: cuda, or cpu in a dry run.
        folder: for runs and images.
        results: verdict and facts by title.
    """

    device: str
    folder: Path
    out: Path | None
    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def is_dry(self) -> bool:
        return self.device == "cpu"

    @property
    def package(self) -> Path:
        return self.folder / "probe" / "package"

    def tell(self, title: str, passed: bool | None = None, **facts: Any) -> None:
        """Prints and saves the result of a check. `passed` None: it measures, and promises nothing."""
        verdict = {True: "PASS", False: "FAIL", None: "told"}[passed]
        self.results[title] = {"verdict": verdict, **facts}
        if self.out:
            self.out.write_text(json.dumps(self.results, indent=1, default=str) + "\n", encoding="utf-8")
        shown = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in facts.items()
        )
        print(f"{verdict} {title}: {shown}", flush=True)

    def graft(self, *arguments: str, timeout_s: float = 150) -> tuple[int, str, float]:
        """Runs a command of graft. Returns its exit code, its output, and its seconds."""
        command = [sys.executable, "-m", "graft", *arguments, "--device", self.device]
        started = time.monotonic()
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10 * timeout_s, check=False)
        return result.returncode, result.stdout + result.stderr, time.monotonic() - started


def check(title: str, needs_s: int) -> Callable[[Callable[[Bench], None]], None]:
    """Registers a check."""

    def register(function: Callable[[Bench], None]) -> None:
        CHECKS.append((title, needs_s, function))

    return register


def images_per_second(call: Callable[[], object], n_images: int, lanes: int = 1, n_calls: int = 40) -> float:
    """Images per second of a call with `n_images`, from `lanes` threads."""
    with ThreadPoolExecutor(lanes) as pool:
        list(pool.map(lambda _: call(), range(2 * lanes)))
        started = time.perf_counter()
        list(pool.map(lambda _: call(), range(n_calls)))
        return n_calls * n_images / (time.perf_counter() - started)


@check("1 a probe learns from features of the GPU", 60)
def _probe(bench: Bench) -> None:
    options = ("--strategy", "probe", "--json", "--out", str(bench.package.parent))
    code, output, seconds = bench.graft("fit", str(SAMPLE), *options)
    found = re.search(r'"test": \{"accuracy": ([\d.]+)', output)
    accuracy = 100 * float(found[1]) if found else 0.0
    passed = code == 0 and abs(accuracy - SAMPLE_ACCURACY) <= 1
    bench.tell("1 a probe learns from features of the GPU", passed, accuracy=accuracy, seconds=seconds)


@check("2 the package may be served here", 20)
def _verify(bench: Bench) -> None:
    code, output, seconds = bench.graft("verify", str(bench.package))
    bench.tell("2 the package may be served here", code == 0, said=output.strip().splitlines()[-1], seconds=seconds)


@check("3 every precision gives its golden answers", 40)
def _golden(bench: Bench) -> None:
    from graft.service.artifact import read
    from graft.service.inference import loader
    from graft.service.inference.model import Model

    artifact = read(bench.package)
    for precision in loader.supported_precisions(bench.device):
        if precision == "int8":
            continue
        model = Model(artifact, loader.load(artifact, bench.device, precision))
        fidelity = artifact.manifest.fidelity[precision]
        bench.tell(
            f"3 golden answers in {precision}",
            model.passes,
            difference=model.golden_difference,
            allowed=model.golden_tolerance,
            equivalent=fidelity.is_equivalent,
        )


@check("4 images per second of the engine", 60)
def _engine(bench: Bench) -> None:
    from graft.service.artifact import read
    from graft.service.inference import loader

    artifact = read(bench.package)
    side, random = artifact.manifest.preprocessing.crop, np.random.default_rng(0)
    best_single, best_full, best_name = 0.0, 0.0, ""
    for precision in loader.supported_precisions(bench.device):
        if precision == "int8":
            continue
        started = time.perf_counter()
        engine = loader.load(artifact, bench.device, precision)
        load_s, n_full = time.perf_counter() - started, max(4, engine.max_batch)
        batches = {n: random.integers(0, 256, (n, side, side, 3), dtype=np.uint8) for n in (1, 5, n_full)}
        first_ms = {n: round(1e3 * (_seconds(engine, batch) - _seconds(engine, batch)), 1) for n, batch in batches.items()}
        rates = {n_lanes: images_per_second(partial(engine, batches[n_full]), n_full, n_lanes) for n_lanes in (1, 2, 4)}
        single = images_per_second(partial(engine, batches[1]), 1)
        facts = {f"full_batches_{n_lanes}_lanes": rate for n_lanes, rate in rates.items()}
        bench.tell(f"4 engine in {precision}", None, load_s=load_s, first_call_more_ms=first_ms, single=single, **facts)
        if max(rates.values()) > best_full:
            best_single, best_full, best_name = single, max(rates.values()), precision
    if bench.is_dry:
        return
    full, single = _compiled_loop(artifact, batches[n_full]), _compiled_loop(artifact, batches[1])
    ratios = {
        "of_full": best_full / images_per_second(full, n_full),
        "of_single": best_single / images_per_second(single, 1),
    }
    bench.tell("4 the engine against a compiled f16 loop", ratios["of_full"] >= MIN_ENGINE_RATIO, precision=best_name, **ratios)


def _compiled_loop(artifact: "Artifact", batch: np.ndarray) -> Callable[[], object]:
    """The network of a package as torch.compile runs it in f16, over a batch that is on the GPU already: copies nothing."""
    import torch

    from graft.service.networks import network as networks

    compiled = torch.compile(networks.load(artifact).eval().to("cuda", memory_format=torch.channels_last))
    images = torch.from_numpy(batch).to("cuda")

    def call() -> None:
        with torch.inference_mode(), torch.autocast("cuda", torch.float16):
            compiled(images)
        torch.cuda.synchronize()

    return call


def _seconds(engine: Callable[[Any], object], batch: Any) -> float:
    started = time.perf_counter()
    engine(batch)
    return time.perf_counter() - started


@check("5 the first answer after loading is right", 30)
def _first_answer(bench: Bench) -> None:
    from graft.service.artifact import read
    from graft.service.inference import loader

    artifact = read(bench.package)
    side = artifact.manifest.preprocessing.crop
    batch = np.random.default_rng(0).integers(0, 256, (4, side, side, 3), dtype=np.uint8)
    expected = loader.load(artifact, "cpu")(batch).logits
    found = [loader.load(artifact, bench.device)(batch).logits for _ in range(2 if bench.is_dry else 8)]
    worst = max(float(np.abs(logits - expected).max()) for logits in found)
    bench.tell("5 the first answer after loading is right", worst <= MAX_DIFFERENCE, furthest_logit=worst)


@check("6 what decoding a JPEG costs, on a core and on the GPU", 20)
def _jpeg(bench: Bench) -> None:
    import torch
    from torchvision.io import decode_jpeg

    from graft.service.artifact import read
    from graft.service.imaging.preprocess import decode

    files = synthetic_photos(4 if bench.is_dry else 64, seed=0)
    preprocessing = read(bench.package).manifest.preprocessing
    raw = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]

    def on_device() -> None:
        decode_jpeg(raw, device=bench.device)
        if not bench.is_dry:
            torch.cuda.synchronize()

    started = time.process_time()
    for file in files:
        decode(file, preprocessing)
    core_ms = 1e3 * (time.process_time() - started) / len(files)
    rate = images_per_second(on_device, len(files), n_calls=5)
    pairs = zip(decode_jpeg(raw, device=bench.device), decode_jpeg(raw), strict=True)
    differ = float(np.mean([(one.cpu() != other).float().mean() for one, other in pairs]))
    bench.tell("6 decoding a JPEG", None, ms_of_a_core=core_ms, gpu_images_per_second=rate, share_of_pixels_that_differ=differ)


@check("7 the service's queue, decoders included", 40)
def _queue(bench: Bench) -> None:
    from graft.service.inference import model
    from graft.service.inference.devices import available_cpus
    from graft.service.monitoring.metrics import Metrics
    from graft.service.scheduling.image_queue import InferenceQueue
    from graft.service.settings import Settings

    loaded = model.load(bench.package, bench.device)
    queue = InferenceQueue(loaded, Settings(package=bench.package), Metrics())
    files, seconds = synthetic_photos(64, seed=0), 1 if bench.is_dry else 5

    async def run() -> float:
        async def ask(end: float) -> int:
            n_images = 0
            while time.monotonic() < end:
                await queue.infer(files[n_images % len(files)])
                n_images += 1
            return n_images

        end = time.monotonic() + seconds
        return sum(await asyncio.gather(*(ask(end) for _ in range(8 if bench.is_dry else 64)))) / seconds

    try:
        asyncio.run(run())  # warm-up
        rate = asyncio.run(run())
    finally:
        queue.close()
    bench.tell("7 the service's queue", None, images_per_second=rate, cores=available_cpus(), precision=loaded.engine.precision)


@check("8 features of the GPU are those of the CPU", 40)
def _features(bench: Bench) -> None:
    from graft.training.backbones import onnx_cache, registry
    from graft.training.data.dataset import scan
    from graft.training.features.extraction import View, extract_on_cpu
    from graft.training.features.lightning_extractor import extract_on_gpu

    dataset = scan(SAMPLE)
    exported = onnx_cache.load_or_export(registry.resolve("tf_efficientnet_lite0", "pretrained"), None, 28, "crop")
    views = [View(sample) for sample in dataset.samples[: 32 if bench.is_dry else 2000]]
    started = time.monotonic()
    found = {view.key: row for view, row in extract_on_gpu(dataset, views, exported, bench.device)}
    rate = len(views) / (time.monotonic() - started)
    expected = {view.key: row for view, row in extract_on_cpu(dataset, views[:100], exported)}
    one, other = (np.stack([rows[key] for key in expected]).astype(np.float64) for rows in (found, expected))
    error = float(np.linalg.norm(one - other) / np.linalg.norm(other))
    bench.tell("8 features of the GPU are those of the CPU", error < 0.01, relative_error=error, images_per_second=rate)


@check("9 fine-tuning feeds the GPU, and can be replayed", 110)
def _finetune(bench: Bench) -> None:
    data, n_images = bench.folder / "photos", 60 if bench.is_dry else 4000
    for index, file in enumerate(synthetic_photos(n_images, seed=1)):
        target = data / "ab"[index % 2] / f"{index}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file)
    side = "64" if bench.is_dry else "224"
    options = ("--strategy", "finetune", "--epochs", "2", "--input-size", side, "--allow-near-leaks")
    with _utilization(bench) as busy:
        code, output, seconds = bench.graft("fit", str(data), *options, "--out", str(bench.folder / "tuned"))
    epochs = [float(found) for found in re.findall(r"epoch \d+/\d+: .*, (\d+) s", output)]
    facts = {"gpu_busy_percent": statistics.mean(busy)} if busy else {}
    bench.tell("9 fine-tuning", code == 0, seconds=seconds, epoch_s=epochs, **facts, end=output.strip().splitlines()[-1][:150])
    code, output, _ = bench.graft(
        "fit", str(data), "--replay", str(bench.folder / "tuned"), "--out", str(bench.folder / "again")
    )
    bench.tell("9 the run can be replayed", code == 0, said=" | ".join(output.strip().splitlines()[-3:])[:300])


@contextmanager
def _utilization(bench: Bench) -> Iterator[list[int]]:
    """Fills the list with the GPU's utilization in percent while it has memory in use, once the block has ended."""
    busy: list[int] = []
    if bench.is_dry:
        yield busy
        return
    query = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", "-lms", "200"]
    with subprocess.Popen(query, stdout=subprocess.PIPE, text=True) as watch:
        try:
            yield busy
        finally:
            watch.terminate()
            lines = watch.stdout.read().splitlines() if watch.stdout else []
    pairs = [tuple(map(int, line.split(","))) for line in lines if re.fullmatch(r"\d+, \d+", line)]
    busy.extend(percent for percent, megabytes in pairs if megabytes > 2000)


@check("10 the planned training speed is the real one", 30)
def _training_speed(bench: Bench) -> None:
    import torch

    from graft.service.artifact import read
    from graft.service.networks import network as networks

    network = networks.load(read(bench.package)).to(bench.device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4)

    def step(images: torch.Tensor, labels: torch.Tensor, dtype: torch.dtype) -> None:
        with torch.autocast(bench.device, dtype, enabled=dtype is not torch.float32):
            loss = torch.nn.functional.cross_entropy(network(images)[0], labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if not bench.is_dry:
            torch.cuda.synchronize()

    dtypes = (torch.float32,) if bench.is_dry else (torch.float32, torch.bfloat16, torch.float16)
    for n_images in (8,) if bench.is_dry else (32, 128, 512):
        images = torch.randint(0, 256, (n_images, 224, 224, 3), dtype=torch.uint8, device=bench.device)
        labels = torch.zeros(n_images, dtype=torch.long, device=bench.device)
        n_calls = 2 if bench.is_dry else 10
        rates = {
            str(dtype).removeprefix("torch."): images_per_second(partial(step, images, labels, dtype), n_images, 1, n_calls)
            for dtype in dtypes
        }
        bench.tell(f"10 training in batches of {n_images}", None, **rates)


@check("11 bentoml serve answers from the GPU", 60)
def _serve(bench: Bench) -> None:
    from graft.service.inference.devices import available_cpus

    environment = {"GRAFT_PACKAGE": str(bench.package), "GRAFT_DEVICE": bench.device, "GRAFT_LOG_REQUESTS": "false"}
    command = (sys.executable, "-m", "bentoml", "serve", "graft.service.app:Graft", "--port", "{port}")
    server = Server("graft", command, "/readyz", environment, ROOT)
    started, n_requests = time.monotonic(), 20 if bench.is_dry else 2000
    server.start()
    try:
        server.wait_until_ready()
        ready_s = time.monotonic() - started
        url = f"http://127.0.0.1:{server.port}"
        with urllib.request.urlopen(f"{url}/v1/model") as response:
            model = json.loads(response.read())
        single_ms, _ = _ask(url, 1, n_requests // 10)
        _, rate = _ask(url, 32, n_requests)
    finally:
        server.stop()
    facts = {"precision": model["precision"], "p50_ms": single_ms, "requests_per_second": rate, "cores": available_cpus()}
    bench.tell("11 bentoml serve answers", model["device"] == bench.device, ready_s=ready_s, **facts)


def _ask(url: str, n_clients: int, n_requests: int) -> tuple[float, float]:
    """Milliseconds of the median request, and requests per second. Python's client takes a core: it is no load test."""
    body = synthetic_photos(1, seed=2)[0]

    def ask(_: int) -> float:
        started = time.perf_counter()
        request = urllib.request.Request(f"{url}/v1/classify", body, {"Content-Type": "image/jpeg"})
        with urllib.request.urlopen(request, timeout=60) as response:
            response.read()
        return time.perf_counter() - started

    started = time.perf_counter()
    with ThreadPoolExecutor(n_clients) as pool:
        seconds = list(pool.map(ask, range(n_requests)))
    return 1e3 * statistics.median(seconds), n_requests / (time.perf_counter() - started)


def pack(folder: Path) -> None:
    """Unpacks the wheels that a GPU machine with torch and Python 3.12 lacks into a folder for PYTHONPATH."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    wanted = _required_by_runs()
    platforms = [f"--platform=manylinux_2_{version}_x86_64" for version in (39, 35, 34, 31, 28, 27, 24, 17, 12, 5)]
    platforms += ["--platform=manylinux2014_x86_64", "--platform=manylinux1_x86_64"]
    with tempfile.TemporaryDirectory() as wheels:
        for requirement in re.findall(r"^(\S+==[^\s;]+)", lock, re.MULTILINE):
            if requirement.partition("==")[0] not in wanted:
                continue
            options = ["--no-deps", "--only-binary=:all:", "--python-version=3.12", "--implementation=cp", *platforms]
            command = [sys.executable, "-m", "pip", "download", "--quiet", *options, "--dest", wheels, requirement]
            if subprocess.run(command, check=False, capture_output=True).returncode:
                print(f"no wheel: {requirement}", file=sys.stderr)
        for wheel in Path(wheels).glob("*.whl"):
            shutil.unpack_archive(wheel, folder, "zip")


def _required_by_runs() -> set[str]:
    """The names of the packages that fit and serve need, except torch and what a machine with torch has anyway."""
    sys.path.insert(0, str(ROOT / "deploy" / "supply_chain"))
    from lock_file import read_lock

    packages = {package.name: package for package in read_lock(ROOT / "requirements.lock")}
    given = {
        "torch",
        "torchvision",
        "triton",
        "numpy",
        "pillow",
        "setuptools",
        "sympy",
        "networkx",
        "jinja2",
        "fsspec",
        "filelock",
    }
    wanted = {name for name, package in packages.items() if "graft-vision" in package.required_by}
    while more := {n for n, package in packages.items() if wanted & set(package.required_by)} - wanted:
        wanted |= more
    return {name for name in wanted - given if not name.startswith(("nvidia-", "cuda-"))}


def run(bench: Bench, only: Sequence[int], seconds: float) -> int:
    """Runs the checks while there is time. Returns the number of those that failed."""
    end = time.monotonic() + seconds
    for title, needs_s, function in CHECKS:
        if only and int(title.split()[0]) not in only:
            continue
        if time.monotonic() + needs_s > end and not bench.is_dry:
            print(f"skip {title}: it needs {needs_s} s", flush=True)
            continue
        try:
            function(bench)
        except Exception as error:  # noqa: BLE001 - the other checks are worth running
            bench.tell(title, False, error=f"{type(error).__name__}: {str(error)[-300:]}")
    failed = [title for title, result in bench.results.items() if result["verdict"] == "FAIL"]
    print(f"failed: {'; '.join(failed) or 'none'}")
    return len(failed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", type=int, nargs="+", default=[], metavar="N", help="numbers of the checks (default: all)")
    parser.add_argument("--seconds", type=float, default=340, help="start no check that would take longer (default: 340)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the results as JSON")
    parser.add_argument("--dry-run", action="store_true", help="run on the CPU with less work, to check this script")
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="write what a machine without a network lacks, and end")
    arguments = parser.parse_args()
    if arguments.pack:
        pack(arguments.pack)
        return
    from graft.service.inference.cuda_check import check_cuda

    if not arguments.dry_run and (problem := check_cuda().problem):
        print(f"error: no GPU can be used: {problem}.", file=sys.stderr)
        raise SystemExit(2)
    with tempfile.TemporaryDirectory(prefix="graft-gpu-check-") as folder:
        bench = Bench("cpu" if arguments.dry_run else "cuda", Path(folder), arguments.out)
        raise SystemExit(run(bench, arguments.only, arguments.seconds) > 0)


if __name__ == "__main__":
    main()
