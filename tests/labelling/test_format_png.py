"""Index PNGs: ids with 255 for unlabelled, and what people and programs do to them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from label_maps import CLASSES, contents, photo, read, ring, write
from PIL import Image

from ralx.datasets.class_file import ClassList, read_classes
from ralx.datasets.errors import DataError
from ralx.labelling.formats import FORMATS, Item

SIZES = {"a.jpg": (9, 8)}


def save(path, array, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def test_the_folder_holds_labels_classes_images_and_what_is_asked(tmp_path):
    asked = ring() == 1
    FORMATS["png"].write(tmp_path, [Item("b/a.jpg", lambda: photo((9, 8)), ring(), asked)], CLASSES)
    assert contents(tmp_path).keys() == {"b/a.png", "classes.json", "images/b/a.png", "asked/b/a.png"}
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "b/a.png")), ring())
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "asked/b/a.png")), asked * 255)
    assert read_classes(tmp_path / "classes.json") == CLASSES


def test_colours_that_somebody_painted_are_classes(tmp_path):
    write("png", tmp_path, {"a.png": ring()})
    label = np.where(ring() == 255, 2, ring())
    save(tmp_path / "a.png", CLASSES.palette[label])
    np.testing.assert_array_equal(read("png", tmp_path, SIZES)["a.jpg"], label)


def test_a_colour_of_no_class_is_refused(tmp_path):
    painted = CLASSES.palette[np.where(ring() == 255, 2, ring())]
    painted[3, 4] = (1, 2, 3)
    save(tmp_path / "a.png", painted)
    with pytest.raises(
        DataError, match=r"a\.png: expected the class file's colours, found \(1, 2, 3\) at row 3"
    ):
        read("png", tmp_path, SIZES)


def test_an_id_of_no_class_is_refused(tmp_path):
    save(tmp_path / "a.png", np.where(ring() == 1, 9, ring()).astype(np.uint8))
    with pytest.raises(DataError, match=r"a\.png: expected class ids 0\.\.2 or 255 for unlabelled, found 9"):
        read("png", tmp_path, SIZES)


@pytest.mark.parametrize("suffix", ["jpg", "webp", "tif", "bmp"])
def test_masks_saved_as_another_kind_are_refused(suffix, tmp_path):
    save(tmp_path / f"a.{suffix}", ring())
    with pytest.raises(
        DataError, match=rf"a\.{suffix}: expected a label as PNG, .*JPEG and the like change class ids"
    ):
        read("png", tmp_path, SIZES)


def test_a_jpeg_that_is_called_png_is_refused(tmp_path):
    save(tmp_path / "a.png", ring(), format="JPEG")
    with pytest.raises(DataError, match=r"a\.png: expected a (whole, )?readable"):
        read("png", tmp_path, SIZES)


def test_a_resized_mask_is_refused(tmp_path):
    save(tmp_path / "a.png", np.kron(ring(), np.ones((2, 2), np.uint8)))
    with pytest.raises(DataError, match=r"a\.png: expected 9x8 pixels .* found 18x16"):
        read("png", tmp_path, SIZES)


def test_classes_in_another_order_are_refused(tmp_path):
    write("png", tmp_path, {"a.png": ring()})
    value = json.loads((tmp_path / "classes.json").read_text())
    value["classes"].reverse()
    (tmp_path / "classes.json").write_text(json.dumps(value))
    with pytest.raises(DataError, match=r"classes\.json: expected the classes .* in this order"):
        read("png", tmp_path, SIZES)


@pytest.mark.parametrize("colours", [((0, 0, 0), (255, 255, 255)), ((255, 255, 255), (0, 0, 0))])
def test_unlabelled_is_not_white_where_white_is_a_class(colours, tmp_path):
    classes = ClassList(("back", "front"), colours)
    for name, label in {"one.png": np.uint8([[0, 255]]), "none.png": np.uint8([[255, 255]])}.items():
        write("png", tmp_path / name, {name: label}, classes)
        np.testing.assert_array_equal(read("png", tmp_path / name, {name: (1, 2)}, classes)[name], label)


def test_black_and_white_masks_of_a_program_are_colours_of_two_classes(tmp_path):
    classes = ClassList(("back", "front"), ((0, 0, 0), (255, 255, 255)))
    save(tmp_path / "a.png", np.uint8([[0, 255]]))
    assert read("png", tmp_path, {"a.png": (1, 2)}, classes)["a.png"].tolist() == [[0, 1]]
    # In RGB black and white are colours also beside a list of classes.
    write("png", tmp_path, {"a.png": np.uint8([[0, 255]])}, classes)
    save(tmp_path / "a.png", np.uint8([[[0] * 3, [255] * 3]]))
    assert read("png", tmp_path, {"a.png": (1, 2)}, classes)["a.png"].tolist() == [[0, 1]]


def test_void_of_the_class_file_is_unlabelled(tmp_path):
    save(tmp_path / "a.png", np.where(ring() == 255, 11, ring()).astype(np.uint8))
    classes = replace(CLASSES, void_ids=frozenset({11}))
    np.testing.assert_array_equal(read("png", tmp_path, SIZES, classes)["a.jpg"], ring())


def test_labels_of_images_in_a_folder_called_images_are_no_images(tmp_path):
    FORMATS["png"].write(tmp_path, [Item("images/a.jpg", None, ring())], CLASSES)
    np.testing.assert_array_equal(read("png", tmp_path, {"images/a.jpg": (9, 8)})["images/a.jpg"], ring())
    with pytest.raises(
        ValueError, match=r"expected names outside of images/ and asked/, got 'images/a\.jpg'"
    ):
        write("png", tmp_path, {"images/a.jpg": ring()})
