"""State and action features of the paper, from any segmenter.

State, per region: the class distribution of the predictions and the entropy map pooled three ways. Action,
per candidate: the same, then how its class distribution differs from the labelled regions' and from the other
candidates' (section 3.2 of "Reinforced Active Learning for Image Segmentation", ICLR 2020).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ralx.ops import RegionFeatures, kl_histogram, region_features
from ralx.ops.arguments import (
    Edge,
    check_cells,
    check_edge,
    check_flag,
    check_floating,
    check_integer,
    check_pair,
    check_range,
    check_region_size,
    check_same_device,
    check_tensor,
)
from ralx.ops.region_features import pixel_count
from ralx.regions import Regions
from ralx.regions.grid import gather_by_image
from ralx.segmentation.modes import evaluating
from ralx.segmentation.outputs import logits_of
from ralx.support.devices import to_device

# The largest KL divergence of two rows smoothed by 1e-7 is just below ln(1e7) = 16.12 nats.
KL_RANGE = (0.0, 16.2)

# Added to every class before a KL divergence is taken; what the published code counts for an absent class.
SMOOTHING = 1e-7


class Featurizer(nn.Module):
    """Region features of whatever `segmenter` predicts.

    Args:
        segmenter: any module that maps images to logits [N, C, h, w]; h×w may be smaller than the images, the
            logits are upsampled inside the pass. It may return them as transformers, torchvision and smp do,
            see `ralx.segmentation.logits_of`; one channel is a binary logit, two classes.
        region_size: (rh, rw) in pixels of the images.
        cells: (ch, cw), the size of the pooled entropy maps.
        kl_bins: bins of each of the two KL histograms.
        kl_range: what the bins span, in nats; None spans each candidate's own min..max, as published.
        counts: give the class distributions as pixel counts, 1e-7 for an absent class, as published.
        align_corners: of the upsampling, as in `torch.nn.functional.interpolate`.
        edge: a remainder at the right or bottom is in no region ("drop"), or makes ragged ones ("keep"), see
            `ralx.region_features`.

    No gradient flows, and the segmenter runs in eval mode, or, frozen or exported, in the mode that it has;
    the mode of each of its modules is restored after.

    Raises:
        TypeError, ValueError: naming the argument, the rule and what was given, here and in every method.
    """

    def __init__(
        self,
        segmenter: nn.Module,
        region_size: tuple[int, int],
        *,
        cells: tuple[int, int] = (8, 8),
        kl_bins: int = 32,
        kl_range: tuple[float, float] | None = KL_RANGE,
        counts: bool = False,
        align_corners: bool = True,
        edge: Edge = "drop",
    ) -> None:
        super().__init__()
        if not isinstance(segmenter, nn.Module):
            raise TypeError(f"segmenter must be a torch.nn.Module, got {type(segmenter).__name__}")
        self.segmenter = segmenter
        self.region_size = check_pair("region_size", region_size)
        self.cells = check_cells(cells, self.region_size)
        self.kl_bins = check_integer("kl_bins", kl_bins)
        self.kl_range = check_range("kl_range", kl_range)
        self.counts = check_flag("counts", counts)
        self.align_corners = check_flag("align_corners", align_corners)
        check_edge(edge)
        self.edge = edge

    def forward(self, images: Tensor) -> RegionFeatures:
        """Images [N, ..., H, W], as the segmenter takes them → the features of every region, see
        `ralx.region_features`."""
        if check_tensor("images", images).dim() < 3:
            raise ValueError(f"images must be [N, ..., H, W], got shape {list(images.shape)}")
        size = images.shape[-2], images.shape[-1]
        check_region_size(self.region_size, size)
        options = {"cells": self.cells, "align_corners": self.align_corners, "edge": self.edge}
        return predicted_features(self.segmenter, images, self.region_size, **options)

    def regions(self, images: Tensor) -> Tensor:
        """float32 [N, R, C + 3·ch·cw]: class distribution; min, average, max entropy, cells row-major."""
        features = self(images)
        if self.counts:
            size = images.shape[-2], images.shape[-1]
            pixels = pixel_count(self.region_size, size, self.edge == "keep", features.class_hist.device)
            counts = (features.class_hist * pixels[:, None]).clamp(min=SMOOTHING)
            features = features._replace(class_hist=counts)
        return features.vector()

    def state(self, images: Tensor) -> Tensor:
        """The state s_t, float32 [N·R, C + 3·ch·cw]: `regions` of the state set, image after image."""
        return self.regions(images).flatten(0, 1)

    def action(self, regions: Tensor, labelled: Tensor) -> Tensor:
        """The actions' features, float32 [K, M, Ds + 2·kl_bins].

        Args:
            regions: [K, M, Ds], the candidates' rows of `regions()`.
            labelled: [L, C], the class distributions of the labelled regions' ground truth, see
                `ralx.metrics.class_distribution`; on the same device as `regions`.

        Each row gets the normalised histogram of the KL divergences from its predicted distribution to each
        labelled one (zeros while nothing is labelled), then of those to the predictions of all K·M
        candidates, itself included: they stand for the unlabelled regions.
        """
        for name, value in (("regions", regions), ("labelled", labelled)):
            check_floating(name, check_tensor(name, value))
        check_same_device("regions", regions, "labelled", labelled)
        entropies = self._num_entropies
        if regions.dim() != 3 or regions.shape[2] <= entropies:
            raise ValueError(
                f"regions must be [K, M, C + {entropies}] with at least one class, got {list(regions.shape)}"
            )
        num_classes = regions.shape[2] - entropies
        if labelled.dim() != 2 or labelled.shape[1] != num_classes:
            raise ValueError(f"labelled must be [L, {num_classes}], got {list(labelled.shape)}")
        predicted = regions[..., :num_classes]
        to_labelled = kl_histogram(predicted, labelled, bins=self.kl_bins, range=self.kl_range, eps=SMOOTHING)
        # Counts are positive already; against them, another 1e-7 would double what an absent class has.
        smoothing = 0.0 if self.counts else SMOOTHING
        to_unlabelled = kl_histogram(
            predicted, predicted.flatten(0, 1), bins=self.kl_bins, range=self.kl_range, eps=smoothing
        )
        return torch.cat([regions, to_labelled, to_unlabelled], dim=-1)

    def state_dim(self, num_classes: int) -> int:
        """Ds, the numbers per region of `state` and `regions`."""
        return check_integer("num_classes", num_classes) + self._num_entropies

    def action_dim(self, num_classes: int) -> int:
        """Da, the numbers per candidate of `action`; the KL histograms are the last 2·kl_bins of them."""
        return self.state_dim(num_classes) + 2 * self.kl_bins

    @property
    def _num_entropies(self) -> int:
        return 3 * self.cells[0] * self.cells[1]


def predicted_features(
    segmenter: nn.Module, images: Tensor, region_size: tuple[int, int], **options: Any
) -> Any:
    """`ralx.region_features` of what `segmenter` predicts in eval mode, upsampled to the size of `images`."""
    with evaluating(segmenter):
        logits = logits_of(segmenter(images), segmenter)
        return region_features(logits, region_size, size=(images.shape[-2], images.shape[-1]), **options)


def gather_regions(
    compute: Callable[[Tensor], Tensor],
    read_images: Callable[[Tensor], Tensor],
    grid: Regions,
    candidates: Tensor,
    batch_size: int,
) -> Tensor:
    """What `compute` says of each candidate: [K, M, ...] for `candidates` int64 [K, M].

    `compute` maps images to one row per region, [n, R, ...]; `read_images` maps the indices int64 [n] of
    images of one size to what `compute` takes. Each distinct image that holds a candidate is read and
    computed once, size after size and in ascending order, `batch_size` at a time.
    """
    check_integer("batch_size", batch_size)
    if check_tensor("candidates", candidates).dim() != 2 or not candidates.numel():
        raise ValueError(f"candidates must be [K, M] and not empty, got {list(candidates.shape)}")

    def rows_of(images: Tensor, which: Tensor, regions: Tensor) -> Tensor:
        height, width = grid.sizes_of(images)[0].tolist()
        rows = grid.on_canvas(compute(read_images(images)), (height, width))
        if rows.shape[:2] != (len(images), grid.regions_per_image):
            wanted = [len(images), grid.regions_per_image]
            raise ValueError(f"compute must give {wanted} rows (images, regions), got {list(rows.shape[:2])}")
        index = which, regions % grid.regions_per_image
        return rows[tuple(to_device(part, rows.device) for part in index)]

    flat = grid.check(candidates).flatten()
    return gather_by_image(grid, flat, batch_size, rows_of).unflatten(0, tuple(candidates.shape))
