"""The stages of a run (RALIS, section 3 and 4): pretrain, learn, select, and the final training."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ralx.acquisition import uniform
from ralx.acquisition.methods import method_of
from ralx.agent.dqn import AgentConfig, DQNAgent
from ralx.agent.policy_file import with_sizes, without_weights
from ralx.agent.query_network import QueryNetwork
from ralx.datasets import SegmentationDataset
from ralx.game.choosers import (
    LearningPolicyChooser,
    choose_batch,
    choose_by_hidden_labels,
    choose_by_policy,
    choose_by_policy_of_all,
    choose_scored,
    choose_uniform,
)
from ralx.game.game import Game, GameConfig, RegionConfig
from ralx.game.learn import LearningConfig, PolicyLearner
from ralx.game.observer import Observer, PolicyInput
from ralx.game.select import Chooser, label_again, select_regions
from ralx.metrics import distribution_entropy
from ralx.regions import RegionGrid, RegionPool
from ralx.runs.segmenters import SegmenterRecipe, known_pixels
from ralx.runs.stage import Artifact, Images, Place, Stage
from ralx.segmentation import train_epoch
from ralx.segmentation.fit import fit
from ralx.support.randomness import stream
from ralx.version import __version__


@dataclass(frozen=True)
class Pretrain(Stage):
    """A segmenter trained on all labels of some images: on scenes, θ0, θ0′, full supervision.

    Leaves its weights, its record of reference.json, and its mIoU on D_R.
    """

    is_pretraining: ClassVar[bool] = True

    method: str  # as reference.json calls it
    segmenter: SegmenterRecipe
    start: "Pretrain | None"  # the segmenter that training starts from; none: a new one
    train_on: Images
    reward_set: Images
    test_set: Images
    lr_option: str  # what the learning rate is called where it is too high
    lr: float
    patience: int | None
    max_epochs: int
    seed: int

    @property
    def kind(self) -> str:
        return self.method

    def run(self, place: Place) -> Artifact:
        recipe, data, reward_set = self.segmenter, place.images(self.train_on), place.images(self.reward_set)
        trainer = recipe.trainer(self.lr, data, place.device)
        if self.start:
            trainer.segmenter.load_state_dict(place.artifact(self.start).tensors)
        reward_miou = fit(
            trainer,
            lambda generator: train_epoch(trainer, data, generator=generator),
            lambda: recipe.miou(trainer, reward_set),
            lr_option=self.lr_option,
            name=self.method,
            key=(self.method, self.seed),
            patience=self.patience,
            max_epochs=self.max_epochs,
            checkpoint=place.checkpoint(self),
            monitor=place.monitor,
        )
        record: dict[str, Any] = {"method": self.method, "seed": self.seed, "version": __version__}
        record |= recipe.record(trainer, place.images(self.test_set))
        return Artifact(trainer.segmenter.state_dict(), {"record": record, "reward_miou": reward_miou})


@dataclass(frozen=True)
class Learn(Stage):
    """A policy, learned on D_T by playing from θ0.

    Leaves the query network's weights, the metadata of its file, and the lines of steps.jsonl.
    """

    segmenter: SegmenterRecipe
    theta0: Pretrain
    sees: PolicyInput
    game: GameConfig
    learning: LearningConfig
    agent: AgentConfig
    train_set: Images
    state_set: Images
    reward_set: Images
    seed: int

    @property
    def kind(self) -> str:
        return "learn"

    def run(self, place: Place) -> Artifact:
        learner = self.learner(place)
        show = functools.partial(place.show_steps, self)
        policy = learner.run(place.checkpoint(self), place.monitor, show)
        learner.agent.query_network.load_state_dict(policy)
        metadata = self.sees.metadata(place.images(self.state_set))
        return policy_artifact(learner.agent.query_network, metadata, learner.lines)

    def learner(self, place: Place) -> PolicyLearner:
        """What plays and learns, before its first step."""
        reward_set, state_set = place.images(self.reward_set), place.images(self.state_set)
        train_set = place.images(self.train_set)
        game = new_game(self.segmenter, self.sees.regions, self.game, train_set, train_set, place)
        game.trainer.segmenter.load_state_dict(place.artifact(self.theta0).tensors)
        observe = Observer(self.sees, game, state_set)
        observe.stopwatch.watch(game.trainer.segmenter, "forward")
        network = QueryNetwork(
            **self.sees.sizes(state_set),
            dueling=self.agent.dueling,
            generator=stream("query network", self.seed),
        )
        mistakes = self.learning.reward == "mistakes"
        return PolicyLearner(
            self.learning,
            DQNAgent(network, self.agent, place.device),
            game,
            observe,
            measure=lambda: self.segmenter.miou(game.trainer, reward_set),
            mistake_weights=self.segmenter.mistake_weights(train_set) if mistakes else None,
            seed=self.seed,
        )


@dataclass(frozen=True)
class TakePolicy(Stage):
    """A policy that was learned elsewhere. Leaves what `Learn` does, with no lines."""

    file: Path
    sees: PolicyInput
    state_set: Images

    @property
    def kind(self) -> str:
        return "take policy"

    def run(self, place: Place) -> Artifact:
        state_set = place.images(self.state_set)
        network = self.sees.load(self.file, state_set, place.device)
        return policy_artifact(network, self.sees.metadata(state_set), [])


@dataclass(frozen=True)
class KeepLearning:
    """How a policy goes on learning where it is used."""

    agent: AgentConfig
    reward_scale: float


@dataclass(frozen=True)
class PolicyUse:
    """The policy by which a method chooses."""

    policy: Learn | TakePolicy
    sees: PolicyInput
    state_set: Images
    keep_learning: KeepLearning | None


@dataclass(frozen=True)
class Select(Stage):
    """The regions of D_V that a method chooses, up to the last budget, from θ0′ on.

    Leaves them as they were chosen, int64 [L], the pixels of each that the segmenter had wrong then, and what
    the regions of each budget hold.
    """

    method: str
    pool_size: int | None  # N; none: the method looks at all that is unlabelled
    num_mc_samples: int | None  # of the methods that have MC passes
    by_policy: PolicyUse | None
    segmenter: SegmenterRecipe
    theta0_prime: Pretrain
    regions: RegionConfig
    game: GameConfig
    budgets: tuple[int, ...]
    eval_set: Images
    train_set: Images
    seed: int

    @property
    def kind(self) -> str:
        return f"select {self.method}"

    def run(self, place: Place) -> Artifact:
        game = self.new_game(place)
        mistaken = select_regions(
            game,
            self.chooser(game, place),
            self.budgets,
            method=self.method,
            seed=self.seed,
            checkpoint=place.checkpoint(self),
            monitor=place.monitor,
        )
        regions, selected = game.pool.order, []
        for budget in self.budgets:
            held = held_by(game, regions[:budget])
            share = int(mistaken[:budget].sum()) / held["labelled_pixels"]
            selected.append({"budget": budget, **held, "mistaken_share": share})
        return Artifact({"regions": regions, "mistaken": mistaken}, {"selected": selected})

    def grid(self, place: Place) -> RegionGrid:
        return self.regions.grid(place.images(self.eval_set))

    def new_game(self, place: Place) -> Game:
        """The game at its start, with nothing labelled."""
        eval_set, train_set = place.images(self.eval_set), place.images(self.train_set)
        game = new_game(self.segmenter, self.regions, self.game, eval_set, train_set, place)
        game.trainer.segmenter.load_state_dict(place.artifact(self.theta0_prime).tensors)
        return game

    def chooser(self, game: Game, place: Place) -> Chooser:
        method, known = method_of(self.method), place.images(self.train_set)
        if self.by_policy:
            return self._by_policy(self.by_policy, game, known, place)
        if self.pool_size is None:
            return choose_by_hidden_labels(self.segmenter.mistake_weights(known))
        if method.batch:
            return choose_batch(method.batch, self.pool_size, known_pixels(known))
        if method.score is uniform:
            return choose_uniform(self.pool_size)
        assert method.score  # every method has a function, but those that look at policies or hidden labels
        return choose_scored(method.score, self.pool_size, self.num_mc_samples)

    def _by_policy(self, use: PolicyUse, game: Game, known: SegmentationDataset, place: Place) -> Chooser:
        state_set, found = place.images(use.state_set), place.artifact(use.policy)
        observe, goes_on = Observer(use.sees, game, state_set), use.keep_learning
        agent = DQNAgent(network_of(found), goes_on.agent if goes_on else AgentConfig(), place.device)
        if self.pool_size is None:
            return choose_by_policy_of_all(agent, observe)
        if not goes_on:
            return choose_by_policy(agent, observe, self.pool_size)
        return LearningPolicyChooser(
            agent,
            observe,
            self.pool_size,
            mistake_weights=self.segmenter.mistake_weights(known),
            reward_scale=goes_on.reward_scale,
        )


@dataclass(frozen=True)
class Final(Stage):
    """The training on the first regions that a method chose, and on D_T where that is rehearsed.

    Leaves the record of results.json and the mIoU on D_R.
    """

    select: Select
    budget: int
    lr_option: str
    lr: float | None  # none: the training goes on with the learning rate of the game
    lr_decay: float
    patience: int | None
    max_epochs: int
    rehearsal: int  # crops of every image of D_T per epoch
    full_set: Images | None  # of which D_T and D_V are parts; only where D_T is rehearsed
    reward_set: Images
    test_set: Images

    @property
    def kind(self) -> str:
        return f"final {self.select.method}"

    @property
    def seed(self) -> int:
        return self.select.seed

    def run(self, place: Place) -> Artifact:
        select, recipe = self.select, self.select.segmenter
        reward_set = place.images(self.reward_set)
        regions = place.artifact(select).tensors["regions"][: self.budget]
        game = select.new_game(place)
        label_again(game, regions, select.budgets, seed=self.seed)
        trainer = game.trainer
        if self.lr is not None:
            trainer.lr = self.lr
        trainer.lr_decay = self.lr_decay
        data, pool, crops = self.to_train_on(regions, place)
        reward_miou = fit(
            trainer,
            lambda generator: train_epoch(trainer, data, pool=pool, crops=crops, generator=generator),
            lambda: recipe.miou(trainer, reward_set),
            lr_option=self.lr_option,
            name=f"{select.method}, seed {self.seed}, {self.budget} regions",
            key=("final", self.seed, self.budget),
            patience=self.patience,
            max_epochs=self.max_epochs,
            checkpoint=place.checkpoint(self),
            monitor=place.monitor,
        )
        record: dict[str, Any] = {"method": select.method, "budget": self.budget, "seed": self.seed}
        record |= {"version": __version__, **recipe.record(trainer, place.images(self.test_set))}
        place.monitor.scalar(f"evaluate-seed{self.seed}", select.method, record["miou"], self.budget)
        return Artifact({}, {"record": record | held_by(game, regions), "reward_miou": reward_miou})

    def to_train_on(
        self, regions: Tensor, place: Place
    ) -> tuple[SegmentationDataset, RegionPool, Tensor | None]:
        """A data set and its pool: D_V, in which `regions` are labelled. Where D_T is rehearsed: the training
        images, in which D_T's regions are labelled as well, and the crops of each image per epoch. In one
        batch with D_T's crops, a pixel of a chosen region counts as much as any other."""
        chosen_from, known = place.images(self.select.eval_set), place.images(self.select.train_set)
        if not self.full_set:
            pool = RegionPool(self.select.regions.grid(chosen_from))
            pool.label(regions)
            return chosen_from, pool, None
        training_images = place.images(self.full_set)
        pool = RegionPool(self.select.regions.grid(training_images))
        per_image = pool.grid.regions_per_image
        position = {name: index for index, name in enumerate(training_images.names)}
        known_images = torch.tensor([position[name] for name in known.names], device="cpu")
        all_known = (known_images[:, None] * per_image + torch.arange(per_image, device="cpu")).flatten()
        pool.label(all_known[~pool.empty[all_known]])
        image_of = torch.tensor([position[name] for name in chosen_from.names], device="cpu")
        pool.label(image_of[regions // per_image] * per_image + regions % per_image)
        crops = torch.ones(len(training_images), dtype=torch.int64, device="cpu")
        crops[known_images] = self.rehearsal
        return training_images, pool, crops


def policy_artifact(network: QueryNetwork, metadata: dict[str, Any], lines: list[dict[str, Any]]) -> Artifact:
    """A query network with the metadata of its file, and the steps that it was learned in."""
    return Artifact(network.state_dict(), {"metadata": with_sizes(network, metadata), "steps": lines})


def network_of(policy: Artifact) -> QueryNetwork:
    """The query network that `policy_artifact` kept."""
    network = without_weights(policy.found["metadata"])
    network.load_state_dict(policy.tensors, assign=True)
    return network


def new_game(
    recipe: SegmenterRecipe,
    regions: RegionConfig,
    game: GameConfig,
    data: SegmentationDataset,
    known: SegmentationDataset,
    place: Place,
) -> Game:
    """A game on `data` of a new segmenter, whose loss weighs the classes by the labels of `known`."""
    return Game(
        data,
        recipe.trainer(game.segmenter_lr, known, place.device),
        regions.grid(data),
        game,
        inference_batch_size=recipe.network.inference_batch_size,
    )


def held_by(game: Game, regions: Tensor) -> dict[str, Any]:
    """What `regions` hold: pixels, and the class distribution without void."""
    counts = game.class_pixels(regions)
    fraction = counts.double() / max(int(counts.sum()), 1)
    return {
        "labelled_regions": len(regions),
        "labelled_pixels": int(game.grid.num_pixels(regions).sum()),
        "selected_class_fraction": fraction.tolist(),
        "selected_entropy": distribution_entropy(fraction),
    }
