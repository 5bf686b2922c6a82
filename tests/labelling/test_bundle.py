"""What people get to paint on, and what is made of what they bring back."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tiny_project import CLASSES, asked, bundle_of, label, new, paint, regions_of, truth_of

from ralx.datasets.class_file import read_classes
from ralx.labelling import Project
from ralx.labelling.bundle import box_in_crop, crop_box, read_crop_label
from ralx.labelling.formats import FORMATS, Item


def png(path):
    image = Image.open(path)
    return image.mode, np.array(image)


def test_a_bundle_is_as_the_contract_says(tmp_path):
    bundle = asked(tmp_path, 10)[1]
    content = json.loads((bundle / "regions.json").read_text(encoding="utf-8"))
    assert content.keys() == {"project", "round", "classes", "regions"}
    assert (content["project"], content["round"], content["classes"]) == ("project", 1, list(CLASSES))
    assert len(content["regions"]) == 10
    assert sum(region["kept"] for region in content["regions"]) == 1
    seen = set()
    for region in content["regions"]:
        assert region.keys() == set("id image sha256 box crop crop_box label asked score kept".split())
        top, left, height, width = region["box"]
        crop_top, crop_left, crop_height, crop_width = region["crop_box"]
        seen.add((region["image"], top, left))
        whole = np.array(Image.open(tmp_path / "images" / region["image"]))
        assert top + height <= whole.shape[0] and left + width <= whole.shape[1]
        mode, crop = png(bundle / region["crop"])
        assert mode == "RGB" and crop.shape == (crop_height, crop_width, 3)
        mode, painted = png(bundle / region["label"])
        assert mode == "L" and painted.shape == crop.shape[:2] and (painted == 255).all()
        mode, mask = png(bundle / region["asked"])
        inside = np.zeros_like(mask)
        inside[top - crop_top : top - crop_top + height, left - crop_left : left - crop_left + width] = 255
        assert mode == "L" and (mask == inside).all()
        shown = whole[crop_top : crop_top + crop_height, crop_left : crop_left + crop_width]
        assert (crop[mask == 255] == shown[mask == 255]).all()
        dark = shown[mask == 0]
        assert (crop[mask == 0] < dark)[dark > 0].all()
    assert len(seen) == 10


def test_ragged_regions_cover_every_pixel_once(tmp_path):
    project = new(tmp_path)
    assert label("ask", project, "--regions", 1000) == 0
    images = Project(project).images
    covered = {image["name"]: np.zeros((image["height"], image["width"]), int) for image in images}
    for region in regions_of(bundle_of(project)):
        top, left, height, width = region["box"]
        covered[region["image"]][top : top + height, left : left + width] += 1
    assert all((count == 1).all() for count in covered.values())
    assert label("ask", project) == 2  # nothing is left


def test_labels_come_back_in_any_order_and_amount(tmp_path, capsys):
    project, bundle = asked(tmp_path)
    regions, opened = regions_of(bundle), Project(project)
    paint(bundle, tmp_path, regions[5:])
    assert label("take", project, bundle) == 0
    assert opened.progress()["labelled"] == 3
    paint(bundle, tmp_path, regions[:2])
    for region in regions[2:]:
        (bundle / region["label"]).unlink()
    assert label("take", project, bundle, "--annotator", "ada") == 0
    assert opened.progress()["labelled"] == 5
    capsys.readouterr()
    assert label("take", project, bundle) == 0
    assert capsys.readouterr().out.startswith("0 new labels of 2")
    paint(bundle, tmp_path, regions[3:4])
    assert label("take", project, bundle / regions[3]["label"]) == 0
    assert opened.progress()["labelled"] == 6
    (tmp_path / "part").mkdir()
    paint(bundle, tmp_path, regions[4:5])
    (bundle / regions[4]["label"]).rename(tmp_path / "part" / regions[4]["label"])
    assert label("take", project, tmp_path / "part") == 0  # label files without the rest of the bundle
    assert opened.progress()["labelled"] == 7
    assert label("take", project, bundle / "regions.json") == 0
    for region in (*regions[:2], *regions[3:]):
        assert (opened.label_of(region["id"]) == truth_of(tmp_path, region, "box")).all()


def test_paint_outside_is_told_and_not_used(tmp_path, capsys):
    project, bundle = asked(tmp_path)
    region = regions_of(bundle)[0]
    height, width = region["crop_box"][2:]
    Image.fromarray(np.ones((height, width), np.uint8)).save(bundle / region["label"])
    assert label("take", project, bundle) == 0
    outside = height * width - region["box"][2] * region["box"][3]
    assert f"{region['label']}: {outside} pixels are painted outside" in capsys.readouterr().out
    opened = Project(project)
    image = next(each for each in opened.images if each["name"] == region["image"])
    assert (opened.label_map(image["number"]) != 255).sum() == region["box"][2] * region["box"][3]


def test_what_is_unpainted_stays_so_unless_a_class_is_named(tmp_path, capsys):
    project, bundle = asked(tmp_path)
    region = regions_of(bundle)[0]
    painted = np.array(Image.open(bundle / region["label"]))
    asked_pixels = np.array(Image.open(bundle / region["asked"])) == 255
    painted[np.argwhere(asked_pixels)[0][0]] = 2
    Image.fromarray(painted).save(bundle / region["label"])
    opened = Project(project)
    assert label("take", project, bundle) == 0
    row = opened.label_of(region["id"])
    assert (row[0] == 2).all() and (row[1:] == 255).all()
    assert label("take", project, bundle, "--unpainted", "road") == 0
    row = opened.label_of(region["id"])
    assert (row[0] == 2).all() and (row[1:] == 1).all()
    assert opened.progress()["labelled"] == 8
    assert label("take", project, bundle, "--unpainted", "tree") == 2
    assert "--unpainted" in capsys.readouterr().err


def test_black_and_white_as_class_colours_are_no_labels_of_an_unpainted_file(tmp_path):
    project, bundle = asked(tmp_path)
    opened = Project(project)
    black_and_white = replace(
        opened.classes, names=("no", "yes"), colours=((0, 0, 0), (255, 255, 255)), void_ids=frozenset()
    )
    opened.classes = black_and_white
    region = opened.asked_regions()[0]
    file = bundle / f"{region.id}.label.png"
    assert (read_crop_label(opened, region, file) == 255).all()
    painted = np.array(Image.open(file))
    painted[0] = 0
    Image.fromarray(painted).save(file)
    assert (read_crop_label(opened, region, file)[0] == 0).all()


def test_a_label_file_saved_in_colour_has_the_class_files_colours_and_white(tmp_path):
    project, bundle = asked(tmp_path)
    opened = Project(project)
    region = opened.asked_regions()[0]
    file = bundle / f"{region.id}.label.png"
    painted = np.where(np.array(Image.open(bundle / f"{region.id}.asked.png")) == 255, 2, 255)
    palette = np.full((256, 3), 255, np.uint8)
    palette[: len(CLASSES)] = opened.classes.palette
    Image.fromarray(palette[painted]).save(file)
    assert (read_crop_label(opened, region, file) == painted).all()


def spoil(kind, path, array):
    if kind == "wrong size":
        Image.fromarray(array).resize((array.shape[1] * 2, array.shape[0] * 2)).save(path)
    if kind == "wrong class":
        Image.fromarray(np.where(array == 255, array, 3).astype(np.uint8)).save(path)
    if kind == "JPEG":
        Image.fromarray(array).save(path, "JPEG")
    if kind == "unknown colour":
        Image.fromarray(np.stack([array, array // 2, array // 3], -1)).save(path)
    if kind == "damaged":
        path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize("kind", ["wrong size", "wrong class", "JPEG", "unknown colour", "damaged"])
def test_a_wrong_label_file_is_named_and_nothing_is_taken(tmp_path, capsys, kind):
    project, bundle = asked(tmp_path)
    paint(bundle, tmp_path)
    path = bundle / regions_of(bundle)[3]["label"]
    spoil(kind, path, np.array(Image.open(path)))
    assert label("take", project, bundle) == 2
    assert path.name in capsys.readouterr().err
    assert Project(project).progress()["labelled"] == 0


@pytest.mark.parametrize(
    "kind",
    ["no JSON", "no regions", "another project", "another image", "another box", "another region", "outside"],
)
def test_a_wrong_bundle_is_named(tmp_path, capsys, kind):
    project, bundle = asked(tmp_path)
    paint(bundle, tmp_path)
    path = bundle / "regions.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    if kind == "no JSON":
        path.write_text("{")
    else:
        if kind == "no regions":
            del content["regions"]
        if kind == "another project":
            content["project"] = "other"
        if kind == "another image":
            content["regions"][0]["sha256"] = "0" * 64
        if kind == "another box":
            content["regions"][0]["box"][0] += 12
        if kind == "another region":
            content["regions"][0]["id"] = "r0009-0001"
        if kind == "outside":
            content["regions"][0]["label"] = "../../../classes.json"
        path.write_text(json.dumps(content))
    assert label("take", project, bundle) == 2
    assert "regions.json" in capsys.readouterr().err
    assert Project(project).progress()["labelled"] == 0


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_every_format_brings_the_same_labels(tmp_path, kind):
    project = new(tmp_path)
    to = tmp_path / "out"
    assert label("ask", project, "--regions", 5, "--format", kind, "--to", to) == 0
    opened = Project(project)
    assert label("take", project, to) == 0
    assert opened.progress()["labelled"] == 0, "nothing was painted"
    # The tool's part: labels are painted and written as the tool writes them.
    items, expected = [], {}
    for region in opened.asked_regions():
        whole = np.array(Image.open((tmp_path / "truth" / region.image).with_suffix(".png")))
        painted = np.full(crop_box(region)[2:], 255, np.uint8)
        painted[box_in_crop(region).slices] = expected[region.id] = whole[region.box.slices]
        crop = np.zeros((*painted.shape, 3), np.uint8)
        items.append(Item(f"{region.id}.png", lambda crop=crop: crop, painted))
    FORMATS[kind].write(tmp_path / "back", items, read_classes(project / "classes.json"))
    assert label("take", project, tmp_path / "back") == 0
    assert all((opened.label_of(name) == truth).all() for name, truth in expected.items())


def test_nothing_to_take_is_an_error(tmp_path, capsys):
    project = asked(tmp_path)[0]
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "none", tmp_path / "empty"):
        assert label("take", project, path) == 2
        assert path.name in capsys.readouterr().err
