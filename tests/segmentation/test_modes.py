"""Normalisation, precision, and the modes and random state that are given back."""

import pytest
import torch
from torch import nn

from ralx.segmentation import autocast, normalise
from ralx.segmentation.modes import dropout_from, evaluating

CPU = torch.device("cpu")


def test_normalise_takes_out_imagenets_mean_and_std():
    images = torch.randint(256, (2, 3, 5, 7), dtype=torch.uint8)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    out = normalise(images)
    torch.testing.assert_close(out, (images / 255 - mean) / std, atol=1e-5, rtol=1e-5)
    assert out.dtype == torch.float32
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_normalise_takes_a_crops_strides():
    images = torch.randint(256, (2, 3, 8, 9), dtype=torch.uint8)
    part = images[:, :, 2:6, 1:7].flip(3)
    assert torch.equal(normalise(part), normalise(part.clone()))


def test_normalise_refuses_floats_and_other_shapes():
    with pytest.raises(TypeError, match=r"images: expected uint8, got torch\.float32"):
        normalise(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"images: expected \[N, 3, H, W\], got \[3, 4, 4\]"):
        normalise(torch.zeros(3, 4, 4, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16)],
)
def test_precision_on_the_cpu(precision, dtype):
    with autocast(CPU, precision):
        assert nn.functional.linear(torch.ones(1, 2), torch.ones(2, 2)).dtype == dtype


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_auto_precision_is_bfloat16_on_cuda():
    with autocast(torch.device("cuda"), "auto"):
        assert (torch.ones(2, 2, device="cuda") @ torch.ones(2, 2, device="cuda")).dtype == torch.bfloat16


def test_unknown_precision():
    with pytest.raises(ValueError, match="precision: expected one of auto, float32, bfloat16, got 'half'"):
        autocast(CPU, "half")


def test_evaluating_gives_every_layers_mode_back_even_after_an_error():
    net = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout())
    net[0].eval()
    with pytest.raises(KeyError), evaluating(net):
        assert not any(m.training for m in net.modules())
        assert not torch.is_grad_enabled()
        raise KeyError
    assert [m.training for m in net.modules()] == [True, False, True]
    assert torch.is_grad_enabled()


def test_dropout_draws_from_the_given_generator_and_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    first, again, other = (torch.Generator().manual_seed(seed) for seed in (3, 3, 4))
    masks = []
    for generator in (first, again, other, first):
        with dropout_from(generator, CPU):
            masks.append(nn.functional.dropout(torch.ones(64)))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    assert not torch.equal(masks[0], masks[3]), "the generator has moved on"
    assert torch.equal(before, torch.get_rng_state())
