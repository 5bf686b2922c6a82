"""CVAT for images 1.1: annotations.xml with run lengths of masks, and images/.

CVAT takes the images as a task's data, labels.json as the raw labels of its project, and annotations.xml as
annotations, which also come back under this name. A mask is one object that may have holes and parts; its run
lengths are local to its box. Polygons that somebody drew come back too. Among objects of an image, those with
the larger z_order and then the later ones lie above.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from ralx.datasets.class_file import ClassList
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
    json_text,
    reading,
    write_image,
)
from ralx.labelling.formats.polygons import middles_inside
from ralx.labelling.formats.rle import from_run_lengths, run_lengths
from ralx.support.files import write_whole

TOOL = "CVAT for images 1.1"
ANNOTATIONS, LABELS, IMAGES = "annotations.xml", "labels.json", "images"
# An image's elements that are no area: they may lie beside masks and say nothing of pixels.
_NO_AREA = ("tag", "attribute")
_CHUNK = 1 << 20

Attributes = dict[str, str]


class _Image(NamedTuple):
    attributes: Attributes
    shapes: list[tuple[str, Attributes]]


# Writing


def write(folder: Path, items: Iterable[Item], classes: ClassList) -> None:
    labels = [
        {"name": name, "color": _colour(colour), "type": "mask", "attributes": []}
        for name, colour in zip(classes.names, classes.colours, strict=True)
    ]
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "  <version>1.1</version>"]
    lines += ["  <meta>", "    <task>", "      <labels>"]
    for name, colour in zip(classes.names, classes.colours, strict=True):
        lines.append(
            f"        <label><name>{escape(name)}</name><color>{_colour(colour)}</color><type>mask</type>"
            "<attributes></attributes></label>"
        )
    lines += ["      </labels>", "    </task>", "  </meta>"]
    for number, item in enumerate(checked(items, classes)):
        lines += _image_lines(number, write_image(folder / IMAGES, item), item.label, classes)
    lines += ["</annotations>", ""]
    write_whole(folder / LABELS, json_text(labels))
    write_whole(folder / ANNOTATIONS, "\n".join(lines).encode())


def _colour(colour: tuple[int, int, int]) -> str:
    return "#" + bytes(colour).hex()


def _image_lines(number: int, name: str, label: np.ndarray, classes: ClassList) -> Iterator[str]:
    height, width = label.shape
    yield f'  <image id="{number}" name={quoteattr(name)} width="{width}" height="{height}">'
    for klass, mask in class_masks(label):
        top, left, rows, columns = box_of(mask)
        lengths = run_lengths(mask[top : top + rows, left : left + columns].ravel())
        yield (
            f'    <mask label={quoteattr(classes.names[klass])} source="manual" occluded="0" '
            f'rle="{", ".join(map(str, lengths.tolist()))}" left="{left}" top="{top}" width="{columns}" '
            f'height="{rows}" z_order="0"></mask>'
        )
    yield "  </image>"


# Reading


def read(path: Path, classes: ClassList, sizes: Mapping[str, Size]) -> Iterator[Labelled]:
    known = Known(classes, sizes)
    for file in annotation_files(path, ".xml", TOOL):
        with reading(file, TOOL):
            for image in _images(file):
                name = known.name(file, image.attributes["name"])
                known.check_size(
                    file, name, (int(image.attributes["height"]), int(image.attributes["width"]))
                )
                label = known.blank(name)
                for kind, shape in sorted(image.shapes, key=lambda each: int(each[1].get("z_order", 0))):
                    label[_mask(file, kind, shape, label.shape)] = known.klass(file, shape["label"])
                yield Labelled(name, file, label)


def _mask(file: Path, kind: str, shape: Attributes, size: Size) -> np.ndarray:
    if kind == "polygon":
        return middles_inside(np.array([each.split(",") for each in shape["points"].split(";")], float), size)
    if kind != "mask":
        raise DataError(f"{file}: expected masks or polygons, found a {kind} of {shape.get('label')!r}")
    top, left, height, width = (int(shape[key]) for key in ("top", "left", "height", "width"))
    if min(top, left) < 0 or min(height, width) < 1 or top + height > size[0] or left + width > size[1]:
        raise DataError(
            f"{file}: expected masks inside the image of {size[0]}x{size[1]} pixels, found a box of "
            f"{height}x{width} at row {top}, column {left}"
        )
    lengths = np.array(shape["rle"].split(","), np.int64)
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = from_run_lengths(lengths, height * width).reshape(
        height, width
    )
    return mask


def _images(file: Path) -> Iterator[_Image]:
    """The images of a file, one by one. DataError: other XML, a track, or a document type, which may define
    entities."""
    done: list[_Image] = []
    inside: list[str] = []

    def start(tag: str, attributes: Attributes) -> None:
        if not inside and tag != "annotations":
            raise DataError(f"{file}: expected annotations of {TOOL}, found <{tag}>")
        if tag == "track":
            raise DataError(f"{file}: expected {TOOL}, found a track of CVAT for video")
        if tag == "image":
            done.append(_Image(attributes, []))
        elif "image" in inside[-1:] and tag not in _NO_AREA:
            done[-1].shapes.append((tag, attributes))
        inside.append(tag)

    def refuse(*_: object) -> None:
        raise DataError(
            f"{file}: expected XML without a document type, whose entities may be of any size or file"
        )

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, lambda _: inside.pop()
    parser.StartDoctypeDeclHandler = refuse
    try:
        with file.open("rb") as opened:
            while chunk := opened.read(_CHUNK):
                parser.Parse(chunk)
                yield from done[:-1]  # of the last one more may come
                del done[:-1]
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise DataError(f"{file}: expected whole XML: {error}") from error
    yield from done
