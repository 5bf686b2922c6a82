"""The tensors that the ops which measure regions give, region_features and label_map_features."""

import torch
from torch import Tensor


def region_outputs(logits: Tensor, regions: int, cells: tuple[int, int], scores: int) -> tuple[Tensor, ...]:
    """Memory in the order of csrc's RegionOutputs, up to score_sum: float32, on the device of the logits."""
    images, classes = logits.shape[:2]
    pooled = (images, regions, *cells)
    shapes = (images, regions, classes), pooled, pooled, pooled, (images, regions), (scores, images, regions)
    return tuple(logits.new_empty(shape, dtype=torch.float32) for shape in shapes)


def stack_sums(sums: list[Tensor], logits: Tensor, num_regions: int) -> Tensor:
    """[N, R] of each score → float32 [S, N, R]"""
    return torch.stack(sums).float() if sums else logits.new_empty(0, len(logits), num_regions).float()
