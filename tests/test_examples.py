"""The examples run as a user runs them."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *arguments: str) -> str:
    """What `python examples/NAME` prints."""
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("given", [0, 2])
def test_the_featurizer_ranks_the_regions_of_scenes_or_of_given_images(given: int, tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{number}.png") for number in range(given)]
    for path in paths:
        Image.effect_noise((200, 100), 50).save(path)
    printed = run("featurizer.py", *paths)
    assert printed.startswith(f"{24 * (given or 4)} regions")
    entropies = [float(number) for number in re.findall(r"([0-9.]+) nats a pixel", printed)]
    assert len(entropies) == 5
    assert entropies == sorted(entropies, reverse=True)
    assert 0 < entropies[0] <= 2.398  # ln 11


def test_the_loop_learns_from_the_regions_it_asks_for() -> None:
    rows = re.findall(r"^ +(\d+) +([\d.]+) +([\d.]+)$", run("own_loop.py"), re.MULTILINE)
    regions, random, margin = ([float(cell) for cell in column] for column in zip(*rows, strict=True))
    assert regions == [32, 64, 96, 128, 160]
    assert random[0] == margin[0]  # the first round is random in both
    assert random[1:] != margin[1:]
    for curve in random, margin:
        assert curve[0] + 10 < curve[-1] < 60


def test_an_own_method_is_compared_with_the_others(tmp_path: Path) -> None:
    """The command of the example's docstring, on scenes so few and small that it takes seconds."""
    words = shlex.split(re.search(r"ralx-train (.*)", (EXAMPLES / "own_method.py").read_text())[1])
    options = (
        words[words.index("--methods") :]
        + """--synthetic-image-size 48 64 --region-size 16 16 --crop-size 32 32
        --synthetic-images 2 4 6 2 2 --pretrain-images 4 --max-epochs 1 --query-size 2 --budget 2 --budgets 6
        --num-seeds 1""".split()
    )
    command = [sys.executable, "-m", "ralx.cli", "--out", str(tmp_path / "own"), *options]
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert result.returncode == 0, result.stderr
    records = json.loads((tmp_path / "own" / "results.json").read_text())
    assert [record["method"] for record in records] == ["uniform", "entropy", "own_method:rare_and_unsure"]
