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
from ralx.support.devices import to_device

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
    for name, size in zip(data.names, sizes.tolist(), strict=True):
        if min(whole - part for whole, part in zip(size, grid.region_size, strict=True)) < 0:
            raise ValueError(
                f"region_size must be at most the size of every image, got {grid.region_size} for {name} of "
                f"{size[0]}x{size[1]} pixels"
            )
    return CanvasGrid(len(sizes), data.image_size, region_size, edge, sizes=sizes)


@dataclass(frozen=True, eq=False)
class CanvasGrid(RegionGrid):
    """The tiles of canvases of `image_size` with images of other sizes at their top left.

    A tile without a pixel of its image stands for no region, and with `edge="drop"` so does one that its
    image doesn't fill. No image is smaller than a region.
    """

    sizes: Tensor = field(kw_only=True)  # int64 [num_images, 2]: height, width

    def sizes_of(self, images: Tensor) -> Tensor:
        return to_device(self.sizes, images.device)[images]

    @property
    def dropped_share(self) -> float:
        held = self.num_pixels(torch.arange(self.num_regions, device="cpu")).sum()
        return 1.0 - int(held) / int(self.sizes.prod(1).sum())

    def boxes(self, regions: Tensor) -> Boxes:
        boxes, (rh, rw) = super().boxes(regions), self.region_size
        height, width = self.sizes_of(boxes.image).unbind(1)
        height, width = (height - boxes.top).clamp(0, rh), (width - boxes.left).clamp(0, rw)
        is_region = (height * width == rh * rw) if self.edge == "drop" else height * width > 0
        top, left, height, width = (part * is_region for part in (boxes.top, boxes.left, height, width))
        return Boxes(boxes.image, top, left, height, width)

    def mask(self, chosen: Tensor, images: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
        height, width = self.sizes_of(images)[..., None].unbind(1)
        inside = (rows < height)[:, :, None] & (cols < width)[:, None]
        return super().mask(chosen, images, rows, cols) & inside

    def cut(self, maps: Tensor, which: Tensor, regions: Tensor, fill: int) -> Tensor:
        tiles, boxes = super().cut(maps, which, regions, fill), self.boxes(regions)
        down, across = (torch.arange(length, device=boxes.top.device) for length in self.region_size)
        beside = (down >= boxes.height[:, None])[:, :, None] | (across >= boxes.width[:, None])[:, None]
        return tiles.masked_fill(to_device(beside, tiles.device), fill)

    def on_canvas(self, rows: Tensor, size: Size) -> Tensor:
        keep, (rh, rw) = self.edge == "keep", self.region_size
        down, across = tiles_along(size[0], rh, keep), tiles_along(size[1], rw, keep)
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
