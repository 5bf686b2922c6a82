"""What a cell's key depends on: no more and no less than what its result does."""

import dataclasses
from pathlib import Path

import pytest

from ralx.config import METHODS, Config, preset
from ralx.study.cells import Cell, Content, with_needs
from ralx.study.studies import NAMES, STUDIES, cells_of

CONTENT = Content("data", None, None)
BASE = preset("camvid-small")
KINDS = {
    "theta0": Cell("theta0", BASE, 0),
    "theta0_prime": Cell("theta0_prime", BASE, 0),
    "full_supervision": Cell("full_supervision", BASE, 0),
    "learn": Cell("learn", BASE, 0),
    "select ralis": Cell("select", BASE, 0, "ralis"),
    "select entropy": Cell("select", BASE, 0, "entropy"),
    "select cheat": Cell("select", BASE, 0, "cheat"),
    "final bald": Cell("final", BASE, 0, "bald", 480),
}
PRETRAINED = {"theta0", "theta0_prime", "full_supervision"}
GAMES = {"learn", "select ralis", "select entropy", "select cheat", "final bald"}
CHOSEN = GAMES - {"learn"}


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({"preset": "camvid", "published": True, "methods": ("entropy",), "num_seeds": 9}, set()),
        ({"device": "cpu"}, set()),
        ({"segmenter": "fpn-resnet18"}, PRETRAINED | GAMES),
        ({"source_lr": 0.3}, PRETRAINED | GAMES),
        ({"max_epochs": 7}, PRETRAINED | GAMES),
        ({"loss_weights": "equal"}, PRETRAINED | GAMES),
        ({"seed": 5}, PRETRAINED | GAMES),
        ({"target_lr": 0.3}, PRETRAINED | GAMES),
        ({"target_patience": 3}, PRETRAINED | GAMES),
        ({"full_patience": 3}, {"full_supervision"}),
        ({"query_size": 12}, GAMES),
        ({"segmenter_lr": 0.3}, GAMES),
        ({"dqn_lr": 0.3}, {"learn", "select ralis"}),
        ({"hidden_features": ("kl-labelled",)}, {"learn", "select ralis"}),
        ({"kl_summary": "max"}, {"learn", "select ralis"}),
        ({"episodes": 3}, {"learn", "select ralis"}),
        ({"pool_size_ralis": 3}, {"select ralis"}),
        ({"keep_learning": not BASE.keep_learning}, {"select ralis"}),
        ({"pool_size_entropy": 3}, {"select entropy"}),
        ({"pool_size_other": 3}, set()),
        ({"num_mc_samples": 3}, {"final bald"}),
        ({"budgets": (240, 480)}, CHOSEN),
        ({"final_lr": 0.3}, CHOSEN),
        ({"final_lr_decay": 0.9}, CHOSEN),
        ({"final_max_epochs": 7}, CHOSEN),
        ({"final_patience": 3}, CHOSEN),
        ({"rehearsal": BASE.rehearsal + 1}, CHOSEN),
    ],
)
def test_a_key_depends_on_what_matters(changes, kinds):
    changed = dataclasses.replace(BASE, **changes)
    differing = {
        name
        for name, cell in KINDS.items()
        if cell.key(CONTENT) != dataclasses.replace(cell, config=changed).key(CONTENT)
    }
    assert differing == kinds


def test_theta0_of_gta5_does_not_depend_on_how_the_own_images_are_trained_on():
    changes = {"target_lr": 0.3, "target_patience": 3}
    for kind, depends in (("theta0", False), ("learn", False), ("theta0_prime", True)):
        cell = Cell(kind, dataclasses.replace(BASE, gta5=Path("gta5")), 0)
        changed = dataclasses.replace(cell, config=dataclasses.replace(cell.config, **changes))
        assert (changed.key(CONTENT) != cell.key(CONTENT)) is depends


def test_every_option_matters_to_some_cell_or_is_known_not_to():
    kinds = [Cell("final", BASE, 0, method, 480) for method in METHODS] + list(KINDS.values())
    used = set().union(*(cell.depends_on() for cell in kinds))
    names = {field.name for field in dataclasses.fields(Config)}
    ignored = "preset published data gta5 split_lists weights policy device methods num_seeds".split()
    assert names - used == set(ignored)


def test_content_counts_where_it_is_used():
    for name, cell in KINDS.items():
        keys = [cell.key(c) for c in (CONTENT, Content("data", None, "p"), Content("data", "w", None))]
        assert (keys[0] != keys[1]) is (name in ("learn", "select ralis"))
        assert keys[2] != keys[0] and cell.key(Content("other", None, None)) != keys[0]


def test_names_tell_what_a_cell_is():
    assert KINDS["final bald"].name == "final-bald-seed0-budget480"
    assert KINDS["theta0"].name == "theta0-seed0" and KINDS["select ralis"].name == "select-ralis-seed0"


def test_what_is_needed_comes_first():
    config = dataclasses.replace(BASE, seed=3)
    names = [cell.name for cell in with_needs([Cell("final", config, 4, "ralis", 480)])]
    assert names == [
        "theta0-seed3",
        "theta0_prime-seed3",
        "learn-seed4",
        "select-ralis-seed4",
        "final-ralis-seed4-budget480",
    ]
    assert "learn-seed4" not in [c.name for c in with_needs([Cell("select", config, 4, "entropy")])]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("of", ["synthetic", "camvid-small", "camvid", "cityscapes"])
def test_every_study_can_be_planned(name, of):
    config = preset(of)
    study = STUDIES[name]
    arms = study.arms(config)
    assert len({arm.label for arm in arms}) == len(arms)
    assert all(len(arm.config.budgets) == len(config.budgets) for arm in arms)
    keys = {cell.key(CONTENT) for cell in with_needs(cells_of(study, config))}
    finals = sum(key.startswith("final-") for key in keys)
    assert finals == (len(arms) * len(config.budgets) * config.num_seeds if study.trains else 0)
    assert sum(key.startswith("theta0-") for key in keys) == (2 if name == "published-switches" else 1)


def finals_of(name, config):
    arms = {arm.label: arm for arm in STUDIES[name].arms(config)}
    return {
        label: Cell("final", arm.config, 0, arm.method, arm.config.budgets[0]).key(CONTENT)
        for label, arm in arms.items()
    }


@pytest.mark.parametrize("of", ["camvid", "camvid-small"])
@pytest.mark.parametrize("name", ["ablate-features", "ablate-k", "ablate-mc", "published-switches"])
def test_studies_share_what_they_have_in_common(name, of):
    config = preset(of)
    curve, other = finals_of("budget-curve", config), finals_of(name, config)
    shared = {
        "ablate-features": ("ralis", "ralis"),
        "ablate-k": ("ralis", "k-24"),
        "ablate-mc": ("bald", "bald-20"),
        "published-switches": ("bald", "bald"),
    }[name]
    assert curve[shared[0]] == other[shared[1]]
    assert len(set(other.values())) == len(other)


def test_regions_of_every_size_are_compared_at_equal_pixels():
    config = preset("camvid")
    for arm in STUDIES["ablate-regions"].arms(config):
        height, width = arm.config.region_size
        pixels = [budget * height * width for budget in arm.config.budgets]
        assert pixels == [budget * 90 * 80 for budget in config.budgets], arm.label
        assert arm.config.budget * height * width == 480 * 90 * 80
        assert arm.config.query_size * height * width == 24 * 90 * 80
    labels = [arm.label for arm in STUDIES["ablate-regions"].arms(config)]
    assert "uniform-whole-images" in labels


def test_published_switches_are_turned_one_by_one():
    config = preset("camvid")
    arms = {arm.label: arm.config for arm in STUDIES["published-switches"].arms(config)}
    published = preset("camvid", published=True)
    changed = [name for name in config.to_json() if getattr(config, name) != getattr(published, name)]
    assert len(changed) == 9 and "published" in changed
    for name in set(changed) - {"published"}:
        arm = arms[name.replace("_", "-")]
        assert getattr(arm, name) == getattr(published, name)
        assert dataclasses.replace(arm, **{name: getattr(config, name)}) == arms["ralis"]
    assert dataclasses.replace(arms["all-switches"], published=True, methods=published.methods) == published


def test_another_version_of_ralx_computes_every_cell_anew(monkeypatch):
    before = {kind: cell.key(CONTENT) for kind, cell in KINDS.items()}
    monkeypatch.setattr("ralx.study.cells.__version__", "99")
    assert all(cell.key(CONTENT) != before[kind] for kind, cell in KINDS.items())
