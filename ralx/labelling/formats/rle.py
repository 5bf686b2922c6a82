"""Run lengths of masks as labelling tools write them: CVAT's, COCO's, and those of Label Studio's brush.

CVAT's and COCO's are lengths of what is not the object and what is, in turn, not first (perhaps 0): CVAT's
row by row in the object's box, COCO's column by column in the whole image, in JSON mostly as a compressed
text.

Label Studio's are the format `rle-pack` of the JavaScript library thi.ng/umbrella, most significant bit
first: the count of values (32 bits), the bits of a value less 1 (5), four sizes less 1 (4 each); then blocks
of a mark (1), which size (2), a length less 1 (of that size), and one value that is repeated where the mark
is set, else as many values as the length. The values are red, green, blue and alpha of every pixel; alpha
alone is the mask.

ValueError where lengths or codes are no mask of the size that is expected.
"""

import contextlib
import functools
from collections.abc import Iterable
from typing import Any

import numpy as np

Size = tuple[int, int]

_SHIFT, _SIGN, _MORE, _FIRST_CHARACTER = 5, 0x10, 0x20, 48  # of COCO's text: 5 bits a character
_LONGEST_NUMBER = 7  # characters, for lengths below 2^32

_LENGTH_BITS = (3, 4, 8, 16)  # as Label Studio writes
_LONGEST_RUN = 1 << _LENGTH_BITS[-1]
_HEADER_BITS = 53
_MARK_BITS, _VALUE_BITS = 3, 8  # the mark with which size; a value
_SHORTEST_BLOCK = _MARK_BITS + 1 + _VALUE_BITS
_STORED = 255  # in a table of steps, which are at most 3 + 16 + 8
_OPAQUE = 255
_REPEATED = 4  # a mark, with the size: smaller ones store all values


# Lengths


def run_lengths(mask: np.ndarray) -> np.ndarray:
    """Lengths of False, True, False, … in a flat bool array, int64; the first is 0 where the array starts
    with True."""
    changes = np.flatnonzero(mask[1:] != mask[:-1]) + 1
    starts = (0, 0) if mask.size and mask[0] else (0,)
    return np.diff(np.concatenate((starts, changes, (mask.size,))))


def from_run_lengths(lengths: Iterable[Any], count: int) -> np.ndarray:
    """The flat bool array of `count` elements that `run_lengths` gives `lengths` of."""
    try:
        array = np.asarray(lengths if isinstance(lengths, np.ndarray) else list(lengths))
        if array.size and array.dtype.kind not in "iu":
            raise ValueError(f"expected whole numbers as run lengths, found {array.dtype}")
        array = array.astype(np.int64)
    except OverflowError:
        array = np.array([-1])
    if array.ndim != 1 or array.min(initial=0) < 0 or array.max(initial=0) > count or array.sum() != count:
        raise ValueError(f"expected run lengths that sum to {count}")
    return np.repeat(np.arange(array.size) % 2 == 1, array)


def to_columns(mask: np.ndarray) -> np.ndarray:
    """COCO's lengths of a bool mask [h, w]."""
    return run_lengths(mask.T.ravel())


def from_columns(lengths: Iterable[Any], size: Size) -> np.ndarray:
    """The bool mask [h, w] of COCO's lengths."""
    height, width = size
    return np.ascontiguousarray(from_run_lengths(lengths, height * width).reshape(width, height).T)


# COCO's text


def compressed(lengths: np.ndarray) -> str:
    """COCO's text of lengths: from the fourth on each less the one before the last, in groups of 5 bits."""
    numbers = lengths.astype(np.int64)
    numbers[3:] -= lengths[1:-2]
    shifts = _SHIFT * np.arange(_LONGEST_NUMBER)
    digits = numbers[:, None] >> shifts & (1 << _SHIFT) - 1
    rest = numbers[:, None] >> shifts + _SHIFT
    more = np.where(digits & _SIGN, rest != -1, rest != 0)
    used = np.cumprod(np.column_stack((np.ones(len(numbers), bool), more[:, :-1])), axis=1, dtype=bool)
    return (digits + _MORE * more + _FIRST_CHARACTER)[used].astype(np.uint8).tobytes().decode("ascii")


def decompressed(text: str) -> np.ndarray:
    """The lengths in COCO's text, int64."""
    digits = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - _FIRST_CHARACTER
    ends = np.flatnonzero(digits & _MORE == 0)
    if digits.min(initial=0) < 0 or digits.max(initial=0) >= 2 * _MORE or not len(ends):
        raise ValueError("expected COCO's compressed run lengths, found other characters")
    starts = np.concatenate(([0], ends[:-1] + 1))
    sizes = ends - starts + 1
    if ends[-1] != len(digits) - 1 or sizes.max() > _LONGEST_NUMBER:
        raise ValueError("expected COCO's compressed run lengths, found a number that has no end")
    place = np.arange(len(digits)) - np.repeat(starts, sizes)
    numbers = np.add.reduceat((digits & _MORE - 1) << _SHIFT * place, starts)
    numbers -= np.where(digits[ends] & _SIGN, 1 << _SHIFT * sizes, 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


# Label Studio's brush


def to_brush(mask: np.ndarray) -> bytes:
    """Label Studio's code of a bool mask [h, w], the bytes that its SDK's encoder gives for 0 and 255."""
    flat = mask.ravel()
    runs = run_lengths(flat)
    values = np.arange(len(runs)) % 2 * _OPAQUE
    runs, values = runs[runs > 0] * 4, values[runs > 0]
    blocks = (runs - 1) // _LONGEST_RUN + 1
    lengths = np.full(blocks.sum(), _LONGEST_RUN)
    lengths[np.cumsum(blocks) - 1] = (runs - 1) % _LONGEST_RUN + 1
    which = np.searchsorted(1 << np.array(_LENGTH_BITS[:-1]), lengths)
    sizes = np.array(_LENGTH_BITS)[which]
    codes = (((4 | which) << sizes | lengths - 1) << _VALUE_BITS) | np.repeat(values, blocks)
    header = 4 * flat.size << 5 | _VALUE_BITS - 1
    for size in _LENGTH_BITS:
        header = header << 4 | size - 1
    return _packed(
        np.concatenate(([header], codes)),
        np.concatenate(([_HEADER_BITS], _MARK_BITS + sizes + _VALUE_BITS)),
    )


def _packed(codes: np.ndarray, sizes: np.ndarray) -> bytes:
    """The codes' lowest bits, `sizes` of each, one after the other, and 1 to 8 zeros up to a whole byte."""
    ends = np.cumsum(sizes)
    bits = np.repeat(codes, sizes) >> np.repeat(ends, sizes) - 1 - np.arange(ends[-1]) & 1
    packed = np.packbits(bits.astype(np.uint8)).tobytes()
    return packed if len(bits) % 8 else packed + b"\0"


def from_brush(code: bytes, size: Size) -> np.ndarray:
    """The bool mask [h, w] of Label Studio's code: where alpha is not 0."""
    height, width = size
    count = 4 * height * width
    header = int.from_bytes(code[:8].ljust(8, b"\0"), "big") >> 64 - _HEADER_BITS
    value_bits = (header >> 16 & 31) + 1
    if 8 * len(code) < _HEADER_BITS or header >> 21 != count or value_bits != _VALUE_BITS:
        raise ValueError(
            f"expected {count} values of {_VALUE_BITS} bits, four for each of {height}x{width} pixels, "
            f"found {header >> 21} of {value_bits} bits"
        )
    length_bits = tuple((header >> shift & 15) + 1 for shift in (12, 8, 4, 0))
    # 64 bits from each byte on: what is read at once lies in one of them, wherever it starts.
    words = np.ndarray((len(code),), ">i8", code + bytes(7), strides=(1,))
    starts = _block_starts(code, words, length_bits)
    word, shift = words[starts >> 3].astype(np.int64), 64 - _MARK_BITS - (starts & 7)
    marks = word >> shift & (1 << _MARK_BITS) - 1
    sizes = np.array(length_bits * 2)[marks]
    shift -= sizes
    lengths = (word >> shift & (1 << sizes) - 1) + 1
    values = word >> shift - _VALUE_BITS & (1 << _VALUE_BITS) - 1  # the first of each block
    ends = lengths.cumsum()
    kept = int(ends.searchsorted(count)) + 1  # blocks; behind them lies what fills a byte
    if ends[kept - 1 : kept].tolist() != [count]:
        raise ValueError(f"expected {count} values, found a code that was cut off or damaged")
    marks, lengths, values, ends = marks[:kept], lengths[:kept], values[:kept], ends[:kept]
    first = (starts + _MARK_BITS + sizes)[:kept]  # bits of the first values
    if marks.min() < _REPEATED:
        stored = np.where(marks < _REPEATED, lengths, 1)
        inside = np.arange(stored.sum()) - (stored.cumsum() - stored).repeat(stored)
        first = first.repeat(stored) + _VALUE_BITS * inside
        values = words[np.minimum(first >> 3, len(code) - 1)] >> 56 - (first & 7) & 255
        ends = np.where(marks < _REPEATED, 1, lengths).repeat(stored).cumsum()
    if first[-1] + _VALUE_BITS > 8 * len(code):
        raise ValueError(f"expected {count} values, found a code that was cut off or damaged")
    pixels = ends >> 2  # of the values up to there every fourth is an alpha
    pixels[1:] -= ends[:-1] >> 2
    return (values > 0).repeat(pixels).reshape(size)


def _block_starts(code: bytes, words: np.ndarray, length_bits: tuple[int, ...]) -> np.ndarray:
    """The bits at which blocks start, up to the end of the code and perhaps in what fills its last byte.

    One block says where the next is, so that a walk over them can't be one call of NumPy. For every bit a
    table gives how far it is to the next block, were it the start of one that repeats a value, and the walk
    only adds.
    """
    pairs = np.ndarray((len(code),), ">u2", code + b"\0", strides=(1,))
    steps = _steps(length_bits).take(pairs >> 6).tobytes()
    taken, place = [_HEADER_BITS], _HEADER_BITS
    with contextlib.suppress(IndexError):  # raised at the end, and cheaper than a comparison at every block
        while True:
            step = steps[place]
            taken.append(step)
            place += step
    sizes = bytes(taken)
    starts = np.frombuffer(sizes, np.uint8).cumsum(dtype=np.int64)[:-1]
    stored = sizes.find(_STORED)
    if stored < 0:
        return starts
    rest, place = [], int(starts[stored - 1])  # from the first block that stores values
    while place + _SHORTEST_BLOCK <= len(steps):
        rest.append(place)
        step = steps[place]
        place += step if step != _STORED else _stored_step(words, place, length_bits)
    return np.concatenate((starts[: stored - 1], np.array(rest, np.int64)))


@functools.lru_cache(maxsize=8)
def _steps(length_bits: tuple[int, ...]) -> np.ndarray:
    """For 10 bits and each of the first 8 the bits of a block that starts there, `_STORED` where its mark
    says that all values are stored: uint8 [1024, 8], given as uint64 [1024]."""
    marks = np.arange(1024)[:, None] >> 7 - np.arange(8) & 7
    sizes = _MARK_BITS + np.array(length_bits)[marks & 3] + _VALUE_BITS
    return np.where(marks >= 4, sizes, _STORED).astype(np.uint8).view(np.uint64).ravel()


def _stored_step(words: np.ndarray, place: int, length_bits: tuple[int, ...]) -> int:
    """The bits of a block whose values are all stored."""
    word, left = int(words[place >> 3]), 64 - (place & 7) - _MARK_BITS
    size = length_bits[word >> left & 3]
    length = (word >> left - size & (1 << size) - 1) + 1
    return _MARK_BITS + size + length * _VALUE_BITS
