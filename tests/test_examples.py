"""The examples run as a user runs them."""

import re
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
