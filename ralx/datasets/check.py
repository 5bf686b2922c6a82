"""A scan of a whole data set without training: what it holds, and everything that is wrong with it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from ralx.datasets.dataset import SegmentationDataset, in_threads
from ralx.datasets.errors import DataError
from ralx.datasets.geometry import Size, scaled_region
from ralx.datasets.splits import (
    LAYOUTS,
    SyntheticSizes,
    check_name,
    data_folder,
    load_splits,
    missing_message,
    open_gta5,
    overlap_message,
    overlaps,
    read_split_lists,
    size_message,
)


@dataclass(frozen=True)
class SplitReport:
    """What one split holds; images that can't be read are left out."""

    name: str
    images: int
    image_size: Size
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


@dataclass(frozen=True)
class _Scan:
    """Class counts by image name, int64 [C + 1] with void last, of the images that can be read."""

    dataset: SegmentationDataset
    counts: dict[str, np.ndarray]

    def report(self, name: str, names: list[str]) -> SplitReport | None:
        rows = [self.counts[each] for each in names if each in self.counts]
        if not rows:
            return None
        total = np.sum(rows, axis=0)
        shares = (total / total.sum()).tolist()
        classes, size = self.dataset.classes, self.dataset.image_size
        return SplitReport(name, len(rows), size, classes, tuple(shares[:-1]), shares[-1])


def check_data(
    name: str,
    root: Path | str | None = None,
    *,
    scale: float = 1.0,
    gta5: Path | str | None = None,
    seed: int = 0,
    sizes: SyntheticSizes | None = None,
    split_lists: Path | str | None = None,
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
                _add(report, title, _scan(dataset, report), list(dataset.names))
        target: SegmentationDataset | None = splits.train_set
    else:
        target = _check_on_disk(report, name, root, scale, split_lists)
    if gta5 is not None and target is not None:
        pretrain = _scan_part(report, partial(open_gta5, gta5, target))
        _add(report, "gta5", pretrain, list(pretrain.counts) if pretrain else [])
    if region_size is not None and target is not None:
        sides = zip(target.image_size, scaled_region(region_size, scale), strict=True)
        held = math.prod(whole // part * part for whole, part in sides)
        report.dropped_share = 1 - held / math.prod(target.image_size)
    return report


def _check_on_disk(
    report: DataReport, name: str, root: Path | str | None, scale: float, split_lists: Path | str | None
) -> SegmentationDataset | None:
    layout = LAYOUTS[name]
    try:
        folder, lists = data_folder(name, root), read_split_lists(name, split_lists)
    except DataError as error:
        report.problems.append(str(error))
        return None
    train = _scan_part(report, partial(layout.open, folder, "train", scale=scale))
    for key, names in lists.items():
        if train is not None:
            if missing := sorted(set(names) - set(train.dataset.names)):
                report.problems.append(missing_message(folder, key, missing))
            _add(report, key, train, names)
    for pair, names in overlaps(lists).items():
        (report.notes if "d_s" in pair else report.problems).append(overlap_message(pair, names))
    if "d_s" not in lists:
        report.notes.append("no list d_s: a state set will be drawn")
    parts = [layout.test] if layout.reward is None or "d_r" in lists else [layout.reward, layout.test]
    for part in parts:
        scan = _scan_part(report, partial(layout.open, folder, part, scale=scale))
        _add(report, part, scan, list(scan.dataset.names) if scan else [])
        if scan and train and scan.dataset.image_size != train.dataset.image_size:
            report.problems.append(size_message(train.dataset, scan.dataset))
    return None if train is None else train.dataset


def _scan_part(report: DataReport, open_part: Callable[[], SegmentationDataset]) -> _Scan | None:
    try:
        return _scan(open_part(), report)
    except DataError as error:
        report.problems.append(str(error))
        return None


def _scan(dataset: SegmentationDataset, report: DataReport) -> _Scan:
    source = dataset.source
    row_of = {name: row for row, name in enumerate(source.names)}

    def count(name: str) -> np.ndarray | str:
        try:
            source.check(row_of[name])
            _, label = source.read(row_of[name])
        except DataError as error:
            return str(error)
        bins = np.bincount(label.ravel(), minlength=256)
        return np.append(bins[: dataset.num_classes], label.size - bins[: dataset.num_classes].sum())

    counts = dict(zip(dataset.names, in_threads(count, dataset.names), strict=True))
    report.problems += [found for found in counts.values() if isinstance(found, str)]
    return _Scan(dataset, {name: found for name, found in counts.items() if not isinstance(found, str)})


def _add(report: DataReport, title: str, scan: _Scan | None, names: list[str]) -> None:
    split = None if scan is None else scan.report(title, names)
    if split is None:
        report.problems.append(f"{title}: expected at least one image that can be read, found none")
        return
    report.splits.append(split)
    absent = [name for name, share in zip(split.classes, split.class_shares, strict=True) if share == 0]
    if absent:
        report.notes.append(f"{title} has no pixel of {', '.join(absent)}")


def _table(splits: list[SplitReport]) -> list[str]:
    if not splits:
        return []
    rows = [["", *(split.name for split in splits)], ["images", *(str(split.images) for split in splits)]]
    rows.append(["pixels", *(f"{split.image_size[0]}x{split.image_size[1]}" for split in splits)])
    for klass, name in enumerate(splits[0].classes):
        rows.append([name, *(f"{split.class_shares[klass]:.2%}" for split in splits)])
    rows.append(["void", *(f"{split.void_share:.2%}" for split in splits)])
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    return ["  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]) for row in rows]
