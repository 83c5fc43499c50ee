"""Which pixels a stage's positions see: the widest branch's, and nothing where it is not known."""

from graft.training.architecture.layers import Anatomy, Layer, fields
from graft.training.architecture.receptive_field import ReceptiveField, whole


def layer(name: str, output: tuple[int, int, int], size: int | None, stride: int = 4) -> Layer:
    field = None if size is None else ReceptiveField((size, size), (stride, stride))
    return Layer(name, "convolution", output, field)


def seen(*layers: Layer) -> dict[str, int]:
    found = fields(
        Anatomy(layers, (64, 64), 0, 0),
        {"stage1": "backbone.layer1", "stage2": "backbone.layer2"},
        {"stage1": (8, 16, 16), "stage2": (16, 8, 8), "last": (16, 8, 8)},
    )
    return {stage: field.size[0] for stage, field in found.items()}


def test_the_widest_branch_counts_although_a_shortcut_runs_last():
    assert seen(layer("backbone.layer1.conv", (16, 16, 8), 19), layer("backbone.layer1.shortcut", (16, 16, 8), 7)) == {
        "stage1": 19
    }


def test_only_layers_inside_the_stage_count():
    like_it = layer("backbone.layer10.0", (16, 16, 8), 99)
    layers = [layer("backbone.layer1.0", (16, 16, 8), 9), like_it, layer("backbone.layer2", (8, 8, 16), 33)]
    assert seen(*layers) == {"stage1": 9, "stage2": 33, "last": 33}


def test_a_stage_that_ends_in_a_module_without_layers_is_the_end_of_its_shape():
    assert seen(layer("backbone.features.0", (16, 16, 8), 3), layer("backbone.features.2", (16, 16, 8), 5)) == {"stage1": 5}


def test_a_gate_inside_a_stage_says_nothing_of_its_map():
    gate = Layer("backbone.layer1.se", "convolution", (1, 1, 8), whole((64, 64)))
    assert seen(layer("backbone.layer1.0", (16, 16, 8), 9), gate) == {"stage1": 9}


def test_tokens_are_a_map_too():
    assert seen(layer("backbone.layer1", (257, 1, 8), 64, 0)) == {"stage1": 64}


def test_what_is_not_known_is_left_out():
    assert seen(layer("backbone.layer1.0", (16, 16, 8), 9), layer("backbone.layer1.1", (16, 16, 8), None)) == {}
