"""Regions of any shape, given as label maps, and SLIC superpixels as such.

One step of active learning with them, K regions a step from pools of M, images uint8 [N, 3, H, W]::

    superpixels = slic_regions(images, 100)
    pool = RegionPool(superpixels)
    oracle = Oracle(read_labels, superpixels)

    def score(index):  # [n, R]; an image's own superpixels go with it
        logits = segmenter(images[index].float())
        regions, num_regions = superpixels.labels[index], superpixels.regions_per_image
        return region_features(logits, None, regions=regions, num_regions=num_regions, size=size).entropy_sum

    candidates = pool.draw_candidates(K, M, generator)
    scores = gather_regions(score, lambda index: index, superpixels, candidates, batch_size=8)
    chosen = chosen_regions(candidates, pick(scores))
    labels = oracle.label(chosen)
    pool.label(chosen)
    trainable = pool.pixel_mask(torch.arange(len(images)))
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ralx.ops.arguments import check_integer, check_label_map, check_rank, check_tensor
from ralx.regions.grid import Boxes, Regions
from ralx.support.devices import to_device

_SQUARE = 1e5  # a compactness beside which colour counts nothing


class RegionMap(Regions):
    """Regions of any shape: the pixel at [n, y, x] is in region `labels[n, y, x]` of image n.

    Args:
        labels: [N, H, W] uint8, int16, int32 or int64: 0..R-1, negative for no region. Kept, not copied.
        regions_per_image: R. An id that no pixel of an image has is empty there; it holds a flat index, as it
            holds a row of `region_features(..., regions=labels, num_regions=R)`, but is never drawn.

    Raises:
        TypeError, ValueError: naming the argument, the rule and what was given.
    """

    def __init__(self, labels: Tensor, regions_per_image: int) -> None:
        check_label_map("labels", labels)
        self._regions_per_image = check_integer("regions_per_image", regions_per_image)
        if not labels.shape[1] * labels.shape[2]:
            raise ValueError(f"labels must have at least one pixel an image, got {list(labels.shape)}")
        # Compared as a tensor, a uint8 label would meet regions_per_image modulo 256.
        highest = int(labels.max()) if labels.numel() else -1
        if highest >= regions_per_image:
            raise ValueError(f"labels must be below regions_per_image={regions_per_image}, got {highest}")
        self.labels = labels
        self.num_images = len(labels)
        self.image_size = labels.shape[1], labels.shape[2]
        measured = [_measure(label_map, regions_per_image) for label_map in labels.cpu()]
        empty = torch.zeros(5, 0, dtype=torch.int64, device="cpu")
        # Each region's pixels; top, left, height and width of its box.
        self._pixels, *self._edges = torch.cat([empty, *measured], 1)

    @property
    def regions_per_image(self) -> int:
        return self._regions_per_image

    @property
    def box_size(self) -> tuple[int, int]:
        _, _, height, width = self._edges
        return max(height.tolist(), default=0), max(width.tolist(), default=0)

    def boxes(self, regions: Tensor) -> Boxes:
        regions = self.check(regions).cpu()
        return Boxes(regions // self.regions_per_image, *(edge[regions] for edge in self._edges))

    def num_pixels(self, regions: Tensor) -> Tensor:
        return self._pixels[self.check(regions).cpu()]

    def mask(self, chosen: Tensor, images: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
        label = self._at(images, rows, cols)
        region = images[:, None, None] * self.regions_per_image + label.clamp(min=0)
        return chosen[region] & (label >= 0)

    def cut(self, maps: Tensor, which: Tensor, regions: Tensor, fill: int) -> Tensor:
        boxes, (height, width), size = self.boxes(regions), self.image_size, self.box_size
        rows = boxes.top[:, None] + torch.arange(size[0], device="cpu")
        cols = boxes.left[:, None] + torch.arange(size[1], device="cpu")
        inside = (rows < height)[:, :, None] & (cols < width)[:, None]
        rows, cols = rows.clamp(max=height - 1), cols.clamp(max=width - 1)
        inside &= self._at(boxes.image, rows, cols) == (regions % self.regions_per_image)[:, None, None]
        pixel = (which[:, None] * height + rows)[:, :, None] * width + cols[:, None]
        return maps.take(to_device(pixel, maps.device)).masked_fill(~to_device(inside, maps.device), fill)

    def _at(self, images: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
        """The labels of these pixels, int64 [n, h, w], on the device of `rows`."""
        height, width = self.image_size
        pixel = (images[:, None] * height + rows)[:, :, None] * width + cols[:, None]
        return self.labels.take(pixel.to(self.labels.device)).to(rows.device, torch.int64)


def _measure(label_map: Tensor, num_regions: int) -> Tensor:
    """int64 [5, R]: pixels, top, left, height and width of each region of a label map [H, W]; 0 if empty."""
    height, width = label_map.shape
    row, col = torch.arange(height, device="cpu")[:, None], torch.arange(width, device="cpu")
    label = torch.where(label_map < 0, num_regions, label_map.long())
    pixels = label.flatten().bincount(minlength=num_regions + 1)[:num_regions]
    edges = []
    for position, length in (row, height), (col, width):
        hit = torch.zeros(num_regions + 1, length, dtype=torch.uint8, device="cpu")
        hit.view(-1)[label * length + position] = 1
        first, after = hit.argmax(1), length - hit.flip(1).argmax(1)
        edges.append(torch.stack([first, after - first])[:, :num_regions])
    (top, high), (left, wide) = edges
    return torch.stack([pixels, top, left, high, wide]) * (pixels > 0)


def slic_regions(images: Tensor, regions_per_image: int, *, compactness: float = 10.0) -> RegionMap:
    """Connected superpixels of RGB images, the same ones every time.

    SLIC (Achanta et al. 2012) by scikit-image: k-means over colour and position.

    Args:
        images: uint8 [N, 3, H, W].
        regions_per_image: how many are wanted in each image; SLIC gives about as many, or one a pixel where
            there are fewer pixels. The map's `regions_per_image` is that of the image with most.
        compactness: how much position counts against colour: the higher, the squarer. It is raised for an
            image that it would give at most half or at least twice as many regions: the crumbs that SLIC
            makes of noise are merged, in the end into a single region.

    Raises:
        ModuleNotFoundError: scikit-image is missing: `pip install 'ralx[superpixels]'`.
        TypeError, ValueError: naming the argument, the rule and what was given.
    """
    check_rank("images", check_tensor("images", images), "N, 3, H, W")
    if images.dtype != torch.uint8 or images.shape[1] != 3:
        raise ValueError(f"images must be uint8 [N, 3, H, W], got {images.dtype} {list(images.shape)}")
    check_integer("regions_per_image", regions_per_image)
    if not images.shape[2] * images.shape[3]:
        raise ValueError(f"images must have at least one pixel, got {list(images.shape)}")
    if not compactness > 0:
        raise ValueError(f"compactness must be above 0, got {compactness}")
    if math.isinf(compactness):
        raise ValueError(f"compactness must be finite, got {compactness}")
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise ModuleNotFoundError(
            "slic_regions needs scikit-image: pip install 'ralx[superpixels]'"
        ) from error
    labels = np.zeros((len(images), *images.shape[2:]), dtype=np.int32)
    for label_map, image in zip(labels, images.permute(0, 2, 3, 1).cpu().numpy(), strict=True):
        label_map[:] = _superpixels(slic, image, regions_per_image, compactness)
    return RegionMap(torch.from_numpy(labels), int(labels.max(initial=0)) + 1)


def _superpixels(slic: Any, image: np.ndarray, wanted: int, compactness: float) -> np.ndarray:
    """int [H, W], see `slic_regions`."""
    wanted = min(wanted, image.shape[0] * image.shape[1])
    while True:
        labels = slic(image, wanted, compactness, start_label=0, channel_axis=-1)
        if wanted / 2 < labels.max() + 1 < wanted * 2 or compactness > _SQUARE:
            return labels
        compactness *= 4
