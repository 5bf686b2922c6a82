"""Seeded numbers, the same on every machine: integer hashes, and + - x / of IEEE floats, nothing else."""

import numpy as np

_MASK = 0xFFFFFFFF


def _mix(number: int) -> int:
    """32 bits to 32 bits (the finalizer of MurmurHash3)."""
    number ^= number >> 16
    number = number * 0x85EBCA6B & _MASK
    number ^= number >> 13
    number = number * 0xC2B2AE35 & _MASK
    return number ^ number >> 16


def hash_seed(*seeds: int) -> int:
    """A 32-bit hash of several integers."""
    state = 0x9E3779B9
    for seed in seeds:
        for part in (seed & _MASK, seed >> 32 & _MASK):
            state = _mix((state ^ part) * 5 + 0xE6546B64 & _MASK)
    return state


def hash_integers(values: np.ndarray, *seeds: int) -> np.ndarray:
    """A uint32 hash of each integer, of the same shape, under `seeds`."""
    bits = np.asarray(values).astype(np.uint32)  # a copy
    bits ^= np.uint32(hash_seed(*seeds))
    bits *= np.uint32(0x9E3779B1)
    bits ^= bits >> np.uint32(16)
    bits *= np.uint32(0x85EBCA6B)
    bits ^= bits >> np.uint32(13)
    bits *= np.uint32(0xC2B2AE35)
    bits ^= bits >> np.uint32(16)
    return bits


def unit(bits: np.ndarray) -> np.ndarray:
    """uint32 hashes as float32 in [0, 1)."""
    return (bits >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def pixel_noise(height: int, width: int, seed: int) -> np.ndarray:
    """Independent numbers in [0, 1), float32 [H, W]."""
    return unit(hash_integers(np.arange(height * width, dtype=np.uint32), seed)).reshape(height, width)


def smooth_noise(height: int, width: int, cell_height: float, cell_width: float, seed: int) -> np.ndarray:
    """Value noise in [0, 1), float32 [H, W]: random values at cell corners, blended between."""
    low_y, weight_y, rows = _lattice(height, cell_height)
    low_x, weight_x, columns = _lattice(width, cell_width)
    values = pixel_noise(rows, columns, seed)
    across = values[:, low_x] + (values[:, low_x + 1] - values[:, low_x]) * weight_x
    return across[low_y] + (across[low_y + 1] - across[low_y]) * weight_y[:, None]


def _lattice(length: int, cell: float) -> tuple[np.ndarray, np.ndarray, int]:
    position = (np.arange(length, dtype=np.float32) + np.float32(0.5)) / np.float32(cell)
    low = position.astype(np.int64)
    fraction = position - low.astype(np.float32)
    return low, fraction * fraction * (np.float32(3) - np.float32(2) * fraction), int(low[-1]) + 2


class Dice:
    """Draws scalars for one image: the n-th draw depends on the seeds and n only."""

    def __init__(self, *seeds: int):
        self._state = hash_seed(*seeds)

    def integer(self) -> int:
        """32 random bits."""
        self._state = self._state + 0x9E3779B9 & _MASK
        return _mix(self._state)

    def unit(self) -> float:
        """A number in [0, 1)."""
        return self.integer() / 2**32

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.unit()

    def chance(self, probability: float) -> bool:
        return self.unit() < probability

    def below(self, count: int) -> int:
        """An integer in 0..count-1."""
        return self.integer() * count >> 32

    def choice(self, options: tuple):
        return options[self.below(len(options))]
