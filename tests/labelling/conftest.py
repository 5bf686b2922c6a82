"""Files that are not synced, and projects that were labelled and trained once for all tests."""

import shutil

import pytest
import tiny_project


@pytest.fixture(autouse=True)
def unsynced(monkeypatch):
    """Thousands of small files are written here, and no power is cut: syncing them would take minutes."""
    monkeypatch.setattr("ralx.support.files._sync", lambda descriptor: None)


@pytest.fixture(scope="session")
def _made(tmp_path_factory):
    """A folder with a project of 20 labelled regions, and one in which that project is trained."""
    folder = tmp_path_factory.mktemp("projects")
    tiny_project.labelled(folder / "labelled", 20)
    shutil.copytree(folder / "labelled", folder / "trained")
    assert tiny_project.label("train", folder / "trained" / "project", "--epochs", 2) == 0
    return folder


def _copied(source, target):
    """The copy looks at the images that the first one was made with."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    return target / "project"


@pytest.fixture
def labelled(_made, tmp_path):
    """A project of 20 labelled regions, two of them kept; its images and their truth lie beside it."""
    return _copied(_made / "labelled", tmp_path)


@pytest.fixture
def trained(_made, tmp_path):
    """`labelled`, with a model."""
    return _copied(_made / "trained", tmp_path)


@pytest.fixture
def trained_once(_made):
    """The project whose copies `trained` gives; it must not be changed."""
    return _made / "trained" / "project"
