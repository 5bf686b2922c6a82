"""Segmenters as a run makes, trains and measures them."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ralx.datasets import DataError, SegmentationDataset
from ralx.metrics import iou, mean_iou, rarity
from ralx.runs.config import SegmenterConfig
from ralx.segmentation import SegmenterTrainer, TrainingConfig, build_segmenter, evaluate
from ralx.support.randomness import seeded


@dataclass(frozen=True)
class SegmenterRecipe:
    """How a segmenter is made and trained."""

    network: SegmenterConfig
    training: TrainingConfig
    seed: int  # of the initial weights
    files: tuple[Path, ...]  # that the network's name stands for, so that their content counts

    def segmenter(self, num_classes: int, device: torch.device) -> nn.Module:
        """A segmenter with its initial weights, the same at every call."""
        network = self.network
        with seeded("segmenter", self.seed):
            segmenter = build_segmenter(
                network.segmenter, num_classes, dropout=network.dropout, weights=network.weights
            )
        if network.compile:
            segmenter.compile()
        return segmenter.to(device)

    def trainer(self, lr: float, known: SegmentationDataset, device: torch.device) -> SegmenterTrainer:
        """A trainer of a new segmenter. Its loss weighs the classes, where that is asked for, by how rare
        they are in `known`."""
        weighs = self.training.loss_weights == "rarity"
        return SegmenterTrainer(
            self.segmenter(len(known.classes), device),
            self.training,
            lr=lr,
            precision=self.network.precision,
            ignore_index=known.ignore_index,
            class_weights=rarity(known_pixels(known)) if weighs else None,
        )

    def mistake_weights(self, known: SegmentationDataset) -> Tensor:
        """float64 [C]: what a mistaken pixel counts, by its class: more where it is rare in `known`, all the
        same where the loss weighs the classes already."""
        if self.training.loss_weights == "rarity":
            return torch.ones(len(known.classes), dtype=torch.float64, device="cpu")
        return rarity(known_pixels(known))

    def miou(self, trainer: SegmenterTrainer, data: SegmentationDataset) -> float:
        """mIoU on `data`, a fraction."""
        return mean_iou(self._confusion(trainer, data))

    def record(self, trainer: SegmenterTrainer, data: SegmentationDataset) -> dict[str, Any]:
        """mIoU and IoU per class on `data`, as results.json has them."""
        confusion = self._confusion(trainer, data)
        values = [None if value != value else value for value in iou(confusion).tolist()]
        return {"miou": mean_iou(confusion), "iou": dict(zip(data.classes, values, strict=True))}

    def _confusion(self, trainer: SegmenterTrainer, data: SegmentationDataset) -> Tensor:
        network = self.network
        confusion = evaluate(
            trainer.segmenter, data, batch_size=network.inference_batch_size, precision=network.precision
        )
        if not confusion.any():  # a NaN would never be the best
            raise DataError(f"{data.name}: no pixel of it has a class, so that it has no mIoU")
        return confusion


@functools.lru_cache(maxsize=8)  # a process has few data sets, and counts their pixels for every stage
def known_pixels(data: SegmentationDataset) -> Tensor:
    """int64 [C]: pixels per class in all labels of `data`."""
    return data.class_counts().sum(0)
