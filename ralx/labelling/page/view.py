"""What the page shows of a region: its surroundings as a picture, and the superpixels to fill by."""

import io
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from ralx.regions.label_map import slic_regions

MARGIN = 256  # pixels around a region
PIXELS_A_SUPERPIXEL = 100  # small enough that few of them hold two classes
MOST_SUPERPIXELS = 5000


class Crop(NamedTuple):
    """Where a region's surroundings lie in its image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def crop_around(box: tuple[int, int, int, int], image_size: tuple[int, int]) -> Crop:
    """The box (top, left, height, width) and MARGIN pixels on each side, as far as the image goes."""
    spans = []
    for start, length, whole in zip(box[:2], box[2:], image_size, strict=True):
        first, end = max(0, start - MARGIN), min(whole, start + length + MARGIN)
        spans.append((first, end - first))
    (top, height), (left, width) = spans
    return Crop(top, left, height, width)


def encode_bmp(pixels: np.ndarray) -> bytes:
    """Exact, and made in no time: it mostly travels to a browser on the same machine, where a PNG would take
    longer to pack than all else that a region needs."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "BMP")
    return file.getvalue()


def superpixels(pixels: np.ndarray) -> np.ndarray | None:
    """uint16 [h, w]: the superpixel of each pixel of a region uint8 [h, w, 3]. None without scikit-image."""
    area = pixels.shape[0] * pixels.shape[1]
    wanted = min(MOST_SUPERPIXELS, max(2, area // PIXELS_A_SUPERPIXEL))
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
    try:
        return slic_regions(image[None], wanted).labels[0].numpy().astype("<u2")
    except ModuleNotFoundError:
        return None
