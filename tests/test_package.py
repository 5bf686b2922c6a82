"""The source package holds all that builds and tests ralx, the wheel all that runs it."""

import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ["bench", "csrc", "docs", "examples", "ralx", "tests"]
FILES = ["CMakeLists.txt", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py"]


def files_under(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the sources: setuptools writes its notes beside them."""
    made = shutil.ignore_patterns(".*", "__pycache__", "*.so")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tmp_path / "clone" / name, ignore=made)
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path / "clone")
    return tmp_path / "clone"


def run_setup(clone: Path, *arguments: str) -> None:
    command = [sys.executable, "setup.py", "-q", *arguments]
    result = subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def test_the_source_package_holds_every_file_but_the_experiments_results(clone: Path, tmp_path: Path) -> None:
    results = {name for name in files_under(clone) if name.startswith("bench/experiments/")}
    expected = files_under(clone) - results
    run_setup(clone, "sdist", "--dist-dir", str(tmp_path))
    [archive] = tmp_path.glob("ralx-*.tar.gz")
    with tarfile.open(archive) as package:
        held = {name.partition("/")[2] for name in package.getnames()}
    assert sorted(expected - held) == [] and results and not results & held


def test_the_wheel_holds_the_package_with_its_data_and_nothing_else(clone: Path, tmp_path: Path) -> None:
    expected = {name for name in files_under(clone) if name.startswith("ralx/")}
    assert any(name.endswith(".json") for name in expected)
    run_setup(clone, "build_py", "--build-lib", str(tmp_path / "lib"))
    assert files_under(tmp_path / "lib") == expected


def test_an_older_setuptools_is_named(clone: Path) -> None:
    code = "import runpy, setuptools; setuptools.__version__ = '65.5.0'; runpy.run_path('setup.py')"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert re.match(r"ralx builds with setuptools \d+ or newer, this is 65\.5\.0$", result.stderr.strip())
