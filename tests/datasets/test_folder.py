"""Somebody's own images: files of every kind and size, splits, and what is refused."""

import json

import numpy as np
import pytest
import torch
from dataset_trees import write_image, write_label
from PIL import Image

from ralx.datasets import DataError, check_data, load_splits

SIZES = [(24, 32), (32, 24), (40, 48)]
NAMES = ["a b/ü.JPG", "a b/deep/0.png", "c.tif", "d.webp", *(f"{number:02}.png" for number in range(8))]
CLASSES = {
    "classes": [{"name": "sky", "colour": [9, 9, 200]}, {"name": "road"}, {"name": "car"}],
    "void": [7, [0, 0, 0]],
}


def size_of(number):
    return SIZES[number % len(SIZES)]


def mask_of(number):
    """Stripes of three classes, of what is void by the class file, and of 255."""
    rows = np.arange(size_of(number)[0])[:, None] // 4 + number
    return np.array([0, 1, 2, 7, 255])[np.broadcast_to(rows, size_of(number)) % 5]


@pytest.fixture
def tree(tmp_path):
    for number, name in enumerate(NAMES):
        write_image(tmp_path / "images" / name, number, size_of(number))
        write_label((tmp_path / "labels" / name).with_suffix(".png"), mask_of(number), size_of(number))
    (tmp_path / "classes.json").write_text(json.dumps(CLASSES))
    return tmp_path


def load(tree, **options):
    return load_splits("folder", tree, classes=tree / "classes.json", **options)


def scan(tree, **options):
    return check_data("folder", tree, classes=tree / "classes.json", **options)


def test_images_of_every_kind_and_size_are_read_with_their_masks(tree):
    splits = load(tree)
    whole = {
        name: data for data in (splits.full_set, splits.reward_set, splits.test_set) for name in data.names
    }
    assert sorted(whole) == sorted(NAMES)
    for number, name in enumerate(NAMES):
        data = whole[name]
        index = torch.tensor([data.names.index(name)])
        height, width = size_of(number)
        assert data.sizes[index].tolist() == [[height, width]]
        (image,), (label,) = data.batch(index)
        assert label.shape == data.image_size
        mask = mask_of(number)
        assert np.array_equal(label[:height, :width], np.where(mask == 7, 255, mask))
        assert (label[height:] == 255).all() and (label[:, width:] == 255).all()
        if name.endswith("png"):
            stored = np.asarray(Image.open(tree / "images" / name))
            assert np.array_equal(image[:, :height, :width].permute(1, 2, 0), stored)
    assert splits.train_set.classes == ("sky", "road", "car") and splits.train_set.ignore_index == 255
    assert splits.train_set.palette[0].tolist() == [9, 9, 200]
    assert splits.pretrain_set is None


def test_splits_are_drawn_by_the_seed_and_disjoint(tree):
    def names(seed):
        return [data and data.names for data in load(tree, seed=seed)]

    state, train, evaluation, reward, test, _, full = names(1)
    everything = sorted([*state, *train, *evaluation, *reward, *test])
    assert everything == sorted(NAMES) and sorted([*full, *reward, *test]) == sorted(NAMES)
    assert (len(train), len(reward), len(test)) == (2, 2, 3)
    assert names(1) == names(1) and names(2) != names(1)


def test_split_lists_tell_the_splits(tree):
    lists = {
        "d_t": ["c.tif"], "d_v": ["01.png", "02.png"], "d_r": ["a b/ü.JPG"], "test": ["00.png", "d.webp"],
    }  # fmt: skip
    path = tree / "lists.json"

    def read(**changed):
        path.write_text(json.dumps(lists | changed))
        return load(tree, split_lists=path)

    splits = read(d_s=["03.png"])
    assert splits.state_set.names == ("03.png",) and splits.eval_set.names == ("01.png", "02.png")
    assert splits.reward_set.names == ("a b/ü.JPG",) and splits.test_set.names == ("00.png", "d.webp")
    with pytest.raises(DataError, match=r"expected image names in test, found none"):
        read(test=[])
    with pytest.raises(DataError, match=r"expected the image x\.png, listed in test, found none"):
        read(test=["x.png"])
    with pytest.raises(DataError, match=r"disjoint splits, found that d_t and test share 1 images, c\.tif"):
        read(test=["c.tif"])
    with pytest.raises(DataError, match=r"disjoint splits, found that d_r and d_t share 1 images, c\.tif"):
        read(d_r=["c.tif"])


def test_each_image_is_scaled_from_its_own_size(tree):
    for data in load(tree, scale=0.5):
        for name, size in [] if data is None else zip(data.names, data.sizes.tolist(), strict=True):
            assert size == [pixels // 2 for pixels in size_of(NAMES.index(name))]


def test_a_scan_reports_sizes_skipped_files_and_shares(tree):
    (tree / "images" / ".DS_Store").touch()
    (tree / "images" / "notes.txt").touch()
    report = scan(tree, region_size=(16, 16), seed=3)
    assert report.problems == []
    splits = load(tree, seed=3)
    pixels = sum(height * width for height, width in splits.full_set.sizes.tolist())
    text = str(report)
    assert "24x32 to 40x48" in text and "d_t" in text and "road" in text
    assert {"skipped below images: 1 hidden", "skipped below images: 1 of another kind"} <= {*report.notes}
    test = next(split for split in report.splits if split.name == "test")
    counts = splits.test_set.class_counts().sum(0)
    whole = int(splits.test_set.sizes.prod(1).sum())
    assert test.class_shares == pytest.approx((counts / whole).tolist()) and test.images == 3
    assert sum(test.class_shares) + test.void_share == pytest.approx(1)
    assert report.dropped_share is not None and pixels > 0


def test_a_scan_reports_all_problems(tree):
    (tree / "images" / "00.png").write_bytes(b"nothing")
    (tree / "labels" / "01.png").unlink()
    write_label(tree / "labels" / "02.png", 0, (5, 5))
    write_label(tree / "labels" / "03.png", 99, size_of(7))
    problems = "\n".join(scan(tree).problems)
    for text in (
        "00.png: expected a readable",
        "01.png: expected the mask of 01.png, found nothing",
        "02.png: expected 24x32 pixels (height x width) as its image, found 5x5",
        "03.png: expected class ids 0..2 or 7 or 255 for unlabelled, found 99",
    ):
        assert text in problems, text
    with pytest.raises(DataError, match=r"0[0-3]\.png: expected"):
        load(tree)


def test_a_mask_without_an_image_is_refused(tree):
    write_label(tree / "labels" / "a b" / "typo.png", 0)
    for read in (load, lambda tree: pytest.fail(scan(tree).problems[0])):
        with pytest.raises((DataError, pytest.fail.Exception), match=r"typo\.png: expected an image of that"):
            read(tree)


@pytest.mark.parametrize("missing", ["images", "labels", "classes.json"])
def test_a_missing_part_is_named(tree, missing):
    (tree / missing).rename(tree / "elsewhere")
    with pytest.raises(DataError, match=rf"{missing}: expected"):
        load(tree)
    assert any(f"{missing}: expected" in problem for problem in scan(tree).problems)


def test_without_a_class_file_or_enough_images_nothing_starts(tree):
    with pytest.raises(DataError, match="folder: expected the file of its classes, got none"):
        load_splits("folder", tree)
    for name in NAMES[4:]:
        (tree / "images" / name).unlink()
        (tree / "labels" / name).unlink()
    with pytest.raises(DataError, match="folder: expected at least 5 images to split, found 4"):
        load(tree)


def test_masks_of_0_and_255_need_the_colours_of_two_classes(tree):
    """255 is unlabelled, unless the class file says that white is a class."""
    for number, name in enumerate(NAMES):
        mask = np.where(mask_of(number) < 2, 0, 255)
        write_label((tree / "labels" / name).with_suffix(".png"), mask, size_of(number))
    two = [{"name": "sky"}, {"name": "road"}]
    (tree / "classes.json").write_text(json.dumps({"classes": two}))
    expected = (
        r"expected masks of two classes or more, found sky; where .* colours \[0, 0, 0\] and \[255, 255"
    )
    with pytest.raises(DataError, match=expected):
        load(tree)
    assert any("of two classes or more" in problem for problem in scan(tree).problems)
    two[0]["colour"], two[1]["colour"] = [0, 0, 0], [255, 255, 255]
    (tree / "classes.json").write_text(json.dumps({"classes": two}))
    assert load(tree).full_set.class_counts().sum(0).all()


def test_the_fingerprint_knows_pixels_and_what_masks_mean(tree):
    def fingerprint():
        return load(tree).full_set.fingerprint()

    before = fingerprint()
    assert fingerprint() == before
    (tree / "classes.json").write_text(json.dumps(CLASSES | {"void": [7, 8]}))
    assert fingerprint() != before
    (tree / "classes.json").write_text(json.dumps(CLASSES))
    name = load(tree).full_set.names[0]
    Image.new("RGB", Image.open(tree / "images" / name).size).save(tree / "images" / name)
    assert fingerprint() != before
