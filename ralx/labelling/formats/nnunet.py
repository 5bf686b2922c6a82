"""nnU-Net: imagesTr/CASE_0000.png, labelsTr/CASE.png and dataset.json, whose highest id "ignore" is
unlabelled.

nnU-Net's id 0 is "background". A class of this name has it; where there is none, no pixel has it and class c
has the id c + 1. dataset.json says which id a class has, and is believed when labels come back. A case is an
image's path without suffix, with "__" between folders.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
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
    checked,
    json_text,
    png_bytes,
    read_ids,
    read_json,
    reading,
    write_image,
)
from ralx.support.files import write_whole

TOOL = "nnU-Net"
DATASET, IMAGES, LABELS = "dataset.json", "imagesTr", "labelsTr"
_HIGHEST = 65535  # id in a PNG
_BACKGROUND, _IGNORE = "background", "ignore"


def write(folder: Path, items: Iterable[Item], classes: ClassList) -> None:
    if _IGNORE in classes.names:
        raise DataError(f'{folder}: expected no class "{_IGNORE}", which {TOOL} has for what is unlabelled')
    ids = _ids(classes)
    table = np.full(256, ids[_IGNORE], np.uint8 if ids[_IGNORE] < 256 else np.uint16)
    table[: len(classes)] = [ids[name] for name in classes.names]
    cases: dict[str, str] = {}
    for item in checked(items, classes):
        case = _case(item.name)
        if (other := cases.setdefault(case, item.name)) != item.name:
            raise ValueError(f"items: expected names of different cases, got {other!r} and {item.name!r}")
        write_image(folder / IMAGES, item._replace(name=f"{case}_0000.png"))
        write_whole(folder / LABELS / f"{case}.png", png_bytes(table[item.label]))
    content = {
        "channel_names": {"0": "red", "1": "green", "2": "blue"},
        "labels": ids,
        "numTraining": len(cases),
        "file_ending": ".png",
    }
    write_whole(folder / DATASET, json_text(content))


def _ids(classes: ClassList) -> dict[str, int]:
    names = [_BACKGROUND, *(name for name in classes.names if name != _BACKGROUND), _IGNORE]
    return {name: number for number, name in enumerate(names)}


def _case(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")).replace("/", "__")


def read(path: Path, classes: ClassList, sizes: Mapping[str, Size]) -> Iterator[Labelled]:
    """Labels of labelsTr, or of `path` where that is a folder of labels or one; dataset.json lies beside or
    above."""
    known = Known(classes, sizes)
    cases = {_case(name): name for name in sizes}
    if len(cases) < len(sizes):
        raise DataError(
            f"{path}: expected images of different cases, found several of one, as a/b and a__b are"
        )
    folder = path if path.is_dir() else path.parent
    dataset = next((each / DATASET for each in (folder, folder.parent) if (each / DATASET).is_file()), None)
    if dataset is None:
        raise DataError(f"{path}: expected {DATASET} beside or above {TOOL}'s labels, found none")
    with reading(dataset, TOOL):
        table = _table(dataset, read_json(dataset)["labels"], known)
    labels = path / LABELS if (path / LABELS).is_dir() else path
    for file in annotation_files(labels, ".png", TOOL):
        name = known.name(file, cases.get(file.stem, file.name))
        ids = read_ids(file, "the ids of dataset.json")
        known.check_size(file, name, ids.shape)
        outside = np.flatnonzero(np.bincount(ids.ravel(), minlength=len(table))[: len(table)] * (table < 0))
        if ids.max() >= len(table) or len(outside):
            found = ids.max() if ids.max() >= len(table) else outside[0]
            raise DataError(f"{file}: expected the ids of the project's classes in {DATASET}, found {found}")
        yield Labelled(name, file, table[ids].astype(np.uint8))


def _table(file: Path, labels: dict[str, Any], known: Known) -> np.ndarray:
    """The class of each id, or UNLABELLED; -1 for the background where it is no class."""
    for name, number in labels.items():
        if type(number) is not int or not 0 <= number <= _HIGHEST:
            raise DataError(f"{file}: expected ids 0..{_HIGHEST}, found {number!r} for {name!r}")
    table = np.full(max(labels.values()) + 1, -1)
    for name, number in labels.items():
        if name == _IGNORE:
            table[number] = UNLABELLED
        elif name != _BACKGROUND or _BACKGROUND in known.classes.names:
            table[number] = known.klass(file, name)
    return table
