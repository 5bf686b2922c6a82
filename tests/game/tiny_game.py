"""A game on four noise images in memory."""

import torch
from torch import nn

from ralx.game.game import Game, GameConfig
from ralx.regions import RegionGrid
from ralx.segmentation import SegmenterTrainer, TrainingConfig
from ralx.support.randomness import seeded


class Scenes:
    """Images of 8×12 with labels by column: what `SegmentationDataset` promises, in memory."""

    names = ("a", "b", "c", "d")
    classes = ("left", "right")
    ignore_index = 255
    image_size = (8, 12)
    device = torch.device("cpu")

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.pixels = torch.randint(256, (4, 3, 8, 12), dtype=torch.uint8, generator=generator)
        self.truth = (torch.arange(12) >= 6).to(torch.uint8).expand(4, 8, 12).clone()

    def __len__(self):
        return 4

    def batch(self, index):
        return self.images(index), self.labels(index)

    def images(self, index):
        return self.pixels[index]

    def labels(self, index):
        return self.truth[index]


def make_game(new_segmenter=lambda: nn.Conv2d(3, 2, 4, stride=4), query_size=2):
    """24 regions of 4×4 pixels, three by two an image."""
    options = TrainingConfig(crop_size=(8, 8), batch_size=2)
    with seeded("test"):
        trainer = SegmenterTrainer(new_segmenter(), options, lr=0.1, ignore_index=255)
    grid = RegionGrid(4, (8, 12), (4, 4))
    return Game(Scenes(), trainer, grid, GameConfig(query_size=query_size), inference_batch_size=3)
