"""How a run is put together from its config: every switch reaches what it switches."""

import itertools

import pytest
import torch
from tiny_experiments import experiment_in
from torch import nn

import ralx
from ralx.datasets import DataError, SegmentationDataset
from ralx.metrics import mean_iou, rarity
from ralx.pretraining import Segmenters
from ralx.segmentation import CudaGraph, evaluate
from ralx.support.files import RunError, load_tensors, read_json


@pytest.fixture
def make(tmp_path):
    return experiment_in(tmp_path)


@pytest.fixture
def learner_of(make):
    def learner(**options):
        experiment = make(**options)
        trainer = experiment.segmenters.new_trainer(0.1)
        experiment.pretraining.theta0 = trainer.state_dict()  # nothing is trained
        return experiment._learner(0)

    return learner


def test_the_default_mends_every_departure(learner_of):
    learner = learner_of()
    assert learner.agent.lr_decay == 1
    assert not learner.one_coin and not learner.whole_first_reward
    assert learner.epsilon(0, 500) == pytest.approx(0.9)
    assert learner.epsilon(1, 0) == pytest.approx(0.05 + 0.85 * 2.718281828 ** (-5 / 2))
    assert learner.observe.featurizer.kl_range == (0.0, 16.2)
    assert not learner.observe.featurizer.counts and not learner.game.few_images
    assert learner.game.trainer.train_dropout


def test_published_restores_every_departure(learner_of):
    learner = learner_of(published=True)
    assert learner.agent.lr_decay == 0.97 and not learner.reset_lr
    assert learner.one_coin and learner.whole_first_reward
    assert learner.epsilon(1, 10) == pytest.approx(0.05 + 0.85 * 2.718281828**-1)
    assert learner.observe.featurizer.kl_range is None
    assert learner.observe.featurizer.counts and learner.game.few_images
    assert not learner.game.trainer.train_dropout


def test_the_learning_rate_can_start_anew_each_episode(learner_of):
    learner = learner_of(dqn_lr_schedule="episode", dqn_lr_decay=0.5)
    assert learner.agent.lr_decay == 0.5 and learner.reset_lr


def test_agent_options_reach_the_agent(learner_of):
    options = dict(
        dueling=True, n_step=3, tau=0.01, updates_per_step=5, double_dqn="paper", dqn_loss="squared"
    )
    agent = learner_of(**options, gamma=0.9, dqn_batch_size=7, target_update=9, dqn_lr=0.5).agent
    assert agent.query_network.dueling
    assert (agent.n_step, agent.tau, agent.updates_per_step) == (3, 0.01, 5)
    assert (agent.double_dqn, agent.loss, agent.gamma) == ("paper", "squared", 0.9)
    assert (agent.batch_size, agent.target_update, agent.lr) == (7, 9, 0.5)


def test_theta0_sees_no_label_of_d_t(make, monkeypatch):
    seen = []

    def spy(self, trainer, data, generator, pool=None):
        seen.append(data.name)
        assert torch.equal(trainer.class_weights, rarity(data.class_counts().sum(0)).float())
        return 0.0

    monkeypatch.setattr(Segmenters, "train_epoch", spy)
    experiment = make(loss_weights="rarity")
    _ = experiment.pretraining.theta0
    splits = experiment.splits
    in_turn = [name for name, _ in itertools.groupby(seen)]
    assert in_turn == [splits.pretrain_set.name, splits.state_set.name], "the data set's own images last"
    seen.clear()
    _ = experiment.pretraining.theta0_prime
    assert set(seen) == {experiment.splits.train_set.name}
    seen.clear()
    without_scenes = make(loss_weights="rarity", scenes=0)
    _ = without_scenes.pretraining.theta0
    assert set(seen) == {splits.state_set.name}


def test_mistakes_weigh_by_rarity_unless_the_loss_does_already(learner_of):
    plain = learner_of(reward="mistakes")
    of_d_t = rarity(plain.game.dataset.class_counts().sum(0))
    assert torch.equal(plain.mistake_weights, of_d_t)
    weighted = learner_of(reward="mistakes", loss_weights="rarity")
    assert torch.equal(weighted.mistake_weights, torch.ones(11, dtype=torch.float64))
    assert learner_of().mistake_weights is None


def test_the_loss_weighs_classes_by_their_rarity_where_that_is_wanted(make):
    assert make().segmenters.new_trainer(0.1).class_weights is None
    experiment = make(loss_weights="rarity")
    new_trainer, splits = experiment.segmenters.new_trainer, experiment.splits
    of_d_t = rarity(splits.train_set.class_counts().sum(0)).float()
    assert torch.equal(new_trainer(0.1).class_weights, of_d_t)
    of_source = rarity(splits.pretrain_set.class_counts().sum(0)).float()
    assert torch.equal(new_trainer(0.1, splits.pretrain_set).class_weights, of_source)
    assert not torch.equal(of_d_t, of_source)


@pytest.mark.parametrize("rehearsal", [0, 1, 3])
def test_the_final_training_rehearses_d_t_where_that_is_wanted(make, monkeypatch, rehearsal):
    experiment = make(methods=("uniform",), rehearsal=rehearsal, max_epochs=2, final_max_epochs=3)
    experiment.select("uniform", 0, learned=experiment.run, wanted=experiment.config.budgets)
    seen = []

    def spy(self, trainer, data, generator, pool, crops):
        seen.append((data, pool, crops))
        return 0.0

    monkeypatch.setattr(Segmenters, "train_epoch", spy)
    experiment.finish("uniform", 0, 3, selected=experiment.run)
    assert len(seen) == 2, "max_epochs caps every training"
    data, pool, crops = seen[0]
    labelled = {
        (data.names[region.image], region.row, region.col)
        for region in map(pool.grid.region, pool.labelled.nonzero().flatten().tolist())
    }
    chosen = read_json(experiment.run.selection_path("uniform", 0))["regions"][:3]
    known = experiment.splits.train_set.names if rehearsal else []
    whole = {(name, row, col) for name in known for row in range(3) for col in range(4)}
    assert labelled == whole | {tuple(region) for region in chosen}
    if rehearsal:
        assert {data.names[i]: n for i, n in enumerate(crops.tolist()) if n != 1} == (
            dict.fromkeys(known, rehearsal) if rehearsal > 1 else {}
        )
    else:
        assert crops is None


def test_a_final_training_has_a_seed_of_its_own(make):
    experiment = make(methods=("uniform",), num_seeds=2)
    run, weights = experiment.run, []
    experiment.select("uniform", 0, learned=run, wanted=experiment.config.budgets)
    state, _ = load_tensors(run.segmenter_path("uniform", 0, 6))
    for seed in (1, 2):  # the same regions from the same weights
        run.write_selection(run.read_selection("uniform", 0) | {"seed": seed})
        run.save_segmenter("uniform", seed, 6, state)
    experiment.segmenters.test_record = lambda trainer: (
        weights.append({name: value.clone() for name, value in trainer.segmenter.state_dict().items()})
        or {"miou": 0.5, "iou": {}}
    )
    mious = itertools.count()
    experiment.segmenters.reward_miou = lambda trainer: next(mious)  # better after every epoch
    for seed in (0, 1, 2):
        experiment.finish("uniform", seed, 6, selected=run)
    for one, other in itertools.combinations(weights, 2):
        assert any(not torch.equal(one[name], other[name]) for name in one)


def test_records_are_of_the_test_set_and_rewards_of_d_r(make):
    experiment = make()
    segmenters, splits = experiment.segmenters, experiment.splits
    trainer = segmenters.new_trainer(0.1)
    on = {
        name: mean_iou(evaluate(trainer.segmenter, data, batch_size=4))
        for name, data in (("test", splits.test_set), ("d_r", splits.reward_set))
    }
    assert (
        segmenters.test_record(trainer)["miou"] == on["test"] != on["d_r"] == segmenters.reward_miou(trainer)
    )


@pytest.mark.parametrize("lost", ["the segmenter", "the selection", "both"])
def test_what_was_lost_is_chosen_again(make, lost, one_thread):
    experiment = make(methods=("uniform",))
    run, budgets = experiment.run, experiment.config.budgets
    experiment.select("uniform", 0, learned=run, wanted=budgets)
    selection, segmenter = run.selection_path("uniform", 0), run.segmenter_path("uniform", 0, 3)
    before = [path.read_bytes() for path in (selection, segmenter)]
    if lost != "the selection":
        segmenter.unlink()
    if lost != "the segmenter":
        selection.unlink()
    experiment.select("uniform", 0, learned=run, wanted=budgets)
    assert [path.read_bytes() for path in (selection, segmenter)] == before


def test_a_damaged_selection_is_named(make):
    experiment = make(methods=("uniform",))
    experiment.select("uniform", 0, learned=experiment.run, wanted=(3, 6))
    path = experiment.run.selection_path("uniform", 0)
    path.write_text(path.read_text().replace('"uniform"', '"entropy"'))
    with pytest.raises(RunError, match=r"uniform-seed0.json: was damaged or changed"):
        experiment.select("uniform", 0, learned=experiment.run, wanted=(3, 6))


def test_a_selection_says_what_was_wrong_in_it(make):
    experiment = make(methods=("uniform",))  # budgets 3 and 6, regions of 16×16
    experiment.select("uniform", 0, learned=experiment.run, wanted=experiment.config.budgets)
    mistaken = read_json(experiment.run.selection_path("uniform", 0))["mistaken_pixels"]
    assert len(mistaken) == 6 and all(0 <= pixels <= 256 for pixels in mistaken) and sum(mistaken) > 0
    parts = experiment.describe_selection("uniform", 0, selected=experiment.run)
    assert [part["mistaken_share"] for part in parts] == [
        pytest.approx(sum(mistaken[:budget]) / (256 * budget)) for budget in (3, 6)
    ]


def test_pretraining_is_cached_by_what_it_depends_on(make):
    experiment = make()
    splits = experiment.splits

    def key(experiment, data=splits.train_set, lr=0.1):
        return experiment.pretraining._fingerprint("theta0_prime", data, None, lr, 3, experiment.config.seed)

    same = key(experiment)
    assert key(make(query_size=3, gamma=0.5, budgets=(4, 5))) == same  # nothing of the game
    assert experiment.segmenters.numerics["ralx"] == ralx.__version__  # part of the key
    others = [make(seed=1), make(batch_size=3), make(dropout=0.3), make(crop_size=(16, 16))]
    others.append(make(loss_weights="rarity"))
    keys = {same, *map(key, others), key(experiment, splits.full_set), key(experiment, lr=0.2)}
    assert len(keys) == 8


def test_an_option_that_nobody_thought_of_counts(make, monkeypatch):
    """An option that is not listed costs a training; a list of what counts would serve a stale result."""
    experiment = make()

    def key():
        return experiment.pretraining._fingerprint("theta0", experiment.splits.state_set, None, 0.1, 3, 0)

    before, to_json = key(), type(experiment.config).to_json
    monkeypatch.setattr(type(experiment.config), "to_json", lambda self: to_json(self) | {"new_option": 1})
    assert key() != before


def no_dropout(num_classes):
    return nn.Conv2d(3, num_classes, 4, stride=4)


def five_classes(num_classes):
    return nn.Sequential(nn.Conv2d(3, 5, 4, stride=4), nn.Dropout(0.1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segmenter": f"{__name__}:no_dropout"}, "methods: bald needs dropout"),
        ({"segmenter": f"{__name__}:five_classes"}, r"must give logits \[N, 11, h, w\], got \[1, 5"),
        ({"budget": 49}, "budget: must be at most the 48 regions of synthetic D_T, got 49"),
        ({"budgets": (3, 73)}, "budgets: must be at most the 72 regions of synthetic D_V, got 73"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_trained(make, changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_images_without_a_labelled_pixel_have_no_miou(make, monkeypatch):
    segmenters, batch = make().segmenters, SegmentationDataset.batch

    def without_labels(data, index):
        images, labels = batch(data, index)
        return images, torch.full_like(labels, data.ignore_index)

    monkeypatch.setattr(SegmentationDataset, "batch", without_labels)
    with pytest.raises(DataError, match="synthetic D_R: no pixel of it has a class"):
        segmenters.reward_miou(segmenters.new_trainer(0.1))


def test_the_edge_reaches_all_that_counts_regions(make):
    experiment = make(edge="keep", region_size=(20, 24))  # 48×64 pixels: 3 × 3 regions instead of 2 × 2
    game = experiment._game(experiment.splits.eval_set)
    assert game.grid.num_regions == 6 * 9
    assert experiment._network_sizes()["num_regions"] == 2 * 9
    assert experiment._policy_needs()["edge"] == "keep"
    regions = torch.tensor([0, 2, 8])  # whole, 20×16, 8×16
    selected = experiment._selected(game, regions)
    assert selected["labelled_pixels"] == 20 * 24 + 20 * 16 + 8 * 16
    assert sum(selected["selected_class_fraction"]) == pytest.approx(1)
    for method in "entropy", "bald", "uniform":
        chosen = experiment._chooser(method, 0, game)(game, 3, torch.Generator().manual_seed(0))
        assert len(set(chosen.tolist())) == 3
    with pytest.raises(ValueError, match="budgets: must be at most the 54 regions of synthetic D_V, got 55"):
        make(edge="keep", region_size=(20, 24), budgets=(3, 55))


def test_a_cache_that_is_no_folder_is_refused(make, tmp_path):
    (tmp_path / "cache").write_text("x")
    with pytest.raises(ValueError, match=r"cache: must be a folder, got .*cache"):
        make()


def test_uniform_reads_no_image(make, monkeypatch):
    experiment = make()
    game = experiment._game(experiment.splits.eval_set)
    monkeypatch.setattr(type(game.dataset), "images", lambda self, index: pytest.fail("an image was read"))
    regions = experiment._chooser("uniform", 0, game)(game, 3, torch.Generator().manual_seed(0))
    assert len(set(regions.tolist())) == 3


def test_hidden_features_reach_what_the_agent_sees(make):
    experiment = make(hidden_features=("state-entropy", "kl-unlabelled"), kl_summary="sum")
    game = experiment._game(experiment.splits.eval_set)
    candidates = game.draw(2, 3, torch.Generator().manual_seed(0))
    seen = experiment._observer(game, experiment.stopwatch)(game, candidates)
    assert seen.state[:, :11].any() and not seen.state[:, 11:].any()
    assert not seen.actions[..., -32:].any() and seen.actions[..., 11:-64].any()


def test_a_policy_knows_what_it_was_not_shown(make):
    whole = make()
    whole.save_policies()
    assert whole._load_policy(whole._policy_path(0))
    blind = make(hidden_features=("kl-labelled",))
    with pytest.raises(ValueError, match=r"hidden_features=nothing; needed is hidden_features=\['kl-label"):
        blind._load_policy(whole._policy_path(0))
    blind.save_policies()
    with pytest.raises(ValueError, match=r"has hidden_features=\['kl-labelled'\]; needed is .*=None"):
        whole._load_policy(whole._policy_path(0))


def test_the_segmenter_is_compiled_and_captured_where_asked_for(learner_of):
    plain, asked = learner_of(), learner_of(compile=True, cuda_graph=True)
    assert plain.game.trainer.segmenter._compiled_call_impl is None
    assert asked.game.trainer.segmenter._compiled_call_impl is not None
    assert plain.game.trainer.state_dict().keys() == asked.game.trainer.state_dict().keys()
    assert not isinstance(plain.observe.regions, CudaGraph)
    assert isinstance(asked.observe.regions, CudaGraph)
