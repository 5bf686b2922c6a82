"""GTA5 (Playing for Data): images and labels in two folders, to pretrain for CamVid or Cityscapes."""

from pathlib import Path

import numpy as np

from ralx.datasets.classes import GTA5_IDS, IGNORE_INDEX, LABEL_COLOURS
from ralx.datasets.dataset import SegmentationDataset
from ralx.datasets.errors import DataError
from ralx.datasets.files import FittedFolderSource, existing_folder, files_with_labels
from ralx.datasets.geometry import Size
from ralx.datasets.labels import LabelCode, ids_of_colours

# These images have labels of another size.
DROPPED_IMAGES = frozenset(f"{number:05d}" for number in (15188, 17705, *range(20801, 20861)))

# The original palette has a colour of its own for static things, which are black in Cityscapes.
_STATIC = (4, (20, 20, 20))


def _labels(classes: tuple[str, ...]) -> LabelCode:
    return LabelCode(
        ids=f"label ids 0..{len(LABEL_COLOURS) - 1}",
        allowed=np.arange(256) < len(LABEL_COLOURS),
        classes=GTA5_IDS[classes],
        colours=ids_of_colours([*enumerate(LABEL_COLOURS), _STATIC]),
        whose_colours="Cityscapes' label colours",
    )


def gta5_folder(
    root: Path, classes: tuple[str, ...], image_size: Size, *, memory_limit: int | None = None
) -> SegmentationDataset:
    """The images of `root/images` with the labels of `root/labels` in the target's `classes`.

    Labels are PNG of label ids 0..34 in grey, or of Cityscapes' colours, as the original's palette has them.
    Every image is brought to `image_size`, the target's: its largest central part of that shape, resized. The
    62 images whose labels have another size are left out. DataError for missing folders and an empty one.
    """
    existing_folder(root, "the folder of gta5")
    found = files_with_labels(root / "images", "GTA5's images", root / "labels", "GTA5's labels")
    files = [file for file in found if file.name not in DROPPED_IMAGES]
    if not files:
        raise DataError(f"{root / 'images'}: expected GTA5's images, found only those that are left out")
    return SegmentationDataset(
        FittedFolderSource(files, _labels(classes).read, image_size),
        name="gta5",
        classes=classes,
        ignore_index=IGNORE_INDEX[classes],
        memory_limit=memory_limit,
    )
