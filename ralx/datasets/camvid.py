"""CamVid in the layout of the SegNet tutorial: train, val and test, each with its folder of labels."""

from pathlib import Path

import numpy as np
from PIL import Image

from ralx.datasets.classes import CAMVID_CLASSES, CAMVID_IGNORE
from ralx.datasets.dataset import SegmentationDataset
from ralx.datasets.files import (
    FolderSource,
    ImageFile,
    existing_folder,
    image_files,
    label_ids,
    mapped_labels,
)
from ralx.datasets.geometry import scaled_size

_IDS = np.arange(256, dtype=np.uint8)
_ALLOWED = _IDS <= CAMVID_IGNORE


def _labels(path: Path, image: Image.Image) -> np.ndarray:
    expected = f"label ids 0..{CAMVID_IGNORE}, {CAMVID_IGNORE} for void"
    return mapped_labels(path, label_ids(path, image), _IDS, _ALLOWED, expected)


def camvid_folder(
    root: Path, part: str, *, scale: float = 1.0, memory_limit: int | None = None
) -> SegmentationDataset:
    """The images of `root/part` (train, val or test) with the labels of `root/{part}annot`.

    Images are PNG or JPEG, labels PNG of ids 0..11. DataError for missing folders and an empty one.
    """
    images = image_files(root / part, f"CamVid's {part} images")
    annotations = existing_folder(root / f"{part}annot", f"the labels of CamVid's {part} images")
    files = [ImageFile(name, path, annotations / f"{name}.png") for name, path in images.items()]
    return SegmentationDataset(
        FolderSource(files, _labels, lambda size: scaled_size(size, scale)),
        name=f"camvid {part}",
        classes=CAMVID_CLASSES,
        ignore_index=CAMVID_IGNORE,
        memory_limit=memory_limit,
    )
