"""Pixels of polygons, beside a plain test of every pixel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ralx.labelling.formats.polygons import middles_inside, with_edge

coordinates = st.integers(-12, 40).map(lambda quarter: quarter / 4)


def plainly_inside(points: list[tuple[float, float]], x: float, y: float) -> bool:
    """Whether a ray to the left crosses an odd number of edges."""
    crossings = 0
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        if (y0 <= y) != (y1 <= y) and x0 + (y - y0) / (y1 - y0) * (x1 - x0) <= x:
            crossings += 1
    return crossings % 2 == 1


@settings(deadline=None)
@given(st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=7))
def test_pixels_are_those_whose_middles_are_inside(points):
    mask = middles_inside(np.array(points), (8, 9))
    plain = [[plainly_inside(points, column + 0.5, row + 0.5) for column in range(9)] for row in range(8)]
    np.testing.assert_array_equal(mask, plain)


def test_the_edge_belongs_to_a_drawn_polygon():
    mask = with_edge(np.array([(1, 2), (4, 2), (4, 5), (1, 5)]), (8, 9))
    expected = np.zeros((8, 9), bool)
    expected[2:6, 1:5] = True
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize(
    "points",
    [[], [(1, 2), (3, 4)], [(1, 2, 3)] * 3, [(0, 0), (1, 1), (np.nan, 2)], [(0, 0)] * 2 + [(1e7, 2)]],
)
@pytest.mark.parametrize("pixels", [middles_inside, with_edge])
def test_points_that_are_no_polygon_are_refused(pixels, points):
    with pytest.raises(ValueError, match="expected a polygon of three or more points"):
        pixels(np.array(points, float), (8, 9))
