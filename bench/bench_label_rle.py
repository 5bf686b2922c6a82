"""Label Studio's run lengths of a brush, as JSON gives them, to a mask. Work: the mask's bytes, written once.
Limit: numpy.repeat of the runs.

label-studio-sdk is timed where it is installed: `pip install label-studio-sdk`, which is large."""

import importlib
from collections.abc import Callable

import numpy as np
import torch
from results import SDK, Work
from sizes import MaskCase
from timings import Alternative, CannotCompile, Comparison
from torch import Tensor
from torch.nn.functional import interpolate

from ralx.labelling.formats.rle import from_brush, run_lengths, to_brush


def make(case: MaskCase) -> Comparison:
    mask = blobs(case)
    code = list(to_brush(mask))
    lengths = run_lengths(mask.ravel())
    painted = np.arange(len(lengths)) % 2 == 1

    def ours() -> Tensor:
        return torch.from_numpy(from_brush(bytes(code), case.image))

    def check(ours: Tensor, theirs: np.ndarray) -> None:
        np.testing.assert_array_equal(ours.numpy(), theirs > 0)

    alternatives = [
        Alternative(SDK, lambda: sdk_decoder()(code).reshape(*case.image, 4)[..., 3], check),
        Alternative("plain loop", lambda: plain_loop(code).reshape(*case.image, 4)[..., 3], check),
        Alternative("numpy.repeat", lambda: np.repeat(painted, lengths)),
    ]
    return Comparison(ours, Work(mask.nbytes, "B"), alternatives)


def blobs(case: MaskCase) -> np.ndarray:
    """Where smoothed noise is positive: bool [H, W]."""
    torch.manual_seed(0)
    cells = [max(side // case.blob, 2) for side in case.image]
    return (interpolate(torch.randn(1, 1, *cells), case.image, mode="bicubic")[0, 0] > 0).numpy()


def sdk_decoder() -> Callable[[list[int]], np.ndarray]:
    try:
        return importlib.import_module("label_studio_sdk.converter.brush").decode_rle
    except ImportError as error:
        raise CannotCompile(f"not installed: {error}") from error


def plain_loop(code: list[int]) -> np.ndarray:
    """Block by block in Python, from the code's bits as text."""
    bits, place = "".join(f"{byte:08b}" for byte in code), 0

    def number(size: int) -> int:
        nonlocal place
        place += size
        return int(bits[place - size : place], 2)

    values, value_bits = np.empty(number(32), np.uint8), number(5) + 1
    sizes = [number(4) + 1 for _ in range(4)]
    done = 0
    while done < len(values):
        repeated, length = number(1), number(sizes[number(2)]) + 1
        numbers = number(value_bits) if repeated else [number(value_bits) for _ in range(length)]
        values[done : done + length] = numbers
        done += length
    return values


def bench_label_rle(case: MaskCase, compare: Callable[..., None]) -> None:
    compare(case, make)
