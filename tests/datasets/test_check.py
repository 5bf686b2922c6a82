"""A scan reports what a data set holds and everything that is wrong with it."""

import pytest
from dataset_trees import change_lists, cut, write_image, write_label

from ralx.datasets import CAMVID_CLASSES, SyntheticSizes, check_data, load_splits


def scan(tree, **options):
    return check_data("camvid", tree[0], split_lists=tree[1], **options)


def test_a_good_data_set_has_no_problems(camvid_tree):
    report = scan(camvid_tree, region_size=(7, 10))
    assert report.problems == []
    assert {split.name: split.images for split in report.splits} == {
        "d_s": 2, "d_t": 3, "d_v": 3, "val": 2, "test": 2
    }  # fmt: skip
    assert report.dropped_share == pytest.approx(1 - (21 * 30) / (24 * 32))
    for split in report.splits:
        assert split.image_size == (24, 32)
        assert sum(split.class_shares) + split.void_share == pytest.approx(1)


def test_shares_are_those_of_the_labels(camvid_tree):
    root, _ = camvid_tree
    write_label(root / "valannot" / "val_0.png", 3)
    write_label(root / "valannot" / "val_1.png", 11)
    val = next(split for split in scan(camvid_tree).splits if split.name == "val")
    assert val.class_shares[3] == 0.5 and val.void_share == 0.5


def test_all_problems_are_reported_not_only_the_first(camvid_tree):
    root, path = camvid_tree
    cut(root / "train" / "train_0.png")
    (root / "trainannot" / "train_3.png").unlink()
    write_label(root / "trainannot" / "train_5.png", 99)
    write_image(root / "test" / "test_0.png", 0, (10, 10))
    change_lists(path, d_v=["train_5", "train_6", "train_7", "train_8", "train_2"])
    report = scan(camvid_tree)
    for text in (
        "train_0.png: expected a whole PNG",
        "train_3.png: expected the labels of",
        "train_5.png: expected label ids 0..11",
        "test_0.png",
        "expected the training image train_8, listed in d_v",
        "d_t and d_v share 1 images, train_2",
    ):
        assert any(text in problem for problem in report.problems), text
    assert {split.name: split.images for split in report.splits}["d_t"] == 2


def test_missing_parts_are_reported_and_the_others_scanned(camvid_tree):
    root, _ = camvid_tree
    (root / "val").rename(root / "validation")
    report = scan(camvid_tree)
    assert any("/val: expected a folder with CamVid's val images" in problem for problem in report.problems)
    assert [split.name for split in report.splits] == ["d_s", "d_t", "d_v", "test"]


def test_a_part_that_is_bad_throughout_is_reported(camvid_tree):
    root, _ = camvid_tree
    for number in range(2):
        (root / "val" / f"val_{number}.png").write_bytes(b"")
    report = scan(camvid_tree)
    assert any("val_0.png: expected a readable" in problem for problem in report.problems)


def test_a_missing_root_is_reported(tmp_path):
    report = check_data("camvid", tmp_path / "nowhere", region_size=(7, 10))
    assert len(report.problems) == 1 and "nowhere: expected the folder of camvid" in report.problems[0]
    assert report.dropped_share is None


def test_it_prints_as_a_table(camvid_tree):
    (camvid_tree[0] / "trainannot" / "train_3.png").unlink()
    text = str(scan(camvid_tree, region_size=(7, 10)))
    for word in (*CAMVID_CLASSES, "void", "d_s", "d_t", "d_v", "val", "test", "24x32"):
        assert word in text
    assert "in edge strips that belong to no region: 17.97% of the pixels" in text
    assert text.startswith("camvid: 1 problem\n") and "problem: " in text and "train_3.png" in text


def test_absent_classes_and_a_missing_state_set_are_notes(camvid_tree):
    root, path = camvid_tree
    for number in range(2):
        write_label(root / "valannot" / f"val_{number}.png", 3)
    change_lists(path, d_s=None)
    report = scan(camvid_tree)
    assert report.problems == []
    assert any(note.startswith("val has no pixel of sky, building, pole, pavement") for note in report.notes)
    assert "no list d_s: a state set will be drawn" in report.notes


def test_gta5_is_scanned_too(camvid_tree, tmp_path):
    gta5 = tmp_path / "gta5"
    for number in (1, 2):
        write_image(gta5 / "images" / f"{number:05d}.png", number, (20, 36))
        write_label(gta5 / "labels" / f"{number:05d}.png", 7 if number == 1 else 99, (20, 36))
    report = scan(camvid_tree, gta5=gta5)
    assert len(report.problems) == 1 and "00002.png: expected label ids 0..34, found 99" in report.problems[0]
    assert report.splits[-1].name == "gta5" and report.splits[-1].class_shares[3] == 1


def test_synthetic_scenes_are_reported():
    sizes = SyntheticSizes(
        (32, 40), state_set=2, train_set=3, eval_set=3, reward_set=2, test_set=2, pretrain_set=2
    )
    report = check_data("synthetic", sizes=sizes, region_size=(8, 10))
    assert report.problems == [] and report.dropped_share == 0
    assert [split.images for split in report.splits] == [2, 3, 3, 2, 2, 2]


@pytest.mark.parametrize("read", [check_data, load_splits])
def test_an_unknown_data_set_is_refused(read):
    with pytest.raises(ValueError, match=r"name: expected synthetic, camvid.* or .*, got 'ade20k'"):
        read("ade20k")
