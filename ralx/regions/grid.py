"""Regions: the fixed tiles of images, the unit that is labelled.

Everywhere in ralx a set of regions is an int64 tensor of flat indices,
image · regions_per_image + row · cols + col; `RegionGrid` turns them back. A pool and an oracle need no more
of a grid than `Regions`, so that other shapes can stand in for tiles, see `ralx.regions.label_map`.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ralx.ops.arguments import (
    Edge,
    check_edge,
    check_integer,
    check_pair,
    check_region_size,
    tiles_along,
)
from ralx.support.devices import to_device


class Region(NamedTuple):
    """One tile: `row` and `col` count tiles, not pixels, from the top left."""

    image: int
    row: int
    col: int


class Boxes(NamedTuple):
    """The smallest box around each region, int64 [K]."""

    image: Tensor
    top: Tensor  # pixels, as the next three
    left: Tensor
    height: Tensor
    width: Tensor


class Regions(ABC):
    """The regions of equally large images, or canvases of images, see `ralx.regions.canvas`: as many flat
    indices in each; a pixel is in one region at most."""

    num_images: int
    image_size: tuple[int, int]  # H, W

    @property
    @abstractmethod
    def regions_per_image(self) -> int: ...

    @property
    @abstractmethod
    def box_size(self) -> tuple[int, int]:
        """(height, width) in pixels that every region fits into."""

    @abstractmethod
    def boxes(self, regions: Tensor) -> Boxes:
        """Where `regions` [K] lie. TypeError, ValueError as from `check`."""

    @abstractmethod
    def num_pixels(self, regions: Tensor) -> Tensor:
        """The pixels of each of `regions` [K], int64 [K]; 0 for an index that stands for no region."""

    @abstractmethod
    def mask(self, chosen: Tensor, images: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
        """Whether each pixel lies in one of the regions `chosen`, a bool mask [num_regions]: bool [n, h, w].

        The pixels are those of image indices [n], rows [n, h] and columns [n, w]; all are on one device.
        """

    @abstractmethod
    def cut(self, maps: Tensor, which: Tensor, regions: Tensor, fill: int) -> Tensor:
        """`regions` [K] out of their images' maps, region k out of `maps[which[k]]`: [K, *box_size].

        maps: integers [n, H, W]. A region's box begins at its top left; what is beside it becomes `fill`.
        """

    @property
    def num_regions(self) -> int:
        """The flat indices, also those that stand for no region."""
        return self.num_images * self.regions_per_image

    def existing(self) -> Tensor:
        """The flat indices that stand for a region, int64 ascending."""
        return self.num_pixels(torch.arange(self.num_regions, device="cpu")).nonzero().squeeze(1)

    def sizes_of(self, images: Tensor) -> Tensor:
        """Height and width of the images with these indices [n], int64 [n, 2]."""
        return torch.tensor([self.image_size], device=images.device).expand(len(images), 2)

    def on_canvas(self, rows: Tensor, size: tuple[int, int]) -> Tensor:
        """Rows [n, R, ...] of images of `size`, one per region of such an image, as one per flat index of an
        image; zeros where that stands for no region."""
        return rows

    def check(self, regions: Tensor) -> Tensor:
        """`regions` as int64; TypeError where it is no integer tensor, ValueError out of range."""
        if not isinstance(regions, Tensor) or regions.is_floating_point() or regions.dtype == torch.bool:
            got = f"{regions.dtype} tensor" if isinstance(regions, Tensor) else type(regions).__name__
            raise TypeError(f"regions must be an integer tensor of flat indices, got {got}")
        regions = regions.long()
        if regions.numel() and (regions.min() < 0 or regions.max() >= self.num_regions):
            found = f"{int(regions.min())}..{int(regions.max())}"
            raise ValueError(f"regions must lie in 0..{self.num_regions - 1}, got {found}")
        return regions


def equal_batches(sizes: Tensor, batch_size: int) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    """Batches of images of one size (h, w), at most `batch_size` in each: their places in `sizes` [n, 2],
    int64 on the CPU, ascending among the images of a size."""
    check_integer("batch_size", batch_size)
    distinct, which = sizes.cpu().unique(dim=0, return_inverse=True)
    for number, (height, width) in enumerate(distinct.tolist()):
        for places in (which == number).nonzero().squeeze(1).split(batch_size):
            yield places, (height, width)


def gather_by_image(
    grid: Regions, regions: Tensor, batch_size: int, compute: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """`compute(images [n], which [k], regions [k])` → [k, ...] of all `regions` [K > 0], in their order.

    `which` is the place of each region's image among `images`: distinct, of one size, ascending, `batch_size`
    at a time.
    """
    images, which = (regions // grid.regions_per_image).unique(return_inverse=True)
    batches = [places for places, _ in equal_batches(grid.sizes_of(images), batch_size)]
    order = torch.cat(batches).to(images.device)
    images, which = images[order], order.argsort()[which]
    # Sorted by image, the regions of one batch of images are one slice.
    by_image = which.argsort(stable=True)
    firsts = list(itertools.accumulate(map(len, batches), initial=0))
    starts = torch.searchsorted(which[by_image], torch.tensor(firsts, device=which.device))
    parts = []
    for batch, (first, last) in enumerate(itertools.pairwise(firsts)):
        members = by_image[starts[batch] : starts[batch + 1]]
        parts.append(compute(images[first:last], which[members] - first, regions[members]))
    joined = torch.cat(parts)
    return joined[to_device(by_image.argsort(), joined.device)]


@dataclass(frozen=True)
class RegionGrid(Regions):
    """The tiling of equally large images: from the top left, row-major. A remainder at the bottom or right is
    in no region, or with `edge="keep"` makes ragged regions: tiles cut at the border."""

    num_images: int
    image_size: tuple[int, int]  # H, W
    region_size: tuple[int, int]  # rh, rw
    edge: Edge = "drop"

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_images", check_integer("num_images", self.num_images, 0))
        object.__setattr__(self, "image_size", check_pair("image_size", self.image_size))
        object.__setattr__(self, "region_size", check_region_size(self.region_size, self.image_size))
        check_edge(self.edge)

    @property
    def rows(self) -> int:
        return tiles_along(self.image_size[0], self.region_size[0], self.edge == "keep")

    @property
    def cols(self) -> int:
        return tiles_along(self.image_size[1], self.region_size[1], self.edge == "keep")

    @property
    def regions_per_image(self) -> int:
        return self.rows * self.cols

    @property
    def box_size(self) -> tuple[int, int]:
        return self.region_size

    @property
    def dropped_share(self) -> float:
        """The fraction of an image's pixels that lie in no region and so can never be labelled."""
        (height, width), (rh, rw) = self.image_size, self.region_size
        return 1.0 - min(self.rows * rh, height) * min(self.cols * rw, width) / (height * width)

    def split(self, regions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Flat indices of any shape → image, row, col, int64 of the same shape. ValueError out of range."""
        regions = self.check(regions)
        tile = regions % self.regions_per_image
        return regions // self.regions_per_image, tile // self.cols, tile % self.cols

    def region(self, index: int) -> Region:
        """The region with this flat index."""
        image, row, col = self.split(torch.tensor(index, device="cpu"))
        return Region(int(image), int(row), int(col))

    def boxes(self, regions: Tensor) -> Boxes:
        image, row, col = self.split(regions)
        (height, width), (rh, rw) = self.image_size, self.region_size
        top, left = row * rh, col * rw
        return Boxes(image, top, left, (height - top).clamp(max=rh), (width - left).clamp(max=rw))

    def num_pixels(self, regions: Tensor) -> Tensor:
        boxes = self.boxes(regions)
        return boxes.height * boxes.width

    def mask(self, chosen: Tensor, images: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
        # One row and column more stand for the remainder that is in no region.
        tiles = pad(chosen.view(self.num_images, self.rows, self.cols)[images], (0, 1, 0, 1))
        row = (rows // self.region_size[0]).clamp(max=self.rows)
        col = (cols // self.region_size[1]).clamp(max=self.cols)
        tile = row[:, :, None] * (self.cols + 1) + col[:, None]
        return tiles.flatten(1).gather(1, tile.flatten(1)).view(tile.shape)

    def cut(self, maps: Tensor, which: Tensor, regions: Tensor, fill: int) -> Tensor:
        boxes, (height, width), (rh, rw) = self.boxes(regions), self.image_size, self.region_size
        below, right = self.rows * rh - height, self.cols * rw - width
        if below > 0 or right > 0:  # the edge is kept
            maps = pad(maps, (0, max(right, 0), 0, max(below, 0)), value=fill)
        index = (to_device(part, maps.device) for part in (which, boxes.top, boxes.left))
        return maps.unfold(1, rh, 1).unfold(2, rw, 1)[tuple(index)]
