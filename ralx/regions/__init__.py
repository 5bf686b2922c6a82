"""What is labelled: regions, pools of them, and the oracle that knows their labels."""

from ralx.regions.canvas import (
    CanvasGrid,
    grid_over,
    image_sizes,
    images_alone,
    num_pixels,
    trimmed,
)
from ralx.regions.grid import Boxes, Region, RegionGrid, Regions, equal_batches
from ralx.regions.pool import Oracle, RegionPool, chosen_regions

__all__ = [
    "Boxes",
    "CanvasGrid",
    "Oracle",
    "Region",
    "RegionGrid",
    "RegionPool",
    "Regions",
    "chosen_regions",
    "equal_batches",
    "grid_over",
    "image_sizes",
    "images_alone",
    "num_pixels",
    "trimmed",
]
