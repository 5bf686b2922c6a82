"""CamVid's folders: splits, pixels, fingerprints, and what is said of files that are wrong."""

import hashlib
import json
import locale
import os
import re
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_trees import SIZE, change_lists, chunk, cut, png, write_image, write_label
from PIL import Image

from ralx.datasets import CAMVID_CLASSES, DataError, load_splits
from ralx.datasets.camvid import camvid_folder
from ralx.datasets.splits import read_split_lists


def load(tree, **options):
    root, lists = tree
    return load_splits("camvid", root, split_lists=lists, **options)


def test_splits_are_read_by_name(camvid_tree):
    splits = load(camvid_tree)
    assert splits.state_set.names == ("train_0", "train_1")
    assert splits.train_set.names == ("train_2", "train_3", "train_4")
    assert splits.eval_set.names == ("train_5", "train_6", "train_7")
    assert splits.reward_set.names == ("val_0", "val_1")
    assert splits.test_set.names == ("test_0", "test_1")
    assert len(splits.full_set) == 8
    for split in splits:
        assert split.classes == CAMVID_CLASSES and split.ignore_index == 11 and split.image_size == SIZE


def test_pixels_are_those_of_the_files(camvid_tree):
    root, _ = camvid_tree
    images, labels = load(camvid_tree).eval_set.batch(torch.tensor([1]))
    expected = np.asarray(Image.open(root / "train" / "train_6.png"))
    assert np.array_equal(images[0].permute(1, 2, 0).numpy(), expected)
    assert np.array_equal(labels[0].numpy(), np.asarray(Image.open(root / "trainannot" / "train_6.png")))


def test_photographs_may_be_jpeg(camvid_tree):
    root, _ = camvid_tree
    (root / "train" / "train_5.png").unlink()
    pixels = write_image(root / "train" / "train_5.JPG", 5)
    (root / "train" / "train_6.png").unlink()
    write_image(root / "train" / "train_6.jpeg", 6)
    splits = load(camvid_tree)
    assert splits.eval_set.names == ("train_5", "train_6", "train_7")
    assert np.array_equal(splits.eval_set.images(torch.tensor([0]))[0].permute(1, 2, 0).numpy(), pixels)


def test_other_files_are_left_alone(camvid_tree):
    root, _ = camvid_tree
    (root / "train" / "notes.txt").write_text("nothing")
    for folder in ("train", "trainannot"):
        for name in ("Thumbs.db", ".DS_Store", "._train_0.png", ".train_0.png.swp", ".a.png"):
            (root / folder / name).write_bytes(b"nothing")
        for name in ("@eaDir", ".ipynb_checkpoints", "__MACOSX", "album.png"):
            (root / folder / name).mkdir()
            (root / folder / name / "train_0.png").write_bytes(b"nothing")
    assert len(load(camvid_tree).full_set) == 8


def test_a_label_is_found_whatever_the_case_of_its_suffix(camvid_tree):
    root, _ = camvid_tree
    before = load(camvid_tree).full_set.labels(torch.arange(8))
    for image, label, number in (("PNG", "PNG", 3), ("png", "Png", 4), ("PnG", "png", 5)):
        (root / "train" / f"train_{number}.png").rename(root / "train" / f"train_{number}.{image}")
        (root / "trainannot" / f"train_{number}.png").rename(root / "trainannot" / f"train_{number}.{label}")
    assert torch.equal(load(camvid_tree).full_set.labels(torch.arange(8)), before)


@pytest.mark.parametrize(("folder", "kind"), [("train", "image"), ("trainannot", "label file")])
def test_two_files_that_differ_in_their_suffix_alone_are_refused(camvid_tree, folder, kind):
    files = camvid_tree[0] / folder
    (files / "train_3.PNG").write_bytes((files / "train_3.png").read_bytes())
    message = rf"/{folder}/train_3\.png: expected one {kind} of that name, found train_3\.PNG too"
    with pytest.raises(DataError, match=message):
        load(camvid_tree)


def test_a_name_that_is_not_utf_8_is_refused_before_anything_is_decoded(camvid_tree):
    root, _ = camvid_tree
    for folder in ("train", "trainannot"):
        (root / folder / "train_0.png").rename(os.fsdecode(os.fsencode(root / folder) + b"/caf\xe9.png"))
    expected = r"/train: expected file names in UTF-8, found 'caf.udce9\.png'"
    with pytest.raises(DataError, match=expected) as info:
        camvid_folder(root, "train")
    str(info.value).encode("ascii")


def test_every_error_can_be_printed(tmp_path):
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    with pytest.raises(DataError, match="expected the folder of camvid, found nothing") as info:
        load_splits("camvid", root)
    assert str(info.value).encode().startswith(os.fsencode(tmp_path) + rb"/caf\udce9: ")


def test_the_fingerprint_is_of_all_that_the_files_hold(camvid_tree):
    """Also of what lies far from a file's ends and changes neither its size nor, of an image, its pixels."""
    root, _ = camvid_tree
    path, ids = root / "valannot" / "val_0.png", np.zeros(SIZE, np.uint8)

    def fingerprint(label):
        path.write_bytes(label)
        return camvid_folder(root, "val").fingerprint()

    def stored(label_id):
        rows = b"".join(b"\0" + bytes([label_id] * SIZE[1]) for _ in range(SIZE[0]))
        pixels = chunk(b"IDAT", zlib.compress(rows, 0))
        return png(ids, 8)[:33] + pixels + chunk(b"tEXt", b"a\0" + bytes([97] * 3000)) + chunk(b"IEND")

    one, other = stored(1), stored(2)
    assert len(one) == len(other) and one[-2000:] == other[-2000:]
    assert fingerprint(one) == fingerprint(one) != fingerprint(other)
    image = root / "val" / "val_1.png"
    before = fingerprint(one)
    image.write_bytes((root / "val" / "val_0.png").read_bytes())
    assert fingerprint(one) != before


def test_each_file_is_hashed_once_for_all_subsets(camvid_tree, monkeypatch):
    opened = []
    data = camvid_folder(camvid_tree[0], "train")
    hashed = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: opened.append(1) or hashed(file, name))
    assert data.fingerprint() != data.subset(["train_1"]).fingerprint() and len(opened) == 16


def test_the_order_does_not_depend_on_the_file_system(camvid_tree, shuffled_folders):
    before = load(camvid_tree)
    shuffled_folders()
    after = load(camvid_tree)
    for one, other in zip(before, after, strict=True):
        assert one.names == other.names
        assert torch.equal(one.images(torch.arange(2)), other.images(torch.arange(2)))


def test_half_size_averages_images_and_picks_labels(camvid_tree):
    whole, half = load(camvid_tree).eval_set, load(camvid_tree, scale=0.5).eval_set
    assert half.image_size == (12, 16)
    index = torch.arange(3)
    # A label of the reduced map is one of those it stands for; an image keeps its mean and loses its noise.
    quads = whole.labels(index).unfold(1, 2, 2).unfold(2, 2, 2).flatten(3)
    assert (half.labels(index)[..., None] == quads).any(-1).all()
    big, small = whole.images(index).double(), half.images(index).double()
    assert abs(big.mean() - small.mean()) < 2
    assert small.std() < 0.6 * big.std()


def test_pretraining_scenes_have_the_size_and_the_classes_of_camvid(camvid_tree):
    pretrain = load(camvid_tree, scale=0.75).pretrain_set
    assert pretrain.classes == CAMVID_CLASSES and pretrain.ignore_index == 11
    assert pretrain.images(torch.tensor([0])).shape == (1, 3, *pretrain.image_size) == (1, 3, 18, 24)


def without_files(folder):
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("file", "spoil", "message"),
    [
        ("train", shutil.rmtree, "expected a folder with CamVid's train images, found nothing"),
        ("testannot", shutil.rmtree, "expected a folder with the labels of CamVid's test images, found"),
        ("val", without_files, "expected CamVid's val images (PNG or JPEG), found none"),
        ("valannot/val_1.png", Path.unlink, "expected the labels of val_1.png, found nothing"),
        (
            "trainannot/train_6.png",
            lambda path: write_label(path, 0, (24, 30)),
            "expected 24x32 pixels (height x width) as its image, found 24x30",
        ),
        (
            "test/test_1.png",
            lambda path: write_image(path, 0, (20, 32)),
            "expected 24x32 pixels (height x width) as its neighbours, found 20x32",
        ),
        (
            "trainannot/train_3.png",
            lambda path: write_label(path, np.eye(24, 32) * 37),
            "expected label ids 0..11, 11 for void, found 37 at row 0, column 0",
        ),
        (
            "trainannot/train_3.png",
            lambda path: Image.new("I;16", SIZE[::-1], 700).save(path),
            "expected label ids 0..11, 11 for void, found 700",
        ),
        ("trainannot/train_4.png", write_image, "expected ids in grey or CamVid's colours, found ("),
        ("train/train_0.png", cut, "expected a whole PNG image"),
        ("testannot/test_0.png", cut, "expected a whole PNG image"),
        ("test/test_1.png", lambda path: cut(path, 0.0), "expected a readable PNG or JPEG"),
        (
            "test/test_1.png",
            lambda path: path.write_text("<html>404</html>"),
            "expected a readable PNG or JPEG image",
        ),
        (
            ".",
            lambda root: (root / "train/train_2.png").unlink(),
            "expected the training image train_2, listed in d_t, found none",
        ),
    ],
)
@pytest.mark.parametrize("memory_limit", [None, 0])
def test_bad_data_is_one_error_that_names_the_file(camvid_tree, file, spoil, message, memory_limit):
    path = camvid_tree[0] / file
    spoil(path)
    with pytest.raises(DataError, match=re.escape(f"{path}: {message}")):
        load(camvid_tree, memory_limit=memory_limit)


def test_damage_inside_a_file_is_found_before_training(camvid_tree):
    root, _ = camvid_tree
    path = root / "train" / "train_5.png"
    data = bytearray(path.read_bytes())
    data[100:200] = bytes(100)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"/train/train_5\.png: expected a whole, readable image"):
        load(camvid_tree)


def test_parts_of_different_sizes_are_refused(camvid_tree):
    root, _ = camvid_tree
    for number in range(2):
        write_image(root / "val" / f"val_{number}.png", number, (30, 40))
        write_label(root / "valannot" / f"val_{number}.png", 1, (30, 40))
    with pytest.raises(DataError, match=r"camvid val: expected images of 24x32 pixels .*, found 30x40"):
        load(camvid_tree)


def test_a_missing_root_is_refused(tmp_path):
    with pytest.raises(DataError, match="/nowhere: expected the folder of camvid, found nothing"):
        load_splits("camvid", tmp_path / "nowhere")
    with pytest.raises(DataError, match="camvid: expected the data set's folder, got none"):
        load_splits("camvid")


@pytest.mark.parametrize(
    ("mode", "pixel", "colour"),
    [
        ("L", 7, (7, 7, 7)),
        ("LA", (7, 0), (7, 7, 7)),  # grey; transparency doesn't count
        ("P", 1, (10, 20, 30)),
        ("RGBA", (1, 2, 3, 0), (1, 2, 3)),
    ],
)
def test_a_grey_or_palette_image_is_read_in_its_colours(camvid_tree, mode, pixel, colour):
    image = Image.new(mode, SIZE[::-1], pixel)
    if mode == "P":
        image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(camvid_tree[0] / "train" / "train_5.png")
    pixels = load(camvid_tree).eval_set.images(torch.tensor([0]))
    assert pixels.shape == (1, 3, *SIZE)
    assert pixels.flatten(2).unique(dim=2).squeeze().tolist() == list(colour)


@pytest.mark.parametrize(("mode", "suffix"), [("I;16", "png"), ("1", "png"), ("CMYK", "jpg")])
@pytest.mark.parametrize("limit", [None, 0])
def test_an_image_of_other_depth_or_colours_is_refused(camvid_tree, mode, suffix, limit):
    """Also where the pixels don't fit in memory and an image is decoded in the middle of a training."""
    (camvid_tree[0] / "train" / "train_5.png").unlink()
    Image.new(mode, SIZE[::-1]).save(camvid_tree[0] / "train" / f"train_5.{suffix}")
    expected = rf"train_5\.{suffix}: expected an image in colour, grey or a palette .*, found .* mode {mode}$"
    with pytest.raises(DataError, match=expected):
        load(camvid_tree, memory_limit=limit)


def test_the_authors_lists_are_in_the_package():
    lists = read_split_lists("camvid")
    assert {key: len(names) for key, names in lists.items()} == {"d_s": 10, "d_t": 100, "d_v": 257}
    assert len(set(lists["d_s"]) | set(lists["d_t"]) | set(lists["d_v"])) == 367
    lists = read_split_lists("cityscapes")
    sizes = {key: len(names) for key, names in lists.items()}
    assert sizes == {"d_s": 10, "d_t": 150, "d_v": 2615, "d_r": 200}
    assert set(lists["d_s"]) <= set(lists["d_v"])


@pytest.mark.parametrize("content", ["{", "[]", '{"d_t": "train_1"}', '{"d_t": [1]}', "[" * 100_000, "\0"])
def test_a_file_that_is_no_split_list_is_refused(tmp_path, content):
    path = tmp_path / "lists.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"lists\.json: expected .*lists? .*|expected a JSON file"):
        read_split_lists("camvid", path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_split_list_is_read_in_its_encoding_not_the_locales(tmp_path, encoding):
    """As where the locale is ASCII, and as editors of Windows write it."""
    path, lists = tmp_path / "lists.json", {"d_t": ["caf\xe9"], "d_v": ["b"]}
    path.write_text(json.dumps(lists, ensure_ascii=False), encoding=encoding)
    before = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C")
    try:
        assert read_split_lists("camvid", path) == lists
    finally:
        locale.setlocale(locale.LC_CTYPE, before)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"d_t": []}, r"lists\.json: expected image names in d_t, found none"),
        ({"d_v": []}, r"lists\.json: expected image names in d_v, found none"),
        (
            {"d_v": ["train_4", "train_5"]},
            "expected disjoint splits, found that d_t and d_v share 1 images, train_4",
        ),
    ],
)
def test_empty_splits_and_splits_that_overlap_are_refused(camvid_tree, changed, message):
    change_lists(camvid_tree[1], **changed)
    with pytest.raises(DataError, match=message):
        load(camvid_tree)


@pytest.fixture(scope="module")
def splits(real_camvid):
    return load_splits("camvid", real_camvid, scale=0.25)


class TestRealImages:
    """On CamVid itself, at a quarter of its size."""

    def test_split_sizes(self, splits):
        counts = [len(split) for split in splits if split is not splits.pretrain_set]
        assert counts == [10, 100, 257, 101, 233, 367]
        names = [set(split.names) for split in splits[:5]]
        assert len(set.union(*names)) == sum(map(len, names))
        assert splits.full_set.image_size == (90, 120)

    def test_class_shares_are_the_data_sets(self, splits):
        counts = torch.bincount(splits.full_set.labels(torch.arange(367)).flatten(), minlength=12).double()
        shares = (100 * counts / counts.sum()).tolist()
        expected = [16.9, 23.3, 1.0, 31.7, 4.5, 9.7, 1.2, 1.1, 5.9, 0.64, 0.29, 4.0]
        assert shares == pytest.approx(expected, rel=0.06, abs=0.05)

    def test_full_size_pixels_are_the_files(self, real_camvid):
        data = camvid_folder(real_camvid, "val", memory_limit=0)
        assert data.image_size == (360, 480)
        path = sorted((real_camvid / "val").iterdir())[7]
        image = data.source.read_image(7)
        assert np.array_equal(image, np.asarray(Image.open(path).convert("RGB")))
        label = np.asarray(Image.open(real_camvid / "valannot" / f"{path.stem}.png"))
        assert np.array_equal(data.source.read_label(7), label)
