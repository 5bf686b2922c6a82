"""Run lengths as CVAT, COCO and Label Studio write them, beside their own code where it is installed."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_maps import AWKWARD, label_maps

from ralx.labelling.formats import rle

MASKS = [
    np.zeros((3, 4), bool),
    np.ones((3, 4), bool),
    np.ones((1, 1), bool),
    *(label == label[0, 0] for label, _ in AWKWARD.values()),
    *(label == label[-1, -1] for label, _ in AWKWARD.values()),
]
WIDE = np.zeros((400, 700), bool)  # runs of more than 65536 values
WIDE[200, 30:90] = True

any_mask = label_maps().map(lambda drawn: drawn[0] == drawn[0].flat[0])


def plain_brush(code: bytes) -> np.ndarray:
    """All values of Label Studio's code, read bit by bit as thi.ng's rle-pack says."""
    bits, place = "".join(f"{byte:08b}" for byte in code), 0

    def number(size: int) -> int:
        nonlocal place
        place += size
        return int(bits[place - size : place], 2)

    count, value_bits = number(32), number(5) + 1
    sizes = [number(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < count:
        repeated = number(1)
        length = number(sizes[number(2)]) + 1
        values += [number(value_bits)] * length if repeated else [number(value_bits) for _ in range(length)]
    return np.array(values)


class Writer:
    """Blocks of Label Studio's code, of any values."""

    def __init__(self, count: int, sizes: tuple[int, ...] = (3, 4, 8, 16), value_bits: int = 8):
        self.sizes = sizes
        self.bits = f"{count:032b}{value_bits - 1:05b}" + "".join(f"{size - 1:04b}" for size in sizes)

    def repeat(self, value: int, length: int) -> "Writer":
        which = next(n for n, size in enumerate(self.sizes) if length <= 1 << size)
        self.bits += f"1{which:02b}{length - 1:0{self.sizes[which]}b}{value:08b}"
        return self

    def store(self, *values: int) -> "Writer":
        which = next(n for n, size in enumerate(self.sizes) if len(values) <= 1 << size)
        self.bits += f"0{which:02b}{len(values) - 1:0{self.sizes[which]}b}" + "".join(
            f"{v:08b}" for v in values
        )
        return self

    def code(self) -> bytes:
        bits = self.bits + "0" * (-len(self.bits) % 8)
        return bytes(int(bits[place : place + 8], 2) for place in range(0, len(bits), 8))


@given(any_mask)
def test_lengths_are_those_of_plain_counting(mask):
    flat, plain, last = mask.ravel(), [0], False
    for value in flat.tolist():
        if value != last:
            plain.append(0)
        plain[-1], last = plain[-1] + 1, value
    assert rle.run_lengths(flat).tolist() == plain
    np.testing.assert_array_equal(rle.from_run_lengths(plain, flat.size), flat)
    np.testing.assert_array_equal(rle.from_columns(rle.to_columns(mask), mask.shape), mask)


@given(any_mask)
def test_the_brushs_code_is_that_of_its_plain_reader(mask):
    code = rle.to_brush(mask)
    values = plain_brush(code).reshape(*mask.shape, 4)
    assert (values == np.where(mask, 255, 0)[..., None]).all()
    np.testing.assert_array_equal(rle.from_brush(code, mask.shape), mask)


def test_long_runs_of_the_brush_are_split():
    np.testing.assert_array_equal(rle.from_brush(rle.to_brush(WIDE), WIDE.shape), WIDE)
    assert (plain_brush(rle.to_brush(WIDE)).reshape(*WIDE.shape, 4)[..., 3] > 0).sum() == 60


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 40), st.integers(0, 3)), min_size=1, max_size=30),
    st.sampled_from([(3, 4, 8, 16), (1, 2, 5, 8), (6, 6, 6, 6)]),
)
def test_blocks_of_every_kind_are_read_and_alpha_alone_counts(blocks, sizes):
    random = np.random.default_rng(len(blocks))
    parts = [
        np.full(length, value) if repeated else random.choice([0, 0, 1, 128, 255], length)
        for repeated, length, value in blocks
    ]
    parts.append(np.full(-sum(map(len, parts)) % 4 or 4, 7))
    values = np.concatenate(parts)
    writer = Writer(len(values), sizes)
    for (repeated, _, _), part in zip([*blocks, (True, 0, 0)], parts, strict=True):
        writer = writer.repeat(part[0], len(part)) if repeated else writer.store(*part)
    code, size = writer.code(), (1, len(values) // 4)
    np.testing.assert_array_equal(plain_brush(code), values)
    np.testing.assert_array_equal(rle.from_brush(code, size)[0], values.reshape(-1, 4)[:, 3] > 0)


def test_a_last_block_that_ends_with_its_byte_is_read():
    for stored in range(1, 12):  # 8 bits each and 6 or more around them: some end with a byte
        writer = Writer(12).repeat(0, 12 - stored).store(*[255] * stored)
        assert rle.from_brush(writer.code(), (1, 3)).sum() == (stored + 3) // 4


@pytest.mark.parametrize(
    ("code", "found"),
    [
        (b"", "found 0 of 1 bits"),
        (Writer(8).repeat(0, 8).code(), "expected 4 values of 8 bits.*found 8 of 8 bits"),
        (Writer(4, value_bits=16).repeat(0, 4).code(), "found 4 of 16 bits"),
        (Writer(4).code(), "cut off or damaged"),
        (Writer(4).repeat(0, 3).code(), "cut off or damaged"),
        (Writer(4).repeat(0, 5).code(), "cut off or damaged"),
        (Writer(4).store(1, 2, 3, 4).code()[:-1], "cut off or damaged"),
        (Writer(4).store(*range(200)).code()[:9], "cut off or damaged"),
    ],
)
def test_a_brush_of_another_size_or_cut_off_is_refused(code, found):
    with pytest.raises(ValueError, match=found):
        rle.from_brush(code, (1, 1))


@settings(max_examples=300)
@given(st.binary(max_size=40), st.booleans())
def test_any_bytes_are_a_mask_or_a_value_error(data, with_header):
    code = Writer(4 * 24).code()[:6] + data if with_header else data
    with contextlib.suppress(ValueError):
        assert rle.from_brush(code, (4, 6)).shape == (4, 6)


@pytest.mark.parametrize(
    "lengths", [[3], [4, -1, 1], [2.0, 2.0], [2**70], [[4]], ["4"], [2**62, 2**62], [], [None]]
)
def test_lengths_of_another_size_are_refused(lengths):
    with pytest.raises(ValueError, match="run lengths"):
        rle.from_run_lengths(lengths, 4)


@pytest.mark.parametrize("text", ["", "é", "\x7f", "P", "PPPPPPPPPPPPPPP0", "0P"])
def test_a_text_that_is_no_lengths_is_refused(text):
    with pytest.raises(ValueError, match="compressed run lengths"):
        rle.decompressed(text)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=130), max_size=12))
def test_any_text_is_lengths_or_a_value_error(text):
    with contextlib.suppress(ValueError):
        assert rle.decompressed(text).dtype == np.int64


# --- beside the tools' own code --------------------------------------------------------------------


@pytest.mark.parametrize("mask", MASKS)
def test_columns_are_pycocotools(mask):
    oracle = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    theirs = oracle.encode(np.asfortranarray(mask, np.uint8))
    ours = rle.to_columns(mask)
    assert rle.compressed(ours) == theirs["counts"].decode()
    assert rle.decompressed(theirs["counts"].decode()).tolist() == ours.tolist()
    np.testing.assert_array_equal(oracle.decode({"size": mask.shape, "counts": rle.compressed(ours)}), mask)


@settings(deadline=None)
@given(any_mask)
def test_any_columns_are_pycocotools(mask):
    oracle = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    theirs = oracle.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
    assert rle.compressed(rle.to_columns(mask)) == theirs
    np.testing.assert_array_equal(rle.from_columns(rle.decompressed(theirs), mask.shape), mask)


@pytest.mark.parametrize("mask", [*MASKS, WIDE])
def test_the_brush_is_the_sdks(mask):
    oracle = pytest.importorskip(
        "label_studio_sdk.converter.brush", reason="label-studio-sdk is not installed"
    )
    assert list(rle.to_brush(mask)) == oracle.mask2rle(mask.astype(np.uint8) * 255)
    decoded = oracle.decode_rle(list(rle.to_brush(mask))).reshape(*mask.shape, 4)
    np.testing.assert_array_equal(decoded[..., 3] > 0, mask)


@settings(deadline=None, max_examples=50)
@given(any_mask, st.integers(0, 2**32 - 1))
def test_any_values_of_the_brush_are_the_sdks(mask, seed):
    oracle = pytest.importorskip(
        "label_studio_sdk.converter.brush", reason="label-studio-sdk is not installed"
    )
    values = np.where(mask[..., None], np.random.default_rng(seed).integers(0, 256, (*mask.shape, 4)), 0)
    code = bytes(oracle.encode_rle(values.ravel()))
    np.testing.assert_array_equal(rle.from_brush(code, mask.shape), values[..., 3] > 0)
