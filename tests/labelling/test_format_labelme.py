"""labelme's JSON beside images, held beside labelme itself where it is installed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_maps import AWKWARD, CLASSES, class_list, contents, read, ring, write

from ralx.datasets.errors import DataError

SIZES = {"a.png": (9, 8)}
POLYGON = {"label": "road", "points": [[1, 2], [5, 2], [5.4, 4], [1, 4]], "shape_type": "polygon"}


def labelme(**options: Any) -> Any:
    return pytest.importorskip("labelme", reason="labelme is not installed", exc_type=ImportError)


def changed(folder: Path, change: dict[str, Any] | None = None, **top: Any) -> Path:
    """The JSON file of a ring, whose first shape or other entries are changed."""
    write("labelme", folder, {"a.png": ring()})
    file = folder / "a.json"
    content = json.loads(file.read_text()) | top
    content["shapes"][0] |= change or {}
    file.write_text(json.dumps(content))
    return file


def test_a_json_file_lies_beside_each_image(tmp_path):
    write("labelme", tmp_path, {"street/a.jpg": ring()})
    assert contents(tmp_path).keys() == {"street/a.json", "street/a.png", "labels.txt"}
    content = json.loads((tmp_path / "street/a.json").read_text())
    assert (content["imagePath"], content["imageHeight"], content["imageWidth"]) == ("a.png", 9, 8)
    assert [shape["label"] for shape in content["shapes"]] == ["sky", "road"]
    assert content["shapes"][1]["points"] == [[1, 1], [6, 7]]


def test_unlabelled_is_no_background(tmp_path):
    write("labelme", tmp_path, {"a.png": ring()})
    assert "_background_" not in (tmp_path / "labels.txt").read_text() + (tmp_path / "a.json").read_text()
    assert (tmp_path / "labels.txt").read_text().splitlines() == list(CLASSES.names)


def test_shapes_are_painted_in_their_order(tmp_path):
    nothing = POLYGON | {"label": "__ignore__", "points": [[0, 0], [7, 0], [7, 2], [0, 2]]}
    file = changed(
        tmp_path,
        shapes=[POLYGON | {"label": "sky", "points": [[0, 0], [7, 0], [7, 8], [0, 8]]}, POLYGON, nothing],
    )
    expected = np.zeros((9, 8), np.uint8)
    expected[2:5, 1:6], expected[:3] = 1, 255
    np.testing.assert_array_equal(read("labelme", file, SIZES)["a.png"], expected)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"label": "water"}, "expected the project's classes, found 'water'"),
        ({"label": "_background_"}, "expected the project's classes, found '_background_'"),
        ({"shape_type": "rectangle"}, "expected masks or polygons, found a rectangle of 'sky'"),
        ({"points": [[0, 0], [3, 3]]}, "expected a grey mask of 4x4 pixels as its box, found L of 9x8"),
        ({"points": [[1, 0], [8, 8]]}, "expected masks inside the image, found a box up to row 8, column 8"),
        ({"points": [[-1, 0], [6, 8]]}, "expected masks inside the image"),
        ({"mask": "!"}, "expected a mask as PNG in base64"),
        ({"mask": None}, "expected a file as labelme writes it"),
        ({"points": [[0, 0]]}, "expected a file as labelme writes it"),
        ({"shape_type": "polygon", "points": [[1, 1], [2, 2]]}, "three or more points"),
        ({"shape_type": "polygon", "points": [[1, 1], [2, 2], [1e9, 3]]}, "three or more points"),
    ],
)
def test_shapes_that_are_no_labels_are_refused(change, rule, tmp_path):
    file = changed(tmp_path, change)
    with pytest.raises(DataError, match=rule) as refused:
        read("labelme", file, SIZES)
    assert str(refused.value).startswith(f"{file}: expected")


def test_labels_of_a_resized_image_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"a\.json: expected 9x8 pixels .* found 18x16"):
        read("labelme", changed(tmp_path, imageHeight=18, imageWidth=16), SIZES)


@pytest.mark.parametrize("what", AWKWARD)
def test_labelme_reads_the_same_label(what, tmp_path):
    package = labelme()
    label, count = AWKWARD[what]
    write("labelme", tmp_path, {"a.png": label}, class_list(count))
    file = package.LabelFile(str(tmp_path / "a.json"))
    assert file.image_path == "a.png"
    ids = {name: klass + 1 for klass, name in enumerate(class_list(count).names)}
    theirs, _ = package.utils.shapes_to_label(label.shape, file.shapes, ids)
    np.testing.assert_array_equal(np.where(theirs == 0, 255, theirs - 1), label)


def test_a_polygon_and_a_mask_that_labelme_saves_are_read(tmp_path):
    package = labelme()
    write("labelme", tmp_path, {"a.png": ring()})
    file = package.LabelFile(str(tmp_path / "a.json"))
    inside = package.utils.img_arr_to_b64((ring() == 1)[1:8, 1:7].astype(np.uint8))
    shapes = [
        POLYGON | {"label": "sky", "group_id": None, "flags": {}, "description": ""},
        {"label": "road", "points": [[1.0, 1.0], [6.0, 7.0]], "shape_type": "mask", "mask": inside},
    ]
    file.save(str(tmp_path / "a.json"), shapes=shapes, image_path="a.png", image_height=9, image_width=8)
    label = read("labelme", tmp_path, SIZES)["a.png"]
    file.load(str(tmp_path / "a.json"))
    theirs, _ = package.utils.shapes_to_label((9, 8), file.shapes, {"sky": 1, "road": 2})
    np.testing.assert_array_equal(np.where(theirs == 0, 255, theirs - 1), label)
