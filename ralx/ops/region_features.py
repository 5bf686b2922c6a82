"""region_features: what is predicted in each region and how unsure that is, in one pass over the logits."""

from collections.abc import Sequence
from typing import NamedTuple, overload

import torch
from torch import Tensor

from ralx.ops._reference import (
    class_hist_by_id,
    computed,
    entropy_ref,
    pool_by_id,
    region_ids,
    split_regions,
    upsample_ref,
)
from ralx.ops.arguments import (
    Edge,
    Pair,
    check_cells,
    check_edge,
    check_flag,
    check_logits,
    check_pair,
    check_region_size,
    check_size,
    num_tiles,
    tiles_along,
)
from ralx.ops.label_map_features import label_map_features
from ralx.ops.region_outputs import region_outputs, stack_sums
from ralx.ops.registration import Call, register
from ralx.ops.scores import NO_SCORES, Score, Wanted, check_scores, scores_ref, unpack

_CELLS = (8, 8)


class RegionFeatures(NamedTuple):
    """Features of the R regions of N images; C classes, ch×cw cells. Float32, entropy in nats."""

    class_hist: Tensor
    """[N, R, C]: fraction of the region's pixels whose predicted class is c."""
    entropy_min: Tensor
    """[N, R, ch, cw]: lowest pixel entropy of each cell."""
    entropy_avg: Tensor
    """[N, R, ch, cw]: mean pixel entropy of each cell."""
    entropy_max: Tensor
    """[N, R, ch, cw]: highest pixel entropy of each cell."""
    entropy_sum: Tensor
    """[N, R]: sum of the pixel entropy over the whole region."""

    def vector(self: "RegionFeatures | ScoredRegionFeatures") -> Tensor:
        """[N, R, C + 3·ch·cw]: class_hist, then entropy_min, entropy_avg, entropy_max, cells row-major."""
        maps = self.entropy_min, self.entropy_avg, self.entropy_max
        return torch.cat([self.class_hist, *(pooled.flatten(2) for pooled in maps)], dim=2)


class ScoredRegionFeatures(NamedTuple):
    """RegionFeatures and more: of regions given as a label map, whose ch×cw is 1×1, or with scores."""

    class_hist: Tensor
    entropy_min: Tensor
    entropy_avg: Tensor
    entropy_max: Tensor
    entropy_sum: Tensor
    pixel_count: Tensor
    """[N, R] int64: pixels of the region."""
    margin_sum: Tensor | None
    """[N, R]: sum over the region of 1 - (p of the best class - p of the second best), or None."""
    least_confidence_sum: Tensor | None
    """[N, R]: sum over the region of 1 - p of the best class, or None."""
    impurity_sum: Tensor | None
    """[N, R]: sum over the region of the entropy times the entropy (nats) of the classes predicted in the
    window around the pixel, or None."""

    def vector(self) -> Tensor:
        """As RegionFeatures.vector."""
        return RegionFeatures.vector(self)


@overload
def region_features(
    logits: Tensor,
    region_size: tuple[int, int],
    *,
    cells: tuple[int, int] = ...,
    size: tuple[int, int] | None = ...,
    align_corners: bool = ...,
    edge: Edge = ...,
) -> RegionFeatures: ...


@overload
def region_features(
    logits: Tensor,
    region_size: tuple[int, int],
    *,
    cells: tuple[int, int] = ...,
    size: tuple[int, int] | None = ...,
    align_corners: bool = ...,
    edge: Edge = ...,
    scores: Sequence[Score],
    neighbourhood: int = ...,
) -> ScoredRegionFeatures: ...


@overload
def region_features(
    logits: Tensor,
    region_size: None,
    *,
    size: tuple[int, int] | None = ...,
    align_corners: bool = ...,
    regions: Tensor,
    num_regions: int,
    scores: Sequence[Score] = ...,
    neighbourhood: int = ...,
) -> ScoredRegionFeatures: ...


def region_features(
    logits: Tensor,
    region_size: tuple[int, int] | None,
    *,
    cells: tuple[int, int] = _CELLS,
    size: tuple[int, int] | None = None,
    align_corners: bool = False,
    edge: Edge = "drop",
    regions: Tensor | None = None,
    num_regions: int | None = None,
    scores: Sequence[Score] = (),
    neighbourhood: int = 3,
) -> RegionFeatures | ScoredRegionFeatures:
    """The RALIS paper's features of every region: predicted classes and pooled entropy maps (section 3.2).

    Regions tile the image from the top left, row-major, or are given as a label map.

    Args:
        logits: [N, C, h, w], float32, float16, bfloat16 (computed in float32) or float64, of any strides.
        region_size: (rh, rw) in pixels of the image; None where `regions` are given.
        cells: (ch, cw): entropy is pooled over cells of (rh // ch, rw // cw) pixels; a remainder inside a
            region is left out of the pooled maps, not of entropy_sum. A label map's regions have one cell.
        size: (H, W) of the image; the logits are bilinearly upsampled to it inside the pass. Default (h, w).
        align_corners: as in torch.nn.functional.interpolate.
        edge: a remainder at the right or bottom is in no region ("drop"), or makes smaller ones ("keep"):
            their fractions and means are of their own pixels, their cells are cut, an empty cell is 0.
        regions: [N, H, W] uint8, int16, int32 or int64: the region 0..R-1 of each pixel, negative for none.
        num_regions: R of `regions`. A region without pixels has zeros.
        scores: more sums per region: "margin", "least_confidence" (Settles 2009) and "impurity" (region
            impurity times entropy, as in RIPU, Xie et al. 2022).
        neighbourhood: k of the k×k window of "impurity", odd, cut at the image's border.

    Returns:
        RegionFeatures, five float32 tensors that never require grad; with `regions` or `scores` a
        ScoredRegionFeatures, whose scores are None unless asked for. The predicted class is torch.argmax's:
        the lowest of equal ones, the first NaN. A class of -inf is masked; NaN, +inf, or -inf in all classes
        make the pixel's entropy NaN, and with it its cell's pooled values and its region's sums.

    Raises:
        TypeError, ValueError: naming the argument, the rule and what was given; a region of R or more is an
            error on the CPU, and belongs to no region on CUDA.
    """
    logits = check_logits("logits", logits)
    size = check_size(size, logits)
    check_flag("align_corners", align_corners)
    keep_edge = check_edge(edge)
    wanted = check_scores(scores, neighbourhood)
    if regions is not None:
        _check_no_grid(region_size, cells, keep_edge)
        *features, score_sum, count = label_map_features(
            logits, regions, num_regions, size, align_corners, wanted
        )
        return ScoredRegionFeatures(*RegionFeatures(*features), count, *unpack(wanted, score_sum))
    if num_regions is not None:
        raise ValueError(f"num_regions must be left out where no regions are given, got {num_regions!r}")
    region_size = check_region_size(region_size, size)
    cells = check_cells(cells, region_size)
    *features, score_sum = _op(logits.detach(), region_size, cells, size, align_corners, keep_edge, wanted)
    pooled = RegionFeatures(*features)
    if wanted == NO_SCORES:
        return pooled
    count = pixel_count(region_size, size, keep_edge, logits.device).expand(logits.shape[0], -1).clone()
    return ScoredRegionFeatures(*pooled, count, *unpack(wanted, score_sum))


def _check_no_grid(region_size: object, cells: object, keep_edge: bool) -> None:
    if region_size is not None:
        raise ValueError(f"region_size must be None where regions are given, got {region_size!r}")
    if check_pair("cells", cells) not in (_CELLS, (1, 1)):
        raise ValueError(f"cells must be left out where regions are given: they have one each, got {cells}")
    if keep_edge:
        raise ValueError("edge must be left out where regions are given, got 'keep'")


def pixel_count(region_size: Pair, size: Pair, keep_edge: bool, device: torch.device) -> Tensor:
    """Of each region of an image: int64 [R]. Nothing is copied to the device, or waits for it."""
    lengths = []
    for region, whole in zip(region_size, size, strict=True):
        start = torch.arange(tiles_along(whole, region, keep_edge), device=device) * region
        lengths.append((whole - start).clamp_max(region))
    return (lengths[0][:, None] * lengths[1]).flatten()


def region_features_ref(
    logits: Tensor,
    region_size: Pair,
    cells: Pair = _CELLS,
    size: Pair | None = None,
    align_corners: bool = False,
    keep_edge: bool = False,
    scores: Sequence[int] = NO_SCORES,
) -> tuple[Tensor, ...]:
    """The op in plain torch; the last of its tensors holds the scores' sums [S, N, R]."""
    size = size or (logits.shape[-2], logits.shape[-1])
    logits = upsample_ref(computed(logits), size, align_corners)
    region, cell, num_regions = region_ids(len(logits), size, region_size, cells, keep_edge, logits.device)
    maps = [entropy_ref(logits), *scores_ref(logits, Wanted(*scores))]
    if keep_edge:
        by_cell = pool_by_id(maps[0], cell, num_regions * cells[0] * cells[1])
        pooled = [field.unflatten(1, (num_regions, *cells)) for field in by_cell[1:4]]
        sums = [pool_by_id(each, region, num_regions).total for each in maps]
    else:
        tiles = [split_regions(each, region_size) for each in maps]
        height, width = region_size[0] // cells[0], region_size[1] // cells[1]
        of_cells = tiles[0][..., : cells[0] * height, : cells[1] * width].unflatten(3, (cells[1], width))
        of_cells = of_cells.unflatten(2, (cells[0], height)).transpose(3, 4).flatten(4)
        pooled = [of_cells.amin(-1), of_cells.mean(-1), of_cells.amax(-1)]
        sums = [each.sum((2, 3)) for each in tiles]
    return (
        class_hist_by_id(logits.argmax(1), region, num_regions, logits.shape[1]),
        *(each.float() for each in pooled),
        sums[0].float(),
        stack_sums(sums[1:], logits, num_regions),
    )


def _call(
    logits: Tensor,
    region_size: Pair,
    cells: Pair,
    size: Pair,
    align_corners: bool,
    keep_edge: bool,
    scores: Sequence[int],
) -> Call:
    num_regions = num_tiles(size, region_size, keep_edge)
    outputs = region_outputs(logits, num_regions, cells, Wanted(*scores).num_scores)
    given = logits, region_size, keep_edge, size, align_corners, scores, outputs
    scratch = "region_features_scratch", logits, region_size, keep_edge, size, cells, scores
    return Call(outputs, given, logits.shape[0] * logits.shape[1] * size[0] * size[1], scratch)


_op = register(
    "region_features(Tensor logits, SymInt[2] region_size, SymInt[2] cells, SymInt[2] size, "
    "bool align_corners, bool keep_edge, int[3] scores) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    call=_call,
    ref=region_features_ref,
)
