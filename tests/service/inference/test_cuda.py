"""The CUDA engine: its arithmetic on a card where there is one, and all of its logic with the CPU behind it."""

from concurrent.futures import ThreadPoolExecutor

import fake_cuda
import numpy as np
import pytest
import torch
from needs_cuda import needs_cuda

from graft.service.artifact import ArtifactError
from graft.service.inference import cuda, loader, model
from graft.service.inference.cuda import BATCH_SIZES, CudaEngine, product_precision
from graft.service.inference.engine import DeviceFailed


@pytest.fixture
def events(monkeypatch) -> list[str]:
    return fake_cuda.install(monkeypatch)


@pytest.fixture
def pixels(fitted) -> np.ndarray:
    side = fitted.artifact.manifest.preprocessing.crop
    return np.random.default_rng(0).integers(0, 256, (70, side, side, 3), dtype=np.uint8)


@pytest.fixture
def small(monkeypatch) -> None:
    """Batches of up to four images, so that tests are quick."""
    monkeypatch.setattr(cuda, "BATCH_SIZES", (1, 2, 4))
    monkeypatch.setattr(CudaEngine, "max_batch", 4)


def test_every_batch_size_is_captured_in_every_lane(fitted, events, small):
    CudaEngine(fitted.artifact)
    assert events == ["synchronize", *["capture"] * 3 * CudaEngine.streams]  # the weights are there before they are read


def test_the_graphs_of_a_lane_share_their_memory_and_those_of_two_lanes_do_not(fitted, events, small, monkeypatch):
    pools = []
    monkeypatch.setattr(cuda, "_capture", lambda compute, stream, pool: pools.append(pool) or compute)
    CudaEngine(fitted.artifact)
    first, second = pools[:3], pools[3:]
    assert (len(set(map(id, first))), len(set(map(id, second))), len(second)) == (1, 1, 3)
    assert first[0] is not second[0]


@pytest.mark.parametrize("n_images", [1, 3, 4, 9])
def test_a_batch_of_any_size_gives_the_outputs_of_the_cpu(fitted, events, small, pixels, n_images):
    found, expected = (
        engine(pixels[:n_images]) for engine in (CudaEngine(fitted.artifact), loader.load(fitted.artifact, "cpu"))
    )
    np.testing.assert_allclose(found.logits, expected.logits, atol=2e-3)
    np.testing.assert_allclose(found.vectors, expected.vectors, atol=2e-3)
    assert (found.logits.dtype, found.vectors.dtype) == (np.float32, np.float32)


def test_outputs_of_one_call_are_not_overwritten_by_the_next(fitted, events, small, pixels):
    engine = CudaEngine(fitted.artifact)
    first = [engine(pixels[:2]) for _ in range(engine.streams)]
    kept = [outputs.logits.copy() for outputs in first]
    for _ in range(engine.streams):
        engine(pixels[2:4])
    assert all(np.array_equal(outputs.logits, copy) for outputs, copy in zip(first, kept, strict=True))


def test_more_threads_than_lanes_get_their_own_outputs(fitted, events, small, pixels):
    engine = CudaEngine(fitted.artifact)
    expected = [engine(pixels[index : index + 1]).logits for index in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda index: engine(pixels[index : index + 1]).logits, range(8)))
    assert all(np.allclose(one, other, atol=1e-4) for one, other in zip(found, expected, strict=True))


def test_a_network_that_cannot_be_captured_runs_without_graphs(fitted, events, small, pixels, monkeypatch, caplog):
    def refuse(compute, stream, pool):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(cuda, "_capture", refuse)
    expected = loader.load(fitted.artifact, "cpu")(pixels[:3]).logits
    np.testing.assert_allclose(CudaEngine(fitted.artifact)(pixels[:3]).logits, expected, atol=2e-3)
    assert "cannot be captured as a CUDA graph, and is slower without: CUDA error: operation not permitted" in caplog.text


@pytest.mark.parametrize("error", [torch.AcceleratorError("CUDA error: an illegal memory access"), RuntimeError("cuDNN error")])
def test_an_error_of_the_card_says_that_the_device_has_failed(fitted, events, small, pixels, monkeypatch, error):
    engine = CudaEngine(fitted.artifact)

    def fail(*_):
        raise error

    monkeypatch.setattr(cuda._Lane, "run", fail)
    for _ in range(engine.streams + 1):  # the lanes are not lost
        with pytest.raises(DeviceFailed, match=str(error)):
            engine(pixels[:1])


def test_a_card_that_is_full_has_failed_before_the_first_request(fitted, events, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(cuda, "_empty_pinned", full)
    with pytest.raises(DeviceFailed, match="CUDA out of memory"):
        loader.load(fitted.artifact, "cuda")


def test_auto_takes_the_cpu_if_the_network_does_not_fit_into_the_card(fitted, events, monkeypatch, caplog):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(cuda, "_empty_pinned", full)
    monkeypatch.setattr(model, "resolve_device", lambda setting: "cpu" if setting == "cpu" else "cuda")
    assert model.load(fitted.artifact, "auto").engine.device == "cpu"
    assert "the CPU is used, not the GPU: CUDA out of memory. Tried to allocate 2.00 GiB" in caplog.text
    with pytest.raises(DeviceFailed, match="CUDA out of memory"):
        model.load(fitted.artifact, "cuda")


def test_int8_is_not_for_gpus(fitted, events):
    with pytest.raises(ArtifactError, match="int8 is not supported on a GPU; use one of f32, tf32, bf16, f16"):
        CudaEngine(fitted.artifact, "int8")


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((7, 5), ("f32", "f16")), ((8, 0), ("f32", "tf32", "bf16", "f16")), ((9, 0), ("f32", "tf32", "bf16", "f16"))],
)
def test_tf32_and_bf16_need_the_hardware(monkeypatch, capability, expected):
    fake_cuda.install(monkeypatch, capability)
    assert loader.supported_precisions("cuda") == expected


def test_f32_is_ieee_and_only_tf32_is_tf32():
    backends = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    before = [backend.fp32_precision for backend in backends]
    for precision, expected in (("f32", "ieee"), ("tf32", "tf32"), ("f16", "ieee")):
        with product_precision(precision):
            assert [backend.fp32_precision for backend in backends] == [expected] * 2
    assert [backend.fp32_precision for backend in backends] == before


def test_the_kernels_are_captured_in_the_precision_of_the_engine(fitted, events, small, monkeypatch):
    seen = set()
    monkeypatch.setattr(
        cuda, "_capture", lambda compute, stream, pool: seen.add(torch.backends.cudnn.conv.fp32_precision) or compute
    )
    CudaEngine(fitted.artifact, "tf32")
    assert seen == {"tf32"}
    CudaEngine(fitted.artifact, "f32")
    assert seen == {"tf32", "ieee"}


@needs_cuda
@pytest.mark.parametrize("precision", ["auto", "f32", "tf32", "bf16", "f16"])
def test_a_gpu_passes_the_golden_check(fitted, precision):
    if precision != "auto" and precision not in cuda.supported_precisions():
        pytest.skip(f"needs a GPU with {precision}")
    loaded = model.load(fitted.artifact, "cuda", precision=precision)
    assert loaded.passes
    assert loaded.engine.device == "cuda"
    assert precision in ("auto", loaded.engine.precision)


@needs_cuda
def test_a_gpu_serves_parallel_threads_and_splits_large_batches(fitted, pixels):
    engine, expected = loader.load(fitted.artifact, "cuda"), loader.load(fitted.artifact, "cpu")(pixels).logits
    with ThreadPoolExecutor(engine.streams) as pool:
        for outputs in pool.map(engine, [pixels] * 4):
            np.testing.assert_allclose(outputs.logits, expected, atol=1e-2)


@needs_cuda
@pytest.mark.parametrize("n_images", BATCH_SIZES)
def test_a_gpu_gives_the_same_outputs_at_every_batch_size(fitted, pixels, n_images):
    engine, expected = loader.load(fitted.artifact, "cuda"), loader.load(fitted.artifact, "cpu")(pixels[:n_images]).logits
    np.testing.assert_allclose(engine(pixels[:n_images]).logits, expected, atol=1e-2)
