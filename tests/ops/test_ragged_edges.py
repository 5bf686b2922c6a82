"""Regions at the right and bottom that the image cuts: edge="keep" of region_features and bald."""

import plain_loops
import pytest
import tolerances
import torch
from logit_cases import (
    DTYPES,
    NAN,
    POOLED,
    random_logits,
    same,
)
from torch import Tensor

from ralx.ops import BaldAccumulator, RegionFeatures, bald, region_features
from ralx.ops.bald import bald_ref


def looped(x: Tensor, region_size, cells) -> RegionFeatures:
    maps = plain_loops.maps(x)
    found = {name: [] for name in RegionFeatures._fields}
    for entropy, label in zip(maps["entropy"], maps["label"], strict=True):
        of_image = {name: [] for name in RegionFeatures._fields}
        for e, labels in zip(
            *(plain_loops.ragged_regions(m, region_size) for m in (entropy, label)), strict=True
        ):
            of_image["class_hist"].append(plain_loops.class_shares(labels, x.shape[1]))
            each = [plain_loops.pooled(cell) for cell in plain_loops.ragged_cells(e, region_size, cells)]
            for name, values in zip(POOLED, zip(*each, strict=True), strict=True):
                of_image[name].append(values)
            of_image["entropy_sum"].append(e.sum().item())
        for name in found:
            found[name].append(of_image[name])
    result = RegionFeatures(*(torch.tensor(values, dtype=torch.float64).float() for values in found.values()))
    shape = {name: getattr(result, name).unflatten(2, cells) for name in POOLED}
    return result._replace(**shape)


BY_HAND = [
    ((10, 14), (4, 6), (2, 3)),  # ragged both ways, whole cells of 2×2
    ((7, 9), (5, 7), (2, 2)),  # cells cut, and a remainder inside a region in no cell
    ((9, 40), (8, 33), (8, 8)),  # a last row of regions one pixel high: most cells are empty
    ((5, 5), (4, 4), (4, 4)),  # a region of a single pixel
    ((3, 70), (3, 64), (1, 5)),  # ragged at the right only, across the ends of blocks
    ((65, 3), (64, 3), (5, 1)),
    ((6, 8), (3, 4), (2, 2)),  # nothing is ragged
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("size", "region_size", "cells"), BY_HAND)
def test_equals_loops_over_the_pixels(isa, size, region_size, cells, dtype) -> None:
    x = random_logits(2, 5, *size).to(dtype)
    result = region_features(x, region_size, cells=cells, edge="keep")
    expected = looped(x, region_size, cells)
    assert [t.shape for t in result] == [t.shape for t in expected]
    assert torch.equal(result.class_hist, expected.class_hist)
    limit = tolerances.of_entropy(dtype, 5, False)
    for name in POOLED:
        torch.testing.assert_close(getattr(result, name), getattr(expected, name), atol=limit, rtol=0)
    area = region_size[0] * region_size[1]
    torch.testing.assert_close(result.entropy_sum, expected.entropy_sum, atol=area * limit, rtol=1e-7)


def test_a_cell_outside_of_the_image_is_zero() -> None:
    result = region_features(random_logits(1, 3, 5, 9), (4, 8), cells=(2, 4), edge="keep")
    corner = [getattr(result, name)[0, 3] for name in POOLED]
    # The corner region is one pixel: of its cells of 2×2 only the first has any.
    for cells in corner:
        assert cells[0, 0] == corner[0][0, 0] > 0 and cells.flatten()[1:].tolist() == [0] * 7
    assert result.class_hist[0, 3].sum() == 1


@pytest.mark.parametrize("size", [None, (48, 140)])
def test_whole_regions_are_those_of_drop(isa, size) -> None:
    x = random_logits(2, 7, 24, 70)
    height, width = size or (24, 70)
    for region_size in ((7, 9), (24, 33), (5, 64), (6, 14)):
        kept = region_features(x, region_size, cells=(2, 3), size=size, edge="keep")
        dropped = region_features(x, region_size, cells=(2, 3), size=size)
        rows, cols = -(-height // region_size[0]), -(-width // region_size[1])
        for a, b in zip(kept, dropped, strict=True):
            whole = a.unflatten(1, (rows, cols))[:, : height // region_size[0], : width // region_size[1]]
            assert torch.equal(whole.flatten(1, 2), b)


def test_a_bad_pixel_at_the_edge_spoils_its_region_only(isa) -> None:
    x = random_logits(1, 4, 11, 70)
    clean = region_features(x, (4, 32), cells=(2, 2), edge="keep")
    x[0, 1, 10, 69] = NAN
    result = region_features(x, (4, 32), cells=(2, 2), edge="keep")
    assert result.entropy_sum.isnan().tolist() == [[False] * 8 + [True]]
    assert result.entropy_avg[0, 8].isnan().tolist() == [[False, False], [True, False]]
    assert same([each[:, :8] for each in result], [each[:, :8] for each in clean])


def test_pixel_count_is_of_the_cut_regions() -> None:
    result = region_features(
        random_logits(2, 3, 10, 14), (4, 6), cells=(1, 1), edge="keep", scores=["margin"]
    )
    assert result.pixel_count.tolist() == [[24, 24, 8, 24, 24, 8, 12, 12, 4]] * 2
    assert result.pixel_count.dtype == torch.int64


# ---- bald


def test_bald_counts_the_classes_of_cut_regions(isa) -> None:
    x = random_logits(3, 2, 5, 10, 70)
    result = bald(x, (4, 33), edge="keep")
    labels = x.double().softmax(2).mean(0).argmax(1)
    expected = [
        [plain_loops.class_shares(part, 5) for part in plain_loops.ragged_regions(image, (4, 33))]
        for image in labels
    ]
    assert torch.equal(result.class_hist, torch.tensor(expected, dtype=torch.float64).float())
    assert torch.equal(result.class_hist, bald_ref(x.double(), (4, 33), keep_edge=True)[2])


# ---- both


@pytest.mark.parametrize("edge", [None, True, "KEEP", "", ("keep",), torch.ones(2)])
@pytest.mark.parametrize("call", [region_features, bald, BaldAccumulator])
def test_other_edges_are_refused(call, edge) -> None:
    x = random_logits(2, 1, 3, 8, 8)
    arguments = {region_features: (x[0], (8, 8)), bald: (x, (8, 8)), BaldAccumulator: ((8, 8),)}[call]
    with pytest.raises(ValueError, match=r"edge must be 'drop' or 'keep', got "):
        call(*arguments, edge=edge)
