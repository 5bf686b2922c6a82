"""label_map_features, by its public way region_features(regions=…): regions given as a label map."""

import os
import subprocess
import sys

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
    LABEL_DTYPES,
    MAP_LAYOUTS,
    NAN,
    POOLED,
    VALUES,
    examples,
    image_sizes,
    instruction_set,
    logits,
    map_layout,
    random_logits,
    same,
    threads,
    undecided,
)
from torch import Tensor

from ralx.ops import region_features
from ralx.ops._reference import pool_by_id
from ralx.ops.label_map_features import label_map_features_ref
from ralx.ops.region_features import ScoredRegionFeatures

FIELDS = ("class_hist", *POOLED, "entropy_sum", "pixel_count")


def random_map(*shape: int, regions: int, dtype: torch.dtype = torch.int64, seed: int = 0) -> Tensor:
    """Ids below `regions`, some of them perhaps missing, and negative ones where the type has any."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(regions, shape, generator=generator) if regions else torch.full(shape, -1)
    if dtype != torch.uint8:
        ids[torch.rand(shape, generator=generator) < 0.1] = -1
        ids[torch.rand(shape, generator=generator) < 0.05] = torch.iinfo(dtype).min
    return ids.to(dtype)


def looped(x: Tensor, regions: Tensor, num_regions: int) -> dict[str, Tensor]:
    maps = plain_loops.maps(x)
    rows = {name: [] for name in FIELDS}
    for entropy, label, ids in zip(maps["entropy"], maps["label"], regions, strict=True):
        for r in range(num_regions):
            e = entropy[ids == r]
            rows["class_hist"].append(plain_loops.class_shares(label[ids == r], x.shape[1]))
            for name, value in zip(POOLED, plain_loops.pooled(e), strict=True):
                rows[name].append(value)
            rows["entropy_sum"].append(e.sum().item())
            rows["pixel_count"].append(e.numel())
    tail = {name: (1, 1) for name in POOLED} | {"class_hist": (x.shape[1],)}
    return {
        name: torch.tensor(values, dtype=torch.float64).view(len(x), num_regions, *tail.get(name, ()))
        for name, values in rows.items()
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(5, 7), (3, 70), (65, 2), (1, 1)])
def test_equals_loops_over_the_pixels(isa, size, dtype) -> None:
    x = random_logits(2, 5, *size).to(dtype)
    regions = random_map(2, *size, regions=6)
    result = region_features(x, None, regions=regions, num_regions=8)
    expected = looped(x, regions, 8)
    assert torch.equal(result.class_hist, expected["class_hist"].float())
    assert torch.equal(result.pixel_count, expected["pixel_count"].long())
    limit = tolerances.of_entropy(dtype, 5, False) + tolerances.FIXED_POINT
    for name in POOLED:
        got, wanted = getattr(result, name), expected[name].float()
        torch.testing.assert_close(got, wanted, atol=limit, rtol=0)
    error = (result.entropy_sum - expected["entropy_sum"]).abs()
    assert (error <= result.pixel_count * limit + 1e-7 * expected["entropy_sum"]).all()


@st.composite
def cases(draw: st.DrawFn):
    x = draw(logits(values=tuple(v for v in VALUES if v != "large")))
    size = draw(image_sizes(x))
    dtype, seed = draw(st.sampled_from(LABEL_DTYPES)), draw(st.integers(0, 2**31))
    num_regions = draw(st.sampled_from([0, 1, 2, 40, 255, 3000]))
    ids = min(num_regions, 255) if dtype != torch.uint8 else min(max(num_regions, 1), 255)
    num_regions = max(num_regions, 1) if dtype == torch.uint8 else num_regions
    regions = random_map(len(x), *size, regions=ids, dtype=dtype, seed=seed)
    regions = map_layout(regions, draw(st.sampled_from(MAP_LAYOUTS)))
    return x, regions, num_regions, size, draw(st.booleans()), draw(st.sampled_from(ISAS))


@examples(200)
@given(cases())
def test_equals_plain_torch(case) -> None:
    x, regions, num_regions, size, align_corners, isa = case
    before = x.clone(), regions.clone()
    arguments = {"regions": regions, "num_regions": num_regions, "size": size, "align_corners": align_corners}
    with instruction_set(isa):
        result = region_features(x, None, **arguments)
        with threads(3):
            assert same(region_features(x, None, **arguments), result)
    assert same(x, before[0]) and same(regions, before[1])
    expected = label_map_features_ref(x.double(), regions, num_regions, align_corners)
    assert torch.equal(result.pixel_count, expected[6])
    upsampled = size != tuple(x.shape[2:])
    limit = tolerances.of_entropy(x.dtype, x.shape[1], upsampled) + tolerances.FIXED_POINT
    for name, wanted in zip(POOLED, expected[1:4], strict=True):
        torch.testing.assert_close(getattr(result, name), wanted, atol=limit, rtol=0, equal_nan=True)
    error = (result.entropy_sum - expected[4]).abs()
    assert torch.equal(result.entropy_sum.isnan(), expected[4].isnan())
    assert not (error > result.pixel_count * limit + 2e-7 * expected[4]).any()
    near = undecided(x, size, align_corners).double()
    slack = pool_by_id(near, regions.long(), num_regions).mean.unsqueeze(2)
    slack = slack + 1e-6 * (slack > 0)
    assert ((result.class_hist - expected[0]).abs() <= slack).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "size"),
    # With 11 and 19 classes, of rows that vectors divide, the CUDA kernels take all classes at once.
    [((2, 7, 22, 66), None), ((2, 7, 22, 66), (33, 131)), ((1, 11, 22, 64), None), ((1, 19, 22, 64), None)],
)
def test_a_grid_as_a_label_map_gives_the_grids_features(isa, shape, size, dtype) -> None:
    x = random_logits(*shape).to(dtype)
    height, width = size or shape[2:]
    grid = region_features(x, (11, 33), cells=(1, 1), size=size, edge="keep")
    rows, cols = torch.arange(height) // 11, torch.arange(width) // 33
    regions = (rows[:, None] * -(-width // 33) + cols).expand(len(x), -1, -1)
    result = region_features(x, None, regions=regions, num_regions=grid.entropy_sum.shape[1], size=size)
    for name in ("class_hist", "entropy_min", "entropy_max"):
        assert torch.equal(getattr(result, name), getattr(grid, name))
    for name in ("entropy_avg", "entropy_sum"):
        torch.testing.assert_close(getattr(result, name), getattr(grid, name), atol=1e-6, rtol=2e-7)


@pytest.mark.parametrize("layout", MAP_LAYOUTS)
@pytest.mark.parametrize("dtype", LABEL_DTYPES)
def test_regions_of_every_type_and_layout(dtype, layout) -> None:
    x = random_logits(2, 3, 9, 70)
    regions = map_layout(random_map(2, 9, 70, regions=100, dtype=dtype), layout)
    expected = region_features(x, None, regions=regions.long().contiguous(), num_regions=100)
    assert same(region_features(x, None, regions=regions, num_regions=100), expected)


def test_a_region_without_pixels_is_zeros() -> None:
    regions = torch.tensor([[[-1, 2, 2], [-5, 2, 4]]])
    result = region_features(random_logits(1, 3, 2, 3), None, regions=regions, num_regions=6)
    assert result.pixel_count.tolist() == [[0, 0, 3, 0, 1, 0]]
    for field in result[:5]:
        of_region = field[0].reshape(6, -1).sum(1)
        assert not of_region[[0, 1, 3, 5]].any() and of_region[[2, 4]].min() > 0


@pytest.mark.parametrize("num_regions", [0, 3])
def test_no_pixel_in_any_region(isa, num_regions) -> None:
    regions = torch.full((2, 4, 70), -1, dtype=torch.int16)
    x = torch.full((2, 3, 4, 70), NAN)
    result = region_features(x, None, regions=regions, num_regions=num_regions, scores=["impurity"])
    shapes = {name: (2, num_regions, 1, 1) for name in POOLED} | {"class_hist": (2, num_regions, 3)}
    for name in (*FIELDS, "impurity_sum"):
        field = getattr(result, name)
        assert field.shape == shapes.get(name, (2, num_regions)) and not field.any()
    assert result.vector().shape == (2, num_regions, 6)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_first_id_too_large_in_reading_order_is_named(isa, count) -> None:
    x = random_logits(3, 2, 40, 70)
    regions = random_map(3, 40, 70, regions=9)
    call = {"regions": regions, "num_regions": 9}
    with threads(count):
        for position, value in (((2, 39, 69), 9), ((2, 0, 3), 2**62), ((1, 30, 0), 10), ((1, 3, 69), 77)):
            regions[position] = value
            n, y, x_ = position
            rule = rf"regions must be below num_regions=9, got {value} at \[{n}, {y}, {x_}\]"
            with pytest.raises(ValueError, match=rule):
                region_features(x, None, **call)


@pytest.mark.parametrize("dtype", LABEL_DTYPES)
def test_ids_too_large_of_every_type(dtype) -> None:
    regions = torch.zeros(1, 2, 3, dtype=dtype)
    regions[0, 1, 2] = torch.iinfo(dtype).max
    rule = rf"regions must be below num_regions=1, got {torch.iinfo(dtype).max} at \[0, 1, 2\]"
    with pytest.raises(ValueError, match=rule):
        region_features(random_logits(1, 3, 2, 3), None, regions=regions, num_regions=1)
    with pytest.raises(ValueError, match=r"regions must be below num_regions=0, got 0 at \[0, 0, 0\]"):
        region_features(random_logits(1, 3, 2, 3), None, regions=regions, num_regions=0)


def test_plain_torch_which_serves_cuda_skips_ids_too_large() -> None:
    x, regions = random_logits(2, 3, 9, 70), random_map(2, 9, 70, regions=12)
    skipped = label_map_features_ref(x, regions, 9, scores=(1, 1, 3))
    expected = label_map_features_ref(x, regions.masked_fill(regions >= 9, -1), 9, scores=(1, 1, 3))
    assert regions.max() > 9 and all(torch.equal(a, b) for a, b in zip(skipped, expected, strict=True))


@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_bad_pixel_spoils_its_region_only(isa, bad) -> None:
    x = random_logits(2, 4, 9, 70)
    regions = random_map(2, 9, 70, regions=12)
    call = {"regions": regions, "num_regions": 12, "scores": ["margin", "least_confidence", "impurity"]}
    clean = region_features(x, None, **call)
    regions[1, 4, 33] = 7
    x[1, 2, 4, 33] = bad
    x[0, :, 2, 60] = -INF
    regions[0, 2, 60] = -1  # in no region
    result = region_features(x, None, **call)
    spoilt = torch.zeros(2, 12, dtype=torch.bool)
    spoilt[1, 7] = True
    for name in (*POOLED, "entropy_sum", "margin_sum", "least_confidence_sum", "impurity_sum"):
        assert torch.equal(getattr(result, name).view(2, 12).isnan(), spoilt), name
    assert torch.equal(result.entropy_min[~spoilt][2:], clean.entropy_min[~spoilt][2:])
    assert result.class_hist.isfinite().all()


def test_one_class_has_no_entropy(isa) -> None:
    regions = random_map(1, 9, 70, regions=5)
    result = region_features(torch.full((1, 1, 9, 70), 3e38), None, regions=regions, num_regions=5)
    assert torch.equal(result.class_hist, torch.ones(1, 5, 1))
    assert result.entropy_max.min() >= 0 and result.entropy_max.max() <= tolerances.entropy(1)


@pytest.mark.parametrize("limit", ["OMP_THREAD_LIMIT=1", "OMP_THREAD_LIMIT=2", "OMP_DYNAMIC=true"])
def test_fewer_threads_than_asked_for(limit) -> None:
    code = (
        "import torch, ralx.ops as ops\n"
        "x, regions = torch.randn(2, 9, 80, 70), torch.randint(50, (2, 80, 70))\n"
        "def call(threads):\n"
        "    torch.set_num_threads(threads)\n"
        "    return ops.region_features(x, None, regions=regions, num_regions=50)[:6]\n"
        "print(all(torch.equal(a, b) for a, b in zip(call(4), call(1))))"
    )
    name, _, value = limit.partition("=")
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {name: value},
    )
    assert (result.returncode, result.stdout) == (0, "True\n"), result.stderr


def test_vector_joins_the_first_four_in_their_order() -> None:
    result = region_features(
        random_logits(2, 7, 9, 10), None, regions=random_map(2, 9, 10, regions=4), num_regions=4
    )
    assert isinstance(result, ScoredRegionFeatures) and result[6:] == (None, None, None)
    pooled = [getattr(result, name).flatten(2) for name in POOLED]
    assert torch.equal(result.vector(), torch.cat([result.class_hist, *pooled], 2))


def test_cells_may_be_said_to_be_one_and_num_regions_numpys() -> None:
    x, regions = random_logits(1, 3, 8, 8), random_map(1, 8, 8, regions=3)
    expected = region_features(x, None, regions=regions, num_regions=3)
    assert same(region_features(x, None, cells=[1, 1], regions=regions, num_regions=np.int64(3)), expected)
    assert same(region_features(x, None, cells=[8, 8], regions=regions, num_regions=3), expected)


X, IDS = random_logits(1, 3, 16, 16), torch.zeros(1, 16, 16, dtype=torch.int64)
PAIR = r"must be two integers \(height, width\), each at least 1, got "
REJECTED = [
    (TypeError, {"regions": IDS.numpy()}, r"regions must be a torch.Tensor, got numpy.ndarray"),
    (TypeError, {"regions": [[0]]}, r"regions must be a torch.Tensor, got builtins.list"),
    (TypeError, {"regions": IDS.to_sparse()}, r"regions must be a dense .* got layout torch.sparse_coo"),
    (TypeError, {"regions": IDS.float()}, r"regions must be uint8, .* or int64, got torch.float32"),
    (TypeError, {"regions": IDS.bool()}, r"regions must be uint8, .* or int64, got torch.bool"),
    (TypeError, {"regions": IDS.to(torch.int8)}, r"regions must be uint8, .* or int64, got torch.int8"),
    (TypeError, {"regions": IDS.to(torch.uint16)}, r"regions must be uint8, .* got torch.uint16"),
    (ValueError, {"regions": IDS[0]}, r"regions must be \[N, H, W\], got shape \[16, 16\]"),
    (ValueError, {"regions": IDS[None]}, r"regions must be \[N, H, W\], got shape \[1, 1, 16, 16\]"),
    (ValueError, {"regions": IDS[:, 1:]}, r"regions must have .* \[1, 16, 16\], got \[1, 15, 16\]"),
    (ValueError, {"regions": IDS[:0]}, r"regions must have .* \[1, 16, 16\], got \[0, 16, 16\]"),
    (ValueError, {"size": (8, 16)}, r"regions must have .* \[1, 8, 16\], got \[1, 16, 16\]"),
    (ValueError, {"regions": IDS.to("meta")}, r"logits and regions must be on one device, got cpu and meta"),
    (ValueError, {"region_size": (8, 8)}, r"region_size must be None where regions are given, got \(8, 8\)"),
    (ValueError, {"cells": (4, 4)}, r"cells must be left out where regions are given: .* got \(4, 4\)"),
    (ValueError, {"cells": (1, 8)}, r"cells must be left out where regions are given: .* got \(1, 8\)"),
    (TypeError, {"cells": 8}, rf"cells {PAIR}8"),
    (TypeError, {"cells": None}, rf"cells {PAIR}None"),
    (TypeError, {"cells": (1.0, 1.0)}, rf"cells {PAIR}\(1.0, 1.0\)"),
    (ValueError, {"edge": "keep"}, r"edge must be left out where regions are given, got 'keep'"),
    (ValueError, {"edge": "cut"}, r"edge must be 'drop' or 'keep', got 'cut'"),
    (TypeError, {"num_regions": None}, r"num_regions must be an integer, got None"),
    (TypeError, {"num_regions": 1.0}, r"num_regions must be an integer, got 1.0"),
    (TypeError, {"num_regions": True}, r"num_regions must be an integer, got True"),
    (ValueError, {"num_regions": -1}, r"num_regions must be in 0..2147483647, got -1"),
    (ValueError, {"num_regions": 2**31}, r"num_regions must be in 0..2147483647, got 2147483648"),
    (TypeError, {"align_corners": 0}, r"align_corners must be True or False, got 0"),
    (TypeError, {"logits": X.long()}, r"logits must be float32, .* got torch.int64"),
    (ValueError, {"logits": X[:, :0]}, r"logits must have at least one class, got shape \[1, 0, 16, 16\]"),
    (TypeError, {"regions": None, "num_regions": None}, rf"region_size {PAIR}None"),
    (ValueError, {"regions": None}, r"num_regions must be left out where no regions are given, got 1"),
]


@pytest.mark.parametrize(("error", "changed", "text"), REJECTED, ids=lambda v: str(v)[:40])
def test_bad_input_is_refused(error, changed, text) -> None:
    arguments = {"logits": X, "region_size": None, "regions": IDS, "num_regions": 1} | changed
    with pytest.raises(error, match=text):
        region_features(arguments.pop("logits"), arguments.pop("region_size"), **arguments)
