"""The game's rules: what labels reveal, what they teach the segmenter, and what it still has wrong."""

import torch
from tiny_game import make_game
from torch import nn

from ralx.metrics import class_counts
from ralx.support.files import load_tensors, save_tensors
from ralx.support.randomness import stream


def test_labelling_reveals_only_the_chosen_regions_and_trains_on_them():
    game = make_game()
    before = game.trainer.segmenter.weight.clone()
    game.label(torch.tensor([0, 7]), stream("x"))  # top left of a, second of the first row of b
    assert game.labelled_distributions.tolist() == [[1.0, 0.0], [0.5, 0.5]]
    assert game.pool.order.tolist() == [0, 7]
    assert not torch.equal(game.trainer.segmenter.weight, before)


def test_a_new_episode_starts_from_the_given_weights_with_nothing_labelled():
    game = make_game()
    start = game.trainer.state_dict()
    game.label(torch.tensor([0, 7]), stream("x"))
    game.start(start)
    assert game.pool.num_labelled == 0 and len(game.labelled_distributions) == 0
    assert not game.labelled_pixels.any()
    assert torch.equal(game.trainer.segmenter.weight, start["weights.weight"])


def test_a_game_comes_back_from_its_saved_state(tmp_path):
    game, again = make_game(), make_game()
    game.label(torch.tensor([3, 5]), stream("x"))
    save_tensors(tmp_path / "game", game.state_dict())
    again.load_state_dict(load_tensors(tmp_path / "game")[0])
    for each in (game, again):
        each.label(torch.tensor([9]), stream("y"))
    assert game.pool.order.tolist() == again.pool.order.tolist()
    assert torch.equal(game.labelled_distributions, again.labelled_distributions)
    assert torch.equal(game.labelled_pixels, again.labelled_pixels)
    assert torch.equal(game.trainer.segmenter.weight, again.trainer.segmenter.weight)


def test_a_game_counts_the_pixels_of_its_labels():
    game = make_game()
    for regions in torch.tensor([0, 9]), torch.tensor([4, 23, 11]):
        game.label(regions, stream("x"))
    expected = class_counts(game.oracle.label(game.pool.order), 2, 255).sum(0)
    assert torch.equal(game.labelled_pixels, expected) and expected.sum() > 0


def test_mistakes_are_of_logits_upsampled_with_their_corners_aligned():
    class Edge(nn.Conv2d):
        def forward(self, images):
            row = torch.tensor([3.0, -1.0])  # over 12 columns: 0 at 3/4 of 11
            return torch.stack([row, -row])[None, :, None].expand(len(images), 2, 2, 2)

    game = make_game()  # columns 0 to 5 are left, 6 to 11 right
    game.trainer.segmenter = Edge(3, 2, 1)
    assert game.mistaken_pixels(torch.arange(6)).tolist() == [[0, 0], [0, 8], [0, 4]] * 2
    weights = torch.tensor([5.0, 3.0], dtype=torch.float64)
    shares = [0, 3 * 8 / 16, 3 * 4 / 16]
    assert game.mistakes(torch.arange(6), weights).tolist() == shares * 2, "of the region's 16 pixels"


def test_mistakes_are_found_with_few_images_at_once(monkeypatch):
    game, seen = make_game(), []
    batch = game.dataset.batch
    monkeypatch.setattr(game.dataset, "batch", lambda index: seen.append(len(index)) or batch(index))
    found = game.mistaken_pixels(torch.arange(24))
    assert seen == [3, 1], "as many as inference_batch_size"
    one_by_one = [game.mistaken_pixels(torch.tensor([i])) for i in range(0, 24, 6)]
    assert torch.equal(found[::6], torch.cat(one_by_one))
