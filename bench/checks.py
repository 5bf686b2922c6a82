"""Whether an alternative gave what ralx gave."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

NEAR, NEAR_SUM = 1e-4, 2e-2  # nats, of a pixel or cell and of a whole region
FLIPPED = 2e-3  # share of a region's pixels with nearly equal classes, of which another came out first
REBINNED = 0.02  # share of a row's float32 divergences that lie near an edge and fell to its other side


def same_features(ours: Sequence[Tensor], theirs: Sequence[Tensor], within: Sequence[float]) -> None:
    """Each of their tensors agrees `within` what is given for it with ours, of which there may be more."""
    for mine, other, atol in zip(ours[: len(theirs)], theirs, within, strict=True):
        torch.testing.assert_close(leading(mine, other), other, rtol=1e-4, atol=atol)


def same_histograms(ours: Tensor, theirs: Tensor) -> None:
    assert (leading(ours, theirs) - theirs).abs().sum(-1).max() < REBINNED


def identical(ours: Any, theirs: Any) -> None:
    """To the bit: what the op gives is the same from call to call, and in a CUDA graph."""
    pairs = zip(tensors_of(ours), tensors_of(theirs), strict=True)
    assert all(torch.equal(mine, other) for mine, other in pairs), "not the same bits"


def tensors_of(output: Any) -> list[Tensor]:
    """Of a tensor or of tuples of them; None is none."""
    if output is None or isinstance(output, Tensor):
        return [] if output is None else [output]
    return [each for part in output for each in tensors_of(part)]


def leading(ours: Tensor, theirs: Tensor) -> Tensor:
    """As much of ours as there is of theirs, which may have done a share of the work only."""
    return ours[tuple(slice(0, length) for length in theirs.shape)]
