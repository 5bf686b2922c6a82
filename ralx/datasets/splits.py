"""The splits that one experiment uses, of the data sets that ralx knows by name."""

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import torch

from ralx.datasets.camvid import camvid_folder
from ralx.datasets.dataset import SegmentationDataset
from ralx.datasets.errors import DataError
from ralx.datasets.geometry import Size, scaled_size
from ralx.datasets.state_set import count_classes, draw_state_set
from ralx.datasets.synthetic import scene_names, synthetic_dataset

STATE_CANDIDATES = 6  # images made for each image of a synthetic state set


class Splits(NamedTuple):
    """The paper's splits; all in the target's class list. Only `full_set` overlaps with others."""

    state_set: SegmentationDataset  # D_S
    train_set: SegmentationDataset  # D_T: the query network learns here
    eval_set: SegmentationDataset  # D_V: the methods are compared here
    reward_set: SegmentationDataset  # D_R: rewards, early stopping
    test_set: SegmentationDataset
    pretrain_set: SegmentationDataset  # GTA5 or synthetic scenes; decoded or made when first used
    full_set: SegmentationDataset  # all of train, for full supervision


@dataclass(frozen=True)
class SyntheticSizes:
    """How many scenes of which size the `synthetic` data set has, and those made where GTA5 is not given."""

    image_size: Size = (96, 128)  # height, width, before `scale`
    state_set: int = 8
    train_set: int = 40
    eval_set: int = 96
    reward_set: int = 24
    test_set: int = 48
    pretrain_set: int = 96
    world: str = "town"
    pretrain_world: str = "game"


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
    """The splits of "synthetic", "camvid" or "cityscapes", checked, with batches on `device`.

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
    if name == "synthetic":
        splits = _synthetic(scale, seed, sizes, memory_limit)
    elif name == "camvid":
        splits = _camvid(_folder(name, root), scale, seed, sizes, split_lists, memory_limit)
    else:
        raise ValueError(f"name: expected synthetic, camvid or cityscapes, got {name!r}")
    return Splits(*(dataset.to(device) for dataset in splits))


def _folder(name: str, root: Path | str | None) -> Path:
    if root is None:
        raise DataError(f"{name}: expected the data set's folder, got none")
    if not Path(root).is_dir():
        raise DataError(f"{root}: expected the folder of {name}, found nothing there")
    return Path(root)


def _synthetic(scale: float, seed: int, sizes: SyntheticSizes, memory_limit: int | None) -> Splits:
    size = scaled_size(sizes.image_size, scale)

    def scenes(names: list[str], part: str, world: str = sizes.world) -> SegmentationDataset:
        made = synthetic_dataset(names, size, world=world, seed=seed, memory_limit=memory_limit)
        return made.subset(names, f"synthetic {part}")

    train_names = scene_names("train", sizes.train_set)
    eval_names = scene_names("eval", sizes.eval_set)
    candidates = scenes(scene_names("state", STATE_CANDIDATES * sizes.state_set), "D_S")
    chosen = _drawn_state_set(candidates, scenes(train_names, "D_T"), sizes.state_set, seed)
    full = scenes([*chosen.names, *train_names, *eval_names], "train")
    return Splits(
        state_set=full.subset(chosen.names, "synthetic D_S"),
        train_set=full.subset(train_names, "synthetic D_T"),
        eval_set=full.subset(eval_names, "synthetic D_V"),
        reward_set=scenes(scene_names("reward", sizes.reward_set), "D_R"),
        test_set=scenes(scene_names("test", sizes.test_set), "test"),
        pretrain_set=_synthetic_pretrain_set(size, seed, sizes, memory_limit),
        full_set=full,
    )


def _synthetic_pretrain_set(
    image_size: Size, seed: int, sizes: SyntheticSizes, memory_limit: int | None
) -> SegmentationDataset:
    names = scene_names("pretrain", sizes.pretrain_set)
    world = sizes.pretrain_world
    return synthetic_dataset(names, image_size, world=world, seed=seed, memory_limit=memory_limit)


def _camvid(
    root: Path,
    scale: float,
    seed: int,
    sizes: SyntheticSizes,
    split_lists: Path | str | None,
    memory_limit: int | None,
) -> Splits:
    lists = read_split_lists("camvid", split_lists)
    train, val, test = (
        camvid_folder(root, part, scale=scale, memory_limit=memory_limit).load()
        for part in ("train", "val", "test")
    )
    return Splits(
        state_set=train.subset(lists["d_s"], "camvid D_S"),
        train_set=train.subset(lists["d_t"], "camvid D_T"),
        eval_set=train.subset(lists["d_v"], "camvid D_V"),
        reward_set=val,
        test_set=test,
        pretrain_set=_synthetic_pretrain_set(train.image_size, seed, sizes, memory_limit),
        full_set=train,
    )


def _drawn_state_set(
    candidates: SegmentationDataset, train_set: SegmentationDataset, size: int, seed: int
) -> SegmentationDataset:
    wanted = count_classes(train_set).sum(0)
    return candidates.subset(torch.from_numpy(draw_state_set(count_classes(candidates), wanted, size, seed)))


def read_split_lists(name: str, path: Path | str | None = None) -> dict[str, list[str]]:
    """Lists of image names by split (d_s, d_t, d_v, d_r), from a JSON file or the authors' for `name`."""
    file = resources.files("ralx.datasets") / f"{name}_splits.json" if path is None else Path(path)
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: expected a JSON file of image names by split: {error}") from error
