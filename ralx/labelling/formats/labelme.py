"""labelme: a JSON file beside each image, a mask for each class, and labels.txt for its option --labels.

What is unlabelled has no shape. labels.txt has no `_background_`, which labelme's own converters would make
of it. Masks and polygons come back; the later of two shapes lies above. A shape `__ignore__` makes pixels
unlabelled.
"""

import base64
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ralx.datasets.class_file import UNLABELLED, ClassList
from ralx.datasets.errors import DataError
from ralx.datasets.geometry import Size
from ralx.labelling.formats.items import (
    Item,
    Known,
    Labelled,
    annotation_files,
    box_of,
    checked,
    class_masks,
    decoded_png,
    json_text,
    png_bytes,
    read_json,
    reading,
    write_image,
)
from ralx.labelling.formats.polygons import with_edge
from ralx.support.files import write_whole

TOOL = "labelme"
LABELS = "labels.txt"
_VERSION = "5.5.0"  # the first whose shapes may be masks in boxes
_NOTHING = "__ignore__"


def write(folder: Path, items: Iterable[Item], classes: ClassList) -> None:
    for item in checked(items, classes):
        image = Path(write_image(folder, item))
        height, width = item.label.shape
        content = {
            "version": _VERSION,
            "flags": {},
            "shapes": [_shape(classes.names[klass], mask) for klass, mask in class_masks(item.label)],
            "imagePath": image.name,
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        write_whole(folder / image.with_suffix(".json"), json_text(content))
    write_whole(folder / LABELS, "".join(f"{name}\n" for name in classes.names).encode())


def _shape(name: str, mask: np.ndarray) -> dict[str, Any]:
    top, left, height, width = box_of(mask)
    inside = mask[top : top + height, left : left + width].astype(np.uint8)
    return {
        "label": name,
        "points": [[left, top], [left + width - 1, top + height - 1]],
        "group_id": None,
        "description": "",
        "shape_type": "mask",
        "flags": {},
        "mask": base64.b64encode(png_bytes(inside)).decode("ascii"),
    }


def read(path: Path, classes: ClassList, sizes: Mapping[str, Size]) -> Iterator[Labelled]:
    known = Known(classes, sizes)
    for file in annotation_files(path, ".json", TOOL):
        with reading(file, TOOL):
            content = read_json(file)
            shapes = content["shapes"]
            name = known.name(file, file.relative_to(path if path.is_dir() else path.parent).as_posix())
            known.check_size(file, name, (content["imageHeight"], content["imageWidth"]))
            label = known.blank(name)
            for shape in shapes:
                klass = UNLABELLED if shape["label"] == _NOTHING else known.klass(file, shape["label"])
                label[_mask(file, shape, label.shape)] = klass
            yield Labelled(name, file, label)


def _mask(file: Path, shape: dict[str, Any], size: Size) -> np.ndarray:
    kind = shape.get("shape_type") or "polygon"
    if kind == "polygon":
        return with_edge(shape["points"], size)
    if kind != "mask":
        raise DataError(f"{file}: expected masks or polygons, found a {kind} of {shape['label']!r}")
    (left, top), (right, bottom) = ((int(x), int(y)) for x, y in shape["points"])
    image, _ = decoded_png(file, shape["mask"])
    height, width = bottom - top + 1, right - left + 1
    if image.mode not in ("1", "L") or (image.height, image.width) != (height, width):
        raise DataError(
            f"{file}: expected a grey mask of {height}x{width} pixels as its box, found {image.mode} of "
            f"{image.height}x{image.width}"
        )
    if min(top, left) < 0 or bottom >= size[0] or right >= size[1]:
        raise DataError(
            f"{file}: expected masks inside the image, found a box up to row {bottom}, column {right}"
        )
    mask = np.zeros(size, bool)
    mask[top : bottom + 1, left : right + 1] = np.asarray(image) > 0
    return mask
