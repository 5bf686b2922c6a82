"""Episodes of the game, at every step of which the query network is trained (section 3.2 of the paper)."""

import copy
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ralx.agent.dqn import DQNAgent
from ralx.agent.policy_file import MOSTLY_GREEDY
from ralx.agent.replay_buffer import ReplayBuffer
from ralx.game.game import Game
from ralx.game.observer import Observation, Observer
from ralx.regions import chosen_regions
from ralx.support.checkpoint import Checkpoint
from ralx.support.divergence import all_finite, naming_divergence
from ralx.support.files import State
from ralx.support.monitor import Monitor
from ralx.support.options import Concern
from ralx.support.randomness import stream


@dataclass(frozen=True)
class LearningConfig(Concern):
    """How the policy is learned on D_T."""

    may_be_zero = ("epsilon_end", "epsilon_span")

    episodes: int = 100
    """Episodes that the query network learns from."""
    budget: int = 480
    """Regions labelled per episode while the query network learns."""
    pool_size: int = 20
    """N: candidates per sub-action while the query network learns."""
    reward: Literal["miou", "mistakes"] = "miou"
    """miou: each sub-action, the choice of one region, gets the whole step's gain in mIoU on D_R (paper).
    mistakes: it gets the share of its region's pixels that the segmenter predicted wrongly before it saw
    their label; a pixel is weighted by 1 / sqrt(C x its class's share of D_T), unless the loss weighs the
    classes."""
    reward_scale: float = 100.0
    """The reward is this times the gain or the share, which are fractions: 100 counts points."""
    first_reward: Literal["gain", "whole"] = "gain"
    """First reward of an episode: the gain over theta0, or the whole mIoU (published)."""
    epsilon_schedule: Literal["episode", "step"] = "episode"
    """Exploration decays over the episodes, or with a time constant of 10 steps (published)."""
    epsilon_end: float = 0.05
    """Share of random sub-actions at the end of the exploration."""
    epsilon_span: float = 0.85
    """Share of random sub-actions at its start, above the end."""
    epsilon_coin: Literal["sub-action", "step"] = "sub-action"
    """Each sub-action explores by itself, or one coin decides for all K (published)."""

    def check(self) -> None:
        whole = self.epsilon_end + self.epsilon_span <= 1
        self.require(whole, "epsilon_span", "must stay below 1 - epsilon_end")
        if self.reward == "mistakes":
            rule = "must be gain where reward is mistakes, which knows no first step"
            self.require(self.first_reward == "gain", "first_reward", rule)

    def epsilon(self, episode: int, step: int) -> float:
        """Share of random sub-actions after so many episodes, and steps of all episodes together."""
        by_episode = self.epsilon_schedule == "episode"
        decay = 5.0 * episode / self.episodes if by_episode else step / 10.0  # gone after some 30 steps
        return self.epsilon_end + self.epsilon_span * math.exp(-decay)


@dataclass
class PolicyLearner:
    """Plays episodes and trains the query network at every step (section 3.2)."""

    options: LearningConfig
    agent: DQNAgent
    game: Game  # its trainer at θ0
    observe: Observer
    measure: Callable[[], float]  # mIoU on D_R, a fraction
    mistake_weights: Tensor | None  # [C] float64, where each sub-action is rewarded for its own mistakes
    seed: int

    episode: int = 0
    step: int = 0
    lines: list[dict] = field(default_factory=list)  # one of every step over all episodes
    miou: float = 0.0
    best_miou: float = -1.0
    best_policy: State = field(default_factory=dict)
    observation: Observation = field(init=False)

    def __post_init__(self) -> None:
        self.replay_buffer = ReplayBuffer(self.agent.options.replay_capacity)
        self.start_state = self.game.trainer.state_dict()
        self.stopwatch = self.observe.stopwatch

    def run(self, checkpoint: Checkpoint, monitor: Monitor, on_step: Callable[[list[dict]], None]) -> State:
        """Play all episodes; the query network of the episode with the best final mIoU on D_R. `on_step` gets
        the lines of all steps so far.

        Only episodes that the network played rather than chance (ε at most one half) count: the paper doesn't
        say so, but a mIoU reached by random choices says nothing of the network. Without such an episode the
        last network is kept.
        """
        saved = checkpoint.load()
        if saved:
            self._restore(*saved)
        curves = f"learn-seed{self.seed}"
        monitor.forget(curves, len(self.lines) + 1)
        with monitor.task(f"learn, seed {self.seed}", self.options.episodes, self.episode) as update:
            while self.episode < self.options.episodes:
                line = self.play_step()
                self.lines.append(line)
                on_step(self.lines)
                checkpoint.save(self._state)
                seconds = {f"{phase}[s]": value for phase, value in line["seconds"].items()}
                update(self.episode, **{k: line[k] for k in ("miou", "reward", "epsilon")}, **seconds)
                for name in ("miou", "reward", "epsilon", "td_loss", "q_mean"):
                    if line[name] is not None:
                        monitor.scalar(curves, name, line[name], len(self.lines))
        return self.best_policy or self.agent.query_network.state_dict()

    def play_step(self) -> dict:
        self.stopwatch.reset()
        options, watch = self.options, self.stopwatch.phase
        generator = stream("learn", self.seed, self.episode, self.step)
        if self.step == 0:
            self._start_episode(generator)
        episode, step = self.episode, self.step
        epsilon = options.epsilon(episode, len(self.lines))
        with watch("select"), self._naming("dqn_lr"):
            chosen = self.agent.act(
                self.observation.state,
                self.observation.actions,
                epsilon,
                generator,
                per_sub_action=options.epsilon_coin == "sub-action",
            )
            regions = chosen_regions(self.observation.candidates, chosen)
        with watch("reward"), self._naming("segmenter_lr"):
            weights = self.mistake_weights
            found = None if weights is None else self.game.mistakes(regions, weights)
        with watch("train"), self._naming("segmenter_lr"):
            self.game.label(regions, generator)
        with watch("reward"), self._naming("segmenter_lr"):
            miou = self.measure()
        first_whole = options.first_reward == "whole" and step == 0
        gain = torch.tensor(miou - (0.0 if first_whole else self.miou), dtype=torch.float64, device="cpu")
        rewards = options.reward_scale * (gain.expand(len(regions)) if found is None else found)
        done = self.game.pool.num_labelled >= options.budget
        self.replay_buffer.record(chosen, rewards, done)
        if not done:
            self._observe(generator)
        with watch("learn"), self._naming("dqn_lr"):
            learned = self.agent.learn(self.replay_buffer, generator)
            if done:
                self._refuse_diverged_network()
        self._advance(miou, done, epsilon)
        return {
            "seed": self.seed,
            "episode": episode,
            "step": step,
            "epsilon": epsilon,
            "reward": rewards.mean().item(),
            "miou": miou,
            "td_loss": learned["td_loss"],
            "q_mean": learned["q_mean"],
            "seconds": {name: round(value, 6) for name, value in self.stopwatch.seconds.items()},
        }

    def _start_episode(self, generator: torch.Generator) -> None:
        self.game.start(self.start_state)
        self.agent.start_episode()
        with self.stopwatch.phase("reward"):
            self.miou = self.measure()
        self._observe(generator)

    def _observe(self, generator: torch.Generator) -> None:
        left = self.options.budget - self.game.pool.num_labelled
        query_size = min(self.game.options.query_size, left)
        with self._naming("segmenter_lr"):
            candidates = self.game.draw(query_size, self.options.pool_size, generator)
            self.observation = self.observe(candidates)
        self.replay_buffer.observe(self.observation.state, self.observation.actions)

    def _naming(self, option: str) -> AbstractContextManager[None]:
        return naming_divergence(option, f"seed {self.seed}, episode {self.episode}, step {self.step}")

    def _refuse_diverged_network(self) -> None:
        """FloatingPointError where the update that no loss has followed yet spoilt the query network."""
        weights = self.agent.query_network.state_dict().values()
        if not all_finite(*weights):
            raise FloatingPointError("the query network has diverged: its weights hold NaN or infinities")

    def _advance(self, miou: float, done: bool, epsilon: float) -> None:
        self.miou = miou
        self.step += 1
        if not done:
            return
        if epsilon <= MOSTLY_GREEDY and miou > self.best_miou:
            self.best_miou = miou
            self.best_policy = copy.deepcopy(self.agent.query_network.state_dict())
        self.episode += 1
        self.step = 0

    def _state(self) -> tuple[dict[str, Any], dict]:
        tensors = {
            "agent": self.agent.state_dict(),
            "replay_buffer": self.replay_buffer.state_dict(),
            "game": self.game.state_dict(),
            "best_policy": self.best_policy,
            "observation": self.observation._asdict(),
        }
        return tensors, {name: getattr(self, name) for name in _PROGRESS}

    def _restore(self, tensors: dict[str, Any], progress: dict) -> None:
        self.agent.load_state_dict(tensors["agent"])
        self.replay_buffer.load_state_dict(tensors["replay_buffer"])
        self.game.load_state_dict(tensors["game"])
        self.best_policy = tensors.get("best_policy", {})
        device = self.game.dataset.device
        observation = Observation(**tensors["observation"])
        self.observation = observation._replace(
            state=observation.state.to(device), actions=observation.actions.to(device)
        )
        for name, value in progress.items():
            setattr(self, name, value)


_PROGRESS = ("episode", "step", "lines", "miou", "best_miou")
