"""What the README shows runs as it stands there."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from ralx.cli import parse
from ralx.config import METHODS
from ralx.study.cli import parse as parse_experiment
from ralx.study.studies import NAMES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PACKAGE = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_python_example_gives_the_shapes_it_names():
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {}
    exec(code, names)
    shapes = {
        "features.class_hist": [4, 24, 11],
        "features.entropy_max": [4, 24, 8, 8],
        "candidates": [4, 24, 203],
        "to_labelled": [4, 24, 32],
        "scores": [4, 24],
    }
    for name, shape in shapes.items():
        assert list(eval(name, names).shape) == shape
        line = next(line for line in code.splitlines() if line.startswith(name))
        assert str(shape) in line


def test_the_versions_it_names_are_those_that_install():
    [(first, last)] = re.findall(r"Python 3\.(\d+) to 3\.(\d+)", README)
    assert PACKAGE["project"]["requires-python"] == f">=3.{first},<3.{int(last) + 1}"
    [(first, last)] = re.findall(r"torch 2\.(\d+) to 2\.(\d+)", README)
    assert f"torch>=2.{first},<2.{int(last) + 1}" in PACKAGE["project"]["dependencies"]


def test_it_names_every_tool_of_a_build_without_a_network():
    [tools] = re.findall(r"Without a\s+network, once (.*?) are there", README, re.DOTALL)
    for tool in PACKAGE["build-system"]["requires"]:
        assert re.match(r"\w+", tool)[0] in tools
    assert "setuptools 77 or newer" in tools and "setuptools>=77" in PACKAGE["build-system"]["requires"]


@pytest.mark.parametrize("command", re.findall(r"^ralx-train .*$", README, re.MULTILINE))
def test_the_commands_parse(command):
    _, *arguments = shlex.split(command, comments=True)
    assert parse(arguments).config.preset == arguments[arguments.index("--preset") + 1]


@pytest.mark.parametrize("command", re.findall(r"^ralx-experiment .*$", README, re.MULTILINE))
def test_the_experiments_parse(command):
    _, *arguments = shlex.split(command)
    assert parse_experiment(arguments).name == arguments[0]


def test_it_names_every_method_and_experiment():
    [section] = re.findall(r"## The paper's experiments\n(.*?)\n## ", README, re.DOTALL)
    named = set(re.findall(r"`([a-z-]+)`", section)) | {"budget-curve"}
    assert {*METHODS, *NAMES} <= named


def test_every_picture_and_file_it_points_to_is_there():
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    files = re.findall(r"`(bench/[^`]+)`", README)
    assert pictures and files
    missing = [name for name in pictures + files if not (ROOT / name).exists()]
    assert not missing


def test_every_option_that_is_named_exists(capsys):
    for parser in parse, parse_experiment:
        with pytest.raises(SystemExit):
            parser(["--help"])
    known = capsys.readouterr().out + (ROOT / "bench" / "conftest.py").read_text()
    options = set(re.findall(r"--[a-z][a-z0-9-]+", known))
    named = set(re.findall(r"`(--[a-z][a-z0-9-]+)", README))
    assert named <= options | {"--help"}, named - options
