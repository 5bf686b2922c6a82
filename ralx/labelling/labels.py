"""Label maps of a project: what people painted, laid over what an image came with."""

import io
import sqlite3
from pathlib import Path

import numpy as np
from PIL import Image

from ralx.datasets.class_file import UNLABELLED
from ralx.support.files import write_whole


def to_png(label: np.ndarray) -> bytes:
    """A label map uint8 [h, w] as a grey PNG, or an image uint8 [h, w, 3] as one in colour."""
    file = io.BytesIO()
    Image.fromarray(label).save(file, "PNG", compress_level=3)
    return file.getvalue()


def from_png(content: bytes) -> np.ndarray:
    """A label map that `to_png` stored."""
    return np.array(Image.open(io.BytesIO(content)))


def label_map(connection: sqlite3.Connection, image: int, *, kept: bool | None = None) -> np.ndarray:
    """The labels of an image, uint8 [H, W]. With `kept` True only those of its kept regions, with False only
    those that the segmenter may be trained on."""
    height, width = connection.execute(
        "SELECT height, width FROM images WHERE number = ?", (image,)
    ).fetchone()
    labels = np.full((height, width), UNLABELLED, np.uint8)
    rows = connection.execute(
        'SELECT labels."top", labels."left", png, kept FROM labels LEFT JOIN regions ON region = id '
        "WHERE labels.image = ? AND NOT undone ORDER BY labels.number",
        (image,),
    )
    for top, left, png, is_kept in rows:
        if kept is None or kept == bool(is_kept):
            part = from_png(png)
            there = labels[top : top + part.shape[0], left : left + part.shape[1]]
            np.copyto(there, part, where=part != UNLABELLED)
    if kept is False:  # an image may have come with labels of what was then kept
        boxes = 'SELECT "top", "left", height, width FROM regions WHERE image = ? AND kept'
        for top, left, height, width in connection.execute(boxes, (image,)):
            labels[top : top + height, left : left + width] = UNLABELLED
    return labels


def write_stale(connection: sqlite3.Connection, folder: Path) -> None:
    """Draw the label files of all images whose labels changed; inside a transaction, so that no file is older
    than what another process has just received."""
    for number, name in connection.execute("SELECT number, name FROM images WHERE stale").fetchall():
        write_whole((folder / name).with_suffix(".png"), to_png(label_map(connection, number)))
        connection.execute("UPDATE images SET stale = 0 WHERE number = ?", (number,))
