"""Data sets: images with labels, the splits that an experiment needs, and a generator of street scenes."""

from ralx.datasets.classes import CAMVID_CLASSES, CITYSCAPES_CLASSES, PALETTES, palette
from ralx.datasets.dataset import SegmentationDataset
from ralx.datasets.errors import DataError
from ralx.datasets.geometry import choose_cells, scaled_crop, scaled_region, scaled_size
from ralx.datasets.splits import Splits, SyntheticSizes, load_splits

__all__ = [
    "CAMVID_CLASSES",
    "CITYSCAPES_CLASSES",
    "PALETTES",
    "DataError",
    "SegmentationDataset",
    "Splits",
    "SyntheticSizes",
    "choose_cells",
    "load_splits",
    "palette",
    "scaled_crop",
    "scaled_region",
    "scaled_size",
]
