"""Logits in every form that the ops take: shapes, memory layouts, dtypes, ordinary and awkward values."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from ralx import _C
from ralx.ops import arguments
from ralx.ops._reference import pool_by_id, region_ids, upsample_ref

# The path of a `_C` built with RALX_HOST_GRID: its CUDA kernels then serve the ops, see test_cuda_on_host.
HOST_GRID = os.environ.get("RALX_TEST_HOST_GRID")

OPS = sorted(path.parent.name for path in Path(__file__).parents[2].glob("csrc/*/*_cuda.cu"))

ISAS = [isa for isa in (_C.Isa.baseline, _C.Isa.avx2, _C.Isa.avx512) if _C.runs_here(isa)]
if HOST_GRID:  # which has none
    ISAS = ISAS[:1]
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
LABEL_DTYPES = (torch.uint8, torch.int16, torch.int32, torch.int64)
POOLED = ("entropy_min", "entropy_avg", "entropy_max")
INF, NAN = torch.inf, torch.nan


def examples(count: int) -> settings:
    """How many examples hypothesis makes; fewer where the CPU plays a GPU."""
    return settings(deadline=None, max_examples=count // 8 if HOST_GRID else count)


@contextmanager
def instruction_set(isa: _C.Isa) -> Iterator[None]:
    before = _C.active_isa()
    _C.use_isa(isa)
    try:
        yield
    finally:
        _C.use_isa(before)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """As many threads as `count`, even for inputs that aren't worth them."""
    if HOST_GRID:  # float64 is then computed by plain torch, whose sums depend on the threads
        count = 1
    before = torch.get_num_threads(), arguments.FEW_LOGITS
    torch.set_num_threads(count)
    arguments.FEW_LOGITS = 0
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        arguments.FEW_LOGITS = before[1]


def random_logits(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def distributions(*shape: int, seed: int, dtype: torch.dtype = torch.float32, zeros: float = 0.0) -> Tensor:
    """Skewed distributions, of which a share `zeros` of the numbers is 0 (never a whole row)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator, dtype=torch.float64).mul(2).softmax(-1)
    masked = torch.rand(shape, generator=generator) < zeros
    masked[..., 0] = False
    return x.masked_fill(masked, 0).to(dtype)


def tensors(result: Any) -> list[Tensor]:
    """Those of an op's result."""
    each = [result] if isinstance(result, Tensor) else list(result)
    return [value for value in each if value is not None]


def same(a: Any, b: Any) -> bool:
    """To the bit, NaN included."""
    pairs = zip(tensors(a), tensors(b), strict=True)
    return all(x.dtype == y.dtype and torch.equal(x.nan_to_num(-9), y.nan_to_num(-9)) for x, y in pairs)


class OnDevice(Tensor):
    """Says that it lies on a device that this machine needn't have; any operation on it fails."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, like: Tensor, device: str) -> Tensor:
        return Tensor._make_wrapper_subclass(cls, like.shape, dtype=like.dtype, device=device)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} ran on a refused device")


# Each gives the same values in another memory layout. What lies around them is NaN, and must not be read.
def _sliced(x: Tensor) -> Tensor:
    around = torch.full([n + 2 for n in x.shape], NAN, dtype=x.dtype)
    inside = around[tuple(slice(1, -1) for _ in x.shape)]
    return inside.copy_(x)


def _every_second(x: Tensor) -> Tensor:
    around = torch.full([*x.shape[:-1], 2 * x.shape[-1]], NAN, dtype=x.dtype)
    return around[..., ::2].copy_(x)


LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.movedim(-3, -1).contiguous().movedim(-1, -3),
    "transposed": lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
    "classes_first": lambda x: x.transpose(-3, -4).contiguous().transpose(-3, -4),
    "sliced": _sliced,
    "every_second": _every_second,
}


def _expanded(x: Tensor) -> Tensor:
    """One image (or pass) for all, and one row for all."""
    return x[:1, ..., :1, :].expand(x.shape)


def map_layout(x: Tensor, layout: str) -> Tensor:
    """A label map [N, H, W] in one of the layouts of logits."""
    return {
        "contiguous": lambda: x.contiguous(),
        "transposed": lambda: x.transpose(1, 2).contiguous().transpose(1, 2),
        "sliced": lambda: torch.nn.functional.pad(x, (1, 2, 3, 1), value=99)[:, 3:-1, 1:-2],
        "every_second": lambda: x.repeat_interleave(2, 2)[..., ::2],
        "expanded": lambda: x[:1, :1].expand(x.shape),
    }[layout]()


MAP_LAYOUTS = ("contiguous", "transposed", "sliced", "every_second", "expanded")


# What happens to ordinary logits [..., C, h, w]; `pixels` is a random bool mask that broadcasts to them.
VALUES = {
    "ordinary": lambda x, pixels: x,
    "large": lambda x, pixels: x * 1e4,
    "equal": lambda x, pixels: torch.zeros_like(x),
    "ties": lambda x, pixels: x.round(),
    "masked class": lambda x, pixels: x.index_fill(-3, torch.tensor([x.shape[-3] // 2]), -INF),
    "masked pixels": lambda x, pixels: x.masked_fill(pixels & (x < 0), -INF),
    "all masked": lambda x, pixels: x.masked_fill(pixels, -INF),
    "nan": lambda x, pixels: x.masked_fill(pixels & (x > 0), NAN),
    "inf": lambda x, pixels: x.masked_fill(pixels & (x > 2), INF),
    "everything": lambda x, pixels: (
        x.masked_fill(pixels & (x > 3), INF)
        .masked_fill(pixels & (x < -2), -INF)
        .masked_fill(pixels & (x.abs() < 0.1), NAN)
    ),
}


@st.composite
def logits(draw: st.DrawFn, passes: bool = False, values: tuple[str, ...] = tuple(VALUES)) -> Tensor:
    """[N, C, h, w], or [T, N, C, h, w] for several passes."""
    height = draw(st.integers(1, 24))
    # Around the ends of blocks of 64 pixels, too.
    width = draw(st.one_of(st.integers(1, 24), st.sampled_from([63, 64, 65, 127, 128, 130])))
    classes = draw(st.sampled_from([1, 2, 3, 7, 11, 19]))
    shape = [draw(st.integers(1, 2)), classes, height, width]
    if passes:
        shape.insert(0, draw(st.integers(1, 5)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x = torch.randn(shape, generator=generator) * 3
    pixels = torch.rand(*shape[:-3], 1, *shape[-2:], generator=generator) < 0.05
    x = VALUES[draw(st.sampled_from(values))](x, pixels).to(draw(st.sampled_from(DTYPES)))
    layout = draw(st.sampled_from([*LAYOUTS, "expanded"]))
    return _expanded(x) if layout == "expanded" else LAYOUTS[layout](x)


@st.composite
def region_sizes(draw: st.DrawFn, size: tuple[int, int]) -> tuple[int, int]:
    return draw(st.integers(1, size[0])), draw(st.integers(1, size[1]))


@st.composite
def image_sizes(draw: st.DrawFn, x: Tensor) -> tuple[int, int]:
    """Native size half of the time, else anything from a pixel to several times the size."""
    native = (x.shape[-2], x.shape[-1])
    if draw(st.booleans()):
        return native
    return draw(st.integers(1, 4 * native[0])), draw(st.one_of(st.integers(1, 4 * native[1]), st.just(130)))


def undecided(x: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """[N, H, W]: whether the rounding of upsampling may swap the two largest logits; nowhere at native size.

    It is relative to the magnitude of the neighbours, which may be far above the result's.
    """
    full = upsample_ref(x.double(), size, align_corners)
    if x.shape[1] == 1 or size == tuple(x.shape[2:]):
        return torch.zeros(full[:, 0].shape, dtype=torch.bool)
    magnitude = upsample_ref(x.double().abs(), size, align_corners).amax(1)
    largest = full.topk(2, dim=1).values
    return (largest[:, 0] - largest[:, 1]) < 1e-6 * (1 + magnitude)


def share_of(chosen: Tensor, region_size: tuple[int, int], keep_edge: bool) -> Tensor:
    """float64 [N, R, 1]: the share of a region's pixels that are chosen [N, H, W], and what rounding adds."""
    images, *size = chosen.shape
    ids, _, regions = region_ids(images, size, region_size, (1, 1), keep_edge, chosen.device)
    share = pool_by_id(chosen.double(), ids, regions).mean.unsqueeze(2)
    return share + 1e-6 * (share > 0)
