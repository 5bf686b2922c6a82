"""What chooses the next regions of a game.

Most choosers pick within K pools of N candidates, like the paper's; two look at every unlabelled region. A
chooser that needs more than a segmenter and images takes it from the game: the labels so far, or, for the
ceiling alone, the hidden ones.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ralx.acquisition import Acquisition, BatchAcquisition, Step, best, pick
from ralx.agent.dqn import DQNAgent
from ralx.agent.replay_buffer import ReplayBuffer
from ralx.features import Featurizer, gather_regions
from ralx.game.game import Game
from ralx.game.observer import Observer
from ralx.game.select import Chooser
from ralx.regions import chosen_regions, images_alone
from ralx.segmentation import autocast
from ralx.segmentation.modes import inputs_for
from ralx.support.divergence import naming_divergence, refuse_not_finite


def choose_uniform(pool_size: int) -> Chooser:
    """Candidates are in random order already; no image is read."""
    return lambda game, query_size, generator: game.draw(query_size, pool_size, generator)[:, 0]


def choose_scored(acquisition: Acquisition, pool_size: int, num_mc_samples: int | None = None) -> Chooser:
    """The highest score of each pool."""
    options = {} if num_mc_samples is None else {"num_mc_samples": num_mc_samples}

    def choose(game: Game, query_size: int, generator: torch.Generator) -> Tensor:
        candidates = game.draw(query_size, pool_size, generator)
        grid = game.grid

        def score(segmenter: nn.Module, images: Tensor) -> Tensor:
            return acquisition(
                segmenter, images, grid.region_size, edge=grid.edge, generator=generator, **options
            )

        return chosen_regions(candidates, pick(_of_candidates(score, game, candidates)))

    return choose


def choose_batch(acquisition: BatchAcquisition, pool_size: int, known: Tensor) -> Chooser:
    """One of each pool, by what the whole batch and the known labels are; `known` [C] are the pixels of each
    class that were labelled before the game."""

    def choose(game: Game, query_size: int, generator: torch.Generator) -> Tensor:
        candidates = game.draw(query_size, pool_size, generator)
        grid = game.grid

        def predictions(segmenter: nn.Module, images: Tensor) -> Tensor:
            """[n, R, C + 1]: class distribution, cumulative entropy."""
            features = Featurizer(segmenter, grid.region_size, cells=(1, 1), edge=grid.edge)(images)
            return torch.cat([features.class_hist, features.entropy_sum[..., None]], -1)

        rows = _of_candidates(predictions, game, candidates)
        labelled = known + game.labelled_pixels.to(known.device)
        step = Step(rows[..., :-1], rows[..., -1], game.labelled_distributions, labelled)
        return chosen_regions(candidates, acquisition(step, generator))

    return choose


def choose_by_policy(agent: DQNAgent, observe: Observer, pool_size: int) -> Chooser:
    """The learned policy, within pools. It stays as it was learned."""

    def choose(game: Game, query_size: int, generator: torch.Generator) -> Tensor:
        seen = observe(game.draw(query_size, pool_size, generator))
        with _naming_divergence(game):
            return chosen_regions(seen.candidates, agent.act(seen.state, seen.actions, 0.0, generator))

    return choose


@dataclass
class LearningPolicyChooser:
    """The learned policy, within pools, which goes on learning from the labels that it asks for."""

    agent: DQNAgent
    observe: Observer
    pool_size: int
    mistake_weights: Tensor  # [C] float64
    reward_scale: float

    def __post_init__(self) -> None:
        self.replay_buffer = ReplayBuffer(self.agent.options.replay_capacity)

    def __call__(self, game: Game, query_size: int, generator: torch.Generator) -> Tensor:
        seen = self.observe(game.draw(query_size, self.pool_size, generator))
        with _naming_divergence(game):
            self.replay_buffer.observe(seen.state, seen.actions)
            self.agent.learn(self.replay_buffer, generator)
            chosen = self.agent.act(seen.state, seen.actions, 0.0, generator)
        regions = chosen_regions(seen.candidates, chosen)
        mistakes = game.mistakes(regions, self.mistake_weights)
        self.replay_buffer.record(chosen, self.reward_scale * mistakes, done=False)
        return regions

    def state_dict(self) -> dict[str, Any]:
        return {"agent": self.agent.state_dict(), "replay_buffer": self.replay_buffer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.agent.load_state_dict(state["agent"])
        self.replay_buffer.load_state_dict(state.get("replay_buffer", {}))


def choose_by_policy_of_all(agent: DQNAgent, observe: Observer) -> Chooser:
    """The policy's K highest Q values of all that is unlabelled: one pool, also to its features. It stays as
    it was learned."""

    def choose(game: Game, query_size: int, generator: torch.Generator) -> Tensor:
        unlabelled = game.pool.unlabelled.nonzero().T
        seen = observe(unlabelled)
        return unlabelled[0, best(agent.q_values(seen.state, seen.actions)[0].cpu(), query_size)]

    return choose


def choose_by_hidden_labels(mistake_weights: Tensor) -> Chooser:
    """The ceiling: of all that is unlabelled, the regions with most pixels that the segmenter gets wrong,
    weighted by their class; of equal ones any."""

    def choose(game: Game, query_size: int, generator: torch.Generator) -> Tensor:
        unlabelled = game.pool.unlabelled.nonzero().squeeze(1)
        mistakes = game.mistaken_pixels(unlabelled).double() @ mistake_weights
        shuffled = torch.randperm(len(unlabelled), generator=generator, device="cpu")
        return unlabelled[shuffled[best(mistakes[shuffled], query_size)]]

    return choose


def _of_candidates(compute: Callable[[nn.Module, Tensor], Tensor], game: Game, candidates: Tensor) -> Tensor:
    """[K, M, ...] of what `compute` says of the segmenter and normalised images, a row per region."""
    segmenter = game.trainer.segmenter
    with autocast(game.dataset.device, game.trainer.precision):
        rows = gather_regions(
            lambda images: compute(segmenter, inputs_for(segmenter, images)),
            images_alone(game.dataset),
            game.grid,
            candidates,
            game.inference_batch_size,
        )
    refuse_not_finite(rows)
    return rows


def _naming_divergence(game: Game) -> AbstractContextManager[None]:
    return naming_divergence("dqn_lr", f"{game.pool.num_labelled} regions labelled")
