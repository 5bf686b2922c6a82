"""One game for evaluation: its steps, its random streams, and how it goes on or is played again."""

import pytest
import torch
from tiny_game import make_game
from torch import nn

from ralx.acquisition import bald
from ralx.game.choosers import choose_scored, choose_uniform
from ralx.game.game import GameConfig
from ralx.game.select import label_again, select_regions
from ralx.support.checkpoint import Checkpoint
from ralx.support.divergence import refuse_not_finite
from ralx.support.files import RunError, sealed_tensors
from ralx.support.monitor import Monitor


def select(game, choose, budgets, query_size, checkpoint, method="uniform", seed=0):
    game.options = GameConfig(query_size=query_size)
    return select_regions(
        game, choose, budgets, method=method, seed=seed, checkpoint=checkpoint, monitor=Monitor()
    )


class Killed(BaseException):
    pass


class TakesTurns:
    """A chooser that changes as it chooses: takes each next candidate of the pools. Looks at the mistakes
    before their labels are known."""

    def __init__(self, kill_at=None):
        self.turn, self.kill_at, self.looked = torch.tensor(0), kill_at, []

    def __call__(self, game, query_size, generator):
        if game.pool.num_labelled == self.kill_at:
            raise Killed
        regions = game.draw(query_size, 3, generator)[:, self.turn % 3]
        self.turn += 1
        self.looked += game.mistaken_pixels(regions).sum(1).tolist()
        return regions

    def state_dict(self):
        return {"nested": {"turn": self.turn}}

    def load_state_dict(self, state):
        self.turn = state["nested"]["turn"]


def test_selection_counts_what_the_segmenter_had_wrong_and_goes_on_where_it_was_killed(tmp_path, lock):
    def play(name, **options):
        game, choose = make_game(), TakesTurns(**options)
        mistaken = select(game, choose, (5, 8), 3, Checkpoint(tmp_path / name, lock))
        return mistaken.tolist(), game, choose

    mistaken, game, choose = play("whole")
    assert mistaken == choose.looked and len(mistaken) == 8 and sum(mistaken) > 0
    in_the_end = game.mistaken_pixels(game.pool.order).sum(1).tolist()
    assert mistaken != in_the_end, "the labels taught the segmenter something"
    with pytest.raises(Killed):
        play("killed", kill_at=5)
    again, game_again, choose_again = play("killed")
    assert len(choose_again.looked) < 8, "it didn't start afresh"
    assert again == mistaken
    assert sealed_tensors(game_again.state_dict()) == sealed_tensors(game.state_dict())
    assert play("killed")[0] == mistaken, "nor once it is finished"


def test_a_seed_decides_what_is_drawn_and_methods_share_it(tmp_path, lock):
    """Common random numbers: what differs between two methods of a seed is their choice."""

    def play(method, seed, place):
        game, pools = make_game(), []

        def choose(game, query_size, generator):
            pools.append(game.draw(query_size, 3, generator))
            return pools[-1][:, place]

        select(game, choose, (4,), 2, Checkpoint(tmp_path / f"{method}{seed}", lock), method, seed)
        return [pool.tolist() for pool in pools], game.trainer.segmenter.weight

    pools, weights = play("first", 0, 0)
    again, same_weights = play("again", 0, 0)
    assert again == pools and torch.equal(same_weights, weights), "the same choice, so the same crops"
    other_choice, _ = play("last", 0, 2)
    assert other_choice[0] == pools[0] and other_choice[1] != pools[1]
    other_seed, _ = play("first", 1, 0)
    assert other_seed[0] != pools[0]


def with_dropout_and_batch_norm():
    layers = nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Conv2d(8, 2, 1)
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("options", "choose"),
    [
        ({}, choose_uniform(3)),
        ({"new_segmenter": with_dropout_and_batch_norm}, choose_scored(bald, 3, num_mc_samples=2)),
    ],
    ids=["uniform", "dropout and MC passes"],
)
def test_steps_end_at_every_budget_and_labelling_again_gives_its_bits(checkpoint, options, choose):
    """All of the segmenter, its momentum and its labels, whatever the choice has drawn and run."""
    states = {}

    def keep(game):
        states[game.pool.num_labelled] = sealed_tensors(game.state_dict())

    def choose_and_keep(game, query_size, generator):
        keep(game)
        return choose(game, query_size, generator)

    game, budgets = make_game(**options), (5, 7, 12)
    select(game, choose_and_keep, budgets, 3, checkpoint, seed=4)
    keep(game)
    assert list(states) == [0, 3, 5, 7, 10, 12]
    for budget in budgets:
        again = make_game(**options, query_size=3)
        label_again(again, game.pool.order[:budget], budgets, seed=4)
        assert sealed_tensors(again.state_dict()) == states[budget]
    other_seed = make_game(**options, query_size=3)
    label_again(other_seed, game.pool.order, budgets, seed=5)
    assert sealed_tensors(other_seed.state_dict()) != states[12]


def test_a_segmenter_that_diverges_while_regions_are_selected_names_its_rate(checkpoint):
    def choose(game, query_size, generator):
        refuse_not_finite(torch.tensor([0.5, float("inf")]))

    with pytest.raises(
        RunError, match=r"segmenter_lr: the segmenter has.*uniform, seed 0, 0 regions labelled"
    ):
        select(make_game(), choose, (5,), 3, checkpoint)
