"""region_features against plain torch in float64, and every promise of its contract."""

import math

import numpy as np
import pytest
import tolerances
import torch
from hypothesis import given
from hypothesis import strategies as st
from logit_cases import (
    DTYPES,
    INF,
    ISAS,
    LAYOUTS,
    NAN,
    POOLED,
    VALUES,
    examples,
    image_sizes,
    instruction_set,
    logits,
    random_logits,
    region_sizes,
    same,
    share_of,
    threads,
    undecided,
)
from torch import Tensor

from ralx import _C
from ralx.ops import RegionFeatures, region_features
from ralx.ops._reference import upsample_ref
from ralx.ops.region_features import _call, region_features_ref


def assert_right(x: Tensor, region_size, cells, size, align_corners=False, edge="drop") -> None:
    before = x.clone()
    options = {"cells": cells, "size": size, "align_corners": align_corners, "edge": edge}
    result = region_features(x, region_size, **options)
    assert same(x, before)
    with threads(3):
        assert same(region_features(x, region_size, **options), result)
    keep_edge = edge == "keep"
    *expected, _ = region_features_ref(x.double(), region_size, cells, size, align_corners, keep_edge)
    expected = RegionFeatures(*expected)
    limit = tolerances.of_entropy(x.dtype, x.shape[1], upsampled=size != tuple(x.shape[2:]))
    if keep_edge:  # the reference's sums are integers
        limit += tolerances.FIXED_POINT
    for name in POOLED:
        got, wanted = getattr(result, name), getattr(expected, name)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, wanted, atol=limit, rtol=0, equal_nan=True)
        assert not (got < -1e-6).any()
    area = region_size[0] * region_size[1]
    torch.testing.assert_close(
        result.entropy_sum, expected.entropy_sum, atol=area * limit, rtol=1e-7, equal_nan=True
    )
    slack = share_of(undecided(x, size, align_corners), region_size, keep_edge)
    assert ((result.class_hist - expected.class_hist).abs() <= slack).all()
    torch.testing.assert_close(result.class_hist.sum(2), torch.ones(result.entropy_sum.shape))


@st.composite
def cases(draw: st.DrawFn, resized: bool):
    values = tuple(name for name in VALUES if not (resized and name == "large"))
    x = draw(logits(values=values))
    size = draw(image_sizes(x)) if resized else (x.shape[2], x.shape[3])
    region_size = draw(region_sizes(size))
    cells = draw(region_sizes((min(region_size[0], 8), min(region_size[1], 8))))
    edge = draw(st.sampled_from(["drop", "keep"]))
    return x, region_size, cells, size, draw(st.booleans()), edge, draw(st.sampled_from(ISAS))


@examples(550)
@given(st.booleans().flatmap(lambda resized: cases(resized=resized)))
def test_equals_plain_torch(case) -> None:
    *arguments, isa = case
    with instruction_set(isa):
        assert_right(*arguments)


def test_an_example_by_hand() -> None:
    # Two regions of 2×2 pixels side by side, two classes; p = (½, ½) has entropy ln 2, p = (¼, ¾) 0.5623.
    half, quarter = 0.0, math.log(3.0)
    second = torch.tensor([[half, quarter, quarter, quarter], [half, half, half, -quarter]])
    x = torch.stack([torch.zeros(2, 4), second]).unsqueeze(0)
    low, high = 0.5623351446188083, math.log(2.0)
    result = region_features(x, (2, 2), cells=(2, 1))
    assert result.class_hist.tolist() == [[[0.75, 0.25], [0.5, 0.5]]]
    expected = {
        "entropy_min": [[low, high], [low, low]],
        "entropy_avg": [[(low + high) / 2, high], [low, (low + high) / 2]],
        "entropy_max": [[high, high], [low, high]],
    }
    for name, values in expected.items():
        torch.testing.assert_close(getattr(result, name), torch.tensor(values).view(1, 2, 2, 1))
    torch.testing.assert_close(result.entropy_sum, torch.tensor([[low + 3 * high, 3 * low + high]]))


def test_remainders_belong_to_no_region_and_to_no_cell() -> None:
    x = random_logits(2, 5, 23, 31)
    result = region_features(x, (9, 10), cells=(2, 3))
    assert result.class_hist.shape == (2, 2 * 3, 5)
    assert result.entropy_min.shape == (2, 6, 2, 3)
    # Rows 18.. and columns 30.. of the image lie in no region.
    changed = x.clone()
    changed[:, :, 18:] = NAN
    changed[..., 30:] = NAN
    assert same(region_features(changed, (9, 10), cells=(2, 3)), result)
    # Row 8 and column 9 of each region lie in no cell, but count for entropy_sum.
    changed = x.clone()
    changed[:, :, 8] = NAN
    again = region_features(changed, (9, 10), cells=(2, 3))
    for name in POOLED:
        assert torch.equal(getattr(again, name), getattr(result, name))
    assert again.entropy_sum[:, :3].isnan().all() and torch.equal(
        again.entropy_sum[:, 3:], result.entropy_sum[:, 3:]
    )


def test_regions_are_row_major_from_the_top_left() -> None:
    labels = torch.arange(6).view(2, 3).repeat_interleave(4, 0).repeat_interleave(5, 1)
    x = torch.nn.functional.one_hot(labels).permute(2, 0, 1).unsqueeze(0).float()
    assert torch.equal(region_features(x, (4, 5), cells=(1, 1)).class_hist, torch.eye(6).unsqueeze(0))


@pytest.mark.parametrize(
    ("shape", "scale"), [((1, 11, 90, 160), 3), ((1, 150, 32, 70), 3), ((1, 1000, 9, 64), 1)]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_accuracy(isa, shape, scale, dtype) -> None:
    x = random_logits(*shape, scale=scale).to(dtype)
    region_size = (shape[2], shape[3])
    assert_right(x, region_size, (8, 8), region_size)
    # Every pixel by itself.
    assert_right(x, (1, 1), (1, 1), region_size)


def test_an_even_distribution_has_entropy_ln_c(isa) -> None:
    for classes in (1, 2, 11, 19, 1000):
        result = region_features(torch.full((1, classes, 8, 8), 3e38), (8, 8))
        assert (result.entropy_avg - math.log(classes)).abs().max() <= tolerances.entropy(classes)
        assert result.class_hist[0, 0, 0] == 1


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(24, 32), (11, 16), (6, 8), (5, 3), (1, 1), (7, 1)])
def test_upsampling_is_torchs(size, align_corners) -> None:
    x = random_logits(2, 3, 6, 8).double()
    expected = torch.nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(upsample_ref(x, size, align_corners), expected, atol=1e-12, rtol=0)
    got = region_features(x, (1, 1), cells=(1, 1), size=size, align_corners=align_corners)
    wanted = region_features(expected, (1, 1), cells=(1, 1))
    torch.testing.assert_close(got.entropy_sum, wanted.entropy_sum, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("align_corners", [False, True])
def test_neighbours_of_weight_zero_are_not_read(align_corners, dtype) -> None:
    # Sizes at which some pixels of the image fall on pixels of the source.
    x = random_logits(1, 4, 9, 10).to(dtype)
    size = (25, 28) if align_corners else (27, 30)
    bad = x.clone()
    bad[:, :, 4, 5] = NAN
    result = region_features(bad, (1, 1), cells=(1, 1), size=size, align_corners=align_corners)
    clean = region_features(x, (1, 1), cells=(1, 1), size=size, align_corners=align_corners)
    touched = result.entropy_sum.view(size).isnan()
    # (4, 5) lies at row and column `center`; its neighbours' own pixels are 3 away.
    center = (12, 15) if align_corners else (13, 16)
    expected = torch.zeros(size, dtype=torch.bool)
    expected[center[0] - 2 : center[0] + 3, center[1] - 2 : center[1] + 3] = True
    assert torch.equal(touched, expected)
    assert torch.equal(result.entropy_sum.view(size)[~touched], clean.entropy_sum.view(size)[~touched])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(20, 70), (40, 140), (57, 211)])
def test_a_masked_class_is_as_if_it_were_not_there(isa, size, dtype) -> None:
    x = random_logits(1, 6, 20, 70).to(dtype)
    without = region_features(x[:, [0, 1, 3, 4, 5]], (10, 35), size=size)
    x[:, 2] = -INF
    masked = region_features(x, (10, 35), size=size)
    assert torch.equal(masked.class_hist[..., [0, 1, 3, 4, 5]], without.class_hist)
    assert (masked.class_hist[..., 2] == 0).all()
    for a, b in zip(masked[1:], without[1:], strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_bad_pixel_spoils_its_cell_and_its_regions_sum_only(isa, bad, dtype) -> None:
    x = random_logits(2, 3, 16, 140).to(dtype)
    clean = region_features(x, (8, 70), cells=(2, 5))
    # A NaN or +inf in one class is enough; -inf must be in all.
    x[1, slice(None) if bad == -INF else 1, 3, 80] = bad
    result = region_features(x, (8, 70), cells=(2, 5))
    spoilt = torch.zeros(2, 4, 2, 5, dtype=torch.bool)
    spoilt[1, 1, 0, 0] = True  # row 3 is in the upper cells, column 10 of region 1 in the first
    for name in POOLED:
        got = getattr(result, name)
        assert torch.equal(got.isnan(), spoilt)
        assert torch.equal(got[~spoilt], getattr(clean, name)[~spoilt])
    assert torch.equal(result.entropy_sum.isnan(), spoilt.any(-1).any(-1))
    assert not result.class_hist.isnan().any()


def test_class_hist_counts_the_first_nan_class_and_the_lowest_of_equal_ones(isa) -> None:
    pixels = torch.tensor(
        [
            [0, 1, 2, 3],
            [0, NAN, 5, 9],
            [9, 3, NAN, NAN],
            [INF, 1, 2, NAN],
            [2, 5, 5, 1],
            [-INF, -INF, -INF, -INF],
        ]
    )
    x = pixels.T.reshape(1, 4, 1, 6)
    result = region_features(x, (1, 1), cells=(1, 1))
    assert result.class_hist.argmax(2).tolist() == [[3, 1, 2, 3, 1, 0]]
    assert result.class_hist.argmax(2).tolist() == x.argmax(1).flatten(1).tolist()


@pytest.mark.parametrize("payload", [0x7FC00001, 0xFFC00000, 0x7F800001, 0x7FFFFFFF])
def test_any_nan_stays_nan(isa, payload) -> None:
    x = torch.from_numpy(np.full((1, 3, 2, 70), payload, dtype=np.uint32).view(np.float32))
    assert region_features(x, (2, 70), cells=(1, 7)).entropy_avg.isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(8, 8), (16, 19)])
def test_finite_logits_of_any_size_give_a_finite_entropy(isa, size, dtype) -> None:
    info = torch.finfo(dtype)
    extremes = torch.tensor([info.max, info.min, info.tiny, -info.tiny, 0.0, 88.0, -104.0, 1.0], dtype=dtype)
    which = torch.randint(8, (4, 5, 8, 8), generator=torch.Generator().manual_seed(0))
    result = region_features(extremes[which], (8, 8), cells=(4, 4), size=size)
    for pooled in result[1:]:
        assert pooled.isfinite().all() and (pooled >= -1e-6).all()
        assert (pooled[..., 0] <= 64 * math.log(5) + 1e-4).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_reduced_precision_number_is_read_exactly(isa, dtype) -> None:
    numbers = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(dtype).view(1, 1, 256, 256)
    numbers = torch.cat([numbers, torch.zeros_like(numbers)], 1)
    reduced = region_features(numbers, (1, 1), cells=(1, 1))
    full = region_features(numbers.float(), (1, 1), cells=(1, 1))
    assert same(reduced, full)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "size"), [((2, 19, 21, 64), None), ((2, 7, 21, 32), (40, 100))])
def test_layouts_that_the_cuda_kernels_read_in_different_ways_agree(shape, size, dtype, layout) -> None:
    x = random_logits(*shape).to(dtype)
    expected = region_features(x, (10, 20), size=size)
    result = region_features(LAYOUTS[layout](x), (10, 20), size=size)
    assert torch.equal(result.class_hist, expected.class_hist)
    limit = 2 * tolerances.of_entropy(dtype, shape[1], upsampled=size is not None)
    for name in POOLED:
        torch.testing.assert_close(getattr(result, name), getattr(expected, name), atol=limit, rtol=0)


def test_vector_joins_the_first_four_in_their_order() -> None:
    result = region_features(random_logits(2, 7, 20, 30), (10, 10), cells=(2, 5))
    assert result._fields == ("class_hist", "entropy_min", "entropy_avg", "entropy_max", "entropy_sum")
    vector = result.vector()
    assert vector.shape == (2, 6, 7 + 3 * 10)
    assert torch.equal(vector[..., :7], result.class_hist)
    assert torch.equal(vector[..., 7:17], result.entropy_min.flatten(2))
    assert torch.equal(vector[..., 17:27], result.entropy_avg.flatten(2))
    assert torch.equal(vector[..., 27:], result.entropy_max.flatten(2))


def test_default_is_eight_by_eight_cells() -> None:
    assert region_features(random_logits(1, 3, 20, 30), (20, 15)).entropy_min.shape == (1, 2, 8, 8)


def test_sizes_may_be_lists_and_numpy_integers() -> None:
    x = random_logits(1, 3, 8, 8)
    expected = region_features(x, (4, 8), cells=(2, 2), size=(8, 16)).vector()
    numbers = {"cells": np.array([2, 2]).tolist(), "size": (np.int64(8), np.int32(16))}
    assert torch.equal(region_features(x, [4, 8], **numbers).vector(), expected)


X = random_logits(1, 3, 16, 16)
LARGE = r"must have a product of at most 2147483647, got "
EXCEEDS = r"region_size must not exceed the image, got "
PAIR = r"must be two integers \(height, width\), each at least 1, got "
REJECTED = [
    (TypeError, {"logits": X.numpy()}, r"logits must be a torch.Tensor, got numpy.ndarray"),
    (TypeError, {"logits": [1.0]}, r"logits must be a torch.Tensor, got .*list"),
    (TypeError, {"logits": None}, r"logits must be a torch.Tensor, got .*NoneType"),
    (TypeError, {"logits": X.to_sparse()}, r"logits must be a dense .* got layout torch.sparse_coo"),
    (ValueError, {"logits": X[0]}, r"logits must be \[N, C, h, w\], got shape \[3, 16, 16\]"),
    (ValueError, {"logits": X[None]}, r"logits must be \[N, C, h, w\], got shape \[1, 1, 3, 16, 16\]"),
    (TypeError, {"logits": X.long()}, r"logits must be float32, .* got torch.int64"),
    (TypeError, {"logits": X.bool()}, r"logits must be float32, .* got torch.bool"),
    (TypeError, {"logits": X.to(torch.complex64)}, r"logits must be float32, .* got torch.complex64"),
    (TypeError, {"logits": X.to(torch.float8_e4m3fn)}, r"logits must be float32, .* got torch.float8_e4m3fn"),
    (ValueError, {"logits": X[:, :0]}, r"logits must have at least one class, got shape \[1, 0, 16, 16\]"),
    (ValueError, {"logits": X[..., :0]}, r"logits must have at least one pixel, got shape \[1, 3, 16, 0\]"),
    (TypeError, {"region_size": 8}, rf"region_size {PAIR}8"),
    (TypeError, {"region_size": None}, rf"region_size {PAIR}None"),
    (TypeError, {"region_size": (8.0, 8)}, rf"region_size {PAIR}\(8.0, 8\)"),
    (TypeError, {"region_size": (True, 8)}, rf"region_size {PAIR}\(True, 8\)"),
    (TypeError, {"region_size": "88"}, rf"region_size {PAIR}'88'"),
    (ValueError, {"region_size": (8,)}, rf"region_size {PAIR}\(8,\)"),
    (ValueError, {"region_size": (8, 8, 8)}, rf"region_size {PAIR}\(8, 8, 8\)"),
    (ValueError, {"region_size": (0, 8)}, rf"region_size {PAIR}\(0, 8\)"),
    (ValueError, {"region_size": (8, -1)}, rf"region_size {PAIR}\(8, -1\)"),
    (ValueError, {"region_size": (17, 8)}, rf"{EXCEEDS}\(17, 8\) for an image of \(16, 16\)"),
    (ValueError, {"region_size": (8, 17), "edge": "keep"}, rf"{EXCEEDS}\(8, 17\) .* \(16, 16\)"),
    (ValueError, {"size": (7, 16)}, rf"{EXCEEDS}\(8, 8\) .* \(7, 16\)"),
    (TypeError, {"cells": 4}, rf"cells {PAIR}4"),
    (ValueError, {"cells": (4, 0)}, rf"cells {PAIR}\(4, 0\)"),
    (ValueError, {"cells": (9, 8)}, r"cells must not exceed the region, got \(9, 8\) cells for \(8, 8\)"),
    (ValueError, {"region_size": (8, 7)}, r"cells must not exceed the region, got \(8, 8\) .* \(8, 7\)"),
    (TypeError, {"size": 16}, rf"size {PAIR}16"),
    (TypeError, {"size": (16.0, 16)}, rf"size {PAIR}\(16.0, 16\)"),
    (ValueError, {"size": (16, 0)}, rf"size {PAIR}\(16, 0\)"),
    (TypeError, {"align_corners": 1}, r"align_corners must be True or False, got 1"),
    (ValueError, {"size": (2**31, 2**31)}, rf"size {LARGE}\(2147483648, 2147483648\)"),
    (ValueError, {"size": (2**63, 1)}, rf"size {LARGE}\(9223372036854775808, 1\)"),
    (ValueError, {"size": (np.int32(2**16), np.int32(2**16))}, rf"size {LARGE}.*65536.*65536"),
    (ValueError, {"region_size": (2**70, 8)}, rf"region_size {LARGE}\(1180591620717411303424, 8\)"),
    (ValueError, {"cells": (1, 2**70)}, rf"cells {LARGE}\(1, 1180591620717411303424\)"),
    (TypeError, {"logits": X.to_mkldnn()}, r"logits must be a dense .* got layout torch._mkldnn"),
]


@pytest.mark.parametrize(("error", "changed", "text"), REJECTED, ids=lambda v: str(v)[:40])
def test_bad_input_is_refused(error, changed, text) -> None:
    arguments = {"logits": X, "region_size": (8, 8)} | changed
    with pytest.raises(error, match=text):
        region_features(arguments.pop("logits"), arguments.pop("region_size"), **arguments)


@pytest.mark.parametrize("shape", [(1, 3, 2**16, 2**16), (1, 2**31, 8, 8)])
def test_more_than_32_bits_count_is_refused(shape) -> None:
    with pytest.raises(ValueError, match=r"logits must have at most 2147483647 classes and pixels an image"):
        region_features(torch.zeros(1, 1, 1, 1).expand(shape), (8, 8))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors_are_refused(layout) -> None:
    with pytest.raises(TypeError, match=r"logits must be a dense \(strided\) tensor, got a nested tensor"):
        region_features(torch.nested.nested_tensor([X[0]], layout=layout), (8, 8))


def test_wrong_tensors_do_not_reach_the_kernel() -> None:
    outputs = _call(X, (8, 8), (4, 4), (16, 16), False, False, [0, 0, 0]).outputs

    def call(logits: object, outputs: object) -> None:
        _C.region_features(logits, (8, 8), False, (16, 16), False, [0, 0, 0], outputs, 1)

    call(X, outputs)
    assert torch.equal(outputs[0], region_features(X, (8, 8), cells=(4, 4)).class_hist)
    arrays = [(*outputs[:place], outputs[place].numpy(), *outputs[place + 1 :]) for place in range(6)]
    for wrong in (*arrays, outputs[:5], (*outputs, outputs[0], outputs[0]), list(outputs), outputs[0]):
        with pytest.raises(TypeError, match="incompatible function arguments"):
            call(X, wrong)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        call(X.numpy(), outputs)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("classes", [33, 150, 1000, 20000])
def test_many_equal_classes_lose_no_accuracy(classes, isa) -> None:
    """All classes but one are equal: each adds to a float32 sum that it is ever smaller beside."""
    x = torch.zeros(1, classes, 2, 9)
    x[:, 0] = 1.0
    with instruction_set(isa):
        found = region_features(x, (2, 9), cells=(1, 1)).entropy_avg.item()
    expected = torch.distributions.Categorical(logits=x[0, :, 0, 0].double()).entropy().item()
    assert found == pytest.approx(expected, abs=2e-6 * math.log(classes))
