"""Numbers below the smallest normal one count as what they are, also where torch takes them for 0."""

from collections.abc import Iterator

import pytest
import torch
from logit_cases import ISAS, instruction_set, threads

from ralx.ops import bald, confusion_matrix, kl_histogram, region_features

SMALL = 6e-5  # subnormal in float16
SHAPE = (1, 3, 8, 40)


def small_logits(dtype: torch.dtype) -> torch.Tensor:
    """The second class is ahead by less than the smallest normal number."""
    x = torch.zeros(SHAPE, dtype=dtype)
    x[:, 1] = SMALL if dtype == torch.float16 else 1e-39
    return x


# Made before anything is flushed: torch would write zeros.
LOGITS = {dtype: small_logits(dtype) for dtype in (torch.float16, torch.bfloat16, torch.float32)}
SHARES = {
    dtype: torch.tensor([[tiny, 3 * tiny], [3 * tiny, tiny]], dtype=dtype)
    for dtype, tiny in ((torch.float16, 2e-5), (torch.float32, 1e-40), (torch.float64, 1e-310))
}


@pytest.fixture
def flushed() -> Iterator[None]:
    """As torch.set_flush_denormal(True) leaves this thread and those that it starts."""
    if not torch.set_flush_denormal(True):
        # Not switched off: without such a mode no thread can be in it. x86-64, where CI runs, always has one.
        pytest.skip("this CPU takes no number for 0")
    yield
    torch.set_flush_denormal(False)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("size", [None, (16, 80)])
@pytest.mark.parametrize("dtype", LOGITS)
def test_the_largest_logit_may_be_subnormal(flushed, dtype, size, count, isa) -> None:
    x = LOGITS[dtype]
    pixels = size or SHAPE[2:]
    label_map = torch.zeros((1, *pixels), dtype=torch.int64)
    target = torch.ones((1, *pixels), dtype=torch.int64)
    expected = [0.0, 1.0, 0.0]
    with instruction_set(isa), threads(count):
        assert region_features(x, (8, 8), size=size).class_hist[0, 0].tolist() == expected
        in_map = region_features(x, None, regions=label_map, num_regions=1, size=size)
        assert in_map.class_hist[0, 0].tolist() == expected
        if dtype == torch.float16:  # else exp of it is 1, and the mean probabilities are equal
            assert bald(x.expand(3, *SHAPE), (8, 8), size=size).class_hist[0, 0].tolist() == expected
        counts = confusion_matrix(x, target, 3, size=size)
        assert counts[1].tolist() == [0, pixels[0] * pixels[1], 0]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("dtype", SHARES)
def test_subnormal_shares_are_shares(flushed, dtype, count, isa) -> None:
    shares = torch.tensor([[0.25, 0.75], [0.75, 0.25]])
    with instruction_set(isa), threads(count):
        found = kl_histogram(SHARES[dtype], shares, bins=2, range=(0.0, 0.5), eps=0.0)
    # KL to the own shares is 0, to the others' 0.55.
    torch.testing.assert_close(found, torch.full((2, 2), 0.5))


def test_the_callers_choice_comes_back(flushed) -> None:
    region_features(LOGITS[torch.float32], (8, 8))
    assert (LOGITS[torch.float32] * 1).max() == 0  # torch's own arithmetic still takes it for 0
