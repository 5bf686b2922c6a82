"""Which options of a config a stage depends on, for the keys that finished work is found again by.

Listed are the options that do *not* count for a stage. An option that nobody has listed counts everywhere, so
that a forgotten one costs time and never serves a stale result.
"""

from typing import Any, Literal

from ralx.config import POLICY_METHODS, Config

Pretrained = Literal["synthetic", "theta0", "theta0_prime", "full_supervision"]
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


def depends_on(config: Config, kind: Kind | Pretrained, method: str = "") -> dict[str, Any]:
    """The options, as JSON values, that a stage of this kind depends on; `method` of select and final."""
    left_out = _NEVER | _irrelevant(config, kind, method)
    return {name: value for name, value in config.to_json().items() if name not in left_out}


def _irrelevant(config: Config, kind: Kind | Pretrained, method: str) -> set[str]:
    pretraining = _EVALUATION | _POLICY | _GAME
    after_theta0 = _THETA0_PRIME if config.gta5 else set()  # else θ0 is trained on D_S as θ0′ on D_T
    if kind == "synthetic":  # generated scenes, before θ0
        return pretraining | _FULL | _THETA0_PRIME
    if kind == "theta0":
        return pretraining | _FULL | after_theta0
    if kind == "theta0_prime":
        return pretraining | _FULL
    if kind == "full_supervision":  # trained as θ0′ is, but for its patience
        return pretraining | (after_theta0 - {"target_lr"})
    if kind == "learn":
        return _EVALUATION | _FULL | after_theta0
    # The chosen regions don't depend on the options of the final training. But a selection also stores the
    # segmenters that the final trainings begin from, and these delete them: final trainings with other
    # options would find the selection without its segmenters. So those options count too.
    return _FULL | _irrelevant_to_choosing(method)


def _irrelevant_to_choosing(method: str) -> set[str]:
    choosing = {name for name in _EVALUATION if name.startswith("pool_size")}
    choosing |= {"num_mc_samples", "keep_learning"}
    own = f"pool_size_{method}"
    used = {own if own in choosing else "pool_size_other"}
    if method in ("ralis-all", "cheat"):  # look at everything
        used = set()
    used |= {"bald": {"num_mc_samples"}, "ralis": {"keep_learning"}}.get(method, set())
    if ":" in method:  # a function of the user's gets this too
        used |= {"num_mc_samples"}
    return (choosing - used) | (set() if method in POLICY_METHODS else _POLICY)
