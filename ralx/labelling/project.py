"""A labelling project: images, the regions of them that people are asked for, and the labels of these."""

import contextlib
import hashlib
import json
import os
import sqlite3
import time
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ralx.datasets.class_file import read_classes
from ralx.datasets.dataset import in_threads
from ralx.datasets.errors import DataError
from ralx.datasets.geometry import Size, size_text
from ralx.datasets.images import find_images, image_size, read_image, read_mask
from ralx.labelling import database
from ralx.labelling.labels import UNLABELLED, from_png, label_map, to_png, write_stale
from ralx.regions import RegionGrid
from ralx.segmentation import build_segmenter
from ralx.segmentation.adapters import library_name_from
from ralx.support.files import clear_torn, json_bytes, make_folder, write_whole
from ralx.support.folder import FolderLock, locked, whole_folder

LARGEST_DEFAULT_REGION = 64


class Box(NamedTuple):
    """Part of an image, in pixels of the image as a person sees it."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


class AskedRegion(NamedTuple):
    """A region that people are asked to label."""

    id: str
    round: int
    image: str
    sha256: str
    box: Box
    image_size: Size
    score: float | None
    kept: bool
    state: str  # asked, labelled, or unsure: somebody looked and could not tell


@dataclass(frozen=True)
class Settings:
    """What people may change in a project's project.toml."""

    images: Path
    """Folder of the images."""
    segmenter: str = "fpn-mobilenetv2"
    """As `ralx-train --segmenter`."""
    weights: Path | None = None
    """Weights that the first training starts from."""
    seed: int = 0
    kept_share: float = 0.1
    """Share of the asked regions that is drawn at random and only measures."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed: must not be negative, got {self.seed}")
        if not 0 <= self.kept_share < 1:
            raise ValueError(f"kept_share: must be in [0, 1), got {self.kept_share}")

    def to_toml(self) -> str:
        lines = [
            "# A labelling project of ralx. These values may be edited; relative paths begin at this folder.",
            f"images = {_quoted(self.images)}  # folder of the images",
            f"segmenter = {_quoted(self.segmenter)}",
            "# The weights that the first training starts from; none: random ones.",
            f"weights = {_quoted(self.weights)}" if self.weights else '# weights = "file"',
            f"seed = {self.seed}",
            "# The share of the asked regions that is drawn at random and only measures.",
            f"kept_share = {self.kept_share}",
        ]
        return "\n".join(lines) + "\n"


def _quoted(value: Path | str) -> str:
    return json.dumps(str(value), ensure_ascii=False)


def read_settings(path: Path) -> Settings:
    """DataError where the file is missing, no TOML, or has another entry or value."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: expected the settings of a project in TOML: {error}") from error
    types = {"images": str, "segmenter": str, "weights": str, "seed": int, "kept_share": (int, float)}
    for name, value in found.items():
        if name not in types:
            raise DataError(f"{path}: expected {', '.join(types)}, found {name}")
        if not isinstance(value, types[name]) or isinstance(value, bool):  # type: ignore[arg-type]
            raise DataError(f"{path}: {name}: found {value!r}, which is of the wrong type")
    if "images" not in found:
        raise DataError(f"{path}: expected images, the folder of the images, found none")
    for name in ("images", "weights"):
        if name in found:
            found[name] = path.parent / found[name]
    if "segmenter" in found:
        found["segmenter"] = library_name_from(path.parent, found["segmenter"])
    try:
        return Settings(**found)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


class Project:
    """A project that is there; see `new_project`. DataError where the folder holds none, or one of another
    version or with settings that can't be used.

    Every method may be called while other processes and threads work in the project: each opens the database
    anew, and a call that changes something is one transaction.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        if not self.path.is_dir():
            found = "a file" if self.path.exists() else "nothing"
            raise DataError(f"{self.path}: expected the folder of a labelling project, found {found}")
        self._database = self.path / "project.db"
        database.refuse_other_version(self._database)
        self.settings = read_settings(self.path / "project.toml")
        self.classes = read_classes(self.path / "classes.json")
        with self.reading() as connection:
            facts = dict(connection.execute("SELECT name, value FROM facts").fetchall())
        self.name: str = facts["name"]
        self.region_size: Size = tuple(json.loads(facts["region_size"]))
        if json.loads(facts["classes"]) != list(self.classes.names):
            raise DataError(
                f"{self.path / 'classes.json'}: expected the classes that the project was made with, in "
                f"their order: {facts['classes']}"
            )

    def reading(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        return database.reading(self._database)

    def writing(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        return database.writing(self._database)

    def working(self) -> contextlib.AbstractContextManager[FolderLock]:
        """Asking and training, which one process at a time may do: RunError where another one does."""
        return locked(self.path / "models", what="")

    # Images

    @cached_property
    def images(self) -> list[sqlite3.Row]:
        """number, name, height, width, sha256 and first_region of every image, by number."""
        with self.reading() as connection:
            return connection.execute("SELECT * FROM images ORDER BY number").fetchall()

    def content(self, image: sqlite3.Row) -> bytes:
        """An image's file. DataError where it isn't there or changed since the project was made."""
        path = self.settings.images / image["name"]
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: expected an image of the project: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() != image["sha256"]:
            raise DataError(
                f"{path}: expected the image as it was when the project was made, found one that has "
                "changed; put the old one back, or make a new project"
            )
        return content

    def read(self, image: sqlite3.Row) -> np.ndarray:
        """An image's pixels, uint8 [H, W, 3]."""
        return read_image(self.settings.images / image["name"], self.content(image))

    def pixels(self, name: str) -> np.ndarray:
        """The pixels of an image by its name, uint8 [H, W, 3]. DataError as from `content`."""
        with self.reading() as connection:
            image = connection.execute("SELECT * FROM images WHERE name = ?", (name,)).fetchone()
        if image is None:
            raise DataError(f"{name}: expected an image of the project, found none of that name")
        return self.read(image)

    def grid(self, size: Size) -> RegionGrid:
        """The regions of one image; those at its right and bottom may be smaller."""
        return RegionGrid(1, size, self.region_size, "keep")

    # Asked regions

    def asked_region(self, region: str, file: Path | None = None) -> AskedRegion:
        """DataError where no such region was asked; it names the file that the id is read from."""
        with self.reading() as connection:
            found = self._asked(connection, "is_open AND regions.id = ?", region)
        if not found:
            where = f"{file}: {region}" if file else region
            raise DataError(f"{where}: expected a region that was asked, found none of that id")
        return found[0]

    def asked_regions(self) -> list[AskedRegion]:
        """All regions that were asked, in the order in which they were."""
        with self.reading() as connection:
            return self._asked(connection, "is_open")

    def regions_of_round(self, number: int) -> list[AskedRegion]:
        """The regions of one round, also while its files are being written."""
        with self.reading() as connection:
            return self._asked(connection, "round = ?", number)

    @staticmethod
    def _asked(connection: sqlite3.Connection, where: str, *values: Any) -> list[AskedRegion]:
        rows = connection.execute(
            'SELECT id, round, name, sha256, "top", "left", regions.height, regions.width, score, kept, '
            "state, images.height AS image_height, images.width AS image_width "
            "FROM regions JOIN images ON image = images.number JOIN rounds ON round = rounds.number "
            f"WHERE {where} ORDER BY regions.id",
            values,
        )
        return [
            AskedRegion(
                id=row["id"],
                round=row["round"],
                image=row["name"],
                sha256=row["sha256"],
                box=Box(row["top"], row["left"], row["height"], row["width"]),
                image_size=(row["image_height"], row["image_width"]),
                score=row["score"],
                kept=bool(row["kept"]),
                state=row["state"],
            )
            for row in rows
        ]

    def prelabel(self, region: str) -> np.ndarray | None:
        """The classes that the model predicted when the region was asked, uint8 [h, w] of its box; None
        without a model."""
        with self.reading() as connection:
            row = connection.execute("SELECT guess FROM regions WHERE id = ?", (region,)).fetchone()
        return from_png(row[0]) if row and row[0] else None

    def label_of(self, region: str) -> np.ndarray | None:
        """The label that was received for a region, uint8 [h, w] of its box; None without one."""
        with self.reading() as connection:
            row = _newest_label(connection, region)
        return from_png(row["png"]) if row else None

    # Who paints what

    def next_region(self, annotator: str, lease_seconds: float = 600) -> AskedRegion | None:
        """The next region to label: the one that this annotator has already, or else one that nobody has,
        which is then this annotator's until the lease ends. None where nothing is left."""
        now = time.time()
        with self.writing() as connection:
            mine = "is_open AND state = 'asked' AND annotator = ? AND leased_until > ?"
            free = self._asked(connection, mine, annotator, now) or self._asked(
                connection, "is_open AND state = 'asked' AND leased_until <= ?", now
            )
            if not free:
                return None
            _lease(connection, free[0].id, annotator, now + lease_seconds)
        return free[0]

    def renew(self, region: str, annotator: str, lease_seconds: float = 600) -> bool:
        """Whether the annotator still has the region, or could take it: for so long from now."""
        now = time.time()
        with self.writing() as connection:
            row = connection.execute(
                "SELECT annotator, leased_until FROM regions WHERE id = ?", (region,)
            ).fetchone()
            if row is None or (row["annotator"] not in (None, annotator) and row["leased_until"] > now):
                return False
            _lease(connection, region, annotator, now + lease_seconds)
        return True

    def release(self, region: str, annotator: str) -> None:
        """Give the region back, for whoever comes next."""
        with self.writing() as connection:
            connection.execute(
                "UPDATE regions SET annotator = NULL, leased_until = 0 WHERE id = ? AND annotator = ?",
                (region, annotator),
            )

    # Labels

    def receive(
        self,
        region: str,
        label: np.ndarray,
        annotator: str | None = None,
        seconds: float | None = None,
        source: str = "page",
        unsure: bool = False,
    ) -> None:
        """Take a region's label, uint8 [h, w] of its box; an earlier one of the region no longer counts.

        Where nothing is painted, the region is as it was asked, or, with `unsure`, done without a label.
        ValueError for a label of another size or with another class; nothing is changed.
        """
        asked = self.asked_region(region)
        if label.shape != asked.box[2:] or label.dtype != np.uint8:
            raise ValueError(
                f"label: must be uint8 {list(asked.box[2:])}, got {label.dtype} {list(label.shape)}"
            )
        painted = label[label != UNLABELLED]
        if painted.size and painted.max() >= len(self.classes):
            raise ValueError(f"label: must be in 0..{len(self.classes) - 1} or 255, got {painted.max()}")
        self.receive_all([(asked, label)], annotator, seconds, source, unsure)

    def receive_all(
        self,
        labels: list[tuple[AskedRegion, np.ndarray]],
        annotator: str | None,
        seconds: float | None,
        source: str,
        unsure: bool = False,
    ) -> int:
        """`receive` for many regions, all or none; how many labels are new."""
        new = 0
        with self._relabelling(asked for asked, _ in labels) as connection:
            for asked, label in labels:
                new += _receive(connection, asked, label, annotator, seconds, source, unsure)
        return new

    def undo_region(self, region: str) -> None:
        """Take the label of a region back; it is asked again. DataError where it has none."""
        asked = self.asked_region(region)
        if asked.state == "asked":
            raise DataError(f"{region}: expected a region with a label to take back, found none")
        with self._relabelling([asked]) as connection:
            _undo(connection, region)

    def undo_round(self, round: int | None = None) -> str:
        """Take a round's labels back, the last round's by default; where it has none, the round itself, whose
        regions may then be asked again. No later round has its number, and its files, which somebody may have
        painted, stay. What was done, in words."""
        rounds = [row["number"] for row in self.rounds()]
        if round is None and rounds:
            round = rounds[-1]
        if round is None or round not in rounds:
            raise DataError(f"{self.path}: expected a round to take back, found no such round")
        with self._relabelling(self.regions_of_round(round)) as connection:
            asked = self._asked(connection, "round = ?", round)
            labelled = [each for each in asked if each.state != "asked"]
            for each in labelled:
                _undo(connection, each.id)
            if not labelled:
                connection.execute("DELETE FROM regions WHERE round = ?", (round,))
                connection.execute("DELETE FROM rounds WHERE number = ?", (round,))
                last = max(round, self._last_undone(connection))
                connection.execute("INSERT OR REPLACE INTO facts VALUES ('last undone', ?)", (str(last),))
        if labelled:
            return f"round {round}: {len(labelled)} labels are taken back; their regions are asked again"
        return f"round {round}: taken back; its {len(asked)} regions are no longer asked"

    def next_round(self) -> int:
        """The number of the round that is asked next."""
        with self.reading() as connection:
            last = connection.execute("SELECT coalesce(max(number), 0) FROM rounds").fetchone()[0]
            return max(last, self._last_undone(connection)) + 1

    @staticmethod
    def _last_undone(connection: sqlite3.Connection) -> int:
        found = connection.execute("SELECT value FROM facts WHERE name = 'last undone'").fetchone()
        return int(found[0]) if found else 0

    @contextlib.contextmanager
    def _relabelling(self, regions: Iterable[AskedRegion]) -> Iterator[sqlite3.Connection]:
        """A transaction that changes labels, and draws the files of their images.

        The files are stale from before it until its end: a kill leaves none that shows other labels than
        those that count and isn't drawn again by the next command.
        """
        with self.writing() as connection:
            names = {(asked.image,) for asked in regions}
            connection.executemany("UPDATE images SET stale = 1 WHERE name = ?", names)
        with self.writing() as connection:
            yield connection
            write_stale(connection, self.path / "labels")

    def label_map(self, image: int, *, kept: bool | None = None) -> np.ndarray:
        """The labels of an image by its number, uint8 [H, W], see `labels.label_map`."""
        with self.reading() as connection:
            return label_map(connection, image, kept=kept)

    def hash_of_labels(self) -> str:
        """It changes when a label comes, or one that counted no longer does: a label itself never changes."""
        with self.reading() as connection:
            rows = connection.execute("SELECT number, undone FROM labels ORDER BY number").fetchall()
        return hashlib.sha256(repr([tuple(row) for row in rows]).encode()).hexdigest()

    def write_labels(self) -> None:
        """Draw what is stale in labels/, and remove what killed processes left there half-written."""
        with self.writing() as connection:
            write_stale(connection, self.path / "labels")
        for folder in {(self.path / "labels" / image["name"]).parent for image in self.images}:
            clear_torn(folder)

    # Rounds and models

    def rounds(self) -> list[sqlite3.Row]:
        """The rounds that were asked, the oldest first."""
        with self.reading() as connection:
            return connection.execute("SELECT * FROM rounds WHERE is_open ORDER BY number").fetchall()

    def round_folder(self, number: int) -> Path:
        return self.path / "rounds" / f"{number:04}"

    def models(self) -> list[sqlite3.Row]:
        """The models that were trained, the oldest first."""
        with self.reading() as connection:
            return connection.execute("SELECT * FROM models ORDER BY number").fetchall()

    def model_file(self, number: int) -> Path:
        return self.path / "models" / f"{number:04}" / "segmenter.safetensors"

    def progress(self) -> dict[str, Any]:
        """Of the last round: its number, the regions asked, labelled, unsure and left, and minutes."""
        with self.reading() as connection:
            row = connection.execute(
                "SELECT round, count(*), sum(state = 'labelled'), sum(state = 'unsure'), "
                "sum(state = 'asked') FROM regions "
                "WHERE round = (SELECT max(number) FROM rounds WHERE is_open)"
            ).fetchone()
            seconds = connection.execute(
                "SELECT sum(seconds) FROM labels JOIN regions ON region = id WHERE NOT undone AND round = ?",
                (row[0],),
            ).fetchone()[0]
        counts = dict(zip(("asked", "labelled", "unsure", "left"), (n or 0 for n in row[1:]), strict=True))
        return {"round": row[0], **counts, "minutes": None if seconds is None else seconds / 60}


def _newest_label(connection: sqlite3.Connection, region: str) -> sqlite3.Row | None:
    return connection.execute(
        "SELECT * FROM labels WHERE region = ? AND NOT undone ORDER BY number DESC LIMIT 1", (region,)
    ).fetchone()


def _lease(connection: sqlite3.Connection, region: str, annotator: str, until: float) -> None:
    connection.execute(
        "UPDATE regions SET annotator = ?, leased_until = ? WHERE id = ?", (annotator, until, region)
    )


def _undo(connection: sqlite3.Connection, region: str) -> None:
    connection.execute("UPDATE labels SET undone = 1 WHERE region = ?", (region,))
    connection.execute(
        "UPDATE regions SET state = 'asked', annotator = NULL, leased_until = 0 WHERE id = ?", (region,)
    )
    connection.execute(
        "UPDATE images SET stale = 1 WHERE number = (SELECT image FROM regions WHERE id = ?)", (region,)
    )


def _receive(
    connection: sqlite3.Connection,
    asked: AskedRegion,
    label: np.ndarray,
    annotator: str | None,
    seconds: float | None,
    source: str,
    unsure: bool,
) -> bool:
    """Whether the label is new."""
    pixels, before = int((label != UNLABELLED).sum()), _newest_label(connection, asked.id)
    png = to_png(label) if pixels or unsure else None
    if png == (before["png"] if before else None):
        return False
    if before and before["seconds"] and seconds is not None:
        seconds += before["seconds"]  # work on the same region went on
    connection.execute("UPDATE labels SET undone = 1 WHERE region = ?", (asked.id,))
    if png:
        connection.execute(
            'INSERT INTO labels (image, region, "top", "left", pixels, png, annotator, seconds, source) '
            "SELECT image, id, ?, ?, ?, ?, ?, ?, ? FROM regions WHERE id = ?",
            (asked.box.top, asked.box.left, pixels, png, annotator, seconds, source, asked.id),
        )
    state = "labelled" if pixels else "unsure" if unsure else "asked"
    found = connection.execute(
        "UPDATE regions SET state = ?, leased_until = 0 WHERE id = ?", (state, asked.id)
    )
    if not found.rowcount:  # its round was taken back just now
        raise DataError(f"{asked.id}: expected a region that is asked, found none of that id")
    connection.execute("UPDATE images SET stale = 1 WHERE name = ?", (asked.image,))
    return True


# A new project


def new_project(
    path: Path,
    images: Path,
    classes: Path,
    *,
    labels: Path | None = None,
    region_size: Size | None = None,
    weights: Path | None = None,
    **settings: Any,
) -> Project:
    """Make a project in the folder `path`, which must be empty or not there yet: whole or not at all.

    Args:
        images: folder of the images, with sub-folders.
        classes: the class file.
        labels: folder of label files that some images have already, under the images' names with .png.
        region_size: height and width in pixels; none: 64×64, or less where the smallest image is smaller.
        weights: of the segmenter, that the first training starts from; none: random ones.
        settings: the others of `Settings`.

    Raises:
        DataError, ValueError, RunError: naming the file or option, the rule and what was found; nothing is
            made.
    """
    class_list, names = read_classes(classes), find_images(images).names
    start = Path(os.path.abspath(weights)) if weights else None
    made = Settings(Path(os.path.abspath(images)), weights=start, **settings)
    build_segmenter(made.segmenter, len(class_list), weights=made.weights)  # ValueError where it can't be
    described = in_threads(lambda name: _size_and_hash(images / name), names)
    sizes = dict(zip(names, (size for size, _ in described), strict=True))
    region_size = _fitting(region_size, sizes)
    label_files = _label_files(labels, images, names) if labels else {}
    facts = {
        "name": path.resolve().name,
        "region_size": json.dumps(region_size),
        "classes": json.dumps(class_list.names),
    }
    with whole_folder(path) as work:
        make_folder(work / "labels")
        write_whole(work / "project.toml", made.to_toml().encode())
        write_whole(work / "classes.json", json_bytes(class_list.to_json()))
        database.create(work / "project.db")
        with database.writing(work / "project.db") as connection:
            connection.executemany("INSERT INTO facts VALUES (?, ?)", facts.items())
            first = 0
            for number, (name, (size, sha256)) in enumerate(zip(names, described, strict=True)):
                row = (number, name, *size, sha256, first, name in label_files)
                connection.execute("INSERT INTO images VALUES (?, ?, ?, ?, ?, ?, ?)", row)
                first += RegionGrid(1, size, region_size, "keep").num_regions
                if name in label_files:
                    label = read_mask(label_files[name], class_list, size)
                    pixels = int((label != UNLABELLED).sum())
                    connection.execute(
                        'INSERT INTO labels (image, "top", "left", pixels, png, source) '
                        "VALUES (?, 0, 0, ?, ?, 'given')",
                        (number, pixels, to_png(label)),
                    )
            write_stale(connection, work / "labels")
    return Project(path)


def _size_and_hash(path: Path) -> tuple[Size, str]:
    """DataError also where the pixels are damaged: a project can't go on without one of its images."""
    size, content = image_size(path), path.read_bytes()
    read_image(path, content)
    return size, hashlib.sha256(content).hexdigest()


def _fitting(region_size: Size | None, sizes: dict[str, Size]) -> Size:
    """The region size, which every image must have room for."""
    lowest, narrowest = (min(sizes, key=lambda name: sizes[name][axis]) for axis in (0, 1))
    smallest = sizes[lowest][0], sizes[narrowest][1]
    if region_size is None:
        return min(smallest[0], LARGEST_DEFAULT_REGION), min(smallest[1], LARGEST_DEFAULT_REGION)
    for axis, name in ((0, lowest), (1, narrowest)):
        if not 1 <= region_size[axis] <= smallest[axis]:
            raise DataError(
                f"--region-size: must be 1x1 or larger and fit into every image, got "
                f"{region_size[0]}x{region_size[1]}, and {name} has {size_text(sizes[name])}"
            )
    return region_size


def _label_files(folder: Path, images: Path, names: tuple[str, ...]) -> dict[str, Path]:
    """The label file of each image that has one. DataError for a label file without its image, and for label
    files among the images, which people would be asked to label."""
    if folder.resolve().is_relative_to(images.resolve()):
        raise DataError(
            f"--labels {folder}: expected a folder outside of --images {images}, found one inside"
        )
    owners = {str(Path(name).with_suffix(".png")): name for name in names}
    files = {}
    for found in find_images(folder).names:
        expected = str(Path(found).with_suffix(".png"))
        if expected not in owners or Path(found).suffix.lower() != ".png":
            raise DataError(f"{folder / found}: expected a PNG with the name of an image, found another")
        files[owners[expected]] = folder / found
    return files
