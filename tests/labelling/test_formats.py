"""What every labelling format promises: labels survive, files are the same when written again, and what is
wrong is refused with the file's name."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from label_maps import AWKWARD, CLASSES, class_list, contents, label_maps, photo, read, ring, write
from PIL import Image

from ralx.datasets.class_file import ClassList
from ralx.datasets.errors import DataError
from ralx.labelling.formats import FORMATS, Item, format_of

EVERY = pytest.mark.parametrize("form", FORMATS)
SIZE = (9, 8)
LABEL_FILES = {
    "png": "a.png",
    "cvat": "annotations.xml",
    "label-studio": "tasks.json",
    "labelme": "a.json",
    "coco": "annotations.json",
    "nnunet": "labelsTr/a.png",
    "napari": "a.png",
}


def same_both_ways(form: str, folder: Path, label: np.ndarray, classes: ClassList) -> None:
    name = "street/a photo é.v2.jpg"
    write(form, folder / "once", {name: label}, classes)
    back = read(form, folder / "once", {name: label.shape, "street/other.jpg": (3, 3)}, classes)
    assert list(back) == [name] and back[name].dtype == np.uint8
    np.testing.assert_array_equal(back[name], label)
    write(form, folder / "twice", back, classes)
    assert contents(folder / "once") == contents(folder / "twice")


@EVERY
@pytest.mark.parametrize("what", AWKWARD)
def test_labels_and_files_survive(form, what, tmp_path):
    label, count = AWKWARD[what]
    same_both_ways(form, tmp_path, label, class_list(count))


@EVERY
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(label_maps())
def test_any_label_survives(form, tmp_path_factory, drawn):
    label, count = drawn
    same_both_ways(form, tmp_path_factory.mktemp("any"), label, class_list(count))


@EVERY
def test_many_images_keep_their_own_labels_and_pixels(form, tmp_path):
    labels = {f"{where}/{n}.png": np.full((2 + n, 3), n, np.uint8) for where in "ab" for n in range(3)}
    write(form, tmp_path, labels)
    back = read(form, tmp_path, {name: label.shape for name, label in labels.items()})
    assert back.keys() == labels.keys()
    assert all(np.array_equal(back[name], label) for name, label in labels.items())
    images = {
        image.tobytes()
        for path in tmp_path.rglob("*.png")
        if (image := np.asarray(Image.open(path))).ndim > 2
    }
    assert images == {photo(label.shape, seed).tobytes() for seed, label in enumerate(labels.values())}


@EVERY
def test_without_pixels_only_labels_are_written(form, tmp_path):
    FORMATS[form].write(tmp_path, [Item("a.jpg", None, ring())], CLASSES)
    assert all(np.asarray(Image.open(path)).ndim == 2 for path in tmp_path.rglob("*.png"))
    np.testing.assert_array_equal(read(form, tmp_path, {"a.jpg": SIZE})["a.jpg"], ring())


@EVERY
def test_the_label_file_alone_is_read(form, tmp_path):
    write(form, tmp_path, {"a.png": ring()})
    file = tmp_path / LABEL_FILES[form]
    np.testing.assert_array_equal(read(form, file, {"b/a.jpg": SIZE})["b/a.jpg"], ring())


@EVERY
def test_the_format_is_told_by_the_files(form, tmp_path):
    write(form, tmp_path, {"a.png": ring()})
    assert format_of(tmp_path) == format_of(tmp_path / LABEL_FILES[form]) == form


def test_masks_alone_are_index_pngs_and_other_files_no_format(tmp_path):
    Image.fromarray(ring()).save(tmp_path / "a.png")
    assert format_of(tmp_path) == format_of(tmp_path / "a.png") == "png"
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    for path, rule in (("a.json", "found other JSON"), ("empty", "found none"), ("none", "found nothing")):
        with pytest.raises(DataError, match=rule):
            format_of(tmp_path / path)


# --- what is refused -------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize(
    ("sizes", "rule"),
    [
        ({"b.png": SIZE}, "expected the name of an image that labels are expected for, found '.*a"),
        ({"a.png": (9, 9)}, "expected 9x9 pixels"),
        ({"a.png": (18, 16)}, "expected 18x16 pixels"),
        (
            {"x/a.png": SIZE, "y/a.png": SIZE},
            "expected a name that one image has, found '.*a.*x/a.png', 'y/a.png'",
        ),
    ],
)
def test_names_and_sizes_of_other_images_are_refused(form, sizes, rule, tmp_path):
    write(form, tmp_path, {"a.png": ring()})
    with pytest.raises(DataError, match=rule) as refused:
        read(form, tmp_path, sizes)
    assert str(refused.value).startswith(str(tmp_path))


@EVERY
def test_another_class_list_is_refused(form, tmp_path):
    write(form, tmp_path, {"a.png": ring()})
    renamed = ClassList(("sky", "road"), CLASSES.colours[:2]) if form in ("png", "napari") else class_list(3)
    with pytest.raises(DataError, match=r"expected the .*(classes|numbers).* found"):
        read(form, tmp_path, {"a.png": SIZE}, renamed)


@pytest.mark.parametrize("form", sorted(FORMATS.keys() - {"nnunet"}))  # whose names hold the whole path
def test_an_image_that_comes_twice_is_refused(form, tmp_path):
    write(form, tmp_path, {"b/a.png": ring(), "c/a.png": ring()})
    with pytest.raises(DataError, match=r"expected each image once, found 'a.png' twice"):
        read(form, tmp_path, {"a.png": SIZE})


@EVERY
def test_nothing_and_an_empty_folder_are_refused(form, tmp_path):
    for path, rule in ((tmp_path / "none", "none"), (tmp_path, str(tmp_path))):
        with pytest.raises(DataError, match=rule):
            read(form, path, {"a.png": SIZE})


@EVERY
@pytest.mark.parametrize("damage", ["cut off", "other bytes", "empty"])
def test_a_damaged_file_is_refused_by_name(form, damage, tmp_path):
    write(form, tmp_path, {"a.png": ring()})
    for file in sorted(tmp_path.rglob("*")):
        if not file.is_file() or file.parent.name in ("images", "imagesTr") or file.name == "labels.txt":
            continue
        content = file.read_bytes()
        if np.asarray(Image.open(file)).ndim == 3 if file.suffix == ".png" else file.name == "config.xml":
            continue
        if form == "cvat" and file.name == "labels.json":
            continue
        file.write_bytes(
            {"cut off": content[: len(content) // 2], "other bytes": b"\x93\xff{[<", "empty": b""}[damage]
        )
        with pytest.raises(DataError, match=file.name):
            read(form, tmp_path, {"a.png": SIZE})
        file.write_bytes(content)
    assert read(form, tmp_path, {"a.png": SIZE})


@EVERY
@pytest.mark.parametrize(
    ("item", "rule"),
    [
        (Item("../a.png", None, ring()), "expected names of files in the folder, got '../a.png'"),
        (Item("/a.png", None, ring()), "expected names of files in the folder"),
        (Item("a/./b.png", None, ring()), "expected names of files in the folder"),
        (Item("a\\b.png", None, ring()), "expected names of files in the folder"),
        (Item("", None, ring()), "expected names of files in the folder"),
        (Item("a.png", None, ring().astype(np.int64)), r"expected labels uint8 \[h, w\], got int64"),
        (Item("a.png", None, ring()[None]), r"expected labels uint8 \[h, w\]"),
        (Item("a.png", None, ring() | np.uint8(8)), r"expected class ids 0..2 or 255, got 8 in a.png"),
        (Item("a.png", lambda: photo((3, 3)), ring()), r"expected pixels uint8 \(9, 8, 3\)"),
    ],
)
def test_items_that_cannot_be_written_are_refused(form, item, rule, tmp_path):
    with pytest.raises(ValueError, match=rule):
        FORMATS[form].write(tmp_path / "out", [item], CLASSES)
    assert not list(tmp_path.rglob("a.png"))


@EVERY
def test_names_that_differ_in_suffix_or_case_alone_are_refused(form, tmp_path):
    for other in ("a.JPG", "A.png"):
        with pytest.raises(ValueError, match=f"differ in more than suffix and case, got '{other}'"):
            FORMATS[form].write(tmp_path, [Item("a.png", None, ring()), Item(other, None, ring())], CLASSES)


# --- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "known", "name"),
    [
        ("a.json", ["a.jpg", "b.jpg"], "a.jpg"),
        ("images/x/a.json", ["x/a.jpg", "a.jpg", "y/a.jpg"], "x/a.jpg"),
        ("a.json", ["x/a.jpg", "a.jpg"], "a.jpg"),
        ("crop.v2.json", ["crop.png", "crop.v2.png"], "crop.v2.png"),
        ("e\u0301.json", ["\u00e9.png"], "\u00e9.png"),
    ],
)
def test_a_tools_name_finds_the_image(found, known, name, tmp_path):
    write("labelme", tmp_path, {"one.png": ring()})
    target = tmp_path / found
    target.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "one.json").rename(target)
    assert list(read("labelme", tmp_path, dict.fromkeys(known, SIZE))) == [name]


def test_a_name_outside_the_folder_is_refused(tmp_path):
    write("coco", tmp_path, {"a.png": ring()})
    file = tmp_path / "annotations.json"
    file.write_text(file.read_text().replace('"a.png"', '"../a.png"'))
    with pytest.raises(
        DataError, match=r"annotations\.json: expected names inside the folder, found '\.\./a\.png'"
    ):
        read("coco", tmp_path, {"a.png": SIZE})


def test_hidden_and_foreign_files_are_left_alone(tmp_path):
    write("labelme", tmp_path, {"a.png": ring()})
    for name in (".a.json", "__MACOSX/._a.json", ".hidden/a.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("nothing")
    assert list(read("labelme", tmp_path, {"a.png": SIZE})) == ["a.png"]


def test_json_of_another_kind_is_refused(tmp_path):
    file = tmp_path / "a.json"
    for value in (None, 3, [], {}, [[]], {"shapes": 3}, {"images": [3], "annotations": [], "categories": []}):
        file.write_text(json.dumps(value))
        for form in ("labelme", "coco", "label-studio"):
            if (form, value) == ("label-studio", []):
                continue  # no tasks at all
            with pytest.raises(DataError, match=r"a.json: expected"):
                read(form, tmp_path, {"a.png": SIZE})
