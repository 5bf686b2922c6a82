"""Networks that can't change their mode run in the one that they have, and none is left in another."""

import copy

import pytest
import torch
from tiny_segmentation import IGNORE, TinySegmenter
from torch import nn

from ralx import Featurizer, compat
from ralx.acquisition import ACQUISITIONS, bald
from ralx.segmentation import SegmenterTrainer, TrainingConfig, evaluate, mc_logits, predict
from ralx.segmentation.modes import evaluating


class Stubborn(nn.Module):
    """A finished stand-in for a graph of torch.export: like it, it refuses to change its mode."""

    def __init__(self, segmenter):
        super().__init__()
        self.segmenter = segmenter

    def train(self, mode=True):
        raise NotImplementedError("train() is not supported")

    def forward(self, images):
        return self.segmenter(images)


def exported(segmenter, inputs):
    return torch.export.export(segmenter, (inputs,)).module()


def frozen(segmenter, inputs):
    return torch.jit.freeze(torch.jit.trace(segmenter, inputs))


KINDS = {
    "exported": exported,
    "frozen": frozen,
    "optimised": lambda s, x: torch.jit.optimize_for_inference(torch.jit.script(s)),
    "scripted": lambda s, x: torch.jit.script(s),
    "traced": torch.jit.trace,
    "graph": lambda s, x: torch.fx.symbolic_trace(s),
    "compiled": lambda s, x: torch.compile(s, backend="eager"),
    "parallel": lambda s, x: nn.DataParallel(s),
    "quantised": lambda s, x: torch.ao.quantization.quantize_dynamic(s, {nn.Linear}),
    "stubborn": lambda s, x: Stubborn(s),
    "exported in another": lambda s, x: nn.Sequential(exported(s, x), nn.Dropout(0.9)),
    "frozen in another": lambda s, x: nn.Sequential(frozen(s, x), nn.Dropout(0.9)),
}
NO_DROPOUT = ["exported", "frozen", "optimised", "scripted", "traced"]  # that can be switched

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def inputs():
    return torch.randn(6, 3, 24, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def segmenter():
    torch.manual_seed(0)
    return TinySegmenter().eval()


def modes(segmenter):
    return [getattr(module, "training", None) for module in segmenter.modules()]


def set_modes(segmenter, training):
    for module in segmenter.modules():
        if hasattr(module, "training"):
            module.training = training


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_run_in_eval_mode_and_left_as_it_was(kind, training, segmenter, inputs, dataset):
    other = KINDS[kind](copy.deepcopy(segmenter), inputs)
    set_modes(other, training)
    before = modes(other)
    found, expected = (
        [
            *Featurizer(each, (8, 8))(inputs),
            *(ACQUISITIONS[name](each, inputs, (8, 8)) for name in ("entropy", "margin", "ripu")),
            predict(each, dataset.image_data),
            evaluate(each, dataset, batch_size=6).sum(1),
        ]
        for each in (other, segmenter)
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert modes(other) == before


@pytest.mark.parametrize("kind", KINDS)
def test_bald_needs_dropout_that_can_be_switched(kind, segmenter, inputs):
    other = KINDS[kind](segmenter, inputs)
    before = modes(other)
    if kind in NO_DROPOUT:
        with pytest.raises(ValueError, match="need a dropout layer with a rate above 0"):
            bald(other, inputs, (8, 8))
    else:
        first, second = mc_logits(other, inputs, 2)
        assert not torch.equal(first, second)
    assert modes(other) == before


def test_what_an_exported_network_is_part_of_is_trained(segmenter, inputs, dataset):
    other = nn.Sequential(nn.BatchNorm2d(3), exported(segmenter, inputs))
    trainer = SegmenterTrainer(other, TrainingConfig(), lr=0.1, ignore_index=IGNORE)
    first, second = (trainer.step(*dataset.batch(torch.arange(6))) for _ in range(2))
    assert second < first and other[0].training and other[0].num_batches_tracked == 2


def test_a_frozen_network_has_nothing_to_train(segmenter, inputs):
    with pytest.raises(ValueError, match="segmenter: expected parameters to train, this network has none"):
        SegmenterTrainer(frozen(segmenter, inputs), TrainingConfig(), lr=0.1, ignore_index=IGNORE)


def test_published_functions_take_an_exported_network(inputs):
    class Published(nn.Module):
        def forward(self, images):
            return images, None

    net = exported(Published(), inputs)
    assert compat.compute_entropy_seg(None, inputs, net).shape == (6, 24, 32)


def test_an_error_inside_leaves_no_mode_behind(segmenter, inputs):
    other = nn.Sequential(frozen(segmenter, inputs), nn.Dropout(), Stubborn(nn.Dropout()))
    before = modes(other)
    with pytest.raises(KeyError), evaluating(other):
        assert not other[1].training and not other[2].segmenter.training
        raise KeyError
    assert modes(other) == before == [True, None, True, True, True]
