"""Every number of a run: one dataclass a concern, composed into the run's config.

Defaults are the paper's CamVid numbers, except where the published code has an error that ralx mends; each
such departure is a field of its own. Field names differ over all concerns, so that an option is known by its
name.
"""

import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from ralx.acquisition.methods import METHODS, PAPER_METHODS, uses_policy
from ralx.agent.ablation import FEATURES, Feature, KLSummary
from ralx.agent.dqn import EPSILON_END, EPSILON_SPAN
from ralx.datasets import DATASETS, SyntheticSizes
from ralx.features import KL_RANGE
from ralx.ops.arguments import Edge

MAY_BE_ZERO = (
    "seed dropout gamma segmenter_momentum segmenter_weight_decay dqn_momentum dqn_weight_decay "
    "epsilon_end epsilon_span rehearsal pretrain_images"
).split()


@dataclass(frozen=True)
class Concern:
    """A part of a run's config; refuses values that no run could use, naming the option."""

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if not isinstance(value, bool) and isinstance(value, int | float):
                self.require(math.isfinite(value), each.name, "must be finite")
                if each.name in MAY_BE_ZERO:
                    self.require(value >= 0, each.name, "must not be negative")
                else:
                    self.require(value > 0, each.name, "must be positive")
            if each.name in ("region_size", "crop_size", "cells", "synthetic_image_size", "synthetic_images"):
                self.require(all(n >= 1 for n in value), each.name, "every number must be at least 1")
        self.check()

    def check(self) -> None:
        """What goes beyond the numbers' signs."""

    def require(self, holds: bool, option: str, rule: str) -> None:
        if not holds:
            raise ValueError(f"{option}: {rule}, got {getattr(self, option)!r}")


@dataclass(frozen=True)
class DataConfig(Concern):
    """Where the images come from."""

    dataset: Annotated[str, arg(metavar=f"{{{','.join(DATASETS)}}}")] = "camvid"
    """Which data set the regions come from."""
    data: Path | None = None
    """Folder of the data set. `synthetic` has none."""
    gta5: Path | None = None
    """Folder of GTA5 for pretraining. Without it: synthetic scenes, then D_S."""
    split_lists: Path | None = None
    """JSON file of image names by split: d_t, d_v, d_s if wanted, d_r. none: the published lists."""
    scale: float = 1.0
    """Size of the images relative to the data set's own, in (0, 1]. Regions and crops scale along."""
    synthetic_image_size: tuple[int, int] = (96, 128)
    """Height and width in pixels of the synthetic data set's images."""
    synthetic_images: tuple[int, int, int, int, int] = (8, 40, 96, 24, 48)
    """Images of the synthetic data set in D_S, D_T, D_V, D_R and test."""
    pretrain_images: int = 300
    """Synthetic images for pretraining where GTA5 is not given. 0: none, so theta0 has seen D_S alone."""

    def check(self) -> None:
        self.require(self.dataset in DATASETS, "dataset", f"must be among {', '.join(DATASETS)}")
        self.require(0 < self.scale <= 1, "scale", "must be in (0, 1]")
        if self.dataset == "synthetic":
            rule = "must not be given with dataset synthetic, which"
            self.require(self.data is None, "data", f"{rule} is generated")
            self.require(self.split_lists is None, "split_lists", f"{rule} has splits of its own")

    def source(self) -> dict[str, Any]:
        """The arguments of `load_splits` and `check_data`."""
        sizes = SyntheticSizes(self.synthetic_image_size, *self.synthetic_images, self.pretrain_images)
        named = {"name": self.dataset, "root": self.data, "scale": self.scale, "gta5": self.gta5}
        return named | {"split_lists": self.split_lists, "sizes": sizes}


@dataclass(frozen=True)
class SegmenterConfig(Concern):
    """The segmentation network, and how it computes."""

    segmenter: str = "fpn-resnet50"
    """fpn-resnet50, fpn-resnet34, fpn-resnet18, fpn-mobilenetv2, fpn-small, or package.module:factory."""
    weights: Path | None = None
    """Initial weights of the segmenter: a safetensors or torch file, torchvision's of the encoder too."""
    dropout: float | None = None
    """Dropout probability before the classifier; none: the network's own."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the segmenter. auto: bfloat16 autocast on CUDA, float32 on the CPU."""
    compile: bool = False
    """Compile the segmenter with torch.compile. Results differ in the last bits."""
    inference_batch_size: int = 16
    """Images per forward pass where nothing is learned."""

    def check(self) -> None:
        self.require(self.dropout is None or 0 <= self.dropout < 1, "dropout", "must be in [0, 1)")


@dataclass(frozen=True)
class TrainingConfig(Concern):
    """Every training of the segmenter."""

    crop_size: tuple[int, int] = (224, 224)
    """Height and width of a training crop in pixels, at scale 1."""
    batch_size: int = 32
    """Crops per training batch of the segmenter."""
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
    train_dropout: bool = True
    """Train the segmenter with dropout. Without (published), only BALD's passes use it."""


@dataclass(frozen=True)
class PretrainingConfig(Concern):
    """Trainings before the game. Patience: epochs without a better mIoU on D_R before a training stops and
    takes its best weights. none: it goes on to the last epoch and keeps those weights, which suits a learning
    rate that falls to almost nothing."""

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
    max_epochs: int = 1000
    """Most epochs of any training; all of them where its patience is none."""


@dataclass(frozen=True)
class FinalConfig(Concern):
    """The training on the labelled regions, whose mIoU is compared."""

    final_lr: float | None = None
    """Learning rate of the final training on the labelled regions; none: it goes on with `segmenter_lr`."""
    final_lr_decay: float | None = None
    """Its factor per epoch, applied twice; none: `segmenter_lr_decay`."""
    final_patience: int | None = 150
    """Patience of the final training on the labelled regions, in epochs; none: train to the last one."""
    final_max_epochs: int | None = None
    """Lower cap on the epochs of the final training; none: `max_epochs` alone."""
    rehearsal: int = 0
    """Crops of every image of D_T in every epoch of the final training, among those around chosen regions, so
    that the segmenter keeps what it learned there. The paper trains on the chosen regions alone."""


@dataclass(frozen=True)
class RegionConfig(Concern):
    """What is labelled."""

    region_size: tuple[int, int] = (90, 80)
    """Height and width of a region in pixels, at scale 1."""
    edge: Edge = "drop"
    """Pixels that whole regions leave over at the right and bottom: drop them, or keep them as ragged
    regions, smaller ones."""


@dataclass(frozen=True)
class GameConfig(Concern):
    """The game, while the policy is learned and where the methods are compared."""

    query_size: int = 24
    """K: regions labelled per step."""
    candidate_sampling: Literal["regions", "images"] = "regions"
    """Candidates uniform over regions (the paper), or from few uniformly drawn images (published)."""
    segmenter_lr: float = 1e-3
    """Learning rate of the segmenter on labelled regions."""


@dataclass(frozen=True)
class LearningConfig(Concern):
    """How the policy is learned on D_T."""

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
    epsilon_end: float = EPSILON_END
    """Share of random sub-actions at the end of the exploration."""
    epsilon_span: float = EPSILON_SPAN
    """Share of random sub-actions at its start, above the end."""
    epsilon_coin: Literal["sub-action", "step"] = "sub-action"
    """Each sub-action explores by itself, or one coin decides for all K (published)."""

    def check(self) -> None:
        whole = self.epsilon_end + self.epsilon_span <= 1
        self.require(whole, "epsilon_span", "must stay below 1 - epsilon_end")
        if self.reward == "mistakes":
            rule = "must be gain where reward is mistakes, which knows no first step"
            self.require(self.first_reward == "gain", "first_reward", rule)


@dataclass(frozen=True)
class FeatureConfig(Concern):
    """What the query network sees."""

    cells: tuple[int, int] = (8, 8)
    """Cells that a region's entropies are pooled in; fewer where these leave out over 15 % of the region."""
    kl_bins: int = 32
    """Bins of each of the two KL histograms."""
    kl_range: Literal["fixed", "minmax"] = "fixed"
    """Bins of the KL histograms: from 0 to `kl_max`, or each candidate's own min..max (published)."""
    kl_max: float = KL_RANGE[1]
    """Upper end of the fixed KL range, in nats."""
    class_features: Literal["fraction", "count"] = "fraction"
    """Class histogram as a fraction of the region, or raw counts with 1e-7 for absent classes (published)."""
    hidden_features: tuple[Feature, ...] = ()
    """Features that the query network sees as zeros, to learn what they are worth (the paper's appendix E.1):
    state-entropy, state-classes, action-entropy, action-classes, kl-labelled, kl-unlabelled."""
    kl_summary: KLSummary = "histogram"
    """The divergences from the labelled and from the unlabelled regions as two histograms, or each as its
    largest or summed divergence in the place of the first bin (the paper's alternatives)."""
    cuda_graph: bool = False
    """Launch the segmenter and the features of its regions as one CUDA graph."""

    def check(self) -> None:
        known = set(self.hidden_features) <= set(FEATURES)
        self.require(known, "hidden_features", f"must be among {', '.join(FEATURES)}")


@dataclass(frozen=True)
class AgentConfig(Concern):
    """The query network and how it is trained."""

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
    """constant; episode: falls by `dqn_lr_decay` per step and starts anew each episode; run: falls per step
    and never starts anew (published)."""
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

    def check(self) -> None:
        self.require(0 <= self.gamma <= 1, "gamma", "must be in [0, 1]")
        self.require(self.dqn_lr_decay <= 1, "dqn_lr_decay", "must be at most 1")
        self.require(self.tau is None or 0 < self.tau <= 1, "tau", "must be in (0, 1]")
        rule = f"must be at most replay_capacity, which is {self.replay_capacity}"
        self.require(self.dqn_batch_size <= self.replay_capacity, "dqn_batch_size", rule)


def _methods_help() -> str:
    lines = [f"{name}: {method.help}" for name, method in METHODS.items()]
    own = "Or an acquisition function of your own, package.module:function, see examples/own_method.py."
    return f"Methods to compare. {'; '.join(lines)}. {own}"


@dataclass(frozen=True)
class EvaluationConfig(Concern):
    """What is compared."""

    methods: Annotated[tuple[str, ...], arg(help=_methods_help())] = PAPER_METHODS
    budgets: tuple[int, ...] = (480, 720, 960, 1200, 1440, 1920)
    """Regions labelled on D_V at which the methods are compared, ascending."""
    policy: Path | None = None
    """Compare this learned policy instead of learning one."""
    keep_learning: bool = False
    """The learned policy goes on learning on D_V, from the labels that it asked for. Needs `reward` mistakes,
    which any label tells."""
    pool_size_ralis: int = METHODS["ralis"].pool_size
    """N of the learned policy on D_V."""
    pool_size_entropy: int = METHODS["entropy"].pool_size
    """N of entropy sampling on D_V."""
    pool_size_bald: int = METHODS["bald"].pool_size
    """N of BALD on D_V."""
    pool_size_uniform: int = METHODS["uniform"].pool_size
    """N of uniform sampling on D_V."""
    pool_size_other: int = 10
    """N on D_V of the other methods that pick within pools."""
    num_mc_samples: int = 20
    """MC-dropout passes of BALD."""

    def check(self) -> None:
        self.require(
            len(self.budgets) > 0 and self.budgets[0] > 0, "budgets", "needs positive numbers of regions"
        )
        ascending = all(a < b for a, b in zip(self.budgets, self.budgets[1:], strict=False))
        self.require(ascending, "budgets", "must ascend")
        self.require(len(self.methods) > 0, "methods", "needs at least one method")
        self.require(len(set(self.methods)) == len(self.methods), "methods", "must not repeat")
        known = all(method in METHODS or ":" in method for method in self.methods)
        self.require(known, "methods", f"must be among {', '.join(METHODS)}, or package.module:function")
        if "bald" in self.methods:
            rule = "must be at least 2 while bald is among the methods: one pass can't disagree with itself"
            self.require(self.num_mc_samples >= 2, "num_mc_samples", rule)
        if not self.uses_policy:
            rule = "must not be given unless ralis or ralis-all is among the methods"
            self.require(self.policy is None, "policy", rule)

    @property
    def uses_policy(self) -> bool:
        """Whether a method among `methods` chooses by the learned policy."""
        return any(map(uses_policy, self.methods))

    @property
    def pool_sizes(self) -> dict[str, int]:
        """N by method; "other" for those that aren't named."""
        prefix = "pool_size_"
        return {name.removeprefix(prefix): n for name, n in vars(self).items() if name.startswith(prefix)}


@dataclass(frozen=True)
class RunConfig:
    """What a run computes. Equal configs on one machine give equal results."""

    seed: int = 0
    """First seed."""
    num_seeds: int = 5
    """Seeds S, S+1, ...; each covers a policy, the selections and the final trainings of all methods."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    data: DataConfig = field(default_factory=DataConfig)
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    regions: RegionConfig = field(default_factory=RegionConfig)
    game: GameConfig = field(default_factory=GameConfig)
    learning: LearningConfig = field(default_factory=LearningConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    pretraining: PretrainingConfig = field(default_factory=PretrainingConfig)
    final: FinalConfig = field(default_factory=FinalConfig)

    def __post_init__(self) -> None:
        """Refuse values that contradict each other: one of them would be ignored without a word."""
        if self.seed < 0 or self.num_seeds < 1:
            name, rule = (
                ("seed", "must not be negative") if self.seed < 0 else ("num_seeds", "must be positive")
            )
            raise ValueError(f"{name}: {rule}, got {getattr(self, name)}")
        budget, first, capacity = self.learning.budget, self.evaluation.budgets[0], self.agent.replay_capacity
        for most, what in (
            (budget, f"budget, which is {budget}"),
            (first, f"the first of budgets, {first}"),
            (capacity, f"replay_capacity, which is {capacity}"),
        ):
            self.game.require(self.game.query_size <= most, "query_size", f"must be at most {what}")
        tells = self.learning.reward == "mistakes" or not self.evaluation.keep_learning
        rule = f"needs reward mistakes, not {self.learning.reward}"
        self.evaluation.require(tells, "keep_learning", rule)
        if "bald" in self.evaluation.methods:
            rule = "must not be 0 while bald is among the methods"
            self.segmenter.require(self.segmenter.dropout != 0, "dropout", rule)

    @property
    def seeds(self) -> range:
        return range(self.seed, self.seed + self.num_seeds)

    def options(self) -> dict[str, Any]:
        """Every option by its name."""
        return {name: getattr(owner, name) for owner, name in self._owners()}

    def changed(self, **options: Any) -> "RunConfig":
        """This config with other values of these options."""
        unknown = options.keys() - self.options().keys()
        if unknown:
            raise ValueError(f"no option is called {', '.join(sorted(unknown))}")
        changes: dict[str, Any] = {}
        for name, value in vars(self).items():
            if not isinstance(value, Concern):
                changes[name] = options.get(name, value)
            elif mine := {each: options[each] for each in vars(value) if each in options}:
                changes[name] = dataclasses.replace(value, **mine)
        return dataclasses.replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Every option as a JSON value."""
        return json.loads(json.dumps(self.options(), default=str))

    def _owners(self) -> Iterator[tuple[Any, str]]:
        for name, value in vars(self).items():
            if isinstance(value, Concern):
                yield from ((value, each) for each in vars(value))
            else:
                yield self, name
