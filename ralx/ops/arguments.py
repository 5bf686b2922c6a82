"""Checks of what ralx is given. Each error names the argument, the rule and what it got."""

import math
import numbers
from typing import Any, Literal, get_args

import torch
from torch import Tensor

Pair = tuple[int, int]  # of rows and columns

FLOATING = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
LABELS = (torch.uint8, torch.int16, torch.int32, torch.int64)

# The kernels count pixels, classes and bins in 32 bits: no such number, nor the product of a pair, is larger.
LIMIT = 2**31 - 1

# Waking a thread takes about as long as computing on this many logits of upsampled pixels, or on this many
# factors of kl_histogram's products.
FEW_LOGITS = 1 << 15


def check_tensor(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor, got {type(value).__module__}.{type(value).__qualname__}"
        )
    if value.is_nested or value.layout != torch.strided:
        got = "a nested tensor" if value.is_nested else f"layout {value.layout}"
        raise TypeError(f"{name} must be a dense (strided) tensor, got {got}")
    if not (value.is_cpu or value.is_cuda or value.is_meta):
        raise ValueError(f"{name} must be on the CPU or a CUDA device, got {value.device}")
    return value


def check_rank(name: str, value: Tensor, axes: str) -> None:
    if value.dim() != axes.count(",") + 1:
        raise ValueError(f"{name} must be [{axes}], got shape {list(value.shape)}")


def check_floating(name: str, value: Tensor) -> None:
    if value.dtype not in FLOATING:
        raise TypeError(f"{name} must be float32, float16, bfloat16 or float64, got {value.dtype}")


def check_labels(name: str, value: Tensor) -> None:
    if value.dtype not in LABELS:
        raise TypeError(f"{name} must be uint8, int16, int32 or int64, got {value.dtype}")


def check_label_map(name: str, value: object, axes: str = "N, H, W") -> Tensor:
    labels = check_tensor(name, value)
    check_labels(name, labels)
    check_rank(name, labels, axes)
    return labels


def check_same_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    if value.device != other.device:
        raise ValueError(
            f"{name} and {other_name} must be on one device, got {value.device} and {other.device}"
        )


def check_logits(name: str, value: object, axes: str = "N, C, h, w") -> Tensor:
    """Floating-point logits of 1..LIMIT classes and pixels an image; other axes may be empty."""
    logits = check_tensor(name, value)
    check_rank(name, logits, axes)
    check_floating(name, logits)
    shape = logits.shape
    classes, height, width = shape[-3], shape[-2], shape[-1]  # a slice would be a torch.Size, made slowly
    if classes < 1:
        raise ValueError(f"{name} must have at least one class, got shape {list(logits.shape)}")
    if height < 1 or width < 1:
        raise ValueError(f"{name} must have at least one pixel, got shape {list(logits.shape)}")
    if classes > LIMIT or height * width > LIMIT:
        raise ValueError(
            f"{name} must have at most {LIMIT} classes and pixels an image, got shape {list(logits.shape)}"
        )
    return logits


def _is_integer(value: object) -> bool:
    """An integer of Python, NumPy or a traced graph; True and False are none."""
    if type(value) is int:  # the rest takes half a microsecond
        return True
    return isinstance(value, (numbers.Integral, torch.SymInt)) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    """Python's integer of any other, a traced one left as it is: products of NumPy's would wrap around."""
    return value if isinstance(value, (int, torch.SymInt)) else int(value)


def check_integer(name: str, value: Any, low: int = 1, high: int = LIMIT) -> int:
    if not _is_integer(value):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be in {low}..{high}, got {value}")
    return _plain(value)


def check_ignore_index(value: Any) -> int:
    """Any label that int64 holds."""
    return check_integer("ignore_index", value, -(2**63), 2**63 - 1)


def check_pair(name: str, value: Any, order: str = "(height, width)") -> Pair:
    """Two integers, each at least 1, of a product of at most LIMIT."""
    rule = f"{name} must be two integers {order}, each at least 1"
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{rule}, got {value!r}")
    if len(value) != 2:
        raise ValueError(f"{rule}, got {value!r}")
    if not _is_integer(value[0]) or not _is_integer(value[1]):
        raise TypeError(f"{rule}, got {value!r}")
    first, second = _plain(value[0]), _plain(value[1])
    if first < 1 or second < 1:
        raise ValueError(f"{rule}, got {value!r}")
    if first * second > LIMIT:
        raise ValueError(f"{name} must have a product of at most {LIMIT}, got {value!r}")
    return first, second


def check_size(size: Any, logits: Tensor) -> Pair:
    """(H, W) of the upsampled image; without `size`, that of the logits themselves."""
    if size is None:
        return logits.shape[-2], logits.shape[-1]
    return check_pair("size", size)


def check_region_size(region_size: Any, size: Pair) -> Pair:
    region = check_pair("region_size", region_size)
    if region[0] > size[0] or region[1] > size[1]:
        raise ValueError(
            f"region_size must not exceed the image, got {tuple(region)} for an image of {tuple(size)}"
        )
    return region


Edge = Literal["drop", "keep"]  # what becomes of the pixels that whole regions leave over
_EDGES = get_args(Edge)


def check_edge(edge: Any) -> bool:
    """Whether a remainder at the image's edge makes regions."""
    if not isinstance(edge, str) or edge not in _EDGES:
        raise ValueError(f"edge must be 'drop' or 'keep', got {edge!r}")
    return edge == "keep"


def tiles_along(whole: int, part: int, keep_edge: bool) -> int:
    """How many regions of `part` pixels lie along `whole` pixels, ragged ones included."""
    return (whole + part - 1) // part if keep_edge else whole // part


def num_tiles(size: Pair, region_size: Pair, keep_edge: bool) -> int:
    """R: how many regions an image has."""
    return tiles_along(size[0], region_size[0], keep_edge) * tiles_along(size[1], region_size[1], keep_edge)


def check_cells(cells: Any, region_size: Pair) -> Pair:
    pair = check_pair("cells", cells)
    if pair[0] > region_size[0] or pair[1] > region_size[1]:
        raise ValueError(
            f"cells must not exceed the region, got {tuple(pair)} cells for {tuple(region_size)} pixels"
        )
    return pair


def check_flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def _check_number(name: str, value: Any) -> float:
    if type(value) is float:  # as in _is_integer
        return value
    number = isinstance(value, (numbers.Real, torch.SymInt, torch.SymFloat))
    if not number or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        return float(value)
    except OverflowError:  # an integer beyond every float
        return math.inf


def check_eps(eps: Any) -> float:
    number = _check_number("eps", eps)
    if not 0 <= number < math.inf:
        raise ValueError(f"eps must be finite and at least 0, got {eps}")
    return number


def check_range(name: str, value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    rule = f"{name} must be two numbers (low, high) or None"
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{rule}, got {value!r}")
    if len(value) != 2:
        raise ValueError(f"{rule}, got {value!r}")
    low, high = _check_number(name, value[0]), _check_number(name, value[1])
    if not (low < high and high - low < math.inf):
        raise ValueError(f"{name} must have low < high, both finite, got {value!r}")
    return low, high


def place_in(maps: Tensor, position: int) -> list[int]:
    """[n, y, x] of a position in flattened maps [N, H, W]."""
    height, width = maps.shape[1:]
    n, pixel = divmod(position, height * width)
    return [n, *divmod(pixel, width)]


def threads_for(logits: int) -> int:
    """How many threads so many logits, or factors, are worth. No result depends on it."""
    return torch.get_num_threads() if logits >= FEW_LOGITS else 1
