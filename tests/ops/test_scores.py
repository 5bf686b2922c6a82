"""region_features(scores=…): margin, least confidence and impurity, summed over the regions."""

import math
from typing import get_args

import numpy as np
import plain_loops
import pytest
import tolerances
import torch
from hypothesis import given
from hypothesis import strategies as st
from logit_cases import (
    DTYPES,
    INF,
    ISAS,
    NAN,
    VALUES,
    examples,
    image_sizes,
    instruction_set,
    logits,
    random_logits,
    region_sizes,
    same,
    threads,
    undecided,
)
from torch import Tensor

from ralx.ops import RegionFeatures, region_features
from ralx.ops._reference import upsample_ref
from ralx.ops.region_features import ScoredRegionFeatures
from ralx.ops.scores import Score, Wanted, check_scores, scores_ref

SCORES = get_args(Score)
SUMS = tuple(f"{name}_sum" for name in SCORES)


def pixel_scores(x: Tensor, neighbourhood: int = 3, **arguments) -> dict[str, Tensor]:
    """[N, H, W] by name: each pixel is a region of its own."""
    height, width = arguments.get("size") or x.shape[2:]
    result = region_features(x, (1, 1), cells=(1, 1), scores=SCORES, neighbourhood=neighbourhood, **arguments)
    return {name: getattr(result, f"{name}_sum").view(-1, height, width) for name in SCORES}


def limits(dtype: torch.dtype, classes: int, neighbourhood: int, upsampled: bool) -> dict[str, float]:
    """Probabilities have the accuracy of a pixel's entropy, of which the impurity is at most ln k² times."""
    one = tolerances.of_entropy(dtype, classes, upsampled)
    most = max(1.0, math.log(min(neighbourhood**2, classes)))
    return {"margin": one, "least_confidence": one, "impurity": one * most}


@pytest.mark.parametrize("neighbourhood", [3, 5, 13])
@pytest.mark.parametrize("size", [(1, 1), (4, 9), (2, 70), (11, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_loops_over_the_pixels(isa, size, neighbourhood, dtype) -> None:
    x = random_logits(2, 4, *size).to(dtype)
    expected = plain_loops.maps(x, neighbourhood)
    of_reference = scores_ref(x.double(), Wanted(1, 1, neighbourhood))
    limit = limits(dtype, 4, neighbourhood, False)
    for (name, got), reference in zip(pixel_scores(x, neighbourhood).items(), of_reference, strict=True):
        torch.testing.assert_close(got, expected[name].float(), atol=limit[name], rtol=0)
        torch.testing.assert_close(reference, expected[name], atol=1e-12, rtol=0)


def test_examples_by_hand(isa) -> None:
    # p = (½, ¼, ¼), then (1, 0, 0), then (⅓, ⅓, ⅓), whose class is the lowest.
    x = torch.tensor([[math.log(2), 0, 0], [99, 0, 0], [5, 5, 5.0]]).T.reshape(1, 3, 1, 3)
    scores = pixel_scores(x)
    for name, values in {
        "margin": [0.75, 0, 1],
        "least_confidence": [0.5, 0, 2 / 3],
        "impurity": [0, 0, 0],
    }.items():
        torch.testing.assert_close(scores[name].flatten(), torch.tensor(values).float(), atol=1e-6, rtol=0)
    # Windows of 2, 3 and 2 pixels, cut at the border: classes 0 1 0.
    x = torch.tensor([[9.0, 0], [0, 9.0], [9.0, 0]]).T.reshape(1, 2, 1, 3)
    entropy = region_features(x, (1, 1), cells=(1, 1)).entropy_sum
    of_classes = torch.tensor([math.log(2), math.log(3) - 2 / 3 * math.log(2), math.log(2)])
    torch.testing.assert_close(pixel_scores(x)["impurity"].flatten(), entropy[0] * of_classes)


@st.composite
def cases(draw: st.DrawFn):
    x = draw(logits(values=tuple(v for v in VALUES if v != "large")))
    size = draw(image_sizes(x))
    k = draw(st.sampled_from([3, 5, 9, 31, 255]))
    return x, size, draw(st.booleans()), k, draw(st.sampled_from(ISAS))


@examples(150)
@given(cases())
def test_pixels_equal_plain_torch(case) -> None:
    x, size, align_corners, k, isa = case
    with instruction_set(isa):
        result = pixel_scores(x, k, size=size, align_corners=align_corners)
    full = upsample_ref(x.double(), size, align_corners)
    upsampled = size != tuple(x.shape[2:])
    limit = limits(x.dtype, x.shape[1], k, upsampled)
    near = undecided(x, size, align_corners).double()
    around = torch.nn.functional.max_pool2d(near, k, stride=1, padding=k // 2) > 0
    for name, wanted in zip(SCORES, scores_ref(full, Wanted(1, 1, k)), strict=True):
        got = result[name]
        assert not (got < 0).any()
        # Which class is largest may be a matter of rounding; then the windows around may differ.
        skipped = around if name == "impurity" else torch.zeros_like(around)
        torch.testing.assert_close(
            got[~skipped], wanted.float()[~skipped], atol=limit[name], rtol=0, equal_nan=True
        )


@st.composite
def region_cases(draw: st.DrawFn):
    x = draw(logits())
    size = draw(image_sizes(x))
    asked = draw(st.permutations(SCORES))[: draw(st.integers(1, 3))]
    return (
        x,
        draw(region_sizes(size)),
        {"size": size, "edge": draw(st.sampled_from(["drop", "keep"]))},
        {"scores": asked, "neighbourhood": draw(st.sampled_from([3, 7]))},
        draw(st.sampled_from(ISAS)),
    )


@examples(150)
@given(region_cases())
def test_sums_are_of_the_pixels_and_the_rest_is_the_plain_calls(case) -> None:
    x, region_size, grid, scores, isa = case
    before = x.clone()
    with instruction_set(isa):
        result = region_features(x, region_size, cells=(1, 1), **grid, **scores)
        plain = region_features(x, region_size, cells=(1, 1), **grid)
        pixels = pixel_scores(x, scores["neighbourhood"], size=grid["size"])
        with threads(3):
            again = region_features(x, region_size, cells=(1, 1), **grid, **scores)
    assert same(x, before) and same(result[:5], plain) and same(again, result)
    dropped = grid["edge"] == "drop"
    for name in SCORES:
        got = getattr(result, f"{name}_sum")
        assert (got is None) == (name not in scores["scores"])
        if got is None:
            continue
        maps = pixels[name].double()
        if dropped:
            height, width = (
                part * (whole // part) for part, whole in zip(region_size, grid["size"], strict=True)
            )
            maps = maps[:, :height, :width]
        expected = [[part.sum() for part in plain_loops.ragged_regions(m, region_size)] for m in maps]
        torch.testing.assert_close(
            got, torch.tensor(expected).view(got.shape).float(), atol=1e-6, rtol=1e-6, equal_nan=True
        )


@pytest.mark.parametrize("classes", [11, 19])  # which the CUDA kernels know beforehand
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_entropies_are_those_without_scores_to_the_last_bit(classes: int, dtype: torch.dtype) -> None:
    x = 3 * torch.randn(1, classes, 16, 64, generator=torch.Generator().manual_seed(0))
    plain = region_features(x.to(dtype), (8, 16), cells=(1, 1))
    scored = region_features(x.to(dtype), (8, 16), cells=(1, 1), scores=SCORES)
    assert same(plain, scored[:5])


@examples(60)
@given(region_cases())
def test_sums_over_a_label_map_are_of_the_pixels(case) -> None:
    x, _, grid, scores, isa = case
    size = grid["size"]
    regions = torch.randint(-1, 9, (len(x), *size), generator=torch.Generator().manual_seed(0))
    call = {"regions": regions, "num_regions": 9, "size": size}
    with instruction_set(isa):
        result = region_features(x, None, **call, **scores)
        plain = region_features(x, None, **call)
        pixels = pixel_scores(x, scores["neighbourhood"], size=size)
    assert same(result[:6], plain[:6])
    for name in scores["scores"]:
        got = getattr(result, f"{name}_sum")
        for n in range(len(x)):
            for r in range(9):
                wanted = pixels[name][n][regions[n] == r].double().sum()
                limit = 1e-6 + tolerances.FIXED_POINT * result.pixel_count[n, r]
                torch.testing.assert_close(
                    got[n, r].double(), wanted, atol=limit.item(), rtol=1e-6, equal_nan=True
                )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [1e2, 1e4, 1e6, 1e8, 1e20, 3e38])
def test_large_logits(isa, offset, dtype) -> None:
    # All logits far from 0: p depends on their differences alone.
    x = (random_logits(1, 5, 4, 70) + min(offset, torch.finfo(dtype).max)).to(dtype)
    x = x.nan_to_num(posinf=torch.finfo(dtype).max)
    limit = limits(dtype, 5, 3, False)
    for sign in (1, -1):
        expected = scores_ref((sign * x).double(), Wanted(1, 1, 3))
        for (name, got), wanted in zip(pixel_scores(sign * x).items(), expected, strict=True):
            torch.testing.assert_close(got, wanted.float(), atol=limit[name], rtol=0)


def test_logits_far_from_each_other(isa) -> None:
    # A sure pixel has no score, however large the difference.
    x = torch.zeros(1, 3, 2, 70)
    x[0, 1] = torch.logspace(2, 38.5, 140).view(2, 70).clamp_max(torch.finfo(torch.float32).max)
    for signed in (x, -x.index_select(1, torch.tensor([1, 0, 1]))):
        for scores in pixel_scores(signed).values():
            assert scores.abs().max() <= 1e-6


@pytest.mark.parametrize("payload", [0x7FC00001, 0xFFC00000, 0x7F800001, 0x7FFFFFFF])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_any_nan_stays_nan(isa, payload, position) -> None:
    nan = np.full((1, 1, 2, 70), payload, dtype=np.uint32).view(np.float32)
    x = random_logits(1, 3, 2, 70)
    x[:, position] = torch.from_numpy(nan)[:, 0]
    assert all(scores.isnan().all() for scores in pixel_scores(x).values())


@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_bad_pixel_spoils_its_regions_sums_only(isa, bad) -> None:
    x = random_logits(1, 4, 6, 70)
    x[0, 1, 2, 33] = bad
    x[0, :, 5, 69] = -INF
    result = region_features(x, (3, 35), cells=(1, 1), scores=SCORES)
    for name in SUMS:
        assert getattr(result, name).isnan().tolist() == [[True, False, False, True]]


def test_a_masked_class_is_as_if_it_were_not_there(isa) -> None:
    x = random_logits(1, 6, 8, 70)
    without = pixel_scores(x[:, [0, 1, 3, 4, 5]])
    x[:, 2] = -INF
    for name, scores in pixel_scores(x).items():
        torch.testing.assert_close(scores, without[name], atol=1e-6, rtol=0)
    # A single class left: sure.
    x[:, 1:] = -INF
    for scores in pixel_scores(x).values():
        assert scores.max() <= 1e-6


def test_one_class_has_no_score(isa) -> None:
    for scores in pixel_scores(random_logits(1, 1, 8, 70)).values():
        assert scores.abs().max() <= 1e-6


def test_without_options_five_tensors() -> None:
    x = random_logits(1, 3, 8, 8)
    for scores in ((), []):
        result = region_features(x, (8, 8), scores=scores)
        assert type(result) is RegionFeatures and len(result) == 5
    scored = region_features(x, (8, 8), scores=["margin"])
    assert type(scored) is ScoredRegionFeatures
    assert scored._fields == (*RegionFeatures._fields, "pixel_count", *SUMS)
    assert torch.equal(scored.vector(), result.vector())


def test_scores_in_any_order_and_twice_are_the_same() -> None:
    x = random_logits(1, 3, 8, 8)
    expected = region_features(x, (8, 8), scores=SCORES)
    for asked in (SCORES[::-1], [*SCORES, "margin"]):
        assert same(region_features(x, (8, 8), scores=asked), expected)


X = random_logits(1, 3, 16, 16)
REJECTED = [
    (TypeError, {"scores": "margin"}, r"scores must be a sequence of names, got 'margin'"),
    (TypeError, {"scores": None}, r"scores must be a sequence of names, got None"),
    (TypeError, {"scores": {"margin"}}, r"scores must be a sequence of names, got \{'margin'\}"),
    (ValueError, {"scores": ["bald"]}, r"scores must be among margin, .*, impurity, got 'bald'"),
    (ValueError, {"scores": [None]}, r"scores must be among margin, .*, impurity, got None"),
    (ValueError, {"scores": [np.ones(2)]}, r"scores must be among margin, .*, impurity, got array"),
    (ValueError, {"neighbourhood": 4}, r"neighbourhood must be odd, got 4"),
    (ValueError, {"neighbourhood": 1}, r"neighbourhood must be in 3..255, got 1"),
    (ValueError, {"neighbourhood": 257}, r"neighbourhood must be in 3..255, got 257"),
    (ValueError, {"neighbourhood": -3}, r"neighbourhood must be in 3..255, got -3"),
    (TypeError, {"neighbourhood": 3.0}, r"neighbourhood must be an integer, got 3.0"),
    (TypeError, {"neighbourhood": (3, 3)}, r"neighbourhood must be an integer, got \(3, 3\)"),
    (TypeError, {"neighbourhood": True}, r"neighbourhood must be an integer, got True"),
]


@pytest.mark.parametrize(("error", "changed", "text"), REJECTED, ids=lambda v: str(v)[:40])
def test_bad_input_is_refused(error, changed, text) -> None:
    with pytest.raises(error, match=text):
        region_features(X, (8, 8), **({"scores": ["impurity"]} | changed))
    regions = torch.zeros(1, 16, 16, dtype=torch.uint8)
    with pytest.raises(error, match=text):
        region_features(X, None, regions=regions, num_regions=1, **({"scores": ["impurity"]} | changed))


def test_what_is_asked_for() -> None:
    assert check_scores(["impurity"], np.int64(5)) == (0, 0, 5)
    assert check_scores(["least_confidence"], 5) == (0, 1, 0)
