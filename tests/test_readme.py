"""What the README and the pages of docs/ show runs as it stands there, and what they point to is there."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ralx.acquisition.methods import METHODS
from ralx.cli.command import parse
from ralx.cli.experiment import ExperimentCommand
from ralx.cli.label import COMMANDS
from ralx.cli.label import parse as parse_label
from ralx.cli.train import TrainCommand
from ralx.runs.studies import NAMES

ROOT = Path(__file__).parent.parent
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted(ROOT.glob("docs/*.md"))}
PAGES["README.md"] = (ROOT / "README.md").read_text()
README, GUIDE = PAGES["README.md"], PAGES["docs/guide.md"]
EVERYTHING = "\n".join(PAGES.values())
PACKAGE = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_readme_is_short():
    assert len(README.split()) <= 900


def python_blocks() -> list:
    return [
        pytest.param(code, id=f"{page} {number}")
        for page, text in PAGES.items()
        for number, code in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL), 1)
    ]


@pytest.mark.parametrize("code", python_blocks())
def test_the_python_examples_give_the_shapes_that_they_name(code):
    names: dict = {}
    exec(code, names)
    # `name` or `name.part` alone, or `name = …`, and the shape in the comment behind.
    shown = re.findall(r"^(\w+(?:\.\w+)?)(?: = .*?)?  # .*?\[(\d[\d, ]*)\]", code, re.MULTILINE)
    assert shown
    for name, shape in shown:
        assert list(eval(name, names).shape) == [int(size) for size in shape.split(",")], name


def test_the_readme_shows_the_main_functions():
    for name in "region_features", "kl_histogram", "bald":
        assert f"ralx.{name}(" in README


def on_one_line(page: str) -> str:
    return " ".join(PAGES[page].split())


def test_the_versions_they_name_are_those_that_install():
    for page in "README.md", "docs/guide.md":
        [(first, last)] = re.findall(r"Python 3\.(\d+) to 3\.(\d+)", on_one_line(page))
        assert PACKAGE["project"]["requires-python"] == f">=3.{first},<3.{int(last) + 1}"
    [(first, last)] = re.findall(r"torch 2\.(\d+) to 2\.(\d+)", on_one_line("docs/guide.md"))
    assert f"torch>=2.{first},<2.{int(last) + 1}" in PACKAGE["project"]["dependencies"]


def test_the_guide_names_every_tool_of_a_build_without_a_network():
    [tools] = re.findall(r"Without a network, once (.*?) are there", on_one_line("docs/guide.md"))
    for tool in PACKAGE["build-system"]["requires"]:
        assert re.match(r"\w+", tool)[0] in tools
    assert "setuptools 77 or newer" in tools and "setuptools>=77" in PACKAGE["build-system"]["requires"]


@pytest.mark.parametrize("command", re.findall(r"^ralx-train .*$", EVERYTHING, re.MULTILINE))
def test_the_commands_parse(command):
    _, *arguments = shlex.split(command, comments=True)
    command = parse(TrainCommand, "ralx-train", arguments)
    assert command.preset == arguments[arguments.index("--preset") + 1]


@pytest.mark.parametrize("command", re.findall(r"^ralx-experiment .*$", EVERYTHING, re.MULTILINE))
def test_the_experiments_parse(command):
    _, *arguments = shlex.split(command)
    assert parse(ExperimentCommand, "ralx-experiment", arguments).name == arguments[0]


@pytest.mark.parametrize("command", re.findall(r"^ralx-label .*$", EVERYTHING, re.MULTILINE))
def test_the_labelling_commands_parse(command):
    _, *arguments = shlex.split(command)
    assert type(parse_label(arguments)).__name__.lower() == arguments[0]


def test_the_guide_names_every_method_and_experiment():
    named = set(re.findall(r"`([a-z-]+)`", GUIDE))
    assert {*METHODS, *NAMES} <= named


def anchors(text: str) -> set[str]:
    """Those that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_picture_and_file_is_there(page):
    text = re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL)
    links = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text) + re.findall(r'<img src="([^"]+)"', text)
    assert links or page == "docs/glossary.md"
    for link in links:
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link
    files = re.findall(r"`((?:bench|examples)/[^`]+)`", text)
    missing = [name for name in files if not (ROOT / name).exists()]
    assert not missing


def test_every_page_and_example_can_be_found():
    index = PAGES["docs/README.md"]
    pages = {Path(page).name for page in PAGES if page.startswith("docs/")} - {"README.md"}
    assert {page for page in pages if f"({page})" in index} == pages
    examples = {path.name for path in ROOT.glob("examples/*.py")}
    assert {name for name in examples if f"(examples/{name})" in README} == examples


def test_the_tables_are_those_that_were_measured():
    command = [sys.executable, "bench/readme.py", "bench/results/cpu.json"]
    made = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    cases, _, _ = made.partition("\n\n")
    assert cases in PAGES["docs/speed.md"]


def test_the_readme_repeats_rows_of_the_whole_tables():
    """Without their first cell, which is worded otherwise."""

    def cells(line: str) -> set[str]:
        return {cell.strip() for cell in line.split("|")[2:]} - {""}

    rows = re.findall(r"^\| .*\d.* \|$", README, re.MULTILINE)
    whole = [cells(line) for line in EVERYTHING.replace(README, "").splitlines() if line.startswith("|")]
    assert len(rows) == 10
    assert [row for row in rows if not any(cells(row) <= line for line in whole)] == []


def test_every_option_that_is_named_exists(capsys):
    for command in TrainCommand, ExperimentCommand:
        with pytest.raises(SystemExit):
            parse(command, "ralx", ["--help-all"])
    for each in COMMANDS:
        with pytest.raises(SystemExit):
            parse_label([each.__name__.lower(), "--help"])
    known = capsys.readouterr().out + (ROOT / "bench" / "conftest.py").read_text()
    options = set(re.findall(r"--[a-z][a-z0-9-]+", known))
    text = re.sub(r"```.*?```", "", EVERYTHING, flags=re.DOTALL)
    named = set(re.findall(r"--[a-z][a-z0-9-]+", " ".join(re.findall(r"`(--[^`]+)`", text))))
    options |= {"--help", "--system-site-packages"}  # the second is venv's
    assert named <= options, named - options
