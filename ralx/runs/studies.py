"""The paper's experiments by name: which lines each compares, and what of them has to be computed."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

from ralx.acquisition.methods import PAPER_METHODS, uses_policy
from ralx.agent.ablation import FEATURES
from ralx.datasets import LAYOUTS
from ralx.runs.config import RunConfig
from ralx.runs.plan import Stages
from ralx.runs.presets import PAPER_AGENT, PUBLISHED_SWITCHES
from ralx.runs.stage import Stage, in_order

StudyName = Literal[
    "budget-curve",
    "per-class",
    "selected-classes",
    "selections",
    "upper-bound",
    "ablate-features",
    "ablate-regions",
    "ablate-k",
    "ablate-mc",
    "pool-sizes",
    "published-switches",
]
NAMES: tuple[StudyName, ...] = get_args(StudyName)


class Arm(NamedTuple):
    """One line of a study: a method, run with a config of its own."""

    label: str
    method: str
    config: RunConfig  # its i-th budget is shown at the study's i-th


def arm(label: str, method: str, config: RunConfig, **changes: Any) -> Arm:
    """`config` with `changes`, comparing this method alone."""
    policy = config.evaluation.policy if uses_policy(method) else None
    return Arm(label, method, config.changed(methods=(method,), policy=policy, **changes))


def compared_methods(config: RunConfig) -> list[Arm]:
    return [arm(method, method, config) for method in config.evaluation.methods]


def without_features(config: RunConfig) -> list[Arm]:
    """Appendix E.1. Hiding a part of the features, or summing the divergences up otherwise."""
    return [
        arm("ralis", "ralis", config),
        *(arm(f"no-{part}", "ralis", config, hidden_features=(part,)) for part in FEATURES),
        arm("no-kl", "ralis", config, hidden_features=("kl-labelled", "kl-unlabelled")),
        arm("kl-max", "ralis", config, kl_summary="max"),
        arm("kl-sum", "ralis", config, kl_summary="sum"),
    ]


def region_sizes(config: RunConfig) -> list[Arm]:
    """Appendix E.2. Regions half and twice as high and wide, and whole images, at equal pixels."""
    height, width = config.regions.region_size
    sizes = {
        "regions": (height, width),
        "half-regions": (height // 2, width // 2),
        "double-regions": (2 * height, 2 * width),
        "whole-images": image_size(config),
    }
    methods = ("ralis", "entropy", "uniform")
    return [
        _with_regions(f"{method}-{label}", method, config, size)
        for label, size in sizes.items()
        for method in methods
    ]


def _with_regions(label: str, method: str, config: RunConfig, size: tuple[int, int]) -> Arm:
    """The config with regions of another size, and as many fewer or more of them."""
    share = math.prod(size) / math.prod(config.regions.region_size)
    budgets = tuple(round(budget / share) for budget in config.evaluation.budgets)
    return arm(
        label,
        method,
        config,
        region_size=size,
        query_size=max(1, min(round(config.game.query_size / share), budgets[0])),
        budget=max(1, round(config.learning.budget / share)),
        budgets=budgets,
        # As many steps in the buffer as before.
        replay_capacity=max(config.agent.dqn_batch_size, round(config.agent.replay_capacity / share)),
    )


def image_size(config: RunConfig) -> tuple[int, int]:
    """Height and width of the data set's images at scale 1, as they are published."""
    name = config.data.dataset
    if name == "synthetic":
        return config.data.synthetic_image_size
    size = LAYOUTS[name].image_size if name in LAYOUTS else None
    if size is None:
        raise ValueError(f"dataset: must be one whose images are published in one size, got {name!r}")
    return size


def query_sizes(config: RunConfig) -> list[Arm]:
    """Appendix E.3. The effect of K: regions labelled per step."""
    k = config.game.query_size
    most = min(config.evaluation.budgets[0], config.learning.budget, config.agent.replay_capacity)
    sizes = [size for size in dict.fromkeys((k, k // 4, k // 2, 2 * k, 4 * k)) if 1 <= size <= most]
    return [arm(f"k-{size}", "ralis", config, query_size=size) for size in sizes]


def mc_passes(config: RunConfig) -> list[Arm]:
    """BALD with the paper's 20 passes, and with 100."""
    return [arm(f"bald-{passes}", "bald", config, num_mc_samples=passes) for passes in (20, 100)]


def pool_sizes(config: RunConfig) -> list[Arm]:
    """The size N of the pools on D_V, which the paper chooses for each method by its mIoU on D_R."""
    return [
        arm(f"{method}-n-{size}", method, config, **{f"pool_size_{method}": size})
        for method in PAPER_METHODS
        for size in (5, 10, 20, 50, 100)
    ]


def published_switches(config: RunConfig) -> list[Arm]:
    """What each departure of the published code does to the result, and all of them together: with the
    paper's agent and reward, which some of them change. Where all start stays what the config says."""
    config = config.changed(**PAPER_AGENT)
    changes = PUBLISHED_SWITCHES
    one_by_one = [
        arm(name.replace("_", "-"), "ralis", config, **{name: value}) for name, value in changes.items()
    ]
    return [
        arm("ralis", "ralis", config),
        *one_by_one,
        arm("all-switches", "ralis", config, **changes),
        arm("bald", "bald", config),
        arm("bald-no-train-dropout", "bald", config, train_dropout=False),
    ]


class Study(NamedTuple):
    title: str
    arms: Callable[[RunConfig], list[Arm]]
    trains: bool = True  # whether the final trainings are part of it
    baselines: tuple[str, ...] = ()  # what the others are compared with; none: the first line


BASELINES = ("uniform", "entropy", "bald")  # the paper's

STUDIES: dict[StudyName, Study] = {
    "budget-curve": Study("mIoU against budget (Fig. 4)", compared_methods, baselines=BASELINES),
    "per-class": Study("IoU by class (Table 1)", compared_methods, baselines=BASELINES),
    "selected-classes": Study("Which classes are selected (Fig. 3, App. C)", compared_methods, trains=False),
    "selections": Study("Chosen regions (Fig. 1, App. D)", compared_methods, trains=False),
    "upper-bound": Study("Full supervision", lambda config: []),
    "ablate-features": Study("State and action components (App. E.1)", without_features),
    "ablate-regions": Study("Regions and whole images (App. E.2)", region_sizes),
    "ablate-k": Study("Regions per step (App. E.3)", query_sizes),
    "ablate-mc": Study("MC-dropout passes of BALD", mc_passes),
    "pool-sizes": Study("Candidates in each pool", pool_sizes),
    "published-switches": Study("What the published code does otherwise", published_switches),
}


def plan_of(study: Study, config: RunConfig, *, full_seeds: Sequence[int]) -> list[Stage]:
    """What has to be computed, each stage after those that it needs: seed after seed, so that early on every
    line has something to show. One full supervision tells where the methods can get to; those of the other
    `full_seeds` come last."""
    stages = Stages(config)
    full = [stages.full_supervision(seed) for seed in full_seeds if study.trains]
    plan: list[Stage] = [stages.theta0_prime, *full[:1]]
    for seed in config.seeds:
        for arm in study.arms(config):
            mine = Stages(arm.config)
            plan.append(mine.select(arm.method, seed))
            budgets = arm.config.evaluation.budgets if study.trains else ()
            plan += [mine.final(arm.method, seed, budget) for budget in budgets]
    return in_order([*plan, *full[1:]])
