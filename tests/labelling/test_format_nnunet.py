"""nnU-Net's data sets: consecutive ids, the background first, what is unlabelled last."""

import json

import numpy as np
import pytest
from label_maps import CLASSES, class_list, contents, read, ring, write
from PIL import Image

from ralx.datasets.class_file import ClassList
from ralx.datasets.errors import DataError

SIZES = {"street/a.jpg": (9, 8)}


def ids_of(folder) -> dict[str, int]:
    return json.loads((folder / "dataset.json").read_text())["labels"]


def test_the_folder_is_laid_out_as_nnunet_wants(tmp_path):
    write("nnunet", tmp_path, {"street/a.jpg": ring(), "b.png": ring()})
    assert contents(tmp_path).keys() == {
        "dataset.json",
        *(f"{folder}/{case}.png" for folder, case in (("labelsTr", "street__a"), ("labelsTr", "b"))),
        *(f"imagesTr/{case}_0000.png" for case in ("street__a", "b")),
    }
    dataset = json.loads((tmp_path / "dataset.json").read_text())
    assert (dataset["numTraining"], dataset["file_ending"], len(dataset["channel_names"])) == (2, ".png", 3)


@pytest.mark.parametrize("names", [("sky", "road"), ("background", "sky"), ("sky", "background", "road")])
def test_ids_are_consecutive_with_the_background_first_and_ignore_last(names, tmp_path):
    label = np.uint8([[*range(len(names)), 255]])
    classes = ClassList(names, class_list(len(names)).colours)
    write("nnunet", tmp_path, {"a.png": label}, classes)
    ids = ids_of(tmp_path)
    assert sorted(ids.values()) == list(range(len(ids)))
    assert ids["background"] == 0 and ids["ignore"] == max(ids.values())
    stored = np.asarray(Image.open(tmp_path / "labelsTr/a.png"))
    assert stored.tolist() == [[*(ids[name] for name in names), ids["ignore"]]]
    np.testing.assert_array_equal(read("nnunet", tmp_path, {"a.png": label.shape}, classes)["a.png"], label)


def test_ids_are_those_of_dataset_json_wherever_it_lies(tmp_path):
    write("nnunet", tmp_path, {"street/a.jpg": ring()})
    for path in (tmp_path / "labelsTr", tmp_path / "labelsTr" / "street__a.png"):
        np.testing.assert_array_equal(read("nnunet", path, SIZES)["street/a.jpg"], ring())
    dataset = json.loads((tmp_path / "dataset.json").read_text())
    dataset["labels"] = {"background": 0, "road": 1, "sky": 2, "car & bus": 3, "ignore": 4}
    (tmp_path / "dataset.json").write_text(json.dumps(dataset))
    swapped = np.array([1, 0, 2, *[255] * 253], np.uint8)[ring()]
    np.testing.assert_array_equal(read("nnunet", tmp_path, SIZES)["street/a.jpg"], swapped)


@pytest.mark.parametrize(("number", "found"), [(0, 0), (5, 5), (200, 200)])
def test_background_that_is_no_class_and_other_ids_are_refused(number, found, tmp_path):
    write("nnunet", tmp_path, {"street/a.jpg": ring()})
    file = tmp_path / "labelsTr" / "street__a.png"
    Image.fromarray(np.full((9, 8), number, np.uint8)).save(file)
    with pytest.raises(DataError, match=rf"street__a\.png: expected the ids .* found {found}"):
        read("nnunet", tmp_path, SIZES)


@pytest.mark.parametrize(
    "labels",
    [{"background": 0, "whole": [1, 2]}, {"background": 0, "water": 1}, {"sky": -3}, {"sky": 2**40}, {}],
)
def test_other_labels_of_dataset_json_are_refused(labels, tmp_path):
    write("nnunet", tmp_path, {"street/a.jpg": ring()})
    dataset = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps(dataset | {"labels": labels}))
    with pytest.raises(DataError, match=r"dataset\.json: expected"):
        read("nnunet", tmp_path, SIZES)


def test_labels_without_dataset_json_are_refused(tmp_path):
    write("nnunet", tmp_path, {"street/a.jpg": ring()})
    (tmp_path / "dataset.json").unlink()
    with pytest.raises(DataError, match=r"expected dataset\.json beside or above nnU-Net's labels"):
        read("nnunet", tmp_path, SIZES)


def test_a_label_in_colour_is_refused(tmp_path):
    write("nnunet", tmp_path, {"street/a.jpg": ring()})
    Image.fromarray(CLASSES.palette[ring() % 3]).save(tmp_path / "labelsTr" / "street__a.png")
    with pytest.raises(DataError, match=r"street__a\.png: expected a grey PNG of 8 or 16 bits"):
        read("nnunet", tmp_path, SIZES)


def test_a_class_called_ignore_and_cases_of_one_name_are_refused(tmp_path):
    classes = ClassList(("sky", "ignore"), class_list(2).colours)
    with pytest.raises(DataError, match='expected no class "ignore"'):
        write("nnunet", tmp_path, {"a.png": np.zeros((1, 1), np.uint8)}, classes)
    with pytest.raises(ValueError, match=r"got 'a/b\.png' and 'a__b\.png'"):
        write("nnunet", tmp_path, {"a/b.png": ring(), "a__b.png": ring()})
    with pytest.raises(DataError, match="expected images of different cases"):
        read("nnunet", tmp_path, {"a/b.png": (9, 8), "a__b.png": (9, 8)})
