"""Label maps to write and read: random ones, and those that formats go wrong on."""

from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from ralx.datasets.class_file import UNLABELLED, ClassList
from ralx.labelling.formats import FORMATS, Item

CLASSES = ClassList(("sky", "road", "car & bus"), ((128, 128, 128), (128, 64, 128), (64, 0, 128)))


def class_list(count: int) -> ClassList:
    """Classes whose names need care in XML and JSON."""
    names = tuple(f"class {klass} <é \"&'>" for klass in range(count))
    return ClassList(names, tuple((klass, 255 - klass, klass // 2) for klass in range(count)))


def one_pixel() -> np.ndarray:
    label = np.full((5, 7), UNLABELLED, np.uint8)
    label[3, 6] = 1
    return label


def ring() -> np.ndarray:
    """A class around another, around what is unlabelled, around a pixel of the first."""
    label = np.zeros((9, 8), np.uint8)
    label[1:-1, 1:-1], label[2:-2, 2:-2], label[4, 4] = 1, UNLABELLED, 0
    return label


def every_class(count: int) -> np.ndarray:
    return np.resize(np.arange(count + 1, dtype=np.uint8), (16, 17)).copy()


# Each with its number of classes.
AWKWARD = {
    "all unlabelled": (np.full((4, 3), UNLABELLED, np.uint8), 2),
    "one class": (np.ones((4, 3), np.uint8), 2),
    "one pixel": (one_pixel(), 3),
    "holes": (ring(), 3),
    "255 classes": (np.where(every_class(255) == 255, UNLABELLED, every_class(255)).astype(np.uint8), 255),
    "a row": (np.array([[0, 255, 1, 1, 2]], np.uint8), 3),
    "a column": (np.array([[255], [2], [2], [0]], np.uint8), 3),
    "one pixel alone": (np.array([[1]], np.uint8), 2),
    "longer than a brush's longest run": (np.repeat(np.uint8([0, 255, 1]), 70_000).reshape(300, 700), 2),
}


@st.composite
def label_maps(draw) -> tuple[np.ndarray, int]:
    """A label and its number of classes; blocks of one class, some unlabelled."""
    count = draw(st.sampled_from((2, 3, 11, 255)))
    height, width = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    side = draw(st.sampled_from((1, 2, 5)))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, columns = -(-height // side), -(-width // side)
    blocks = random.integers(0, count, (rows, columns), np.uint8)
    blocks[random.random((rows, columns)) < draw(st.sampled_from((0.0, 0.3, 0.9)))] = UNLABELLED
    return np.kron(blocks, np.ones((side, side), np.uint8))[:height, :width].copy(), count


def photo(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def write(form: str, folder: Path, labels: dict[str, np.ndarray], classes: ClassList = CLASSES) -> None:
    """Write labels by name, each with an image."""
    items = (
        Item(name, lambda label=label, seed=seed: photo(label.shape, seed), label)
        for seed, (name, label) in enumerate(labels.items())
    )
    FORMATS[form].write(folder, items, classes)


def read(
    form: str, path: Path, sizes: dict[str, tuple[int, int]], classes: ClassList = CLASSES
) -> dict[str, np.ndarray]:
    """The labels by name."""
    return {each.name: each.label for each in FORMATS[form].read(path, classes, sizes)}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its path in it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
