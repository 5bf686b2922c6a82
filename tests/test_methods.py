"""Every method plays a game on tiny scenes, and the ones that look at everything take the best there is."""

import pytest
import torch
from tiny_experiments import experiment_in
from torch import nn

from ralx.config import METHODS
from ralx.features import Featurizer
from ralx.methods import CHOOSERS, choose_batch
from ralx.metrics import rarity
from ralx.run_dir import RunError
from ralx.segmentation import normalise, predict


@pytest.fixture
def make(tmp_path):
    return experiment_in(tmp_path)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def game_of(experiment):
    game = experiment._game(experiment.splits.eval_set)
    game.start(experiment.segmenters.new_trainer(0.01).state_dict())
    return game


def test_the_config_knows_every_method():
    assert set(CHOOSERS) == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_labels_until_all_is_labelled(make, method):
    experiment = make(methods=(method,))
    experiment.save_policies()
    game = game_of(experiment)
    choose = experiment._chooser(method, 0, game)
    for query_size, left in ((3, 72), (5, 69), (64, 64)):  # the last step takes all that is left
        assert int(game.pool.unlabelled.sum()) == left
        regions = choose(game, query_size, generator(left))
        assert len(set(regions.tolist())) == query_size and not game.pool.labelled[regions].any()
        game.label(regions, generator(left))


@pytest.mark.parametrize("method", METHODS)
def test_the_generator_decides(make, method):
    experiment = make(methods=(method,))
    experiment.save_policies()
    game = game_of(experiment)
    # A chooser of its own each time: the policy learns as it chooses.
    chosen = [experiment._chooser(method, 0, game)(game, 4, generator()).tolist() for _ in range(2)]
    assert chosen[0] == chosen[1]


def mistakes_of(experiment, game):
    """float64 [R], mistaken pixels in plain torch, weighted by rarity unless the loss is: scenes of 48×64
    pixels, regions of 16×16."""
    data = game.dataset
    known = experiment.splits.train_set.batch(torch.arange(4))[1]
    pixels = torch.stack([(known == label).sum() for label in range(11)])
    weights = (11 * pixels / pixels.sum()).clamp(min=11e-3) ** -0.5
    if experiment.config.loss_weights == "rarity":
        weights = torch.ones(11)
    weights = torch.cat([weights.double(), torch.zeros(256 - 11)])
    images, labels = data.batch(torch.arange(len(data)))
    logits = predict(game.trainer.segmenter, images)
    guess = nn.functional.interpolate(logits, (48, 64), mode="bilinear", align_corners=True).argmax(1)
    wrong = weights[labels.long()].masked_fill(guess == labels, 0)
    return wrong.view(6, 3, 16, 4, 16).sum((2, 4)).flatten()


@pytest.mark.parametrize("loss_weights", ["equal", "rarity"])
def test_cheat_takes_the_most_mistaken_pixels_weighted_once(make, loss_weights):
    experiment = make(methods=("cheat",), loss_weights=loss_weights)
    game = game_of(experiment)
    mistakes = mistakes_of(experiment, game)
    chosen = experiment._chooser("cheat", 0, game)(game, 6, generator())
    assert mistakes[chosen].tolist() == pytest.approx(mistakes.sort(descending=True).values[:6].tolist())
    assert mistakes[chosen].sum() > 0


def test_cheat_breaks_ties_at_random(make, monkeypatch):
    experiment = make(methods=("cheat",))
    game = game_of(experiment)
    monkeypatch.setattr(game, "mistaken_pixels", lambda regions: torch.ones(len(regions), 11))
    choose = experiment._chooser("cheat", 0, game)
    picks = {tuple(sorted(choose(game, 5, generator(seed)).tolist())) for seed in range(6)}
    assert len(picks) > 1


def test_mistakes_are_shares_of_the_region(make):
    experiment = make(methods=("cheat",))
    game = game_of(experiment)
    regions = torch.tensor([3, 60, 17])
    weights = rarity(experiment.segmenters.known_pixels)
    expected = mistakes_of(experiment, game)[regions] / 256
    assert game.mistakes(regions, weights).tolist() == pytest.approx(expected.tolist())


def learning(make, **changes):
    """A chooser that learns, and the game that it plays."""
    experiment = make(reward="mistakes", keep_learning=True, **changes)
    experiment.save_policies()
    game = game_of(experiment)
    return experiment._chooser("ralis", 0, game), game


def play(choose, game, steps):
    for step in steps:
        regions = choose(game, 4, generator(step))
        game.label(regions, generator(step))
    return game.pool.order.tolist()


def test_a_policy_that_keeps_learning_learns_what_its_labels_told(make):
    choose, game = learning(make, reward_scale=3.0)
    before = choose.agent.state_dict()
    mistakes = game.mistakes
    seen = {}

    def spy(regions, weights):
        seen[tuple(regions.tolist())] = 3.0 * mistakes(regions, weights)
        return seen[tuple(regions.tolist())] / 3.0

    game.mistakes = spy
    order = play(choose, game, range(2))
    assert list(seen) == [tuple(order[:4]), tuple(order[4:])], "only labels that it asked for are looked at"
    remembered = choose.replay_buffer.state_dict()
    for step, rewards in enumerate(seen.values()):
        assert torch.allclose(remembered[f"{step}.reward"], rewards)
    after = choose.agent.state_dict()
    assert any(not torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_policy_that_keeps_learning_goes_on_from_its_state(make):
    whole = play(*learning(make), range(4))
    choose, game = learning(make)
    play(choose, game, range(2))
    state, game_state = choose.state_dict(), game.state_dict()
    choose, game = learning(make)
    choose.load_state_dict(state)
    game.load_state_dict(game_state)
    assert play(choose, game, range(2, 4)) == whole


def test_a_policy_that_diverges_while_it_chooses_names_its_rate(make):
    choose, game = learning(make)
    with torch.no_grad():
        next(choose.agent.query_network.parameters()).fill_(float("nan"))
    with pytest.raises(RunError, match=r"dqn_lr: Q must not be NaN.*\(0 regions labelled\)"):
        choose(game, 4, generator())


def test_ralis_all_takes_the_highest_q_of_everything(make):
    experiment = make(methods=("ralis-all",))
    experiment.save_policies()
    game = game_of(experiment)
    game.label(torch.tensor([5, 40]), generator())
    chosen = experiment._chooser("ralis-all", 0, game)(game, 4, generator())
    agent, observe = (
        experiment._agent(experiment._own_policy(0)),
        experiment._observer(game, experiment.stopwatch),
    )
    unlabelled = game.pool.unlabelled.nonzero().T
    seen = observe(game, unlabelled)
    assert seen.actions.shape[:2] == (1, 70)
    q = agent.q_values(seen.state, seen.actions)[0]
    assert sorted(chosen.tolist()) == sorted(unlabelled[0, q.topk(4).indices].tolist())


def test_class_balanced_counts_the_labels_of_d_t_and_of_the_game(make, monkeypatch):
    seen = []

    def spy(step, generator):
        seen.append(step)
        return torch.zeros(len(step.predicted), dtype=torch.int64)

    monkeypatch.setitem(CHOOSERS, "class-balanced", choose_batch(spy))
    experiment = make(methods=("class-balanced",))
    game = game_of(experiment)
    labels = [experiment.splits.train_set.batch(torch.arange(4))[1]]
    for regions in ([], [7]):
        if regions:
            game.label(torch.tensor(regions), generator())
            labels.append(game.oracle.label(torch.tensor(regions)))
        experiment._chooser("class-balanced", 0, game)(game, 2, generator())
        pixels = sum(torch.bincount(part.flatten().long(), minlength=256)[:11] for part in labels)
        assert torch.equal(seen[-1].known, pixels)
        assert len(seen[-1].labelled) == len(regions)
    assert seen[0].predicted.shape == (2, 10, 11) and seen[0].entropy.shape == (2, 10)
    assert torch.allclose(seen[0].predicted.sum(-1), torch.ones(2, 10))


OWN = "own_acquisition:most_sky"  # in a module that the test writes


@pytest.fixture
def own_acquisition(tmp_path, monkeypatch):
    (tmp_path / "own_acquisition.py").write_text(
        "import ralx\n"
        "def most_sky(segmenter, images, region_size, **options):\n"
        "    return ralx.Featurizer(segmenter, region_size, cells=(1, 1))(images).class_hist[..., 0]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def test_an_acquisition_function_of_the_users_is_a_method(make, own_acquisition):
    experiment = make(methods=(OWN,), pool_size_other=4)
    game = game_of(experiment)
    chosen = experiment._chooser(OWN, 0, game)(game, 2, generator())
    pools = game.draw(2, 4, generator())
    featurizer = Featurizer(game.trainer.segmenter, experiment.region_size, cells=(1, 1))
    sky = featurizer(normalise(game.dataset.images(torch.arange(6)))).class_hist[..., 0].flatten()
    assert chosen.tolist() == [pool[sky[pool].argmax()].item() for pool in pools]
    experiment.select(OWN, 0, learned=experiment.run, wanted=())
    assert len(experiment.run.read_selection(OWN, 0)["regions"]) == 6


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("no_such_module:f", "methods: can't import 'no_such_module'"),
        ("ralx:no_such_name", "methods: module 'ralx' has no function or class 'no_such_name'"),
        (":f", "methods: expected an import path package.module:name, got ':f'"),
        ("entropie", r"methods: must be among ralis, .*, or package.module:function, got"),
    ],
)
def test_a_method_that_is_none_is_refused_at_the_start(make, method, message):
    with pytest.raises(ValueError, match=message):
        make(methods=(method,))
