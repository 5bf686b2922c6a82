"""Policies as a run makes, keeps and uses them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ralx.agent.ablation import Ablation
from ralx.agent.dqn import DQNAgent
from ralx.agent.policy_file import load_policy
from ralx.agent.query_network import QueryNetwork
from ralx.datasets import SegmentationDataset, choose_cells
from ralx.features import Featurizer
from ralx.game.game import Game
from ralx.game.observer import Observer
from ralx.regions import RegionGrid
from ralx.runs.config import AgentConfig, FeatureConfig, RegionConfig
from ralx.support.stopwatch import Stopwatch


def grid_of(regions: RegionConfig, data: SegmentationDataset) -> RegionGrid:
    return RegionGrid(len(data), data.image_size, regions.region_size, regions.edge)


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

    def observer(self, game: Game, state_set: SegmentationDataset, stopwatch: Stopwatch) -> Observer:
        features = self.features
        return Observer(
            self.featurizer(game.trainer.segmenter),
            state_set,
            batch_size=game.inference_batch_size,
            precision=game.trainer.precision,
            cuda_graph=features.cuda_graph,
            ablation=Ablation(
                len(state_set.classes), features.kl_bins, features.hidden_features, features.kl_summary
            ),
            stopwatch=stopwatch,
        )

    def sizes(self, state_set: SegmentationDataset) -> dict[str, Any]:
        """The sizes of the query network."""
        featurizer, num_classes = self.featurizer(nn.Identity()), len(state_set.classes)
        return {
            "num_regions": grid_of(self.regions, state_set).num_regions,
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
        return load_policy(path, device=device, **needed).network


def agent_of(config: AgentConfig, network: QueryNetwork, device: torch.device) -> DQNAgent:
    """What trains the query network. An option has the name that `DQNAgent` has for it, or that with
    "dqn_"."""
    options = {name.removeprefix("dqn_"): value for name, value in vars(config).items()}
    for name in ("dueling", "replay_capacity"):  # of the network and of the replay buffer
        del options[name]
    if options.pop("lr_schedule") == "constant":
        options["lr_decay"] = 1.0
    return DQNAgent(network, device=device, **options)
