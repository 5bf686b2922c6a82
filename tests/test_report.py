"""The report: its numbers and pictures, missing and malformed files, and that it is written whole."""

import html.parser
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from PIL import Image
from report_run import CLASSES, IMAGE_SIZE, REGION_SIZE, Pictures, write_run
from rich.console import Console

from ralx.records import Run, check_regions, read_run
from ralx.report import summary_table, write_report
from ralx.report.comparison import miou_vs_budget, per_class_iou, selected_classes
from ralx.report.learning import learning_curves, running_mean, step_seconds, whole_episodes
from ralx.report.page import per_class_table, selected_tables
from ralx.report.regions import first_selections, paint, region_boxes, selections, shown_images
from ralx.report.stats import METHODS, Stat, best_of, compared_budget, mean_std, methods_of
from ralx.report.style import method_styles

PNGS = {
    "miou_vs_budget.png",
    "per_class_iou.png",
    "selected_classes.png",
    "selections.png",
    "learning_curves.png",
    "step_seconds.png",
}


def result(method, budget, seed, miou, *, iou=None, share=(0.75, 0.25), entropy=0.5):
    return {
        "method": method,
        "budget": budget,
        "seed": seed,
        "miou": miou,
        "iou": iou or {"road": miou, "pole": None},
        "selected_class_fraction": list(share),
        "selected_entropy": entropy,
    }


def reference(method, seed, miou):
    return {"method": method, "seed": seed, "miou": miou, "iou": {"road": miou, "pole": None}}


RESULTS = [
    result("uniform", 24, 0, 0.50, entropy=1.00),
    result("uniform", 24, 1, 0.52, entropy=1.10),
    result("ralis", 24, 0, 0.60, entropy=1.30),
    result("ralis", 24, 1, 0.64, entropy=1.34),
    result("uniform", 48, 0, 0.66, entropy=1.00),
    result("uniform", 48, 1, 0.68, entropy=1.20),
    result("ralis", 48, 0, 0.67, entropy=1.00),
    result("ralis", 48, 1, 0.67, entropy=1.10),
]
REFERENCES = [
    reference("theta0_prime", 0, 0.30),
    reference("theta0_prime", 1, 0.34),
    reference("full_supervision", 0, 0.68),
    reference("full_supervision", 1, 0.70),
]


def run_of(results=(), references=(), steps=(), selections=(), config=None) -> Run:
    return Run(config or {}, list(steps), list(results), list(references), list(selections))


class Page(html.parser.HTMLParser):
    """The page's tables as text, bold cells in *asterisks*; its images and notes of what is missing."""

    def __init__(self, text: str):
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.images, self.tags, self.missing = [], [], []
        self.open: list[str] = []
        self.caption, self.in_missing = "", False
        self.feed(text)
        self.close()
        assert self.open == [], f"unclosed tags: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        attributes = dict(attributes)
        if tag == "img":
            self.images.append(attributes["src"])
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "table":
            self.caption = ""
        elif tag == "tr":
            self.tables.setdefault(self.caption, []).append([])
        elif tag in ("td", "th"):
            self.tables[self.caption][-1].append("")
        elif tag == "p" and attributes.get("class") == "missing":
            self.missing.append("")
            self.in_missing = True

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.in_missing = self.in_missing and tag != "p"

    def handle_data(self, data):
        if "caption" in self.open:
            self.caption += data
        elif "td" in self.open or "th" in self.open:
            self.tables[self.caption][-1][-1] += f"*{data}*" if "b" in self.open else data
        elif self.in_missing:
            self.missing[-1] += data

    def table(self, start: str) -> list[list[str]]:
        (found,) = (rows for caption, rows in self.tables.items() if caption.startswith(start))
        return found


def read_page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def full_run(tmp_path_factory) -> Path:
    """A run directory with every file, and its report."""
    folder = write_run(
        tmp_path_factory.mktemp("report") / "run", seeds=2, episodes=8, steps=5, budgets=(24, 48)
    )
    write_report(folder, pictures=Pictures())
    return folder


# --- numbers ----------------------------------------------------------------------------------------------


def test_mean_and_sample_std():
    assert mean_std([0.5, 0.7, None]) == pytest.approx((0.6, 0.02**0.5))
    assert mean_std([0.5]) == Stat(0.5, None)
    assert mean_std([None]) is None
    assert mean_std([0.5, 0.7]).text() == "60.0 ± 14.1"
    assert Stat(0.5, None).text() == "50.0"


def test_best_is_decided_by_what_is_shown():
    stats = {"a": Stat(0.50012, None), "b": Stat(0.50041, 0.1), "c": Stat(0.49, None), "d": None}
    assert best_of(stats) == {"a", "b"}
    assert best_of({"a": Stat(0.5, None), "b": None}) == set()


def test_methods_come_in_the_order_of_the_report():
    records = [{"method": name} for name in ("uniform", "other", "bald", "entropy", "ralis")]
    assert methods_of(records) == ["ralis", "entropy", "bald", "uniform", "other"]


def test_classes_are_compared_where_most_methods_are():
    assert compared_budget(RESULTS) == 24
    assert (
        compared_budget(
            [record for record in RESULTS if record["budget"] == 48 or record["method"] == "ralis"]
        )
        == 48
    )


# --- the terminal's table ---------------------------------------------------------------------------------


def printed(table, width=80) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_summary_table_shows_every_method_beside_the_others():
    text = printed(summary_table(RESULTS, REFERENCES))
    lines = [line.split() for line in text.splitlines() if line.strip()]
    assert ["regions", "ralis", "uniform"] in lines
    assert ["mIoU", "24", "62.0", "±", "2.8", "51.0", "±", "1.4"] in lines
    assert ["48", "67.0", "±", "0.0", "67.0", "±", "1.4"] in lines
    assert ["H(classes)", "24", "1.32", "±", "0.03", "1.05", "±", "0.07"] in lines
    assert "mean ± std over 2 seeds" in " ".join(text.split())
    assert "θ0′, before the first region: 32.0 ± 2.8 %" in text
    assert "full supervision: 69.0 ± 1.4 %" in text
    assert "96 % of it: 66.2 %" in text


def test_summary_table_sets_the_best_in_bold():
    table = summary_table(RESULTS, [])
    bold = {
        (str(column.header), row): cell.style == "bold"
        for column in table.columns[2:]
        for row, cell in enumerate(column.cells)
    }
    assert bold["ralis", 0] and not bold["uniform", 0]
    assert bold["ralis", 1] and bold["uniform", 1]  # 67.0 both
    assert bold["uniform", 3] and not bold["ralis", 3]  # the entropy of 48 regions


def test_summary_table_fits_a_plain_terminal():
    methods = ("ralis", "entropy", "bald", "uniform")
    results = [result(method, 30720, seed, 0.6 + seed / 10) for method in methods for seed in range(3)]
    text = printed(summary_table(results, REFERENCES))
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("70.0 ± 10.0") == 4
    assert "30,720" in text
    assert "…" not in text


def test_summary_table_of_a_partial_run():
    results = [record for record in RESULTS if (record["method"], record["budget"]) != ("ralis", 48)]
    assert ["48", "–", "67.0", "±", "1.4"] in [
        line.split() for line in printed(summary_table(results, [])).splitlines()
    ]
    assert "No results" in printed(summary_table([], []))


# --- the page ---------------------------------------------------------------------------------------------


def test_full_report_has_its_files_and_nothing_missing(full_run):
    report = full_run / "report"
    page = read_page(report / "index.html")
    assert {path.name for path in report.iterdir()} == PNGS | {"index.html"}
    assert set(page.images) == PNGS
    assert page.missing == []
    for name in PNGS:
        with Image.open(report / name) as picture:
            assert min(picture.size) >= 400
            assert np.unique(np.asarray(picture.convert("L"))).size > 20


def test_page_needs_no_network_and_no_script(full_run):
    text = (full_run / "report" / "index.html").read_text(encoding="utf-8")
    assert "http" not in text and "url(" not in text and "@import" not in text
    assert not {"script", "link", "iframe"} & set(Page(text).tags)


def test_write_report_returns_the_page(tmp_path):
    assert write_report(tmp_path) == tmp_path / "report" / "index.html"


def test_tables_of_a_known_run(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    (tmp_path / "reference.json").write_text(json.dumps(REFERENCES))
    page = read_page(write_report(tmp_path))
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


def test_the_mistakes_have_a_table_where_the_selections_tell_them():
    results = [r | {"labelled_pixels": 72 * r["budget"] // 24} for r in RESULTS if r["seed"] == 0]
    results = [r | {"budget": r["budget"] // 24} for r in results]  # budgets 1 and 2
    told = SELECTION | {"mistaken_pixels": [9, 27]}
    page = Page(selected_tables(run_of(results, selections=[told, SELECTION | {"method": "uniform"}])))
    assert page.table("Selected pixels that the segmenter had wrong when it asked [%], one seed") == [
        ["regions", "ralis"],
        ["1", "12.5"],
        ["2", "25.0"],
    ]
    assert "had wrong" not in selected_tables(run_of(results, selections=[SELECTION]))


def test_per_class_table_marks_best_and_absent():
    iou = [{"road": 0.9, "pole": 0.2, "fence": None}, {"road": 0.8, "pole": 0.3, "fence": None}]
    results = [
        result("ralis", 1440, 0, 0.55, iou=iou[0], share=(1, 0, 0)),
        result("bald", 1440, 0, 0.56, iou=iou[1], share=(1, 0, 0)),
    ]
    page = Page(per_class_table(run_of(results)))
    assert page.table("Test IoU by class [%], one seed") == [
        ["regions", "method", "road", "pole", "fence", "mIoU"],
        ["1,440", "ralis", "*90.0*", "20.0", "–", "55.0"],
        ["1,440", "bald", "80.0", "*30.0*", "–", "*56.0*"],
    ]


def test_class_that_one_seed_lacks_is_averaged_over_the_others():
    results = [
        result("ralis", 24, 0, 0.5, iou={"road": 0.5, "pole": None}),
        result("ralis", 24, 1, 0.5, iou={"road": 0.5, "pole": 0.25}),
    ]
    assert Page(per_class_table(run_of(results))).table("Test IoU")[1] == [
        "24",
        "ralis",
        "50.0 ± 0.0",
        "25.0",
        "50.0 ± 0.0",
    ]


def test_page_escapes_what_comes_from_the_run(tmp_path):
    evil = "<script>alert('x')</script>&"
    (tmp_path / "config.json").write_text(json.dumps({"dataset": evil, evil: [evil]}))
    (tmp_path / "results.json").write_text(
        json.dumps([result(evil, 24, 0, 0.5, iou={evil: 0.5, "pole": 0.1})])
    )
    index = write_report(tmp_path)
    page = read_page(index)
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
        page = read_page(write_report(tmp_path, pictures=Awkward()))
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


def test_the_legend_has_names_that_begin_with_an_underscore():
    results = [result("_mine", 24, 0, 0.5), result("ralis", 24, 0, 0.6)]
    for picture in (miou_vs_budget(run_of(results), None), per_class_iou(run_of(results))):
        assert [text.get_text() for text in picture.legends[0].get_texts()] == ["ralis", "_mine"]


# --- missing parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "drawn"),
    [
        ((), set()),
        (("steps.jsonl",), {"learning_curves.png", "step_seconds.png"}),
        (("results.json",), {"miou_vs_budget.png", "per_class_iou.png", "selected_classes.png"}),
        (("reference.json",), set()),
    ],
)
def test_partial_run_draws_what_is_there_and_says_what_is_missing(full_run, tmp_path, files, drawn):
    for name in files:
        (tmp_path / name).write_bytes((full_run / name).read_bytes())
    page = read_page(write_report(tmp_path))
    assert set(page.images) == drawn
    assert {path.name for path in (tmp_path / "report").iterdir()} == drawn | {"index.html"}
    assert len(page.missing) == 1 + len(PNGS - drawn)
    for name in {"config.json", "steps.jsonl", "results.json", "reference.json", "selections/"}.difference(
        files
    ):
        assert name in page.missing[0]
    for name in files:
        assert name not in page.missing[0]


def test_report_without_images_draws_all_but_the_regions(full_run, tmp_path):
    for name in ("config.json", "steps.jsonl", "results.json", "reference.json"):
        (tmp_path / name).write_bytes((full_run / name).read_bytes())
    (tmp_path / "selections").mkdir()
    (tmp_path / "selections" / "ralis-seed0.json").write_bytes(
        (full_run / "selections" / "ralis-seed0.json").read_bytes()
    )
    page = read_page(write_report(tmp_path))
    assert set(page.images) == PNGS - {"selections.png"}
    assert page.missing == ["Not drawn: this needs selections/ and the images."]


def test_run_folder_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"run_dir must be the folder of a run, got .*nowhere"):
        write_report(tmp_path / "nowhere")


# --- malformed files --------------------------------------------------------------------------------------

STEP = {
    "seed": 0,
    "episode": 0,
    "step": 0,
    "epsilon": 0.9,
    "reward": 0.5,
    "miou": 0.3,
    "td_loss": None,
    "q_mean": None,
    "seconds": {"state": 0.1},
}
SELECTION = {
    "method": "ralis",
    "seed": 0,
    "region_size": [9, 8],
    "budgets": [24],
    "regions": [["scene_000", 0, 0]],
}


def lines(*records) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def without(record: dict, name: str) -> dict:
    return {key: value for key, value in record.items() if key != name}


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.json", "{", r"config\.json, line 1, column 2: not JSON"),
        ("config.json", "[]", r"config\.json: must be a JSON object, got \[\]"),
        ("config.json", b"\xff\xfe", r"config\.json: must be UTF-8 text"),
        ("steps.jsonl", lines(STEP) + "{oops}\n" + lines(STEP), r"steps\.jsonl, line 2, column 2: not JSON"),
        ("steps.jsonl", lines(STEP, without(STEP, "reward")), r"steps\.jsonl, line 2: reward is missing"),
        (
            "steps.jsonl",
            lines(STEP | {"step": 1.5}),
            r"line 1: step must be an integer of at least 0, got 1\.5",
        ),
        (
            "steps.jsonl",
            lines(STEP | {"reward": 1e308}),
            r"line 1: reward must be a finite number, got 1e\+308",
        ),
        (
            "steps.jsonl",
            lines(STEP | {"epsilon": 10**400}),
            "line 1: epsilon must be a finite number, got 10",
        ),
        (
            "steps.jsonl",
            lines(STEP | {"q_mean": "x"}),
            r"line 1: q_mean must be a finite number or null, got 'x'",
        ),
        (
            "steps.jsonl",
            lines(STEP | {"reward": float("nan")}),
            r"steps\.jsonl, line 1: NaN is not a JSON number",
        ),
        (
            "steps.jsonl",
            lines(STEP | {"seconds": {"state": -1}}),
            r"seconds must be a map from phase to a number of",
        ),
        ("steps.jsonl", lines([1]), r"steps\.jsonl, line 1: must be a JSON object"),
        ("results.json", "[\n{},\n]", r"results\.json, line 3, column 1: not JSON"),
        ("results.json", "{}", r"results\.json: must be a JSON list of records, got \{\}"),
        ("results.json", json.dumps([*RESULTS, {}]), r"results\.json, record 9: method is missing"),
        (
            "results.json",
            json.dumps([RESULTS[0] | {"miou": 50.0}]),
            r"record 1: miou must be a number in 0\.\.1, got 50",
        ),
        (
            "results.json",
            json.dumps([RESULTS[0], RESULTS[0]]),
            r"record 2: method uniform, budget 24, seed 0 is already",
        ),
        (
            "results.json",
            json.dumps([RESULTS[0], RESULTS[1] | {"iou": {"road": 0.5}}]),
            r"record 2: iou must have the classes of record 1, \['road', 'pole'\], got \['road'\]",
        ),
        (
            "results.json",
            json.dumps([RESULTS[0] | {"selected_class_fraction": [1.0]}]),
            r"record 1: selected_class_fraction must hold one number for each of the 2 classes, got 1",
        ),
        (
            "reference.json",
            json.dumps([REFERENCES[0] | {"seed": True}]),
            r"reference\.json, record 1: seed must be an",
        ),
        (
            "reference.json",
            json.dumps([REFERENCES[0]] * 2),
            r"record 2: method theta0_prime, seed 0 is already in record 1",
        ),
        (
            "selections/ralis-seed0.json",
            json.dumps(SELECTION | {"regions": [["scene_000", 0]]}),
            r'ralis-seed0\.json: regions must be a list of \["image name", row, column\]',
        ),
        (
            "selections/ralis-seed0.json",
            json.dumps(SELECTION | {"region_size": [9, 0]}),
            r"ralis-seed0\.json: region_size must be two positive integers, got \[9, 0\]",
        ),
        (
            "selections/ralis-seed0.json",
            json.dumps(SELECTION | {"mistaken_pixels": [-1]}),
            r"ralis-seed0\.json: mistaken_pixels must be a list of integers of at least 0, got \[-1\]",
        ),
    ],
)
def test_malformed_file_is_named_with_its_place(tmp_path, file, text, message):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        write_report(tmp_path)
    assert not (tmp_path / "report").exists()


def test_last_line_of_steps_that_a_kill_cut_short_is_no_step(tmp_path):
    whole = lines(STEP, STEP | {"step": 1})
    (tmp_path / "steps.jsonl").write_text(whole + whole[:40])
    assert [step["step"] for step in read_run(tmp_path).steps] == [0, 1]
    (tmp_path / "steps.jsonl").write_text(whole.rstrip("\n"))
    assert [step["step"] for step in read_run(tmp_path).steps] == [0, 1]


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (
            ["elsewhere", 0, 0],
            r"selections/ralis-seed0\.json, region 2: must be in one of D_V's 40 images, got 'els",
        ),
        (
            ["scene_001", 4, 0],
            r"region 2: must lie inside the image of 36×48 pixels with regions of 9×8, got row 4, col",
        ),
        (["scene_001", 0, 6], r"region 2: must lie inside the image of 36×48 .* got row 0, column 6"),
    ],
)
def test_region_that_does_not_fit_the_images(tmp_path, region, message):
    (tmp_path / "selections").mkdir()
    selection = SELECTION | {"regions": [*SELECTION["regions"], region]}
    (tmp_path / "selections" / "ralis-seed0.json").write_text(json.dumps(selection))
    with pytest.raises(ValueError, match=message):
        write_report(tmp_path, pictures=Pictures())


def test_regions_cut_at_the_border_are_chosen_where_the_edge_is_kept():
    chosen = selection("ralis", 0, [["a", 4, 6]])
    run = run_of(selections=[chosen], config={"edge": "keep"})
    check_regions(run, ["a"], (37, 49))
    for size in (36, 49), (37, 48):
        with pytest.raises(ValueError, match=r"must lie inside the image .* got row 4, column 6"):
            check_regions(run, ["a"], size)
    with pytest.raises(ValueError, match=r"must lie inside the image .* got row 4, column 6"):
        check_regions(run_of(selections=[chosen]), ["a"], (37, 49))


# --- written whole, the same bytes ------------------------------------------------------------------------


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_same_run_gives_the_same_bytes(full_run):
    before = bytes_of(full_run / "report")
    (full_run / "report" / "stale.png").write_bytes(b"of an earlier report")
    write_report(full_run, pictures=Pictures())
    assert bytes_of(full_run / "report") == before


def test_failure_leaves_the_earlier_report_and_nothing_else(full_run):
    class Broken(Pictures):
        def batch(self, index):
            raise OSError("no space left on device")

    before = bytes_of(full_run / "report")
    with pytest.raises(OSError, match="no space left"):
        write_report(full_run, pictures=Broken())
    assert bytes_of(full_run / "report") == before
    assert not [path.name for path in full_run.iterdir() if path.name.startswith(".report")]


def test_leftovers_of_a_killed_report_are_cleared(tmp_path):
    for name in (".report-new", ".report-old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old.png").write_bytes(b"")
    write_report(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["index.html"]


def test_report_leaves_matplotlib_as_it_was(tmp_path):
    matplotlib.rcParams["font.size"] = 23.0
    try:
        write_report(tmp_path)
        assert matplotlib.rcParams["font.size"] == 23.0
    finally:
        matplotlib.rcdefaults()


def test_report_imports_no_pyplot():
    code = "import sys, ralx.report; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- pictures ---------------------------------------------------------------------------------------------


def labelled_lines(axes) -> dict:
    return {
        line.get_label().split(":")[0]: line for line in axes.lines if not line.get_label().startswith("_")
    }


def test_miou_picture_plots_the_means_and_the_references():
    (axes,) = miou_vs_budget(run_of(RESULTS, REFERENCES), None).axes
    drawn = labelled_lines(axes)
    assert list(drawn) == ["ralis", "uniform", "θ0′ (start)", "full supervision", "96 % of it"]
    assert drawn["ralis"].get_xydata() == pytest.approx(np.array([[24, 62], [48, 67]]))
    assert drawn["uniform"].get_xydata() == pytest.approx(np.array([[24, 51], [48, 67]]))
    assert drawn["θ0′ (start)"].get_xydata() == pytest.approx(np.array([[0, 32]]))
    assert drawn["full supervision"].get_ydata() == pytest.approx([69, 69])
    assert drawn["96 % of it"].get_ydata() == pytest.approx([66.24, 66.24])
    assert drawn["full supervision"].get_linestyle() == "-"
    assert drawn["96 % of it"].is_dashed()
    band = next(each for each in axes.collections if isinstance(each, PolyCollection))
    extent = band.get_paths()[0].get_extents()
    assert (extent.y0, extent.x1) == pytest.approx((62 - 8**0.5, 48))


def test_miou_picture_tells_the_share_of_pixels():
    selection = SELECTION | {"region_size": [10, 10]}
    figure = miou_vs_budget(run_of(RESULTS, REFERENCES, selections=[selection]), 48_000)
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    (top,) = axes.child_axes
    left, right = axes.get_xlim()
    assert top.get_xlim() == pytest.approx((left * 100 / 480, right * 100 / 480))  # 48 regions: 10 %
    assert "pixels" in top.get_xlabel()
    ragged = run_of(RESULTS, REFERENCES, selections=[selection], config={"edge": "keep"})
    assert not miou_vs_budget(ragged, 48_000).axes[0].child_axes  # regions differ in size


def test_methods_keep_their_colours_in_every_picture():
    run = run_of(RESULTS, REFERENCES)
    expected = to_hex(labelled_lines(miou_vs_budget(run, None).axes[0])["ralis"].get_color())
    for figure in (per_class_iou(run), selected_classes(run)):
        handles = {handle.get_label(): handle for handle in figure.legends[0].legend_handles}
        assert to_hex(handles["ralis"].get_color()) == expected


def test_per_class_picture_has_a_panel_for_each_budget():
    figure = per_class_iou(run_of(RESULTS, REFERENCES))
    assert [axes.get_title() for axes in figure.axes] == ["24 regions", "48 regions"]
    first = figure.axes[0]
    assert [label.get_text() for label in first.get_yticklabels()] == ["road", "pole"]
    assert [text.get_text() for text in first.texts] == ["–"]
    assert first.texts[0].get_position()[1] == 1  # in the row of the absent pole
    ralis, uniform = (container.lines[0].get_xdata() for container in first.containers)
    assert (list(ralis), list(uniform)) == (pytest.approx([62]), pytest.approx([51]))


def test_selected_classes_are_sorted_by_share():
    results = [result("uniform", 24, 0, 0.5, share=(0.1, 0.9)), result("ralis", 24, 0, 0.5, share=(0.6, 0.4))]
    left, right = selected_classes(run_of(results)).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["pole", "road"]
    ralis, uniform = (container.lines[0].get_xdata() for container in left.containers)
    assert list(ralis) == pytest.approx([40, 60])
    assert list(uniform) == pytest.approx([90, 10])
    assert [label.get_text() for label in right.get_xticklabels()] == ["24"]


def step(episode, number, miou, *, seed=0, reward=1.0, **others):
    return STEP | {"seed": seed, "episode": episode, "step": number, "miou": miou, "reward": reward} | others


def test_learning_curves_sum_rewards_and_mark_the_kept_policy():
    steps = [
        step(0, 0, 0.30, reward=1.0),
        step(0, 1, 0.32, reward=2.0, td_loss=0.5, q_mean=1.0),
        step(1, 0, 0.33, reward=3.0, td_loss=0.4, q_mean=2.0),
        step(1, 1, 0.40, reward=4.0, td_loss=0.3, q_mean=3.0),
        step(2, 0, 0.50, reward=9.0, td_loss=0.3, q_mean=3.0),  # cut off: no whole episode
    ]
    axes = learning_curves(run_of(steps=steps)).axes
    assert axes[0].lines[0].get_xydata() == pytest.approx(np.array([[0, 3], [1, 7]]))
    assert axes[1].lines[0].get_xydata() == pytest.approx(np.array([[0, 32], [1, 40]]))
    assert labelled_lines(axes[1])["kept policy"].get_xydata() == pytest.approx(np.array([[1, 40]]))
    assert axes[3].lines[0].get_xdata() == pytest.approx([0, 0.5, 1, 1.5, 2])
    assert axes[4].lines[0].get_xydata() == pytest.approx(
        np.array([[0.5, 0.5], [1, 0.4], [1.5, 0.3], [2, 0.3]])
    )
    assert len(axes[5].lines[0].get_xdata()) == 4


@pytest.mark.parametrize(
    ("epsilons", "kept"),
    [
        ([0.5, 0.4, 0.1], 0),  # the best
        ([0.9, 0.4, 0.1], 1),  # the best of those that the network played itself
        ([0.9, 0.9, 0.9], 2),  # chance alone: the last
    ],
)
def test_the_star_is_on_the_episode_whose_policy_is_kept(epsilons, kept):
    """The same cases as for the loop, which keeps it."""
    mious = [0.5, 0.3, 0.2]
    steps = [step(n, 0, mious[n], seed=4, epsilon=epsilons[n]) for n in range(3)]
    star = labelled_lines(learning_curves(run_of(steps=steps)).axes[1])["kept policy"]
    assert star.get_xydata() == pytest.approx(np.array([[kept, 100 * mious[kept]]]))


def test_tables_with_a_column_per_class_are_set_smaller_and_numbers_keep_their_percent_sign(full_run):
    page = (full_run / "report" / "index.html").read_text(encoding="utf-8")
    captions = re.findall(r'<table class="wide">\n<caption>([^<,\[]*)', page)
    assert captions == ["Test IoU by class ", "Share of the selected pixels by class "]
    figure_captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert "96\N{NO-BREAK SPACE}% of it" in figure_captions[0]
    assert not any(" %" in caption for caption in figure_captions)


def test_learning_curves_without_a_single_update():
    axes = learning_curves(run_of(steps=[step(0, 0, 0.3)])).axes
    assert [text.get_text() for text in axes[4].texts] == ["not recorded"]


def test_whole_episodes_are_ordered_and_counted_per_seed():
    steps = [step(0, 1, 0.2), step(0, 0, 0.1), step(1, 0, 0.3), step(0, 0, 0.4, seed=1)]
    found = whole_episodes(steps)
    assert {key: [each["miou"] for each in episode] for key, episode in found.items()} == {
        (0, 0): [0.1, 0.2],
        (1, 0): [0.4],
    }


def test_running_mean():
    values = np.array([0.0, 3.0, 6.0, 0.0])
    assert running_mean(values, 3) == pytest.approx([1.5, 3, 3, 3])
    assert running_mean(values, 0) == pytest.approx(values)


def test_step_seconds_show_mean_and_share_of_each_phase():
    steps = [
        step(0, 0, 0.3, seconds={"reward": 3.0, "state": 0.001}),
        step(0, 1, 0.3, seconds={"reward": 1.0, "state": 0.003, "odd": 0.0}),
    ]
    left, right = step_seconds(run_of(steps=steps)).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["state", "reward", "odd"]
    assert [text.get_text().strip() for text in left.texts] == [
        "2.00 ms · 0.1 %",
        "2.00 s · 99.9 %",
        "0.00 ms · 0.0 %",
    ]
    assert [bar.get_height() for bar in right.patches[2:4]] == pytest.approx([3, 1])


# --- chosen regions ---------------------------------------------------------------------------------------


def selection(method, seed, regions, budgets=(2,)):
    return SELECTION | {"method": method, "seed": seed, "regions": regions, "budgets": list(budgets)}


def test_first_selections_take_the_smallest_budget_of_a_shared_seed():
    regions = [["scene_000", 0, 0], ["scene_001", 0, 0], ["scene_002", 0, 0]]
    run = run_of(
        selections=[
            selection("ralis", 0, regions),
            selection("uniform", 1, regions, budgets=(3, 1)),
            selection("ralis", 1, regions),
        ]
    )
    chosen = first_selections(run)
    assert list(chosen) == ["ralis", "uniform"]
    assert {each["seed"] for each in chosen.values()} == {1}
    assert [len(each["regions"]) for each in chosen.values()] == [2, 1]


def test_shown_images_have_most_regions_and_ties_go_by_name():
    regions = [["c", 0, 0], ["b", 0, 0], ["a", 0, 0], ["c", 0, 1]]
    assert shown_images(selection("ralis", 0, regions), 2) == ["c", "a"]


def test_boxes_are_in_pixels():
    chosen = selection("ralis", 0, [["a", 1, 2], ["b", 0, 0]])
    assert region_boxes(chosen, "a", (36, 48)) == [(9, 16, 9, 8)]
    assert region_boxes(chosen, "a", (17, 20)) == [(9, 16, 8, 4)]  # cut at the border


def test_labels_show_only_inside_the_chosen_regions():
    photo = np.full((2, 2, 3), 100, dtype=np.uint8)
    labels = np.array([[0, 1], [255, 1]], dtype=np.uint8)
    mask = np.array([[True, True], [True, False]])
    palette = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8)
    painted = paint(photo, labels, mask, palette)
    assert painted[0].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert painted[1, 0].tolist() == [0, 0, 0]  # void
    assert len(set(painted[1, 1].tolist())) == 1 and painted[1, 1, 0] > 200  # grey and faded


def test_selections_picture_has_a_column_for_each_method():
    class Coloured(Pictures):
        palette = np.arange(3 * len(CLASSES), dtype=np.uint8).reshape(-1, 3)

    regions = [["scene_003", 0, 0], ["scene_003", 3, 5], ["scene_001", 1, 1]]
    run = run_of(
        selections=[selection("uniform", 0, regions[2:], [1]), selection("ralis", 0, regions, [3])],
    )
    figure = selections(run, Coloured(), count=1)
    photos, labels = figure.axes[:2], figure.axes[2:]
    assert [axes.get_title() for axes in photos] == ["ralis", "uniform"]
    assert [axes.get_xlabel() for axes in labels] == ["2 regions", "no region"]
    assert [text.get_text() for text in photos[0].texts] == ["scene_003"]
    corners = {box.get_xy() for box in photos[0].patches}
    assert corners == {(-0.5, -0.5), (5 * REGION_SIZE[1] - 0.5, 3 * REGION_SIZE[0] - 0.5)}
    assert not photos[1].patches
    shown = labels[0].images[0].get_array()
    assert shown.shape == (*IMAGE_SIZE, 3)
    assert shown[0, 0].tolist() == Coloured.palette[3].tolist()  # image 3: its first stripe is class 3
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "void" in names and CLASSES[3] in names


def test_lines_of_other_names_can_be_told_apart():
    names = [*METHODS, *(f"arm-{number}" for number in range(30))]
    assert len(set(method_styles(names).values())) == len(names)
    assert method_styles(["arm-7", "ralis"])["ralis"] == method_styles(METHODS)["ralis"]
