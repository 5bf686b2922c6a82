"""What is hidden becomes zeros, what isn't stays as it is; summaries are of the divergences."""

import math

import pytest
import torch

from ralx.agent.ablation import FEATURES, Ablation
from ralx.metrics import kl_divergence

C, BINS, ENTROPIES = 4, 3, 6


def rows(*shape):
    generator = torch.Generator().manual_seed(0)
    made = torch.rand(*shape, generator=generator) + 0.1
    made[..., :C] /= made[..., :C].sum(-1, keepdim=True)
    return made


STATE = rows(5, C + ENTROPIES)
ACTIONS = rows(2, 3, C + ENTROPIES + 2 * BINS)
LABELLED = rows(7, C)
PARTS = {
    "state-classes": (STATE, slice(0, 4)),
    "state-entropy": (STATE, slice(4, 10)),
    "action-classes": (ACTIONS, slice(0, 4)),
    "action-entropy": (ACTIONS, slice(4, 10)),
    "kl-labelled": (ACTIONS, slice(10, 13)),
    "kl-unlabelled": (ACTIONS, slice(13, 16)),
}


def test_without_anything_hidden_nothing_changes():
    ablation = Ablation(C, BINS)
    assert ablation.state(STATE) is STATE and ablation.actions(ACTIONS, LABELLED) is ACTIONS


@pytest.mark.parametrize("feature", FEATURES)
def test_what_is_hidden_is_zero_and_the_rest_stays(feature):
    ablation = Ablation(C, BINS, [feature])
    whole, part = PARTS[feature]
    before = whole.clone()
    seen = {id(STATE): ablation.state(STATE), id(ACTIONS): ablation.actions(ACTIONS, LABELLED)}
    expected = whole.clone()
    expected[..., part] = 0
    assert torch.equal(seen[id(whole)], expected)
    other = ACTIONS if whole is STATE else STATE
    assert torch.equal(seen[id(other)], other)
    assert torch.equal(whole, before), "the input was changed"


@pytest.mark.parametrize("summary", ["max", "sum"])
def test_a_summary_stands_in_the_first_bin(summary):
    seen = Ablation(C, BINS, kl_summary=summary).actions(ACTIONS, LABELLED)
    predicted = ACTIONS[..., :C].double()
    for part, references in (("kl-labelled", LABELLED.double()), ("kl-unlabelled", predicted.flatten(0, 1))):
        divergences = (predicted[:, :, None] * (predicted[:, :, None] / references).log()).sum(-1)
        expected = divergences.amax(-1) if summary == "max" else divergences.sum(-1)
        bins = seen[..., PARTS[part][1]]
        assert torch.allclose(bins[..., 0].double(), expected, atol=1e-5)
        assert not bins[..., 1:].any()
    assert torch.equal(seen[..., :10], ACTIONS[..., :10])


def test_with_nothing_labelled_a_summary_is_zero():
    seen = Ablation(C, BINS, kl_summary="max").actions(ACTIONS, torch.zeros(0, C))
    assert not seen[..., PARTS["kl-labelled"][1]].any()
    assert seen[..., PARTS["kl-unlabelled"][1]].any()


def test_a_hidden_summary_is_hidden():
    seen = Ablation(C, BINS, ["kl-labelled"], "max").actions(ACTIONS, LABELLED)
    assert not seen[..., PARTS["kl-labelled"][1]].any()


def test_the_divergence_is_smoothed():
    p, q = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    divergence = kl_divergence(p, q)
    assert divergence.dtype == torch.float64 and divergence.shape == (1, 2)
    assert divergence[0, 0].item() == pytest.approx(math.log(1e7), rel=1e-5)
    assert divergence[0, 1].item() == pytest.approx(0, abs=1e-12)
