"""Every option reaches what it switches, and every stage leaves what it promises."""

import itertools

import pytest
import torch
from tiny_runs import tiny_config, worker_in
from torch import nn

import ralx.runs.stages as stages_module
from ralx.agent.policy_file import save_policy
from ralx.agent.query_network import QueryNetwork
from ralx.datasets import DataError, SegmentationDataset
from ralx.metrics import mean_iou, rarity
from ralx.runs.checks import refuse_impossible
from ralx.runs.plan import Stages
from ralx.runs.stage import Artifact
from ralx.runs.stages import policy_artifact
from ralx.segmentation import CudaGraph, evaluate
from ralx.support.files import RunError
from ralx.support.randomness import stream


@pytest.fixture
def worker(tmp_path):
    return worker_in(tmp_path)


def untrained(worker, config):
    """Makes every pretrained segmenter of the config a new one, and every policy a new query network."""
    stages = Stages(config)
    weights = stages.segmenter.segmenter(11, worker.device).state_dict()
    state_set = worker.splits(config).state_set
    network = QueryNetwork(**stages.sees.sizes(state_set), generator=stream("query network", 0))
    policy = policy_artifact(network, stages.sees.metadata(state_set), [])
    found = worker.artifact
    worker.artifact = lambda stage: (
        Artifact(weights, {}) if stage.is_pretraining else policy if stage.kind == "learn" else found(stage)
    )
    return stages


@pytest.fixture
def learner_of(worker):
    return lambda **options: untrained(worker, tiny_config(**options)).policy(0).learner(worker)


def test_the_default_mends_every_departure(learner_of):
    learner = learner_of()
    assert learner.agent.options.dqn_lr_schedule == "constant"
    assert (learner.options.epsilon_coin, learner.options.first_reward) == ("sub-action", "gain")
    assert learner.options.epsilon(0, 500) == pytest.approx(0.9)
    assert learner.options.epsilon(1, 0) == pytest.approx(0.05 + 0.85 * 2.718281828 ** (-5 / 2))
    assert learner.observe.featurizer.kl_range == (0.0, 16.2)
    assert not learner.observe.featurizer.counts
    assert learner.game.options.candidate_sampling == "regions"
    assert learner.game.trainer.options.train_dropout


def test_published_restores_every_departure(learner_of):
    learner = learner_of(published=True)
    assert (learner.agent.options.dqn_lr_schedule, learner.agent.options.dqn_lr_decay) == ("run", 0.97)
    assert (learner.options.epsilon_coin, learner.options.first_reward) == ("step", "whole")
    assert learner.options.epsilon(1, 10) == pytest.approx(0.05 + 0.85 * 2.718281828**-1)
    assert learner.observe.featurizer.kl_range is None
    assert learner.observe.featurizer.counts
    assert learner.game.options.candidate_sampling == "images"
    assert not learner.game.trainer.options.train_dropout


def test_agent_options_reach_the_agent(learner_of):
    learner = learner_of(dueling=True, dqn_lr=0.5, dqn_momentum=0.25, dqn_weight_decay=0.75)
    assert learner.agent.query_network.dueling
    sgd = learner.agent.optimizer.param_groups[0]
    assert (sgd["lr"], sgd["momentum"], sgd["weight_decay"]) == (0.5, 0.25, 0.75)
    assert learner_of(replay_capacity=77).replay_buffer.capacity == 77


def test_mistakes_weigh_by_rarity_unless_the_loss_does_already(learner_of):
    plain = learner_of(reward="mistakes")
    of_d_t = rarity(plain.game.dataset.class_counts().sum(0))
    assert torch.equal(plain.mistake_weights, of_d_t)
    weighted = learner_of(reward="mistakes", loss_weights="rarity")
    assert torch.equal(weighted.mistake_weights, torch.ones(11, dtype=torch.float64))
    assert torch.equal(weighted.game.trainer.class_weights, of_d_t.float())
    assert learner_of().mistake_weights is None and plain.game.trainer.class_weights is None


def test_the_segmenter_is_compiled_and_captured_where_asked_for(learner_of):
    plain, asked = learner_of(), learner_of(compile=True, cuda_graph=True)
    assert plain.game.trainer.segmenter._compiled_call_impl is None
    assert asked.game.trainer.segmenter._compiled_call_impl is not None
    assert plain.game.trainer.state_dict().keys() == asked.game.trainer.state_dict().keys()
    assert not isinstance(plain.observe.regions, CudaGraph)
    assert isinstance(asked.observe.regions, CudaGraph)


def test_hidden_features_reach_what_the_agent_sees(learner_of):
    learner = learner_of(hidden_features=("state-entropy", "kl-unlabelled"), kl_summary="sum")
    candidates = learner.game.draw(2, 3, torch.Generator().manual_seed(0))
    seen = learner.observe(candidates)
    assert seen.state[:, :11].any() and not seen.state[:, 11:].any()
    assert not seen.actions[..., -32:].any() and seen.actions[..., 11:-64].any()


@pytest.fixture
def epochs(monkeypatch):
    """What every epoch would have trained on, in the place of training."""
    seen = []

    def spy(trainer, data, *, pool=None, crops=None, **options):
        seen.append((data, pool, crops, trainer.class_weights))
        return 0.0

    monkeypatch.setattr(stages_module, "train_epoch", spy)
    return seen


@pytest.mark.parametrize("scenes", [0, 3])
def test_theta0_sees_no_label_of_d_t(worker, epochs, scenes):
    config = tiny_config(loss_weights="rarity", pretrain_images=scenes)
    splits, stages = worker.splits(config), Stages(config)
    expected = [splits.pretrain_set] * (scenes > 0) + [splits.state_set, splits.train_set, splits.full_set]
    for stage in [stages.theta0.start] * (scenes > 0) + [stages.theta0, stages.theta0_prime]:
        worker.do(stage)
    worker.do(stages.full_supervision(0))
    in_turn = [data.name for data, _ in itertools.groupby(data for data, *_ in epochs)]
    assert in_turn == [data.name for data in expected]
    for data, _, _, weights in epochs:
        assert torch.equal(weights, rarity(data.class_counts().sum(0)).float())


def named(data, grid, regions):
    """(image's name, row, column) of each region."""
    places = zip(*(part.tolist() for part in grid.split(regions)), strict=True)
    return {(data.names[image], row, col) for image, row, col in places}


@pytest.mark.parametrize("rehearsal", [0, 1, 3])
def test_the_final_training_rehearses_d_t_where_that_is_wanted(worker, epochs, rehearsal):
    config = tiny_config(rehearsal=rehearsal, max_epochs=2, final_max_epochs=3)
    stages = untrained(worker, config)
    final = stages.final("uniform", 0, 3)
    worker.do(final.select)
    worker.do(final)
    assert len(epochs) == 2, "max_epochs caps every training"
    data, pool, crops, _ = epochs[0]
    labelled = pool.labelled.nonzero().flatten()
    names = named(data, pool.grid, labelled)
    regions = worker.artifact(final.select).tensors["regions"][:3]
    chosen = named(worker.images(final.select.eval_set), final.select.grid(worker), regions)
    known = worker.splits(config).train_set.names if rehearsal else []
    assert names == chosen | {(name, row, col) for name in known for row in range(3) for col in range(4)}
    if rehearsal:
        more = {data.names[i]: n for i, n in enumerate(crops.tolist()) if n != 1}
        assert more == (dict.fromkeys(known, rehearsal) if rehearsal > 1 else {})
    else:
        assert crops is None


def test_a_final_training_goes_on_from_the_game_or_with_a_rate_of_its_own(worker, monkeypatch):
    rates = []
    monkeypatch.setattr(
        stages_module, "train_epoch", lambda trainer, *_, **__: rates.append((trainer.lr, trainer.lr_decay))
    )
    for options in ({"final_lr": None, "final_lr_decay": None}, {"final_lr": 0.5, "final_lr_decay": 0.7}):
        config = tiny_config(segmenter_lr=0.25, segmenter_lr_decay=0.9, **options)
        final = untrained(worker, config).final("uniform", 0, 3)
        worker.do(final.select)
        worker.do(final)
    assert rates == [(0.25, 0.9), (0.5, 0.7)]


def test_a_final_training_has_a_seed_of_its_own(worker, monkeypatch):
    """The same regions from the same weights, but other crops in another order."""
    drawn = []
    monkeypatch.setattr(
        stages_module,
        "train_epoch",
        lambda *_, generator, **__: drawn.append(torch.rand(1, generator=generator).item()),
    )
    stages = untrained(worker, tiny_config())
    for seed, budget in ((0, 3), (1, 3), (0, 6)):
        final = stages.final("uniform", seed, budget)
        worker.do(final.select)
        worker.do(final)
    assert len(set(drawn)) == 3


def test_records_are_of_the_test_set_and_rewards_of_d_r(worker):
    stage = Stages(tiny_config(pretrain_images=0)).theta0
    worker.do(stage)
    artifact = worker.artifact(stage)
    splits = worker.splits(tiny_config(pretrain_images=0))
    segmenter = stage.segmenter.segmenter(11, worker.device)
    segmenter.load_state_dict(artifact.tensors)
    test, d_r = (
        mean_iou(evaluate(segmenter, data, batch_size=4)) for data in (splits.test_set, splits.reward_set)
    )
    assert (artifact.found["record"]["miou"], artifact.found["reward_miou"]) == (test, d_r)
    assert test != d_r


def test_a_selection_says_what_was_wrong_in_it(worker):
    stage = untrained(worker, tiny_config()).select("uniform", 0)  # budgets 3 and 6, regions of 16×16
    worker.do(stage)
    tensors, found = worker.artifact(stage)
    mistaken = tensors["mistaken"].tolist()
    assert len(mistaken) == len(set(tensors["regions"].tolist())) == 6
    assert all(0 <= pixels <= 256 for pixels in mistaken) and sum(mistaken) > 0
    assert [part["mistaken_share"] for part in found["selected"]] == [
        pytest.approx(sum(mistaken[:budget]) / (256 * budget)) for budget in (3, 6)
    ]


def test_images_without_a_labelled_pixel_have_no_miou(worker, monkeypatch):
    batch = SegmentationDataset.batch

    def without_labels(data, index):
        images, labels = batch(data, index)
        return images, torch.full_like(labels, data.ignore_index)

    monkeypatch.setattr(SegmentationDataset, "batch", without_labels)
    config = tiny_config()
    recipe, splits = Stages(config).segmenter, worker.splits(config)
    with pytest.raises(DataError, match="synthetic D_R: no pixel of it has a class"):
        recipe.miou(recipe.trainer(0.1, splits.train_set, worker.device), splits.reward_set)


def test_the_edge_reaches_all_that_counts_regions(worker):
    edge = dict(edge="keep", region_size=(20, 24))  # 48×64 pixels: 3 × 3 regions instead of 2 × 2
    config = tiny_config(**edge)
    stages, state_set = untrained(worker, config), worker.splits(config).state_set
    assert stages.sees.sizes(state_set)["num_regions"] == 2 * 9
    assert stages.sees.metadata(state_set)["edge"] == "keep"
    select = stages.select("uniform", 0)
    game = select.new_game(worker)
    assert game.grid.num_regions == 6 * 9
    held = stages_module.held_by(game, torch.tensor([0, 2, 8]))  # whole, 20×16, 8×16
    assert held["labelled_pixels"] == 20 * 24 + 20 * 16 + 8 * 16
    assert sum(held["selected_class_fraction"]) == pytest.approx(1)
    for method in "entropy", "bald", "uniform":
        choose = stages.select(method, 0).chooser(game, worker)
        assert len(set(choose(game, 3, torch.Generator().manual_seed(0)).tolist())) == 3
    with pytest.raises(ValueError, match="budgets: must be at most the 54 regions of synthetic D_V, got 55"):
        refuse_impossible(config.changed(budgets=(3, 55)), worker)


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
        ({"methods": ("no_such_module:f",)}, "methods: can't import 'no_such_module'"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_trained(worker, changes, message):
    with pytest.raises(ValueError, match=message):
        refuse_impossible(tiny_config(**changes), worker)


def test_a_cache_that_is_no_folder_is_refused(worker, tmp_path):
    (tmp_path / "cache").write_text("x")
    with pytest.raises(ValueError, match=r"cache: must be a folder, got .*cache"):
        refuse_impossible(tiny_config(), worker)


def test_a_policy_knows_what_it_was_not_shown(worker, tmp_path):
    def file_of(config):
        """An untrained policy as a file, as a run leaves it."""

        sees, state_set = Stages(config).sees, worker.splits(config).state_set
        path = tmp_path / f"{len(config.features.hidden_features)}.safetensors"
        save_policy(
            path, QueryNetwork(**sees.sizes(state_set), generator=stream("x")), sees.metadata(state_set)
        )
        return path

    whole, blind = tiny_config(), tiny_config(hidden_features=("kl-labelled",))
    refuse_impossible(whole.changed(policy=file_of(whole)), worker)
    with pytest.raises(ValueError, match=r"hidden_features=nothing; needed is hidden_features=\['kl-label"):
        refuse_impossible(blind.changed(policy=file_of(whole)), worker)
    with pytest.raises(ValueError, match=r"has hidden_features=\['kl-labelled'\]; needed is .*=None"):
        refuse_impossible(whole.changed(policy=file_of(blind)), worker)


def test_what_diverges_is_named(worker):
    stage = Stages(tiny_config(pretrain_images=0, target_lr=1e30)).theta0
    with pytest.raises(RunError, match=r"target_lr: the segmenter has diverged.* \(theta0, epoch 1\)"):
        worker.do(stage)
