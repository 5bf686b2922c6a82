"""A state set that is drawn has the class distribution of D_T; splits that are made are disjoint."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from dataset_trees import change_lists

from ralx.datasets import SyntheticSizes, load_splits
from ralx.datasets.state_set import draw_state_set


def shares(counts: np.ndarray) -> np.ndarray:
    return counts.sum(0) / counts.sum()


@pytest.fixture(scope="module")
def splits():
    return load_splits("synthetic")


def test_the_state_set_has_the_class_distribution_of_d_t_and_every_class(splits):
    wanted, found = (shares(data.class_counts().numpy()) for data in (splits.train_set, splits.state_set))
    assert (found > 0).all()
    assert np.abs(found - wanted).sum() < 0.1
    assert (np.abs(found / wanted - 1) < 0.5).all()


def test_it_is_closer_than_a_random_draw(splits):
    counts = splits.eval_set.class_counts().numpy()
    wanted = splits.train_set.class_counts().sum(0).numpy()
    target = wanted / wanted.sum()

    def distance(chosen) -> float:
        mean = (counts[chosen] / counts[chosen].sum(1, keepdims=True)).mean(0)
        return float(((mean - target) ** 2 / target).sum())

    drawn = distance(draw_state_set(counts, wanted, 8, seed=0))
    generator = np.random.default_rng(0)
    random = [distance(generator.choice(len(counts), 8, replace=False)) for _ in range(100)]
    assert drawn < 0.5 * min(random)


def test_every_class_is_there_even_where_one_image_alone_has_it():
    counts = np.full((40, 3), 100)
    counts[:, 2] = 0
    counts[17] = (1, 1, 500)
    assert 17 in draw_state_set(counts, np.array([1000, 1000, 1]), 2, seed=5)


def test_a_class_that_d_t_lacks_is_not_asked_for():
    counts = np.full((10, 3), 100)
    counts[:, 2] = 0
    chosen = draw_state_set(counts, np.array([10, 10, 0]), 3, seed=0)
    assert len(chosen) == len(set(chosen.tolist())) == 3


def test_the_same_seed_draws_the_same_images():
    counts = np.random.default_rng(1).integers(0, 100, (50, 4))
    wanted = np.array([40, 30, 20, 10])
    assert draw_state_set(counts, wanted, 5, 3).tolist() == draw_state_set(counts, wanted, 5, 3).tolist()
    # Equal images leave only the seed to decide.
    alike = np.ones((50, 4), np.int64)
    draws = {tuple(draw_state_set(alike, wanted, 5, seed).tolist()) for seed in range(4)}
    assert len(draws) == 4


@pytest.mark.parametrize("size", [0, 11])
def test_a_size_beyond_the_images_is_refused(size):
    with pytest.raises(ValueError, match=rf"size: expected 1\.\.10 .*, got {size}"):
        draw_state_set(np.ones((10, 2)), np.ones(2), size, 0)


def test_all_images_may_be_drawn():
    assert draw_state_set(np.ones((3, 2)), np.ones(2), 3, 0).tolist() == [0, 1, 2]


def test_void_is_not_counted(splits):
    labels = splits.train_set.labels(torch.tensor([0]))
    assert splits.train_set.class_counts()[0].sum() == (labels != 11).sum()


def test_lists_without_d_s_get_a_state_set(camvid_tree):
    root, path = camvid_tree
    change_lists(path, d_s=None)
    splits = load_splits("camvid", root, split_lists=path, seed=1)
    state, train, evaluation = (set(split.names) for split in splits[:3])
    assert state and not state & (train | evaluation)
    assert evaluation and evaluation | state == {"train_0", "train_1", "train_5", "train_6", "train_7"} - (
        {"train_0", "train_1"} - state
    )
    again = load_splits("camvid", root, split_lists=path, seed=1)
    assert again.state_set.names == splits.state_set.names


def test_synthetic_splits_are_disjoint_and_of_the_sizes_asked_for():
    sizes = SyntheticSizes(
        image_size=(32, 40), state_set=2, train_set=3, eval_set=4, reward_set=5, test_set=6, pretrain_set=7
    )
    splits = load_splits("synthetic", sizes=sizes, scale=0.5)
    assert [len(split) for split in splits] == [2, 3, 4, 5, 6, 7, 9]
    assert all(split.image_size == (16, 20) for split in splits)
    names = [name for split in splits[:6] for name in split.names]
    assert len(names) == len(set(names))
    assert set(splits.full_set.names) == {name for split in splits[:3] for name in split.names}
    assert splits.pretrain_set.source.world != splits.train_set.source.world
    assert not splits.pretrain_set.resident  # made when first used
    assert load_splits("synthetic", sizes=replace(sizes, pretrain_set=0)).pretrain_set is None
