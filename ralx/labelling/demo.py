"""A demonstration on generated street scenes, with an annotator that knows the truth."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ralx.datasets import CAMVID_CLASSES, CAMVID_PALETTE, synthetic_dataset
from ralx.datasets.errors import DataError
from ralx.datasets.files import entries
from ralx.datasets.geometry import Size
from ralx.datasets.scenes.synthetic import scene_names
from ralx.labelling.ask import ask
from ralx.labelling.bundle import box_in_crop, crop_box
from ralx.labelling.labels import UNLABELLED, from_png, to_png
from ralx.labelling.project import Project, new_project
from ralx.labelling.report import write_report
from ralx.labelling.status import quality, status
from ralx.labelling.take import take
from ralx.labelling.train import train
from ralx.labelling.worker import working_in
from ralx.support.files import write_json, write_whole
from ralx.support.monitor import Monitor

ENTRIES = {"images", "truth", "classes.json", "project"}  # of the folder
KEPT_SHARE = 0.25  # more than a project has, since so few regions are asked


@dataclass(frozen=True)
class DemoSize:
    """How much there is to do."""

    num_images: int = 40
    image_size: Size = (144, 192)
    region_size: Size = (48, 48)
    rounds: int = 3
    regions: int = 40  # in a round
    regions_left: int = 12  # for the visitor
    epochs: int = 20


def demo(folder: Path, monitor: Monitor, size: DemoSize | None = None) -> Path:
    """Make scenes in `folder`, label some of their regions in a few rounds, and write the report; gives its
    page. One more round is asked, and left for the visitor to paint.

    What is there is not done again, so that the same call goes on where an earlier one was interrupted.

    DataError: the folder holds anything else.
    """
    size = size or DemoSize()
    project = _project(folder, monitor, size)
    for number in range(1, size.rounds + 1):
        _ask(project, number, size.regions, monitor)
        _label(project, number, folder / "truth", monitor)
        _train(project, number, size.epochs, monitor)
    _ask(project, size.rounds + 1, size.regions_left, monitor)
    return write_report(project)


def _project(folder: Path, monitor: Monitor, size: DemoSize) -> Project:
    """The project that is there, or a new one."""
    if (folder / "project").exists():
        monitor.say(f"{folder}: goes on where it was")
        return Project(folder / "project")
    wanted = f"{folder}: expected an empty folder, that of an earlier demonstration, or none yet"
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{wanted}, found a file")
    if others := {path.name for path in entries(folder)} - ENTRIES if folder.exists() else None:
        raise DataError(f"{wanted}, found {min(others)} in it")
    scenes = synthetic_dataset(scene_names("scene", size.num_images), size.image_size).source
    for index, name in enumerate(scenes.names):
        pixels, truth = scenes.read(index)
        truth[truth >= len(CAMVID_CLASSES)] = UNLABELLED
        write_whole(folder / "images" / f"{name}.png", to_png(pixels))
        write_whole(folder / "truth" / f"{name}.png", to_png(truth))
    classes = [{"name": name, "colour": colour} for name, colour in CAMVID_PALETTE.items()]
    write_json(folder / "classes.json", {"classes": classes})
    monitor.say(f"{folder / 'images'}: {size.num_images} generated street scenes, {len(classes)} classes")
    monitor.say(f"{folder / 'truth'}: what they show, which the project never sees")
    return new_project(
        folder / "project",
        folder / "images",
        folder / "classes.json",
        region_size=size.region_size,
        segmenter="fpn-small",
        kept_share=KEPT_SHARE,
    )


def _ask(project: Project, number: int, count: int, monitor: Monitor) -> None:
    if len(project.rounds()) >= number:
        return
    with working_in(project, monitor=monitor) as worker:
        _, folder = ask(worker, count)
    monitor.say(f"round {number}: {count} regions are asked: {folder}")


def _label(project: Project, number: int, truth: Path, monitor: Monitor) -> None:
    """Paint the round's label files as the truth is, and take them."""
    left = [asked for asked in project.regions_of_round(number) if asked.state == "asked"]
    if not left:
        return
    folder = project.round_folder(number) / "ask"
    for asked in left:
        label = np.full(crop_box(asked)[2:], UNLABELLED, np.uint8)
        label[box_in_crop(asked).slices] = from_png((truth / asked.image).read_bytes())[asked.box.slices]
        write_whole(folder / f"{asked.id}.label.png", to_png(label))
    taken = take(project, folder, annotator="demo")
    monitor.say(f"round {number}: an annotator who knows the truth has painted them: {taken}")


def _train(project: Project, number: int, epochs: int, monitor: Monitor) -> None:
    models = project.models()
    if models and models[-1]["round"] >= number:
        return
    with working_in(project, monitor=monitor) as worker:
        train(worker, epochs)
    monitor.say(f"round {number}: {quality(status(project))}")
