"""The head with a kernel machine: the same function in numpy, torch and ONNX, and its gradient."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from graft.service.artifact import ArtifactError, file_record, read
from graft.service.inference.head import Head, Kernel, check_head, load_head
from graft.service.manifest import MANIFEST, WEIGHTS, KernelShape
from graft.service.networks import network as networks
from graft.service.networks.kernel_head import KernelHead

WIDTH, N_LABELS, N_AXES, N_CENTERS = 7, 3, 4, 11


def random_head(seed: int = 0, dtype: type = np.float32) -> Head:
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(dtype)

    offset = random.uniform(0.1, 1, WIDTH).astype(dtype)
    kernel = Kernel(offset, normal(N_AXES, WIDTH) / 3, normal(N_AXES), normal(N_CENTERS, N_AXES), normal(N_LABELS, N_CENTERS))
    return Head(normal(N_LABELS, WIDTH), normal(N_LABELS), kernel)


@pytest.fixture
def inputs() -> np.ndarray:
    rows = np.random.default_rng(1).normal(size=(5, WIDTH))
    rows[0, :3] = 0  # the square root's own slope is infinite there
    return rows


def test_kernel_machine_is_the_sum_over_its_centers(inputs: np.ndarray):
    head = random_head(dtype=np.float64)
    kernel = head.kernel
    roots = np.sign(inputs) * (np.sqrt(np.abs(inputs) + kernel.offset) - np.sqrt(kernel.offset))
    axes = roots @ kernel.projection.T + kernel.shift
    expected = inputs @ head.weight.T + head.bias
    for image in range(len(inputs)):
        for center in range(N_CENTERS):
            distance = ((axes[image] - kernel.centers[center]) ** 2).sum()
            expected[image] += np.exp(-distance) * kernel.coefficients[:, center]
    np.testing.assert_allclose(head(inputs), expected, rtol=1e-9)


def test_a_head_without_a_kernel_is_linear(inputs: np.ndarray):
    head = random_head(dtype=np.float64)
    linear = Head(head.weight, head.bias)
    np.testing.assert_allclose(linear(inputs), inputs @ head.weight.T + head.bias)
    np.testing.assert_array_equal(linear.gradient(inputs[0], 2), head.weight[2])


@pytest.mark.parametrize("label", range(N_LABELS))
def test_gradient_is_that_of_finite_differences(inputs: np.ndarray, label: int):
    head, step = random_head(dtype=np.float64), 1e-6
    for row in inputs[1:]:
        shifted = np.concatenate([row + step * np.eye(WIDTH), row - step * np.eye(WIDTH)])
        up, down = np.split(head(shifted)[:, label], 2)
        np.testing.assert_allclose(head.gradient(row, label), (up - down) / (2 * step), atol=1e-6)


def test_gradient_is_finite_where_a_feature_is_zero(inputs: np.ndarray):
    head, step = random_head(dtype=np.float64), 1e-5
    gradient = head.gradient(inputs[0], 1)
    assert np.isfinite(gradient).all()
    raised = head(np.stack([inputs[0] + step * np.eye(WIDTH)[0], inputs[0]]))[:, 1]
    assert gradient[0] == pytest.approx((raised[0] - raised[1]) / step, rel=1e-3)


def test_torch_gives_the_same_logits_and_gradient(inputs: np.ndarray):
    head = random_head()
    module = KernelHead(WIDTH, N_LABELS, KernelShape(axes=N_AXES, centers=N_CENTERS))
    module.load_state_dict({name.removeprefix("head."): torch.from_numpy(array) for name, array in head.to_tensors().items()})
    batch = torch.from_numpy(inputs.astype(np.float32)).requires_grad_()
    logits = module(batch)
    np.testing.assert_allclose(logits.detach().numpy(), head(inputs.astype(np.float32)), atol=1e-5)
    [gradient] = torch.autograd.grad(logits[1, 2], batch)
    np.testing.assert_allclose(gradient[1].numpy(), head.gradient(inputs[1], 2), atol=1e-4)


@pytest.mark.parametrize("with_kernel", [True, False])
def test_tensors_are_read_back(with_kernel: bool):
    head = random_head() if with_kernel else Head(random_head().weight, random_head().bias)
    tensors = head.to_tensors() | {"backbone.weight": np.zeros(3, np.float32)}
    again = Head.from_tensors(tensors)
    assert (again.kernel is None) == (not with_kernel)
    assert all(again.to_tensors()[name] is array for name, array in head.to_tensors().items())


def test_labels_are_selected_in_order(inputs: np.ndarray):
    head = random_head()
    np.testing.assert_allclose(head.select_labels([2, 0])(inputs), head(inputs)[:, [2, 0]])


@pytest.fixture
def packed(pack, tmp_path: Path) -> Path:
    """A copy of a package with a kernel machine, to damage."""
    source = pack("resnet18", "all", N_CENTERS).artifact.path
    for path in source.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_network_engine_and_head_of_a_package_agree(pack):
    package = pack("resnet18", "all", N_CENTERS)
    batch = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    served = package.engine(batch).logits
    network = networks.load(package.artifact).eval()
    with torch.inference_mode():
        logits, _ = network(torch.from_numpy(batch))
        head_inputs, _ = network.head_inputs(torch.from_numpy(batch))
    np.testing.assert_allclose(served, logits.numpy(), atol=1e-3)
    np.testing.assert_allclose(load_head(package.artifact)(head_inputs.double().numpy()), logits.numpy(), atol=1e-3)


def change_weights(package: Path, **changed: np.ndarray | None) -> None:
    tensors = load_file(package / WEIGHTS) | {f"head.{name}": array for name, array in changed.items()}
    manifest = read(package).manifest
    save_file({name: array for name, array in tensors.items() if array is not None}, package / WEIGHTS)
    files = manifest.files | {WEIGHTS: file_record(package / WEIGHTS)}
    (package / MANIFEST).write_bytes(manifest.model_copy(update={"files": files}).with_digest().to_bytes())


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("centers", None, "does not contain the head: head.centers is missing"),
        ("centers", np.zeros((3, 4), np.float32), "head.centers of F32 and shape (3, 4); expected: F32 and (11, 4)"),
        ("shift", np.full(4, np.nan, np.float32), "has values in head.shift that are not finite"),
        ("offset", np.zeros(1024, np.float32), "has values in head.offset that are not above 0"),
    ],
)
def test_a_kernel_that_does_not_fit_the_manifest_is_rejected(packed: Path, name, array, message):
    change_weights(packed, **{name: array})
    with pytest.raises(ArtifactError) as error:
        check_head(read(packed))
    assert message in str(error.value)


@pytest.mark.parametrize("shape", [{"axes": 0, "centers": 3}, {"axes": 4, "centers": 5_001}, {"axes": 4}])
def test_sizes_of_a_kernel_are_limited(packed: Path, shape: dict[str, int]):
    manifest = json.loads((packed / MANIFEST).read_text())
    manifest["backbone"]["kernel"] = shape
    (packed / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError):
        read(packed)
