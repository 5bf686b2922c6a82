"""The page: its parts, what is missing, names as they are, and that it is written whole."""

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from PIL import Image
from report_run import REFERENCES, RESULTS, Pictures, result, selection, write_run

from ralx.report import write_report
from ralx.report.comparison import miou_vs_budget, per_class_iou
from ralx.report.records import read_run
from ralx.report.regions import selections

PNGS = {
    "miou_vs_budget.png",
    "per_class_iou.png",
    "selected_classes.png",
    "selections.png",
    "learning_curves.png",
    "step_seconds.png",
}


class Page:
    """The page's tables as text, bold cells in *asterisks*; its images and notes of what is missing."""

    def __init__(self, path: Path):
        text = re.sub(r"<((?:meta|img) [^>]*)>", r"<\1/>", path.read_text(encoding="utf-8"))
        text = re.sub(r"[\0-\x08\x0e-\x1f]", "\ufffd", text)  # which XML has not
        self.root = ElementTree.fromstring(text)  # refuses tags that aren't closed
        for bold in self.root.iter("b"):
            bold.text = f"*{bold.text}*"
        self.tags = {element.tag for element in self.root.iter()}
        self.images = [image.get("src") for image in self.root.iter("img")]
        self.missing = ["".join(note.itertext()) for note in self.root.iterfind(".//p[@class='missing']")]

    def table(self, start: str) -> list[list[str]]:
        tables = self.root.iter("table")
        (found,) = (each for each in tables if each.findtext("caption", "").startswith(start))
        return [["".join(cell.itertext()) for cell in row] for row in found.iter("tr")]


@pytest.fixture(scope="module")
def full_run(tmp_path_factory) -> Path:
    """A run directory with every file, and its report."""
    folder = write_run(tmp_path_factory.mktemp("report") / "run")
    write_report(folder, pictures=Pictures())
    return folder


def test_full_report_has_its_files_and_nothing_missing(full_run):
    report = full_run / "report"
    page = Page(report / "index.html")
    assert {path.name for path in report.iterdir()} == PNGS | {"index.html"}
    assert set(page.images) == PNGS
    assert page.missing == []
    for name in PNGS:
        with Image.open(report / name) as picture:
            assert min(picture.size) >= 300
            assert np.unique(np.asarray(picture.convert("L"))).size > 20


def test_page_needs_no_network_and_no_script(full_run):
    text = (full_run / "report" / "index.html").read_text(encoding="utf-8")
    assert "http" not in text and "url(" not in text and "@import" not in text
    assert not {"script", "link", "iframe"} & Page(full_run / "report" / "index.html").tags


def test_tables_of_a_known_run(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    (tmp_path / "reference.json").write_text(json.dumps(REFERENCES))
    page = Page(write_report(tmp_path))
    assert page.table("Test mIoU [%]") == [
        ["regions", "ralis", "uniform"],
        ["24", "*62.0* ± 2.8", "51.0 ± 1.4"],
        ["48", "*67.0* ± 0.0", "*67.0* ± 1.4"],
        ["first to reach 96 % of full supervision", "48", "48"],
    ]
    assert page.table("Reference networks") == [
        ["network", "test mIoU [%]"],
        ["θ0′", "32.0 ± 2.8"],
        ["full supervision", "69.0 ± 1.4"],
        ["96 % of full supervision", "66.2"],
    ]
    assert page.table("Entropy of the selected classes") == [
        ["regions", "ralis", "uniform"],
        ["24", "*1.32* ± 0.03", "1.05 ± 0.07"],
        ["48", "1.05 ± 0.07", "*1.10* ± 0.14"],
    ]
    assert page.table("Share of the selected pixels by class [%] at 24 regions")[1:] == [
        ["ralis", "75.00 ± 0.00", "25.00 ± 0.00"],
        ["uniform", "75.00 ± 0.00", "25.00 ± 0.00"],
    ]


def test_tables_with_a_column_per_class_are_set_smaller_and_numbers_keep_their_percent_sign(full_run):
    page = (full_run / "report" / "index.html").read_text(encoding="utf-8")
    captions = re.findall(r'<table class="wide">\n<caption>([^<,\[]*)', page)
    assert captions == ["Test IoU by class ", "Share of the selected pixels by class "]
    figure_captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert "96\N{NO-BREAK SPACE}% of it" in figure_captions[0]
    assert not any(" %" in caption for caption in figure_captions)


def test_page_escapes_what_comes_from_the_run(tmp_path):
    evil = "<script>alert('x')</script>&"
    (tmp_path / "config.json").write_text(json.dumps({"dataset": evil, evil: [evil]}))
    results = [result(evil, 24, 0, 0.5, iou={evil: 0.5, "pole": 0.1})]
    (tmp_path / "results.json").write_text(json.dumps(results))
    index = write_report(tmp_path)
    page = Page(index)
    assert "script" not in page.tags
    assert page.table("Test mIoU [%]")[0] == ["regions", evil]
    assert page.table("Test IoU by class")[0][2] == evil
    assert "&lt;script&gt;" in index.read_text(encoding="utf-8")


# Formulas that aren't, markup of other programs, what no font has, what no terminal or encoding takes.
AWKWARD = ["frame_$i_$j", "$_$", r"$\frac$ \alpha", "_hidden", "a\nb\tc", "%s {0} {x}", "[red]x[/]"]
AWKWARD += ["\a\0\x1b[1m", "caf\udce9", "\ud83d", "x" * 5000, "", " "]


@pytest.mark.filterwarnings("ignore:Glyph:UserWarning")  # of names that no font has
@pytest.mark.parametrize("usetex", [False, True])
def test_names_are_shown_as_they_are_whatever_they_look_like(tmp_path, usetex):
    class Awkward(Pictures):
        names, classes = tuple(AWKWARD), tuple(AWKWARD)

    share = [1 / len(AWKWARD)] * len(AWKWARD)
    iou = dict.fromkeys(AWKWARD, 0.5)
    results = [result(name, 24, 0, 0.5, iou=iou, share=share) for name in AWKWARD]
    chosen = [selection(name, 0, [[image, 0, 0] for image in AWKWARD]) for name in AWKWARD[:3]]
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "selections").mkdir()
    for number, each in enumerate(chosen):
        (tmp_path / "selections" / f"{number}.json").write_text(json.dumps(each))
    matplotlib.rcParams["text.usetex"] = usetex
    try:
        page = Page(write_report(tmp_path, pictures=Awkward()))
        assert matplotlib.rcParams["text.usetex"] == usetex, "left as it was"
        figures = [selections(read_run(tmp_path), Awkward(), 13), miou_vs_budget(read_run(tmp_path), None)]
        with io.BytesIO() as file:  # as whoever draws a picture alone saves it
            per_class_iou(read_run(tmp_path)).savefig(file)
    finally:
        matplotlib.rcdefaults()
    assert "frame_$i_$j" in page.table("Test mIoU [%]")[0]
    drawn = [text.get_text() for figure in figures for text in figure.findobj(matplotlib.text.Text)]
    shown = ["frame_$i_$j", "$_$", "_hidden", "a b c", "%s {0} {x}", "[red]x[/]", "caf\ufffd", "\ufffd"]
    assert set(shown) <= set(drawn)
    assert max(map(len, drawn)) < 60


PARTS = {"config.json", "steps.jsonl", "results.json", "reference.json", "selections"}


@pytest.mark.parametrize(
    ("parts", "drawn"),
    [
        (set(), set()),
        ({"steps.jsonl"}, {"learning_curves.png", "step_seconds.png"}),
        ({"results.json"}, {"miou_vs_budget.png", "per_class_iou.png", "selected_classes.png"}),
        ({"reference.json"}, set()),
        (PARTS, PNGS - {"selections.png"}),  # which needs the images
    ],
)
def test_partial_run_draws_what_is_there_and_says_what_is_missing(full_run, tmp_path, parts, drawn):
    shutil.copytree(full_run, tmp_path, ignore=lambda *_: {"report", *PARTS} - parts, dirs_exist_ok=True)
    page = Page(write_report(tmp_path))
    assert set(page.images) == drawn
    assert {path.name for path in (tmp_path / "report").iterdir()} == drawn | {"index.html"}
    told = [note for note in page.missing if note.startswith("This run has nothing in ")]
    assert {name for name in PARTS if name in "".join(told)} == PARTS - parts
    not_drawn = [note for note in page.missing if note.startswith("Not drawn: ")]
    assert len(not_drawn) == len(PNGS - drawn) == len(page.missing) - len(told)
    assert "Not drawn: this needs selections/ and the images." in not_drawn


def test_run_folder_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"run_dir must be the folder of a run, got .*nowhere"):
        write_report(tmp_path / "nowhere")


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_same_run_gives_the_same_bytes_whatever_an_earlier_report_left(full_run):
    before = bytes_of(full_run / "report")
    for name in ("report", ".report-new", ".report-old"):  # hidden ones: of a killed process
        (full_run / name).mkdir(exist_ok=True)
        (full_run / name / "stale.png").write_bytes(b"of an earlier report")
    write_report(full_run, pictures=Pictures())
    assert bytes_of(full_run / "report") == before
    assert not list(full_run.glob(".report*"))


def test_failure_leaves_the_earlier_report_and_nothing_else(full_run):
    class Broken(Pictures):
        def batch(self, index):
            raise OSError("no space left on device")

    before = bytes_of(full_run / "report")
    with pytest.raises(OSError, match="no space left"):
        write_report(full_run, pictures=Broken())
    assert bytes_of(full_run / "report") == before
    assert not list(full_run.glob(".report*"))


def test_report_imports_what_it_needs_when_it_needs_it():
    late = {"matplotlib.pyplot", "jinja2", "scipy"}
    code = f"import sys, ralx.report; assert not {late} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
