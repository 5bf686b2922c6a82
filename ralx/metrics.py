"""Intersection over union and class distributions, from counts."""

import torch
from torch import Tensor

from ralx.ops.arguments import check_floating, check_ignore_index, check_integer, check_labels, check_tensor


def iou(confusion: Tensor) -> Tensor:
    """Intersection over union of every class, float64 [C], from a confusion matrix [C, C], rows targets.

    A class that no target pixel has is absent and gets NaN, even where it was predicted.
    """
    check_tensor("confusion", confusion)
    if confusion.is_complex() or confusion.dtype == torch.bool:
        raise TypeError(f"confusion must be of integers or floating-point numbers, got {confusion.dtype}")
    if confusion.dim() != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"confusion must be [C, C], got {list(confusion.shape)}")
    counts = confusion.double()
    target, predicted, both = counts.sum(1), counts.sum(0), counts.diagonal()
    return torch.where(target > 0, both / (target + predicted - both), torch.nan)


def mean_iou(confusion: Tensor) -> float:
    """Mean of `iou` over the classes that are present: in 0..1, NaN only if every class is absent.

    Sum the confusion matrices of a data set first: mIoU is over pooled counts, no mean over images.
    """
    return float(iou(confusion).nanmean())


def class_counts(labels: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Pixels per class, int64 [K, C], of label maps [K, ...], uint8, int16, int32 or int64; `ignore_index` is
    left out.

    ValueError where another label lies outside 0..C-1.
    """
    check_labels("labels", check_tensor("labels", labels))
    num_classes = check_integer("num_classes", num_classes)
    ignore_index = check_ignore_index(ignore_index)
    if labels.dim() < 2:
        raise ValueError(f"labels must be [K, ...] with one row per region, got {list(labels.shape)}")
    flat = labels.flatten(1).long()
    ignored = flat == ignore_index
    wrong = ~ignored & ((flat < 0) | (flat >= num_classes))
    if wrong.any():
        found = flat[wrong].unique()[:5].tolist()
        raise ValueError(
            f"labels must lie in 0..{num_classes - 1} or be {ignore_index} (ignored), got {found}"
        )
    bins = num_classes + 1  # the last one takes the ignored pixels
    row = torch.arange(len(flat), device=flat.device).unsqueeze(1) * bins
    binned = (row + flat.masked_fill(ignored, num_classes)).flatten()
    counts = torch.bincount(binned, minlength=len(flat) * bins)
    return counts.view(len(flat), bins)[:, :num_classes].contiguous()


# A class with hardly a pixel counts as if it filled this share of them: its weight would have no bound.
RAREST_SHARE = 1e-3


def rarity(pixels: Tensor) -> Tensor:
    """Weights of the classes, float64 [C], from their pixels [C]: 1 / √(C · share), all 1 where the classes
    are equally frequent."""
    share = pixels.double() / pixels.sum().clamp(min=1)
    return (len(share) * share.clamp(min=RAREST_SHARE)).rsqrt()


def class_distribution(labels: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """`class_counts` as fractions of the pixels that count, float32 [K, C]: rows sum to 1, an all-void row is
    zeros."""
    return distribution_of(class_counts(labels, num_classes, ignore_index))


def distribution_of(counts: Tensor) -> Tensor:
    """Pixels per class, int64 [K, C], as fractions of their sum, float32; where there are none, zeros."""
    return (counts.double() / counts.sum(1, keepdim=True).clamp(min=1)).float()


def kl_divergence(p: Tensor, q: Tensor, eps: float = 1e-7) -> Tensor:
    """KL(p ‖ q) in nats of each class distribution of p [..., C] to all of q [L, C]: float64 [..., L].

    Every row is smoothed and normalised first, (x + eps) / Σ (x + eps), as `ralx.kl_histogram` does.
    """
    p, q = (rows.double() + eps for rows in (p, q))
    p, q = (rows / rows.sum(-1, keepdim=True) for rows in (p, q))
    return (p * p.log()).sum(-1, keepdim=True) - p @ q.log().T


def distribution_entropy(distribution: Tensor) -> float:
    """Shannon entropy in nats of one class distribution [C]: how balanced the selected pixels are.

    Zeros, the distribution of nothing, have entropy 0. ValueError where the numbers are negative or sum to
    neither 1 nor 0.
    """
    check_floating("distribution", check_tensor("distribution", distribution))
    if distribution.dim() != 1:
        raise ValueError(f"distribution must be [C], got {list(distribution.shape)}")
    p = distribution.double()
    total = float(p.sum())
    if (p < 0).any() or not (abs(total - 1) < 1e-4 or total == 0):
        raise ValueError(f"distribution must be non-negative and sum to 1, got a sum of {total:g}")
    return float(torch.special.entr(p).sum())
