"""A scan of a whole data set without training: what it holds, and everything that is wrong with it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ralx.datasets.dataset import SegmentationDataset, in_threads
from ralx.datasets.errors import DataError
from ralx.datasets.folder import refuse_one_class
from ralx.datasets.geometry import Size, scaled_size, size_span
from ralx.datasets.gta5 import gta5_folder
from ralx.datasets.images import find_images
from ralx.datasets.splits import (
    OWN,
    SyntheticSizes,
    check_name,
    data_folder,
    layout_of,
    list_problems,
    listable,
    load_splits,
    size_message,
)
from ralx.regions import num_pixels

Counts = dict[str, np.ndarray]  # by image name: pixels of each class, int64 [C + 1] with void last


@dataclass(frozen=True)
class SplitReport:
    """What one split holds; images that can't be read are left out."""

    name: str
    images: int
    image_size: Size
    pixels: str  # the size, or those of the smallest and the largest image
    classes: tuple[str, ...]
    class_shares: tuple[float, ...]  # of all pixels, in class order
    void_share: float


@dataclass
class DataReport:
    """What a scan found. `problems` stop a training, `notes` don't. Prints as a table."""

    name: str
    splits: list[SplitReport] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    dropped_share: float | None = None  # of the pixels, in edge strips that belong to no region

    def __str__(self) -> str:
        lines = [f"{self.name}: {len(self.problems)} problem{'s' * (len(self.problems) != 1)}"]
        lines += _table(self.splits)
        if self.dropped_share is not None:
            lines.append(f"in edge strips that belong to no region: {self.dropped_share:.2%} of the pixels")
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"problem: {problem}" for problem in self.problems]
        return "\n".join(lines)


def check_data(
    name: str,
    root: Path | str | None = None,
    *,
    scale: float = 1.0,
    gta5: Path | str | None = None,
    seed: int = 0,
    sizes: SyntheticSizes | None = None,
    split_lists: Path | str | None = None,
    classes: Path | str | None = None,
    region_size: Size | None = None,
) -> DataReport:
    """Read every file of a data set, whatever is wrong with others, and report.

    Arguments are `load_splits`'s; `region_size` is the size of a region at scale 1, to tell what share of the
    pixels no region holds. ValueError for an unknown name or a wrong scale; bad data is reported, not raised.
    """
    check_name(name)
    report = DataReport(name)
    if name == "synthetic":
        splits = load_splits(name, scale=scale, seed=seed, sizes=sizes)
        for title, dataset in splits._asdict().items():
            if dataset and dataset is not splits.full_set:
                _add(report, title, dataset)
        target: SegmentationDataset | None = splits.train_set
    else:
        target = _check_on_disk(report, name, root, scale, split_lists, classes, seed)
    if gta5 is not None and target is not None:
        open_gta5 = partial(gta5_folder, Path(gta5), target.classes, target.image_size)
        _add(report, "gta5", _opened(report, open_gta5))
    if region_size is not None and target is not None:
        region = torch.tensor(scaled_size(region_size, scale), device="cpu")
        held = int((target.sizes // region * region).prod(1).sum())
        report.dropped_share = 1 - held / num_pixels(target)
    return report


def _check_on_disk(
    report: DataReport,
    name: str,
    root: Path | str | None,
    scale: float,
    split_lists: Path | str | None,
    classes: Path | str | None,
    seed: int,
) -> SegmentationDataset | None:
    try:
        folder = data_folder(name, root)
        layout, lists = layout_of(name, folder, split_lists, classes, seed)
    except DataError as error:
        report.problems.append(str(error))
        return None
    open_part = partial(layout.open, folder, scale=scale)
    train = _opened(report, partial(open_part, "train"))
    there = listable(name, folder, train) if train else set().union(*lists.values())
    problems, notes = list_problems(name, folder, lists, there)
    report.problems += problems
    report.notes += notes
    if train is not None:
        counts = _scan(report, train)
        for key, names in lists.items():
            if key != layout.test:  # which is opened below
                _add(report, key, train, {each: counts[each] for each in names if each in counts})
        if name == OWN and counts:
            _note_own_images(report, folder, train, counts, is_split=split_lists is not None)
    if "d_s" not in lists:
        report.notes.append("no list d_s: a state set will be drawn")
    parts = [layout.test] if layout.reward is None or "d_r" in lists else [layout.reward, layout.test]
    for part in parts:
        dataset = _opened(report, partial(open_part, part))
        _add(report, part, dataset)
        if dataset and train and layout.image_size and dataset.image_size != train.image_size:
            report.problems.append(size_message(train, dataset))
    return train


def _note_own_images(
    report: DataReport, folder: Path, train: SegmentationDataset, counts: Counts, *, is_split: bool
) -> None:
    """What only a folder of somebody's own images may be wrong in, or worth a note for."""
    skipped = find_images(folder / "images").skipped
    report.notes += [f"skipped below images: {count} {why}" for why, count in sorted(skipped.items())]
    if not is_split:
        report.notes.append("no split lists: the splits are drawn by the seed")
    try:
        refuse_one_class(train, np.sum([*counts.values()], axis=0)[:-1])
    except DataError as error:
        report.problems.append(str(error))


def _opened(report: DataReport, open_part: Callable[[], SegmentationDataset]) -> SegmentationDataset | None:
    try:
        return open_part()
    except DataError as error:
        report.problems.append(str(error))
        return None


def _scan(report: DataReport, dataset: SegmentationDataset) -> Counts:
    """Reads every image and label; what can't be read is a problem and left out."""
    source = dataset.source
    row_of = {name: row for row, name in enumerate(source.names)}
    pixels_of = dict(zip(dataset.names, dataset.sizes.prod(1).tolist(), strict=True))

    def count(name: str) -> np.ndarray | str:
        try:
            source.check(row_of[name])
            _, label = source.read(row_of[name])
        except DataError as error:
            return str(error)
        counts = np.bincount(label.ravel(), minlength=256)[: dataset.num_classes]
        return np.append(counts, pixels_of[name] - counts.sum())

    counts = dict(zip(dataset.names, in_threads(count, dataset.names), strict=True))
    report.problems += [found for found in counts.values() if isinstance(found, str)]
    return {name: found for name, found in counts.items() if not isinstance(found, str)}


def _add(
    report: DataReport, title: str, dataset: SegmentationDataset | None, counts: Counts | None = None
) -> None:
    """Report a data set, or the part of it whose `counts` are given."""
    if counts is None:
        counts = _scan(report, dataset) if dataset else {}
    if dataset is None or not counts:
        report.problems.append(f"{title}: expected at least one image that can be read, found none")
        return
    total = np.sum(list(counts.values()), axis=0)
    *shares, void = (total / total.sum()).tolist()
    classes, pixels = dataset.classes, size_span(dataset.subset(counts).sizes)
    report.splits.append(
        SplitReport(title, len(counts), dataset.image_size, pixels, classes, tuple(shares), void)
    )
    if absent := [name for name, share in zip(classes, shares, strict=True) if share == 0]:
        report.notes.append(f"{title} has no pixel of {', '.join(absent)}")


def _table(splits: list[SplitReport]) -> list[str]:
    if not splits:
        return []
    rows = [["", *(split.name for split in splits)], ["images", *(str(split.images) for split in splits)]]
    rows.append(["pixels", *(split.pixels for split in splits)])
    for klass, name in enumerate(splits[0].classes):
        rows.append([name, *(f"{split.class_shares[klass]:.2%}" for split in splits)])
    rows.append(["void", *(f"{split.void_share:.2%}" for split in splits)])
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    return ["  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]) for row in rows]
