"""What the query network sees of a game: the features of the state and of a step's candidates (section
3.1)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ralx.agent.ablation import FEATURES, Ablation, Feature, KLSummary
from ralx.agent.policy_file import load_policy
from ralx.agent.query_network import QueryNetwork
from ralx.datasets import SegmentationDataset, choose_cells
from ralx.features import KL_RANGE, Featurizer, gather_regions
from ralx.game.game import Game, RegionConfig
from ralx.regions import RegionGrid, images_alone
from ralx.segmentation import CudaGraph, autocast
from ralx.segmentation.modes import inputs_for
from ralx.support.divergence import refuse_not_finite
from ralx.support.options import Concern
from ralx.support.stopwatch import Stopwatch


@dataclass(frozen=True)
class FeatureConfig(Concern):
    """What the query network sees."""

    cells: tuple[int, int] = (8, 8)
    """Cells that a region's entropies are pooled in; fewer where these leave out over 15 % of the region."""
    kl_bins: int = 32
    """Bins of each of the two KL histograms."""
    kl_range: Literal["fixed", "minmax"] = "fixed"
    """Bins of the KL histograms: from 0 to `kl_max`, or each candidate's own min..max (published)."""
    kl_max: float = KL_RANGE[1]
    """Upper end of the fixed KL range, in nats."""
    class_features: Literal["fraction", "count"] = "fraction"
    """Class histogram as a fraction of the region, or raw counts with 1e-7 for absent classes (published)."""
    hidden_features: tuple[Feature, ...] = ()
    """Features that the query network sees as zeros, to learn what they are worth (the paper's appendix E.1):
    state-entropy, state-classes, action-entropy, action-classes, kl-labelled, kl-unlabelled."""
    kl_summary: KLSummary = "histogram"
    """The divergences from the labelled and from the unlabelled regions as two histograms, or each as its
    largest or summed divergence in the place of the first bin (the paper's alternatives)."""
    cuda_graph: bool = False
    """Launch the segmenter and the features of its regions as one CUDA graph."""

    def check(self) -> None:
        known = set(self.hidden_features) <= set(FEATURES)
        self.require(known, "hidden_features", f"must be among {', '.join(FEATURES)}")


@dataclass(frozen=True)
class PolicyInput:
    """What a policy sees. A policy that was learned with other features means nothing here."""

    features: FeatureConfig
    regions: RegionConfig

    @property
    def cells(self) -> tuple[int, int]:
        return choose_cells(self.regions.region_size, self.features.cells)

    def featurizer(self, segmenter: nn.Module) -> Featurizer:
        features = self.features
        return Featurizer(
            segmenter,
            self.regions.region_size,
            cells=self.cells,
            kl_bins=features.kl_bins,
            kl_range=(0.0, features.kl_max) if features.kl_range == "fixed" else None,
            counts=features.class_features == "count",
            edge=self.regions.edge,
        )

    def sizes(self, state_set: SegmentationDataset) -> dict[str, Any]:
        """The sizes of the query network."""
        featurizer, num_classes = self.featurizer(nn.Identity()), len(state_set.classes)
        return {
            "num_regions": len(self.regions.grid(state_set).existing()),
            "state_dim": featurizer.state_dim(num_classes),
            "action_dim": featurizer.action_dim(num_classes),
            "kl_dim": 2 * featurizer.kl_bins,
        }

    def meaning(self, state_set: SegmentationDataset) -> dict[str, Any]:
        """What a policy must have been learned with, beside the network's sizes."""
        features = self.features
        return {
            "num_classes": len(state_set.classes),
            "cells": list(self.cells),
            "edge": self.regions.edge,
            "class_features": features.class_features,
            "kl_range": features.kl_range,
            "kl_max": features.kl_max,
            # Policies that see everything don't mention it: their files are older than these options.
            "hidden_features": sorted(features.hidden_features) or None,
            "kl_summary": features.kl_summary if features.kl_summary != "histogram" else None,
        }

    def metadata(self, state_set: SegmentationDataset) -> dict[str, Any]:
        """Of a policy's file."""
        return {name: value for name, value in self.meaning(state_set).items() if value is not None}

    def load(self, path: Path, state_set: SegmentationDataset, device: torch.device) -> QueryNetwork:
        """The policy of a file. ValueError where it is for other classes, features or another number of
        regions."""
        needed = self.sizes(state_set) | self.meaning(state_set)
        return load_policy(path, device=device, **needed)


class Observation(NamedTuple):
    candidates: Tensor  # [K, M] int64 regions
    state: Tensor  # [R, Ds]
    actions: Tensor  # [K, M, Da]


class Observer:
    """Computes the features of the state and of a step's candidates (section 3.1)."""

    def __init__(self, sees: PolicyInput, game: Game, state_set: SegmentationDataset):
        features = sees.features
        self.game = game
        self.state_set = state_set
        self.state_grid = sees.regions.grid(state_set)
        self.featurizer = sees.featurizer(game.trainer.segmenter)
        self.regions = CudaGraph(self._regions) if features.cuda_graph else self._regions
        self.ablation = Ablation(
            len(state_set.classes), features.kl_bins, features.hidden_features, features.kl_summary
        )
        self.stopwatch = Stopwatch()

    def __call__(self, candidates: Tensor) -> Observation:
        """What the query network sees of `candidates` [K, M] in the game as it stands."""
        game, labelled = self.game, self.game.labelled_distributions
        cast = autocast(game.dataset.device, game.trainer.precision)
        with self.stopwatch.phase("state"), cast:
            state = self._gather(self.state_set, self.state_grid, self.state_grid.existing()[None])[0]
        with self.stopwatch.phase("candidates"), cast:
            regions = self._gather(game.dataset, game.grid, candidates)
            actions = self.featurizer.action(regions, labelled)
        state, actions = self.ablation.state(state), self.ablation.actions(actions, labelled)
        refuse_not_finite(state, actions)
        return Observation(candidates, state, actions)

    def _gather(self, data: SegmentationDataset, grid: RegionGrid, regions: Tensor) -> Tensor:
        """[K, M, Ds] of `regions` [K, M]."""
        return gather_regions(self.regions, images_alone(data), grid, regions, self.game.inference_batch_size)

    def _regions(self, images: Tensor) -> Tensor:
        """uint8 [n, 3, H, W] → [n, R, Ds]"""
        return self.featurizer.regions(inputs_for(self.featurizer.segmenter, images))
