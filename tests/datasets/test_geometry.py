"""Sizes at a reduced scale, and the cells of a region."""

import itertools

import pytest

from ralx.datasets import choose_cells, scaled_size


@pytest.mark.parametrize(
    ("scale", "expected"), [(1.0, (90, 80)), (0.5, (45, 40)), (0.25, (22, 20)), (0.1, (9, 8))]
)
def test_a_region_is_scaled_down_to_whole_pixels(scale, expected):
    assert scaled_size((90, 80), scale) == expected


def test_scaling_means_the_decimal_that_was_written():
    assert scaled_size((100, 200), 0.29) == (29, 58)  # 100 * 0.29 is 28.999… in binary floating point


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.25, 0.3, 0.7])
def test_no_region_is_lost_at_any_scale(scale):
    height, width = scaled_size((360, 480), scale)
    rh, rw = scaled_size((90, 80), scale)
    assert (height // rh, width // rw) == (4, 6)


OUTSIDE = "scale: expected a number above 0 and at most 1, got"


@pytest.mark.parametrize(
    ("scale", "message"),
    [(0.0, OUTSIDE), (-0.5, OUTSIDE), (1.5, OUTSIDE), (0.01, "scale: 0.01 leaves nothing of 90x80")],
)
def test_a_scale_that_is_none_or_leaves_no_pixel_is_refused(scale, message):
    with pytest.raises(ValueError, match=message):
        scaled_size((90, 80), scale)


@pytest.mark.parametrize(
    ("region", "cells"),
    [
        ((90, 80), (8, 8)),
        ((45, 40), (8, 8)),
        ((22, 20), (5, 5)),
        ((128, 128), (8, 8)),
        ((24, 32), (8, 8)),
        ((1, 1), (1, 1)),
    ],
)
def test_cells_pool_most_of_a_region(region, cells):
    assert choose_cells(region) == cells


@pytest.mark.parametrize("height", range(1, 41, 3))
@pytest.mark.parametrize("width", [1, 7, 15, 22, 39])
def test_at_least_85_percent_of_any_region_is_pooled(height, width):
    ch, cw = choose_cells((height, width))
    assert 1 <= ch <= 8 and 1 <= cw <= 8
    assert (height // ch * ch) * (width // cw * cw) >= 0.85 * height * width


def test_of_a_region_cut_at_the_border_no_smaller_share_is_pooled():
    height, width = 22, 20
    ch, cw = choose_cells((height, width))
    whole = (height // ch * ch) * (width // cw * cw) / (height * width)
    for h, w in itertools.product(range(1, height + 1), range(1, width + 1)):
        assert min(h, height // ch * ch) * min(w, width // cw * cw) / (h * w) >= whole


def test_cells_that_were_asked_for_shrink_evenly():
    assert choose_cells((16, 16), (8, 4)) == (8, 4)
    assert choose_cells((15, 16), (8, 4)) == (7, 3)


@pytest.mark.parametrize(("region", "wanted"), [((0, 4), (8, 8)), ((4, 4), (0, 8))])
def test_sizes_below_one_are_refused(region, wanted):
    with pytest.raises(ValueError, match="region_size, wanted: expected sizes of at least 1, got"):
        choose_cells(region, wanted)
