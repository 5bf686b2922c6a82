"""The baselines in eager torch, as one writes them without ralx: float32, whole tensors, no Python loop.

Labels come from max(1).indices, which on the CPU is several times as fast as argmax(1).
"""

import torch
from sizes import Scene
from torch import Tensor
from torch.nn import functional as F


def full_size(logits: Tensor, size: tuple[int, int] | None) -> Tensor:
    """As the paper's network does it, with align_corners."""
    return logits if size is None else F.interpolate(logits, size, mode="bilinear", align_corners=True)


def region_tiles(maps: Tensor, region: tuple[int, int]) -> Tensor:
    """[N, H, W] → [N, R, rh, rw]"""
    (rh, rw), (rows, cols) = region, (maps.shape[1] // region[0], maps.shape[2] // region[1])
    tiles = maps[:, : rows * rh, : cols * rw].reshape(-1, rows, rh, cols, rw)
    return tiles.transpose(2, 3).flatten(1, 2)


def class_hist(labels: Tensor, region: tuple[int, int], classes: int) -> Tensor:
    """[N, H, W] → [N, R, C]"""
    tiles = region_tiles(labels, region).flatten(2)
    counts = torch.zeros(*tiles.shape[:2], classes)
    return counts.scatter_add_(2, tiles, torch.ones(()).expand(tiles.shape)) / tiles.shape[2]


def region_features(logits: Tensor, scene: Scene, cells: tuple[int, int] = (8, 8)) -> tuple[Tensor, ...]:
    """class_hist, entropy_min, entropy_avg, entropy_max, entropy_sum"""
    logits = full_size(logits, scene.size)
    log_p = logits.log_softmax(1)
    entropy = -(log_p.exp() * log_p).sum(1)
    tiles = region_tiles(entropy, scene.region)
    cell = scene.region[0] // cells[0], scene.region[1] // cells[1]
    return (
        class_hist(logits.max(1).indices, scene.region, scene.classes),
        -F.max_pool2d(-tiles, cell),
        F.avg_pool2d(tiles, cell),
        F.max_pool2d(tiles, cell),
        tiles.sum((2, 3)),
    )


def kl_histogram(
    p: Tensor, q: Tensor, bins: int, range: tuple[float, float] | None, eps: float = 1e-7
) -> Tensor:
    """One matrix product for all pairs [M, L], then one scatter."""
    p, q = p + eps, q + eps
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    values = (p * p.log()).sum(1, keepdim=True) - p @ q.log().T
    if range is None:
        low, high = values.aminmax(dim=1, keepdim=True)
    else:
        low, high = torch.tensor(range)
    bin = ((values - low) * (bins / (high - low))).long().clamp_(0, bins - 1)
    counts = torch.zeros(len(p), bins).scatter_add_(1, bin, torch.ones(()).expand(bin.shape))
    return counts / len(q)


def bald(logits: Tensor, scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
    """bald_map, region_sum, class_hist of passes [T, N, C, h, w]; Σp and ΣH are kept, one pass at a time."""
    mean, entropy = 0, 0
    for each in logits:
        log_p = full_size(each, scene.size).log_softmax(1)
        p = log_p.exp()
        mean = mean + p / len(logits)
        entropy = entropy - (p * log_p).sum(1) / len(logits)
    bald_map = -torch.xlogy(mean, mean).sum(1) - entropy
    return (
        bald_map,
        region_tiles(bald_map, scene.region).sum((2, 3)),
        class_hist(mean.max(1).indices, scene.region, scene.classes),
    )


def confusion_matrix(logits: Tensor, target: Tensor, scene: Scene, ignore_index: int = 255) -> Tensor:
    prediction = full_size(logits, scene.size).max(1).indices
    kept = target != ignore_index
    cell = target[kept].long() * scene.classes + prediction[kept]
    return torch.bincount(cell, minlength=scene.classes**2).view(scene.classes, scene.classes)
