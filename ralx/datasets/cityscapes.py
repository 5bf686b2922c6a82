"""Cityscapes in its own layout: leftImg8bit and gtFine, each with a folder per part and city."""

from pathlib import Path

import numpy as np
from PIL import Image

from ralx.datasets.classes import CITYSCAPES_CLASSES, CITYSCAPES_IDS, CITYSCAPES_IGNORE
from ralx.datasets.dataset import SegmentationDataset
from ralx.datasets.errors import DataError
from ralx.datasets.files import (
    FolderSource,
    ImageFile,
    existing_folder,
    image_files,
    label_ids,
    mapped_labels,
)
from ralx.datasets.geometry import scaled_size

_IMAGE_END = "_leftImg8bit"
_LABEL_IDS, _TRAIN_IDS = "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"
_VALUES = np.arange(256)
_ALLOWED_IDS = (_VALUES <= 33) | (_VALUES == 255)  # 255 is id -1, the licence plate
_ALLOWED_TRAIN_IDS = (len(CITYSCAPES_CLASSES) > _VALUES) | (_VALUES == CITYSCAPES_IGNORE)


def _labels(path: Path, image: Image.Image) -> np.ndarray:
    ids = label_ids(path, image)
    if path.name.endswith(_TRAIN_IDS):
        return mapped_labels(
            path, ids, _VALUES.astype(np.uint8), _ALLOWED_TRAIN_IDS, "train ids 0..18 or 255"
        )
    return mapped_labels(path, ids, CITYSCAPES_IDS, _ALLOWED_IDS, "label ids 0..33 or 255")


def cityscapes_folder(
    root: Path, part: str, *, scale: float = 1.0, memory_limit: int | None = None
) -> SegmentationDataset:
    """The images of `root/leftImg8bit/part` (train or val) with the fine labels of `root/gtFine/part`.

    Labels are `*_gtFine_labelIds.png`, mapped to 19 train ids, or where those are missing
    `*_gtFine_labelTrainIds.png`. Names are "city_000000_000019". DataError for missing and empty folders.
    """
    images = existing_folder(root / "leftImg8bit" / part, f"Cityscapes' {part} images by city")
    labels = existing_folder(root / "gtFine" / part, f"Cityscapes' fine {part} labels by city")
    files = [
        _image_file(path, labels / city.name)
        for city in sorted(images.iterdir())
        if city.is_dir()
        for path in image_files(city, f"images of {city.name}").values()
    ]
    if not files:
        raise DataError(f"{images}: expected a folder of images per city, found none")
    return SegmentationDataset(
        FolderSource(sorted(files), _labels, lambda size: scaled_size(size, scale)),
        name=f"cityscapes {part}",
        classes=CITYSCAPES_CLASSES,
        ignore_index=CITYSCAPES_IGNORE,
        memory_limit=memory_limit,
    )


def _image_file(path: Path, labels: Path) -> ImageFile:
    if not path.stem.endswith(_IMAGE_END):
        raise DataError(f"{path}: expected a name that ends in {_IMAGE_END}, as Cityscapes' images have")
    name = path.stem.removesuffix(_IMAGE_END)
    train_ids = labels / (name + _TRAIN_IDS)
    label_file = labels / (name + _LABEL_IDS)
    return ImageFile(
        name, path, train_ids if train_ids.is_file() and not label_file.is_file() else label_file
    )
