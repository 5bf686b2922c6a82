"""Labels come back: from whatever people painted with, in any order and amount."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ralx.datasets.errors import DataError
from ralx.labelling.bundle import (
    LABEL_SUFFIX,
    REGIONS,
    asked_mask,
    box_in_crop,
    crop_box,
    read_bundle,
    read_crop_label,
)
from ralx.labelling.formats import FORMATS, format_of
from ralx.labelling.labels import UNLABELLED
from ralx.labelling.project import AskedRegion, Project


@dataclass
class Taken:
    """What `take` found."""

    labels: int = 0  # that were taken or are here already
    new: int = 0
    pixels: int = 0
    untouched: int = 0  # regions in which nothing is painted
    outside: Counter[str] = field(default_factory=Counter)  # pixels painted beside the asked ones, by file

    def __str__(self) -> str:
        text = f"{self.new} new labels of {self.labels}, {self.pixels} pixels"
        if self.untouched:
            text += f"; {self.untouched} regions have nothing painted inside"
        for file, pixels in self.outside.items():
            text += f"\n{file}: {pixels} pixels are painted outside of what was asked; they are not used"
        return text


def take(
    project: Project,
    path: Path,
    *,
    unpainted: str | None = None,
    annotator: str | None = None,
    format: str = "",
) -> Taken:
    """Take the labels in a file or folder, all of them or, where one is wrong, none.

    Args:
        unpainted: the class of what isn't painted inside the asked pixels; none: it stays unlabelled.
        format: one of `FORMATS`; "": told from the files.

    Raises:
        DataError: names the file and the rule that it breaks.
    """
    fill = UNLABELLED
    if unpainted is not None:
        if unpainted not in project.classes.names:
            raise DataError(
                f"--unpainted: expected a class among {', '.join(project.classes.names)}, found {unpainted!r}"
            )
        fill = project.classes.names.index(unpainted)
    taken, labels = Taken(), dict[str, tuple[AskedRegion, np.ndarray]]()
    for asked, file, label in _read(project, path, format):
        mask = asked_mask(asked)
        if outside := int((label[~mask] != UNLABELLED).sum()):
            taken.outside[str(file)] += outside
        inside = label[box_in_crop(asked).slices]
        inside = np.where(inside == UNLABELLED, np.uint8(fill), inside)
        if (inside == UNLABELLED).all():
            taken.untouched += 1
            continue
        if asked.id in labels:
            raise DataError(f"{file}: expected one label of {asked.id}, found another before")
        labels[asked.id] = (asked, inside)
        taken.pixels += int((inside != UNLABELLED).sum())
    taken.labels = len(labels)
    taken.new = project.receive_all(list(labels.values()), annotator, None, str(path))
    return taken


def _read(project: Project, path: Path, format: str) -> Iterator[tuple[AskedRegion, Path, np.ndarray]]:
    """Each label map that is there, in pixels of its region's crop."""
    if not path.exists():
        raise DataError(f"{path}: expected labels, found nothing")
    folder = path.parent if path.name == REGIONS else path
    if not format and (folder / REGIONS).exists():
        yield from read_bundle(project, folder)
        return
    alone = [path] if path.name.endswith(LABEL_SUFFIX) else sorted(path.glob(f"*{LABEL_SUFFIX}"))
    if not format and alone:  # a bundle's label files without the rest of it
        for file in alone:
            asked = project.asked_region(file.name.removesuffix(LABEL_SUFFIX), file)
            yield asked, file, read_crop_label(project, asked, file)
        return
    known = {f"{asked.id}.png": asked for asked in project.asked_regions()}
    sizes = {name: crop_box(asked)[2:] for name, asked in known.items()}
    for found in FORMATS[format or format_of(path)].read(path, project.classes, sizes):
        yield known[found.name], found.file, found.label
