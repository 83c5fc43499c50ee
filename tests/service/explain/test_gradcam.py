"""Grad-CAM: equals the class activation map where one exists, and finds planted evidence."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from graft.service.explain.explainer import Explainer, UnsupportedMethod
from graft.service.explain.gradcam import GradCam, compute_gradcam, to_spatial
from graft.service.manifest import Backbone, Preprocessing
from graft.service.networks.network import Network

ROOT = Path(__file__).parents[3]
PLAIN = Preprocessing(resize=32, crop=32, mean=(0, 0, 0), std=(1, 1, 1))


class Colors(nn.Module):
    """A body with a map of the image's three colors on an 8x8 grid."""

    num_features = 3

    def forward_features(self, batch: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(batch.requires_grad_(), 4)

    def forward_head(self, last: Tensor) -> Tensor:
        return last.amax(dim=(2, 3))


class Tokens(nn.Module):
    """A body like a ViT: a class token before the patch tokens, and only the class token reaches the head."""

    num_features, num_prefix_tokens = 3, 1
    feature_info = ({"module": "first", "num_chs": 3}, {"module": "last", "num_chs": 3})

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Identity(), nn.Identity()

    def forward_features(self, batch: Tensor) -> Tensor:
        colors = nn.functional.avg_pool2d(batch.requires_grad_(), 4).flatten(2).transpose(1, 2)
        tokens = self.first(torch.cat([torch.zeros(1, 1, 3), colors], dim=1))
        return self.last(torch.cat([tokens.mean(dim=1, keepdim=True), tokens[:, 1:]], dim=1))

    def forward_head(self, last: Tensor) -> Tensor:
        return last[:, 0]


def planted(body: nn.Module) -> Network:
    """A network: the first label's logit is the body's red output, the second's the blue output."""
    facts = Backbone(name="planted", weights="none", license="none", sha256="", width=3)
    network = Network(body, facts, 2, PLAIN).eval()
    network.head.weight.data = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]])
    return network


def scene() -> Tensor:
    """Red in the upper right corner, blue in the lower left one, green in the middle."""
    picture = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    picture[:, :8, 24:, 0], picture[:, 24:, :8, 2], picture[:, 12:20, 12:20, 1] = 200, 200, 200
    return picture


@pytest.mark.parametrize("body", [Colors(), Tokens()])
def test_map_is_positive_only_at_the_evidence(body):
    expected = np.zeros((8, 8), bool)
    expected[:2, 6:] = True
    red, blue = (compute_gradcam(planted(body), scene(), label) for label in (0, 1))
    assert np.array_equal(red > 0.01, expected)
    assert np.array_equal(blue > 0.01, expected[::-1, ::-1])


def test_network_without_a_spatial_map_returns_none():
    class Flat(Colors):
        def forward_features(self, batch: Tensor) -> Tensor:
            return batch.requires_grad_().mean(dim=(2, 3))

        def forward_head(self, last: Tensor) -> Tensor:
            return last

    assert compute_gradcam(planted(Flat()), scene(), 0) is None


@pytest.mark.parametrize(
    ("shape", "n_prefix", "expected"),
    [
        ((1, 5, 2, 3), 0, (5, 2, 3)),
        ((1, 2, 3, 5), 0, (5, 2, 3)),
        ((1, 10, 5), 1, (5, 3, 3)),
        ((1, 11, 5), 1, None),
        ((1, 5, 1, 1), 0, None),
        ((1, 4, 4), 0, None),
        ((1, 5), 0, None),
    ],
)
def test_to_spatial_handles_every_layout(shape, n_prefix, expected):
    found = to_spatial(torch.arange(np.prod(shape)).reshape(shape).float(), 5, n_prefix)
    assert (None if found is None else tuple(found.shape)) == expected


def test_tokens_are_in_row_major_order():
    tokens = torch.tensor([[[9.0], [0.0], [1.0], [2.0], [3.0]]])
    assert to_spatial(tokens, 1, 1).tolist() == [[[0, 1], [2, 3]]]


def test_gradcam_equals_cam_of_a_pooled_network(model, clothes):
    explainer, gradcam = Explainer(model.artifact), GradCam(model.artifact, 1)
    for label, (_, encoded) in enumerate(clothes[:4]):
        decoded = model.decode(encoded)
        exact = explainer.explain(decoded, label, "cam")
        np.testing.assert_allclose(gradcam(decoded.pixels, label), exact.map, atol=1e-3 * np.abs(exact.map).max())


def test_gradcam_of_a_pooled_network_needs_no_torch(fitted):
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path; from graft.service.inference import model\n"
        "from graft.service.explain.explainer import Explainer\n"
        f"loaded = model.load(Path({str(fitted.artifact.path)!r}), 'cpu')\n"
        "golden = loaded.contents.golden\n"
        "explainer, decoded = Explainer(loaded.artifact), loaded.decode(golden.encoded[0])\n"
        "found, exact = (explainer.explain(decoded, 0, method) for method in ('gradcam', 'cam'))\n"
        "print(found.method, found.bias, (found.map == exact.map).all())"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True, cwd=ROOT) == "gradcam 0.0 True\n"


@pytest.mark.parametrize(
    ("name", "head_input", "shape"),
    [
        ("resnet18", "all", (2, 2)),
        ("lcnet_035", "last", (2, 2)),
        pytest.param("swin_tiny_patch4_window7_224", "all", (2, 2), marks=pytest.mark.slow),
        ("vit_tiny_patch16_224", "last", (4, 4)),
    ],
)
def test_gradcam_of_other_networks(pack, encode, name, head_input, shape):
    package = pack(name, head_input)
    noise = encode(np.random.default_rng(1).integers(0, 256, (80, 90, 3), dtype=np.uint8))
    found = Explainer(package.artifact).explain(package.decode(noise), 3, "gradcam")
    assert (found.map.shape, found.map.dtype) == (shape, np.float32)
    assert np.ptp(found.map) > 0


def test_without_torch_the_default_method_is_occlusion(pack):
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path; from graft.service.inference import model\n"
        "from graft.service.explain.explainer import Explainer, UnsupportedMethod\n"
        f"loaded = model.load(Path({str(pack('lcnet_035', 'last').artifact.path)!r}), 'cpu')\n"
        "golden = loaded.contents.golden\n"
        "explainer, decoded = Explainer(loaded.artifact), loaded.decode(golden.encoded[0])\n"
        "try:\n    explainer.explain(decoded, 0, 'gradcam')\n"
        "except UnsupportedMethod as error:\n    print(error)\n"
        "print(explainer.explain(decoded, 0).method)"
    )
    output = subprocess.check_output([sys.executable, "-c", program], text=True, cwd=ROOT)
    assert output == ("Grad-CAM needs torch and timm, but torch is not installed; use occlusion.\nocclusion\n")


def test_mlp_does_not_support_gradcam(pack, encode, photo):
    package = pack("mlp", "last")
    explainer, decoded = Explainer(package.artifact), package.decode(encode(photo))
    with pytest.raises(UnsupportedMethod, match="depends on no spatial feature map; use occlusion"):
        explainer.explain(decoded, 0, "gradcam")
    assert explainer.explain(decoded, 0).method == "occlusion"


def test_gradcam_of_lenet5(pack, encode, photo):
    package = pack("lenet5", "last")
    found = Explainer(package.artifact).explain(package.decode(encode(photo)), 0, "gradcam")
    assert found.map.shape == (13, 13)
    assert np.ptp(found.map) > 0
