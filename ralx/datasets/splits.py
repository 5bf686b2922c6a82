"""The splits that one experiment uses, of the data sets that ralx knows by name."""

import json
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from importlib import resources
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import torch

from ralx.datasets.camvid import camvid_folder
from ralx.datasets.cityscapes import cityscapes_folder
from ralx.datasets.class_file import read_classes
from ralx.datasets.dataset import SegmentationDataset
from ralx.datasets.errors import DataError
from ralx.datasets.files import existing_folder
from ralx.datasets.folder import drawn_lists, folder_part, image_names, refuse_one_class
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
    image_size: Size | None  # at scale 1, as published; None: its images may differ
    reward: str | None  # None: a list within train
    test: str


LAYOUTS = {
    "camvid": Layout(camvid_folder, (360, 480), reward="val", test="test"),
    "cityscapes": Layout(cityscapes_folder, (1024, 2048), reward=None, test="val"),
}
OWN = "folder"  # somebody's own images
DATASETS = ("synthetic", *LAYOUTS, OWN)


def load_splits(
    name: str,
    root: Path | str | None = None,
    *,
    scale: float = 1.0,
    gta5: Path | str | None = None,
    seed: int = 0,
    sizes: SyntheticSizes | None = None,
    split_lists: Path | str | None = None,
    classes: Path | str | None = None,
    memory_limit: int | None = None,
    device: torch.device | str = "cpu",
) -> Splits:
    """The splits of a data set of `DATASETS`, checked and decoded, with batches on `device`.

    Args:
        root: the data set's folder; none for "synthetic".
        scale: reduces every image to this share of its height and width, in (0, 1].
        gta5: folder of GTA5 to pretrain on; without it, synthetic scenes of the same size.
        seed: of the synthetic scenes, and of splits or a state set that have to be drawn.
        split_lists: JSON file of image names by split (d_t, d_v, perhaps d_s, d_r; test of "folder"); None:
            the authors', or drawn ones of "folder".
        classes: the class file of "folder".
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
        folder = data_folder(name, root)
        layout, lists = layout_of(name, folder, split_lists, classes, seed)
        splits = _on_disk(name, folder, layout, lists, scale, seed, memory_limit)
    target = splits.train_set
    if gta5 is not None:
        pretrain = gta5_folder(Path(gta5), target.classes, target.image_size, memory_limit=memory_limit)
        splits = splits._replace(pretrain_set=pretrain.check())
    elif sizes.pretrain_set and name != OWN:
        pretrain = synthetic_dataset(
            scene_names("pretrain", sizes.pretrain_set),
            target.image_size,
            world=sizes.pretrain_world,
            seed=seed,
            classes=target.classes,
            memory_limit=memory_limit,
        )
        splits = splits._replace(pretrain_set=pretrain)
    if name != "synthetic":
        for dataset in (splits.full_set, splits.reward_set, splits.test_set):
            dataset.load()
    if name == OWN:
        refuse_one_class(splits.full_set, splits.full_set.class_counts().sum(0).numpy())
    return splits.to(device)


def check_name(name: str) -> None:
    """ValueError unless ralx knows a data set of that name."""
    if name not in DATASETS:
        raise ValueError(f"name: expected {', '.join(DATASETS[:-1])} or {DATASETS[-1]}, got {name!r}")


def data_folder(name: str, root: Path | str | None) -> Path:
    """The folder of a data set on disk, or DataError."""
    if root is None:
        raise DataError(f"{name}: expected the data set's folder, got none")
    return existing_folder(Path(root), f"the folder of {name}")


def layout_of(
    name: str, folder: Path, split_lists: Path | str | None, classes: Path | str | None, seed: int
) -> tuple[Layout, SplitLists]:
    """How a data set on disk is opened, and its split lists."""
    if name != OWN:
        return LAYOUTS[name], read_split_lists(name, split_lists)
    if classes is None:
        raise DataError(f"{name}: expected the file of its classes, got none")
    if split_lists is None:
        lists = drawn_lists(image_names(folder), seed)
    else:
        lists = read_split_lists(name, split_lists)
    open_part = partial(folder_part, classes=read_classes(Path(classes)), test=lists["test"])
    return Layout(open_part, None, reward=None, test="test"), lists


def listable(name: str, folder: Path, train: SegmentationDataset) -> Collection[str]:
    """The images that split lists may name: those to train on, and of "folder" the test set's as well."""
    return image_names(folder) if name == OWN else train.names


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
    needed = ["d_t", "d_v"]
    if name == OWN:
        needed += ["d_r", "test"]
    elif LAYOUTS[name].reward is None:
        needed += ["d_r"]
    for key in needed:
        if not lists.get(key):
            raise DataError(f"{file}: expected image names in {key}, found none")
    return lists


def list_problems(
    name: str, root: Path, lists: SplitLists, there: Collection[str]
) -> tuple[list[str], list[str]]:
    """What is wrong with split lists where the images `there` exist, and what is only worth a note."""
    problems, notes = [], []
    for key, names in lists.items():
        if missing := sorted(set(names) - set(there)):
            others = f" ({len(missing)} of that list are missing)" if len(missing) > 1 else ""
            image = f"the {'' if key == 'test' else 'training '}image {missing[0]}, listed in {key}"
            problems.append(f"{root}: expected {image}, found none{others}")
    for one, other in combinations(sorted(lists), 2):
        if shared := sorted(set(lists[one]) & set(lists[other])):
            overlap = f"{one} and {other} share {len(shared)} images, {shared[0]} for one"
            # The agent sees D_S's images, not their labels: inside another split it gives nothing away.
            if "d_s" in (one, other):
                notes.append(overlap)
            else:
                problems.append(f"{name}: expected disjoint splits, found that {overlap}")
    return problems, notes


def size_message(train: SegmentationDataset, other: SegmentationDataset) -> str:
    expected, (height, width) = size_text(train.image_size), other.image_size
    return f"{other.name}: expected images of {expected} as in {train.name}, found {height}x{width}"


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
        pretrain_set=None,
        full_set=full,
    )


def _on_disk(
    name: str,
    root: Path,
    layout: Layout,
    lists: SplitLists,
    scale: float,
    seed: int,
    memory_limit: int | None,
) -> Splits:
    open_part = partial(layout.open, root, scale=scale, memory_limit=memory_limit)
    train = open_part("train")
    problems, notes = list_problems(name, root, lists, listable(name, root, train))
    if problems:
        raise DataError(problems[0])
    test = open_part(layout.test)
    for note in notes:
        warnings.warn(f"{name}: {note}; going on", stacklevel=3)

    def listed(key: str, names: list[str] | None = None) -> SegmentationDataset:
        title = f"{name} {key[0].upper()}_{key[2:].upper()}"
        return train.subset(lists[key] if names is None else names, title)

    reward = listed("d_r") if layout.reward is None or "d_r" in lists else open_part(layout.reward)
    for other in (test, reward):
        if layout.image_size and other.image_size != train.image_size:
            raise DataError(size_message(train, other))
    for dataset in (train, test, reward):
        dataset.check()
    eval_names, state_names = lists["d_v"], lists.get("d_s")
    if not state_names:
        candidates = train.load().subset(set(train.names) - {*lists["d_t"], *reward.names})
        size = min(STATE_SET_IMAGES, (len(candidates) + 1) // 2)  # at least one image must be left for D_V
        state_names = _drawn(candidates, listed("d_t"), size, seed)
        eval_names = list(set(eval_names) - set(state_names))
    return Splits(
        state_set=listed("d_s", state_names),
        train_set=listed("d_t"),
        eval_set=listed("d_v", eval_names),
        reward_set=reward,
        test_set=test,
        pretrain_set=None,
        full_set=train.subset(set(train.names) - set(reward.names), f"{name} train"),
    )


def _drawn(
    candidates: SegmentationDataset, train_set: SegmentationDataset, size: int, seed: int
) -> list[str]:
    """Names of candidates for a state set with the class distribution of `train_set`."""
    wanted = train_set.class_counts().sum(0)
    chosen = draw_state_set(candidates.class_counts().numpy(), wanted.numpy(), size, seed)
    return [candidates.names[index] for index in chosen]
