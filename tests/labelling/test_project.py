"""A project: what it is made of and refuses, who has which region, and what is kept through a kill."""

import errno
import json
import os
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_project import CLASSES, asked, bundle_of, label, labelled, make_images, new, paint, regions_of

from ralx.datasets.errors import DataError
from ralx.labelling import Project, ask
from ralx.labelling.labels import write_stale
from ralx.labelling.project import new_project
from ralx.segmentation import build_segmenter
from ralx.support.files import RunError


def everything_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_new_project_holds_the_contracts_files_and_only_these(tmp_path):
    project = new(tmp_path)
    assert sorted(path.name for path in project.iterdir()) == [
        "classes.json",
        "labels",
        "project.db",
        "project.toml",
    ]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    found = Project(project)
    assert found.classes.names == CLASSES and found.region_size == (12, 16) and len(found.images) == 6


def broken(folder, kind):
    """Make the images' folder wrong; the options that show it, and what the error names."""
    options = {"--images": folder / "images", "--classes": folder / "classes.txt", "--region-size": (12, 16)}
    image = folder / "images" / "day 0" / "bild_ü0.PNG"
    if kind == "empty folder":
        (folder / "empty").mkdir()
        return {**options, "--images": folder / "empty"}, "expected images"
    if kind == "no folder":
        return {**options, "--images": folder / "none"}, "none"
    if kind == "no class file":
        return {**options, "--classes": folder / "none.txt"}, "none.txt"
    if kind in ("one class", "300 classes"):
        names = [f"class {n}" for n in range(1 if kind == "one class" else 300)]
        (folder / "classes.txt").write_text("\n".join(names))
        return options, "expected 2..255 classes"
    if kind == "unreadable image":
        image.write_bytes(b"no image")
    if kind == "damaged pixels":
        content = bytearray(image.read_bytes())
        content[len(content) // 2] ^= 255
        image.write_bytes(content)
    if kind == "cut off image":
        image.write_bytes(image.read_bytes()[:-20])
    if kind == "image smaller than a region":
        Image.new("RGB", (8, 8)).save(image)
    if kind == "two names for one mask":
        Image.new("RGB", (40, 40)).save(image.with_suffix(".jpg"))
    if kind == "no such segmenter":
        return {**options, "--segmenter": "fpn-huge"}, "fpn-huge"
    if kind == "no such weights":
        return {**options, "--weights": folder / "none.pt"}, "none.pt"
    if kind == "mask without image":
        options["--labels"] = folder / "truth"
        Image.new("L", (8, 8)).save(folder / "truth" / "other.png")
        return options, "other.png"
    if kind == "masks among the images":
        (folder / "truth").rename(folder / "images" / "truth")
        return {**options, "--labels": folder / "images" / "truth"}, "outside of --images"
    if kind == "mask of another size":
        options["--labels"] = folder / "truth"
        Image.new("L", (8, 8)).save(folder / "truth" / "day 0" / "bild_ü0.png")
    if kind == "mask with another class":
        options["--labels"] = folder / "truth"
        Image.new("L", (48, 32), 7).save(folder / "truth" / "day 0" / "bild_ü0.png")
    return options, "bild_ü0"


@pytest.mark.parametrize(
    "kind",
    [
        "empty folder",
        "no folder",
        "no class file",
        "one class",
        "300 classes",
        "unreadable image",
        "damaged pixels",
        "cut off image",
        "image smaller than a region",
        "two names for one mask",
        "no such segmenter",
        "no such weights",
        "mask without image",
        "masks among the images",
        "mask of another size",
        "mask with another class",
    ],
)
def test_bad_input_is_named_and_nothing_is_made(tmp_path, capsys, kind):
    options, names = broken(make_images(tmp_path), kind)
    given = [part for name, value in options.items() for part in (name, *np.atleast_1d(value))]
    before = everything_in(tmp_path)
    assert label("new", tmp_path / "project", *given) == 2
    assert names in capsys.readouterr().err
    assert everything_in(tmp_path) == before


def test_a_full_disk_is_an_error_that_says_so(tmp_path, capsys, monkeypatch):
    make_images(tmp_path)
    before = everything_in(tmp_path)
    made = (
        "new",
        tmp_path / "project",
        "--images",
        tmp_path / "images",
        "--classes",
        tmp_path / "classes.txt",
    )
    monkeypatch.setattr("ralx.labelling.database._SCHEMA", "PRAGMA max_page_count = 1; CREATE TABLE a (b);")
    monkeypatch.setattr("ralx.labelling.database._FULL", 1 << 62)
    assert label(*made) == 1
    assert "project.db: can't be used: " in (error := capsys.readouterr().err) and "disk is full" in error
    assert everything_in(tmp_path) == before


def test_new_counts_what_it_skips(tmp_path, capsys):
    make_images(tmp_path)
    for name in (".hidden.png", "notes.txt", "day 0/Thumbs.db"):
        (tmp_path / "images" / name).touch()
    assert (
        label("new", tmp_path / "p", "--images", tmp_path / "images", "--classes", tmp_path / "classes.txt")
        == 0
    )
    output = capsys.readouterr().out
    for line in ("skipped: 1 hidden", "skipped: 1 foreign", "skipped: 1 of another kind"):
        assert line in output.splitlines()


def test_a_folder_with_files_is_no_new_project(tmp_path, capsys):
    project = new(tmp_path)
    assert label("new", project, "--images", tmp_path / "images", "--classes", tmp_path / "classes.txt") == 2
    assert "must be an empty folder" in capsys.readouterr().err


def test_relative_paths_of_a_new_project_begin_at_the_folder_of_whoever_made_it(tmp_path, monkeypatch):
    make_images(tmp_path)
    torch.save(build_segmenter("fpn-small", 3).state_dict(), tmp_path / "start.pt")
    monkeypatch.chdir(tmp_path)
    new_project(
        Path("project"),
        Path("images"),
        Path("classes.txt"),
        segmenter="fpn-small",
        weights=Path("start.pt"),
    )
    monkeypatch.chdir("/")
    settings = Project(tmp_path / "project").settings
    assert settings.images.is_dir() and settings.weights.is_file()


def test_labels_that_images_came_with_are_taken_over(tmp_path):
    make_images(tmp_path)
    (tmp_path / "truth" / "day 1" / "bild_ü5.png").unlink()
    project = new_project(
        tmp_path / "project", tmp_path / "images", tmp_path / "classes.txt", labels=tmp_path / "truth"
    )
    for image in project.images:
        expected = tmp_path / "truth" / image["name"].replace(".PNG", ".png")
        found = project.label_map(image["number"])
        if expected.exists():
            assert (found == np.array(Image.open(expected))).all()
            drawn = Image.open(project.path / "labels" / image["name"].replace(".PNG", ".png"))
            assert (np.array(drawn) == found).all()
        else:
            assert (found == 255).all()
    # Only the image without labels can be asked for.
    assert label("ask", project.path, "--regions", 100) == 0
    assert {region["image"] for region in regions_of(bundle_of(project.path))} == {"day 1/bild_ü5.PNG"}


def test_a_project_of_a_newer_version_is_refused_by_name(tmp_path, capsys):
    project = new(tmp_path)
    with sqlite3.connect(project / "project.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert label("status", project) == 2
    error = capsys.readouterr().err
    assert "project.db" in error and "newer 99" in error


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("images = 3", "images"),
        ("", "images"),
        ("images = 'x'\nother = 1", "other"),
        ("images = 'x'\nkept_share = 1.5", "kept_share"),
        ("images = 'x'\nseed = -1", "seed"),
        ("images", "TOML"),
    ],
)
def test_settings_that_people_broke_are_named(tmp_path, capsys, text, names):
    project = new(tmp_path)
    (project / "project.toml").write_text(text)
    assert label("status", project) == 2
    error = capsys.readouterr().err
    assert "project.toml" in error and names in error


def test_an_image_that_changed_is_refused_by_name(tmp_path, capsys):
    project = labelled(tmp_path)
    image = tmp_path / "images" / regions_of(bundle_of(project))[0]["image"]
    with Image.open(image) as opened:
        Image.fromarray(255 - np.array(opened)).save(image)
    for command in (("ask",), ("train", "--epochs", 1)):
        assert label(command[0], project, *command[1:]) == 2
        assert image.name in capsys.readouterr().err
    assert Project(project).models() == []


def test_two_people_never_have_one_region(tmp_path):
    project = Project(asked(tmp_path)[0])
    ada, grace = project.next_region("ada"), project.next_region("grace")
    assert ada and grace and ada.id != grace.id
    assert project.next_region("ada") == ada
    assert not project.renew(ada.id, "grace") and project.renew(ada.id, "ada")
    project.release(ada.id, "grace")
    assert not project.renew(ada.id, "grace")
    project.release(ada.id, "ada")
    assert project.renew(ada.id, "grace")


def test_a_lease_ends(tmp_path):
    project = Project(asked(tmp_path, 2)[0])
    first = project.next_region("ada", lease_seconds=0.01)
    second = project.next_region("ada", lease_seconds=0.01)
    time.sleep(0.02)
    assert first and second and project.next_region("grace") == first
    assert not project.renew(first.id, "ada")


def test_a_label_is_received_with_who_and_how_long_and_clipped_to_nothing_else(tmp_path):
    project = Project(asked(tmp_path)[0])
    region = project.next_region("ada")
    painted = np.full(region.box[2:], 255, np.uint8)
    painted[:3] = 2
    project.receive(region.id, painted, "ada", seconds=30.0)
    assert (project.label_of(region.id) == painted).all()
    assert project.asked_region(region.id).state == "labelled"
    assert project.progress() == {
        "round": 1,
        "asked": 8,
        "labelled": 1,
        "unsure": 0,
        "left": 7,
        "minutes": 0.5,
    }
    image = next(image for image in project.images if image["name"] == region.image)
    known = project.label_map(image["number"])
    assert (known[region.box.slices] == painted).all() and (known != 255).sum() == (painted != 255).sum()
    project.receive(region.id, np.full_like(painted, 1), "grace", seconds=6.0)
    assert (project.label_of(region.id) == 1).all() and project.progress()["minutes"] == 0.6
    assert project.next_region("ada").id != region.id


def test_not_sure_is_done_without_a_label(tmp_path):
    project = Project(asked(tmp_path)[0])
    region = project.next_region("ada")
    project.receive(region.id, np.full(region.box[2:], 255, np.uint8), "ada", unsure=True)
    assert project.asked_region(region.id).state == "unsure"
    assert project.progress()["unsure"] == 1 and project.next_region("ada").id != region.id
    project.receive(region.id, np.full(region.box[2:], 255, np.uint8), "ada")
    assert project.progress()["unsure"] == 0 and project.asked_region(region.id).state == "asked"


def test_a_label_of_a_region_that_was_just_taken_back_is_refused(tmp_path):
    project = Project(asked(tmp_path)[0])
    region = project.next_region("ada")
    project.undo_round()
    with pytest.raises(DataError, match=region.id):
        project.receive_all([(region, np.zeros(region.box[2:], np.uint8))], "ada", None, "page")


@pytest.mark.parametrize(
    ("painted", "match"),
    [
        (np.zeros((3, 3), np.uint8), "must be uint8"),
        (np.zeros((12, 16)), "must be uint8"),
        (np.full((12, 16), 3, np.uint8), "must be in 0..2 or 255, got 3"),
    ],
)
def test_a_wrong_label_changes_nothing(tmp_path, painted, match):
    project = Project(asked(tmp_path)[0])
    region = next(each for each in project.asked_regions() if each.box[2:] == (12, 16))
    with pytest.raises(ValueError, match=match):
        project.receive(region.id, painted)
    assert project.asked_region(region.id).state == "asked"
    with pytest.raises(DataError, match="r9999-0001"):
        project.receive("r9999-0001", painted)


def test_undo_takes_a_region_back_then_a_round(tmp_path, capsys):
    project = labelled(tmp_path)
    opened = Project(project)
    region = opened.asked_regions()[0]
    assert label("undo", project, "--region", region.id) == 0
    assert opened.asked_region(region.id).state == "asked" and opened.label_of(region.id) is None
    assert label("undo", project, "--region", region.id) == 2
    paint(bundle_of(project), tmp_path)
    assert label("take", project, bundle_of(project)) == 0
    assert opened.progress()["labelled"] == 8
    assert label("undo", project) == 0
    assert opened.progress()["labelled"] == 0 and opened.progress()["asked"] == 8
    for file in (project / "labels").rglob("*.png"):
        assert (np.array(Image.open(file)) == 255).all()
    assert label("undo", project, "--round", 1) == 0
    assert opened.asked_regions() == []
    capsys.readouterr()
    assert label("undo", project) == 2
    assert "no such round" in capsys.readouterr().err


def test_a_round_that_is_taken_back_leaves_its_files_and_its_number_to_nobody(tmp_path):
    project, bundle = asked(tmp_path)
    paint(bundle, tmp_path)
    painted = {path.name: path.read_bytes() for path in bundle.iterdir()}
    for number in (2, 3):
        assert label("undo", project) == 0
        assert label("ask", project, "--regions", 8) == 0
        assert Project(project).rounds()[-1]["number"] == number
        assert bundle_of(project, number).exists()
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == painted
    assert label("take", project, bundle) == 2  # of a round that is no more


def test_a_killed_ask_leaves_no_round_and_the_next_one_asks_for_the_same(tmp_path, monkeypatch):
    project = new(tmp_path)

    def killed(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ask, "write_bundle", killed)
        assert label("ask", project, "--regions", 5) == 130
    opened = Project(project)
    assert opened.rounds() == [] and opened.asked_regions() == [] and opened.next_region("ada") is None
    assert not list((project / "rounds").rglob("*.png"))
    assert label("ask", project, "--regions", 5) == 0
    found = [region["box"] for region in regions_of(bundle_of(project))]
    other = new(tmp_path / "other")
    assert label("ask", other, "--regions", 5) == 0
    assert [region["box"] for region in regions_of(bundle_of(other))] == found


@pytest.mark.parametrize("is_theirs", [False, True])
def test_a_round_that_was_written_but_not_opened_is_written_anew(tmp_path, capsys, is_theirs):
    project, out = new(tmp_path), tmp_path / "out"
    asking = ("ask", project, "--regions", 5, "--to", out)
    assert label(*asking) == 0
    found = regions_of(out)
    with Project(project).writing() as connection:  # as a kill before the last step leaves it
        connection.execute("UPDATE rounds SET is_open = 0")
    if is_theirs:
        out.rename(tmp_path / "moved")
        out.mkdir()
        (out / "thesis.tex").touch()
        assert label(*asking) == 2
        assert "must be an empty folder" in capsys.readouterr().err and (out / "thesis.tex").exists()
    else:
        assert label(*asking) == 0
        assert regions_of(out) == found


def test_labels_that_were_committed_are_drawn_after_a_kill(tmp_path):
    project, bundle = asked(tmp_path)
    paint(bundle, tmp_path)
    opened = Project(project)
    assert label("take", project, bundle) == 0
    drawn = {path: path.read_bytes() for path in (project / "labels").rglob("*.png")}
    with opened.writing() as connection:  # as a kill between the label and its file leaves it
        connection.execute("UPDATE images SET stale = 1")
    for path in drawn:
        path.unlink()
    opened.write_labels()
    assert all(path.read_bytes() == content for path, content in drawn.items())


@pytest.mark.parametrize("command", ["undo", "take"])
def test_a_kill_between_a_drawn_file_and_its_labels_is_repaired(tmp_path, monkeypatch, command):
    project, bundle = asked(tmp_path)
    paint(bundle, tmp_path)
    if command == "undo":
        assert label("take", project, bundle) == 0
    drawn = {path: path.read_bytes() for path in (project / "labels").rglob("*.png")}

    def killed(*given):
        write_stale(*given)
        raise RunError("killed")

    monkeypatch.setattr("ralx.labelling.project.write_stale", killed)
    assert label(command, project, *([bundle] if command == "take" else [])) == 1
    monkeypatch.undo()
    (project / "labels" / "day 0" / ".bild_ü0.png.1.tmp").touch()
    assert label("ask", project, "--regions", 1) == 0
    unlabelled = {path for path in (project / "labels").rglob("*") if path.is_file()} - drawn.keys()
    assert all((np.array(Image.open(path)) == 255).all() for path in unlabelled)
    assert all(path.read_bytes() == content for path, content in drawn.items())


@pytest.mark.parametrize("option", [("--port", 65536), ("--port", -1), ("--regions", 0)])
def test_a_page_that_can_not_be_served_is_refused(tmp_path, capsys, option):
    assert label("serve", new(tmp_path), *option) == 2
    assert f"{option[0]}: must be" in capsys.readouterr().err


def test_a_failing_take_keeps_nothing_of_it(tmp_path):
    project, bundle = asked(tmp_path)
    paint(bundle, tmp_path)
    (project / "labels" / "day 0").write_text("a file where a folder must be made")
    assert label("take", project, bundle) == 1
    opened = Project(project)
    assert opened.progress()["labelled"] == 0
    (project / "labels" / "day 0").unlink()
    assert label("take", project, bundle) == 0
    assert opened.progress()["labelled"] == 8


def test_a_folder_that_can_not_be_written_is_named(tmp_path, capsys):
    make_images(tmp_path)
    given = ("--images", tmp_path / "images", "--classes", tmp_path / "classes.txt")
    assert label("new", tmp_path / "classes.txt" / "project", *given) == 1
    assert "project: can't be written" in capsys.readouterr().err


def test_a_full_disk_is_named_and_loses_nothing(tmp_path, capsys, monkeypatch):
    project, bundle = asked(tmp_path)
    paint(bundle, tmp_path)
    before = sorted(path for path in project.rglob("*.*") if "models" not in path.parts)

    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        for command in (("take", project, bundle), ("ask", project)):
            assert label(*command) == 1
            assert "No space left" in capsys.readouterr().err
    assert Project(project).progress()["labelled"] == 0 and len(Project(project).rounds()) == 1
    assert sorted(path for path in project.rglob("*.*") if "models" not in path.parts) == before
    assert label("take", project, bundle) == 0


def test_one_process_at_a_time_asks_and_trains(tmp_path, capsys):
    project = asked(tmp_path)[0]
    with Project(project).working():
        assert label("ask", project) == 1
        assert "another process" in capsys.readouterr().err
        assert label("status", project) == 0
    with pytest.raises(RunError), Project(project).working(), Project(project).working():
        pass


def test_a_round_has_so_many_pixels_or_minutes(tmp_path, capsys):
    project = asked(tmp_path, 4)[0]
    opened = Project(project)
    for options, text in (
        (("--pixels", 100), "--pixels: must be at least a region's 192"),
        (("--minutes", 1), "--minutes: must not be given before"),
        (("--minutes", 1, "--regions", 3), "--regions and --minutes: must not be given together"),
    ):
        assert label("ask", project, *options) == 2
        assert text in capsys.readouterr().err
    assert label("ask", project, "--pixels", 700) == 0
    assert opened.progress()["asked"] == 3
    for region in opened.asked_regions()[:2]:
        opened.receive(region.id, np.zeros(region.box[2:], np.uint8), "ada", seconds=30.0)
    assert label("ask", project, "--minutes", 2.2) == 0
    assert opened.progress()["asked"] == 4
    assert label("ask", project, "--minutes", 0.1) == 2


def test_a_segmenters_folder_is_found_from_anywhere(tmp_path, capsys):
    project = new(tmp_path)
    settings = (project / "project.toml").read_text().replace('"fpn-small"', '"hf:own?drop_path_rate=0.2"')
    (project / "project.toml").write_text(settings)
    assert Project(project).settings.segmenter == f"hf:{project}/own?drop_path_rate=0.2"
    given = ("--images", tmp_path / "images", "--classes", tmp_path / "classes.txt")
    assert label("new", tmp_path / "other", *given, "--segmenter", "hf:none") == 2
    assert "none" in capsys.readouterr().err


def test_a_project_may_be_moved(tmp_path):
    project, bundle = asked(tmp_path)
    paint(bundle, tmp_path)
    project.rename(tmp_path / "moved")
    assert label("take", tmp_path / "moved", bundle_of(tmp_path / "moved")) == 0


def test_json_status_has_the_contracts_fields(tmp_path, capsys):
    project = new(tmp_path)
    capsys.readouterr()
    assert label("status", project, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {
        "round": None,
        "images": 6,
        "regions_asked": 0,
        "regions_labelled": 0,
        "pixels_labelled": 0,
        "kept_regions": 0,
        "miou": None,
        "miou_interval": None,
        "iou": dict.fromkeys(CLASSES),
        "minutes": None,
    }
