"""Output sizes, weights, multiply-adds and receptive fields, against known values."""

import pytest

from graft.training.architecture.receptive_field import (
    ReceptiveField,
    SlidingWindow,
    ceil_padding,
    conv_multiply_adds,
    conv_weights,
    full_image_field,
    linear_weights,
    output_size,
    union,
)

PIXEL = ReceptiveField()
THREE = SlidingWindow((3, 3), pad_before=(1, 1), pad_after=(1, 1))
ALEXNET = [  # kernel, stride, padding, input and output channels of the five convolutions
    (11, 4, 0, 3, 96),
    (5, 1, 2, 96, 256),
    (3, 1, 1, 256, 384),
    (3, 1, 1, 384, 384),
    (3, 1, 1, 384, 256),
]


def test_output_size_of_kernel_11_stride_4_on_227_is_55():
    assert output_size(227, kernel=11, stride=4) == 55


def test_output_size_rounds_down():
    assert output_size(224, kernel=11, stride=4, padding=2) == 55


def test_dilation_enlarges_the_window():
    assert output_size(10, kernel=3, dilation=2) == 6


@pytest.mark.parametrize(("n", "kernel", "stride", "padding", "expected"), [(112, 3, 2, 0, (0, 1)), (7, 3, 2, 1, (1, 1))])
def test_ceil_mode_adds_padding_at_the_end(n, kernel, stride, padding, expected):
    assert ceil_padding(n, kernel, stride, padding) == expected


def test_ceil_mode_adds_no_window_over_padding_only():
    assert ceil_padding(4, kernel=2, stride=4, padding=1) == (1, 1)


def test_six_5x5x3_filters_have_456_weights():
    assert conv_weights((5, 5), 3, 6) == 456


def test_depthwise_convolution_has_one_filter_per_channel():
    assert conv_weights((3, 3), 32, 32, groups=32, bias=False) == 288


def test_alexnet_has_62_378_344_weights():
    convolutions = sum(conv_weights((kernel, kernel), c_in, c_out) for kernel, _, _, c_in, c_out in ALEXNET)
    linear = linear_weights(6 * 6 * 256, 4096) + linear_weights(4096, 4096) + linear_weights(4096, 1000)
    assert convolutions + linear == 62_378_344


def test_naive_inception_module_has_854_million_multiply_adds():
    branches = [((1, 1), 128), ((3, 3), 192), ((5, 5), 96)]
    assert sum(conv_multiply_adds(kernel, 256, (28, 28), c_out) for kernel, c_out in branches) == 854_196_224


def test_inception_module_with_1x1_bottlenecks_matches_the_lecture():
    convolutions = [((1, 1), 256, 64)] * 3 + [((1, 1), 256, 128), ((3, 3), 64, 192), ((5, 5), 64, 96)]
    total = sum(conv_multiply_adds(kernel, c_in, (28, 28), c_out) for kernel, c_in, c_out in convolutions)
    assert total == 271_351_808
    # The lecture's total of 358 million counts the 3x3 convolution twice.
    assert total + conv_multiply_adds((3, 3), 64, (28, 28), 192) == 358_055_936


def test_three_stacked_3x3_have_a_7x7_field():
    assert PIXEL.after(THREE).after(THREE).after(THREE).size == (7, 7)


def test_strides_multiply():
    field = PIXEL.after(SlidingWindow((7, 7), (2, 2), (3, 3), (3, 3))).after(SlidingWindow((3, 3), (2, 2), (1, 1), (1, 1)))
    assert field == ReceptiveField((11, 11), (4, 4), (0.5, 0.5))


def test_field_of_a_padded_filter_is_centered_on_the_first_pixel():
    assert PIXEL.after(THREE).box(0, 0) == (-1, -1, 2, 2)


def test_box_lists_columns_before_rows():
    field = PIXEL.after(SlidingWindow((1, 7), (2, 3)))
    assert field.box(row=2, column=1) == (3, 4, 10, 5)


def test_padding_at_the_end_does_not_shift_the_field():
    assert PIXEL.after(SlidingWindow((3, 3), (2, 2), (0, 0), (1, 1))).box(0, 0) == (0, 0, 3, 3)


def test_union_of_branches_covers_all_fields():
    narrow, wide = PIXEL.after(THREE), PIXEL.after(SlidingWindow((1, 7), pad_before=(0, 3), pad_after=(0, 3)))
    assert union([narrow, wide]).box(0, 0) == (-3, -1, 4, 2)


def test_union_with_a_global_branch_is_the_whole_image():
    assert union([PIXEL.after(THREE), full_image_field((32, 48))]).box(5, 5) == (0, 0, 48, 32)


def test_union_of_different_strides_is_an_error():
    with pytest.raises(ValueError, match="no field in common"):
        union([PIXEL, PIXEL.after(SlidingWindow((2, 2), (2, 2)))])


def test_pooled_field_is_clipped_to_the_image():
    assert PIXEL.after(THREE).pooled((32, 32), (32, 32)) == full_image_field((32, 32))


def test_pooled_field_excludes_pixels_that_no_window_covers():
    field = PIXEL.after(SlidingWindow((2, 2), (3, 3)))
    assert field.pooled((3, 3), (10, 10)).box(0, 0) == (0, 0, 8, 8)
