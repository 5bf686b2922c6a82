"""CamVid in the layout of the SegNet tutorial: train, val and test, each with its folder of labels."""

from pathlib import Path

import numpy as np

from ralx.datasets.classes import CAMVID_CLASSES, CAMVID_IGNORE, CAMVID_PALETTE, VOID_COLOUR
from ralx.datasets.dataset import SegmentationDataset
from ralx.datasets.files import FolderSource, files_with_labels
from ralx.datasets.labels import LabelCode, ids_of_colours

_IDS = np.arange(256, dtype=np.uint8)
_LABELS = LabelCode(
    ids=f"label ids 0..{CAMVID_IGNORE}, {CAMVID_IGNORE} for void",
    allowed=_IDS <= CAMVID_IGNORE,
    classes=_IDS,
    colours=ids_of_colours(enumerate([*CAMVID_PALETTE.values(), VOID_COLOUR])),
    whose_colours="ids in grey or CamVid's colours",
)


def camvid_folder(
    root: Path, part: str, *, scale: float = 1.0, memory_limit: int | None = None
) -> SegmentationDataset:
    """The images of `root/part` (train, val or test) with the labels of `root/{part}annot`.

    Images are PNG or JPEG, labels PNG of ids 0..11, or of CamVid's colours with black for void. DataError for
    missing folders and an empty one.
    """
    what = f"CamVid's {part} images"
    files = files_with_labels(root / part, what, root / f"{part}annot", f"the labels of {what}")
    return SegmentationDataset(
        FolderSource(files, _LABELS.read, scale),
        name=f"camvid {part}",
        classes=CAMVID_CLASSES,
        ignore_index=CAMVID_IGNORE,
        memory_limit=memory_limit,
    )
