"""Cityscapes' folders: cities, label ids and train ids, and what is said of files that are wrong."""

import json

import numpy as np
import pytest
import torch
from dataset_trees import SIZE, write_image, write_label

from ralx.datasets import CITYSCAPES_CLASSES, DataError, load_splits
from ralx.datasets.cityscapes import cityscapes_folder

TRAIN_IDS = {label: n for n, label in enumerate((7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33))}
IDS = np.resize(np.r_[np.arange(34), 255], SIZE).astype(np.uint8)  # every label id
EXPECTED = np.vectorize(lambda label: TRAIN_IDS.get(label, 255))(IDS)


@pytest.fixture
def tree(tmp_path):
    """(root, split lists): two cities to train with 4 images each, one in val with 2."""
    root = tmp_path / "cityscapes"
    for part, city, count in (("train", "ulm", 4), ("train", "aachen", 4), ("val", "lindau", 2)):
        for number in range(count):
            name = f"{city}_{number:06d}_000019"
            write_image(root / "leftImg8bit" / part / city / f"{name}_leftImg8bit.png", number)
            write_label(root / "gtFine" / part / city / f"{name}_gtFine_labelIds.png", IDS)
    names = [f"{city}_{number:06d}_000019" for city in ("aachen", "ulm") for number in range(4)]
    lists = tmp_path / "lists.json"
    lists.write_text(json.dumps({"d_s": names[3:4], "d_t": names[:2], "d_v": names[2:6], "d_r": names[6:]}))
    return root, lists


def load(tree, **options):
    with pytest.warns(UserWarning, match="d_s and d_v share 1 images"):
        return load_splits("cityscapes", tree[0], split_lists=tree[1], **options)


def test_splits_lie_in_train_and_the_official_val_is_the_test_set(tree):
    splits = load(tree)
    assert splits.train_set.names == ("aachen_000000_000019", "aachen_000001_000019")
    assert splits.eval_set.names[-1] == "ulm_000001_000019"
    assert splits.reward_set.names == ("ulm_000002_000019", "ulm_000003_000019")
    assert splits.test_set.names == ("lindau_000000_000019", "lindau_000001_000019")
    assert set(splits.full_set.names) == {*splits.train_set.names, *splits.eval_set.names}
    for split in splits:
        assert split.classes == CITYSCAPES_CLASSES and split.ignore_index == 255


def test_a_state_set_inside_d_v_is_only_a_warning(tree):
    assert set(load(tree).state_set.names) < set(load(tree).eval_set.names)


def test_label_ids_become_train_ids(tree):
    assert np.array_equal(load(tree).test_set.labels(torch.tensor([1]))[0].numpy(), EXPECTED)
    assert CITYSCAPES_CLASSES[TRAIN_IDS[7]] == "road" and CITYSCAPES_CLASSES[TRAIN_IDS[33]] == "bicycle"


def test_train_ids_are_taken_as_they_are_where_label_ids_are_missing(tree):
    folder = tree[0] / "gtFine" / "val" / "lindau"
    (folder / "lindau_000001_000019_gtFine_labelIds.png").unlink()
    write_label(folder / "lindau_000001_000019_gtFine_labelTrainIds.png", EXPECTED)
    assert np.array_equal(load(tree).test_set.labels(torch.tensor([1]))[0].numpy(), EXPECTED)


def test_what_systems_leave_in_folders_is_no_city_and_no_image(tree):
    names = cityscapes_folder(tree[0], "train").names
    for folder in ("leftImg8bit", "gtFine"):
        cities = tree[0] / folder / "train"
        for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", ".git"):
            (cities / name).mkdir()
        (cities / "Thumbs.db").write_bytes(b"nothing")
        (cities / "ulm" / "@eaDir").mkdir()
        (cities / "ulm" / "._ulm_000000_000019_leftImg8bit.png").write_bytes(b"nothing")
    assert cityscapes_folder(tree[0], "train").load().names == names


def test_labels_are_found_whatever_the_case_of_their_suffix(tree):
    folder = tree[0] / "gtFine" / "val" / "lindau"
    (folder / "lindau_000001_000019_gtFine_labelIds.png").unlink()
    write_label(folder / "lindau_000001_000019_gtFine_labelTrainIds.png", EXPECTED)
    for path in folder.iterdir():
        path.rename(path.with_suffix(".PNG"))
    labels = cityscapes_folder(tree[0], "val").labels(torch.arange(2)).numpy()
    assert np.array_equal(labels[0], EXPECTED) and np.array_equal(labels[1], EXPECTED)


def test_the_fingerprint_tells_how_labels_are_read(tree):
    """The same bytes under another name are other labels."""
    before = cityscapes_folder(tree[0], "val").fingerprint()
    path = tree[0] / "gtFine" / "val" / "lindau" / "lindau_000001_000019_gtFine_labelIds.png"
    path.rename(path.with_name("lindau_000001_000019_gtFine_labelTrainIds.png"))
    assert cityscapes_folder(tree[0], "val").fingerprint() != before


def test_the_order_does_not_depend_on_the_file_system(tree, shuffled_folders):
    names = [split.names for split in load(tree)]
    shuffled_folders()
    assert [split.names for split in load(tree)] == names
    assert names[-1] == tuple(sorted(names[-1]))


def test_pretraining_scenes_have_the_size_and_the_classes_of_cityscapes(tree):
    splits = load(tree, scale=0.75)
    assert splits.train_set.image_size == splits.pretrain_set.image_size == (18, 24)
    labels = splits.pretrain_set.labels(torch.arange(20))
    names = {CITYSCAPES_CLASSES[n] for n in labels.unique().tolist() if n != 255}
    assert {"sky", "road", "building", "sidewalk", "vegetation", "car"} <= names


@pytest.mark.parametrize(
    ("label", "value", "message"),
    [
        ("labelIds", 34, r"labelIds\.png: expected label ids 0\.\.33 or 255, found 34 at row 0, column 0"),
        ("labelTrainIds", 19, r"labelTrainIds\.png: expected train ids 0\.\.18 or 255, found 19 at row 0"),
        ("color", 0, r"gtFine_labelIds\.png: expected the labels of lindau_000000.*found nothing"),
    ],
)
def test_label_ids_out_of_range_and_missing_labels_are_refused(tree, label, value, message):
    folder = tree[0] / "gtFine" / "val" / "lindau"
    (folder / "lindau_000000_000019_gtFine_labelIds.png").unlink()
    write_label(folder / f"lindau_000000_000019_gtFine_{label}.png", value)
    with pytest.raises(DataError, match=message):
        cityscapes_folder(tree[0], "val").load()


def test_missing_folders_and_a_part_without_cities_are_refused(tree):
    with pytest.raises(DataError, match="leftImg8bit/test: expected a folder with Cityscapes' test images"):
        cityscapes_folder(tree[0], "test")
    (tree[0] / "leftImg8bit" / "test").mkdir()
    (tree[0] / "gtFine" / "test").mkdir()
    with pytest.raises(DataError, match="leftImg8bit/test: expected a folder of images per city, found none"):
        cityscapes_folder(tree[0], "test")


def test_an_image_of_another_name_is_refused(tree):
    write_image(tree[0] / "leftImg8bit" / "val" / "lindau" / "lindau_1.png")
    with pytest.raises(DataError, match=r"lindau_1\.png: expected a name that ends in _leftImg8bit"):
        cityscapes_folder(tree[0], "val")


def test_lists_without_d_r_are_refused(tree):
    tree[1].write_text(json.dumps({"d_t": ["aachen_000000_000019"], "d_v": ["aachen_000001_000019"]}))
    with pytest.raises(DataError, match=r"lists\.json: expected image names in d_r, found none"):
        load_splits("cityscapes", tree[0], split_lists=tree[1])
