"""GTA5 (Playing for Data): images and labels in two folders, to pretrain for CamVid or Cityscapes."""

from functools import cache, partial
from pathlib import Path

import numpy as np
from PIL import Image

from ralx.datasets.classes import GTA5_IDS, IGNORE_INDEX, LABEL_COLOURS
from ralx.datasets.dataset import SegmentationDataset
from ralx.datasets.errors import DataError
from ralx.datasets.files import (
    FittedFolderSource,
    ImageFile,
    existing_folder,
    image_files,
    label_ids,
    mapped_labels,
)
from ralx.datasets.geometry import Size

# These images have labels of another size.
DROPPED_IMAGES = frozenset(f"{number:05d}" for number in (15188, 17705, *range(20801, 20861)))

_ALLOWED_IDS = np.arange(256) < len(LABEL_COLOURS)
_NO_COLOUR = 255


def _labels(classes: tuple[str, ...], path: Path, image: Image.Image) -> np.ndarray:
    ids = _ids_of_colours(path, image) if image.mode in ("RGB", "RGBA") else label_ids(path, image)
    return mapped_labels(path, ids, GTA5_IDS[classes], _ALLOWED_IDS, f"label ids 0..{len(LABEL_COLOURS) - 1}")


@cache
def _colour_table() -> np.ndarray:
    """uint8 [256 * 256 * 256]: the label id of a colour."""
    table = np.full(1 << 24, _NO_COLOUR, np.uint8)
    for label_id, (red, green, blue) in reversed(list(enumerate(LABEL_COLOURS))):
        table[red << 16 | green << 8 | blue] = label_id
    return table


def _ids_of_colours(path: Path, image: Image.Image) -> np.ndarray:
    colours = np.asarray(image.convert("RGB")).astype(np.uint32)
    ids = _colour_table()[colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2]]
    if (ids == _NO_COLOUR).any():
        row, column = np.argwhere(ids == _NO_COLOUR)[0]
        found = tuple(colours[row, column].tolist())
        raise DataError(
            f"{path}: expected Cityscapes' label colours, found {found} at row {row}, column {column}"
        )
    return ids


def gta5_folder(
    root: Path, classes: tuple[str, ...], image_size: Size, *, memory_limit: int | None = None
) -> SegmentationDataset:
    """The images of `root/images` with the labels of `root/labels` in the target's `classes`.

    Labels are PNG of label ids 0..34 (grey, or palette indices as in the original) or of Cityscapes' colours.
    Every image is brought to `image_size`, the target's: its largest central part of that shape, resized. The
    62 images whose labels have another size are left out. DataError for missing folders and an empty one.
    """
    images = image_files(root / "images", "GTA5's images")
    labels = existing_folder(root / "labels", "GTA5's labels")
    files = [
        ImageFile(name, path, labels / f"{name}.png")
        for name, path in images.items()
        if name not in DROPPED_IMAGES
    ]
    if not files:
        raise DataError(f"{root / 'images'}: expected GTA5's images, found only those that are left out")
    return SegmentationDataset(
        FittedFolderSource(files, partial(_labels, classes), image_size),
        name="gta5",
        classes=classes,
        ignore_index=IGNORE_INDEX[classes],
        memory_limit=memory_limit,
    )
