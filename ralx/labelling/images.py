"""A project's images and labels as tensors: in batches of one size, and as a data set to train on."""

import itertools
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ralx.datasets import SegmentationDataset
from ralx.datasets.dataset import in_threads
from ralx.datasets.geometry import Size
from ralx.labelling.labels import UNLABELLED
from ralx.labelling.project import Project
from ralx.regions import RegionGrid, RegionPool

IMAGES_AT_ONCE = 16
PIXELS_AT_ONCE = 16 * 360 * 480  # of one batch; a segmenter's activations are many times more
Group = list[sqlite3.Row]  # images of one size


def size_of(image: sqlite3.Row) -> Size:
    return image["height"], image["width"]


def batches(images: Iterable[sqlite3.Row]) -> list[Group]:
    """Images in groups of one size, as many together as `IMAGES_AT_ONCE` and `PIXELS_AT_ONCE` allow."""
    ordered = sorted(images, key=lambda image: (size_of(image), image["number"]))
    groups: list[Group] = []
    for (height, width), same in itertools.groupby(ordered, size_of):
        count = max(1, min(IMAGES_AT_ONCE, PIXELS_AT_ONCE // (height * width)))
        rows = list(same)
        groups += [rows[first : first + count] for first in range(0, len(rows), count)]
    return groups


def as_tensor(images: Sequence[np.ndarray]) -> Tensor:
    """Images of one size, each uint8 [H, W, 3], as one batch uint8 [n, 3, H, W]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def read_ahead(project: Project, groups: Iterable[Group]) -> Iterator[tuple[Group, Tensor]]:
    """Each group with its pixels, uint8 [n, 3, H, W]; the next group is decoded meanwhile."""

    def decode(group: Group) -> Tensor:
        return as_tensor(in_threads(project.read, group))

    with ThreadPoolExecutor(1, thread_name_prefix="ralx-ahead") as ahead:
        following = None
        for group in groups:
            current, following = following, (group, ahead.submit(decode, group))
            if current:
                yield current[0], current[1].result()
        if following:
            yield following[0], following[1].result()


def class_maps(logits: Tensor, size: Size) -> Tensor:
    """The classes that logits [n, C, h, w] predict for images of `size`: uint8 [n, H, W], on the CPU."""
    upsampled = F.interpolate(logits.float(), size, mode="bilinear", align_corners=True)
    return upsampled.argmax(1).to(torch.uint8).cpu()


def regions_with(mask: np.ndarray, region_size: Size) -> np.ndarray:
    """The regions of one image that have a pixel of `mask`, bool [H, W]: flat indices int64 [K] in order."""
    (height, width), (rh, rw) = mask.shape, region_size
    rows = np.logical_or.reduceat(mask, np.arange(0, height, rh), axis=0)
    return np.flatnonzero(np.logical_or.reduceat(rows, np.arange(0, width, rw), axis=1))


class LabelledImages:
    """A `Source` of the images that have labels to train on, with these labels alone. All have the size of
    the largest: an image lies at the top left, and the pixels beside it have no label."""

    def __init__(self, project: Project):
        self.project = project
        with project.reading() as connection:
            self.rows = connection.execute(
                "SELECT DISTINCT images.* FROM images JOIN labels ON images.number = labels.image "
                "LEFT JOIN regions ON region = id WHERE NOT undone AND pixels > 0 AND NOT coalesce(kept, 0) "
                "ORDER BY images.name"
            ).fetchall()
        self.names = tuple(row["name"] for row in self.rows)
        self.image_size = (
            max((row["height"] for row in self.rows), default=0),
            max((row["width"] for row in self.rows), default=0),
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
        """A hash of all labels of the project, whose images never change."""
        return self.project.hash_of_labels()

    def dataset(self) -> SegmentationDataset:
        """DataError where nothing is labelled."""
        project = self.project
        return SegmentationDataset(
            self, name=project.name, classes=project.classes.names, ignore_index=UNLABELLED
        )

    def pool(self) -> RegionPool:
        """Which regions of the data set have a label."""
        grid = RegionGrid(len(self.names), self.image_size, self.project.region_size, "keep")
        pool, found = RegionPool(grid), []
        for index in range(len(self.names)):
            labelled = regions_with(self.read_label(index) != UNLABELLED, grid.region_size)
            found.append(index * grid.regions_per_image + labelled)
        pool.label(torch.from_numpy(np.concatenate(found)))
        return pool
