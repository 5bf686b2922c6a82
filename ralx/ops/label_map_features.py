"""label_map_features: region_features of regions of any shape, given as a label map."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ralx.ops._reference import class_hist_by_id, computed, entropy_ref, pool_by_id, upsample_ref
from ralx.ops.arguments import (
    check_integer,
    check_label_map,
    check_same_device,
    place_in,
)
from ralx.ops.region_outputs import region_outputs, stack_sums
from ralx.ops.registration import Call, register
from ralx.ops.scores import NO_SCORES, Wanted, scores_ref


def label_map_features(
    logits: Tensor,
    regions: Any,
    num_regions: Any,
    size: tuple[int, int],
    align_corners: bool,
    wanted: Wanted,
) -> tuple[Tensor, ...]:
    """ralx.region_features(regions=…), after its checks of all but `regions` and `num_regions`.

    Returns:
        The tensors of RegionFeatures, whose regions have one cell each; float32 [S, N, R], the sums of the
        scores wanted; int64 [N, R], the pixels of each region.
    """
    map_ = check_label_map("regions", regions)
    check_same_device("logits", logits, "regions", map_)
    if map_.shape != (logits.shape[0], *size):
        raise ValueError(
            f"regions must have the shape of the images, [{logits.shape[0]}, {size[0]}, {size[1]}], "
            f"got {list(map_.shape)}"
        )
    num_regions = check_integer("num_regions", num_regions, 0)
    return _op(logits.detach(), map_.detach(), num_regions, align_corners, wanted)


def label_map_features_ref(
    logits: Tensor,
    regions: Tensor,
    num_regions: int,
    align_corners: bool = False,
    scores: Sequence[int] = NO_SCORES,
) -> tuple[Tensor, ...]:
    """Regions of a label map in plain torch; ids outside 0..R-1 are no region."""
    regions = regions.long()
    logits = upsample_ref(computed(logits), (regions.shape[1], regions.shape[2]), align_corners)
    pooled = pool_by_id(entropy_ref(logits), regions, num_regions)
    sums = [pool_by_id(score, regions, num_regions).total for score in scores_ref(logits, Wanted(*scores))]
    return (
        class_hist_by_id(logits.argmax(1), regions, num_regions, logits.shape[1]),
        *(field.float()[..., None, None] for field in pooled[1:4]),
        pooled.total.float(),
        stack_sums(sums, logits, num_regions),
        pooled.pixels,
    )


def _call(
    logits: Tensor, regions: Tensor, num_regions: int, align_corners: bool, scores: Sequence[int]
) -> Call:
    def refuse(name: str, position: int, value: int) -> None:
        where = place_in(regions, position)
        raise ValueError(f"regions must be below num_regions={num_regions}, got {value} at {where}")

    outputs = region_outputs(logits, num_regions, (1, 1), Wanted(*scores).num_scores)
    outputs += (logits.new_empty((logits.shape[0], num_regions), dtype=torch.int64),)
    scratch = "label_map_features_scratch", logits, regions, num_regions, scores
    given = logits, regions, align_corners, scores, outputs
    return Call(outputs, given, logits.shape[1] * regions.numel(), scratch, refuse)


_op = register(
    "label_map_features(Tensor logits, Tensor regions, SymInt num_regions, bool align_corners, "
    "int[3] scores) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    call=_call,
    ref=label_map_features_ref,
)
