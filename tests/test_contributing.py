"""The recipes of docs/contributing.md work as they stand there: each is followed in a copy of the tree, and
its commands print what the page says."""

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import NamedTuple

import pytest

import ralx._C

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "contributing.md").read_text()
STEP = re.compile(
    r"^\*\*\d+\.\*\* (New file )?(?:\*\*|`)(\S+?)(?:\*\*|`): .*?\n```\w+\n(.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
HUNK = re.compile(r"^@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@\n((?:[-+ ].*\n)+)", re.MULTILINE)
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)

# How many files a change may touch, and how many of them in ralx/.
MOST_FILES = {
    "An acquisition function": (4, 2),
    "An acquisition function outside ralx": (1, 0),
    "A data set": (3, 2),
    "An option of the agent": (2, 1),
    "A new output of an op": (9, 2),
    "A new op": (14, 3),
}


class Step(NamedTuple):
    new: bool
    path: str
    block: str  # the file, or a diff of it


class Command(NamedTuple):
    line: str
    prints: str  # … stands for anything


class Recipe(NamedTuple):
    steps: list[Step]
    commands: list[Command]


def recipes() -> dict[str, Recipe]:
    """Those of the page, by their title."""
    found = {}
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        title = section.partition("\n")[0]
        steps = [Step(bool(new), path, block) for new, path, block in STEP.findall(section)]
        shown = "".join(CONSOLE.findall(section))
        commands = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", shown, re.MULTILINE)
        if steps:
            assert len(steps) == len(re.findall(r"^\*\*\d+\.\*\*", section, re.MULTILINE))
            found[title] = Recipe(steps, [Command(*command) for command in commands])
    return found


RECIPES = recipes()
IN_CPP = ["A new output of an op", "A new op"]
IN_PYTHON = [title for title in RECIPES if title not in IN_CPP]


def patched(text: str, diff: str) -> str:
    """A file with the hunks of a diff, each of which fits at one place only."""
    for count_before, count_after, lines in HUNK.findall(diff):
        before, after = (
            [line[1:] + "\n" for line in lines.splitlines() if line[0] in kept] for kept in (" -", " +")
        )
        assert (len(before), len(after)) == (int(count_before or 1), int(count_after or 1)), lines
        old, new = ("\n" + "".join(part) for part in (before, after))
        assert ("\n" + text).count(old) == 1, lines
        text = ("\n" + text).replace(old, new)[1:]
    return text


def follow(recipe: Recipe, tree: Path) -> None:
    for new, path, block in recipe.steps:
        file = tree / path
        if new:
            assert not file.exists()
            file.parent.mkdir(exist_ok=True)
            file.write_text(block)
        else:
            assert block.startswith(f"--- a/{path}\n+++ b/{path}\n@@ ")
            file.write_text(patched(file.read_text(), block))


def run(recipe: Recipe, tree: Path) -> None:
    """Everything that the recipe shows in a console."""
    scripts = sysconfig.get_path("scripts")
    environment = os.environ | {"PATH": os.pathsep.join([scripts, os.environ["PATH"]])}
    environment |= {"CMAKE_BUILD_PARALLEL_LEVEL": "2", "OMP_WAIT_POLICY": "passive"}
    # python -m finds what lies in the folder where it runs, and pytest is nobody's worker there.
    environment = {name: value for name, value in environment.items() if not name.startswith("PYT")}
    assert recipe.commands
    for line, prints in recipe.commands:
        result = subprocess.run(
            ["bash", "-c", line],
            cwd=tree,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert result.returncode == 0, f"{line}\n{result.stdout}"
        expected = re.escape(prints.strip()).replace("…", ".*")
        assert re.fullmatch(expected, result.stdout.strip(), re.DOTALL), f"{line}\n{result.stdout}"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the sources, without what was built."""
    made = shutil.ignore_patterns(".*", "__pycache__", "*.so", "experiments", "results")
    for name in ("bench", "csrc", "docs", "examples", "ralx", "tests"):
        shutil.copytree(ROOT / name, tmp_path / "tree" / name, ignore=made)
    for name in ("CMakeLists.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / "tree")
    return tmp_path / "tree"


def test_a_change_touches_few_files() -> None:
    files = {
        title: (len(paths), len([path for path in paths if path.startswith("ralx/")]))
        for title, recipe in RECIPES.items()
        for paths in [{step.path for step in recipe.steps}]
    }
    assert files.keys() == MOST_FILES.keys()
    over = {title: count for title, count in files.items() if count > MOST_FILES[title]}
    over |= {title: count for title, count in files.items() if count[1] > MOST_FILES[title][1]}
    assert not over


@pytest.mark.parametrize("title", IN_PYTHON)
def test_a_recipe_in_python(title: str, tree: Path) -> None:
    follow(RECIPES[title], tree)
    shutil.copy(ralx._C.__file__, tree / "ralx")
    run(RECIPES[title], tree)


def test_the_recipes_in_cpp(tree: Path) -> None:
    """Both in one tree, so that one build serves them."""
    for title in IN_CPP:
        follow(RECIPES[title], tree)
    for title in IN_CPP:
        run(RECIPES[title], tree)


@pytest.mark.parametrize("title", IN_CPP)
def test_a_recipe_in_cpp_needs_no_other(title: str, tree: Path) -> None:
    follow(RECIPES[title], tree)
