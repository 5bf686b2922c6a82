"""Scores of a pixel's uncertainty that region_features can sum over the regions beside the entropy."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ralx.ops._reference import entropy_ref
from ralx.ops.arguments import check_integer

Score = Literal["margin", "least_confidence", "impurity"]
SCORES: tuple[Score, ...] = get_args(Score)

# A window larger than this is nearly a whole image, and its counts no longer fit a small table.
_LARGEST_WINDOW = 255


class Wanted(NamedTuple):
    """The scores that were asked for, in the order of SCORES."""

    margin: int
    """1 or 0, as the next."""
    least_confidence: int
    neighbourhood: int
    """k of the k×k window of `impurity`; 0 where it wasn't asked for."""

    @property
    def num_scores(self) -> int:
        return len(self) - self.count(0)


NO_SCORES = Wanted(0, 0, 0)


def check_scores(scores: Any, neighbourhood: Any) -> Wanted:
    if isinstance(scores, str) or not isinstance(scores, Sequence):
        raise TypeError(f"scores must be a sequence of names, got {scores!r}")
    for name in scores:
        if not isinstance(name, str) or name not in SCORES:
            raise ValueError(f"scores must be among {', '.join(SCORES)}, got {name!r}")
    k = check_integer("neighbourhood", neighbourhood, 3, _LARGEST_WINDOW)
    if k % 2 == 0:
        raise ValueError(f"neighbourhood must be odd, got {k}")
    return Wanted(
        int("margin" in scores), int("least_confidence" in scores), k if "impurity" in scores else 0
    )


def unpack(wanted: Wanted, score_sum: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """[S, N, R] of the scores wanted → [N, R] or None for each of SCORES."""
    each = iter(score_sum.unbind(0))
    margin, least_confidence, impurity = (next(each) if asked else None for asked in wanted)
    return margin, least_confidence, impurity


def scores_ref(logits: Tensor, wanted: Wanted) -> list[Tensor]:
    """The maps [N, H, W] of the scores wanted, in plain torch: logits [N, C, H, W]."""
    maps = []
    if wanted.margin or wanted.least_confidence:
        p = F.pad(logits.softmax(1), (0, 0, 0, 0, 0, 1))  # a single class has a second best of probability 0
        best, second = p.topk(2, dim=1).values.unbind(1)
        maps += [1 - (best - second)] * wanted.margin + [1 - best] * wanted.least_confidence
    if wanted.neighbourhood:
        k = wanted.neighbourhood
        classes = F.one_hot(logits.argmax(1), logits.shape[1]).permute(0, 3, 1, 2).to(logits.dtype)
        share = F.avg_pool2d(classes, k, stride=1, padding=k // 2, count_include_pad=False)
        maps.append(torch.special.entr(share).sum(1) * entropy_ref(logits))
    return maps
