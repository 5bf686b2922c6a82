"""The demonstration: a whole project on generated scenes, which goes on where it was interrupted."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ralx.cli.label import main
from ralx.labelling import demo as module
from ralx.labelling.demo import DemoSize, demo
from ralx.labelling.project import Project
from ralx.support.monitor import Monitor

TINY = DemoSize(
    num_images=3, image_size=(32, 48), region_size=(16, 16), rounds=2, regions=4, regions_left=2, epochs=1
)
STEPS = ("new_project", "ask", "take", "train", "write_report")


@pytest.fixture(autouse=True, scope="module")
def with_one_thread():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> tuple[Path, str]:
    """The folder of a demonstration through the command line, and what it printed."""
    folder, printed = tmp_path_factory.mktemp("demo") / "new", io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(module, "DemoSize", lambda: TINY)
        patch.setattr("ralx.support.files._sync", lambda descriptor: None)
        assert main(["demo", str(folder)]) == 0
    return folder, printed.getvalue()


def left_by(folder: Path) -> tuple[list, list, dict[str, bytes]]:
    """Labels, models and report, without the clock's times."""
    project = Project(folder / "project")
    with project.reading() as connection:
        labels = connection.execute("SELECT region, png, annotator, seconds, undone FROM labels").fetchall()
        models = connection.execute("SELECT number, round, regions, miou, low FROM models").fetchall()
    report = {path.name: path.read_bytes() for path in (folder / "project" / "report").iterdir()}
    return list(map(tuple, labels)), list(map(tuple, models)), report


def test_rounds_are_labelled_by_the_truth_and_the_last_is_left_for_the_visitor(shown):
    folder, _ = shown
    project = Project(folder / "project")
    assert project.settings.segmenter == "fpn-small"
    assert [row["number"] for row in project.rounds()] == [1, 2, 3]
    assert [row["round"] for row in project.models()] == [1, 2]
    assert {path.name for path in folder.iterdir()} == {"images", "truth", "classes.json", "project"}
    for asked in project.asked_regions():
        label = project.label_of(asked.id)
        if asked.round > TINY.rounds:
            assert asked.state == "asked" and label is None
            continue
        with Image.open(folder / "truth" / asked.image) as truth:
            np.testing.assert_array_equal(label, np.asarray(truth)[asked.box.slices])


def test_it_says_what_happens_how_good_the_model_is_and_how_to_paint(shown):
    folder, printed = shown
    lines = printed.splitlines()
    for number in (1, 2):
        said = [line for line in lines if line.startswith(f"round {number}: ")]
        assert said[0].startswith(f"round {number}: 4 regions are asked: ")
        assert said[1].startswith(f"round {number}: an annotator who knows the truth has painted them: 4 new")
        assert said[2].startswith(f"round {number}: mIoU on {number} kept regions: 0.")
    assert lines[-2] == f"report: {folder / 'project' / 'report' / 'index.html'}"
    assert lines[-1] == f"next: paint the last round yourself: ralx-label serve {folder / 'project'}"


def test_interrupted_before_and_after_every_step_it_goes_on_and_ends_the_same(shown, tmp_path, monkeypatch):
    interruptions = set()

    def interrupted(name, step, done):
        """The step, interrupted the first time before it begins and the second time when it is done."""

        def call(*arguments, **options):
            key = (name, done())
            if key not in interruptions:
                interruptions.add(key)
                raise KeyboardInterrupt
            result = step(*arguments, **options)
            if (*key, "done") not in interruptions:
                interruptions.add((*key, "done"))
                raise KeyboardInterrupt
            return result

        return call

    def rounds_done() -> int:
        path = tmp_path / "project"
        return len(Project(path).rounds()) if path.exists() else 0

    for name in STEPS:
        monkeypatch.setattr(module, name, interrupted(name, getattr(module, name), rounds_done))
    for _ in range(30):
        with contextlib.suppress(KeyboardInterrupt):
            demo(tmp_path, Monitor(), TINY)
            break
    else:
        pytest.fail("it never ends")
    assert len(interruptions) == 2 * (1 + 3 + 2 + 2 + 1)
    assert left_by(tmp_path) == left_by(shown[0])


def test_finished_demonstration_is_not_done_again(shown):
    before = left_by(shown[0])
    demo(shown[0], Monitor(), TINY)
    assert left_by(shown[0]) == before


def test_folder_of_something_else_is_refused_and_left_alone(tmp_path, capsys):
    expected = "expected an empty folder, that of an earlier demonstration, or none yet"
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    assert main(["demo", str(tmp_path)]) == 2
    assert f"{expected}, found photo.jpg in it" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]
    assert main(["demo", str(tmp_path / "photo.jpg")]) == 2
    assert f"{expected}, found a file" in capsys.readouterr().err
