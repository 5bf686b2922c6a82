"""napari: each image's label as a grey PNG, 0 = unlabelled and class c = c + 1, laid out as index PNGs are.

labels.json says which class a number is. Segments.ai's label bitmaps have the same numbers; its files, whose
numbers lie in red, green and blue, lowest first, come back too.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from ralx.datasets.class_file import UNLABELLED, ClassList
from ralx.datasets.decoding import PNG, decode
from ralx.datasets.errors import DataError
from ralx.datasets.geometry import Size
from ralx.labelling.formats.items import (
    GREY_MODES,
    Item,
    Known,
    Labelled,
    checked,
    json_text,
    png_bytes,
    png_name,
    read_ids,
    read_json,
    reading,
)
from ralx.labelling.formats.png import label_files, write_images
from ralx.support.files import write_whole

TOOL = "napari"
LABELS = "labels.json"


def write(folder: Path, items: Iterable[Item], classes: ClassList) -> None:
    for item in checked(items, classes):
        write_images(folder, item)
        # 255 + 1 is 0 in uint8.
        write_whole(folder / png_name(item.name), png_bytes(item.label + np.uint8(1)))
    write_whole(folder / LABELS, json_text(_numbers(classes)))


def _numbers(classes: ClassList) -> dict[str, str]:
    return {str(klass + 1): name for klass, name in enumerate(classes.names)}


def read(path: Path, classes: ClassList, sizes: Mapping[str, Size]) -> Iterator[Labelled]:
    known = Known(classes, sizes)
    file = path / LABELS
    if file.is_file():
        with reading(file, TOOL):
            if (found := read_json(file)) != _numbers(classes):
                raise DataError(f"{file}: expected the numbers {_numbers(classes)}, found {found}")
    for name, file in label_files(path, known):
        numbers = _numbers_in(file)
        known.check_size(file, name, numbers.shape)
        if numbers.max() > len(classes):
            raise DataError(
                f"{file}: expected 0 = unlabelled or 1..{len(classes)} for the classes, found {numbers.max()}"
            )
        yield Labelled(name, file, np.where(numbers == 0, UNLABELLED, numbers - 1).astype(np.uint8))


def _numbers_in(file: Path) -> np.ndarray:
    image, bits = decode(file, (PNG,))
    if image.mode in GREY_MODES or bits > 8 or image.mode not in ("RGB", "RGBA"):
        return read_ids(file, "0 = unlabelled")
    red, green, blue = np.moveaxis(np.asarray(image)[..., :3].astype(np.int64), -1, 0)
    return red | green << 8 | blue << 16
