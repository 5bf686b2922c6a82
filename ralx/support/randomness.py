"""A random stream for every purpose, so that no draw depends on what ran before it."""

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def stream(*key: str | int) -> torch.Generator:
    """A CPU generator whose seed is a hash of `key`, say ("learn", seed, episode, step)."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@contextlib.contextmanager
def seeded(*key: str | int) -> Iterator[None]:
    """Seed torch's global CPU generator by `key` inside the block; put it back behind it."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(stream(*key).initial_seed())
        yield
