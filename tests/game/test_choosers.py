"""Every method plays a game on tiny scenes, and the ones that look at everything take the best there is."""

import functools

import pytest
import torch
from tiny_runs import tiny_config
from torch import nn

from ralx.acquisition.methods import METHODS
from ralx.agent.dqn import AgentConfig, DQNAgent
from ralx.agent.query_network import QueryNetwork
from ralx.datasets import load_splits
from ralx.features import Featurizer
from ralx.game.observer import Observer
from ralx.game.select import Learner
from ralx.runs.plan import Stages
from ralx.runs.stage import Artifact
from ralx.runs.stages import Pretrain, network_of, policy_artifact
from ralx.segmentation import normalise, predict
from ralx.support.files import RunError
from ralx.support.monitor import Monitor
from ralx.support.randomness import stream

SPLITS = functools.cache(lambda data: load_splits(**data.source()))


class Place:
    """Where `Select` runs, with untrained networks in the place of those that other stages leave."""

    device = torch.device("cpu")
    monitor = Monitor()

    def images(self, images):
        return getattr(SPLITS(images.data), images.split)

    def artifact(self, stage):
        if isinstance(stage, Pretrain):
            return Artifact(stage.segmenter.segmenter(11, self.device).state_dict(), {})
        state_set = self.images(stage.state_set)
        network = QueryNetwork(**stage.sees.sizes(state_set), generator=stream("query network", 0))
        return policy_artifact(network.eval(), stage.sees.metadata(state_set), [])


PLACE = Place()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def start(method, **changes):
    """The stage, and its game at the start."""
    select = Stages(tiny_config(methods=(method,), **changes)).select(method, 0)
    return select, select.new_game(PLACE)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_labels_until_all_is_labelled(method):
    select, game = start(method)
    choose = select.chooser(game, PLACE)
    for query_size, left in ((3, 72), (5, 69), (64, 64)):  # the last step takes all that is left
        assert int(game.pool.unlabelled.sum()) == left
        regions = choose(game, query_size, generator(left))
        assert len(set(regions.tolist())) == query_size and not game.pool.labelled[regions].any()
        game.label(regions, generator(left))


@pytest.mark.parametrize("method", METHODS)
def test_the_generator_decides(method):
    select, game = start(method)
    choose = select.chooser(game, PLACE)
    first, _, again = (choose(game, 4, generator(seed)).tolist() for seed in (0, 1, 0))
    assert again == first, "and not what was chosen before: the policy stays as it was learned"
    assert not isinstance(choose, Learner)


def mistakes_of(select, game):
    """float64 [R], mistaken pixels in plain torch, weighted by rarity unless the loss is: scenes of 48×64
    pixels, regions of 16×16."""
    data = game.dataset
    known = PLACE.images(select.train_set).batch(torch.arange(4))[1]
    pixels = torch.stack([(known == label).sum() for label in range(11)])
    weights = (11 * pixels / pixels.sum()).clamp(min=11e-3) ** -0.5
    if select.segmenter.training.loss_weights == "rarity":
        weights = torch.ones(11)
    weights = torch.cat([weights.double(), torch.zeros(256 - 11)])
    images, labels = data.batch(torch.arange(len(data)))
    logits = predict(game.trainer.segmenter, images)
    guess = nn.functional.interpolate(logits, (48, 64), mode="bilinear", align_corners=True).argmax(1)
    wrong = weights[labels.long()].masked_fill(guess == labels, 0)
    return wrong.view(6, 3, 16, 4, 16).sum((2, 4)).flatten()


@pytest.mark.parametrize("loss_weights", ["equal", "rarity"])
def test_cheat_takes_the_most_mistaken_pixels_weighted_once(loss_weights):
    select, game = start("cheat", loss_weights=loss_weights)
    mistakes = mistakes_of(select, game)
    chosen = select.chooser(game, PLACE)(game, 6, generator())
    assert mistakes[chosen].tolist() == pytest.approx(mistakes.sort(descending=True).values[:6].tolist())
    assert mistakes[chosen].sum() > 0


def test_cheat_breaks_ties_at_random(monkeypatch):
    select, game = start("cheat")
    monkeypatch.setattr(game, "mistaken_pixels", lambda regions: torch.ones(len(regions), 11))
    choose = select.chooser(game, PLACE)
    picks = {tuple(sorted(choose(game, 5, generator(seed)).tolist())) for seed in range(6)}
    assert len(picks) > 1


def learning(**changes):
    """A chooser that learns, and the game that it plays."""
    select, game = start("ralis", reward="mistakes", keep_learning=True, **changes)
    return select.chooser(game, PLACE), game


def play(choose, game, steps):
    for step in steps:
        regions = choose(game, 4, generator(step))
        game.label(regions, generator(step))
    return game.pool.order.tolist()


def test_a_policy_that_keeps_learning_learns_what_its_labels_told():
    choose, game = learning(reward_scale=3.0)
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


def test_a_policy_that_keeps_learning_goes_on_from_its_state():
    whole = play(*learning(), range(4))
    choose, game = learning()
    play(choose, game, range(2))
    state, game_state = choose.state_dict(), game.state_dict()
    choose, game = learning()
    assert isinstance(choose, Learner), "what select_regions saves the state of"
    choose.load_state_dict(state)
    game.load_state_dict(game_state)
    assert play(choose, game, range(2, 4)) == whole


def test_a_policy_that_diverges_while_it_chooses_names_its_rate():
    choose, game = learning()
    with torch.no_grad():
        next(choose.agent.query_network.parameters()).fill_(float("nan"))
    with pytest.raises(RunError, match=r"dqn_lr: Q must not be NaN.*\(0 regions labelled\)"):
        choose(game, 4, generator())


def test_ralis_all_takes_the_highest_q_of_everything():
    select, game = start("ralis-all")
    game.label(torch.tensor([5, 40]), generator())
    chosen = select.chooser(game, PLACE)(game, 4, generator())
    use, state_set = select.by_policy, PLACE.images(select.by_policy.state_set)
    agent = DQNAgent(network_of(PLACE.artifact(use.policy)), AgentConfig())
    unlabelled = game.pool.unlabelled.nonzero().T
    seen = Observer(use.sees, game, state_set)(unlabelled)
    assert seen.actions.shape[:2] == (1, 70)
    q = agent.q_values(seen.state, seen.actions)[0]
    assert sorted(chosen.tolist()) == sorted(unlabelled[0, q.topk(4).indices].tolist())


def test_class_balanced_counts_the_labels_of_d_t_and_of_the_game(monkeypatch):
    seen = []

    def spy(step, generator):
        seen.append(step)
        return torch.zeros(len(step.predicted), dtype=torch.int64)

    monkeypatch.setitem(METHODS, "class-balanced", METHODS["class-balanced"]._replace(batch=spy))
    select, game = start("class-balanced")
    labels = [PLACE.images(select.train_set).batch(torch.arange(4))[1]]
    for regions in ([], [7]):
        if regions:
            game.label(torch.tensor(regions), generator())
            labels.append(game.oracle.label(torch.tensor(regions)))
        select.chooser(game, PLACE)(game, 2, generator())
        pixels = sum(torch.bincount(part.flatten().long(), minlength=256)[:11] for part in labels)
        assert torch.equal(seen[-1].known, pixels)
        assert len(seen[-1].labelled) == len(regions)
    assert seen[0].predicted.shape == (2, 10, 11) and seen[0].entropy.shape == (2, 10)
    assert torch.allclose(seen[0].predicted.sum(-1), torch.ones(2, 10))


def test_an_acquisition_function_of_the_users_is_a_method(tmp_path, monkeypatch):
    (tmp_path / "own_acquisition.py").write_text(
        "import ralx\n"
        "def most_sky(segmenter, images, region_size, **options):\n"
        "    assert options['num_mc_samples'] == 7\n"
        "    return ralx.Featurizer(segmenter, region_size, cells=(1, 1))(images).class_hist[..., 0]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    select, game = start("own_acquisition:most_sky", pool_size_other=4, num_mc_samples=7)
    chosen = select.chooser(game, PLACE)(game, 2, generator())
    pools = game.draw(2, 4, generator())
    featurizer = Featurizer(game.trainer.segmenter, (16, 16), cells=(1, 1))
    sky = featurizer(normalise(game.dataset.images(torch.arange(6)))).class_hist[..., 0].flatten()
    assert chosen.tolist() == [pool[sky[pool].argmax()].item() for pool in pools]
