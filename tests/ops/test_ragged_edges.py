"""Regions at the right and bottom that the image cuts: edge="keep" of region_features and bald."""

import plain_loops
import pytest
import tolerances
import torch
from hypothesis import given
from hypothesis import strategies as st
from logit_cases import (
    DTYPES,
    ISAS,
    LAYOUTS,
    NAN,
    VALUES,
    examples,
    image_sizes,
    instruction_set,
    logits,
    random_logits,
    region_sizes,
    threads,
    undecided,
)
from torch import Tensor

from ralx.ops import BaldAccumulator, RegionFeatures, bald, region_features
from ralx.ops._reference import pool_by_id, region_ids
from ralx.ops.bald import bald_ref
from ralx.ops.region_features import region_features_ref

POOLED = ("entropy_min", "entropy_avg", "entropy_max")


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


def fuzzed(draw: st.DrawFn, x: Tensor):
    size = draw(image_sizes(x))
    return x, draw(region_sizes(size)), size, draw(st.booleans()), draw(st.sampled_from(ISAS))


@st.composite
def cases(draw: st.DrawFn):
    x, region_size, *rest = fuzzed(draw, draw(logits(values=tuple(v for v in VALUES if v != "large"))))
    return x, region_size, draw(region_sizes((min(region_size[0], 8), min(region_size[1], 8)))), *rest


@examples(150)
@given(cases())
def test_equals_plain_torch(case) -> None:
    x, region_size, cells, size, align_corners, isa = case
    before = x.clone()
    with instruction_set(isa):
        result = region_features(
            x, region_size, cells=cells, size=size, align_corners=align_corners, edge="keep"
        )
    assert torch.equal(x.nan_to_num(0.5), before.nan_to_num(0.5))
    *expected, _ = region_features_ref(x.double(), region_size, cells, size, align_corners, keep_edge=True)
    expected = RegionFeatures(*expected)
    upsampled = size != tuple(x.shape[2:])
    # The reference's sums are integers.
    limit = tolerances.of_entropy(x.dtype, x.shape[1], upsampled) + tolerances.FIXED_POINT
    for name in POOLED:
        got, wanted = getattr(result, name), getattr(expected, name)
        torch.testing.assert_close(got, wanted, atol=limit, rtol=0, equal_nan=True)
    area = region_size[0] * region_size[1]
    torch.testing.assert_close(
        result.entropy_sum, expected.entropy_sum, atol=area * limit, rtol=1e-7, equal_nan=True
    )
    slack = _share(undecided(x, size, align_corners), region_size) if upsampled else 0
    assert ((result.class_hist - expected.class_hist).abs() <= slack).all()
    torch.testing.assert_close(result.class_hist.sum(2), torch.ones(x.shape[0], result.class_hist.shape[1]))


def _share(chosen: Tensor, region_size) -> Tensor:
    """[N, R, 1]: share of the pixels that are chosen, and what rounding adds."""
    ids, _, regions = region_ids(
        *chosen.shape[:1], chosen.shape[1:], region_size, (1, 1), True, chosen.device
    )
    return pool_by_id(chosen.double(), ids, regions).mean.unsqueeze(2) + 1e-6


@pytest.mark.parametrize("size", [None, (48, 140)])
def test_whole_regions_are_those_of_drop(isa, size) -> None:
    x = random_logits(2, 7, 24, 70)
    height, width = size or (24, 70)
    for region_size in ((7, 9), (24, 33), (5, 64)):
        kept = region_features(x, region_size, cells=(2, 3), size=size, edge="keep")
        dropped = region_features(x, region_size, cells=(2, 3), size=size)
        rows, cols = -(-height // region_size[0]), -(-width // region_size[1])
        for a, b in zip(kept, dropped, strict=True):
            whole = a.unflatten(1, (rows, cols))[:, : height // region_size[0], : width // region_size[1]]
            assert torch.equal(whole.flatten(1, 2), b)


def test_without_a_remainder_nothing_changes(isa) -> None:
    x = random_logits(2, 7, 24, 70)
    for a, b in zip(
        region_features(x, (6, 14), cells=(3, 7), edge="keep"),
        region_features(x, (6, 14), cells=(3, 7)),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_a_bad_pixel_at_the_edge_spoils_its_region_only(isa) -> None:
    x = random_logits(1, 4, 11, 70)
    clean = region_features(x, (4, 32), cells=(2, 2), edge="keep")
    x[0, 1, 10, 69] = NAN
    result = region_features(x, (4, 32), cells=(2, 2), edge="keep")
    assert result.entropy_sum.isnan().tolist() == [[False] * 8 + [True]]
    assert result.entropy_avg[0, 8].isnan().tolist() == [[False, False], [True, False]]
    for a, b in zip(result, clean, strict=True):
        assert torch.equal(a[:, :8], b[:, :8])


@pytest.mark.parametrize("size", [(23, 61), (60, 131)])
def test_number_of_threads_changes_nothing(size) -> None:
    x = random_logits(2, 5, 23, 61)
    results = []
    for count in (1, 2, 5, 1):
        with threads(count):
            results.append(region_features(x, (9, 17), cells=(2, 3), size=size, edge="keep"))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_pixel_count_is_of_the_cut_regions() -> None:
    result = region_features(
        random_logits(2, 3, 10, 14), (4, 6), cells=(1, 1), edge="keep", scores=["margin"]
    )
    assert result.pixel_count.tolist() == [[24, 24, 8, 24, 24, 8, 12, 12, 4]] * 2
    assert result.pixel_count.dtype == torch.int64


# ---- bald


@st.composite
def bald_cases(draw: st.DrawFn):
    return fuzzed(draw, draw(logits(passes=True, values=("ordinary", "ties", "masked class", "nan"))))


@examples(100)
@given(bald_cases())
def test_bald_equals_plain_torch(case) -> None:
    x, region_size, size, align_corners, isa = case
    with instruction_set(isa):
        result = bald(x, region_size, size=size, align_corners=align_corners, edge="keep")
        streamed = bald(iter(x), region_size, size=size, align_corners=align_corners, edge="keep")
        dropped = bald(x, region_size, size=size, align_corners=align_corners)
    for a, b in zip(result, streamed, strict=True):
        assert torch.equal(a.nan_to_num(-9), b.nan_to_num(-9))
    assert torch.equal(result.bald_map.nan_to_num(-9), dropped.bald_map.nan_to_num(-9))
    expected = bald_ref(x.double(), region_size, size, align_corners, keep_edge=True)
    assert result.region_sum.shape == expected[1].shape and result.class_hist.shape == expected[2].shape
    # Of the map itself: the accuracy of a pixel is test_bald's.
    sums = [
        [part.sum() for part in plain_loops.ragged_regions(m, region_size)] for m in result.bald_map.double()
    ]
    torch.testing.assert_close(
        result.region_sum,
        torch.tensor(sums).float().view_as(expected[1]),
        atol=1e-5,
        rtol=1e-6,
        equal_nan=True,
    )
    torch.testing.assert_close(result.class_hist.sum(2), torch.ones_like(result.region_sum))


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


def test_bald_by_threads() -> None:
    x = random_logits(3, 2, 5, 23, 61)
    results = []
    for count in (1, 2, 5):
        with threads(count):
            results.append(bald(x, (9, 17), edge="keep"))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


# ---- both


@pytest.mark.parametrize("edge", [None, True, "KEEP", "", ("keep",), torch.ones(2)])
@pytest.mark.parametrize("call", [region_features, bald, BaldAccumulator])
def test_other_edges_are_refused(call, edge) -> None:
    x = random_logits(2, 1, 3, 8, 8)
    arguments = {region_features: (x[0], (8, 8)), bald: (x, (8, 8)), BaldAccumulator: ((8, 8),)}[call]
    with pytest.raises(ValueError, match=r"edge must be 'drop' or 'keep', got "):
        call(*arguments, edge=edge)


@pytest.mark.parametrize("call", [region_features, bald])
def test_a_region_larger_than_the_image_is_refused(call) -> None:
    x = random_logits(1, 3, 8, 8) if call is region_features else random_logits(2, 1, 3, 8, 8)
    with pytest.raises(ValueError, match=r"region_size must not exceed the image, got \(9, 8\) .* \(8, 8\)"):
        call(x, (9, 8), edge="keep")


def test_no_images_give_empty_outputs() -> None:
    result = region_features(torch.empty(0, 7, 20, 30), (8, 8), cells=(2, 4), edge="keep")
    assert [tuple(t.shape) for t in result] == [(0, 12, 7), *[(0, 12, 2, 4)] * 3, (0, 12)]
    assert bald(torch.empty(2, 0, 7, 20, 30), (8, 8), edge="keep").class_hist.shape == (0, 12, 7)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(layout) -> None:
    x = LAYOUTS[layout](random_logits(2, 2, 3, 10, 11))
    ops = torch.ops.ralx
    torch.library.opcheck(
        ops.region_features.default, (x[0], (4, 8), (2, 3), (13, 22), True, True, (0, 0, 0))
    )
    torch.library.opcheck(ops.bald.default, (x, (4, 8), (10, 11), False, True))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_into_one_graph(dynamic) -> None:
    def features(x: Tensor) -> Tensor:
        size = (x.shape[3] * 2, x.shape[4] * 2)
        result = region_features(x[0], (7, 9), cells=(2, 3), size=size, edge="keep")
        return result.vector().sum(1), bald(x, (7, 9), edge="keep").class_hist

    compiled = torch.compile(features, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for shape in ((2, 1, 3, 16, 16), (2, 2, 3, 20, 12)):
        x = random_logits(*shape)
        for a, b in zip(compiled(x), features(x), strict=True):
            assert torch.equal(a, b)
