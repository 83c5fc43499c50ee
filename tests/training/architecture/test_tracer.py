"""A network's layers by our arithmetic, against what torch really produces and what pixels really reach."""

import pytest
import timm
import torch
from torch import Tensor, nn

from graft.service.networks import torchvision  # noqa: F401 - for their networks' names
from graft.training.architecture.layers import Anatomy, Layer
from graft.training.architecture.receptive_field import ReceptiveField
from graft.training.architecture.tracer import dissect

SIDE = 64


def dissected(network: nn.Module, side: int = SIDE) -> Anatomy:
    return dissect(network.to("meta"), torch.empty(1, 3, side, side, device="meta"))


def only(network: nn.Module, kind: str) -> list[Layer]:
    return [layer for layer in dissected(network).layers if layer.kind == kind]


def built(name: str, **choices: int) -> nn.Module:
    """A network that is there for its shapes alone."""
    with torch.device("meta"):
        return timm.create_model(name, **choices)


def reached(network: nn.Module, names: list[str], side: int) -> dict[str, Tensor]:
    """For each module, which of the image's rows reach which of its map's rows: bool (side, rows).

    An image's row that is no number makes all that depends on it no number either.
    """
    lines = torch.zeros(side, 3, side, side)
    lines[range(side), :, range(side)] = torch.nan
    found = {}

    def keep(name: str):
        def kept(_: nn.Module, __: object, out: Tensor) -> None:
            found[name] = out.isnan().any(dim=3).any(dim=1)

        return kept

    for name in names:
        network.get_submodule(name).register_forward_hook(keep(name))
    with torch.no_grad():
        network.eval()(lines)
    return found


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("tv_alexnet", {}),
        ("googlenet", {}),
        ("resnet18", {}),
        ("densenet121", {"growth_rate": 4}),
        ("tf_efficientnet_lite0", {}),
    ],
)
def test_a_pixel_reaches_just_the_positions_that_see_it(name: str, choices: dict):
    layers = dissected(built(name, **choices)).layers
    known = {layer.name: layer.receptive_field for layer in layers if layer.kernel and "global" not in layer.kind}
    assert len(known) >= 8
    for module, rows in reached(timm.create_model(name, **choices), list(known), SIDE).items():
        for place in range(rows.shape[1]):
            _, top, _, bottom = known[module].box(place, 0)
            seen = rows[:, place].nonzero().flatten().tolist()
            assert (seen[0], seen[-1] + 1) == (max(0, top), min(SIDE, bottom)), module


@pytest.mark.parametrize(
    ("name", "layer", "size"),
    [
        ("alexnet", "stages.2.pool", 195),
        ("vgg16", "features.30", 212),
        ("inception_v3", "Mixed_7c", 1311),
        ("mobilenetv1_100", "blocks.4.1.conv_pw", 315),
    ],
)
def test_deep_networks_see_what_araujo_and_others_computed(name: str, layer: str, size: int):
    fields = {layer.name: layer.receptive_field for layer in dissected(built(name), 227).layers}
    assert fields[layer].size == (size, size)


def test_a_window_may_be_wider_than_high():
    network = nn.Sequential(nn.Conv2d(3, 4, (1, 7), padding=(0, 3)), nn.Conv2d(4, 4, (7, 1), stride=(1, 2)))
    first, second = dissected(network).layers
    assert (first.kernel, first.receptive_field.box(0, 0)) == ((1, 7), (-3, 0, 4, 1))
    assert (second.output, second.receptive_field.stride) == ((58, 32, 4), (1, 2))


def test_a_function_that_is_no_module_is_a_layer_too():
    class Pooling(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.max_pool2d(x, 3, 2, padding=1)

    [layer] = only(nn.Sequential(Pooling()), "max pool")
    assert (layer.name, layer.output, layer.kernel, layer.stride, layer.padding) == ("0", (32, 32, 3), (3, 3), (2, 2), (1, 1))


def test_padding_that_tensorflow_adds_at_the_end_is_half_a_cell_at_each():
    layer = dissected(built("tf_efficientnet_lite0")).layers[0]
    assert (layer.name, layer.padding, layer.output) == ("conv_stem", (0.5, 0.5), (32, 32, 32))


def test_what_follows_a_flattening_sees_the_whole_image():
    layer = dissected(built("lenet5"), 32).layers[4]
    assert (layer.name, layer.receptive_field) == ("hidden.fc1", ReceptiveField((32, 32), (0, 0), (16, 16)))


def test_a_gate_leaves_what_passes_it_its_own_field():
    layers = {layer.name: layer for layer in dissected(built("efficientnet_b0")).layers}
    assert layers["blocks.0.0.se.conv_reduce"].receptive_field.size == (64, 64)
    assert layers["blocks.0.0.conv_pw"].receptive_field == layers["blocks.0.0.conv_dw"].receptive_field


def test_every_token_sees_the_whole_image_after_the_first_attention():
    layers = {layer.name: layer for layer in dissected(built("vit_tiny_patch16_224"), 224).layers}
    assert layers["blocks.0.attn.qkv"].receptive_field.size == (16, 16)
    assert layers["blocks.0.attn"].receptive_field == ReceptiveField((224, 224), (0, 0), (112, 112))
    assert layers["blocks.0.attn"].multiply_adds == 2 * 197 * 197 * 192


def test_where_attention_looks_through_windows_the_field_is_unknown():
    layers = dissected(built("swin_tiny_patch4_window7_224"), 224).layers
    assert layers[0].receptive_field.size == (4, 4)
    assert layers[-1].receptive_field is None


def test_a_scale_that_belongs_to_weights_is_counted_beside_them():
    anatomy = dissected(built("nf_resnet26"))
    assert sum(layer.weights for layer in anatomy.layers) == anatomy.weights
    assert anatomy.layers[-1].name == "(others)"


def test_bytes_are_those_of_weights_and_statistics():
    assert dissected(nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4))).n_bytes == (12 + 4 * 4) * 4 + 8
