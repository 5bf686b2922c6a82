"""Images of different sizes in one data set: what a segmenter predicts is as in a data set of one size."""

import numpy as np
import pytest
import torch
from torch import nn

from ralx.acquisition.scores import bald, entropy
from ralx.datasets import SegmentationDataset
from ralx.features import Featurizer, gather_regions
from ralx.game.game import Game, GameConfig, RegionConfig
from ralx.game.observer import FeatureConfig, Observer, PolicyInput
from ralx.regions import RegionPool, grid_over, images_alone
from ralx.segmentation import SegmenterTrainer, TrainingConfig, evaluate, train_epoch, train_on_regions
from ralx.segmentation.modes import inputs_for
from ralx.support.randomness import seeded, stream

SIZES = ((16, 24), (24, 16), (16, 24), (20, 28), (24, 16))
REGION = (8, 8)
CLASSES = ("a", "b", "c")


class Canvases:
    """Noise at the top left of canvases, which are of another noise beside it, with labels 255."""

    def __init__(self, numbers, image_size):
        self.names = tuple(f"image {number}" for number in numbers)
        self.numbers, self.image_size = numbers, image_size

    def read(self, index):
        return self.read_image(index), self.read_label(index)

    def read_image(self, index):
        return self._noise(index, 256, (3,), np.random.default_rng().integers(256))

    def read_label(self, index):
        return self._noise(index, len(CLASSES), (), 255)

    def _noise(self, index, end, more, beside):
        number = self.numbers[index]
        height, width = SIZES[number]
        canvas = np.full((*self.image_size, *more), beside, np.uint8)
        canvas[:height, :width] = np.random.default_rng(number).integers(0, end, (height, width, *more))
        return canvas

    def check(self, index): ...

    def fingerprint(self):
        return ""


def data_of(numbers, image_size):
    sizes = torch.tensor([SIZES[number] for number in numbers])
    source = Canvases(numbers, image_size)
    return SegmentationDataset(source, name="noise", classes=CLASSES, ignore_index=255, sizes=sizes)


@pytest.fixture
def mixed():
    return data_of(range(5), (24, 28))


GROUPS = pytest.mark.parametrize("numbers", [(0, 2), (1, 4), (3,)])
EDGES = pytest.mark.parametrize("edge", ["drop", "keep"])


def trainer_of(crop_size=(20, 20)):
    options = TrainingConfig(crop_size=crop_size, batch_size=2)
    with seeded("test"):
        segmenter = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=2, padding=2), nn.Dropout(0.5), nn.Conv2d(8, 3, 1)
        )
        return SegmenterTrainer(segmenter, options, lr=0.1, ignore_index=255)


@pytest.fixture
def trainer():
    return trainer_of()


def pairs(grid, alone, numbers):
    """Every region of the images alone, and the same region among the mixed images."""
    image, row, col = alone.split(alone.existing())
    return alone.existing(), (torch.tensor(numbers)[image] * grid.rows + row) * grid.cols + col


@EDGES
@GROUPS
def test_features_scores_and_passes_are_those_of_images_of_one_size(mixed, trainer, numbers, edge):
    alone, segmenter = data_of(numbers, SIZES[numbers[0]]), trainer.segmenter
    grid, own_grid = grid_over(mixed, REGION, edge), grid_over(alone, REGION, edge)
    own, same = pairs(grid, own_grid, numbers)
    featurizer = Featurizer(segmenter, REGION, cells=(2, 2), edge=edge)
    for compute in (
        featurizer.regions,
        lambda images: entropy(segmenter, images, REGION, edge=edge),
        lambda images: bald(segmenter, images, REGION, edge=edge, num_mc_samples=3, generator=stream("x")),
    ):

        def read(images, compute=compute):
            return compute(inputs_for(segmenter, images))

        of_alone = gather_regions(read, images_alone(alone), own_grid, own[None], 2)
        assert torch.equal(gather_regions(read, images_alone(mixed), grid, same[None], 2), of_alone)


@EDGES
def test_a_region_is_each_tile_that_an_image_alone_has(mixed, edge):
    grid = grid_over(mixed, REGION, edge)
    alone = [grid_over(data_of([number], SIZES[number]), REGION, edge) for number in range(5)]
    assert len(grid.existing()) == sum(each.num_regions for each in alone)
    pixels = [each.num_pixels(each.existing()) for each in alone]
    assert torch.equal(grid.num_pixels(grid.existing()), torch.cat(pixels))


@EDGES
def test_the_state_has_the_regions_of_each_image(mixed, trainer, edge):
    sees = PolicyInput(FeatureConfig(cells=(2, 2), kl_bins=4), RegionConfig(REGION, edge))
    game = game_of(mixed, trainer, edge)
    candidates = game.draw(2, 3, stream("x"))
    state = Observer(sees, game, mixed)(candidates).state
    assert len(state) == sees.sizes(mixed)["num_regions"]
    alone = [data_of([number], SIZES[number]) for number in range(5)]
    states = [Observer(sees, game, each)(candidates).state for each in alone]
    torch.testing.assert_close(state, torch.cat(states))


def game_of(data, trainer, edge):
    grid = RegionConfig(REGION, edge).grid(data)
    return Game(data, trainer, grid, GameConfig(query_size=2), inference_batch_size=2)


@EDGES
@GROUPS
def test_mistaken_pixels_and_counts_are_those_of_images_of_one_size(mixed, trainer, numbers, edge):
    game, alone = game_of(mixed, trainer, edge), data_of(numbers, SIZES[numbers[0]])
    own_game = game_of(alone, trainer, edge)
    own, same = pairs(game.grid, own_game.grid, numbers)
    assert torch.equal(game.mistaken_pixels(same), own_game.mistaken_pixels(own))
    weights = torch.ones(3, dtype=torch.float64)
    assert torch.equal(game.mistakes(same, weights), own_game.mistakes(own, weights))
    assert torch.equal(game.class_pixels(same), own_game.class_pixels(own))


def test_evaluation_counts_each_image_at_its_own_size(mixed, trainer):
    alone = [evaluate(trainer.segmenter, data_of([n], SIZES[n]), batch_size=2) for n in range(5)]
    found = evaluate(trainer.segmenter, mixed, batch_size=2)
    assert torch.equal(found, sum(alone))
    assert found.sum() == sum(height * width for height, width in SIZES)


@pytest.mark.parametrize("crop_size", [(8, 8), (20, 20), (24, 28)])
def test_what_is_beside_an_image_is_not_trained_on(mixed, monkeypatch, crop_size):
    seen, trainer = [], trainer_of(crop_size)
    monkeypatch.setattr(trainer, "step", lambda images, labels: seen.extend(labels) or torch.zeros(()))
    for turn in range(20):
        train_epoch(trainer, mixed, generator=stream("x", turn))
    least = min(min(crop_size[0], height) * min(crop_size[1], width) for height, width in SIZES)
    assert min((label != 255).sum() for label in seen) == least  # a crop lies in its image
    pool = RegionPool(grid_over(mixed, REGION, "keep"))
    pool.label(pool.grid.existing())
    seen.clear()
    train_on_regions(trainer, mixed, pool.order, pool, generator=stream("x"))
    assert len(seen) == len(pool.order) and min((label != 255).sum() for label in seen) == least


def test_an_image_smaller_than_a_region_is_named(mixed):
    expected = r"region_size must be at most .* every image, got \(20, 16\) for image 0 of 16x24 pixels"
    with pytest.raises(ValueError, match=expected):
        grid_over(mixed, (20, 16))
