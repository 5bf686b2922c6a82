"""The config and its presets: the paper's numbers, the departures, and what is refused."""

import dataclasses
import json
from pathlib import Path

import pytest

from ralx.config import PAPER_RULES, PRESETS, Config, preset


def test_camvid_has_the_papers_numbers():
    config = preset("camvid")
    assert (config.region_size, config.query_size, config.pool_size) == ((90, 80), 24, 20)
    assert (config.budget, config.episodes, config.replay_capacity) == (480, 100, 600)
    assert config.budgets == (480, 720, 960, 1200, 1440, 1920)
    assert [config.pool_size_of(m) for m in ("uniform", "entropy", "bald", "ralis")] == [50, 10, 10, 10]
    assert (config.dqn_lr, config.dqn_batch_size, config.gamma, config.target_update) == (1e-3, 16, 0.999, 5)
    assert (config.segmenter_lr, config.batch_size, config.crop_size) == (1e-3, 32, (224, 224))
    assert (config.source_lr, config.source_patience, config.target_lr) == (5e-3, 30, 5e-4)
    assert (config.target_patience, config.full_patience, config.final_patience) == (30, 30, 150)
    assert (config.segmenter, config.num_mc_samples, config.num_seeds) == ("fpn-resnet50", 20, 5)


def test_cityscapes_has_the_papers_numbers():
    config = preset("cityscapes")
    assert (config.region_size, config.query_size, config.pool_size) == ((128, 128), 256, 20)
    assert (config.budget, config.episodes, config.replay_capacity) == (3840, 50, 3200)
    assert config.budgets == (1920, 3840, 7680, 11520, 19200, 30720)
    assert [config.pool_size_of(m) for m in ("uniform", "entropy", "bald", "ralis")] == [500, 200, 200, 100]
    assert (config.dqn_lr, config.segmenter_lr, config.batch_size) == (1e-4, 1e-4, 16)
    assert (config.crop_size, preset("cityscapes", published=True).crop_size) == ((256, 512), (224, 224))
    assert (config.source_patience, config.target_patience, config.full_patience) == (30, 50, 50)
    assert config.final_patience == 60


@pytest.mark.parametrize("name", ["camvid", "cityscapes", "synthetic"])
def test_most_presets_keep_the_papers_rules(name):
    assert {rule: getattr(preset(name), rule) for rule in PAPER_RULES} == PAPER_RULES


@pytest.mark.parametrize(("name", "rehearsal"), [("camvid-small", 5), ("camvid-half", 1)])
def test_the_presets_for_two_cores_have_rules_of_their_own_but_not_where_published(name, rehearsal):
    own = preset(name)
    assert own.reward == "mistakes" and own.keep_learning and own.dqn_weight_decay > 0.1
    assert own.loss_weights == "rarity" and own.rehearsal == rehearsal
    patiences = ("target_patience", "full_patience", "final_patience")
    assert all(getattr(own, patience) is None for patience in patiences)
    paper, published = preset("camvid"), preset(name, published=True)
    assert {rule: getattr(published, rule) for rule in PAPER_RULES} == PAPER_RULES
    assert all(getattr(published, patience) == getattr(paper, patience) for patience in patiences)


def test_a_policy_keeps_learning_only_from_what_labels_tell():
    with pytest.raises(ValueError, match="keep_learning: needs reward mistakes, not miou, got True"):
        Config(keep_learning=True)


def test_published_turns_every_departure_on_and_nothing_else():
    changed = {
        field.name
        for field in dataclasses.fields(Config)
        if getattr(preset("camvid"), field.name) != getattr(preset("camvid", published=True), field.name)
    }
    assert changed == {
        "published",
        "first_reward",
        "dqn_lr_schedule",
        "epsilon_schedule",
        "epsilon_coin",
        "train_dropout",
        "class_features",
        "kl_range",
        "candidate_sampling",
    }


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_names_itself_and_survives_json(name):
    config = preset(name)
    assert config.preset == name
    assert json.loads(json.dumps(config.to_json())) == config.to_json()


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
        (
            {"methods": ("uniform",), "policy": Path("p")},
            "policy: must not be given unless ralis or",
        ),
    ],
)
def test_unusable_values_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(preset("camvid"), **change)


def test_what_only_one_method_needs_is_free_without_it():
    config = dataclasses.replace(preset("camvid"), methods=("uniform",), num_mc_samples=1, dropout=0.0)
    assert config.num_mc_samples == 1


def test_an_unknown_preset_is_refused():
    with pytest.raises(
        ValueError, match="preset: must be one of synthetic, camvid-small, camvid-half, camvid, cityscapes"
    ):
        preset("pascal")


def test_the_papers_methods_are_compared_unless_told_otherwise():
    assert preset("camvid").methods == ("ralis", "entropy", "bald", "uniform")


def test_the_other_methods_share_a_pool_size():
    assert [preset("cityscapes").pool_size_of(name) for name in ("bald", "ripu", "k-centre")] == [200] * 3


def test_a_policy_serves_whatever_chooses_by_it():
    config = dataclasses.replace(preset("camvid"), methods=("ralis-all",), policy=Path("p"))
    assert config.uses_policy and not dataclasses.replace(config, methods=("cheat",), policy=None).uses_policy
