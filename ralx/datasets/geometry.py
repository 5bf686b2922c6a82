"""Sizes at a reduced scale: image, region, crop, and the cells that a region's entropies are pooled in."""

import math
from fractions import Fraction

from torch import Tensor

Size = tuple[int, int]

SMALLEST_POOLED_SHARE = Fraction(85, 100)


def size_text(size: Size) -> str:
    return f"{size[0]}x{size[1]} pixels (height x width)"


def size_span(sizes: Tensor) -> str:
    """The size that all of `sizes` [N, 2] are, or the smallest and the largest by area: "48x64 to 96x96"."""
    smallest, largest = (sizes[place].tolist() for place in (sizes.prod(1).argmin(), sizes.prod(1).argmax()))
    texts = dict.fromkeys(f"{height}x{width}" for height, width in (smallest, largest))
    return " to ".join(texts)


def scaled_size(image_size: Size, scale: float) -> Size:
    """An image's (height, width) at `scale`, rounded down. ValueError unless 0 < scale <= 1."""
    if not 0 < scale <= 1:
        raise ValueError(f"scale: expected a number above 0 and at most 1, got {scale}")
    # Through the decimal that was written: floor(100 * 0.29) is 28 in binary floating point.
    factor = Fraction(str(scale))
    height, width = (int(pixels * factor) for pixels in image_size)
    if min(height, width) < 1:
        raise ValueError(f"scale: {scale} leaves nothing of {image_size[0]}x{image_size[1]} pixels")
    return height, width


def choose_cells(region_size: Size, wanted: Size = (8, 8)) -> Size:
    """The largest grid of cells, `wanted` shrunk evenly, that pools 85 % of a region: 22x20 gives 5x5.

    `wanted` itself is returned wherever it pools enough. A region cut at the image's border loses its last
    pixels first, so no smaller share of it is pooled. ValueError for sizes below 1.
    """
    if min(*region_size, *wanted) < 1:
        raise ValueError(f"region_size, wanted: expected sizes of at least 1, got {region_size} and {wanted}")
    most = max(wanted)
    for cells in ((max(1, wanted[0] * n // most), max(1, wanted[1] * n // most)) for n in range(most, 0, -1)):
        # Cells have rh // ch times rw // cw pixels; the remainder is not pooled.
        pooled = [side // count * count for side, count in zip(region_size, cells, strict=True)]
        if Fraction(math.prod(pooled), math.prod(region_size)) >= SMALLEST_POOLED_SHARE:
            return cells
    return 1, 1
