"""Every number of a run: one dataclass a concern, composed into the run's config.

Defaults are the paper's CamVid numbers, except where the published code has an error that ralx mends; each
such departure is a field of its own. Field names differ over all concerns, so that an option is known by its
name.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from ralx.acquisition.methods import METHODS, PAPER_METHODS, uses_policy
from ralx.agent.dqn import AgentConfig
from ralx.datasets import DATASETS, OWN, SyntheticSizes
from ralx.game.game import GameConfig, RegionConfig
from ralx.game.learn import LearningConfig
from ralx.game.observer import FeatureConfig
from ralx.segmentation import TrainingConfig
from ralx.support.options import Concern


@dataclass(frozen=True)
class DataConfig(Concern):
    """Where the images come from."""

    may_be_zero = ("pretrain_images",)

    dataset: Annotated[str, arg(metavar=f"{{{','.join(DATASETS)}}}")] = "camvid"
    """Which data set the regions come from."""
    data: Path | None = None
    """Folder of the data set. `synthetic` has none."""
    gta5: Path | None = None
    """Folder of GTA5 for pretraining. Without it: synthetic scenes, then D_S."""
    split_lists: Path | None = None
    """JSON file of image names by split: d_t, d_v, d_s if wanted, d_r, and test of dataset folder. none: the
    published lists; dataset folder is split by `seed`."""
    classes: Path | None = None
    """Class file of dataset folder: names a line, or JSON with colours and what is void."""
    scale: float = 1.0
    """Size of the images relative to the data set's own, in (0, 1]. Regions and crops scale along."""
    synthetic_image_size: tuple[int, int] = (96, 128)
    """Height and width in pixels of the synthetic data set's images."""
    synthetic_images: tuple[int, int, int, int, int] = (8, 40, 96, 24, 48)
    """Images of the synthetic data set in D_S, D_T, D_V, D_R and test."""
    pretrain_images: int = 300
    """Synthetic images for pretraining where GTA5 is not given. 0: none, so theta0 has seen D_S alone, as
    with dataset folder, whose classes no synthetic image has."""

    def check(self) -> None:
        self.require(self.dataset in DATASETS, "dataset", f"must be among {', '.join(DATASETS)}")
        self.require(0 < self.scale <= 1, "scale", "must be in (0, 1]")
        if self.dataset == "synthetic":
            rule = "must not be given with dataset synthetic, which"
            self.require(self.data is None, "data", f"{rule} is generated")
            self.require(self.split_lists is None, "split_lists", f"{rule} has splits of its own")
        if self.dataset == OWN:
            self.require(self.classes is not None, "classes", "must be the class file of dataset folder")
            self.require(self.gta5 is None, "gta5", "must not be given with dataset folder, of other classes")
        else:
            self.require(self.classes is None, "classes", "must be given with dataset folder alone")

    @property
    def has_scenes(self) -> bool:
        """Whether synthetic images are made for pretraining where GTA5 is not given."""
        return self.pretrain_images > 0 and self.dataset != OWN

    def source(self) -> dict[str, Any]:
        """The arguments of `load_splits` and `check_data`."""
        sizes = SyntheticSizes(self.synthetic_image_size, *self.synthetic_images, self.pretrain_images)
        named = {"name": self.dataset, "root": self.data, "scale": self.scale, "gta5": self.gta5}
        return named | {"split_lists": self.split_lists, "classes": self.classes, "sizes": sizes}


@dataclass(frozen=True)
class SegmenterConfig(Concern):
    """The segmentation network, and how it computes."""

    may_be_zero = ("dropout",)

    segmenter: str = "fpn-resnet50"
    """fpn-resnet50, fpn-resnet34, fpn-resnet18, fpn-mobilenetv2, fpn-small; another library's network, as
    smp:Unet?encoder_name=resnet34, torchvision:deeplabv3_resnet50 or hf:FOLDER (of transformers, local); or
    package.module:factory."""
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

    may_be_zero = ("rehearsal",)

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
class RunConfig(Concern):
    """What a run computes. Equal configs on one machine give equal results."""

    may_be_zero = ("seed",)

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

    def check(self) -> None:
        """Refuse values that contradict each other: one of them would be ignored without a word."""
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

    @property
    def split_seed(self) -> int:
        """What splits dataset folder; the others, and what is drawn of them, are the same for all seeds."""
        return self.seed if self.data.dataset == OWN else 0

    def options(self) -> dict[str, Any]:
        """Every option by its name."""
        found: dict[str, Any] = {}
        for name, value in vars(self).items():
            found |= vars(value) if isinstance(value, Concern) else {name: value}
        return found

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
