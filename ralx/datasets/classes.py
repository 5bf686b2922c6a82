"""Class lists, their colours, and the tables that map label ids of one data set to classes of another.

Colours are the data sets' own. Tables come from the paper's experiments (RALIS):
a table is uint8 [256], its value the class of each label id, the ignore index where no class is trained.
"""

import numpy as np

Colour = tuple[int, int, int]

CAMVID_IGNORE = 11
CITYSCAPES_IGNORE = 255
VOID_COLOUR: Colour = (0, 0, 0)

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

PALETTES = {CAMVID_CLASSES: CAMVID_PALETTE, CITYSCAPES_CLASSES: CITYSCAPES_PALETTE}

# The label ids 0..34 that Cityscapes and GTA5 share: those of Cityscapes' classes, in class order, and the
# colours of the others, black where none is given. A colour that comes twice stands for the id that is
# trained on: 17, not the pole group 18; 26, not the licence plate 34.
_CITYSCAPES_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_OTHER_COLOURS: dict[int, Colour] = {
    5: (111, 74, 0),
    6: (81, 0, 81),
    9: (250, 170, 160),
    10: (230, 150, 140),
    14: (180, 165, 180),
    15: (150, 100, 100),
    16: (150, 120, 90),
    18: (153, 153, 153),
    29: (0, 0, 90),
    30: (0, 0, 110),
    34: (0, 0, 142),
}
_COLOURS = dict(zip(_CITYSCAPES_LABEL_IDS, CITYSCAPES_PALETTE.values(), strict=True)) | _OTHER_COLOURS
LABEL_COLOURS: tuple[Colour, ...] = tuple(_COLOURS.get(label_id, VOID_COLOUR) for label_id in range(35))

_GTA5_LABEL_IDS = {
    "sky": (23,),
    "building": (11,),
    "pole": (17,),
    "road": (7,),
    "pavement": (8,),
    "tree": (21,),
    "sign": (19, 20),
    "fence": (13,),
    "car": (26, 27, 28, 32),
    "pedestrian": (24,),
    "bicyclist": (33,),
}
# Cityscapes' names of CamVid's classes, where they differ.
_CITYSCAPES_NAMES = {
    "pavement": "sidewalk",
    "tree": "vegetation",
    "sign": "traffic sign",
    "pedestrian": "person",
    "bicyclist": "rider",
}


def _table(classes: dict[int, int], ignore_index: int) -> np.ndarray:
    table = np.full(256, ignore_index, np.uint8)
    table[list(classes)] = list(classes.values())
    return table


CITYSCAPES_IDS = _table({label_id: n for n, label_id in enumerate(_CITYSCAPES_LABEL_IDS)}, CITYSCAPES_IGNORE)
GTA5_IDS = {
    CAMVID_CLASSES: _table(
        {label_id: CAMVID_CLASSES.index(name) for name, ids in _GTA5_LABEL_IDS.items() for label_id in ids},
        CAMVID_IGNORE,
    ),
    CITYSCAPES_CLASSES: CITYSCAPES_IDS,
}
_IN_CITYSCAPES = [CITYSCAPES_CLASSES.index(_CITYSCAPES_NAMES.get(name, name)) for name in CAMVID_CLASSES]
CAMVID_IDS = {
    CAMVID_CLASSES: _table({n: n for n in range(len(CAMVID_CLASSES))}, CAMVID_IGNORE),
    CITYSCAPES_CLASSES: _table(dict(enumerate(_IN_CITYSCAPES)), CITYSCAPES_IGNORE),
}
IGNORE_INDEX = {CAMVID_CLASSES: CAMVID_IGNORE, CITYSCAPES_CLASSES: CITYSCAPES_IGNORE}


def palette(classes: tuple[str, ...]) -> np.ndarray:
    """Colours of a class list, uint8 [C, 3]. ValueError for a class list without colours."""
    if classes not in PALETTES:
        raise ValueError(f"classes: expected CAMVID_CLASSES or CITYSCAPES_CLASSES, got {classes}")
    return np.array(list(PALETTES[classes].values()), np.uint8)
