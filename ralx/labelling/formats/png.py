"""Index PNGs: each image's label as a grey PNG of class ids, 255 = unlabelled, as painting programs edit it.

classes.json            the class list, as a class file
a/photo.png             the label of a/photo.jpg
images/a/photo.png      the image
asked/a/photo.png       255 where a label is asked, else 0; only where not all is asked
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ralx.datasets.class_file import ClassList, read_classes
from ralx.datasets.decoding import PNG, image_header
from ralx.datasets.errors import DataError
from ralx.datasets.geometry import Size
from ralx.datasets.images import IMAGE_SUFFIXES, read_mask
from ralx.labelling.formats.items import (
    GREY_MODES,
    Item,
    Known,
    Labelled,
    checked,
    files_of,
    json_text,
    png_bytes,
    png_name,
    write_image,
)
from ralx.support.files import write_whole

CLASSES, IMAGES, ASKED = "classes.json", "images", "asked"
_WHITE = (255, 255, 255)
_SUFFIXES = (*IMAGE_SUFFIXES, ".bmp", ".gif")


def write(folder: Path, items: Iterable[Item], classes: ClassList) -> None:
    for item in checked(items, classes):
        write_images(folder, item)
        write_whole(folder / png_name(item.name), png_bytes(item.label))
    write_whole(folder / CLASSES, json_text(classes.to_json()))


def write_images(folder: Path, item: Item) -> None:
    """Write an item's image and what is asked of it into the folders beside the labels."""
    if item.pixels is None:
        return
    if item.name.split("/")[0] in (IMAGES, ASKED):
        raise ValueError(f"items: expected names outside of {IMAGES}/ and {ASKED}/, got {item.name!r}")
    write_image(folder / IMAGES, item)
    if item.asked is not None:
        write_whole(folder / ASKED / png_name(item.name), png_bytes(item.asked.astype(np.uint8) * 255))


def read(path: Path, classes: ClassList, sizes: Mapping[str, Size]) -> Iterator[Labelled]:
    """Masks as `ralx.datasets.images.read_mask` reads them; greys beside a list of classes are always ids."""
    known, are_ids = Known(classes, sizes), (path / CLASSES).is_file()
    if are_ids:
        found = read_classes(path / CLASSES).names
        if found != classes.names:
            expected = f"the classes {list(classes.names)} in this order"
            raise DataError(f"{path / CLASSES}: expected {expected}, found {list(found)}")
    for name, file in label_files(path, known):
        read_label = read_painted if are_ids else read_mask
        yield Labelled(name, file, read_label(file, classes, sizes[name]))


def read_painted(file: Path, classes: ClassList, size: Size) -> np.ndarray:
    """A label file that ralx wrote and somebody painted on: the numbers of a grey one are class ids, whatever
    the classes' colours. Black and white as these would be confused with the id 0 and unlabelled."""
    if image_header(file, (PNG,)).mode in GREY_MODES:
        classes = replace(classes, colours=tuple((1, 2, blue) for blue in range(len(classes))))
    elif _WHITE not in classes.colours:  # what ralx wrote as 255, saved in colour
        classes = replace(classes, void_colours=classes.void_colours | {_WHITE})
    return read_mask(file, classes, size)


def label_files(path: Path, known: Known) -> Iterator[tuple[str, Path]]:
    """The images' names with their label files in a folder, or of one. DataError: a label that is no PNG."""
    files = files_of(path, _SUFFIXES)
    if not files:
        raise DataError(f"{path}: expected labels as PNG, found none")
    labels = {png_name(name) for name in known.sizes}
    for file in files:
        relative = file.relative_to(path if path.is_dir() else path.parent).as_posix()
        if relative.split("/")[0] in (IMAGES, ASKED) and relative not in labels:
            continue
        if file.suffix.lower() != ".png":
            raise DataError(
                f"{file}: expected a label as PNG, found {file.suffix!r}: JPEG and the like change class ids"
            )
        yield known.name(file, relative), file
