"""kl_histogram: how far each class distribution is from every row of a reference set, as a histogram."""

import math

import torch
from torch import Tensor

from ralx.ops.arguments import (
    check_eps,
    check_floating,
    check_integer,
    check_range,
    check_rank,
    check_same_device,
    check_tensor,
)
from ralx.ops.registration import Call, register

# The reference holds this many numbers of [rows, L, C] at a time: 32 MiB in float64.
_REF_CHUNK = 2**22

# A row whose sum is too large for float64 is taken times this, which changes no share of it.
_OF_HUGE_ROW = 2.0**-64


def kl_histogram(
    p: Tensor,
    q: Tensor,
    *,
    bins: int = 32,
    range: tuple[float, float] | None = None,
    eps: float = 1e-7,
) -> Tensor:
    """For each row of p, the histogram of its KL divergences (in nats) to all rows of q, divided by L.

    The divergence features of "Reinforced Active Learning for Image Segmentation" (ICLR 2020), section 3.2.
    Every row of p and q is first smoothed and normalised, (x + eps) / Σ (x + eps), also where the sum itself
    would be too large for float64.

    Args:
        p: [..., C] distributions or counts; float32, float16, bfloat16 or float64, any strides.
        q: [L, C], the reference rows; floating too, its dtype may be another.
        bins: B, equal bins, at most 2³¹ - 1.
        range: (low, high) in nats, divergences outside fall into the end bins; None spans each row's own
            minimum..maximum by numpy.histogram's rules: the last bin is closed, and if both are equal
            the bins span half a nat to each side.
        eps: what is added to every number. 0 is allowed: a class with p = 0 then adds nothing, and q = 0 < p
            gives +inf.

    Returns:
        float32 [..., B]; each row sums to 1, or is 0 where L = 0. A row is NaN where one of its divergences
        is NaN, or is +inf and range=None; under a fixed range +inf falls into the last bin. Numbers that are
        negative once smoothed and normalised have no logarithm: their divergences are NaN.

    Raises:
        TypeError, ValueError: naming the argument, the rule and what was given.

    Every dtype is counted as float64 has it, to some 1e-15 nats: divergences of similar rows are small
    differences of large numbers. Where float32 can't tell the bin, float64 does. KL(p ‖ p) is exactly 0, and
    equal pairs of rows give equal divergences, which share a bin. Memory beyond input and output stays below
    some 30 MB on the CPU, however many rows p and q have (for usual C and bins); on CUDA it grows with M + L.
    """
    check_tensor("p", p)
    check_tensor("q", q)
    check_floating("p", p)
    check_floating("q", q)
    if p.dim() < 1:
        raise ValueError("p must be [..., C], got a tensor without axes")
    check_rank("q", q, "L, C")
    if p.shape[-1] < 1:
        raise ValueError(f"p must have at least one class, got shape {list(p.shape)}")
    if q.shape[1] != p.shape[-1]:
        raise ValueError(
            f"q must have as many classes as p, got {q.shape[1]} for q and {p.shape[-1]} for p "
            f"(shapes {list(q.shape)} and {list(p.shape)})"
        )
    check_same_device("p", p, "q", q)
    bins = check_integer("bins", bins)
    return _op(p.detach(), q.detach(), bins, check_range("range", range), check_eps(eps))


def kl_histogram_ref(
    p: Tensor, q: Tensor, bins: int = 32, range: list[float] | None = None, eps: float = 1e-7
) -> Tensor:
    """The same in plain torch, in chunks of rows of p."""
    rows, reference = _smoothed(p, eps).reshape(-1, p.shape[-1]), _smoothed(q, eps)
    chunk = max(1, _REF_CHUNK // max(1, reference.numel()))
    histograms = [_histogram(_divergences(part, reference), bins, range) for part in rows.split(chunk)]
    return torch.cat(histograms).reshape(*p.shape[:-1], bins)


def _smoothed(x: Tensor, eps: float) -> Tensor:
    x = x.double()
    huge = ~(x + eps).sum(-1, keepdim=True).isfinite()
    x = torch.where(huge, x * _OF_HUGE_ROW + eps * _OF_HUGE_ROW, x + eps)
    return x / x.sum(-1, keepdim=True)


def _divergences(p: Tensor, q: Tensor) -> Tensor:
    """KL(p_i ‖ q_j): [M, C], [L, C] → [M, L]."""
    p = p.unsqueeze(1)
    return torch.where(p == 0, 0, p * (p.log() - q.log())).sum(-1)


def _histogram(values: Tensor, bins: int, range: list[float] | None) -> Tensor:
    """Share of each row's values in each bin: [M, L] → float32 [M, bins]."""
    if not values.shape[1]:
        return values.new_zeros(len(values), bins, dtype=torch.float32)
    if range is None:
        low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
        bad = ~high.isfinite()
        half = torch.where(low == high, 0.5, 0.0)
        low, high = low - half, high + half
    else:
        low, high = values.new_tensor(range).split(1)
        bad = values.isnan().any(1, keepdim=True)
    position = (values.clamp(low, high) - low) / (high - low) * bins
    bin = position.nan_to_num().long().clamp(0, bins - 1)
    counts = torch.zeros(len(values), bins, dtype=torch.int64, device=values.device)
    counts.scatter_add_(1, bin, torch.ones_like(bin))
    return (counts.double() / values.shape[1]).masked_fill(bad, math.nan).float()


def _call(p: Tensor, q: Tensor, bins: int, range: list[float] | None, eps: float) -> Call:
    histograms = p.new_empty(*p.shape[:-1], bins, dtype=torch.float32)
    rows = p.reshape(-1, p.shape[-1])
    num_rows, classes = rows.shape
    low, high = range or (0.0, 1.0)
    given = rows, q, histograms.view(-1, bins), range is None, low, high, eps
    scratch = "kl_histogram_scratch", num_rows, q.shape[0], classes
    return Call(histograms, given, num_rows * q.numel(), scratch)


_op = register(
    "kl_histogram(Tensor p, Tensor q, SymInt bins, float[]? range, float eps) -> Tensor",
    call=_call,
    ref=kl_histogram_ref,
    float64_on_gpu=True,
)
