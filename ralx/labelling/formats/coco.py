"""COCO: annotations.json, a mask of compressed run lengths for each class of an image, and images/.

What is unlabelled has no annotation. Masks come back as run lengths of either kind or as polygons; the later
of two annotations lies above.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

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
    read_json,
    reading,
    write_image,
)
from ralx.labelling.formats.polygons import middles_inside
from ralx.labelling.formats.rle import compressed, decompressed, from_columns, to_columns
from ralx.support.files import write_whole

TOOL = "COCO"
ANNOTATIONS, IMAGES = "annotations.json", "images"


def write(folder: Path, items: Iterable[Item], classes: ClassList) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, item in enumerate(checked(items, classes), start=1):
        name = write_image(folder / IMAGES, item)
        height, width = item.label.shape
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for klass, mask in class_masks(item.label):
            top, left, rows, columns = box_of(mask)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": klass + 1,
                    "segmentation": {"size": [height, width], "counts": compressed(to_columns(mask))},
                    "area": int(mask.sum()),
                    "bbox": [left, top, columns, rows],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": klass + 1, "name": name} for klass, name in enumerate(classes.names)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_whole(folder / ANNOTATIONS, json_text(content))


def read(path: Path, classes: ClassList, sizes: Mapping[str, Size]) -> Iterator[Labelled]:
    known = Known(classes, sizes)
    for file in annotation_files(path, ".json", TOOL):
        with reading(file, TOOL):
            content = read_json(file)
            class_of = {each["id"]: each["name"] for each in content["categories"]}
            of_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
            for annotation in content["annotations"]:
                of_image[annotation["image_id"]].append(annotation)
            for image in content["images"]:
                name = known.name(file, image["file_name"])
                known.check_size(file, name, (image["height"], image["width"]))
                label = known.blank(name)
                for annotation in of_image.pop(image["id"], ()):
                    klass = known.klass(file, class_of.get(annotation["category_id"]))
                    label[_mask(annotation["segmentation"], label.shape)] = klass
                yield Labelled(name, file, label)
            if of_image:
                raise DataError(f"{file}: expected annotations of its images, found image_id {min(of_image)}")


def _mask(segmentation: Any, size: Size) -> np.ndarray:
    if isinstance(segmentation, list):  # polygons: x, y, x, y, …
        mask = np.zeros(size, bool)
        for each in segmentation:
            mask |= middles_inside(np.array(each, float).reshape(-1, 2), size)
        return mask
    if tuple(segmentation["size"]) != size:
        raise ValueError(
            f"expected masks of {size[0]}x{size[1]} pixels as their image, found {segmentation['size']}"
        )
    counts = segmentation["counts"]
    return from_columns(decompressed(counts) if isinstance(counts, str) else counts, size)
