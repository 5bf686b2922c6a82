"""Acquisition functions: how much a region is worth labelling. Higher = label first.

An acquisition function maps `(segmenter, images, region_size)` to scores float32 [N, R]. It gets
all of these options and uses those that apply:

- `edge`: "keep" makes ragged regions of a remainder at the right or bottom, which "drop" leaves out;
- `num_mc_samples`: passes with dropout on;
- `generator`: a CPU generator that all randomness comes from (default: torch's own).

`images` are whatever the segmenter takes, [N, ..., H, W]; the logits are upsampled to their size. It may
return them as transformers, torchvision and smp do; one channel is a binary logit, two classes.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ralx.features import Featurizer, predicted_features
from ralx.ops import bald as mutual_information
from ralx.ops.arguments import Edge
from ralx.ops.scores import Score
from ralx.regions import RegionGrid
from ralx.segmentation.inference import mc_logits
from ralx.segmentation.modes import dropout_from

Size = tuple[int, int]
Acquisition = Callable[..., Tensor]  # of the segmenter, the images, the region size, and options by name


def uniform(
    segmenter: nn.Module,
    images: Tensor,
    region_size: Size,
    *,
    edge: Edge = "drop",
    generator: torch.Generator | None = None,
    **unused: Any,
) -> Tensor:
    """Random scores in [0, 1): every region of a pool is as likely as the others. Runs no network."""
    grid = RegionGrid(len(images), (images.shape[-2], images.shape[-1]), region_size, edge)
    scores = torch.rand(len(images), grid.regions_per_image, generator=generator, device="cpu")
    return scores.to(images.device)


def entropy(
    segmenter: nn.Module, images: Tensor, region_size: Size, *, edge: Edge = "drop", **unused: Any
) -> Tensor:
    """Cumulative entropy: the sum of the pixels' Shannon entropy, in nats, segmenter in eval mode."""
    return Featurizer(segmenter, region_size, cells=(1, 1), edge=edge)(images).entropy_sum


def score_sum(score: Score) -> Acquisition:
    """The acquisition function that sums a score of `ralx.region_features` over each region, segmenter in
    eval mode."""

    def acquisition(
        segmenter: nn.Module, images: Tensor, region_size: Size, *, edge: Edge = "drop", **unused: Any
    ) -> Tensor:
        options = {"cells": (1, 1), "align_corners": True, "edge": edge, "scores": [score]}
        return getattr(predicted_features(segmenter, images, region_size, **options), f"{score}_sum")

    return acquisition


def bald(
    segmenter: nn.Module,
    images: Tensor,
    region_size: Size,
    *,
    edge: Edge = "drop",
    num_mc_samples: int = 20,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Cumulative BALD: the sum of the pixels' mutual information, in nats, over passes with dropout on.

    Only what follows the dropout runs again per pass where the network allows it, see `ralx.segmentation`.
    ValueError where the network has no dropout: all passes would be the same and every score 0.
    """
    with nullcontext() if generator is None else dropout_from(generator, images.device):
        # Stacked at the network's own resolution: streamed passes would keep a sum at full resolution.
        passes = torch.stack(list(mc_logits(segmenter, images, num_mc_samples)))
    size = (images.shape[-2], images.shape[-1])
    scores = mutual_information(passes, region_size, size=size, align_corners=True, edge=edge).region_sum
    assert scores is not None  # a region size was given
    return scores


def best(scores: Tensor, count: int) -> Tensor:
    """The places int64 [count] of the highest of `scores` [M], the highest first; of equal ones the first.
    FloatingPointError where a score is NaN, ValueError where there are fewer than `count`."""
    if scores.dim() != 1 or not 1 <= count <= len(scores):
        raise ValueError(f"scores must be [M] with M of at least count={count}, got {list(scores.shape)}")
    if scores.isnan().any():
        raise FloatingPointError(f"scores must not be NaN, got {int(scores.isnan().sum())} of them")
    return scores.sort(descending=True, stable=True).indices[:count]


def pick(scores: Tensor) -> Tensor:
    """One candidate per pool: int64 [K], the place of the highest score in each row of `scores` [K, M]; of
    equal ones the first. FloatingPointError where a score is NaN."""
    if scores.dim() != 2 or not scores.shape[1]:
        raise ValueError(
            f"scores must be [K, M] with at least one candidate per pool, got {list(scores.shape)}"
        )
    wrong = scores.isnan().any(1)
    if wrong.any():
        pools = wrong.nonzero().flatten()[:5].tolist()
        raise FloatingPointError(f"scores must not be NaN, got NaN in pools {pools}")
    return scores.argmax(1)
