"""The splits that one experiment uses, of the data sets that ralx knows by name."""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import resources
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import torch

from ralx.datasets.camvid import camvid_folder
from ralx.datasets.cityscapes import cityscapes_folder
from ralx.datasets.dataset import SegmentationDataset
from ralx.datasets.errors import DataError
from ralx.datasets.geometry import Size, scaled_size, size_text
from ralx.datasets.gta5 import gta5_folder
from ralx.datasets.scenes.synthetic import scene_names, synthetic_dataset
from ralx.datasets.state_set import draw_state_set

STATE_SET_IMAGES = 10  # where a state set is drawn from a data set on disk (paper, section 4)
STATE_CANDIDATES = 6  # scenes made for each image of a synthetic state set

SplitLists = dict[str, list[str]]


class Splits(NamedTuple):
    """The paper's splits, all in the target's class list."""

    state_set: SegmentationDataset  # D_S
    train_set: SegmentationDataset  # D_T: the query network learns here
    eval_set: SegmentationDataset  # D_V: the methods are compared here
    reward_set: SegmentationDataset  # D_R: rewards, early stopping
    test_set: SegmentationDataset
    pretrain_set: SegmentationDataset | None  # GTA5, synthetic scenes or none; made when first used
    full_set: SegmentationDataset  # full supervision: all of train, but D_R which stops the training

    def to(self, device: torch.device | str) -> "Splits":
        """The same splits, with batches on `device`."""
        moved = (dataset and dataset.to(device) for dataset in self)
        return Splits(*moved)  # type: ignore[arg-type]  # only pretrain_set may be None


@dataclass(frozen=True)
class SyntheticSizes:
    """How many scenes of which size the `synthetic` data set has, and those made where GTA5 is not given."""

    image_size: Size = (96, 128)  # height, width, before `scale`
    state_set: int = 8
    train_set: int = 40
    eval_set: int = 96
    reward_set: int = 24
    test_set: int = 48
    pretrain_set: int = 96  # may be 0
    world: str = "town"
    pretrain_world: str = "game"


@dataclass(frozen=True)
class Layout:
    """How a data set on disk is opened, how large its images are, and which of its parts are D_R and the test
    set."""

    open: Callable[..., SegmentationDataset]
    image_size: Size  # at scale 1, as published
    reward: str | None  # None: a list within train
    test: str


LAYOUTS = {
    "camvid": Layout(camvid_folder, (360, 480), reward="val", test="test"),
    "cityscapes": Layout(cityscapes_folder, (1024, 2048), reward=None, test="val"),
}
DATASETS = ("synthetic", *LAYOUTS)


def load_splits(
    name: str,
    root: Path | str | None = None,
    *,
    scale: float = 1.0,
    gta5: Path | str | None = None,
    seed: int = 0,
    sizes: SyntheticSizes | None = None,
    split_lists: Path | str | None = None,
    memory_limit: int | None = None,
    device: torch.device | str = "cpu",
) -> Splits:
    """The splits of a data set of `DATASETS`, checked and decoded, with batches on `device`.

    Args:
        root: the data set's folder; none for "synthetic".
        scale: reduces every image to this share of its height and width, in (0, 1].
        gta5: folder of GTA5 to pretrain on; without it, synthetic scenes of the same size.
        seed: of the synthetic scenes, and of a state set that has to be drawn.
        split_lists: JSON file of image names by split (d_t, d_v, perhaps d_s, d_r); None: the authors'.
        memory_limit: bytes that each data set's pixels may take; None: half of what is free.

    Raises:
        DataError: names the first file that is missing or bad, before anything is learned.
        ValueError: for an unknown name or a wrong scale.
    """
    sizes = SyntheticSizes() if sizes is None else sizes
    check_name(name)
    if name == "synthetic":
        splits = _synthetic(scale, seed, sizes, memory_limit)
    else:
        lists = read_split_lists(name, split_lists)
        splits = _on_disk(name, data_folder(name, root), lists, scale, seed, sizes, memory_limit)
    if gta5 is not None:
        splits = splits._replace(pretrain_set=open_gta5(gta5, splits.train_set, memory_limit).check())
    if name != "synthetic":
        for dataset in splits:
            if dataset and dataset is not splits.pretrain_set:
                dataset.load()
    return splits.to(device)


def check_name(name: str) -> None:
    """ValueError unless ralx knows a data set of that name."""
    if name not in DATASETS:
        raise ValueError(f"name: expected {', '.join(DATASETS[:-1])} or {DATASETS[-1]}, got {name!r}")


def data_folder(name: str, root: Path | str | None) -> Path:
    """The folder of a data set on disk, or DataError."""
    if root is None:
        raise DataError(f"{name}: expected the data set's folder, got none")
    if not Path(root).is_dir():
        raise DataError(
            f"{root}: expected the folder of {name}, found {'a file' if Path(root).exists() else 'nothing'}"
        )
    return Path(root)


def read_split_lists(name: str, path: Path | str | None = None) -> SplitLists:
    """Lists of image names by split (d_s, d_t, d_v, d_r), from a JSON file or the authors' for `name`."""
    file = resources.files("ralx.datasets") / f"{name}_splits.json" if path is None else Path(path)
    try:
        lists = json.loads(file.read_bytes())  # of bytes it finds the encoding, whatever the locale
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: expected a JSON file of image names by split: {error}") from error
    if not isinstance(lists, dict) or not all(
        isinstance(names, list) and all(isinstance(each, str) for each in names) for names in lists.values()
    ):
        raise DataError(f"{file}: expected lists of image names by split, found something else")
    needed = ["d_t", "d_v"] + (["d_r"] if LAYOUTS[name].reward is None else [])
    for key in needed:
        if not lists.get(key):
            raise DataError(f"{file}: expected image names in {key}, found none")
    return lists


def overlaps(lists: SplitLists) -> dict[tuple[str, str], list[str]]:
    """Names that two lists share, by the pair of lists."""
    shared = {
        (one, other): sorted(set(lists[one]) & set(lists[other]))
        for one, other in combinations(sorted(lists), 2)
    }
    return {pair: names for pair, names in shared.items() if names}


def overlap_message(pair: tuple[str, str], names: list[str]) -> str:
    return f"{pair[0]} and {pair[1]} share {len(names)} images, {names[0]} for one"


def missing_message(root: Path, key: str, names: list[str]) -> str:
    others = f" ({len(names)} of that list are missing)" if len(names) > 1 else ""
    return f"{root}: expected the training image {names[0]}, listed in {key}, found none{others}"


def size_message(train: SegmentationDataset, other: SegmentationDataset) -> str:
    expected, (height, width) = size_text(train.image_size), other.image_size
    return f"{other.name}: expected images of {expected} as in {train.name}, found {height}x{width}"


def open_gta5(
    root: Path | str, target: SegmentationDataset, memory_limit: int | None = None
) -> SegmentationDataset:
    """GTA5 in the classes and at the size of `target`."""
    folder = data_folder("gta5", root)
    return gta5_folder(folder, target.classes, target.image_size, memory_limit=memory_limit)


def _synthetic(scale: float, seed: int, sizes: SyntheticSizes, memory_limit: int | None) -> Splits:
    size = scaled_size(sizes.image_size, scale)

    def scenes(names: list[str], part: str) -> SegmentationDataset:
        made = synthetic_dataset(names, size, world=sizes.world, seed=seed, memory_limit=memory_limit)
        return made.subset(names, f"synthetic {part}")

    train_names = scene_names("train", sizes.train_set)
    eval_names = scene_names("eval", sizes.eval_set)
    candidates = scenes(scene_names("state", STATE_CANDIDATES * sizes.state_set), "D_S")
    chosen = _drawn(candidates, scenes(train_names, "D_T"), sizes.state_set, seed)
    full = scenes([*chosen, *train_names, *eval_names], "train")
    return Splits(
        state_set=full.subset(chosen, "synthetic D_S"),
        train_set=full.subset(train_names, "synthetic D_T"),
        eval_set=full.subset(eval_names, "synthetic D_V"),
        reward_set=scenes(scene_names("reward", sizes.reward_set), "D_R"),
        test_set=scenes(scene_names("test", sizes.test_set), "test"),
        pretrain_set=_other_world(full, seed, sizes, memory_limit),
        full_set=full,
    )


def _other_world(
    target: SegmentationDataset, seed: int, sizes: SyntheticSizes, memory_limit: int | None
) -> SegmentationDataset | None:
    """Synthetic scenes to pretrain on, if any, in the classes and at the size of `target`."""
    if not sizes.pretrain_set:
        return None
    return synthetic_dataset(
        scene_names("pretrain", sizes.pretrain_set),
        target.image_size,
        world=sizes.pretrain_world,
        seed=seed,
        classes=target.classes,
        memory_limit=memory_limit,
    )


def _on_disk(
    name: str,
    root: Path,
    lists: SplitLists,
    scale: float,
    seed: int,
    sizes: SyntheticSizes,
    memory_limit: int | None,
) -> Splits:
    layout = LAYOUTS[name]
    open_part = partial(layout.open, root, scale=scale, memory_limit=memory_limit)
    train, test = open_part("train"), open_part(layout.test)
    _check_lists(name, root, lists, set(train.names))

    def listed(key: str, names: list[str] | None = None) -> SegmentationDataset:
        title = f"{name} {key[0].upper()}_{key[2:].upper()}"
        return train.subset(lists[key] if names is None else names, title)

    reward = listed("d_r") if layout.reward is None or "d_r" in lists else open_part(layout.reward)
    for other in (test, reward):
        if other.image_size != train.image_size:
            raise DataError(size_message(train, other))
    for dataset in (train, test, reward):
        dataset.check()
    eval_names, state_names = lists["d_v"], lists.get("d_s")
    if not state_names:
        state_names = _drawn_from_train(train.load(), lists, reward, seed)
        eval_names = sorted(set(eval_names) - set(state_names))
    return Splits(
        state_set=listed("d_s", state_names),
        train_set=listed("d_t"),
        eval_set=listed("d_v", eval_names),
        reward_set=reward,
        test_set=test,
        pretrain_set=_other_world(train, seed, sizes, memory_limit),
        full_set=train.subset(sorted(set(train.names) - set(reward.names)), f"{name} train"),
    )


def _check_lists(name: str, root: Path, lists: SplitLists, there: set[str]) -> None:
    for key, names in lists.items():
        if missing := sorted(set(names) - there):
            raise DataError(missing_message(root, key, missing))
    for pair, names in overlaps(lists).items():
        # The agent sees D_S's images, not their labels: inside another split it gives nothing away.
        if "d_s" not in pair:
            raise DataError(f"{name}: expected disjoint splits, found that {overlap_message(pair, names)}")
        warnings.warn(f"{name}: {overlap_message(pair, names)}; going on", stacklevel=4)


def _drawn_from_train(
    train: SegmentationDataset, lists: SplitLists, reward: SegmentationDataset, seed: int
) -> list[str]:
    """A state set for lists without one: from the images outside D_T and D_R, and D_V loses them."""
    taken = set(lists["d_t"]) | set(reward.names)
    candidates = train.subset(sorted(set(train.names) - taken))
    size = min(STATE_SET_IMAGES, (len(candidates) + 1) // 2)  # at least one image must be left for D_V
    return _drawn(candidates, train.subset(lists["d_t"]), size, seed)


def _drawn(
    candidates: SegmentationDataset, train_set: SegmentationDataset, size: int, seed: int
) -> list[str]:
    wanted = train_set.class_counts().sum(0)
    chosen = draw_state_set(candidates.class_counts().numpy(), wanted.numpy(), size, seed)
    return [candidates.names[index] for index in chosen]
