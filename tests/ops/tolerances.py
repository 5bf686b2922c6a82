"""How far the ops may be from float64: the accuracy that ralx promises. Counts are exact."""

import math

import torch


def entropy(classes: int) -> float:
    """Pixel entropy in nats: float32 or reduced-precision logits at native size."""
    return 2e-6 * max(1.0, math.log(classes))


def rounding(classes: int) -> float:
    """float64 logits: computed in float64, only the output is rounded to float32."""
    return 1e-7 * max(1.0, math.log(classes))


UPSAMPLED = 1e-4
"""Pixel entropy of upsampled logits."""

BALD = 5e-6
"""Mutual information of a pixel at native size."""


def of_entropy(dtype: torch.dtype, classes: int, upsampled: bool) -> float:
    """Of a pixel's entropy, given logits of this dtype."""
    if dtype == torch.float64:
        return rounding(classes)
    return UPSAMPLED if upsampled else entropy(classes)


FIXED_POINT = 2.0**-26
"""What a pixel may add to the other errors where sums are integers, so as not to depend on their order."""
