"""Random crops and flips, drawn for a whole pass at once and cut out of a batch on its device, without a loop
over samples.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ralx.regions import Regions
from ralx.support.devices import to_device


class Crops(NamedTuple):
    """One crop per sample, all int64 [n] but `flip`."""

    image: Tensor  # index into the dataset
    top: Tensor
    left: Tensor
    flip: Tensor  # bool [n]: left and right are exchanged

    def to(self, device: torch.device) -> "Crops":
        return Crops(*(to_device(field, device) for field in self))

    def batch(self, first: int, last: int) -> "Crops":
        return Crops(*(field[first:last] for field in self))


def crops_anywhere(
    images: Tensor, sizes: Tensor, crop_size: tuple[int, int], generator: torch.Generator
) -> Crops:
    """One crop per image, uniform over all positions inside it; one that is larger begins at the image's top
    or left. images: int64 [n], sizes: their heights and widths, int64 [n, 2].
    """
    top, left = (
        _uniform(torch.zeros_like(images), (whole - crop).clamp(min=0), generator)
        for whole, crop in zip(sizes.unbind(1), crop_size, strict=True)
    )
    return Crops(images, top, left, _coins(len(images), generator))


def crops_around(
    regions: Tensor, grid: Regions, crop_size: tuple[int, int], generator: torch.Generator
) -> Crops:
    """One crop per region, uniform over the positions inside the image that hold the centre of the region's
    box, as the paper's authors draw them; one that is larger than the image begins at its top or left.
    regions: int64 [n], flat region indices.
    """
    boxes = grid.boxes(regions)
    centres = boxes.top + boxes.height // 2, boxes.left + boxes.width // 2
    wholes = grid.sizes_of(boxes.image).unbind(1)
    top, left = (
        _uniform(
            (centre - crop + 1).clamp(min=0), torch.minimum(centre, (whole - crop).clamp(min=0)), generator
        )
        for centre, crop, whole in zip(centres, crop_size, wholes, strict=True)
    )
    return Crops(boxes.image, top, left, _coins(len(regions), generator))


def _uniform(low: Tensor, high: Tensor, generator: torch.Generator) -> Tensor:
    """int64, uniform in low..high, both included."""
    u = torch.rand(len(low), generator=generator, dtype=torch.float64, device="cpu")
    return low + (u * (high - low + 1)).long()


def _coins(n: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator, device="cpu") < 0.5


def positions(crops: Crops, crop_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The image rows [n, h] and columns [n, w] that the crops show, int64; flipped crops have their columns
    from right to left.
    """
    device = crops.top.device
    across = torch.arange(crop_size[1], device=device)
    across = torch.where(crops.flip[:, None], across.flip(0), across)
    return crops.top[:, None] + torch.arange(crop_size[0], device=device), crops.left[:, None] + across


def cut(maps: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """[n, ..., H, W] -> [n, ..., h, w]: sample i at its own rows [n, h] and columns [n, w]."""
    n, *between, height, width = maps.shape
    # One gather over flat pixels: five times faster on the CPU than indexing with two index tensors.
    flat = rows[:, :, None] * width + cols[:, None, :]
    index = flat.reshape(n, *(1 for _ in between), -1).expand(n, *between, -1)
    return maps.reshape(n, *between, height * width).gather(-1, index).unflatten(-1, flat.shape[1:])
