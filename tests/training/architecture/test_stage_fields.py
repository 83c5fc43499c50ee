"""The receptive field of a stage: the largest among its branches; unknown fields are left out."""

from graft.training.architecture.layers import Layer, ModelSummary, stage_receptive_fields
from graft.training.architecture.receptive_field import ReceptiveField, full_image_field


def layer(name: str, output: tuple[int, int, int], size: int | None, stride: int = 4) -> Layer:
    field = None if size is None else ReceptiveField((size, size), (stride, stride))
    return Layer(name, "convolution", output, field)


def field_sizes(*layers: Layer) -> dict[str, int]:
    found = stage_receptive_fields(
        ModelSummary(layers, (64, 64), 0, 0),
        {"stage1": "backbone.layer1", "stage2": "backbone.layer2"},
        {"stage1": (8, 16, 16), "stage2": (16, 8, 8), "last": (16, 8, 8)},
    )
    return {stage: field.size[0] for stage, field in found.items()}


def test_largest_branch_counts_although_a_shortcut_runs_last():
    assert field_sizes(layer("backbone.layer1.conv", (16, 16, 8), 19), layer("backbone.layer1.shortcut", (16, 16, 8), 7)) == {
        "stage1": 19
    }


def test_only_layers_inside_the_stage_count():
    similar_name = layer("backbone.layer10.0", (16, 16, 8), 99)
    layers = [layer("backbone.layer1.0", (16, 16, 8), 9), similar_name, layer("backbone.layer2", (8, 8, 16), 33)]
    assert field_sizes(*layers) == {"stage1": 9, "stage2": 33, "last": 33}


def test_stage_without_layers_uses_layers_of_its_shape():
    assert field_sizes(layer("backbone.features.0", (16, 16, 8), 3), layer("backbone.features.2", (16, 16, 8), 5)) == {
        "stage1": 5
    }


def test_gate_inside_a_stage_is_ignored():
    gate = Layer("backbone.layer1.se", "convolution", (1, 1, 8), full_image_field((64, 64)))
    assert field_sizes(layer("backbone.layer1.0", (16, 16, 8), 9), gate) == {"stage1": 9}


def test_tokens_count_as_a_map():
    assert field_sizes(layer("backbone.layer1", (257, 1, 8), 64, 0)) == {"stage1": 64}


def test_unknown_field_is_left_out():
    assert field_sizes(layer("backbone.layer1.0", (16, 16, 8), 9), layer("backbone.layer1.1", (16, 16, 8), None)) == {}
