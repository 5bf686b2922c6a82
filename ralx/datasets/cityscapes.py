"""Cityscapes in its own layout: leftImg8bit and gtFine, each with a folder per part and city."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ralx.datasets.classes import (
    CITYSCAPES_CLASSES,
    CITYSCAPES_IDS,
    CITYSCAPES_IGNORE,
    CITYSCAPES_PALETTE,
    LABEL_COLOURS,
    VOID_COLOUR,
)
from ralx.datasets.dataset import SegmentationDataset
from ralx.datasets.errors import DataError
from ralx.datasets.files import FolderSource, ImageFile, entries, existing_folder, image_files, label_files
from ralx.datasets.labels import LabelCode, ids_of_colours

_IMAGE_END = "_leftImg8bit"
_LABEL_IDS, _TRAIN_IDS = "_gtFine_labelIds", "_gtFine_labelTrainIds"
_VALUES = np.arange(256, dtype=np.uint8)
_PLATE = 255  # id -1, the licence plate
_LABELS = {
    _LABEL_IDS: LabelCode(
        ids="label ids 0..33 or 255",
        allowed=(_VALUES <= 33) | (_VALUES == _PLATE),
        classes=CITYSCAPES_IDS,
        colours=ids_of_colours([*enumerate(LABEL_COLOURS[:34]), (_PLATE, LABEL_COLOURS[34])]),
        whose_colours="Cityscapes' label colours",
    ),
    _TRAIN_IDS: LabelCode(
        ids="train ids 0..18 or 255",
        allowed=(len(CITYSCAPES_CLASSES) > _VALUES) | (_VALUES == CITYSCAPES_IGNORE),
        classes=_VALUES,
        colours=ids_of_colours([*enumerate(CITYSCAPES_PALETTE.values()), (CITYSCAPES_IGNORE, VOID_COLOUR)]),
        whose_colours="the colours of Cityscapes' train ids",
    ),
}


def _labels(path: Path) -> np.ndarray:
    return _LABELS[_TRAIN_IDS if path.stem.endswith(_TRAIN_IDS) else _LABEL_IDS].read(path)


def cityscapes_folder(
    root: Path, part: str, *, scale: float = 1.0, memory_limit: int | None = None
) -> SegmentationDataset:
    """The images of `root/leftImg8bit/part` (train or val) with the fine labels of `root/gtFine/part`.

    Labels are `*_gtFine_labelIds.png`, mapped to 19 train ids, or where those are missing
    `*_gtFine_labelTrainIds.png`, in grey ids or in their colours. Names are "city_000000_000019". DataError
    for missing and empty folders.
    """
    images = existing_folder(root / "leftImg8bit" / part, f"a folder with Cityscapes' {part} images by city")
    labels = existing_folder(root / "gtFine" / part, f"a folder with Cityscapes' fine {part} labels by city")
    files = [
        file for city in entries(images) if city.is_dir() for file in _city_files(city, labels / city.name)
    ]
    if not files:
        raise DataError(f"{images}: expected a folder of images per city, found none")
    return SegmentationDataset(
        FolderSource(sorted(files), _labels, scale),
        name=f"cityscapes {part}",
        classes=CITYSCAPES_CLASSES,
        ignore_index=CITYSCAPES_IGNORE,
        memory_limit=memory_limit,
    )


def _city_files(city: Path, folder: Path) -> Iterator[ImageFile]:
    labels = label_files(folder)
    for stem, path in image_files(city, f"images of {city.name}").items():
        if not stem.endswith(_IMAGE_END):
            raise DataError(f"{path}: expected a name that ends in {_IMAGE_END}, as Cityscapes' images have")
        name = stem.removesuffix(_IMAGE_END)
        train_ids = labels.get(name + _TRAIN_IDS, folder / f"{name}{_LABEL_IDS}.png")
        yield ImageFile(name, path, labels.get(name + _LABEL_IDS, train_ids))
