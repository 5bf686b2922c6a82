"""Every number of a run in one flat dataclass, and the presets that fill it.

Defaults are the paper's CamVid numbers, except where the published code has an error that ralx
mends; each such departure is a field of its own, and `published` turns all of them back.
"""

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ralx.agent.ablation import FEATURES, Feature, KLSummary
from ralx.ops.arguments import Edge

Method = Literal[
    "ralis",
    "entropy",
    "bald",
    "uniform",
    "margin",
    "least-confidence",
    "ripu",
    "class-balanced",
    "k-centre",
    "stratified",
    "ralis-all",
    "cheat",
]
METHODS: tuple[Method, ...] = get_args(Method)
PAPER_METHODS = METHODS[:4]
POLICY_METHODS = ("ralis", "ralis-all")  # choose by the learned policy


@dataclass(frozen=True)
class Config:
    """What a run computes. Equal configs on one machine give equal results."""

    preset: Literal["synthetic", "camvid-small", "camvid-half", "camvid", "cityscapes"] = "camvid"
    """The preset that the other values start from."""
    published: bool = False
    """Run as the paper prints it and its code behaves: turns every named departure below on."""

    # Data
    dataset: Literal["synthetic", "camvid", "cityscapes"] = "camvid"
    """Which data set the regions come from."""
    data: Path | None = None
    """Folder of the data set. `synthetic` has none."""
    gta5: Path | None = None
    """Folder of GTA5 for pretraining. Without it: synthetic scenes, then D_S."""
    split_lists: Path | None = None
    """JSON file of image names by split: d_t, d_v, d_s if wanted, d_r. none: the published lists."""
    scale: float = 1.0
    """Size of the images relative to the data set's own, in (0, 1]. Regions and crops scale along."""
    region_size: tuple[int, int] = (90, 80)
    """Height and width of a region in pixels, at scale 1."""
    edge: Edge = "drop"
    """Pixels that whole regions leave over at the right and bottom: drop them, or keep them as ragged
    regions, smaller ones."""
    synthetic_image_size: tuple[int, int] = (96, 128)
    """Height and width in pixels of the synthetic data set's images."""
    synthetic_images: tuple[int, int, int, int, int] = (8, 40, 96, 24, 48)
    """Images of the synthetic data set in D_S, D_T, D_V, D_R and test."""
    pretrain_images: int = 300
    """Synthetic images for pretraining where GTA5 is not given. 0: none, so theta0 has seen D_S alone."""

    # Segmenter
    segmenter: str = "fpn-resnet50"
    """fpn-resnet50, fpn-resnet34, fpn-resnet18, fpn-mobilenetv2, fpn-small, or package.module:factory."""
    weights: Path | None = None
    """Initial weights of the segmenter: a safetensors or torch file, torchvision's of the encoder too."""
    dropout: float | None = None
    """Dropout probability before the classifier; none: the network's own."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the segmenter. auto: bfloat16 autocast on CUDA, float32 on the CPU."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    compile: bool = False
    """Compile the segmenter with torch.compile. Results differ in the last bits."""
    cuda_graph: bool = False
    """Launch the segmenter and the features of its regions as one CUDA graph."""
    crop_size: tuple[int, int] = (224, 224)
    """Height and width of a training crop in pixels, at scale 1."""
    batch_size: int = 32
    """Crops per training batch of the segmenter."""
    inference_batch_size: int = 16
    """Images per forward pass where nothing is learned."""
    segmenter_lr: float = 1e-3
    """Learning rate of the segmenter on labelled regions."""
    segmenter_momentum: float = 0.95
    """SGD momentum of the segmenter."""
    segmenter_weight_decay: float = 1e-4
    """L2 penalty of the segmenter."""
    segmenter_clip_norm: float = 4.0
    """Largest norm of the segmenter's gradient."""
    segmenter_lr_decay: float = 0.998
    """Factor of the learning rate per epoch, applied twice as in the published code."""
    loss_weights: Literal["equal", "rarity"] = "equal"
    """What a pixel counts in the segmenter's loss. equal: all the same (paper). rarity: 1 / sqrt(C x its
    class's share of the pixels of D_T, or of what a segmenter is pretrained on)."""

    # Pretraining and final training. Patience: epochs without a better mIoU on D_R before a training stops
    # and takes its best weights. none: it goes on to the last epoch and keeps those, which suits a learning
    # rate that falls to almost nothing.
    source_lr: float = 5e-3
    """Learning rate of pretraining on GTA5 or the synthetic scenes."""
    source_patience: int | None = 30
    """Patience of that pretraining, in epochs; none: train to the last one."""
    target_lr: float = 5e-4
    """Learning rate of pretraining on the data set's own images: D_S (theta0 without GTA5), D_T (theta0') and
    full supervision."""
    target_patience: int | None = 30
    """Patience of the pretraining on D_S and D_T, in epochs; none: train to the last one."""
    full_patience: int | None = 30
    """Patience of full supervision, in epochs; none: train to the last one."""
    final_lr: float | None = None
    """Learning rate of the final training on the labelled regions; none: it goes on with `segmenter_lr`."""
    rehearsal: int = 0
    """Crops of every image of D_T in every epoch of the final training, among those around chosen regions, so
    that the segmenter keeps what it learned there. The paper trains on the chosen regions alone."""
    final_lr_decay: float | None = None
    """Its factor per epoch, applied twice; none: `segmenter_lr_decay`."""
    final_patience: int | None = 150
    """Patience of the final training on the labelled regions, in epochs; none: train to the last one."""
    max_epochs: int = 1000
    """Most epochs of any training; all of them where its patience is none."""
    final_max_epochs: int | None = None
    """Lower cap on the epochs of the final training; none: `max_epochs` alone."""

    # The game
    query_size: int = 24
    """K: regions labelled per step."""
    pool_size: int = 20
    """N: candidates per sub-action while the query network learns."""
    budget: int = 480
    """Regions labelled per episode while the query network learns."""
    episodes: int = 100
    """Episodes that the query network learns from."""
    candidate_sampling: Literal["regions", "images"] = "regions"
    """Candidates uniform over regions (the paper), or from few uniformly drawn images (published)."""
    cells: tuple[int, int] = (8, 8)
    """Cells that a region's entropies are pooled in; fewer where these leave out over 15 % of the region."""
    kl_bins: int = 32
    """Bins of each of the two KL histograms."""
    kl_range: Literal["fixed", "minmax"] = "fixed"
    """Bins of the KL histograms: from 0 to `kl_max`, or each candidate's own min..max (published)."""
    kl_max: float = 16.2
    """Upper end of the fixed KL range, in nats."""
    class_features: Literal["fraction", "count"] = "fraction"
    """Class histogram as a fraction of the region, or raw counts with 1e-7 for absent classes (published)."""
    hidden_features: tuple[Feature, ...] = ()
    """Features that the query network sees as zeros, to learn what they are worth (the paper's appendix E.1):
    state-entropy, state-classes, action-entropy, action-classes, kl-labelled, kl-unlabelled."""
    kl_summary: KLSummary = "histogram"
    """The divergences from the labelled and from the unlabelled regions as two histograms, or each as its
    largest or summed divergence in the place of the first bin (the paper's alternatives)."""
    reward: Literal["miou", "mistakes"] = "miou"
    """What a sub-action, the choice of one region, is rewarded for. miou: the whole step's gain in mIoU on
    D_R, one number for all K sub-actions (paper). mistakes: the share of the region's pixels that the
    segmenter predicted wrongly before it saw their label; each pixel is weighted by 1 / sqrt(C x its class's
    share of D_T), unless the loss weighs the classes already."""
    reward_scale: float = 100.0
    """The reward is this times the gain or the share, which are fractions: 100 counts points."""
    first_reward: Literal["gain", "whole"] = "gain"
    """First reward of an episode: the gain over theta0, or the whole mIoU (published)."""

    # Query network
    policy: Path | None = None
    """Compare this learned policy instead of learning one."""
    dueling: bool = False
    """Dueling query network: a value of the state plus an advantage of the action."""
    dqn_lr: float = 1e-3
    """Learning rate of the query network."""
    dqn_momentum: float = 0.95
    """SGD momentum of the query network."""
    dqn_weight_decay: float = 1e-3
    """L2 penalty of the query network."""
    dqn_batch_size: int = 16
    """Sub-transitions per update of the query network."""
    dqn_lr_schedule: Literal["constant", "episode", "run"] = "constant"
    """constant; episode: falls by `dqn_lr_decay` per step and starts anew each episode; run: never does
    (published)."""
    dqn_lr_decay: float = 0.97
    """Factor of the query network's learning rate per step, unless it is constant."""
    updates_per_step: int = 1
    """Updates of the query network per step."""
    gamma: float = 0.999
    """Discount per step."""
    n_step: int = 1
    """Steps of reward before the return is bootstrapped."""
    dqn_loss: Literal["huber", "squared"] = "huber"
    """Loss of the TD error."""
    double_dqn: Literal["standard", "paper"] = "standard"
    """standard: the query network selects and the target network evaluates. paper: the other way round."""
    target_update: int = 5
    """Steps between hard copies into the target network."""
    tau: float | None = None
    """Share of the query network mixed into the target at each update; replaces the hard copies."""
    replay_capacity: int = 600
    """Sub-transitions that the replay buffer holds."""
    epsilon_schedule: Literal["episode", "step"] = "episode"
    """Exploration decays over the episodes, or with a time constant of 10 steps (published)."""
    epsilon_end: float = 0.05
    """Share of random sub-actions at the end of the exploration."""
    epsilon_span: float = 0.85
    """Share of random sub-actions at its start, above the end."""
    epsilon_coin: Literal["sub-action", "step"] = "sub-action"
    """Each sub-action explores by itself, or one coin decides for all K (published)."""

    # Evaluation
    budgets: tuple[int, ...] = (480, 720, 960, 1200, 1440, 1920)
    """Regions labelled on D_V at which the methods are compared, ascending."""
    methods: tuple[str, ...] = PAPER_METHODS
    """Methods to compare. The paper's: ralis, the learned policy; entropy; bald; uniform. Others that pick
    within pools: margin, least-confidence; ripu, impurity x entropy; class-balanced, entropy x predicted
    classes / sqrt(their share of the known labels); k-centre, a batch far apart in class distribution;
    stratified, random with a turn for every predicted class. Of all that is unlabelled: ralis-all, the
    highest Q; cheat, a ceiling that sees the hidden labels: most mistaken pixels, weighted as in `reward`.
    Or an acquisition function of your own, package.module:function, see examples/own_method.py."""
    keep_learning: bool = False
    """The learned policy goes on learning on D_V, from the labels that it asked for. Needs `reward` mistakes,
    which any label tells."""
    pool_size_ralis: int = 10
    """N of the learned policy on D_V."""
    pool_size_entropy: int = 10
    """N of entropy sampling on D_V."""
    pool_size_bald: int = 10
    """N of BALD on D_V."""
    pool_size_uniform: int = 50
    """N of uniform sampling on D_V."""
    pool_size_other: int = 10
    """N on D_V of the other methods that pick within pools."""
    num_mc_samples: int = 20
    """MC-dropout passes of BALD."""
    train_dropout: bool = True
    """Train the segmenter with dropout. Without (published), only BALD's passes use it."""

    # Seeds
    seed: int = 0
    """First seed."""
    num_seeds: int = 5
    """Seeds S, S+1, ...; each covers a policy, the selections and the final trainings of all methods."""

    def __post_init__(self) -> None:
        self._check()

    def _check(self) -> None:
        """Refuse values that no run could use, naming the option."""

        def require(holds: bool, option: str, rule: str) -> None:
            if not holds:
                value = getattr(self, option)
                raise ValueError(f"{option}: {rule}, got {value!r}")

        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            require(math.isfinite(value), field.name, "must be finite")
            if field.name in _MAY_BE_ZERO:
                require(value >= 0, field.name, "must not be negative")
            else:
                require(value > 0, field.name, "must be positive")
        require(0 < self.scale <= 1, "scale", "must be in (0, 1]")
        require(self.dropout is None or 0 <= self.dropout < 1, "dropout", "must be in [0, 1)")
        require(0 <= self.gamma <= 1, "gamma", "must be in [0, 1]")
        require(self.dqn_lr_decay <= 1, "dqn_lr_decay", "must be at most 1")
        require(self.epsilon_end + self.epsilon_span <= 1, "epsilon_span", "must stay below 1 - epsilon_end")
        tells = self.reward == "mistakes"
        require(tells or not self.keep_learning, "keep_learning", f"needs reward mistakes, not {self.reward}")
        require(self.tau is None or 0 < self.tau <= 1, "tau", "must be in (0, 1]")
        for name in ("region_size", "crop_size", "cells", "synthetic_image_size", "synthetic_images"):
            require(all(n >= 1 for n in getattr(self, name)), name, "every number must be at least 1")
        require(len(self.budgets) > 0 and self.budgets[0] > 0, "budgets", "needs positive numbers of regions")
        ascending = all(a < b for a, b in zip(self.budgets, self.budgets[1:], strict=False))
        require(ascending, "budgets", "must ascend")
        unknown_features = set(self.hidden_features) - set(FEATURES)
        require(not unknown_features, "hidden_features", f"must be among {', '.join(FEATURES)}")
        require(len(self.methods) > 0, "methods", "needs at least one method")
        require(len(set(self.methods)) == len(self.methods), "methods", "must not repeat")
        own = all(method in METHODS or ":" in method for method in self.methods)
        require(own, "methods", f"must be among {', '.join(METHODS)}, or package.module:function")
        self._check_together(require)

    def _check_together(self, require: Callable[[bool, str, str], None]) -> None:
        """Refuse values that contradict each other: one of them would be ignored without a word."""
        if self.dataset == "synthetic":
            require(self.data is None, "data", "must not be given with dataset synthetic, which is generated")
            rule = "must not be given with dataset synthetic, which has splits of its own"
            require(self.split_lists is None, "split_lists", rule)
        k = self.query_size
        require(k <= self.budget, "query_size", f"must be at most budget, which is {self.budget}")
        require(
            k <= self.budgets[0], "query_size", f"must be at most the first of budgets, {self.budgets[0]}"
        )
        capacity = self.replay_capacity
        require(k <= capacity, "query_size", f"must be at most replay_capacity, which is {capacity}")
        rule = f"must be at most replay_capacity, which is {capacity}"
        require(self.dqn_batch_size <= capacity, "dqn_batch_size", rule)
        if self.reward == "mistakes":
            rule = "must be gain where reward is mistakes, which knows no first step"
            require(self.first_reward == "gain", "first_reward", rule)
        if "bald" in self.methods:
            require(self.dropout != 0, "dropout", "must not be 0 while bald is among the methods")
            rule = "must be at least 2 while bald is among the methods: one pass can't disagree with itself"
            require(self.num_mc_samples >= 2, "num_mc_samples", rule)
        if not self.uses_policy:
            rule = f"must not be given unless {' or '.join(POLICY_METHODS)} is among the methods"
            require(self.policy is None, "policy", rule)

    @property
    def seeds(self) -> range:
        return range(self.seed, self.seed + self.num_seeds)

    @property
    def uses_policy(self) -> bool:
        """Whether a method among `methods` chooses by the learned policy."""
        return not set(self.methods).isdisjoint(POLICY_METHODS)

    @property
    def steps_to_learn(self) -> int:
        """Steps of all episodes of one seed."""
        return self.episodes * math.ceil(self.budget / self.query_size)

    def pool_size_of(self, method: str) -> int:
        return getattr(self, f"pool_size_{method}", self.pool_size_other)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return json.loads(json.dumps(dataclasses.asdict(self), default=str))


_MAY_BE_ZERO = (
    "seed dropout gamma segmenter_momentum segmenter_weight_decay dqn_momentum dqn_weight_decay "
    "epsilon_end epsilon_span rehearsal pretrain_images"
).split()


def _defaults(*names: str) -> dict[str, Any]:
    return {name: getattr(Config, name) for name in names}


# The paper's own rules, whatever a preset has: of the agent, and of the segmenter's training.
PAPER_AGENT = _defaults("reward", "reward_scale", "gamma", "keep_learning", "dqn_weight_decay")
PAPER_RULES = PAPER_AGENT | _defaults("loss_weights", "rehearsal")

_PATIENCES = ("source_patience", "target_patience", "full_patience", "final_patience")

# Every `S` departure of the published code (PAPER.md section 3) in one place.
PUBLISHED_SWITCHES: dict[str, Any] = dict(
    first_reward="whole",
    dqn_lr_schedule="run",
    epsilon_schedule="step",
    epsilon_coin="step",
    train_dropout=False,
    class_features="count",
    kl_range="minmax",
    candidate_sampling="images",
)


def _camvid() -> Config:
    return Config()


def _cityscapes() -> Config:
    return Config(
        preset="cityscapes",
        dataset="cityscapes",
        region_size=(128, 128),
        crop_size=(256, 512),
        batch_size=16,
        inference_batch_size=4,
        segmenter_lr=1e-4,
        source_lr=1e-4,
        target_lr=1e-4,
        target_patience=50,
        full_patience=50,
        final_patience=60,
        query_size=256,
        budget=3840,
        episodes=50,
        dqn_lr=1e-4,
        replay_capacity=3200,
        budgets=(1920, 3840, 7680, 11520, 19200, 30720),
        pool_size_ralis=100,
        pool_size_entropy=200,
        pool_size_bald=200,
        pool_size_uniform=500,
        pool_size_other=200,
    )


def _camvid_small() -> Config:
    """CamVid at a quarter of its size with a small segmenter: two cores are enough."""
    return dataclasses.replace(
        _camvid(),
        preset="camvid-small",
        scale=0.25,
        segmenter="fpn-small",
        batch_size=8,
        inference_batch_size=32,
        source_lr=1e-1,
        target_lr=1e-1,
        segmenter_lr=5e-3,
        segmenter_lr_decay=0.995,
        loss_weights="rarity",
        source_patience=40,
        target_patience=None,
        full_patience=None,
        max_epochs=400,
        rehearsal=5,
        final_lr=5e-2,
        final_lr_decay=0.96,
        final_patience=None,
        final_max_epochs=40,
        episodes=12,
        reward="mistakes",
        reward_scale=10.0,
        gamma=0.0,
        keep_learning=True,
        dqn_weight_decay=0.3,
        dqn_batch_size=32,
        updates_per_step=4,
        replay_capacity=6000,
        budgets=(240, 480, 960),
        num_seeds=2,
    )


def _camvid_half() -> Config:
    """CamVid at half its size, for an encoder with ImageNet's `weights` that two cores can train."""
    return dataclasses.replace(
        _camvid_small(),
        preset="camvid-half",
        scale=0.5,
        segmenter="fpn-mobilenetv2",
        inference_batch_size=16,
        pretrain_images=0,
        target_lr=2e-2,
        segmenter_lr=2e-3,
        segmenter_lr_decay=0.98,
        max_epochs=100,
        rehearsal=1,
        final_lr=1e-2,
        final_lr_decay=0.85,
        final_max_epochs=9,
        episodes=6,
    )


def _synthetic() -> Config:
    """Generated street scenes: the whole system in a few minutes on two cores."""
    return dataclasses.replace(
        _camvid_small(),
        preset="synthetic",
        dataset="synthetic",
        scale=1.0,
        region_size=(24, 32),
        crop_size=(64, 64),
        pretrain_images=96,
        source_lr=2e-2,
        target_lr=2e-2,
        segmenter_lr=1e-3,
        final_lr=5e-3,
        segmenter_lr_decay=0.985,
        source_patience=15,
        target_patience=15,
        full_patience=15,
        final_lr_decay=None,
        final_patience=20,
        final_max_epochs=None,
        max_epochs=60,
        query_size=8,
        pool_size=10,
        budget=80,
        episodes=16,
        budgets=(32, 64, 128),
        dqn_batch_size=16,
        updates_per_step=2,
        target_update=20,
        replay_capacity=400,
        **PAPER_RULES,
    )


PRESETS = {
    "synthetic": _synthetic,
    "camvid-small": _camvid_small,
    "camvid-half": _camvid_half,
    "camvid": _camvid,
    "cityscapes": _cityscapes,
}


def preset(name: str, *, published: bool = False) -> Config:
    """The config of a preset; `published` turns every named departure of the published code on.

    Raises ValueError where no preset has that name.
    """
    if name not in PRESETS:
        raise ValueError(f"preset: must be one of {', '.join(PRESETS)}, got {name!r}")
    config = PRESETS[name]()
    if not published:
        return config
    crop_size = (224, 224) if name == "cityscapes" else config.crop_size
    early = (name for name in _PATIENCES if getattr(config, name) is None)
    changes = PAPER_RULES | PUBLISHED_SWITCHES | _defaults(*early)
    return dataclasses.replace(config, published=True, crop_size=crop_size, **changes)
