"""What a comparison over paired seeds says: differences, their spread, and whether chance explains them.

Values are fractions by seed, `{seed: value}`, or curves by seed, `{seed: {budget: value}}`. A comparison
pairs the seeds that both have.
"""

import math
import random
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any

Values = Mapping[int, float]
Curve = Mapping[int, float]

CONFIDENCE = 0.95
BOOTSTRAP_SAMPLES = 10_000


def summary(values: Sequence[float]) -> dict[str, Any]:
    """n, mean, sample standard deviation, and the bootstrap interval of the mean; of a single value neither
    spread nor interval."""
    spread, low, high = None, None, None
    if len(values) > 1:
        spread, (low, high) = stdev(values), bootstrap_interval(values)
    return {"n": len(values), "mean": fmean(values), "std": spread, "low": low, "high": high}


def comparison(values: Values, baseline: Values) -> dict[str, Any] | None:
    """`values` − `baseline`, paired by seed: `summary`, the standard error of the mean, t and p of the paired
    t-test. None where they share no seed."""
    differences = [values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())]
    if not differences:
        return None
    t, p = t_test(differences)
    return summary(differences) | {"standard_error": standard_error(differences), "t": t, "p": p}


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean; None for a single value."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def bootstrap_interval(values: Sequence[float], samples: int = BOOTSTRAP_SAMPLES) -> tuple[float, float]:
    """The percentile bootstrap's 95 % interval of the mean (Efron 1979), the same at every call.

    Of few values it is too narrow: it holds the mean of a normal distribution in 83 % of cases of five
    values, 90 % of ten and 93 % of twenty. The t-test knows how few they are.
    """
    draw = random.Random(0)
    means = sorted(fmean(draw.choices(values, k=len(values))) for _ in range(samples))
    tail = (1 - CONFIDENCE) / 2
    return _quantile(means, tail), _quantile(means, 1 - tail)


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Linear between neighbours, as numpy.quantile."""
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def t_test(differences: Sequence[float]) -> tuple[float | None, float | None]:
    """t and the two-sided p of the paired t-test that the mean difference is 0. None, None for fewer than two
    differences, or where all are equal: their spread says nothing."""
    if len(differences) < 2:
        return None, None
    spread = stdev(differences)
    if spread <= 1e-12 * max(map(abs, differences)):
        return None, None
    t = fmean(differences) / (spread / math.sqrt(len(differences)))
    return t, 1 - _within(t, len(differences) - 1)


def _within(t: float, degrees: int) -> float:
    """The probability that Student's t of so many degrees of freedom lies within ±t (Abramowitz and Stegun
    26.7.3, 26.7.4)."""
    angle = math.atan2(abs(t), math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    first = 0 if degrees % 2 == 0 else 1
    term = total = 1.0 if first == 0 else cosine
    for k in range(first + 2, degrees - 1, 2):
        term *= (k - 1) / k * cosine * cosine
        total += term
    if first == 0:
        return sine * total
    return 2 / math.pi * (angle + (sine * total if degrees > 1 else 0.0))


def area_under(curve: Curve) -> float:
    """The mean height of the curve between its first and its last budget: trapezoids, divided by the width.
    One budget's own value."""
    points = sorted(curve.items())
    if len(points) == 1:
        return points[0][1]
    area = sum((right[0] - left[0]) * (left[1] + right[1]) / 2 for left, right in pairwise(points))
    return area / (points[-1][0] - points[0][0])


def regions_to_reach(target: float, curve: Curve) -> float | None:
    """The first budget at which the curve, linear between its points, is at `target`; None where it never
    is."""
    points = sorted(curve.items())
    if points and points[0][1] >= target:
        return float(points[0][0])
    for left, right in pairwise(points):
        if left[1] < target <= right[1]:
            return left[0] + (target - left[1]) / (right[1] - left[1]) * (right[0] - left[0])
    return None


def share_of_way(value: float, bottom: float, top: float) -> float | None:
    """How far `value` is from `bottom`, 0, to `top`, 1; below 0 and above 1 if it lies there. None where the
    top isn't above the bottom."""
    return (value - bottom) / (top - bottom) if top > bottom else None
