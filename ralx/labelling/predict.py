"""What a project gives: masks of any images, and the labelled data set in the formats of other tools."""

import sqlite3
from pathlib import Path

from ralx.datasets.errors import DataError
from ralx.datasets.images import find_images, read_image
from ralx.labelling.formats import FORMATS, Item
from ralx.labelling.images import as_tensor, class_maps
from ralx.labelling.labels import to_png
from ralx.labelling.project import Project
from ralx.labelling.worker import trained_segmenter
from ralx.segmentation import predict as logits_of_images
from ralx.support.devices import find_device
from ralx.support.files import clear_torn, write_whole
from ralx.support.folder import whole_folder
from ralx.support.monitor import Monitor


def predict(project: Project, images: Path, to: Path, monitor: Monitor, device: str = "auto") -> int:
    """Write the newest model's classes of every image below `images` as grey PNGs of the same names below
    `to`; how many. Masks that are there are written again.

    DataError: no model yet, an image that can't be read, or `to` lies in `images`.
    """
    names, models = find_images(images).names, project.models()
    if not models:
        raise DataError(f"{project.path}: expected a trained model, found none; train first")
    if to.exists() and not to.is_dir():
        raise DataError(f"--to {to}: expected a folder, found a file")
    if to.resolve().is_relative_to(images.resolve()):  # masks would replace images, or be taken for some
        raise DataError(f"--to {to}: expected a folder outside of --images {images}, found one inside")
    segmenter = trained_segmenter(project, project.model_file(models[-1]["number"]), find_device(device))
    with monitor.task("predict", len(names)) as update:
        for done, name in enumerate(names):
            pixels = as_tensor([read_image(images / name)])
            size = (pixels.shape[-2], pixels.shape[-1])
            classes = class_maps(logits_of_images(segmenter, pixels), size)
            write_whole((to / name).with_suffix(".png"), to_png(classes[0].numpy()))
            update(done + 1)
    for folder in {(to / name).parent for name in names}:
        clear_torn(folder)  # of one that was killed
    return len(names)


def export(project: Project, to: Path, format: str) -> int:
    """Write every image that has a label, with its labels so far, into the folder `to`, whole or not at all;
    how many. The kept regions' labels are among them. Index PNGs come without the images, which lie where
    they are.

    ValueError: no such format, or the folder isn't empty. DataError: nothing is labelled.
    """
    if format not in FORMATS:
        raise ValueError(f"--format: must be one of {', '.join(FORMATS)}, got {format!r}")
    with project.reading() as connection:
        rows = connection.execute(
            "SELECT DISTINCT images.* FROM images JOIN labels ON images.number = labels.image "
            "WHERE NOT undone AND pixels > 0 ORDER BY images.number"
        ).fetchall()
    if not rows:
        raise DataError(f"{project.path}: expected labels to export, found none")
    with whole_folder(to) as work:
        items = (_item(project, row, with_pixels=format != "png") for row in rows)
        FORMATS[format].write(work, items, project.classes)
    return len(rows)


def _item(project: Project, image: sqlite3.Row, *, with_pixels: bool) -> Item:
    pixels = (lambda: project.read(image)) if with_pixels else None
    return Item(image["name"], pixels, project.label_map(image["number"]))
