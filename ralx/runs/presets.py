"""The named configs that a command line starts from, and the rules that they change together."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from ralx.runs.config import RunConfig

PresetName = Literal["synthetic", "camvid-small", "camvid-half", "camvid", "cityscapes"]

_PAPER = RunConfig().options()


def _paper(*names: str) -> dict[str, Any]:
    return {name: _PAPER[name] for name in names}


# The paper's own rules, whatever a preset has: of the agent, and of the segmenter's training.
PAPER_AGENT = _paper("reward", "reward_scale", "gamma", "keep_learning", "dqn_weight_decay")
PAPER_RULES = PAPER_AGENT | _paper("loss_weights", "rehearsal")

# Every departure of the published code from the paper that an option can turn on, in one place.
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

_CITYSCAPES = dict(
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

# CamVid at a quarter of its size with a small segmenter: two cores are enough.
_CAMVID_SMALL = dict(
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

# CamVid at half its size, for an encoder with ImageNet's `weights` that two cores can train.
_CAMVID_HALF = _CAMVID_SMALL | dict(
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

# Generated street scenes: the whole system in a few minutes on two cores.
_SYNTHETIC = (
    _CAMVID_SMALL
    | dict(
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
    )
    | PAPER_RULES
)

PRESETS: Mapping[PresetName, Mapping[str, Any]] = {
    "synthetic": _SYNTHETIC,
    "camvid-small": _CAMVID_SMALL,
    "camvid-half": _CAMVID_HALF,
    "camvid": {},
    "cityscapes": _CITYSCAPES,
}


def preset(name: str, *, published: bool = False) -> RunConfig:
    """The config of a preset; `published` turns every named departure of the published code on.

    Raises ValueError where no preset has that name.
    """
    if name not in get_args(PresetName):
        raise ValueError(f"preset: must be one of {', '.join(PRESETS)}, got {name!r}")
    config = RunConfig().changed(**PRESETS[name])  # type: ignore[index]
    if not published:
        return config
    patiences = ("source_patience", "target_patience", "full_patience", "final_patience")
    early = (each for each in patiences if config.options()[each] is None)
    crop_size = {"crop_size": (224, 224)} if name == "cityscapes" else {}
    return config.changed(**crop_size, **PAPER_RULES, **PUBLISHED_SWITCHES, **_paper(*early))
