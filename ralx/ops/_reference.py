"""What the references of several ops share: upsampling and regions in plain torch."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ralx.ops.arguments import Pair, tiles_along


def computed(logits: Tensor) -> Tensor:
    """float64 is computed in float64, every other type in float32."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _neighbours(
    source: int, size: int, align_corners: bool, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """For each position of an axis: both neighbours in the source axis and the second one's weight.

    torch.nn.functional.interpolate's coordinates as exact fractions, so that a weight of 0 is exactly 0.
    """
    position = torch.arange(size, device=device)
    if align_corners:
        numerator, denominator = position * (source - 1), max(size - 1, 1)
    else:
        numerator, denominator = ((2 * position + 1) * source - size).clamp_min(0), 2 * size
    first = torch.div(numerator, denominator, rounding_mode="floor").clamp_max(source - 1)
    weight = (numerator - first * denominator).double() / denominator
    weight = weight.masked_fill(first == source - 1, 0)
    return first, torch.where(weight > 0, first + 1, first), weight


def upsample_ref(logits: Tensor, size: Pair, align_corners: bool) -> Tensor:
    """Bilinear upsampling of [..., h, w] to [..., H, W] that doesn't look at neighbours of weight 0."""
    for dim, wanted in ((-2, size[0]), (-1, size[1])):
        first, second, weight = _neighbours(logits.shape[dim], wanted, align_corners, logits.device)
        weight = weight.to(logits.dtype)
        if dim == -2:
            weight = weight[:, None]
        low, high = logits.index_select(dim, first), logits.index_select(dim, second)
        logits = torch.where(weight > 0, (1 - weight) * low + weight * high, low)
    return logits


def entropy_ref(logits: Tensor, dim: int = 1) -> Tensor:
    """Shannon entropy of softmax over the classes, in nats; a class of -inf adds nothing."""
    log_p = logits.log_softmax(dim)
    return -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0)).sum(dim)


def split_regions(maps: Tensor, region_size: Pair) -> Tensor:
    """[N, H, W] → [N, R, rh, rw], tiled from the top left; a remainder at the bottom or right is dropped."""
    rh, rw = region_size
    rows, cols = maps.shape[1] // rh, maps.shape[2] // rw
    tiles = maps[:, : rows * rh, : cols * rw].reshape(-1, rows, rh, cols, rw)
    return tiles.permute(0, 1, 3, 2, 4).reshape(maps.shape[0], rows * cols, rh, rw)


def region_ids(
    images: int, size: Sequence[int], region_size: Pair, cells: Pair, keep_edge: bool, device: torch.device
) -> tuple[Tensor, Tensor, int]:
    """Of a tiling: the region and the cell of each pixel, int64 [N, H, W], -1 in a remainder; and the number
    of regions. Cells are numbered through all regions."""
    (rh, rw), (height, width) = region_size, size
    y, x = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)[None]
    rows, cols = tiles_along(height, rh, keep_edge), tiles_along(width, rw, keep_edge)
    region = (y // rh * cols + x // rw).masked_fill((y >= rows * rh) | (x >= cols * rw), -1)
    row, col = y % rh // (rh // cells[0]), x % rw // (rw // cells[1])
    inside = (region >= 0) & (row < cells[0]) & (col < cells[1])
    cell = ((region * cells[0] + row) * cells[1] + col).masked_fill(~inside, -1)
    return region.expand(images, -1, -1), cell.expand(images, -1, -1), rows * cols


class Pooled(NamedTuple):
    """Of the pixels of each id; zeros where there are none."""

    pixels: Tensor  # int64 [N, R]
    minimum: Tensor  # [N, R], as the next three
    mean: Tensor
    maximum: Tensor
    total: Tensor


def pool_by_id(values: Tensor, ids: Tensor, num_ids: int) -> Pooled:
    """values [N, H, W] pooled over the pixels with the same id: int64 [N, H, W], outside 0..R-1 left out.

    Sums are integers, so that they don't depend on the order in which pixels are added on a GPU.
    """
    unit = 2.0**-26
    values, ids = values.flatten(1), ids.flatten(1)
    ids = torch.where((ids >= 0) & (ids < num_ids), ids, num_ids)
    zeros = values.new_zeros(len(values), num_ids + 1)
    count = zeros.long().scatter_add_(1, ids, torch.ones_like(ids))
    units = (values.nan_to_num(0).double() / unit).round().long()
    total = zeros.long().scatter_add_(1, ids, units).double() * unit
    minimum = zeros.scatter_reduce(1, ids, values, "amin", include_self=False)
    maximum = zeros.scatter_reduce(1, ids, values, "amax", include_self=False)
    total = torch.where(minimum.isnan(), torch.nan, total)
    pooled = Pooled(count, minimum, total / count.clamp_min(1), maximum, total)
    return Pooled(*(field[:, :num_ids] for field in pooled))


def class_hist_by_id(labels: Tensor, ids: Tensor, num_ids: int, classes: int) -> Tensor:
    """Fractions of each class among the pixels of an id: labels, ids [N, H, W] → float32 [N, R, C]."""
    labels, ids = labels.flatten(1), ids.flatten(1)
    inside = (ids >= 0) & (ids < num_ids)
    cell = torch.where(inside, ids * classes + labels, num_ids * classes)
    counts = torch.zeros(len(ids), num_ids * classes + 1, dtype=torch.int64, device=ids.device)
    counts = counts.scatter_add_(1, cell, torch.ones_like(cell))[:, :-1].unflatten(1, (num_ids, classes))
    return (counts.double() / counts.sum(2, keepdim=True).clamp_min(1)).float()
