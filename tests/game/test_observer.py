"""What the query network sees: the state set's regions, and the candidates next to the labels so far."""

import pytest
import torch
from tiny_game import make_game

from ralx.agent.ablation import Ablation
from ralx.features import Featurizer
from ralx.game.game import RegionConfig
from ralx.game.observer import FeatureConfig, Observer, PolicyInput
from ralx.segmentation import normalise
from ralx.support.randomness import stream


@pytest.mark.parametrize("hidden", [(), ("state-classes", "kl-labelled")])
def test_the_features_are_those_of_all_images_at_once_without_what_is_hidden(hidden):
    game, candidates = make_game(), torch.tensor([[0, 7, 13], [23, 2, 8]])
    game.label(torch.tensor([5, 9]), stream("x"))
    features = FeatureConfig(cells=(2, 2), kl_bins=4, hidden_features=hidden)
    observe = Observer(PolicyInput(features, RegionConfig((4, 4))), game, game.dataset)
    seen = observe(candidates)
    featurizer = Featurizer(game.trainer.segmenter, (4, 4), cells=(2, 2), kl_bins=4)
    ablation = Ablation(2, 4, hidden)
    assert torch.equal(seen.candidates, candidates)
    state = featurizer.regions(normalise(game.dataset.images(torch.arange(4)))).flatten(0, 1)
    actions = featurizer.action(state[candidates], game.labelled_distributions)
    torch.testing.assert_close(seen.state, ablation.state(state))
    torch.testing.assert_close(seen.actions, ablation.actions(actions, game.labelled_distributions))
    assert seen.state[:, :2].any() == (not hidden)
    assert set(observe.stopwatch.seconds) == {"state", "candidates"}
