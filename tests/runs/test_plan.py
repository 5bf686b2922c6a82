"""What each stage is given: its key changes with that, and with nothing else."""

import dataclasses
from pathlib import Path

import pytest

from ralx.runs.config import RunConfig
from ralx.runs.plan import Stages
from ralx.runs.presets import PUBLISHED_SWITCHES, preset
from ralx.runs.stage import Images, in_order, key_of
from ralx.runs.studies import NAMES, STUDIES, plan_of

BASE = preset("camvid-small")
OWN = "package.module:function"


def keys_of(stages, content=None, numerics=None):
    """Each stage's key, where images and files hold what `content` says, or their names."""
    known = {}

    def hold(given):
        name = given.split if isinstance(given, Images) else str(given)
        return (content or {}).get(name, name)

    def key(stage):
        if stage not in known:
            known[stage] = key_of(stage, numerics=numerics or {}, key=key, content=hold)
        return known[stage]

    return [key(stage) for stage in stages]


def stages_of(config):
    stages = Stages(config)
    return {
        "theta0": stages.theta0,
        "theta0_prime": stages.theta0_prime,
        "full_supervision": stages.full_supervision(config.seed),
        "learn": stages.policy(config.seed),
        "select ralis": stages.select("ralis", config.seed),
        "select ralis-all": stages.select("ralis-all", config.seed),
        "select entropy": stages.select("entropy", config.seed),
        "select bald": stages.select("bald", config.seed),
        "select margin": stages.select("margin", config.seed),
        "select cheat": stages.select("cheat", config.seed),
        "final": stages.final("uniform", config.seed, 480),
    }


PRETRAINED = {"theta0", "theta0_prime", "full_supervision"}
SELECTS = {kind for kind in stages_of(BASE) if kind.startswith("select")}
POLICY = {"learn", "select ralis", "select ralis-all"}
CHOSEN = SELECTS | {"final"}
GAMES = CHOSEN | {"learn"}
ALL = PRETRAINED | GAMES

# What each option changes; the options of one line change the same.
DEPENDS = [
    ("device num_seeds methods", set()),
    ("dataset data classes split_lists synthetic_image_size synthetic_images", set()),  # by their content
    ("segmenter weights dropout precision compile inference_batch_size", ALL),
    ("crop_size batch_size segmenter_momentum segmenter_weight_decay segmenter_clip_norm", ALL),
    ("segmenter_lr_decay loss_weights train_dropout max_epochs seed", ALL),
    ("source_lr source_patience gta5 pretrain_images target_lr target_patience", ALL),
    ("full_patience", {"full_supervision"}),
    ("query_size candidate_sampling segmenter_lr region_size edge", GAMES),
    ("episodes budget pool_size reward first_reward", POLICY),
    ("epsilon_schedule epsilon_end epsilon_span epsilon_coin reward_scale", POLICY),
    ("cells kl_bins kl_range kl_max class_features hidden_features kl_summary cuda_graph", POLICY),
    ("dueling dqn_lr dqn_momentum dqn_weight_decay dqn_batch_size dqn_lr_schedule dqn_lr_decay", POLICY),
    ("updates_per_step gamma n_step dqn_loss double_dqn target_update tau replay_capacity", POLICY),
    ("policy", POLICY),
    ("keep_learning pool_size_ralis", {"select ralis"}),
    ("pool_size_entropy", {"select entropy"}),
    ("pool_size_bald num_mc_samples", {"select bald"}),
    ("pool_size_uniform final_lr final_lr_decay final_patience final_max_epochs rehearsal", {"final"}),
    ("pool_size_other", {"select margin"}),
    ("budgets", CHOSEN),
    ("scale", GAMES | PRETRAINED),  # of crops and regions
]
OTHER_VALUES = dict(
    reward="miou",
    first_reward="whole",
    keep_learning=False,
    pretrain_images=0,
    hidden_features=("kl-labelled",),
    budgets=(240, 480),
    methods=("entropy",),
    data=Path("elsewhere"),
    policy=Path("policy"),
    weights=Path("weights"),
    tau=0.5,
    dropout=0.5,
    gamma=0.5,
    dqn_lr_decay=0.5,
    final_patience=3,
    target_patience=3,
    full_patience=3,
    scale=0.5,
    epsilon_span=0.8,
    segmenter="fpn-resnet18",
    device="cpu",
    query_size=12,
    dataset="cityscapes",
    seed=5,
    max_epochs=30,
)


def other_value(name, value):
    if name in OTHER_VALUES:
        return OTHER_VALUES[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value * 2
    if isinstance(value, tuple):
        return tuple(2 * each for each in value)
    owners = [BASE, *filter(dataclasses.is_dataclass, vars(BASE).values())]
    types = {field.name: field.type for owner in owners for field in dataclasses.fields(owner)}
    choices = getattr(types[name], "__args__", (Path("file"),))
    return Path("file") if value is None else next(each for each in choices if each != value)


@pytest.mark.parametrize(
    ("option", "kinds"), [(option, kinds) for options, kinds in DEPENDS for option in options.split()]
)
def test_a_key_depends_on_what_its_stage_is_given(option, kinds):
    base = BASE
    if option == "first_reward":  # which mistakes as a reward don't have
        base = base.changed(reward="miou", keep_learning=False)
    changes = {option: other_value(option, base.options()[option])}
    if option == "classes":
        base = base.changed(dataset="folder", classes=Path("classes.txt"), gta5=None)
    if option == "reward":
        base = base.changed(keep_learning=False)
    before, after = stages_of(base), stages_of(base.changed(**changes))
    differing = {kind for kind in before if keys_of([before[kind]]) != keys_of([after[kind]])}
    assert differing == kinds


def test_every_option_is_in_the_table():
    assert sorted(" ".join(options for options, _ in DEPENDS).split()) == sorted(BASE.options())


def test_a_function_of_the_users_gets_the_mc_passes(monkeypatch):
    monkeypatch.setattr("ralx.acquisition.methods.import_callable", lambda option, path: print)
    stages = [Stages(config).select(OWN, 0) for config in (BASE, BASE.changed(num_mc_samples=3))]
    assert len(set(keys_of(stages))) == 2


def test_theta0_of_gta5_does_not_depend_on_how_the_own_images_are_trained_on():
    base = BASE.changed(gta5=Path("gta5"))
    before, after = stages_of(base), stages_of(base.changed(target_lr=0.3, target_patience=3))
    differing = {kind for kind in before if keys_of([before[kind]]) != keys_of([after[kind]])}
    assert differing == ALL - {"theta0", "learn"}


@pytest.mark.parametrize(
    ("changed", "kinds"),
    [
        ("test_set", ALL),
        ("reward_set", ALL),
        ("pretrain_set", ALL),
        ("state_set", ALL),
        ("train_set", ALL - {"theta0", "full_supervision"}),
        ("eval_set", CHOSEN),
        ("full_set", {"full_supervision", "final"}),  # D_T is rehearsed
    ],
)
def test_the_content_of_images_counts_where_they_are_used(changed, kinds):
    stages = stages_of(BASE)
    content = {changed: "other pixels"}
    before, after = keys_of(stages.values()), keys_of(stages.values(), content)
    assert {kind for kind, a, b in zip(stages, before, after, strict=True) if a != b} == kinds


def test_the_content_of_files_counts_and_not_their_place():
    base = BASE.changed(weights=Path("w"), policy=Path("p"))
    stages = stages_of(base)
    elsewhere = stages_of(base.changed(weights=Path("w2"), policy=Path("p2")))
    same = {"w": "weights", "w2": "weights", "p": "policy", "p2": "policy"}
    assert keys_of(stages.values(), same) == keys_of(elsewhere.values(), same)
    other = keys_of(stages.values(), same | {"p": "another policy"})
    differing = {
        kind for kind, a, b in zip(stages, keys_of(stages.values(), same), other, strict=True) if a != b
    }
    assert differing == POLICY


def test_the_content_of_a_segmenters_folder_counts(tmp_path):
    for name in "config.json", "model.safetensors", "README.md":
        (tmp_path / name).touch()
    folder, file = (
        stages_of(BASE.changed(segmenter=f"hf:{tmp_path}{rest}")) for rest in ("?a=1", "/config.json")
    )
    for stages, counts in (folder, {"config.json", "model.safetensors"}), (file, {"config.json"}):
        for name in "config.json", "model.safetensors", "README.md":
            before, after = (keys_of(stages.values(), {str(tmp_path / name): text}) for text in "12")
            assert set(before).isdisjoint(after) if name in counts else before == after


def test_other_numerics_are_other_keys():
    stages = stages_of(BASE).values()
    one, two = keys_of(stages, numerics={"ralx": "1"}), keys_of(stages, numerics={"ralx": "2"})
    assert not set(one) & set(two)


def test_names_tell_what_a_stage_is():
    stages = Stages(BASE)
    assert stages.final("bald", 1, 480).name == "final-bald-seed1-budget480"
    assert stages.theta0.name == "theta0-seed0" and stages.policy(2).name == "learn-seed2"


def test_what_is_needed_comes_first():
    names = [stage.name for stage in in_order([Stages(BASE.changed(seed=3)).final("ralis", 4, 480)])]
    assert names.index("synthetic-seed3") < names.index("theta0-seed3") < names.index("learn-seed4")
    assert names.index("theta0_prime-seed3") < names.index("select-ralis-seed4")
    assert names[-2:] == ["select-ralis-seed4", "final-ralis-seed4-budget480"] and len(set(names)) == 6
    assert "learn-seed4" not in [stage.name for stage in in_order([Stages(BASE).select("entropy", 4)])]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("of", ["synthetic", "camvid-small", "camvid", "cityscapes"])
def test_every_study_can_be_planned(name, of):
    config = preset(of)
    study = STUDIES[name]
    arms = study.arms(config)
    assert len({arm.label for arm in arms}) == len(arms)
    assert all(len(arm.config.evaluation.budgets) == len(config.evaluation.budgets) for arm in arms)
    plan = plan_of(study, config, full_seeds=config.seeds)
    assert all(set(stage.needs) <= set(plan[:place]) for place, stage in enumerate(plan))
    keys = set(keys_of(plan))
    finals = sum(key.startswith("final-") for key in keys)
    wanted = len(arms) * len(config.evaluation.budgets) * config.num_seeds
    assert finals == (wanted if study.trains else 0)
    assert sum(key.startswith("theta0-") for key in keys) == (2 if name == "published-switches" else 1)


def finals_of(name, config):
    arms = STUDIES[name].arms(config)
    finals = [Stages(arm.config).final(arm.method, 0, arm.config.evaluation.budgets[0]) for arm in arms]
    return dict(zip([arm.label for arm in arms], keys_of(finals), strict=True))


@pytest.mark.parametrize("of", ["camvid", "camvid-small"])
@pytest.mark.parametrize(
    ("name", "shared"),
    [
        ("ablate-features", ("ralis", "ralis")),
        ("ablate-k", ("ralis", "k-24")),
        ("ablate-mc", ("bald", "bald-20")),
        ("published-switches", ("bald", "bald")),
    ],
)
def test_studies_share_what_they_have_in_common(name, shared, of):
    config: RunConfig = preset(of)
    curve, other = finals_of("budget-curve", config), finals_of(name, config)
    assert curve[shared[0]] == other[shared[1]]
    assert len(set(other.values())) == len(other)


def test_regions_of_every_size_are_compared_at_equal_pixels():
    config = preset("camvid")
    arms = STUDIES["ablate-regions"].arms(config)
    for arm in arms:
        height, width = arm.config.regions.region_size
        pixels = [budget * height * width for budget in arm.config.evaluation.budgets]
        assert pixels == [budget * 90 * 80 for budget in config.evaluation.budgets], arm.label
        assert arm.config.learning.budget * height * width == 480 * 90 * 80
        assert arm.config.game.query_size * height * width == 24 * 90 * 80
    assert "uniform-whole-images" in [arm.label for arm in arms]


def test_published_switches_are_turned_one_by_one():
    config = preset("camvid")
    arms = {arm.label: arm.config for arm in STUDIES["published-switches"].arms(config)}
    for name, value in PUBLISHED_SWITCHES.items():
        arm = arms[name.replace("_", "-")]
        assert arm.options()[name] == value
        assert arm.changed(**{name: config.options()[name]}) == arms["ralis"]
    published = preset("camvid", published=True)
    assert arms["all-switches"].changed(methods=published.evaluation.methods) == published
