"""An acquisition function of your own, compared with ralx's:

    PYTHONPATH=examples ralx-train --out runs/own --methods uniform entropy own_method:rare_and_unsure

An acquisition function scores every region of a batch of images: `(segmenter, images, region_size)` → float32
[N, R], higher = label first. It gets the options below as keywords and uses those that it needs.
"""

import torch
from torch import Tensor, nn

from ralx import Featurizer


def rare_and_unsure(
    segmenter: nn.Module,
    images: Tensor,
    region_size: tuple[int, int],
    *,
    edge: str = "drop",
    num_mc_samples: int = 20,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mean entropy of a region, times 1 minus the share that its most frequent class has in the batch."""
    features = Featurizer(segmenter, region_size, cells=(1, 1), edge=edge)(images)
    share_of_class = features.class_hist.mean((0, 1))  # [C]
    most_frequent = features.class_hist.argmax(-1)  # [N, R]
    return features.entropy_avg[..., 0, 0] * (1 - share_of_class[most_frequent])
