import pytest

from graft.training.architecture.receptive_field import (
    ReceptiveField,
    Window,
    ceil_padding,
    conv_multiply_adds,
    conv_weights,
    linear_weights,
    output_size,
    same_padding,
    union,
    whole,
)

PIXEL = ReceptiveField()
THREE = Window((3, 3), before=(1, 1), after=(1, 1))
ALEXNET = [  # kernel, stride, padding, channels in and out of its five convolutions; between them, pooling 3x3 by 2
    (11, 4, 0, 3, 96),
    (5, 1, 2, 96, 256),
    (3, 1, 1, 256, 384),
    (3, 1, 1, 384, 384),
    (3, 1, 1, 384, 256),
]


def test_a_filter_of_11_by_4_makes_55_of_227():
    assert output_size(227, kernel=11, stride=4) == 55


def test_what_does_not_fit_is_left_out():
    assert output_size(224, kernel=11, stride=4, padding=2) == 55


def test_a_dilated_window_is_as_wide_as_it_reaches():
    assert output_size(10, kernel=3, dilation=2) == 6


@pytest.mark.parametrize(("n", "kernel", "stride", "padding"), [(224, 3, 2, (0, 1)), (112, 5, 2, (1, 2)), (7, 3, 1, (1, 1))])
def test_same_padding_is_tensorflows(n, kernel, stride, padding):
    assert same_padding(n, kernel, stride) == padding
    assert output_size(n, kernel, stride, sum(padding) / 2) == -(-n // stride)


@pytest.mark.parametrize(("n", "kernel", "stride", "padding", "found"), [(112, 3, 2, 0, (0, 1)), (7, 3, 2, 1, (1, 1))])
def test_rounding_up_is_padding_at_the_end(n, kernel, stride, padding, found):
    assert ceil_padding(n, kernel, stride, padding) == found


def test_rounding_up_makes_no_window_that_sees_only_padding():
    assert ceil_padding(4, kernel=2, stride=4, padding=1) == (1, 1)


def test_six_filters_of_5_by_5_by_3_have_456_weights():
    assert conv_weights((5, 5), 3, 6) == 456


def test_groups_share_no_weights():
    assert conv_weights((3, 3), 32, 32, groups=32, bias=False) == 288


def test_alexnet_has_62_378_344_weights():
    convolutions = sum(conv_weights((kernel, kernel), c_in, c_out) for kernel, _, _, c_in, c_out in ALEXNET)
    linear = linear_weights(6 * 6 * 256, 4096) + linear_weights(4096, 4096) + linear_weights(4096, 1000)
    assert convolutions + linear == 62_378_344


def test_the_naive_inception_module_takes_854_million_operations():
    branches = [((1, 1), 128), ((3, 3), 192), ((5, 5), 96)]
    assert sum(conv_multiply_adds(kernel, 256, (28, 28), c_out) for kernel, c_out in branches) == 854_196_224


def test_bottlenecks_of_1_by_1_leave_358_million_as_the_lecture_counts_them():
    convolutions = [((1, 1), 256, 64)] * 3 + [((1, 1), 256, 128), ((3, 3), 64, 192), ((5, 5), 64, 96)]
    ours = sum(conv_multiply_adds(kernel, c_in, (28, 28), c_out) for kernel, c_in, c_out in convolutions)
    assert ours == 271_351_808
    # The lecture's total of the six convolutions that it lists has that of 3 by 3 in it twice.
    assert ours + conv_multiply_adds((3, 3), 64, (28, 28), 192) == 358_055_936


def test_three_stacked_3_by_3_see_7_by_7():
    assert PIXEL.through(THREE).through(THREE).through(THREE).size == (7, 7)


def test_a_stride_spreads_the_positions_of_all_that_follows():
    field = PIXEL.through(Window((7, 7), (2, 2), (3, 3), (3, 3))).through(Window((3, 3), (2, 2), (1, 1), (1, 1)))
    assert field == ReceptiveField((11, 11), (4, 4), (0.5, 0.5))


def test_the_first_position_of_a_padded_filter_is_centred_on_the_first_pixel():
    assert PIXEL.through(THREE).box(0, 0) == (-1, -1, 2, 2)


def test_a_box_is_columns_before_rows():
    field = PIXEL.through(Window((1, 7), (2, 3)))
    assert field.box(row=2, column=1) == (3, 4, 10, 5)


def test_padding_that_stands_only_behind_moves_no_field():
    assert PIXEL.through(Window((3, 3), (2, 2), (0, 0), (1, 1))).box(0, 0) == (0, 0, 3, 3)


def test_branches_see_what_the_widest_of_them_sees():
    narrow, wide = PIXEL.through(THREE), PIXEL.through(Window((1, 7), before=(0, 3), after=(0, 3)))
    assert union([narrow, wide]).box(0, 0) == (-3, -1, 4, 2)


def test_a_branch_that_sees_the_whole_image_makes_the_sum_see_it():
    assert union([PIXEL.through(THREE), whole((32, 48))]).box(5, 5) == (0, 0, 48, 32)


def test_branches_of_different_strides_have_no_field_in_common():
    with pytest.raises(ValueError, match="no field in common"):
        union([PIXEL, PIXEL.through(Window((2, 2), (2, 2)))])


def test_all_positions_together_see_no_more_than_the_image():
    assert PIXEL.through(THREE).over((32, 32), (32, 32)) == whole((32, 32))


def test_what_no_window_reaches_stays_unseen():
    field = PIXEL.through(Window((2, 2), (3, 3)))
    assert field.over((3, 3), (10, 10)).box(0, 0) == (0, 0, 8, 8)
