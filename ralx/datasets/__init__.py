"""Data sets: images with labels, the splits that an experiment needs, and a generator of street scenes."""

from ralx.datasets.check import DataReport, SplitReport, check_data
from ralx.datasets.classes import (
    CAMVID_CLASSES,
    CAMVID_PALETTE,
    CITYSCAPES_CLASSES,
    CITYSCAPES_PALETTE,
    PALETTES,
    palette,
)
from ralx.datasets.dataset import SegmentationDataset
from ralx.datasets.errors import DataError
from ralx.datasets.geometry import choose_cells, scaled_size
from ralx.datasets.scenes.synthetic import synthetic_dataset
from ralx.datasets.scenes.worlds import WORLDS
from ralx.datasets.splits import DATASETS, LAYOUTS, OWN, Splits, SyntheticSizes, load_splits

__all__ = [
    "CAMVID_CLASSES",
    "CAMVID_PALETTE",
    "CITYSCAPES_CLASSES",
    "CITYSCAPES_PALETTE",
    "DATASETS",
    "LAYOUTS",
    "OWN",
    "PALETTES",
    "WORLDS",
    "DataError",
    "DataReport",
    "SegmentationDataset",
    "SplitReport",
    "Splits",
    "SyntheticSizes",
    "check_data",
    "choose_cells",
    "load_splits",
    "palette",
    "scaled_size",
    "synthetic_dataset",
]
