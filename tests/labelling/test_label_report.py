"""A project's report: at every stage of a project, written whole, honest about what it can't tell."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from ralx.cli.label import main
from ralx.datasets import DataError
from ralx.labelling.gains import Gain, Gains, advice, last_gains
from ralx.labelling.labels import UNLABELLED
from ralx.labelling.pictures import shown_images, shown_regions
from ralx.labelling.project import AskedRegion, Box, Project, new_project
from ralx.labelling.report import write_report
from ralx.support.devices import find_device

REGION = (8, 8)
CLASSES = ("sky", "road", "<script>")
CPU = find_device("cpu")


class Constant(nn.Module):
    """Gives every pixel the same logits, so that a test decides what a model predicts."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_classes))

    def forward(self, images: Tensor) -> Tensor:
        batch, _, height, width = images.shape
        return self.logits.view(1, -1, 1, 1).expand(batch, -1, height // 4, width // 4)


def make_project(folder: Path, num_images: int = 3) -> Project:
    """Images of several sizes, the second one larger than the others."""
    (folder / "images" / "more").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(num_images):
        size = (24, 40) if number == 1 else (16, 24)
        pixels = generator.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / ("more" if number % 2 else ".") / f"{number:02}.png")
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    return new_project(
        folder / "project",
        folder / "images",
        folder / "classes.txt",
        region_size=REGION,
        segmenter=f"{__name__}:Constant",
    )


def add_round(project: Project, number: int, places: list[int], kept: list[int], model: int | None = None):
    """Ask the regions at these places of the flat index; those in `kept` are kept."""
    with project.writing() as connection:
        values = (number, "entropy", model)
        connection.execute("INSERT INTO rounds (number, method, model, is_open) VALUES (?, ?, ?, 1)", values)
        for position, place in enumerate(sorted(places)):
            image = max((i for i in project.images if i["first_region"] <= place), key=lambda i: i["number"])
            columns = image["width"] // REGION[1]
            row, column = divmod(place - image["first_region"], columns)
            score = None if place in kept else float(place)
            connection.execute(
                'INSERT INTO regions (id, round, image, place, "top", "left", height, width, score, kept) '
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    f"r{number:04}-{position + 1:04}",
                    *(number, image["number"], place, row * REGION[0], column * REGION[1], *REGION),
                    *(score, place in kept),
                ),
            )


def label_round(project: Project, number: int, klass: int, seconds: float | None = None) -> None:
    for asked in project.regions_of_round(number):
        project.receive(asked.id, np.full(asked.box[2:], klass, np.uint8), seconds=seconds)


def add_model(project: Project, number: int, round: int, klass: int, minutes=None, miou=0.25) -> None:
    """A model that predicts one class everywhere."""
    path = project.model_file(number)
    path.parent.mkdir(parents=True)
    iou = dict(zip(CLASSES, (0.5, 0.0, None), strict=True))
    save_file({"logits": 5.0 * torch.eye(len(CLASSES))[klass]}, path)
    with project.writing() as connection:
        connection.execute(
            "INSERT INTO models (number, round, regions, pixels, minutes, miou, low, high, iou) "
            "VALUES (?, ?, ?, ?, ?, ?, 0.2, 0.375, ?)",
            (number, round, 4 * number, 256 * number, minutes, miou, json.dumps(iou)),
        )


@pytest.fixture
def trained(tmp_path) -> Project:
    """Two rounds and their models, of which the first sees sky everywhere and the second road, as the labels
    are."""
    project = make_project(tmp_path)
    add_round(project, 1, [0, 1, 2, 7], kept=[0, 7])
    label_round(project, 1, 1, seconds=60)
    add_model(project, 1, 1, klass=0, minutes=4.0)
    add_round(project, 2, [3, 8, 9, 22], kept=[3, 22], model=1)
    label_round(project, 2, 1, seconds=30)
    add_model(project, 2, 2, klass=1, minutes=6.0, miou=0.5)
    return project


class Page:
    """The page's tables as text, its pictures, its advice, and its notes of what is missing."""

    def __init__(self, path: Path):
        text = re.sub(r"<((?:meta|img) [^>]*)>", r"<\1/>", path.read_text(encoding="utf-8"))
        self.root = ElementTree.fromstring(text)  # refuses tags that aren't closed
        self.images = {image.get("src") for image in self.root.iter("img")}
        self.missing = [note.text for note in self.root.iterfind(".//p[@class='missing']")]
        self.advice = self.root.findtext(".//p[@class='advice']", "")
        self.headline = self.root.findtext(".//p[@class='note']", "")

    def table(self, start: str) -> list[list[str]]:
        (found,) = (t for t in self.root.iter("table") if t.findtext("caption", "").startswith(start))
        return [["".join(cell.itertext()) for cell in row] for row in found.iter("tr")][1:]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_new_project_has_a_report_that_says_what_is_missing(tmp_path):
    page = Page(write_report(make_project(tmp_path)))
    assert page.images == set()
    assert page.advice == "It can’t be told yet whether to go on: no model has been trained."
    assert "3 images, 3 classes, regions of 8×8 pixels · 0 rounds" in page.headline
    assert "No region was asked yet." in page.missing
    assert len(page.missing) == 5
    assert set(files_of(tmp_path / "project" / "report")) == {"index.html"}


def test_rounds_are_counted_with_the_time_that_is_known(tmp_path):
    project = make_project(tmp_path)
    add_round(project, 1, [0, 1, 2, 7], kept=[0])
    add_round(project, 2, [3, 8], kept=[8])
    first, second, third, _ = project.regions_of_round(1)
    half = np.full(REGION, UNLABELLED, np.uint8)
    half[:4] = 2
    project.receive(first.id, half, seconds=90)
    project.receive(second.id, half)  # through a file, which has no time
    project.receive(third.id, np.full(REGION, UNLABELLED, np.uint8), seconds=30, unsure=True)
    page = Page(write_report(project))
    assert page.table("Rounds") == [
        ["1", "entropy", "4", "2", "1", "1", "1", "64", "1", "2.0"],
        ["2", "entropy", "2", "0", "0", "2", "0", "0", "0", "–"],
        ["all", "", "6", "2", "1", "3", "1", "64", "1", "2.0"],
    ]
    assert page.images == {"regions.png"}
    assert page.table("IoU by class")[2] == ["<script>", "–", "–", "32"], "the kept half isn't learned from"
    assert not list(page.root.iter("script"))


def test_models_and_their_gains_are_shown(trained):
    page = Page(write_report(trained))
    assert page.images == {"miou.png", "classes.png", "regions.png", "images.png"}
    assert len(page.missing) == 0
    for name in page.images:
        with Image.open(trained.path / "report" / name) as picture:
            assert min(picture.size) >= 250
            assert np.unique(np.asarray(picture.convert("L"))).size > 20
    assert page.table("Models") == [
        ["1", "1", "4", "256", "4.0", "25.0", "20.0 to 37.5"],
        ["2", "2", "8", "512", "6.0", "50.0", "20.0 to 37.5"],
    ]
    assert page.table("What the last rounds brought") == [["2", "100.0", "100.0 to 100.0", "2.0", "3000.0"]]
    assert page.table("IoU by class")[0] == ["sky", "50.0", "50.0", "0"]
    assert page.advice.startswith("It can’t be told yet whether to go on: 4 kept regions in 3 images")


def test_gain_is_measured_on_what_is_kept_today(trained):
    found = last_gains(trained, CPU)
    assert (found.kept_regions, found.kept_images) == (4, 3)
    (gain,) = found.gains
    assert gain == Gain(2, 1.0, (1.0, 1.0), 2.0), "0 % to 100 %, whatever the database says of other regions"
    add_model(trained, 3, 2, klass=2, minutes=6.0)
    assert last_gains(trained, CPU).gains == [Gain(2, 0.0, (0.0, 0.0), 2.0)], (
        "the round's newest model counts"
    )


def test_gain_per_hour_is_unknown_where_a_label_has_no_time(trained):
    asked = trained.regions_of_round(2)[0]
    trained.receive(asked.id, np.zeros(REGION, np.uint8))
    (gain,) = last_gains(trained, CPU).gains
    assert gain.minutes is None and gain.per_hour is None


def test_models_whose_file_was_removed_are_left_out_of_the_gains(trained):
    trained.model_file(1).unlink()
    assert last_gains(trained, CPU).gains == ()


def of_gain(gain: float, low: float, high: float, minutes: float | None = None, kept: int = 20) -> Gains:
    return Gains(kept, 10, [Gain(2, 0.5, None, None), Gain(3, gain, (low, high), minutes)])


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (
            of_gain(0.05, 0.01, 0.08, minutes=30.0),
            "Going on is worth it: the labels of round 3 brought 5.0 points of mIoU "
            "(95 % interval 1.0 to 8.0), 10.0 per hour of labelling.",
        ),
        (of_gain(0.05, 0.01, 0.08), "(95 % interval 1.0 to 8.0)."),
        (of_gain(-0.03, -0.05, -0.01), "Look at the labels of round 3 before going on: "),
        (of_gain(-0.03, -0.05, -0.01), "is 3.0 points of mIoU worse"),
        (of_gain(0.002, -0.004, 0.009), "You may stop: the labels of round 3 brought less than 1 point"),
        (
            of_gain(0.02, -0.01, 0.04),
            "It can’t be told yet whether to go on: the labels of round 3 brought 2.0",
        ),
        (of_gain(0.02, -0.01, 0.04), "(95 % interval −1.0 to 4.0), which chance alone"),
        (of_gain(0.05, 0.01, 0.08, kept=19), "It can’t be told yet whether to go on: 19 kept regions in 10"),
        (Gains(0, 0), "no kept region has a label"),
        (Gains(30, 20), "a gain needs the models of two rounds"),
    ],
)
def test_advice_follows_the_interval_of_the_last_gain(found, sentence):
    assert sentence in advice(found, has_model=True)


def region(round: int, number: int, image: str, **values) -> AskedRegion:
    given = {"score": 1.0, "kept": False, "state": "labelled"} | values
    return AskedRegion(f"r{round:04}-{number:04}", round, image, "", Box(0, 0, 8, 8), (16, 24), **given)


def test_shown_regions_are_of_the_last_labelled_round_the_kept_ones_last():
    first = [region(1, 1, "a")]
    second = [
        region(2, 1, "a", kept=True, score=None),
        region(2, 2, "a", score=1.0),
        region(2, 3, "b", score=3.0),
        region(2, 4, "b", state="asked"),
    ]
    third = [region(3, 1, "c", state="asked")]
    assert [each.id for each in shown_regions([*first, *second, *third])] == [
        "r0002-0003",
        "r0002-0002",
        "r0002-0001",
    ]
    assert [each.id for each in shown_regions(third)] == ["r0003-0001"], "no label yet"
    many = [region(1, number, "a", score=float(-number)) for number in range(100)]
    shown = shown_regions(many)
    assert len(shown) == 6 and (shown[0], shown[-1]) == (many[0], many[-1])


def test_shown_images_are_some_of_which_regions_were_asked_and_some_untouched(tmp_path):
    project = make_project(tmp_path, 9)
    names = [image["name"] for image in project.images]
    asked = [region(1, 1, names[0]), region(2, 1, names[5]), region(2, 2, names[3]), region(2, 3, names[5])]
    shown = [image["name"] for image in shown_images(project, asked)]
    assert shown == [names[5], names[3], names[1], names[2]]
    everywhere = [region(1, number, name) for number, name in enumerate(names)]
    assert [image["name"] for image in shown_images(project, everywhere)] == names[:4]
    assert len(shown_images(project, [])) == 4


def test_same_project_gives_the_same_bytes_whatever_a_killed_process_left(trained):
    write_report(trained)
    before = files_of(trained.path / "report")
    for name in (".report-new", ".report-old"):
        (trained.path / name).mkdir()
        (trained.path / name / "stale.png").write_bytes(b"of a killed process")
    write_report(trained)
    assert files_of(trained.path / "report") == before
    assert not list(trained.path.glob(".*report*"))


def test_changed_image_is_named_and_the_earlier_report_stays(trained):
    (trained.path / "report").mkdir()
    (trained.path / "report" / "index.html").write_bytes(b"earlier")
    name = trained.images[0]["name"]
    Image.new("RGB", (24, 16)).save(trained.settings.images / name)
    with pytest.raises(DataError, match=f"{name}: expected the image as it was"):
        write_report(trained)
    assert files_of(trained.path / "report") == {"index.html": b"earlier"}
    assert not list(trained.path.glob(".*report*"))


def test_report_command(tmp_path, capsys):
    path = make_project(tmp_path).path
    assert main(["report", str(path)]) == 0
    assert capsys.readouterr().out == f"report: {path / 'report' / 'index.html'}\n"
    assert main(["report", str(path / "nowhere")]) == 2
