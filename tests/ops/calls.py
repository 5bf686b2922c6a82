"""Every op as a function of one float tensor: what they all promise alike is asked of this table."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from logit_cases import map_layout
from torch import Tensor
from torch.nn import functional as F

from ralx.ops import bald, confusion_matrix, kl_histogram, region_features
from ralx.ops.bald import _zero_sums

SCORES = ("margin", "least_confidence", "impurity")


class Call(NamedTuple):
    shape: tuple[int, ...]
    run: Callable[[Tensor], Any]


def twice_the_size(x: Tensor) -> tuple[int, int]:
    return 2 * x.shape[-2], 2 * x.shape[-1]


def labels_of(x: Tensor) -> Tensor:
    """Some label of 0..6 for each pixel: logits [N, C, H, W] → uint8 [N, H, W]."""
    return x[:, 0].abs().clamp(max=6).byte()


def larger_labels_of(x: Tensor) -> Tensor:
    return F.interpolate(labels_of(x).float().unsqueeze(1), scale_factor=2.0).squeeze(1).byte()


NATIVE, SMALL, PASSES = (2, 11, 40, 66), (2, 11, 20, 33), (3, 2, 11, 40, 66)
CALLS = {
    "region_features": Call(NATIVE, lambda x: region_features(x, (20, 30))),
    "region_features upsampled": Call(
        SMALL, lambda x: region_features(x, (20, 30), size=twice_the_size(x), align_corners=True)
    ),
    "each pixel": Call(SMALL, lambda x: region_features(x, (1, 1), cells=(1, 1), size=twice_the_size(x))),
    "whole image": Call(NATIVE, lambda x: region_features(x, (40, 66), cells=(1, 1))),
    "ragged edge": Call(NATIVE, lambda x: region_features(x, (17, 30), edge="keep")),
    "ragged edge upsampled": Call(
        SMALL, lambda x: region_features(x, (7, 9), cells=(2, 3), size=twice_the_size(x), edge="keep")
    ),
    "scores": Call(NATIVE, lambda x: region_features(x, (20, 30), scores=SCORES)),
    "one score at a ragged edge": Call(
        NATIVE,
        lambda x: region_features(
            x, (9, 17), cells=(2, 3), edge="keep", scores=["impurity"], neighbourhood=7
        ),
    ),
    "label map": Call(
        NATIVE, lambda x: region_features(x, None, regions=labels_of(x), num_regions=9, scores=SCORES)
    ),
    "label map upsampled": Call(
        SMALL,
        lambda x: region_features(
            x, None, regions=larger_labels_of(x).long() - 1, num_regions=6, size=twice_the_size(x)
        ),
    ),
    "bald": Call(PASSES, lambda x: bald(x, (20, 30))),
    "bald upsampled": Call(
        (3, *SMALL), lambda x: bald(x, (7, 9), size=twice_the_size(x), align_corners=True)
    ),
    "bald at a ragged edge": Call(PASSES, lambda x: bald(x, (9, 17), edge="keep")),
    "bald without regions": Call(PASSES, lambda x: bald(x)),
    "bald streamed": Call(PASSES, lambda x: bald(list(x), (20, 30))),
    "confusion_matrix": Call(NATIVE, lambda x: confusion_matrix(x, labels_of(x), x.shape[1])),
    "confusion_matrix upsampled": Call(
        SMALL, lambda x: confusion_matrix(x, larger_labels_of(x), x.shape[1], size=twice_the_size(x))
    ),
    "confusion_matrix of labels": Call(
        NATIVE, lambda x: confusion_matrix(labels_of(x), labels_of(2 * x), 7, ignore_index=2)
    ),
    "kl_histogram": Call((300, 19), lambda x: kl_histogram(x.abs(), x[:200].abs())),
    "kl_histogram fixed range": Call(
        (300, 19), lambda x: kl_histogram(x.abs(), x[:200].abs(), range=(0.0, 16.2))
    ),
}
# Iterables of passes stay eager: the contract asks for tensor forms alone.
COMPILED = [name for name in CALLS if name != "bald streamed"]


def opcheck(x: Tensor, layout: str = "contiguous") -> None:
    """torch.library.opcheck of every op, given two passes [2, N, C, 16, 18]; `layout` is of label maps."""
    ops, check = torch.ops.ralx, torch.library.opcheck
    for size, labels, keep_edge, scores in (
        ((16, 18), labels_of(x[0]), False, (0, 0, 0)),
        ((32, 36), larger_labels_of(x[0]), True, (1, 1, 3)),
    ):
        labels = map_layout(labels.clamp(max=2), layout)
        check(ops.region_features.default, (x[0], (7, 10), (2, 3), size, True, keep_edge, scores))
        check(ops.label_map_features.default, (x[0], labels, 3, True, scores))
        check(ops.confusion_matrix.default, (x[0], labels, x.shape[2], 255, True))
        check(ops.bald.default, (x, (7, 10), size, True, keep_edge))
    check(ops.confusion_matrix.default, (labels, labels, 3, 255, False))
    sums = _zero_sums(x[0], (16, 18))
    check(ops.bald_update.default, (x[0], True, *sums))
    check(ops.bald_carry.default, (sums[0], sums[0] + 1))
    check(ops.bald_compute.default, (sums[0] + 0.4, sums[1] + 1, 2, (7, 10), True))
    rows = x[0, 0, 0].abs()
    for range in (None, [0.0, 16.2]):
        check(ops.kl_histogram.default, (rows.view(4, 4, 18), rows[:9], 8, range, 1e-7))
