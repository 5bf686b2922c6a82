"""Class lists, their colours, and the tables that map label ids of one data set to classes of another.

Colours are the data sets' own, for pictures only. Tables come from the paper's experiments (RALIS):
a table is uint8 [256], its value the class of each label id, the ignore index where no class is trained.
"""

import numpy as np

Colour = tuple[int, int, int]

CAMVID_IGNORE = 11
CITYSCAPES_IGNORE = 255

CAMVID_PALETTE: dict[str, Colour] = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}

CITYSCAPES_PALETTE: dict[str, Colour] = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}

CAMVID_CLASSES = tuple(CAMVID_PALETTE)
CITYSCAPES_CLASSES = tuple(CITYSCAPES_PALETTE)

PALETTES: dict[tuple[str, ...], dict[str, Colour]] = {
    CAMVID_CLASSES: CAMVID_PALETTE,
    CITYSCAPES_CLASSES: CITYSCAPES_PALETTE,
}

# Label ids 0..34 of Cityscapes and GTA5, and the classes of the two class lists they become.
LARGEST_LABEL_ID = 34
_CITYSCAPES_TRAIN_IDS = {
    label_id: train_id
    for train_id, label_id in enumerate(
        (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
    )
}
_GTA5_TO_CAMVID = {
    23: 0, 11: 1, 17: 2, 7: 3, 8: 4, 21: 5, 19: 6, 20: 6, 13: 7, 26: 8, 27: 8, 28: 8, 32: 8, 24: 9, 33: 10,
}  # fmt: skip


def _table(mapping: dict[int, int], ignore_index: int) -> np.ndarray:
    table = np.full(256, ignore_index, np.uint8)
    for label_id, train_id in mapping.items():
        table[label_id] = train_id
    return table


CITYSCAPES_IDS = _table(_CITYSCAPES_TRAIN_IDS, CITYSCAPES_IGNORE)
GTA5_IDS: dict[tuple[str, ...], np.ndarray] = {
    CAMVID_CLASSES: _table(_GTA5_TO_CAMVID, CAMVID_IGNORE),
    CITYSCAPES_CLASSES: CITYSCAPES_IDS,
}


def palette(classes: tuple[str, ...]) -> np.ndarray:
    """Colours of a class list, uint8 [C, 3]. ValueError for a class list without colours."""
    if classes not in PALETTES:
        raise ValueError(f"classes: expected CAMVID_CLASSES or CITYSCAPES_CLASSES, got {classes}")
    return np.array(list(PALETTES[classes].values()), np.uint8)
