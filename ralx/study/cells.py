"""The pieces of work that studies are made of, and what each depends on.

A cell's key holds a hash of what it depends on and of nothing else, so that studies share what they have in
common: entropy sampling is the same whatever the policy's features are.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ralx.config import POLICY_METHODS, Config
from ralx.version import __version__

Kind = Literal["theta0", "theta0_prime", "full_supervision", "learn", "select", "final"]

# Options that results don't depend on: names of others, paths, whose content counts, and what is compared.
_NEVER = {"preset", "published", "data", "gta5", "split_lists", "weights", "policy", "device"}
_NEVER |= {"methods", "num_seeds"}

_EVALUATION = {"budgets", "num_mc_samples", "final_lr", "final_lr_decay", "final_patience"}
_EVALUATION |= {"final_max_epochs", "rehearsal", "keep_learning", "pool_size_ralis"}
_EVALUATION |= {"pool_size_entropy", "pool_size_bald", "pool_size_uniform", "pool_size_other"}
_POLICY = {"pool_size", "budget", "episodes", "cells", "kl_bins", "kl_range", "kl_max", "class_features"}
_POLICY |= {
    "reward",
    "reward_scale",
    "first_reward",
    "dueling",
    "updates_per_step",
    "gamma",
    "n_step",
    "double_dqn",
}
_POLICY |= {"dqn_lr", "dqn_momentum", "dqn_weight_decay", "dqn_batch_size", "dqn_lr_schedule", "dqn_lr_decay"}
_POLICY |= {"dqn_loss", "target_update", "tau", "replay_capacity", "epsilon_schedule", "epsilon_end"}
_POLICY |= {"epsilon_span", "epsilon_coin", "cuda_graph", "hidden_features", "kl_summary"}
_GAME = {"query_size", "candidate_sampling", "region_size", "edge", "segmenter_lr"}
_THETA0_PRIME = {"target_lr", "target_patience"}
_FULL = {"full_patience"}


class Content(NamedTuple):
    """Hashes of what a config names: the data set, and the files of weights and policy."""

    data: str
    weights: str | None
    policy: str | None


@dataclass(frozen=True)
class Cell:
    """One piece of work of one seed; θ0 and θ0′ have the config's first one."""

    kind: Kind
    config: Config
    seed: int
    method: str = ""  # of select and final
    budget: int = 0  # of final

    @property
    def name(self) -> str:
        """final-entropy-seed0-budget480"""
        parts = (self.kind, self.method, f"seed{self.seed}", f"budget{self.budget}" if self.budget else "")
        return "-".join(part for part in parts if part)

    @property
    def needs(self) -> list["Cell"]:
        """The cells that must be finished before."""
        first = self.config.seed
        theta0, theta0_prime = Cell("theta0", self.config, first), Cell("theta0_prime", self.config, first)
        learned = [Cell("learn", self.config, self.seed)] if self.method in POLICY_METHODS else []
        return {
            "theta0": [],
            "theta0_prime": [theta0],
            "full_supervision": [theta0],
            "learn": [theta0],
            "select": [theta0_prime, *learned],
            "final": [dataclasses.replace(self, kind="select", budget=0)],
        }[self.kind]

    def key(self, content: Content) -> str:
        """The cell's name in the store: its own name and a hash of what it depends on."""
        policy = content.policy if self.kind == "learn" or self.method in POLICY_METHODS else None
        settings = [__version__, self.depends_on(), content.data, content.weights, policy]
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        return f"{self.name}-{digest[:12]}"

    def depends_on(self) -> dict[str, Any]:
        """The options that the cell depends on."""
        left_out = _NEVER | self._irrelevant()
        return {name: value for name, value in self.config.to_json().items() if name not in left_out}

    def _irrelevant(self) -> set[str]:
        pretraining = _EVALUATION | _POLICY | _GAME
        after_theta0 = _THETA0_PRIME if self.config.gta5 else set()  # else θ0 is trained on D_S as θ0′ on D_T
        if self.kind == "theta0":
            return pretraining | _FULL | after_theta0
        if self.kind == "theta0_prime":
            return pretraining | _FULL
        if self.kind == "full_supervision":  # trained as θ0′ is, but for its patience
            return pretraining | (after_theta0 - {"target_lr"})
        if self.kind == "learn":
            return _EVALUATION | _FULL | after_theta0
        # The chosen regions don't depend on the options of the final training. But a selection also stores
        # the segmenters that the final trainings begin from, and these delete them: final trainings with
        # other options would find the selection without its segmenters. So those options count too.
        return _FULL | self._irrelevant_to_choosing()

    def _irrelevant_to_choosing(self) -> set[str]:
        choosing = {name for name in _EVALUATION if name.startswith("pool_size")}
        choosing |= {"num_mc_samples", "keep_learning"}
        own = f"pool_size_{self.method}"
        used = {own if own in choosing else "pool_size_other"}
        if self.method in ("ralis-all", "cheat"):  # look at everything
            used = set()
        used |= {"bald": {"num_mc_samples"}, "ralis": {"keep_learning"}}.get(self.method, set())
        return (choosing - used) | (set() if self.method in POLICY_METHODS else _POLICY)


def with_needs(cells: Iterable[Cell]) -> list[Cell]:
    """The cells and all that they need, each once, what is needed first."""
    ordered: dict[Cell, None] = {}
    for cell in cells:
        for needed in with_needs(cell.needs):
            ordered.setdefault(needed)
        ordered.setdefault(cell)
    return list(ordered)
