"""A pixel's numbers depend on its own logits alone: not on where it lies nor on what lies beside it."""

import pytest
import torch
from logit_cases import DTYPES, INF, NAN, VALUES, random_logits
from torch import Tensor

from ralx.ops import bald, region_features

WIDTH = 140


def entropy_and_label(x: Tensor) -> list[Tensor]:
    result = region_features(x, (1, 1), cells=(1, 1))
    return [result.entropy_sum, result.class_hist.argmax(2)]


def scores(x: Tensor) -> list[Tensor]:
    result = region_features(x, (1, 1), cells=(1, 1), scores=["margin", "least_confidence"])
    return [result.entropy_sum, result.class_hist.argmax(2), result.margin_sum, result.least_confidence_sum]


def label_map(x: Tensor) -> list[Tensor]:
    pixels = x.shape[2] * x.shape[3]
    regions = torch.arange(pixels).view(1, *x.shape[2:]).expand(len(x), -1, -1)
    result = region_features(x, None, regions=regions, num_regions=pixels, scores=["margin"])
    return [result.entropy_sum, result.class_hist.argmax(2), result.margin_sum]


def mutual_information(x: Tensor) -> list[Tensor]:
    result = bald(torch.stack([x, x.flip(1), x * 0.5]), (1, 1))
    return [result.bald_map.flatten(1), result.class_hist.argmax(2)]


def mixed(*shape: int, dtype: torch.dtype) -> Tensor:
    """Every sort of pixel beside every other: ordinary, masked, huge, infinite, NaN."""
    x = random_logits(*shape)
    pixels = torch.rand(shape[0], 1, *shape[2:], generator=torch.Generator().manual_seed(1)) < 0.3
    for name in ("masked pixels", "nan", "inf"):
        x = VALUES[name](x, pixels)
    far = torch.rand(shape[0], 1, *shape[2:], generator=torch.Generator().manual_seed(2))
    return torch.where(far < 0.1, x * 1e8, torch.where(far < 0.2, x * 1e37, x)).to(dtype)


def equal(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.nan_to_num(-9), b.nan_to_num(-9))


CALLS = pytest.mark.parametrize("call", [entropy_and_label, scores, label_map, mutual_information])


@CALLS
@pytest.mark.parametrize("dtype", DTYPES)
def test_where_in_a_row_does_not_matter(isa, call, dtype) -> None:
    x = mixed(1, 5, 1, WIDTH, dtype=dtype)
    whole = call(x)
    for width in (*range(1, 71), 127, 128, 129):
        for first in {0, 1, 13, WIDTH - width} - set(range(WIDTH - width + 1, WIDTH)):
            part = call(x[..., first : first + width].contiguous())
            assert all(equal(a, b[:, first : first + width]) for a, b in zip(part, whole, strict=True)), (
                first,
                width,
            )


@CALLS
@pytest.mark.parametrize("dtype", DTYPES)
def test_neighbours_do_not_matter(isa, call, dtype) -> None:
    x = random_logits(1, 5, 2, 70).to(dtype)
    alone = call(x)
    extremes = torch.tensor([NAN, INF, -INF, torch.finfo(dtype).max, torch.finfo(dtype).min], dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        replaced = torch.rand(1, 1, 2, 70, generator=generator) < 0.2
        other = extremes[torch.randint(5, x.shape, generator=generator)]
        result = call(torch.where(replaced, other, x))
        kept = ~replaced.flatten(1)[0]
        assert all(equal(a[:, kept], b[:, kept]) for a, b in zip(result, alone, strict=True))


@CALLS
def test_rows_and_images_do_not_matter(isa, call) -> None:
    x = mixed(3, 5, 4, 70, dtype=torch.float32)
    whole = call(x)
    for n in range(3):
        for y in range(4):
            row = call(x[n : n + 1, :, y : y + 1])
            for a, b in zip(row, whole, strict=True):
                assert equal(a[0], b[n, y * 70 : (y + 1) * 70])


def test_upsampled_rows_do_not_depend_on_the_regions(isa) -> None:
    # Whatever the strips in which the rows are made.
    x = mixed(1, 5, 7, 40, dtype=torch.float32)
    size = (30, 99)
    pixels = region_features(x, (1, 1), cells=(1, 1), size=size).entropy_sum.view(size)
    for region_size in ((30, 99), (10, 33), (1, 99), (30, 1)):
        cells = region_features(x, region_size, cells=region_size, size=size).entropy_avg
        rows, cols = size[0] // region_size[0], size[1] // region_size[1]
        tiled = cells.view(rows, cols, *region_size).transpose(1, 2).reshape(size)
        assert equal(tiled, pixels)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [24, 33, 69, 75])
def test_upsampled_columns_of_a_repeating_image_repeat(isa, width, dtype) -> None:
    # Three columns again and again, between the first and the last: six at twice the size, wherever they lie.
    x = random_logits(1, 5, 4, 3).repeat(1, 1, 1, width // 3).to(dtype)
    for factor in (2, 4, 20):
        size = (7, width * factor)
        entropy = region_features(x, (1, 1), cells=(1, 1), size=size).entropy_sum.view(size)
        inside = entropy[:, 3 * factor : -3 * factor].unflatten(1, (-1, 3 * factor))
        assert equal(inside, inside[:, :1].expand_as(inside))
