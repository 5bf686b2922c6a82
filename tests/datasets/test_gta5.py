"""GTA5 in the classes and at the size of the data set that it pretrains for."""

from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_trees import cut, write_image, write_label
from PIL import Image

from ralx.datasets import CAMVID_CLASSES, CITYSCAPES_CLASSES, DataError, load_splits
from ralx.datasets.classes import LABEL_COLOURS
from ralx.datasets.gta5 import gta5_folder

SIZE, TARGET = (20, 36), (18, 24)
IDS = np.resize(np.arange(35), SIZE).astype(np.uint8)
# GTA5's label ids as they are listed for CamVid: the class of the n-th.
CAMVID_LABEL_IDS = (23, 11, 17, 7, 8, 21, 19, 20, 13, 26, 27, 28, 32, 24, 33)
TO_CAMVID = dict(zip(CAMVID_LABEL_IDS, (0, 1, 2, 3, 4, 5, 6, 6, 7, 8, 8, 8, 8, 9, 10), strict=True))
TO_CITYSCAPES = {label: n for n, label in enumerate((7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33))}


@pytest.fixture
def root(tmp_path):
    for number in range(1, 4):
        write_image(tmp_path / "images" / f"{number:05d}.png", number, SIZE)
        write_label(tmp_path / "labels" / f"{number:05d}.png", IDS, SIZE)
    return tmp_path


@pytest.mark.parametrize(
    ("classes", "mapping", "ignore"),
    [(CAMVID_CLASSES, TO_CAMVID, 11), (CITYSCAPES_CLASSES, TO_CITYSCAPES, 255)],
)
def test_label_ids_become_the_targets_classes(root, classes, mapping, ignore):
    data = gta5_folder(root, classes, SIZE)
    expected = np.vectorize(lambda label: mapping.get(label, ignore))(IDS)
    assert np.array_equal(data.labels(torch.tensor([2]))[0].numpy(), expected)
    assert data.classes == classes and data.ignore_index == ignore
    assert data.names == ("00001", "00002", "00003")


def test_labels_in_colours_and_in_a_palette_mean_the_same(root):
    expected = gta5_folder(root, CAMVID_CLASSES, SIZE).labels(torch.tensor([0]))
    Image.fromarray(np.array(LABEL_COLOURS, np.uint8)[IDS]).save(root / "labels" / "00001.png")
    indexed = Image.fromarray(IDS, "L").convert("P")
    indexed.putdata(IDS.ravel().tolist())
    indexed.putpalette([value for colour in LABEL_COLOURS for value in colour])
    indexed.save(root / "labels" / "00002.png")
    labels = gta5_folder(root, CAMVID_CLASSES, SIZE).labels(torch.arange(2))
    # (0, 0, 142) is the car's colour and the licence plate's (34), (153, 153, 153) the pole's and the pole
    # group's (18): in colours they are cars and poles.
    own = torch.from_numpy((IDS != 34) & (IDS != 18))
    assert torch.equal(labels[0][own], expected[0][own])
    assert set(labels[0][~own].tolist()) == {CAMVID_CLASSES.index("car"), CAMVID_CLASSES.index("pole")}
    assert torch.equal(labels[1], expected[0])


def test_labels_are_found_whatever_the_case_of_their_suffix(root):
    (root / "labels" / "00002.png").rename(root / "labels" / "00002.PNG")
    (root / "labels" / "._00002.png").write_bytes(b"nothing")
    assert len(gta5_folder(root, CAMVID_CLASSES, TARGET).load()) == 3


def test_images_whose_labels_have_another_size_are_left_out(root):
    for name in ("15188", "17705", "20801", "20860"):
        write_image(root / "images" / f"{name}.png", 0, SIZE)
        write_label(root / "labels" / f"{name}.png", 0, (8, 8))
    write_image(root / "images" / "20861.png", 0, SIZE)
    write_label(root / "labels" / "20861.png", 0, SIZE)
    assert gta5_folder(root, CAMVID_CLASSES, SIZE).load().names == ("00001", "00002", "00003", "20861")


def test_images_of_any_size_take_the_targets_shape_from_their_middle(root):
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 20:40] = 200  # the middle third, the target's shape
    Image.fromarray(image).save(root / "images" / "00002.png")
    write_label(root / "labels" / "00002.png", 7 * (image[..., 0] > 0), (20, 60))
    data = gta5_folder(root, CAMVID_CLASSES, (10, 10))
    images, labels = data.batch(torch.arange(3))
    assert images.shape == (3, 3, 10, 10)
    assert images[1, ..., 1:-1].unique().tolist() == [200]  # the filter looks a little beyond the border
    assert labels[1].unique().tolist() == [CAMVID_CLASSES.index("road")]


def test_a_share_that_is_rounded_up_stays_within_the_image(root):
    """117 / 57 * 57 is a little more than 117."""
    write_image(root / "images" / "00001.png", 0, (117, 159))
    write_label(root / "labels" / "00001.png", 7, (117, 159))
    assert gta5_folder(root, CAMVID_CLASSES, (57, 71)).labels(torch.tensor([0])).unique().tolist() == [3]


def test_it_pretrains_for_camvid(root, camvid_tree):
    splits = load_splits("camvid", camvid_tree[0], split_lists=camvid_tree[1], gta5=root, scale=0.5)
    pretrain = splits.pretrain_set
    assert pretrain.names == ("00001", "00002", "00003")
    assert pretrain.image_size == (12, 16) and pretrain.classes == CAMVID_CLASSES
    assert not pretrain.resident and splits.train_set.resident  # decoded when first used
    assert pretrain.labels(torch.tensor([0])).shape == (1, 12, 16) and pretrain.resident


@pytest.mark.parametrize(
    ("file", "spoil", "message"),
    [
        ("labels/00003.png", Path.unlink, "expected the labels of 00003"),
        ("labels/00002.png", lambda path: write_label(path, 0, (20, 30)), "expected 20x36 .*, found 20x30"),
        ("images/00001.png", cut, "expected a whole PNG image"),
    ],
)
def test_bad_files_are_found_when_the_splits_are_loaded(root, camvid_tree, file, spoil, message):
    spoil(root / file)
    with pytest.raises(DataError, match=f"{file}: {message}"):
        load_splits("camvid", camvid_tree[0], split_lists=camvid_tree[1], gta5=root)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (Image.new("L", SIZE[::-1], 35), r"expected label ids 0\.\.34, found 35 at row 0"),
        (Image.new("RGB", SIZE[::-1], (1, 2, 3)), r"expected Cityscapes' label colours, found \(1, 2, 3\)"),
    ],
)
def test_label_ids_out_of_range_and_unknown_colours_are_refused(root, label, message):
    label.save(root / "labels" / "00002.png")
    with pytest.raises(DataError, match=rf"labels/00002\.png: {message}"):
        gta5_folder(root, CAMVID_CLASSES, TARGET).load()


def test_missing_folders_are_refused(root, tmp_path_factory, camvid_tree):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(DataError, match="/images: expected a folder with GTA5's images, found nothing"):
        gta5_folder(empty, CAMVID_CLASSES, TARGET)
    (empty / "images").mkdir()
    with pytest.raises(DataError, match=r"/images: expected GTA5's images .*, found none"):
        gta5_folder(empty, CAMVID_CLASSES, TARGET)
    write_image(empty / "images" / "15188.png")
    (empty / "labels").mkdir()
    with pytest.raises(
        DataError, match="/images: expected GTA5's images, found only those that are left out"
    ):
        gta5_folder(empty, CAMVID_CLASSES, TARGET)
    with pytest.raises(DataError, match="/nowhere: expected the folder of gta5, found nothing"):
        load_splits("camvid", camvid_tree[0], split_lists=camvid_tree[1], gta5=empty / "nowhere")
