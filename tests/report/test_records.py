"""The files of a run as the report reads them: what is malformed is refused with its place."""

import json

import pytest
from report_run import REFERENCES, RESULTS, SELECTION, STEP, Pictures, lines, run_of, selection

from ralx.report import write_report
from ralx.report.records import check_regions, read_run


def broken(record, **changes) -> str:
    return json.dumps([record | changes])


# By file: its text, and what is said of it.
MALFORMED = {
    "config.json": [
        ("{", "line 1, column 2: not JSON"),
        ("[]", r"must be a JSON object, got \[\]"),
        (b"\xff\xfe", "must be UTF-8 text"),
    ],
    "steps.jsonl": [
        (lines(STEP) + "{oops}\n" + lines(STEP), "line 2, column 2: not JSON"),
        (lines(STEP, {"seed": 0}), "line 2: episode is missing"),
        (lines(STEP | {"step": 1.5}), r"line 1: step must be an integer of at least 0, got 1\.5"),
        (lines(STEP | {"reward": 1e308}), r"line 1: reward must be a finite number, got 1e\+308"),
        (lines(STEP | {"epsilon": 10**400}), "line 1: epsilon must be a finite number, got 10"),
        (lines(STEP | {"q_mean": "x"}), "line 1: q_mean must be a finite number or null, got 'x'"),
        (lines(STEP | {"reward": float("nan")}), "line 1: NaN is not a JSON number"),
        (lines(STEP | {"seconds": {"state": -1}}), "line 1: seconds must be a map from phase to a number of"),
        (lines([1]), "line 1: must be a JSON object"),
    ],
    "results.json": [
        ("[\n{},\n]", "line 3, column 1: not JSON"),
        ("{}", r"must be a JSON list of records, got \{\}"),
        (json.dumps([*RESULTS, {}]), "record 9: method is missing"),
        (broken(RESULTS[0], miou=50.0), r"record 1: miou must be a number in 0\.\.1, got 50"),
        (json.dumps(RESULTS[:1] * 2), "record 2: method uniform, budget 24, seed 0 is already in record 1"),
        (
            json.dumps([RESULTS[0], RESULTS[1] | {"iou": {"road": 0.5}}]),
            r"record 2: iou must have the classes of record 1, \['road', 'pole'\], got \['road'\]",
        ),
        (
            broken(RESULTS[0], selected_class_fraction=[1.0]),
            "record 1: selected_class_fraction must hold one number for each of the 2 classes, got 1",
        ),
    ],
    "reference.json": [
        (broken(REFERENCES[0], seed=True), "record 1: seed must be an integer"),
        (json.dumps(REFERENCES[:1] * 2), "record 2: method theta0_prime, seed 0 is already in record 1"),
    ],
    "selections/ralis-seed0.json": [
        (
            json.dumps(SELECTION | {"regions": [["scene_000", 0]]}),
            r'regions must be a list of \["image name", row, column\]',
        ),
        (
            json.dumps(SELECTION | {"region_size": [9, 0]}),
            r"region_size must be two positive integers, got \[9, 0\]",
        ),
        (
            json.dumps(SELECTION | {"mistaken_pixels": [-1]}),
            r"mistaken_pixels must be a list of integers of at least 0, got \[-1\]",
        ),
    ],
}


@pytest.mark.parametrize(
    ("file", "text", "message"), [(file, *case) for file, cases in MALFORMED.items() for case in cases]
)
def test_malformed_file_is_named_with_its_place(tmp_path, file, text, message):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=f"{file}(, |: ){message}"):
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
        (["elsewhere", 0, 0], "must be in one of D_V's 40 images, got 'elsewhere'"),
        (["scene_001", 4, 0], "must lie inside the image of 36×48 pixels with .* 9×8, got row 4, column 0"),
        (["scene_001", 0, 6], "must lie inside the image of 36×48 pixels with .* 9×8, got row 0, column 6"),
    ],
)
def test_region_that_does_not_fit_the_images(tmp_path, region, message):
    (tmp_path / "selections").mkdir()
    chosen = SELECTION | {"regions": [*SELECTION["regions"], region]}
    (tmp_path / "selections" / "ralis-seed0.json").write_text(json.dumps(chosen))
    with pytest.raises(ValueError, match=rf"selections/ralis-seed0\.json, region 2: {message}"):
        write_report(tmp_path, pictures=Pictures())


def test_regions_cut_at_the_border_are_chosen_where_the_edge_is_kept():
    chosen = [selection("ralis", 0, [["a", 4, 6]])]
    check_regions(run_of(selections=chosen, config={"edge": "keep"}), {"a": (37, 49)})
    for edge, size in ("keep", (36, 49)), ("keep", (37, 48)), ("drop", (37, 49)):
        with pytest.raises(ValueError, match=r"must lie inside the image .* got row 4, column 6"):
            check_regions(run_of(selections=chosen, config={"edge": edge}), {"a": size})
