"""Images of different sizes in one data set: each lies at the top left of a canvas, which all have alike.

A pool, an oracle and a training work on the canvases; a segmenter that only predicts sees each image at its
own size, in batches of images of one size.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ralx.ops.arguments import Edge, tiles_along
from ralx.regions.grid import Boxes, RegionGrid

Size = tuple[int, int]


def image_sizes(data: Any) -> Tensor:
    """int64 [N, 2], height and width of each image of a data set; one without `sizes` fills its canvases."""
    sizes = getattr(data, "sizes", None)
    return torch.tensor([data.image_size], device="cpu").expand(len(data), 2) if sizes is None else sizes


def num_pixels(data: Any) -> int:
    """The pixels of all images of a data set."""
    return int(image_sizes(data).prod(1).sum())


def grid_over(data: Any, region_size: Size, edge: Edge = "drop") -> RegionGrid:
    """The regions of a data set. ValueError where a region is larger than an image."""
    sizes = image_sizes(data)
    grid = RegionGrid(len(sizes), data.image_size, region_size, edge)
    if (sizes == torch.tensor(data.image_size, device="cpu")).all():
        return grid
    return CanvasGrid(len(sizes), data.image_size, region_size, edge, sizes=sizes)


@dataclass(frozen=True, eq=False)
class CanvasGrid(RegionGrid):
    """The tiles of canvases of `image_size` with images of other sizes at their top left.

    A tile without a pixel of its image stands for no region, and with `edge="drop"` so does one that its
    image doesn't fill. ValueError where a region is larger than an image.
    """

    sizes: Tensor = field(kw_only=True)  # int64 [num_images, 2]: height, width

    def __post_init__(self) -> None:
        super().__post_init__()
        small = (self.sizes < torch.tensor(self.region_size, device="cpu")).any(1)
        if small.any():
            (rh, rw), (height, width) = self.region_size, self.sizes[small][0].tolist()
            raise ValueError(
                f"region_size must be at most the size of every image, got ({rh}, {rw}) for one of "
                f"{height}×{width} pixels"
            )

    def sizes_of(self, images: Tensor) -> Tensor:
        return self.sizes.to(images.device)[images]

    @property
    def dropped_share(self) -> float:
        held = self.num_pixels(torch.arange(self.num_regions, device="cpu")).sum()
        return 1.0 - int(held) / int(self.sizes.prod(1).sum())

    def boxes(self, regions: Tensor) -> Boxes:
        boxes, (rh, rw) = super().boxes(regions), self.region_size
        height, width = self.sizes_of(boxes.image).unbind(1)
        height, width = (height - boxes.top).clamp(0, rh), (width - boxes.left).clamp(0, rw)
        is_region = (height * width == rh * rw) if self.edge == "drop" else height * width > 0
        return boxes._replace(height=height * is_region, width=width * is_region)

    def on_canvas(self, rows: Tensor, size: Size) -> Tensor:
        tiles = (tiles_along(n, r, self.edge == "keep") for n, r in zip(size, self.region_size, strict=True))
        down, across = tiles
        on_canvas = rows.new_zeros(len(rows), self.rows, self.cols, *rows.shape[2:])
        on_canvas[:, :down, :across] = rows.unflatten(1, (down, across))
        return on_canvas.flatten(1, 2)


def images_alone(data: Any) -> Callable[[Tensor], Tensor]:
    """Reads images [n] of a data set that have one size (h, w): uint8 [n, 3, h, w], without their canvas."""
    sizes = image_sizes(data)
    return lambda index: trimmed(data.images(index), sizes[index])


def trimmed(canvases: Tensor, sizes: Tensor) -> Tensor:
    """The images [n, ..., h, w] of canvases [n, ..., H, W]; all of `sizes` [n, 2] are the same (h, w)."""
    if not len(sizes):
        return canvases
    height, width = sizes[0].tolist()
    return canvases[..., :height, :width]
