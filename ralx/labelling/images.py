"""A project's images and labels as tensors: in batches of one size, and as a data set to train on."""

import hashlib
import itertools
import sqlite3
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from ralx.datasets import SegmentationDataset
from ralx.datasets.dataset import in_threads
from ralx.labelling.labels import UNLABELLED
from ralx.labelling.project import Project, Size
from ralx.regions import RegionGrid, RegionPool

PIXELS_AT_ONCE = 16 * 360 * 480  # of one batch; a segmenter's activations are many times more
Group = list[sqlite3.Row]  # images of one size


def size_of(image: sqlite3.Row) -> Size:
    return image["height"], image["width"]


def batches(images: Iterable[sqlite3.Row], batch_size: int) -> list[Group]:
    """Images in groups of one size, as many together as `batch_size` and their pixels allow."""
    ordered = sorted(images, key=lambda image: (size_of(image), image["number"]))
    groups: list[Group] = []
    for (height, width), same in itertools.groupby(ordered, size_of):
        count = max(1, min(batch_size, PIXELS_AT_ONCE // (height * width)))
        rows = list(same)
        groups += [rows[first : first + count] for first in range(0, len(rows), count)]
    return groups


def read_ahead(project: Project, groups: Iterable[Group]) -> Iterator[tuple[Group, Tensor]]:
    """Each group with its pixels, uint8 [n, 3, H, W]; the next group is decoded meanwhile."""

    def decode(group: Group) -> Tensor:
        pixels = np.stack(in_threads(project.read, group))
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    with ThreadPoolExecutor(1, thread_name_prefix="ralx-ahead") as ahead:
        following = None
        for group in groups:
            current, following = following, (group, ahead.submit(decode, group))
            if current:
                yield current[0], current[1].result()
        if following:
            yield following[0], following[1].result()


class LabelledImages:
    """A `Source` of the images that have labels to train on, with these labels alone. All have the size of
    the largest: an image lies at the top left, and the pixels beside it have no label."""

    def __init__(self, project: Project):
        self.project = project
        with project.reading() as connection:
            rows = connection.execute(
                "SELECT DISTINCT images.* FROM images JOIN labels ON images.number = labels.image "
                "LEFT JOIN regions ON region = id WHERE NOT undone AND pixels > 0 AND NOT coalesce(kept, 0) "
                "ORDER BY images.name"
            ).fetchall()
        self.rows = sorted(rows, key=lambda row: row["name"])
        self.names = tuple(row["name"] for row in self.rows)
        self.image_size = (
            max((row["height"] for row in rows), default=0),
            max((row["width"] for row in rows), default=0),
        )

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.read_image(index), self.read_label(index)

    def read_image(self, index: int) -> np.ndarray:
        pixels = self.project.read(self.rows[index])
        height, width = self.image_size
        below, right = height - pixels.shape[0], width - pixels.shape[1]
        return np.pad(pixels, ((0, below), (0, right), (0, 0)), mode="edge")

    def read_label(self, index: int) -> np.ndarray:
        label = self.project.label_map(self.rows[index]["number"], kept=False)
        height, width = self.image_size
        below, right = height - label.shape[0], width - label.shape[1]
        return np.pad(label, ((0, below), (0, right)), constant_values=UNLABELLED)

    def check(self, index: int) -> None:
        self.project.content(self.rows[index])

    def fingerprint(self) -> str:
        """A hash of the images and of all that is known of them."""
        digest = hashlib.sha256(repr(self.image_size).encode())
        for index, row in enumerate(self.rows):
            digest.update(f"{row['name']} {row['sha256']}\n".encode())
            digest.update(self.read_label(index).tobytes())
        return digest.hexdigest()

    def dataset(self) -> SegmentationDataset:
        """DataError where nothing is labelled."""
        project = self.project
        return SegmentationDataset(
            self, name=project.name, classes=project.classes.names, ignore_index=UNLABELLED
        )

    def pool(self, dataset: SegmentationDataset) -> RegionPool:
        """Which regions of the data set have a label."""
        grid = RegionGrid(len(dataset), dataset.image_size, self.project.region_size, "keep")
        (rh, rw), pool, found = grid.region_size, RegionPool(grid), []
        for index in range(len(dataset)):
            row, col = np.nonzero(self.read_label(index) != UNLABELLED)
            found.append(index * grid.regions_per_image + np.unique(row // rh * grid.cols + col // rw))
        pool.label(torch.from_numpy(np.concatenate(found)))
        return pool
