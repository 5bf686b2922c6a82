"""Random streams: one for every purpose, the same at every call."""

import itertools

import torch

from ralx.support.randomness import seeded, stream


def test_streams_differ_by_key_and_repeat_themselves():
    draws = {
        key: torch.rand(3, generator=stream(*key)).tolist()
        for key in itertools.product(["learn", "fit"], [0, 1], [0, 1])
    }
    assert len({tuple(draw) for draw in draws.values()}) == len(draws)
    assert all(torch.rand(3, generator=stream(*key)).tolist() == draw for key, draw in draws.items())


def test_seeded_gives_the_global_generator_back():
    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    with seeded("a"):
        inside = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    with seeded("a"):
        assert torch.equal(torch.rand(2), inside)
