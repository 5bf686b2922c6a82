"""The pixels of a polygon that somebody drew. ValueError where its points are none."""

import numpy as np
from PIL import Image, ImageDraw

from ralx.datasets.geometry import Size

_FARTHEST = 1e6  # pixels; what draws polygons has integers of 32 bits


def middles_inside(points: np.ndarray, size: Size) -> np.ndarray:
    """The pixels whose middles lie in a polygon, bool [h, w]. Points are (x, y) in pixels from the image's
    corner, [N, 2]; where edges cross, a middle is inside that an odd number of them surrounds."""
    start = _checked(points)
    end = np.roll(start, -1, axis=0)
    middles = np.arange(size[0]) + 0.5
    edges, rows = np.nonzero((start[:, 1, None] <= middles) != (end[:, 1, None] <= middles))
    along = (middles[rows] - start[edges, 1]) / (end[edges, 1] - start[edges, 1])
    crossings = start[edges, 0] + along * (end[edges, 0] - start[edges, 0])
    columns = np.clip(np.ceil(crossings - 0.5), 0, size[1]).astype(np.int64)
    counts = np.zeros((size[0], size[1] + 1), np.int64)
    np.add.at(counts, (rows, columns), 1)
    return np.cumsum(counts, axis=1)[:, :-1] % 2 == 1


def with_edge(points: np.ndarray, size: Size) -> np.ndarray:
    """The pixels of a polygon and of its edge as Pillow draws it, bool [h, w]. Points are (x, y), [N, 2]; a
    pixel's middle is a whole number."""
    corners = [(x, y) for x, y in _checked(points).tolist()]
    image = Image.new("L", (size[1], size[0]))
    ImageDraw.Draw(image).polygon(corners, outline=1, fill=1)
    return np.asarray(image) > 0


def _checked(points: np.ndarray) -> np.ndarray:
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or not (np.abs(points) < _FARTHEST).all():
        raise ValueError(f"expected a polygon of three or more points (x, y), found {points.tolist()[:3]}")
    return points
