"""region_features: what is predicted in each region and how unsure that is, in one pass over the logits."""

from typing import NamedTuple

import torch
from torch import Tensor

import ralx._C as _C
from ralx.ops._reference import class_hist_ref, computed, entropy_ref, split_regions, upsample_ref
from ralx.ops.arguments import (
    check_cells,
    check_flag,
    check_logits,
    check_region_size,
    check_size,
    register,
)


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

    def vector(self) -> Tensor:
        """[N, R, C + 3·ch·cw]: class_hist, then entropy_min, entropy_avg, entropy_max, cells row-major."""
        return torch.cat([self.class_hist, *(pooled.flatten(2) for pooled in self[1:4])], dim=2)


def region_features(
    logits: Tensor,
    region_size: tuple[int, int],
    *,
    cells: tuple[int, int] = (8, 8),
    size: tuple[int, int] | None = None,
    align_corners: bool = False,
) -> RegionFeatures:
    """The RALIS paper's features of every region: predicted classes and pooled entropy maps (section 3.2).

    Regions tile the image from the top left, row-major; a remainder at the bottom or right is in no region.

    Args:
        logits: [N, C, h, w], float32, float16, bfloat16 (computed in float32) or float64, of any strides.
        region_size: (rh, rw) in pixels of the image.
        cells: (ch, cw): entropy is pooled over cells of (rh // ch, rw // cw) pixels; a remainder inside a
            region is left out of the pooled maps, not of entropy_sum.
        size: (H, W) of the image; the logits are bilinearly upsampled to it inside the pass. Default (h, w).
        align_corners: as in torch.nn.functional.interpolate.

    Returns:
        RegionFeatures, five float32 tensors that never require grad. The predicted class is torch.argmax's:
        the lowest of equal ones, the first NaN. A class of -inf is masked; NaN, +inf, or -inf in all classes
        make the pixel's entropy NaN, and with it its cell's pooled values and its region's sum.

    Raises:
        TypeError, ValueError: naming the argument, the rule and what was given.

    On CUDA tensors the plain torch reference computes the result.
    """
    logits = check_logits("logits", logits)
    size = check_size(size, logits)
    region_size = check_region_size(region_size, size)
    cells = check_cells(cells, region_size)
    check_flag("align_corners", align_corners)
    return RegionFeatures(*_op(logits.detach(), region_size, cells, size, align_corners))


def region_features_ref(
    logits: Tensor,
    region_size: tuple[int, int],
    cells: tuple[int, int] = (8, 8),
    size: tuple[int, int] | None = None,
    align_corners: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The same in plain torch."""
    logits = upsample_ref(computed(logits), size or (logits.shape[-2], logits.shape[-1]), align_corners)
    regions = split_regions(entropy_ref(logits), region_size)
    height, width = region_size[0] // cells[0], region_size[1] // cells[1]
    pooled = regions[..., : cells[0] * height, : cells[1] * width].unflatten(3, (cells[1], width))
    pooled = pooled.unflatten(2, (cells[0], height)).transpose(3, 4).flatten(4)
    return (
        class_hist_ref(logits.argmax(1), region_size, logits.shape[1]),
        pooled.amin(-1).float(),
        pooled.mean(-1).float(),
        pooled.amax(-1).float(),
        regions.sum((2, 3)).float(),
    )


def _empty(
    logits: Tensor,
    region_size: tuple[int, int],
    cells: tuple[int, int],
    size: tuple[int, int],
    align_corners: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    images, classes = logits.shape[:2]
    regions = (size[0] // region_size[0]) * (size[1] // region_size[1])
    pooled = (images, regions, *cells)
    return (
        logits.new_empty((images, regions, classes), dtype=torch.float32),
        logits.new_empty(pooled, dtype=torch.float32),
        logits.new_empty(pooled, dtype=torch.float32),
        logits.new_empty(pooled, dtype=torch.float32),
        logits.new_empty((images, regions), dtype=torch.float32),
    )


def _cpu(
    logits: Tensor,
    region_size: tuple[int, int],
    cells: tuple[int, int],
    size: tuple[int, int],
    align_corners: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    outputs = _empty(logits, region_size, cells, size, align_corners)
    _C.region_features(logits, region_size, size, align_corners, *outputs, torch.get_num_threads())
    return outputs


_op = register(
    "region_features(Tensor logits, SymInt[2] region_size, SymInt[2] cells, SymInt[2] size, "
    "bool align_corners) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    cpu=_cpu,
    cuda=region_features_ref,
    fake=_empty,
)
