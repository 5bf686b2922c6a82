"""The methods that are compared: by name, what chooses the next regions of a game.

All but two pick within K pools of N candidates, like the paper's. `ralis-all` and `cheat` look at every
unlabelled region. A method that needs more than a segmenter and images takes it from the game: the labels
so far, or, for `cheat` alone, the hidden ones.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ralx.acquisition import ACQUISITIONS, BATCH_ACQUISITIONS, Acquisition, BatchAcquisition, Step, best, pick
from ralx.agent.dqn import DQNAgent
from ralx.agent.replay_buffer import ReplayBuffer
from ralx.features import Featurizer, gather_regions
from ralx.loop import (
    Chooser,
    Game,
    Observer,
    State,
    join_states,
    naming_divergence,
    refuse_not_finite,
    split_states,
)
from ralx.ops.arguments import Edge
from ralx.regions import chosen_regions
from ralx.segmentation import Precision, autocast
from ralx.segmentation.modes import inputs_for
from ralx.support.imports import import_callable


@dataclass(frozen=True)
class Setting:
    """What the methods choose by, beside the game."""

    region_size: tuple[int, int]
    edge: Edge
    pool_size: int
    num_mc_samples: int
    batch_size: int  # images per forward pass
    precision: Precision
    class_pixels: Tensor  # int64 [C]: the labels known before the game starts
    mistake_weights: Tensor  # float64 [C]: what a mistaken pixel of each class counts
    policy: Callable[[], tuple[DQNAgent, Observer]]  # loaded only where it is used
    keep_learning: bool
    reward_scale: float
    replay_capacity: int


def choose_uniform(setting: Setting) -> Chooser:
    """Candidates are in random order already; no image is read."""
    return lambda game, query_size, generator: game.draw(query_size, setting.pool_size, generator)[:, 0]


def choose_scored(acquisition: Acquisition) -> Callable[[Setting], Chooser]:
    """The highest score of each pool."""

    def with_setting(setting: Setting) -> Chooser:
        def choose(game: Game, query_size: int, generator: torch.Generator) -> Tensor:
            candidates = game.draw(query_size, setting.pool_size, generator)

            def score(segmenter: nn.Module, images: Tensor) -> Tensor:
                return acquisition(
                    segmenter,
                    images,
                    setting.region_size,
                    edge=setting.edge,
                    num_mc_samples=setting.num_mc_samples,
                    generator=generator,
                )

            scores = _of_candidates(score, game, candidates, setting)
            return chosen_regions(candidates, pick(scores))

        return choose

    return with_setting


def choose_batch(acquisition: BatchAcquisition) -> Callable[[Setting], Chooser]:
    """One of each pool, by what the whole batch and the known labels are."""

    def with_setting(setting: Setting) -> Chooser:
        def predictions(segmenter: nn.Module, images: Tensor) -> Tensor:
            """[n, R, C + 1]: class distribution, cumulative entropy."""
            features = Featurizer(segmenter, setting.region_size, cells=(1, 1), edge=setting.edge)(images)
            return torch.cat([features.class_hist, features.entropy_sum[..., None]], -1)

        def choose(game: Game, query_size: int, generator: torch.Generator) -> Tensor:
            candidates = game.draw(query_size, setting.pool_size, generator)
            rows = _of_candidates(predictions, game, candidates, setting)
            known = setting.class_pixels + game.labelled_pixels.to(setting.class_pixels.device)
            step = Step(rows[..., :-1], rows[..., -1], game.labelled_distributions, known)
            return chosen_regions(candidates, acquisition(step, generator))

        return choose

    return with_setting


class PolicyChooser:
    """The learned policy, within pools; it may go on learning from the labels that it asks for."""

    def __init__(self, setting: Setting):
        self.setting = setting
        self.agent, self.observe = setting.policy()
        self.replay_buffer = ReplayBuffer(setting.replay_capacity)

    def __call__(self, game: Game, query_size: int, generator: torch.Generator) -> Tensor:
        when = f"{game.pool.num_labelled} regions labelled"
        seen = self.observe(game, game.draw(query_size, self.setting.pool_size, generator))
        if self.setting.keep_learning:
            self.replay_buffer.observe(seen.state, seen.actions)
            with naming_divergence("dqn_lr", when):
                self.agent.learn(self.replay_buffer, generator)
        with naming_divergence("dqn_lr", when):
            chosen = self.agent.act(seen.state, seen.actions, 0.0, generator)
        regions = chosen_regions(seen.candidates, chosen)
        if self.setting.keep_learning:
            mistakes = game.mistakes(regions, self.setting.mistake_weights)
            self.replay_buffer.record(chosen, self.setting.reward_scale * mistakes, done=False)
        return regions

    def state_dict(self) -> State:
        return join_states(agent=self.agent.state_dict(), replay_buffer=self.replay_buffer.state_dict())

    def load_state_dict(self, state: State) -> None:
        parts = split_states(state)
        self.agent.load_state_dict(parts["agent"])
        self.replay_buffer.load_state_dict(parts.get("replay_buffer", {}))


def choose_by_policy_of_all(setting: Setting) -> Chooser:
    """The policy's K highest Q values of all that is unlabelled: one pool, also to its features. It stays as
    it was learned."""
    agent, observe = setting.policy()

    def choose(game: Game, query_size: int, generator: torch.Generator) -> Tensor:
        unlabelled = game.pool.unlabelled.nonzero().T
        seen = observe(game, unlabelled)
        return unlabelled[0, best(agent.q_values(seen.state, seen.actions)[0].cpu(), query_size)]

    return choose


def choose_by_hidden_labels(setting: Setting) -> Chooser:
    """The ceiling: of all that is unlabelled, the regions with most pixels that the segmenter gets wrong,
    weighted by their class; of equal ones any."""

    def choose(game: Game, query_size: int, generator: torch.Generator) -> Tensor:
        unlabelled = game.pool.unlabelled.nonzero().squeeze(1)
        mistakes = game.mistaken_pixels(unlabelled).double() @ setting.mistake_weights
        shuffled = torch.randperm(len(unlabelled), generator=generator, device="cpu")
        return unlabelled[shuffled[best(mistakes[shuffled], query_size)]]

    return choose


CHOOSERS: dict[str, Callable[[Setting], Chooser]] = {
    "ralis": PolicyChooser,
    "uniform": choose_uniform,
    **{name: choose_scored(score) for name, score in ACQUISITIONS.items() if name != "uniform"},
    **{name: choose_batch(acquisition) for name, acquisition in BATCH_ACQUISITIONS.items()},
    "ralis-all": choose_by_policy_of_all,
    "cheat": choose_by_hidden_labels,
}


def chooser_of(method: str) -> Callable[[Setting], Chooser]:
    """Of a method by its name, or of a user's own acquisition function by its import path,
    `package.module:function`. ValueError where there is no such function."""
    if ":" in method:
        return choose_scored(import_callable("methods", method))
    return CHOOSERS[method]


def _of_candidates(
    compute: Callable[[nn.Module, Tensor], Tensor], game: Game, candidates: Tensor, setting: Setting
) -> Tensor:
    """[K, M, ...] of what `compute` says of the segmenter and normalised images, a row per region."""
    segmenter = game.trainer.segmenter
    with autocast(game.dataset.device, setting.precision):
        rows = gather_regions(
            lambda images: compute(segmenter, inputs_for(segmenter, images)),
            game.dataset.images,
            game.grid,
            candidates,
            setting.batch_size,
        )
    refuse_not_finite(rows)
    return rows
