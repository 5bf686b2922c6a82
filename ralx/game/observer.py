"""What the query network sees of a game: the features of the state and of a step's candidates (section
3.1)."""

from typing import NamedTuple

import torch
from torch import Tensor

from ralx.agent.ablation import Ablation
from ralx.datasets import SegmentationDataset
from ralx.features import Featurizer, gather_regions
from ralx.game.game import Game
from ralx.segmentation import CudaGraph, Precision, autocast
from ralx.segmentation.modes import inputs_for
from ralx.support.divergence import refuse_not_finite
from ralx.support.stopwatch import Stopwatch


class Observation(NamedTuple):
    candidates: Tensor  # [K, M] int64 regions
    state: Tensor  # [R, Ds]
    actions: Tensor  # [K, M, Da]


class Observer:
    """Computes the features of the state and of a step's candidates (section 3.1)."""

    def __init__(
        self,
        featurizer: Featurizer,
        state_set: SegmentationDataset,
        *,
        batch_size: int,
        precision: Precision,
        cuda_graph: bool = False,
        ablation: Ablation | None = None,
        stopwatch: Stopwatch,
    ):
        self.featurizer = featurizer
        self.ablation = ablation
        self.regions = CudaGraph(self._regions) if cuda_graph else self._regions
        self.state_set = state_set
        self.batch_size = batch_size
        self.precision = precision
        self.stopwatch = stopwatch

    def __call__(self, game: Game, candidates: Tensor) -> Observation:
        """What the query network sees of `candidates` [K, M]."""
        cast = autocast(game.dataset.device, self.precision)
        with self.stopwatch.phase("state"), cast:
            state = self._state()
        with self.stopwatch.phase("candidates"), cast:
            regions = gather_regions(
                self.regions,
                game.dataset.images,
                game.grid,
                candidates,
                self.batch_size,
            )
            actions = self.featurizer.action(regions, game.labelled_distributions)
        if self.ablation:
            actions = self.ablation.actions(actions, game.labelled_distributions)
            state = self.ablation.state(state)
        refuse_not_finite(state, actions)
        return Observation(candidates, state, actions)

    def _state(self) -> Tensor:
        batches = torch.arange(len(self.state_set), device="cpu").split(self.batch_size)
        return torch.cat([self.regions(self.state_set.images(i)) for i in batches]).flatten(0, 1)

    def _regions(self, images: Tensor) -> Tensor:
        """uint8 [n, 3, H, W] → [n, R, Ds]"""
        return self.featurizer.regions(inputs_for(self.featurizer.segmenter, images))
