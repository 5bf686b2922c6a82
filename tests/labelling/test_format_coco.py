"""COCO's annotations, beside pycocotools where it is installed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_maps import AWKWARD, class_list, read, ring, write

from ralx.datasets.errors import DataError
from ralx.labelling.formats.rle import to_columns

SIZES = {"a.png": (9, 8)}
SQUARE = [1.0, 2.0, 6.0, 2.0, 6.0, 5.0, 1.0, 5.0]


def changed(folder: Path, change: dict[str, Any]) -> Path:
    """The file of a ring, whose last annotation is changed."""
    write("coco", folder, {"a.png": ring()})
    file = folder / "annotations.json"
    content = json.loads(file.read_text())
    content["annotations"][-1] |= change
    file.write_text(json.dumps(content))
    return file


def test_categories_are_told_by_name(tmp_path):
    write("coco", tmp_path, {"a.png": ring()})
    file = tmp_path / "annotations.json"
    content = json.loads(file.read_text())
    for category in content["categories"]:
        category["id"] *= 100
    for annotation in content["annotations"]:
        annotation["category_id"] *= 100
    file.write_text(json.dumps(content))
    np.testing.assert_array_equal(read("coco", file, SIZES)["a.png"], ring())


def test_plain_lengths_and_polygons_are_read(tmp_path):
    plain = {"size": [9, 8], "counts": to_columns(ring() == 1).tolist()}
    np.testing.assert_array_equal(
        read("coco", changed(tmp_path, {"segmentation": plain}), SIZES)["a.png"], ring()
    )
    label = read("coco", changed(tmp_path, {"segmentation": [SQUARE, [0, 0, 1, 0, 1, 1, 0, 1]]}), SIZES)[
        "a.png"
    ]
    expected = np.where(ring() == 1, 255, ring())
    expected[2:5, 1:6] = expected[0, 0] = 1
    np.testing.assert_array_equal(label, expected)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"category_id": 9}, "expected the project's classes, found None"),
        ({"image_id": 9}, "expected annotations of its images, found image_id 9"),
        ({"segmentation": {"size": [8, 9], "counts": "0"}}, "expected masks of 9x8 pixels as their image"),
        ({"segmentation": {"size": [9, 8], "counts": [70]}}, "expected run lengths that sum to 72"),
        ({"segmentation": {"size": [9, 8], "counts": "~~"}}, "compressed run lengths"),
        ({"segmentation": [[1, 2, 3, 4]]}, "three or more points"),
        ({"segmentation": [[1, 2, 3, 4, 5]]}, "expected a file as COCO"),
        ({"segmentation": None}, "expected a file as COCO"),
    ],
)
def test_annotations_that_are_no_labels_are_refused(change, rule, tmp_path):
    file = changed(tmp_path, change)
    with pytest.raises(DataError, match=rule) as refused:
        read("coco", file, SIZES)
    assert str(refused.value).startswith(f"{file}: expected")


@pytest.mark.parametrize("what", AWKWARD)
def test_pycocotools_reads_the_same_label(what, tmp_path, capsys):
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    label, count = AWKWARD[what]
    write("coco", tmp_path, {"a.png": label}, class_list(count))
    data = coco.COCO(str(tmp_path / "annotations.json"))
    theirs = np.full(label.shape, 255, np.uint8)
    for annotation in data.loadAnns(data.getAnnIds()):
        mask = data.annToMask(annotation) > 0
        theirs[mask] = class_list(count).names.index(data.cats[annotation["category_id"]]["name"])
        rle = annotation["segmentation"]
        assert annotation["area"] == coco.maskUtils.area(rle) == mask.sum()
        assert annotation["bbox"] == coco.maskUtils.toBbox(rle).tolist()
    np.testing.assert_array_equal(theirs, label)
