"""The config and its presets: the paper's numbers, the departures, and what is refused."""

import json
from pathlib import Path

import pytest

from ralx.runs.config import RunConfig
from ralx.runs.presets import PAPER_RULES, PRESETS, PUBLISHED_SWITCHES, preset
from ralx.support.options import Concern

CAMVID = dict(
    region_size=(90, 80),
    query_size=24,
    pool_size=20,
    budget=480,
    episodes=100,
    replay_capacity=600,
    budgets=(480, 720, 960, 1200, 1440, 1920),
    pool_size_uniform=50,
    pool_size_entropy=10,
    pool_size_bald=10,
    pool_size_ralis=10,
    dqn_lr=1e-3,
    dqn_batch_size=16,
    gamma=0.999,
    target_update=5,
    segmenter_lr=1e-3,
    batch_size=32,
    crop_size=(224, 224),
    source_lr=5e-3,
    source_patience=30,
    target_lr=5e-4,
    target_patience=30,
    full_patience=30,
    final_patience=150,
    segmenter="fpn-resnet50",
    num_mc_samples=20,
    num_seeds=5,
    methods=("ralis", "entropy", "bald", "uniform"),
    epsilon_end=0.05,
    epsilon_span=0.85,
    kl_max=16.2,
)
CITYSCAPES = dict(
    region_size=(128, 128),
    query_size=256,
    pool_size=20,
    budget=3840,
    episodes=50,
    replay_capacity=3200,
    budgets=(1920, 3840, 7680, 11520, 19200, 30720),
    pool_size_uniform=500,
    pool_size_entropy=200,
    pool_size_bald=200,
    pool_size_ralis=100,
    dqn_lr=1e-4,
    segmenter_lr=1e-4,
    batch_size=16,
    crop_size=(256, 512),
    source_patience=30,
    target_patience=50,
    full_patience=50,
    final_patience=60,
)


def values(config, names):
    options = config.options()
    return {name: options[name] for name in names}


@pytest.mark.parametrize(("name", "numbers"), [("camvid", CAMVID), ("cityscapes", CITYSCAPES)])
def test_the_presets_of_the_paper_have_its_numbers(name, numbers):
    assert values(preset(name), numbers) == numbers


@pytest.mark.parametrize("name", ["camvid", "cityscapes", "synthetic"])
def test_most_presets_keep_the_papers_rules(name):
    assert values(preset(name), PAPER_RULES) == PAPER_RULES


@pytest.mark.parametrize(("name", "rehearsal"), [("camvid-small", 5), ("camvid-half", 1)])
def test_the_presets_for_two_cores_have_rules_of_their_own_but_not_where_published(name, rehearsal):
    own = preset(name)
    wanted = dict(reward="mistakes", keep_learning=True, loss_weights="rarity", rehearsal=rehearsal)
    assert values(own, wanted) == wanted and own.agent.dqn_weight_decay > 0.1
    patiences = ("target_patience", "full_patience", "final_patience")
    assert set(values(own, patiences).values()) == {None}
    published = preset(name, published=True)
    assert values(published, PAPER_RULES) == PAPER_RULES
    assert values(published, patiences) == values(preset("camvid"), patiences)


def test_published_turns_every_departure_on_and_nothing_else():
    config, published = preset("camvid").options(), preset("camvid", published=True).options()
    assert {name for name in config if config[name] != published[name]} == set(PUBLISHED_SWITCHES)
    assert set(PUBLISHED_SWITCHES) == {
        "first_reward",
        "dqn_lr_schedule",
        "epsilon_schedule",
        "epsilon_coin",
        "train_dropout",
        "class_features",
        "kl_range",
        "candidate_sampling",
    }
    assert preset("cityscapes", published=True).training.crop_size == (224, 224)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_json(name):
    config = preset(name)
    assert json.loads(json.dumps(config.to_json())) == config.to_json()
    assert config.to_json().keys() == config.options().keys()


def test_options_are_changed_by_name():
    changed = preset("camvid").changed(query_size=3, seed=7, data=Path("x"))
    assert (changed.game.query_size, changed.seed, changed.data.data) == (3, 7, Path("x"))
    differing = [n for n, v in changed.options().items() if v != preset("camvid").options()[n]]
    assert sorted(differing) == ["data", "query_size", "seed"]
    with pytest.raises(ValueError, match="no option is called qery_size"):
        changed.changed(qery_size=3)


def test_no_two_concerns_have_an_option_of_one_name():
    config = RunConfig()
    owners = [config, *(value for value in vars(config).values() if isinstance(value, Concern))]
    names = [name for each in owners for name, value in vars(each).items() if not isinstance(value, Concern)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_size": 0}, "query_size: must be positive, got 0"),
        ({"episodes": -1}, "episodes: must be positive, got -1"),
        ({"source_lr": float("nan")}, "source_lr: must be finite"),
        ({"scale": 1.5}, r"scale: must be in \(0, 1\], got 1.5"),
        ({"gamma": 1.1}, "gamma: must be in"),
        ({"dqn_lr_decay": 1.5}, "dqn_lr_decay: must be at most 1, got 1.5"),
        (
            {"reward": "mistakes", "first_reward": "whole"},
            "first_reward: must be gain where reward is mistakes",
        ),
        ({"keep_learning": True}, "keep_learning: needs reward mistakes, not miou, got True"),
        ({"dqn_lr_decay": 0.0}, "dqn_lr_decay: must be positive, got 0.0"),
        ({"dqn_loss": "hinge"}, "dqn_loss: must be one of huber, squared, got 'hinge'"),
        ({"double_dqn": "triple"}, "double_dqn: must be one of standard, paper, got 'triple'"),
        ({"epsilon_schedule": "linear"}, "epsilon_schedule: must be one of episode, step, got 'linear'"),
        ({"n_step": 0}, "n_step: must be positive, got 0"),
        ({"tau": 1.5}, "tau: must be in"),
        ({"tau": 0.0}, "tau: must be positive"),
        ({"dropout": 1.0}, "dropout: must be in"),
        ({"dropout": 0.0}, "dropout: must not be 0 while bald"),
        ({"budgets": ()}, "budgets: needs positive"),
        ({"budgets": (48, 24)}, r"budgets: must ascend, got \(48, 24\)"),
        ({"methods": ()}, "methods: needs at least one"),
        ({"methods": ("ralis", "ralis")}, "methods: must not repeat"),
        ({"methods": ("badge",)}, "methods: must be among ralis, entropy, bald, uniform, margin"),
        ({"hidden_features": ("colour",)}, "hidden_features: must be among state-entropy, state-classes"),
        ({"region_size": (0, 8)}, "region_size: every number must be at least 1"),
        ({"seed": -1}, "seed: must not be negative, got -1"),
        ({"query_size": 481}, "query_size: must be at most budget, which is 480, got 481"),
        ({"budgets": (23, 48)}, "query_size: must be at most the first of budgets, 23, got 24"),
        (
            {"replay_capacity": 20, "dqn_batch_size": 8},
            "query_size: must be at most replay_capacity, which is 20, got 24",
        ),
        ({"dqn_batch_size": 601}, "dqn_batch_size: must be at most replay_capacity, which is 600, got 601"),
        ({"num_mc_samples": 1}, "num_mc_samples: must be at least 2 while bald .*, got 1"),
        ({"dataset": "synthetic", "data": Path("x")}, r"data: must not be given with dataset synthetic.*'x'"),
        ({"dataset": "synthetic", "split_lists": Path("x")}, "split_lists: must not be given with dataset"),
        ({"dataset": "folder"}, "classes: must be the class file of dataset folder, got None"),
        ({"classes": Path("x")}, "classes: must be given with dataset folder alone, got PosixPath"),
        (
            {"dataset": "folder", "classes": Path("x"), "gta5": Path("y")},
            "gta5: must not be given with dataset folder",
        ),
        (
            {"methods": ("uniform",), "policy": Path("p")},
            "policy: must not be given unless ralis or",
        ),
    ],
)
def test_unusable_values_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        preset("camvid").changed(**change)


def test_what_only_one_method_needs_is_free_without_it():
    config = preset("camvid").changed(methods=("uniform",), num_mc_samples=1, dropout=0.0)
    assert config.evaluation.num_mc_samples == 1


def test_an_unknown_preset_is_refused():
    with pytest.raises(
        ValueError, match="preset: must be one of synthetic, camvid-small, camvid-half, camvid, cityscapes"
    ):
        preset("pascal")


def test_a_policy_serves_whatever_chooses_by_it():
    config = preset("camvid").changed(methods=("ralis-all",), policy=Path("p"))
    assert config.evaluation.uses_policy
    assert not config.changed(methods=("cheat",), policy=None).evaluation.uses_policy
