"""Label Studio: tasks.json whose predictions are pre-labels, config.xml for the project, and images/.

Label Studio takes config.xml as labelling configuration and tasks.json as tasks. A task's image is a path
that its local files serve where LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED is true and
LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT is the folder; whoever uploads the images instead makes the tasks with
their addresses (`task`). Exports as JSON come back: results of `BrushLabels`, whose run lengths hold four
values a pixel, and of `BitmaskLabels`, a PNG that is painted where it is not transparent. The name in a
task's data tells the image, else the address does.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import quoteattr

import numpy as np

from ralx.datasets.class_file import ClassList
from ralx.datasets.errors import DataError
from ralx.datasets.geometry import Size
from ralx.labelling.formats.items import (
    Item,
    Known,
    Labelled,
    annotation_files,
    checked,
    class_masks,
    decoded_png,
    json_text,
    read_json,
    reading,
    write_image,
)
from ralx.labelling.formats.rle import from_brush, to_brush
from ralx.support.files import write_whole

TOOL = "Label Studio"
TASKS, CONFIG, IMAGES = "tasks.json", "config.xml", "images"
CONTROL, OBJECT, MODEL = "label", "image", "ralx"  # names in the configuration, and of what made predictions
NAME = "ralx_image"  # in a task's data
_BRUSH, _BITMASK = "brushlabels", "bitmasklabels"
# Results that may lie beside masks and say nothing of pixels.
_NO_AREA = (
    "choices",
    "number",
    "rating",
    "taxonomy",
    "textarea",
    "datetime",
    "pairwise",
    "ranker",
    "relation",
)
_UPLOADED = re.compile(r"[0-9a-f]{8}-")  # what Label Studio sets before the name of an uploaded file


# Writing


def write(folder: Path, items: Iterable[Item], classes: ClassList) -> None:
    tasks = []
    for item in checked(items, classes):
        image = f"{IMAGES}/{write_image(folder / IMAGES, item)}"
        tasks.append(task(item, classes, f"/data/local-files/?d={quote(image)}"))
    write_whole(folder / CONFIG, config(classes).encode())
    write_whole(folder / TASKS, json_text(tasks))


def config(classes: ClassList) -> str:
    """The labelling configuration: brushes of all classes on an image whose pixels are not smoothed."""
    labels = [
        f'    <Label value={quoteattr(name)} background="#{bytes(colour).hex()}"/>'
        for name, colour in zip(classes.names, classes.colours, strict=True)
    ]
    lines = [
        "<View>",
        f'  <Image name="{OBJECT}" value="$image" zoom="true" zoomControl="true" smoothing="false"/>',
        f'  <BrushLabels name="{CONTROL}" toName="{OBJECT}">',
        *labels,
        "  </BrushLabels>",
        "</View>",
        "",
    ]
    return "\n".join(lines)


def task(item: Item, classes: ClassList, address: str) -> dict[str, Any]:
    """A task of an item whose image Label Studio finds at the address; its label is a prediction."""
    height, width = item.label.shape
    results = [
        {
            "id": f"class{klass}",
            "type": _BRUSH,
            "from_name": CONTROL,
            "to_name": OBJECT,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {"format": "rle", "rle": list(to_brush(mask)), _BRUSH: [classes.names[klass]]},
        }
        for klass, mask in class_masks(item.label)
    ]
    predictions = [{"model_version": MODEL, "result": results}] if results else []
    return {"data": {"image": address, NAME: item.name}, "predictions": predictions}


# Reading


def read(path: Path, classes: ClassList, sizes: Mapping[str, Size]) -> Iterator[Labelled]:
    known = Known(classes, sizes)
    renamed: dict[str, list[str]] = defaultdict(list)
    for name in sizes:
        renamed[_uploaded(name)].append(name)
    for file in annotation_files(path, ".json", TOOL):
        with reading(file, TOOL):
            tasks = read_json(file)
            if not isinstance(tasks, list):
                raise DataError(f"{file}: expected a list of tasks, as Label Studio exports JSON")
            for each in tasks:
                name = known.name(file, _named(each["data"], renamed))
                label = known.blank(name)
                for result in results_of(each):
                    if result["type"] not in _NO_AREA:
                        label[_mask(file, name, result, known)] = _klass(file, result, known)
                yield Labelled(name, file, label)


def results_of(task: dict[str, Any]) -> list[dict[str, Any]]:
    """The results of a task's last annotation that nobody cancelled.

    What a person did has the key "annotations", be it empty; predictions count only in tasks that no tool has
    seen.
    """
    given = task["annotations"] if "annotations" in task else task.get("predictions", [])
    kept = [each for each in given if not each.get("was_cancelled")]
    # Times of one export are texts of one form. Without them the later one counts.
    order = sorted(enumerate(kept), key=lambda each: (each[1].get("updated_at") or "", each[0]))
    return order[-1][1]["result"] if order else []


def _named(data: dict[str, Any], renamed: Mapping[str, list[str]]) -> str:
    """The name of a task's image: the one that was written, else that in its address."""
    if NAME in data:
        return data[NAME]
    address = urlsplit(data["image"])
    path = parse_qs(address.query).get("d", [unquote(address.path)])[0]
    found = path.rsplit("/", 1)[-1]
    if not _UPLOADED.match(found):
        return path
    given = _UPLOADED.sub("", found, count=1)
    named = renamed.get(_uploaded(given), [])
    return named[0] if len(named) == 1 else given


def _uploaded(name: str) -> str:
    """What Label Studio leaves of the name of a file that is uploaded."""
    return re.sub(r"[^-\w.]", "", name.rsplit("/", 1)[-1].strip().replace(" ", "_"))


def _klass(file: Path, result: dict[str, Any], known: Known) -> int:
    names = result["value"].get(result["type"], [])
    if len(names) != 1:
        raise DataError(f"{file}: expected one class for each {result['type']}, found {names}")
    return known.klass(file, names[0])


def _mask(file: Path, name: str, result: dict[str, Any], known: Known) -> np.ndarray:
    kind, value = result["type"], result["value"]
    if kind not in (_BRUSH, _BITMASK):
        raise DataError(f"{file}: expected BrushLabels or BitmaskLabels, found {kind} on {name}")
    known.check_size(file, name, (int(result["original_height"]), int(result["original_width"])))
    if result.get("image_rotation"):
        raise DataError(f"{file}: expected images that were not rotated, found {name} rotated")
    if kind == _BRUSH:
        return from_brush(bytes([*value["rle"]]), known.sizes[name])  # bytes(n) would be n zeros
    start, _, text = value["imageDataURL"].partition(",")
    if start != "data:image/png;base64":
        raise DataError(f"{file}: expected masks as PNG data URLs, found {start[:40]!r} on {name}")
    image, _ = decoded_png(file, text)
    known.check_size(file, name, (image.height, image.width))
    if image.mode not in ("RGBA", "LA"):
        raise DataError(
            f"{file}: expected masks that are transparent where nothing is painted, found {image.mode}"
        )
    return np.asarray(image)[..., -1] > 0
