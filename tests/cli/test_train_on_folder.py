"""`ralx-train --dataset folder`: somebody's own images of different sizes, from the files to the report."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ralx.cli.experiment import main as experiment
from ralx.cli.train import main as train

SIZES = [(32, 48), (40, 32), (50, 50)]
OPTIONS = """
    --region-size 16 16 --crop-size 40 40 --edge keep --batch-size 4 --max-epochs 1 --query-size 2
    --pool-size 3 --budget 4 --episodes 1 --budgets 4 --methods ralis bald --num-mc-samples 2 --num-seeds 1
    --replay-capacity 20 --device cpu
""".split()


def name_of(number: int) -> str:
    return f"town {number % 2}/{number}.png"


@pytest.fixture
def source(tmp_path) -> list[str]:
    """The options of a data set of twelve images whose left is sky and whose right is road."""
    for number in range(12):
        height, width = SIZES[number % 3]
        mask = np.full((height, width), 255, np.uint8)
        mask[:, 3 : width // 2], mask[:, width // 2 :] = 0, 1
        noise = np.random.default_rng(number).integers(0, 90, (height, width, 3), np.uint8)
        for name, pixels in (("images", noise + mask[..., None] // 2), ("labels", mask)):
            path = tmp_path / "data" / name / name_of(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    classes = [{"name": "sky", "colour": [1, 2, 250]}, {"name": "road"}]
    (tmp_path / "classes.json").write_text(json.dumps({"classes": classes}))
    return ["--dataset", "folder", "--data", f"{tmp_path}/data", "--classes", f"{tmp_path}/classes.json"]


def test_a_run_on_images_of_different_sizes(source, tmp_path, capsys):
    out, numbers = (
        tmp_path / "out",
        {"d_t": (0, 1, 2), "d_v": (3, 4, 5), "d_s": (6, 7), "d_r": (8,), "test": (9, 10)},
    )
    lists = {key: [name_of(number) for number in listed] for key, listed in numbers.items()}
    (tmp_path / "lists.json").write_text(json.dumps(lists))
    assert train(["--out", str(out), *source, *OPTIONS, "--split-lists", f"{tmp_path}/lists.json"]) == 0
    results = json.loads((out / "results.json").read_text())
    assert [record["method"] for record in results] == ["ralis", "bald"]
    for record in results:
        assert record["labelled_regions"] == 4 and record["labelled_pixels"] <= 4 * 16 * 16
        assert record["iou"].keys() == {"sky", "road"} and 0 <= record["miou"] <= 1
        assert sum(record["selected_class_fraction"]) == pytest.approx(1)
    for path in (out / "selections").iterdir():
        for name, row, col in json.loads(path.read_text())["regions"]:
            height, width = SIZES[int(Path(name).stem) % 3]
            assert row * 16 < height and col * 16 < width, "a region beside its image was chosen"
    assert "3 images of 40x32 to 50x50 pixels" in " ".join(capsys.readouterr().out.split())
    page = (out / "report" / "index.html").read_text()
    assert (out / "report" / "selections.png").is_file() and "road" in page


def test_a_scan_says_what_the_folder_holds(source, tmp_path, capsys):
    (tmp_path / "data" / "images" / "readme.txt").touch()
    assert train(["--check-data", *source]) == 0
    told = capsys.readouterr().out
    assert "folder: 0 problems" in told and "skipped below images: 1 of another kind" in told
    assert "sky" in told and "no split lists: the splits are drawn by the seed" in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--region-size", "40", "40"],
            "region_size must be at most the size of every image, got (40, 40) for",
        ),
        (["--budgets", "4", "999"], "budgets: must be at most the"),
        (["--classes", "nowhere.txt"], "nowhere.txt: expected a file of class names"),
    ],
)
def test_wrong_options_are_refused(source, tmp_path, capsys, options, message):
    assert train(["--out", str(tmp_path / "out"), *source, *OPTIONS, *options]) == 2
    captured = capsys.readouterr()
    assert message in " ".join((captured.out + captured.err).split())


def test_the_study_of_region_sizes_needs_one_published_size(source, tmp_path, capsys):
    options = ["ablate-regions", "--out", str(tmp_path / "out"), *source, *OPTIONS]
    assert experiment(options) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "dataset: must be one whose images are published in one size, got 'folder'" in told
