"""The game of the paper's section 3: label regions, train the segmenter on them, see what is still wrong."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ralx.datasets import SegmentationDataset
from ralx.metrics import class_counts, distribution_of
from ralx.ops.arguments import Edge
from ralx.regions import Oracle, RegionGrid, RegionPool, grid_over, image_sizes, trimmed
from ralx.segmentation import SegmenterTrainer, predict, train_on_regions
from ralx.support.files import State
from ralx.support.options import Concern

_REGIONS_AT_ONCE = 4096  # whose pixels are counted


@dataclass(frozen=True)
class RegionConfig(Concern):
    """What is labelled."""

    region_size: tuple[int, int] = (90, 80)
    """Height and width of a region in pixels, at scale 1."""
    edge: Edge = "drop"
    """Pixels that whole regions leave over at the right and bottom: drop them, or keep them as ragged
    regions, smaller ones."""

    def grid(self, data: SegmentationDataset) -> RegionGrid:
        return grid_over(data, self.region_size, self.edge)


@dataclass(frozen=True)
class GameConfig(Concern):
    """The game, while the policy is learned and where the methods are compared."""

    query_size: int = 24
    """K: regions labelled per step."""
    candidate_sampling: Literal["regions", "images"] = "regions"
    """Candidates uniform over regions (the paper), or from few uniformly drawn images (published)."""
    segmenter_lr: float = 1e-3
    """Learning rate of the segmenter on labelled regions."""


@dataclass
class Game:
    """One segmenter that learns from the regions of one data set as they are labelled."""

    dataset: SegmentationDataset
    trainer: SegmenterTrainer
    grid: RegionGrid
    options: GameConfig
    inference_batch_size: int

    def __post_init__(self) -> None:
        self.oracle = Oracle(self.dataset.labels, self.grid, self.dataset.ignore_index)
        self.start()

    def start(self, trainer_state: State | None = None) -> None:
        """L = ∅, and the segmenter as `trainer_state` has it."""
        if trainer_state is not None:
            self.trainer.load_state_dict(trainer_state)
        self.pool = RegionPool(self.grid)
        self.labelled_distributions = torch.zeros(0, len(self.dataset.classes), device=self.dataset.device)
        self.labelled_pixels = torch.zeros_like(self.labelled_distributions, dtype=torch.int64).sum(0)

    def draw(self, query_size: int, pool_size: int, generator: torch.Generator) -> Tensor:
        """Candidates [K, M], see `RegionPool.draw_candidates`."""
        few_images = self.options.candidate_sampling == "images"
        return self.pool.draw_candidates(query_size, pool_size, generator, few_images=few_images)

    def label(self, regions: Tensor, generator: torch.Generator) -> None:
        """Label `regions` [K] and train the segmenter one pass on them."""
        counts = self._count(self.oracle, regions)
        self.pool.label(regions)
        self.labelled_pixels += counts.sum(0).to(self.labelled_pixels.device)
        distribution = distribution_of(counts)
        self.labelled_distributions = torch.cat(
            [self.labelled_distributions, distribution.to(self.labelled_distributions.device)]
        )
        train_on_regions(self.trainer, self.dataset, regions, self.pool, generator=generator)

    def mistaken_pixels(self, regions: Tensor) -> Tensor:
        """int64 [K, C]: pixels of each class in `regions` [K] that the segmenter gets wrong."""
        ignore_index, sizes = self.dataset.ignore_index, image_sizes(self.dataset)

        def wrong(index: Tensor) -> Tensor:
            """The label maps [n, H, W] of images of one size, without what the segmenter gets right."""
            images, canvases = self.dataset.batch(index)
            images, labels = (trimmed(part, sizes[index]) for part in (images, canvases))
            logits = predict(self.trainer.segmenter, images, precision=self.trainer.precision).float()
            logits = nn.functional.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=True)
            found = torch.full_like(canvases, ignore_index)
            trimmed(found, sizes[index])[:] = labels.masked_fill(logits.argmax(1) == labels, ignore_index)
            return found

        def wrong_in_batches(index: Tensor) -> Tensor:
            return torch.cat([wrong(part) for part in index.split(self.inference_batch_size)])

        return self._count(Oracle(wrong_in_batches, self.grid, ignore_index), regions).cpu()

    def class_pixels(self, regions: Tensor) -> Tensor:
        """int64 [C]: pixels of each class in the ground truth of `regions` [K]."""
        return self._count(self.oracle, regions).sum(0)

    def _count(self, oracle: Oracle, regions: Tensor) -> Tensor:
        """int64 [K, C]: pixels of each class in what the oracle says of `regions` [K]."""
        num_classes, ignore_index = len(self.dataset.classes), self.dataset.ignore_index
        parts = [oracle.label(part) for part in regions.split(_REGIONS_AT_ONCE)]
        return torch.cat([class_counts(part, num_classes, ignore_index) for part in parts])

    def mistakes(self, regions: Tensor, mistake_weights: Tensor) -> Tensor:
        """float64 [K]: the share of each region's pixels that the segmenter gets wrong, each counted with the
        weight of its class, float64 [C]."""
        return self.mistaken_pixels(regions).double() @ mistake_weights / self.grid.num_pixels(regions)

    def state_dict(self) -> dict[str, Any]:
        return {
            "trainer": self.trainer.state_dict(),
            "pool": self.pool.state_dict(),
            "labelled_distributions": self.labelled_distributions,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.start(state["trainer"])
        self.pool.load_state_dict(state["pool"])
        self.labelled_distributions = state["labelled_distributions"].to(self.labelled_distributions.device)
        self.labelled_pixels += self.class_pixels(self.pool.order).to(self.labelled_pixels.device)
