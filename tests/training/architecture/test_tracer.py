"""The traced model summary, compared with torch's real outputs and with how pixels really propagate."""

import pytest
import timm
import torch
from torch import Tensor, nn

from graft.service.networks import torchvision  # noqa: F401 - registers the torchvision networks
from graft.training.architecture.layers import Layer, ModelSummary
from graft.training.architecture.receptive_field import ReceptiveField
from graft.training.architecture.tracer import trace_layers

SIDE = 64


def summarize(network: nn.Module, side: int = SIDE) -> ModelSummary:
    return trace_layers(network.to("meta"), torch.empty(1, 3, side, side, device="meta"))


def layers_of_kind(network: nn.Module, kind: str) -> list[Layer]:
    return [layer for layer in summarize(network).layers if layer.kind == kind]


def meta_network(name: str, **options: int) -> nn.Module:
    """A network without data, for its shapes only."""
    with torch.device("meta"):
        return timm.create_model(name, **options)


def propagate_nan(network: nn.Module, names: list[str], side: int) -> dict[str, Tensor]:
    """For each module, which image rows affect which rows of its output map: bool (side, rows).

    A row of NaN in the image makes every value that depends on it NaN.
    """
    images = torch.zeros(side, 3, side, side)
    images[range(side), :, range(side)] = torch.nan
    reached = {}

    def make_hook(name: str):
        def hook(_: nn.Module, __: object, out: Tensor) -> None:
            reached[name] = out.isnan().any(dim=3).any(dim=1)

        return hook

    for name in names:
        network.get_submodule(name).register_forward_hook(make_hook(name))
    with torch.no_grad():
        network.eval()(images)
    return reached


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tv_alexnet", {}),
        ("googlenet", {}),
        ("resnet18", {}),
        ("densenet121", {"growth_rate": 4}),
        ("tf_efficientnet_lite0", {}),
    ],
)
def test_pixel_affects_exactly_the_positions_with_it_in_their_field(name: str, options: dict):
    layers = summarize(meta_network(name, **options)).layers
    fields = {layer.name: layer.receptive_field for layer in layers if layer.kernel and "global" not in layer.kind}
    assert len(fields) >= 8
    for module, rows in propagate_nan(timm.create_model(name, **options), list(fields), SIDE).items():
        for position in range(rows.shape[1]):
            _, top, _, bottom = fields[module].box(position, 0)
            affecting = rows[:, position].nonzero().flatten().tolist()
            assert (affecting[0], affecting[-1] + 1) == (max(0, top), min(SIDE, bottom)), module


@pytest.mark.parametrize(
    ("name", "layer", "size"),
    [
        ("alexnet", "stages.2.pool", 195),
        ("vgg16", "features.30", 212),
        ("inception_v3", "Mixed_7c", 1311),
        ("mobilenetv1_100", "blocks.4.1.conv_pw", 315),
    ],
)
def test_deep_networks_match_the_fields_of_araujo_et_al(name: str, layer: str, size: int):
    fields = {layer.name: layer.receptive_field for layer in summarize(meta_network(name), 227).layers}
    assert fields[layer].size == (size, size)


def test_window_can_be_rectangular():
    network = nn.Sequential(nn.Conv2d(3, 4, (1, 7), padding=(0, 3)), nn.Conv2d(4, 4, (7, 1), stride=(1, 2)))
    first, second = summarize(network).layers
    assert (first.kernel, first.receptive_field.box(0, 0)) == ((1, 7), (-3, 0, 4, 1))
    assert (second.output, second.receptive_field.stride) == ((58, 32, 4), (1, 2))


def test_functional_call_is_a_layer():
    class Pooling(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.max_pool2d(x, 3, 2, padding=1)

    [layer] = layers_of_kind(nn.Sequential(Pooling()), "max pool")
    assert (layer.name, layer.output, layer.kernel, layer.stride, layer.padding) == ("0", (32, 32, 3), (3, 3), (2, 2), (1, 1))


def test_tensorflow_padding_at_one_end_is_half_a_cell_at_each():
    layer = summarize(meta_network("tf_efficientnet_lite0")).layers[0]
    assert (layer.name, layer.padding, layer.output) == ("conv_stem", (0.5, 0.5), (32, 32, 32))


def test_layer_after_flatten_has_a_global_field():
    layer = summarize(meta_network("lenet5"), 32).layers[4]
    assert (layer.name, layer.receptive_field) == ("hidden.fc1", ReceptiveField((32, 32), (0, 0), (16, 16)))


def test_gate_does_not_change_the_field_of_the_features():
    layers = {layer.name: layer for layer in summarize(meta_network("efficientnet_b0")).layers}
    assert layers["blocks.0.0.se.conv_reduce"].receptive_field.size == (64, 64)
    assert layers["blocks.0.0.conv_pw"].receptive_field == layers["blocks.0.0.conv_dw"].receptive_field


def test_attention_has_a_global_field():
    layers = {layer.name: layer for layer in summarize(meta_network("vit_tiny_patch16_224"), 224).layers}
    assert layers["blocks.0.attn.qkv"].receptive_field.size == (16, 16)
    assert layers["blocks.0.attn"].receptive_field == ReceptiveField((224, 224), (0, 0), (112, 112))
    assert layers["blocks.0.attn"].multiply_adds == 2 * 197 * 197 * 192


def test_window_attention_has_an_unknown_field():
    layers = summarize(meta_network("swin_tiny_patch4_window7_224"), 224).layers
    assert layers[0].receptive_field.size == (4, 4)
    assert layers[-1].receptive_field is None


def test_weight_scale_is_counted_in_others():
    summary = summarize(meta_network("nf_resnet26"))
    assert sum(layer.weights for layer in summary.layers) == summary.weights
    assert summary.layers[-1].name == "(others)"


def test_bytes_count_parameters_and_buffers():
    assert summarize(nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4))).n_bytes == (12 + 4 * 4) * 4 + 8
