"""Regions, which of them are labelled, and where their labels come from.

A *region* is a fixed tile of one image and the unit that is labelled. Everywhere in ralx a set of regions is
an int64 tensor of flat indices, `image * regions_per_image + row * cols + col`; `RegionGrid` turns them back.
What a pool and an oracle need of a grid is `Regions`, so that regions of other shapes can stand in for tiles,
see `ralx.superpixels`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ralx.devices import to_device
from ralx.ops.arguments import (
    Edge,
    check_edge,
    check_ignore_index,
    check_integer,
    check_pair,
    check_region_size,
    tiles_along,
)

_ORACLE_IMAGES = 32  # label maps held at once: K regions may lie in as many images


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
    """The regions of equally large images, as many flat indices in each; a pixel is in one region at most."""

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
        return self.num_images * self.regions_per_image

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


class RegionPool:
    """Which regions are labelled, and in which order they were.

    `labelled` is a bool mask [num_regions]; `order` the flat indices [L] as they were labelled. `empty` masks
    the indices without a pixel, which a grid has none of; they are neither drawn nor labelled.
    """

    def __init__(self, grid: Regions) -> None:
        self.grid = grid
        self.empty = grid.num_pixels(torch.arange(grid.num_regions, device="cpu")) == 0
        self.labelled = torch.zeros(grid.num_regions, dtype=torch.bool, device="cpu")
        self.order = torch.zeros(0, dtype=torch.int64, device="cpu")

    @property
    def unlabelled(self) -> Tensor:
        """Bool mask [num_regions]."""
        return ~(self.labelled | self.empty)

    @property
    def num_labelled(self) -> int:
        return len(self.order)

    def draw_candidates(
        self, query_size: int, pool_size: int, generator: torch.Generator, *, few_images: bool = False
    ) -> Tensor:
        """`query_size` disjoint pools of `pool_size` unlabelled regions each, int64 [K, M].

        Every unlabelled region is as likely as every other, as in the paper. With `few_images` they come from
        just so many random images as hold more than that, as in its published code. Where too few are
        left the pools become shorter, M = |U| // K; with fewer regions than pools, there are |U| pools of
        one. ValueError where nothing is unlabelled.
        """
        if query_size < 1 or pool_size < 1:
            raise ValueError(f"query_size and pool_size must be >= 1, got {query_size} and {pool_size}")
        unlabelled = self.unlabelled.nonzero().squeeze(1)
        if not len(unlabelled):
            raise ValueError(f"no region is left to draw from: all {self.num_labelled} are labelled")
        query_size = min(query_size, len(unlabelled))
        pool_size = min(pool_size, len(unlabelled) // query_size)
        if few_images:
            unlabelled = self._of_few_images(unlabelled, query_size * pool_size, generator)
        shuffled = torch.randperm(len(unlabelled), generator=generator, device="cpu")
        return unlabelled[shuffled[: query_size * pool_size]].view(query_size, pool_size)

    def _of_few_images(self, unlabelled: Tensor, wanted: int, generator: torch.Generator) -> Tensor:
        """Those of `unlabelled` in the first images, in random order, that hold more than `wanted`."""
        order = torch.randperm(self.grid.num_images, generator=generator, device="cpu")
        per_image = self.unlabelled.view(self.grid.num_images, -1).sum(1)
        images = order[: int((per_image[order].cumsum(0) <= wanted).sum()) + 1]
        return unlabelled[torch.isin(unlabelled // self.grid.regions_per_image, images)]

    def label(self, regions: Tensor) -> None:
        """Moves `regions` [K] from unlabelled to labelled. ValueError, with nothing changed, where one is out
        of range, twice in `regions`, labelled already or without a pixel."""
        regions = self.grid.check(regions).flatten().cpu()
        distinct, counts = regions.unique(return_counts=True)
        twice = distinct[counts > 1]
        if len(twice):
            raise ValueError(f"regions must be distinct, got {twice[:5].tolist()} more than once")
        again = regions[self.labelled[regions]]
        if len(again):
            raise ValueError(f"regions must be unlabelled, got {again[:5].tolist()}, labelled already")
        empty = regions[self.empty[regions]]
        if len(empty):
            raise ValueError(f"regions must have pixels, got {empty[:5].tolist()}, which have none")
        self.labelled[regions] = True
        self.order = torch.cat([self.order, regions])

    def pixel_mask(self, images: Tensor) -> Tensor:
        """Bool [n, H, W]: True inside the labelled regions of these images (indices [n], repeats allowed)."""
        if images.numel() and (images.min() < 0 or images.max() >= self.grid.num_images):
            found = f"{int(images.min())}..{int(images.max())}"
            raise ValueError(f"images must lie in 0..{self.grid.num_images - 1}, got {found}")
        n, (height, width) = len(images), self.grid.image_size
        rows, cols = (torch.arange(length, device="cpu").expand(n, -1) for length in (height, width))
        return self.grid.mask(self.labelled, images.cpu(), rows, cols).to(images.device)

    def state_dict(self) -> dict[str, Tensor]:
        """{"order": int64 [L]}; the masks follow from it."""
        return {"order": self.order.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Replaces the pool's content. ValueError, nothing changed, where `state` is not of this grid."""
        restored = RegionPool(self.grid)
        restored.label(state["order"])
        self.labelled, self.order = restored.labelled, restored.order


def chosen_regions(candidates: Tensor, chosen: Tensor) -> Tensor:
    """The regions [K] at the places `chosen` [K] of their pools, `candidates` [K, M]."""
    return candidates.gather(1, chosen.to(candidates.device).unsqueeze(1)).squeeze(1)


class Oracle:
    """Gives the labels of regions; knows no data set, only how to read label maps.

    `read_labels` maps image indices int64 [n] to their label maps uint8 [n, H, W], or of another integer type
    that holds `ignore_index`, the label of what a box shows beside its region.
    """

    def __init__(
        self, read_labels: Callable[[Tensor], Tensor], grid: Regions, ignore_index: int = 255
    ) -> None:
        self.read_labels = read_labels
        self.grid = grid
        self.ignore_index = check_ignore_index(ignore_index)

    def label(self, regions: Tensor) -> Tensor:
        """The labels of `regions` [K]: [K, *grid.box_size], in the same order and of the label maps' dtype.

        A region lies at the top left of its box; the box's other pixels have the label `ignore_index`. Where
        K = 0 no label map is read, and the dtype is uint8.
        """
        regions = self.grid.check(regions).flatten().cpu()
        if not len(regions):
            return torch.zeros(0, *self.grid.box_size, dtype=torch.uint8, device="cpu")
        distinct, which = self.grid.boxes(regions).image.unique(return_inverse=True)
        parts, members = [], []
        for first in range(0, len(distinct), _ORACLE_IMAGES):
            labels = self._read(distinct[first : first + _ORACLE_IMAGES])
            member = ((which >= first) & (which < first + _ORACLE_IMAGES)).nonzero().squeeze(1)
            parts.append(self.grid.cut(labels, which[member] - first, regions[member], self.ignore_index))
            members.append(member)
        back = torch.cat(members).argsort()
        joined = torch.cat(parts)
        return joined[to_device(back, joined.device)]

    def _read(self, images: Tensor) -> Tensor:
        labels = self.read_labels(images)
        if tuple(labels.shape) != (len(images), *self.grid.image_size):
            wanted = [len(images), *self.grid.image_size]
            raise ValueError(f"label maps must be {wanted}, got {list(labels.shape)}")
        kind = torch.iinfo(labels.dtype)
        if not kind.min <= self.ignore_index <= kind.max:
            raise ValueError(f"ignore_index must fit into {labels.dtype} labels, got {self.ignore_index}")
        return labels
