"""Which regions are labelled, and where their labels come from."""

from collections.abc import Callable

import torch
from torch import Tensor

from ralx.ops.arguments import check_ignore_index
from ralx.regions.grid import Regions, gather_by_image

_ORACLE_IMAGES = 32  # label maps held at once: K regions may lie in as many images


class RegionPool:
    """Which regions are labelled, and in which order they were.

    `labelled` is a bool mask [num_regions]; `order` the flat indices [L] as they were labelled. `empty` masks
    the indices without a pixel, which a grid has none of; they are neither drawn nor labelled.
    """

    def __init__(self, grid: Regions) -> None:
        self.grid = grid
        self.empty = torch.ones(grid.num_regions, dtype=torch.bool, device="cpu")
        self.empty[grid.existing()] = False
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
        for rule, wrong, found in (
            ("be distinct", distinct[counts > 1], " more than once"),
            ("be unlabelled", regions[self.labelled[regions]], ", labelled already"),
            ("have pixels", regions[self.empty[regions]], ", which have none"),
        ):
            if len(wrong):
                raise ValueError(f"regions must {rule}, got {wrong[:5].tolist()}{found}")
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
        return gather_by_image(self.grid, regions, _ORACLE_IMAGES, self._cut)

    def _cut(self, images: Tensor, which: Tensor, regions: Tensor) -> Tensor:
        labels = self.read_labels(images)
        if tuple(labels.shape) != (len(images), *self.grid.image_size):
            wanted = [len(images), *self.grid.image_size]
            raise ValueError(f"label maps must be {wanted}, got {list(labels.shape)}")
        kind = torch.iinfo(labels.dtype)
        if not kind.min <= self.ignore_index <= kind.max:
            raise ValueError(f"ignore_index must fit into {labels.dtype} labels, got {self.ignore_index}")
        return self.grid.cut(labels, which, regions, self.ignore_index)
