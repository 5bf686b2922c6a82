"""Regions, which of them are labelled, and where their labels come from.

A *region* is a fixed tile of one image and the unit that is labelled. Everywhere in ralx a set of regions is
an int64 tensor of flat indices, `image * regions_per_image + row * cols + col`; `RegionGrid` turns them back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_ORACLE_IMAGES = 32  # label maps held at once: K regions may lie in as many images


class Region(NamedTuple):
    """One tile: `row` and `col` count tiles, not pixels, from the top left."""

    image: int
    row: int
    col: int


@dataclass(frozen=True)
class RegionGrid:
    """The tiling of equally large images: from the top left, row-major; a remainder at the bottom or right is
    in no region."""

    num_images: int
    image_size: tuple[int, int]  # H, W
    region_size: tuple[int, int]  # rh, rw

    def __post_init__(self) -> None:
        if not isinstance(self.num_images, int) or self.num_images < 0:
            raise ValueError(f"num_images must be an integer >= 0, got {self.num_images!r}")
        object.__setattr__(self, "image_size", _pair("image_size", self.image_size))
        object.__setattr__(self, "region_size", _pair("region_size", self.region_size))
        if self.region_size[0] > self.image_size[0] or self.region_size[1] > self.image_size[1]:
            raise ValueError(
                f"region_size must fit into image_size {self.image_size}, got {self.region_size}"
            )

    @property
    def rows(self) -> int:
        return self.image_size[0] // self.region_size[0]

    @property
    def cols(self) -> int:
        return self.image_size[1] // self.region_size[1]

    @property
    def regions_per_image(self) -> int:
        return self.rows * self.cols

    @property
    def num_regions(self) -> int:
        return self.num_images * self.regions_per_image

    @property
    def dropped_share(self) -> float:
        """The fraction of an image's pixels that lie in no region and so can never be labelled."""
        (height, width), (rh, rw) = self.image_size, self.region_size
        return 1.0 - (self.rows * rh * self.cols * rw) / (height * width)

    def split(self, regions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Flat indices of any shape → image, row, col, int64 of the same shape. ValueError out of range."""
        regions = self.check(regions)
        tile = regions % self.regions_per_image
        return regions // self.regions_per_image, tile // self.cols, tile % self.cols

    def region(self, index: int) -> Region:
        """The region with this flat index."""
        image, row, col = self.split(torch.tensor(index))
        return Region(int(image), int(row), int(col))

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

    def tiles(self, maps: Tensor) -> Tensor:
        """Maps [n, H, W] → a view [n, rows, rh, cols, rw] without the remainder."""
        if maps.dim() != 3 or tuple(maps.shape[1:]) != self.image_size:
            height, width = self.image_size
            raise ValueError(f"maps must be [n, {height}, {width}], got {list(maps.shape)}")
        (rh, rw), rows, cols = self.region_size, self.rows, self.cols
        return maps[:, : rows * rh, : cols * rw].unflatten(2, (cols, rw)).unflatten(1, (rows, rh))


class RegionPool:
    """Which regions are labelled, and in which order they were.

    `labelled` is a bool mask [num_regions]; `order` the flat indices [L] as they were labelled.
    """

    def __init__(self, grid: RegionGrid) -> None:
        self.grid = grid
        self.labelled = torch.zeros(grid.num_regions, dtype=torch.bool)
        self.order = torch.zeros(0, dtype=torch.int64)

    @property
    def unlabelled(self) -> Tensor:
        """Bool mask [num_regions]."""
        return ~self.labelled

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
            raise ValueError(f"no region is left to draw from: all {self.grid.num_regions} are labelled")
        query_size = min(query_size, len(unlabelled))
        pool_size = min(pool_size, len(unlabelled) // query_size)
        if few_images:
            unlabelled = self._of_few_images(unlabelled, query_size * pool_size, generator)
        shuffled = torch.randperm(len(unlabelled), generator=generator)
        return unlabelled[shuffled[: query_size * pool_size]].view(query_size, pool_size)

    def _of_few_images(self, unlabelled: Tensor, wanted: int, generator: torch.Generator) -> Tensor:
        """Those of `unlabelled` in the first images, in random order, that hold more than `wanted`."""
        order = torch.randperm(self.grid.num_images, generator=generator)
        per_image = self.unlabelled.view(self.grid.num_images, -1).sum(1)
        images = order[: int((per_image[order].cumsum(0) <= wanted).sum()) + 1]
        return unlabelled[torch.isin(unlabelled // self.grid.regions_per_image, images)]

    def label(self, regions: Tensor) -> None:
        """Moves `regions` [K] from unlabelled to labelled. ValueError, with nothing changed, where one is out
        of range, twice in `regions` or labelled already."""
        regions = self.grid.check(regions).flatten().cpu()
        distinct, counts = regions.unique(return_counts=True)
        twice = distinct[counts > 1]
        if len(twice):
            raise ValueError(f"regions must be distinct, got {twice[:5].tolist()} more than once")
        again = regions[self.labelled[regions]]
        if len(again):
            raise ValueError(f"regions must be unlabelled, got {again[:5].tolist()}, labelled already")
        self.labelled[regions] = True
        self.order = torch.cat([self.order, regions])

    def pixel_mask(self, images: Tensor) -> Tensor:
        """Bool [n, H, W]: True inside the labelled regions of these images (indices [n], repeats allowed)."""
        if images.numel() and (images.min() < 0 or images.max() >= self.grid.num_images):
            found = f"{int(images.min())}..{int(images.max())}"
            raise ValueError(f"images must lie in 0..{self.grid.num_images - 1}, got {found}")
        grid = self.grid
        labelled = self.labelled.view(grid.num_images, grid.rows, 1, grid.cols, 1)
        mask = torch.zeros(len(images), *grid.image_size, dtype=torch.bool)
        grid.tiles(mask).copy_(labelled[images.cpu()])
        return mask.to(images.device)

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

    `read_labels` maps image indices int64 [n] to their label maps uint8 [n, H, W].
    """

    def __init__(self, read_labels: Callable[[Tensor], Tensor], grid: RegionGrid) -> None:
        self.read_labels = read_labels
        self.grid = grid

    def label(self, regions: Tensor) -> Tensor:
        """The labels of `regions` [K]: [K, rh, rw], in the same order and of the label maps' dtype."""
        image, row, col = self.grid.split(regions.flatten())
        if not len(image):
            return torch.zeros(0, *self.grid.region_size, dtype=torch.uint8)
        distinct, which = image.unique(return_inverse=True)
        parts, members = [], []
        for first in range(0, len(distinct), _ORACLE_IMAGES):
            labels = self.read_labels(distinct[first : first + _ORACLE_IMAGES])
            member = ((which >= first) & (which < first + _ORACLE_IMAGES)).nonzero().squeeze(1)
            index = [t[member].to(labels.device) for t in (which - first, row, col)]
            parts.append(self.grid.tiles(labels)[index[0], index[1], :, index[2]])
            members.append(member)
        back = torch.cat(members).argsort()
        joined = torch.cat(parts)
        return joined[back.to(joined.device)]


def _pair(name: str, value: object) -> tuple[int, int]:
    """`value` as two integers >= 1."""
    if not isinstance(value, (tuple, list)) or len(value) != 2 or not all(isinstance(v, int) for v in value):
        raise TypeError(f"{name} must be two integers (height, width), got {value!r}")
    if min(value) < 1:
        raise ValueError(f"{name} must be >= 1 in both directions, got {tuple(value)}")
    return value[0], value[1]
