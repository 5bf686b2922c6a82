"""A bundle: the files of a round that people, or their painting program, label by."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from ralx.datasets.errors import DataError
from ralx.datasets.geometry import size_text
from ralx.datasets.images import image_size
from ralx.labelling.formats import Item
from ralx.labelling.formats.png import read_painted
from ralx.labelling.labels import UNLABELLED, to_png
from ralx.labelling.project import AskedRegion, Box, Project
from ralx.support.files import RunError, read_json, write_json, write_whole

MARGIN = 0.5  # of the region's larger side, which is shown around it
REGIONS, LABEL_SUFFIX = "regions.json", ".label.png"
DIMMED = 0.45  # brightness of what is shown but not asked


def crop_box(asked: AskedRegion) -> Box:
    """What of the image is shown: the region and its surroundings."""
    (top, left, height, width), (image_height, image_width) = asked.box, asked.image_size
    margin = round(MARGIN * max(height, width))
    first_row, first_column = max(top - margin, 0), max(left - margin, 0)
    last_row = min(top + height + margin, image_height)
    last_column = min(left + width + margin, image_width)
    return Box(first_row, first_column, last_row - first_row, last_column - first_column)


def box_in_crop(asked: AskedRegion) -> Box:
    """The region's box, in pixels of its crop."""
    shown = crop_box(asked)
    return Box(asked.box.top - shown.top, asked.box.left - shown.left, asked.box.height, asked.box.width)


def asked_mask(asked: AskedRegion) -> np.ndarray:
    """Which pixels of the crop may be painted, bool [h, w]."""
    mask = np.zeros(crop_box(asked)[2:], bool)
    mask[box_in_crop(asked).slices] = True
    return mask


def items(project: Project, regions: Iterable[AskedRegion], *, prelabel: bool) -> Iterator[Item]:
    """The regions' crops as a format writes them; each is called by its region's id, and its label is the
    model's guess or unlabelled. An image that several regions lie in is read once if they come together."""
    name, pixels = "", np.zeros((0, 0, 3), np.uint8)
    for asked in regions:
        if asked.image != name:
            name, pixels = asked.image, project.pixels(asked.image)
        mask, label = asked_mask(asked), np.full(crop_box(asked)[2:], UNLABELLED, np.uint8)
        guess = project.prelabel(asked.id) if prelabel else None
        if guess is not None:
            label[box_in_crop(asked).slices] = guess
        crop = pixels[crop_box(asked).slices]
        dimmed = np.where(mask[..., None], crop, (crop * DIMMED).astype(np.uint8))
        yield Item(f"{asked.id}.png", partial(np.asarray, dimmed), label, mask)


def write_bundle(project: Project, regions: list[AskedRegion], folder: Path, *, prelabel: bool) -> None:
    """Write the canonical bundle, regions.json last."""
    described = []
    for asked, item in zip(regions, items(project, regions, prelabel=prelabel), strict=True):
        files = {kind: f"{asked.id}.{kind}.png" for kind in ("crop", "label", "asked")}
        assert item.pixels and item.asked is not None  # crops have both
        mask = item.asked.astype(np.uint8) * 255
        for kind, content in (("crop", item.pixels()), ("label", item.label), ("asked", mask)):
            write_whole(folder / files[kind], to_png(content))
        described.append(
            {
                "id": asked.id,
                "image": asked.image,
                "sha256": asked.sha256,
                "box": list(asked.box),
                **{kind: files[kind] for kind in ("crop", "label", "asked")},
                "crop_box": list(crop_box(asked)),
                "score": asked.score,
                "kept": asked.kept,
            }
        )
    head = {"project": project.name, "round": regions[0].round, "classes": list(project.classes.names)}
    write_json(folder / REGIONS, {**head, "regions": described})


def read_bundle(project: Project, folder: Path) -> Iterator[tuple[AskedRegion, Path, np.ndarray]]:
    """Each region of a bundle whose label file is there: its label map, in pixels of its crop.

    DataError where the bundle is of another project or classes, and naming a label file of another size or
    with a class that the project doesn't have.
    """
    path = folder / REGIONS
    try:
        content = read_json(path)
        regions = [
            (each["id"], folder / each["label"], each["sha256"], each["box"]) for each in content["regions"]
        ]
        name, classes = content["project"], content["classes"]
    except (RunError, OSError, LookupError, TypeError) as error:
        raise DataError(f"{path}: expected the regions of a bundle: {error!r}") from error
    if name != project.name or classes != list(project.classes.names):
        raise DataError(
            f"{path}: expected a bundle of project {project.name} with classes "
            f"{', '.join(project.classes.names)}, found one of {name} with {', '.join(map(str, classes))}"
        )
    for region, file, sha256, box in regions:
        asked = project.asked_region(region, path)
        if asked.sha256 != sha256:
            raise DataError(f"{path}: {region}: expected the image's sha256 {asked.sha256}, found {sha256}")
        if box != list(asked.box):  # of a round that was taken back, and then asked anew
            raise DataError(f"{path}: {region}: expected the box {list(asked.box)}, found {box}")
        if file.resolve().parent != folder.resolve():
            raise DataError(f"{path}: {region}: expected its label file beside it, found {file}")
        if file.exists():
            yield asked, file, read_crop_label(project, asked, file)


def read_crop_label(project: Project, asked: AskedRegion, file: Path) -> np.ndarray:
    """The label file of a region's crop. What the class file calls void is said of masks that a project began
    with; a painted one has classes and 255."""
    size = crop_box(asked)[2:]
    found = image_size(file)
    if found != size:
        raise DataError(f"{file}: expected {size_text(size)} as its crop, found {size_text(found)}")
    painted = replace(project.classes, void_ids=frozenset(), void_colours=frozenset())
    return read_painted(file, painted, size)
