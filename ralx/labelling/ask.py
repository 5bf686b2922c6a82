"""A new round: regions are chosen, noted in the database, and written as files that people label by."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import torch

from ralx.acquisition.methods import METHODS, method_of
from ralx.datasets.errors import DataError
from ralx.labelling.bundle import items, write_bundle
from ralx.labelling.choose import Choose, Regions
from ralx.labelling.formats import FORMATS
from ralx.labelling.images import size_of
from ralx.labelling.labels import to_png
from ralx.labelling.project import Project
from ralx.labelling.worker import ProjectWorker
from ralx.runs.stage import Artifact
from ralx.support.folder import whole_folder

DEFAULT_METHOD = "ralis"
DEFAULT_REGIONS = 20
_WRITTEN = "folder of the unfinished round"  # a fact: its path and inode


def ask(
    worker: ProjectWorker,
    count: int = DEFAULT_REGIONS,
    *,
    method: str = DEFAULT_METHOD,
    format: str = "bundle",
    to: Path | None = None,
    prelabel: bool = False,
) -> tuple[int, Path]:
    """Ask for `count` regions; the round's number and the folder of its files.

    Args:
        method: of the table of methods, or `package.module:function`. Without a model the regions are random.
        format: "bundle", or one of `FORMATS`.
        to: folder of the files, empty or not there yet; none: the round's own in the project.
        prelabel: write the model's guess into the label files, in place of nothing.

    Raises:
        DataError: nothing is left to ask for, or an image changed. ValueError: an option's value.
        RunError: the files can't be written. No round is left then.
    """
    project = worker.project
    if method == "cheat":
        raise ValueError("--method: must not be cheat, which needs labels that a project doesn't have")
    if method not in METHODS and ":" not in method:
        raise ValueError(
            f"--method: must be one of {', '.join(METHODS)} or package.module:function, got {method!r}"
        )
    method_of(method)  # ValueError where a user's function can't be found
    if format != "bundle" and format not in FORMATS:
        raise ValueError(f"--format: must be bundle or one of {', '.join(FORMATS)}, got {format!r}")
    if count < 1:
        raise ValueError(f"--regions: must be at least 1, got {count}")
    _forget_unfinished(project)
    regions = Regions(project)
    unlabelled = regions.unlabelled()
    if not len(unlabelled):
        raise DataError(f"{project.path}: expected regions to ask for, found every one asked or labelled")
    count, number, models = min(count, len(unlabelled)), project.next_round(), project.models()
    stage = Choose(
        method=method,
        model=project.model_file(models[-1]["number"]) if models else None,
        unlabelled=hashlib.sha256(unlabelled.tobytes()).hexdigest(),
        labels=project.hash_of_labels(),
        round=number,
        count=count,
        kept=kept_of(count, project.settings.kept_share),
        seed=project.settings.seed,
    )
    _note(project, stage, worker.result(stage), regions, models[-1]["number"] if models else None)
    folder = to or project.round_folder(number) / "ask"
    write_round(project, number, folder, format=format, prelabel=prelabel)
    with project.writing() as connection:
        connection.execute("UPDATE rounds SET is_open = 1 WHERE number = ?", (number,))
    worker.clear(stage)
    return number, folder


def how_many(project: Project, regions: int | None, pixels: int | None, minutes: float | None) -> int:
    """The regions of a round whose size is given in one of three ways, or in none.

    ValueError: several are given, one is too small for a region, or no minutes are known yet.
    """
    given = {"--regions": regions, "--pixels": pixels, "--minutes": minutes}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise ValueError(f"{' and '.join(named)}: must not be given together")
    if regions is not None:
        return regions
    if pixels is not None:
        height, width = project.region_size
        if pixels < height * width:
            raise ValueError(f"--pixels: must be at least a region's {height * width}, got {pixels}")
        return pixels // (height * width)
    if minutes is not None:
        with project.reading() as connection:
            per_region = connection.execute(
                "SELECT avg(seconds) / 60 FROM labels WHERE NOT undone AND seconds > 0"
            ).fetchone()[0]
        if per_region is None:
            raise ValueError("--minutes: must not be given before the page has noted how long a region takes")
        if minutes < per_region:
            raise ValueError(f"--minutes: must be at least a region's {per_region:.2f}, got {minutes}")
        return int(minutes / per_region)
    return DEFAULT_REGIONS


def kept_of(count: int, share: float) -> int:
    """How many of a round's regions are kept: the share, at least one where there is a share, never all."""
    return min(max(round(count * share), 1 if share else 0), count - 1)


def write_round(
    project: Project, number: int, folder: Path, *, format: str = "bundle", prelabel: bool = False
) -> None:
    """Write a round's files into `folder`, whole or not at all."""
    asked = project.regions_of_round(number)
    with whole_folder(folder) as work:
        if format == "bundle":
            write_bundle(project, asked, work, prelabel=prelabel)
        else:
            FORMATS[format].write(work, items(project, asked, prelabel=prelabel), project.classes)
        with project.writing() as connection:  # a folder's inode stays when it moves to its place
            written = json.dumps([str(folder.resolve()), work.stat().st_ino])
            connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (_WRITTEN, written))


def _forget_unfinished(project: Project) -> None:
    """Drop what a killed `ask` left of a round that nobody has seen: its notes, and the files, if they are
    still its own."""
    with project.writing() as connection:
        for (number,) in connection.execute("SELECT number FROM rounds WHERE NOT is_open").fetchall():
            connection.execute("DELETE FROM regions WHERE round = ?", (number,))
            connection.execute("DELETE FROM rounds WHERE number = ?", (number,))
            written = "SELECT value FROM facts WHERE name = ?"
            for (value,) in connection.execute(written, (_WRITTEN,)).fetchall():
                folder, inode = json.loads(value)
                if Path(folder).is_dir() and Path(folder).stat().st_ino == inode:
                    shutil.rmtree(folder)
        connection.execute("DELETE FROM facts WHERE name = ?", (_WRITTEN,))


def _note(project: Project, stage: Choose, found: Artifact, regions: Regions, model: int | None) -> None:
    """Write down which regions are asked, those of one image beside each other."""
    places = found.tensors["regions"].numpy()
    num_scored = len(places) - found.found["kept"]
    scores = [*found.tensors["scores"].tolist(), *[None] * found.found["kept"]]
    guesses, features = (found.tensors.get(name, {}) for name in ("guesses", "features"))
    images = regions.images_of(places)
    state = found.tensors["state"].numpy().tobytes() if model else None
    with project.writing() as connection:
        connection.execute(
            "INSERT INTO rounds (number, method, model, seen, is_open) VALUES (?, ?, ?, ?, 0)",
            (stage.round, found.found["method"], model, state),
        )
        for position, index in enumerate(np.argsort(places, kind="stable").tolist()):
            image = regions.images[images[index]]
            grid = project.grid(size_of(image))
            box = grid.boxes(torch.tensor([int(places[index]) - image["first_region"]]))
            connection.execute(
                'INSERT INTO regions (id, round, image, place, "top", "left", height, width, score, kept, '
                "guess, features) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    f"r{stage.round:04}-{position + 1:04}",
                    stage.round,
                    image["number"],
                    int(places[index]),
                    *(int(part) for part in box[1:]),
                    scores[index],
                    index >= num_scored,
                    to_png(guesses[str(index)].numpy()) if model else None,
                    features[index].numpy().tobytes() if model else None,
                ),
            )
