"""The stages of a run: pretrain, learn, evaluate (PAPER section 1), put together from a config."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ralx.agent.ablation import Ablation
from ralx.agent.dqn import DQNAgent, epsilon_at
from ralx.agent.policy_file import load_policy, save_policy
from ralx.agent.query_network import QueryNetwork
from ralx.agent.replay_buffer import ReplayBuffer
from ralx.config import Config
from ralx.datasets import SegmentationDataset, Splits, choose_cells, scaled_region
from ralx.features import Featurizer
from ralx.loop import (
    Chooser,
    Game,
    Observer,
    PolicyLearner,
    Stopwatch,
    fit,
    select_regions,
)
from ralx.methods import Setting, chooser_of
from ralx.metrics import distribution_entropy, rarity
from ralx.pretraining import Pretraining, Segmenters
from ralx.regions import RegionGrid, RegionPool
from ralx.run_dir import RunDirectory
from ralx.segmentation import dropout_layers, predict
from ralx.support.devices import find_device
from ralx.support.files import RunError, load_tensors
from ralx.support.monitor import Monitor
from ralx.support.randomness import stream
from ralx.version import __version__


class Experiment:
    """One run of a config: its data, its parts and its stages. Every stage skips what is done already."""

    def __init__(self, config: Config, splits: Splits, run: RunDirectory, cache: Path, monitor: Monitor):
        self.config = config
        self.device = find_device(config.device)
        self.splits = splits.to(self.device)
        self.run = run
        self.cache = cache
        self.monitor = monitor
        self.classes = splits.train_set.classes
        self.region_size = scaled_region(config.region_size, config.scale)
        self.cells = choose_cells(self.region_size, config.cells)
        self.segmenters = Segmenters(config, self.splits, self.device)
        self.pretraining = Pretraining(self.segmenters, run, cache, monitor)
        # What can be refused is refused before anything is trained.
        if cache.exists() and not cache.is_dir():
            raise ValueError(f"cache: must be a folder, got {cache}")
        for method in config.methods:
            chooser_of(method)
        self._refuse_large_budgets()
        self._refuse_unfit_segmenter()
        if config.policy:
            self._load_policy(config.policy)

    def within(self, run: RunDirectory) -> "Experiment":
        """The same experiment, working in another folder."""
        other = copy.copy(self)
        other.run = run
        other.pretraining = Pretraining(self.segmenters, run, self.cache, self.monitor)
        return other

    # Stages

    def pretrain(self) -> None:
        """θ0, which has seen no label of D_T, and θ0′, trained on D_T as well, both measured."""
        _ = self.pretraining.theta0, self.pretraining.theta0_prime

    def learn(self) -> None:
        """A policy for every seed, unless no method needs one."""
        for seed in self.config.seeds if self.config.uses_policy else ():
            self.learn_policy(seed)

    def evaluate(self) -> None:
        """Every method at every budget with every seed, and full supervision."""
        if self.config.policy:
            self.learn()  # takes it over
        if self.config.uses_policy:
            for seed in self.config.seeds:
                self._own_policy(seed)  # a missing or damaged one shows now, not after hours
        self.pretraining.full_supervision()
        for seed in self.config.seeds:
            for method in self.config.methods:
                missing = [
                    budget for budget in self.config.budgets if not self._has_record(method, seed, budget)
                ]
                self.select(method, seed, learned=self.run, wanted=missing)
                for budget in self.config.budgets:
                    self._finish(method, seed, budget)

    def learn_policy(self, seed: int) -> None:
        """A policy as a file of the run; the one that the config names where it does."""
        path, given = self._policy_path(seed), self.config.policy
        if not path.exists() or not (given or self.run.num_steps(seed) == self.config.steps_to_learn):
            network = self._load_policy(given) if given else self._learned(seed)
            self._save_policy(path, network)
        self.run.checkpoint.clear(f"learn-seed{seed}")

    # The game

    def _game(self, data: SegmentationDataset) -> Game:
        return Game(
            data,
            self.segmenters.new_trainer(self.config.segmenter_lr),
            self._grid(data),
            crop_size=self.segmenters.crop_size,
            batch_size=self.config.batch_size,
            inference_batch_size=self.config.inference_batch_size,
            few_images=self.config.candidate_sampling == "images",
        )

    def _grid(self, data: SegmentationDataset) -> RegionGrid:
        return RegionGrid(len(data), data.image_size, self.region_size, self.config.edge)

    def _featurizer(self, segmenter: nn.Module) -> Featurizer:
        config = self.config
        return Featurizer(
            segmenter,
            self.region_size,
            cells=self.cells,
            kl_bins=config.kl_bins,
            kl_range=(0.0, config.kl_max) if config.kl_range == "fixed" else None,
            counts=config.class_features == "count",
            edge=config.edge,
        )

    def _observer(self, game: Game, stopwatch: Stopwatch) -> Observer:
        return Observer(
            self._featurizer(game.trainer.segmenter),
            self.splits.state_set,
            batch_size=self.config.inference_batch_size,
            precision=self.config.precision,
            cuda_graph=self.config.cuda_graph,
            ablation=Ablation(
                len(self.classes), self.config.kl_bins, self.config.hidden_features, self.config.kl_summary
            ),
            stopwatch=stopwatch,
        )

    def _network_sizes(self) -> dict[str, Any]:
        featurizer = self._featurizer(nn.Identity())
        return {
            "num_regions": self._grid(self.splits.state_set).num_regions,
            "state_dim": featurizer.state_dim(len(self.classes)),
            "action_dim": featurizer.action_dim(len(self.classes)),
            "kl_dim": 2 * featurizer.kl_bins,
        }

    def _policy_needs(self) -> dict[str, Any]:
        """What a policy must have been learned with to mean anything here, beside the network's sizes."""
        config = self.config
        return {
            "num_classes": len(self.classes),
            "cells": list(self.cells),
            "edge": config.edge,
            "class_features": config.class_features,
            "kl_range": config.kl_range,
            "kl_max": config.kl_max,
            # Policies that see everything don't mention it: their files are older than these options.
            "hidden_features": sorted(config.hidden_features) or None,
            "kl_summary": config.kl_summary if config.kl_summary != "histogram" else None,
        }

    def _save_policy(self, path: Path, network: QueryNetwork) -> None:
        self.run.hold()
        save_policy(path, network, {k: v for k, v in self._policy_needs().items() if v is not None})

    def _agent(self, network: QueryNetwork) -> DQNAgent:
        config = self.config
        return DQNAgent(
            network,
            lr=config.dqn_lr,
            momentum=config.dqn_momentum,
            weight_decay=config.dqn_weight_decay,
            gamma=config.gamma,
            batch_size=config.dqn_batch_size,
            loss=config.dqn_loss,
            double_dqn=config.double_dqn,
            target_update=config.target_update,
            tau=config.tau,
            n_step=config.n_step,
            updates_per_step=config.updates_per_step,
            lr_decay=1.0 if config.dqn_lr_schedule == "constant" else config.dqn_lr_decay,
            device=self.device,
        )

    def _learned(self, seed: int) -> QueryNetwork:
        learner = self._learner(seed)
        policy = learner.run(self.run, self.monitor)
        learner.agent.query_network.load_state_dict(policy)
        return learner.agent.query_network

    def _load_policy(self, path: Path) -> QueryNetwork:
        """The policy of a file; refused if it is for other classes, features or another number of regions."""
        needed = self._network_sizes() | self._policy_needs()
        return load_policy(path, device=self.device, **needed).network

    def _own_policy(self, seed: int, learned: RunDirectory | None = None) -> QueryNetwork:
        """The policy that the run `learned`, or this one, learned or took over; RunError if it is damaged."""
        try:
            return self._load_policy((learned or self.run).policy_path(seed, self.config.seed))
        except ValueError as error:
            raise RunError(str(error)) from error

    def _learner(self, seed: int) -> PolicyLearner:
        config = self.config
        stopwatch = Stopwatch()
        game = self._game(self.splits.train_set)
        stopwatch.watch(game.trainer.segmenter, "forward")
        network = QueryNetwork(
            **self._network_sizes(), dueling=config.dueling, generator=stream("query network", seed)
        )
        return PolicyLearner(
            agent=self._agent(network),
            replay_buffer=ReplayBuffer(config.replay_capacity),
            game=game,
            observe=self._observer(game, stopwatch),
            measure=lambda: self.segmenters.reward_miou(game.trainer),
            start_state=self.pretraining.theta0,
            epsilon=lambda episode, step: epsilon_at(
                config.epsilon_schedule,
                episode=episode,
                episodes=config.episodes,
                step=step,
                end=config.epsilon_end,
                span=config.epsilon_span,
            ),
            stopwatch=stopwatch,
            seed=seed,
            episodes=config.episodes,
            budget=config.budget,
            query_size=config.query_size,
            pool_size=config.pool_size,
            mistake_weights=self._mistake_weights if config.reward == "mistakes" else None,
            reward_scale=config.reward_scale,
            whole_first_reward=config.first_reward == "whole",
            one_coin=config.epsilon_coin == "step",
            reset_lr=config.dqn_lr_schedule == "episode",
        )

    # Evaluation

    def select(self, method: str, seed: int, *, learned: RunDirectory, wanted: Sequence[int]) -> None:
        """Let `method` choose regions of D_V up to the last budget; keep the segmenter at the budgets
        `wanted`, for their final trainings.

        A policy is read from the run `learned`. Where the selection is there but such a segmenter was lost,
        the same regions are chosen again for it.
        """
        piece = f"select-{method}-seed{seed}"
        if self.run.selection_path(method, seed).exists():
            self.run.read_selection(method, seed)  # a damaged one shows now, not after hours
            self.run.checkpoint.clear(piece)
            if not self._lost_segmenters(method, seed, wanted):
                return
        game = self._game(self.splits.eval_set)
        game.start(self.pretraining.theta0_prime)

        def keep_segmenter(budget: int) -> None:
            if budget in wanted:
                self.run.save_segmenter(method, seed, budget, game.trainer.state_dict())

        mistaken = select_regions(
            game,
            self._chooser(method, seed, game, learned),
            self.config.budgets,
            self.config.query_size,
            method=method,
            seed=seed,
            piece=piece,
            run=self.run,
            monitor=self.monitor,
            at_budget=keep_segmenter,
        )
        grid = self._grid(game.dataset)
        image, row, col = (part.tolist() for part in grid.split(game.pool.order))
        names = [game.dataset.names[i] for i in image]
        selection = {
            "method": method,
            "seed": seed,
            "region_size": list(self.region_size),
            "budgets": list(self.config.budgets),
            "regions": [list(region) for region in zip(names, row, col, strict=True)],
            "mistaken_pixels": mistaken.tolist(),
        }
        self.run.write_selection(selection)
        self.run.checkpoint.clear(piece)
        if self._lost_segmenters(method, seed, wanted):  # from before the checkpoint where this went on
            self.select(method, seed, learned=learned, wanted=wanted)

    def _lost_segmenters(self, method: str, seed: int, wanted: Sequence[int]) -> bool:
        return not all(self.run.segmenter_path(method, seed, budget).exists() for budget in wanted)

    def _chooser(self, method: str, seed: int, game: Game, learned: RunDirectory | None = None) -> Chooser:
        config = self.config
        setting = Setting(
            region_size=self.region_size,
            edge=config.edge,
            pool_size=config.pool_size_of(method),
            num_mc_samples=config.num_mc_samples,
            batch_size=config.inference_batch_size,
            precision=config.precision,
            class_pixels=self.segmenters.known_pixels,
            mistake_weights=self._mistake_weights,
            keep_learning=config.keep_learning,
            reward_scale=config.reward_scale,
            replay_capacity=config.replay_capacity,
            policy=lambda: (self._agent(self._own_policy(seed, learned)), self._observer(game, Stopwatch())),
        )
        return chooser_of(method)(setting)

    @property
    def _mistake_weights(self) -> torch.Tensor:
        """float64 [C]: what a mistaken pixel counts, by its class: more where it is rare in D_T, all the same
        where the loss weighs the classes already."""
        if self.config.loss_weights == "rarity":
            return torch.ones(len(self.classes), dtype=torch.float64, device="cpu")
        return rarity(self.segmenters.known_pixels)

    def _finish(self, method: str, seed: int, budget: int) -> None:
        """Add the record of the final training to the run's, unless it is there."""
        if not self._has_record(method, seed, budget):
            record, _ = self.finish(method, seed, budget, selected=self.run)
            self.run.add_record(record)
            self.monitor.scalar(f"evaluate-seed{seed}", method, record["miou"], budget)
        self.run.checkpoint.clear(final_piece(method, seed, budget))
        self.run.segmenter_path(method, seed, budget).unlink(missing_ok=True)

    def _has_record(self, method: str, seed: int, budget: int) -> bool:
        cell = {"method": method, "budget": budget, "seed": seed}
        return any(cell.items() <= record.items() for record in self.run.records())

    def finish(
        self, method: str, seed: int, budget: int, *, selected: RunDirectory
    ) -> tuple[dict[str, Any], float]:
        """Train on the first `budget` regions of the run `selected`, and on D_T where it is rehearsed.

        Returns the record of results.json, measured on the test set, and the mIoU on D_R.
        """
        selection = selected.read_selection(method, seed)
        game = self._game(self.splits.eval_set)
        config = self.config
        state, _ = load_tensors(selected.segmenter_path(method, seed, budget))
        if config.final_lr is not None:
            state["lr"] = torch.tensor(config.final_lr, dtype=torch.float64, device="cpu")
        game.start(state)
        game.trainer.lr_decay = config.final_lr_decay or config.segmenter_lr_decay
        regions = self._region_indices(selection["regions"][:budget])
        data, pool, crops = self._to_train_on(regions)
        reward_miou = fit(
            game.trainer,
            lambda generator: self.segmenters.train_epoch(game.trainer, data, generator, pool, crops),
            lambda: self.segmenters.reward_miou(game.trainer),
            lr_option="segmenter_lr" if config.final_lr is None else "final_lr",
            name=f"{method}, seed {seed}, {budget} regions",
            piece=final_piece(method, seed, budget),
            key=("final", seed, budget),
            patience=config.final_patience,
            max_epochs=min(config.max_epochs, config.final_max_epochs or config.max_epochs),
            run=self.run,
            monitor=self.monitor,
        )
        cell = {"method": method, "budget": budget, "seed": seed, "version": __version__}
        record = cell | self.segmenters.test_record(game.trainer) | self._selected(game, regions)
        return record, reward_miou

    def _to_train_on(
        self, regions: torch.Tensor
    ) -> tuple[SegmentationDataset, RegionPool, torch.Tensor | None]:
        """What the final training learns from, as a data set and its pool: `regions` of D_V. Where D_T is
        rehearsed: the images of both, D_T's regions labelled as well, and the crops of each image per epoch;
        in one batch with D_T's, a pixel of a chosen region counts as much as any other."""
        chosen_from, passes = self.splits.eval_set, self.config.rehearsal
        if not passes:
            pool = RegionPool(self._grid(chosen_from))
            pool.label(regions)
            return chosen_from, pool, None
        both, known = self.splits.full_set, self.splits.train_set
        pool = RegionPool(self._grid(both))
        per_image = pool.grid.regions_per_image
        place = {name: index for index, name in enumerate(both.names)}
        known_images = torch.tensor([place[name] for name in known.names], device="cpu")
        pool.label((known_images[:, None] * per_image + torch.arange(per_image, device="cpu")).flatten())
        image_of = torch.tensor([place[name] for name in chosen_from.names], device="cpu")
        pool.label(image_of[regions // per_image] * per_image + regions % per_image)
        crops = torch.ones(len(both), dtype=torch.int64, device="cpu")
        crops[known_images] = passes
        return both, pool, crops

    def describe_selection(self, method: str, seed: int, *, selected: RunDirectory) -> list[dict[str, Any]]:
        """For every budget, what the regions that the run `selected` chose hold, and which share of their
        pixels the segmenter had wrong when they were asked for."""
        selection = selected.read_selection(method, seed)
        game = self._game(self.splits.eval_set)
        regions = self._region_indices(selection["regions"])
        parts = []
        for budget in selection["budgets"]:
            part = self._selected(game, regions[:budget])
            mistaken = sum(selection["mistaken_pixels"][:budget]) / part["labelled_pixels"]
            parts.append({"budget": budget, **part, "mistaken_share": mistaken})
        return parts

    def _region_indices(self, regions: list[list]) -> torch.Tensor:
        data = self.splits.eval_set
        position = {name: index for index, name in enumerate(data.names)}
        grid = self._grid(data)
        per_image, cols = grid.regions_per_image, grid.cols
        flat = [position[name] * per_image + row * cols + col for name, row, col in regions]
        return torch.tensor(flat, device="cpu")

    def _selected(self, game: Game, regions: torch.Tensor) -> dict:
        """What the selected regions hold: pixels, and the class distribution without void."""
        counts = game.class_pixels(regions)
        fraction = counts.double() / max(int(counts.sum()), 1)
        return {
            "labelled_regions": len(regions),
            "labelled_pixels": int(game.grid.num_pixels(regions).sum()),
            "selected_class_fraction": fraction.tolist(),
            "selected_entropy": distribution_entropy(fraction),
        }

    def _policy_path(self, seed: int) -> Path:
        return self.run.policy_path(seed, self.config.seed)

    def describe(self) -> None:
        """Say what is compared."""
        data = self.splits.eval_set
        grid = self._grid(data)
        self.monitor.say(
            f"{data.name}: {len(data)} images of {data.image_size[0]}x{data.image_size[1]} pixels, "
            f"{grid.num_regions} regions of {self.region_size[0]}x{self.region_size[1]}; "
            f"{grid.dropped_share:.1%} of the pixels lie in edge strips that belong to no region"
        )

    def _refuse_unfit_segmenter(self) -> None:
        """ValueError where the segmenter gives other classes, or BALD has no dropout to sample from."""
        segmenter = self.segmenters.new_segmenter()
        images = torch.zeros(1, 3, *self.segmenters.crop_size, dtype=torch.uint8, device=self.device)
        logits = predict(segmenter, images, precision=self.config.precision)
        if logits.dim() != 4 or logits.shape[:2] != (1, len(self.classes)):
            raise ValueError(
                f"segmenter: {self.config.segmenter} must give logits [N, {len(self.classes)}, h, w], "
                f"got {list(logits.shape)} for one image"
            )
        if "bald" in self.config.methods and not dropout_layers(segmenter):
            raise ValueError(f"methods: bald needs dropout, {self.config.segmenter} has none")

    def _refuse_large_budgets(self) -> None:
        """ValueError where more regions are asked for than a data set has."""
        for option, budget, data in (
            ("budget", self.config.budget, self.splits.train_set),
            ("budgets", self.config.budgets[-1], self.splits.eval_set),
        ):
            available = self._grid(data).num_regions
            if budget > available:
                raise ValueError(
                    f"{option}: must be at most the {available} regions of {data.name}, got {budget}"
                )


def final_piece(method: str, seed: int, budget: int) -> str:
    """What a final training is called in the checkpoint."""
    return f"final-{method}-seed{seed}-budget{budget}"
