"""An acquisition function of your own, compared with ralx's:

    PYTHONPATH=examples ralx-train --out runs/own --methods uniform entropy own_method:rare_and_unsure

An acquisition function scores every region of a batch of images: `(segmenter, images, region_size)` → float32
[N, R], higher = label first. Its options are `edge` ("drop" or "keep": what becomes of the pixels that whole
regions leave over), `num_mc_samples`, and `generator`, a torch.Generator for whatever is random.
"""

from typing import Any

from torch import Tensor, nn

from ralx import Featurizer


def rare_and_unsure(
    segmenter: nn.Module, images: Tensor, region_size: tuple[int, int], **options: Any
) -> Tensor:
    """Mean entropy of a region, times 1 minus the share that its most frequent class has in the batch."""
    features = Featurizer(segmenter, region_size, cells=(1, 1), edge=options["edge"])(images)
    share_of_class = features.class_hist.mean((0, 1))  # [C]
    most_frequent = features.class_hist.argmax(-1)  # [N, R]
    return features.entropy_avg[..., 0, 0] * (1 - share_of_class[most_frequent])
