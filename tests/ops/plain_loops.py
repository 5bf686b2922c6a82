"""region_features as loops over the pixels in Python's numbers: short, slow, and owing nothing to ralx."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def softmax(logits: Iterable[float]) -> list[float]:
    logits = list(logits)
    e = [math.exp(x - max(logits)) for x in logits]
    return [x / sum(e) for x in e]


def entropy(p: Iterable[float]) -> float:
    return -sum(x * math.log(x) for x in p if x > 0)


def margin(p: list[float]) -> float:
    best, second, *_ = [*sorted(p, reverse=True), 0.0]
    return 1 - (best - second)


def pixels(x: Tensor) -> list[list[list[list[float]]]]:
    """[N, C, H, W] → the logits of a pixel, by image, row and column."""
    return x.double().permute(0, 2, 3, 1).tolist()


def maps(x: Tensor, neighbourhood: int = 3) -> dict[str, Tensor]:
    """float64 [N, H, W] of finite logits: entropy, label and the three scores."""
    images, _, height, width = x.shape
    logits = pixels(x)
    result = {name: torch.zeros(images, height, width).double() for name in ("entropy", "label", *SCORES)}
    for n, y, x_ in every(images, height, width):
        p = softmax(logits[n][y][x_])
        result["entropy"][n, y, x_] = entropy(p)
        result["label"][n, y, x_] = logits[n][y][x_].index(max(logits[n][y][x_]))
        result["margin"][n, y, x_] = margin(p)
        result["least_confidence"][n, y, x_] = 1 - max(p)
    reach = neighbourhood // 2
    for n, y, x_ in every(images, height, width):
        window = result["label"][
            n, max(0, y - reach) : y + reach + 1, max(0, x_ - reach) : x_ + reach + 1
        ].flatten()
        shares = [(window == label).double().mean().item() for label in window.unique()]
        result["impurity"][n, y, x_] = entropy(shares) * result["entropy"][n, y, x_]
    return result


SCORES = ("margin", "least_confidence", "impurity")


def every(images: int, height: int, width: int) -> Iterable[tuple[int, int, int]]:
    return ((n, y, x) for n in range(images) for y in range(height) for x in range(width))


def class_shares(labels: Tensor, classes: int) -> list[float]:
    """Of the pixels `labels`; zeros where there are none."""
    return [(labels == c).sum().item() / max(labels.numel(), 1) for c in range(classes)]


def pooled(values: Tensor) -> tuple[float, float, float]:
    """Minimum, mean and maximum; zeros where there is nothing."""
    if values.numel() == 0:
        return 0.0, 0.0, 0.0
    return values.min().item(), values.mean().item(), values.max().item()


def ragged_regions(image: Tensor, region_size: tuple[int, int]) -> list[Tensor]:
    """The regions of a map [H, W], those at the right and bottom cut."""
    rh, rw = region_size
    return [
        image[y : y + rh, x : x + rw]
        for y in range(0, image.shape[0], rh)
        for x in range(0, image.shape[1], rw)
    ]


def ragged_cells(region: Tensor, region_size: tuple[int, int], cells: tuple[int, int]) -> list[Tensor]:
    """The cells of a region, which may be cut or lie wholly outside of the image."""
    height, width = region_size[0] // cells[0], region_size[1] // cells[1]
    return [
        region[i * height : (i + 1) * height, j * width : (j + 1) * width]
        for i in range(cells[0])
        for j in range(cells[1])
    ]
