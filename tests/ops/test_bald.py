"""bald and BaldAccumulator against plain torch in float64, and every promise of their contract."""

import importlib
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
    NAN,
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
)
from torch import Tensor

from ralx.ops import BaldAccumulator, BaldScores, bald
from ralx.ops._reference import pool_by_id, region_ids, upsample_ref
from ralx.ops.bald import _update_ref, bald_ref

bald_module = importlib.import_module("ralx.ops.bald")  # ralx.ops.bald is the function


def undecided_share(x: Tensor, size, align_corners: bool, region_size, keep_edge: bool) -> Tensor:
    """[N, R, 1]: share of pixels whose two largest mean probabilities rounding may swap."""
    mean_p = upsample_ref(x.double(), size, align_corners).softmax(2).mean(0)
    if mean_p.shape[1] == 1:
        return torch.zeros(1)
    largest = mean_p.topk(2, dim=1).values
    return share_of((largest[:, 0] - largest[:, 1]) < 1e-5, region_size, keep_edge)


def assert_right(x: Tensor, region_size, size, align_corners=False, edge="drop") -> None:
    before = x.clone()
    result = bald(x, region_size, size=size, align_corners=align_corners, edge=edge)
    assert same(x, before)
    keep_edge = edge == "keep"
    expected = BaldScores(*bald_ref(x.double(), region_size, size, align_corners, keep_edge))
    limit = tolerances.BALD if size == tuple(x.shape[-2:]) else tolerances.UPSAMPLED
    if x.dtype == torch.float64:
        limit = tolerances.rounding(x.shape[2])
    assert all(t.dtype == torch.float32 for t in result)
    torch.testing.assert_close(result.bald_map, expected.bald_map, atol=limit, rtol=0, equal_nan=True)
    area = region_size[0] * region_size[1]
    if keep_edge:  # the reference's sums are integers
        limit += tolerances.FIXED_POINT
    torch.testing.assert_close(
        result.region_sum, expected.region_sum, atol=area * limit, rtol=1e-7, equal_nan=True
    )
    # They are the sums of the map itself.
    ids, _, regions = region_ids(x.shape[1], size, region_size, (1, 1), keep_edge, x.device)
    sums = pool_by_id(result.bald_map, ids, regions).total.float()
    torch.testing.assert_close(result.region_sum, sums, atol=1e-5, rtol=1e-6, equal_nan=True)
    slack = undecided_share(x, size, align_corners, region_size, keep_edge)
    assert ((result.class_hist - expected.class_hist).abs() <= slack).all()
    torch.testing.assert_close(result.class_hist.sum(2), torch.ones_like(result.region_sum))
    # Streamed passes, and any number of threads, give the same, to the bit.
    with threads(3):
        assert same(bald(iter(x), region_size, size=size, align_corners=align_corners, edge=edge), result)


@st.composite
def cases(draw: st.DrawFn):
    values = tuple(name for name in VALUES if name != "large")
    x = draw(logits(passes=True, values=values))
    size = draw(image_sizes(x))
    edge = draw(st.sampled_from(["drop", "keep"]))
    return x, draw(region_sizes(size)), size, draw(st.booleans()), edge, draw(st.sampled_from(ISAS))


@examples(300)
@given(cases())
def test_equals_plain_torch(case) -> None:
    *arguments, isa = case
    with instruction_set(isa):
        assert_right(*arguments)


def test_an_example_by_hand() -> None:
    # Pixel 0: sure of class 0, then of class 1, all disagreement. Pixel 1: unsure twice, none.
    x = torch.tensor([[[99.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [99.0, 0.0]]]).view(2, 1, 2, 1, 2)
    result = bald(x, (1, 2))
    torch.testing.assert_close(result.bald_map, torch.tensor([[[math.log(2), 0.0]]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(result.region_sum, torch.tensor([[math.log(2)]]), atol=1e-6, rtol=0)
    assert result.class_hist.tolist() == [[[1.0, 0.0]]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_accuracy(isa, dtype) -> None:
    for passes, classes in ((20, 11), (3, 150), (100, 3), (4, 33), (4, 1000), (300, 11)):
        assert_right(random_logits(passes, 1, classes, 16, 70).to(dtype), (16, 70), (16, 70))


@pytest.mark.parametrize("classes", [150, 1000])
@pytest.mark.parametrize("scale", [0.0, 0.01])
def test_rounding_errors_of_many_classes_do_not_add_up(isa, classes, scale) -> None:
    x = random_logits(7, 1, classes, 4, 70, scale=scale)
    assert_right(x, (4, 70), (4, 70))


def test_equal_passes_do_not_disagree(isa) -> None:
    x = random_logits(1, 2, 11, 16, 70).expand(7, -1, -1, -1, -1)
    assert bald(x).bald_map.abs().max() <= tolerances.BALD


def test_region_class_is_that_of_the_mean_prediction() -> None:
    # Two weak votes for class 1 against one strong vote for class 2.
    x = torch.tensor([[0.0, 1.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 9.0]]).view(3, 1, 3, 1, 1)
    assert bald(x, (1, 1)).class_hist.tolist() == [[[0.0, 0.0, 1.0]]]
    # Ties: the lowest.
    assert bald(torch.zeros(2, 1, 3, 1, 1), (1, 1)).class_hist.tolist() == [[[1.0, 0.0, 0.0]]]


@pytest.mark.parametrize("size", [None, (12, 12)])
def test_without_regions_only_the_map(size) -> None:
    x = random_logits(3, 2, 5, 8, 9)
    with_regions = bald(x, (4, 4), size=size)
    for result in (bald(x, size=size), bald(list(x), size=size)):
        assert result.region_sum is None and result.class_hist is None
        assert torch.equal(result.bald_map, with_regions.bald_map)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_bad_pixel_spoils_itself_and_its_region(isa, bad) -> None:
    x = random_logits(3, 2, 4, 8, 70)
    clean = bald(x, (4, 35))
    x[1, 1, slice(None) if bad == -INF else 2, 5, 40] = bad
    result = bald(x, (4, 35))
    spoilt = torch.zeros(2, 8, 70, dtype=torch.bool)
    spoilt[1, 5, 40] = True
    assert torch.equal(result.bald_map.isnan(), spoilt)
    assert torch.equal(result.bald_map[~spoilt], clean.bald_map[~spoilt])
    assert result.region_sum.isnan().tolist() == [[False] * 4, [False, False, False, True]]
    assert not result.class_hist.isnan().any()


@pytest.mark.parametrize("payload", [0x7FC00001, 0xFFC00000, 0x7F800001, 0x7FFFFFFF])
def test_a_nan_of_any_kind_makes_the_whole_mean_prediction_nan(isa, payload) -> None:
    x = random_logits(3, 1, 4, 2, 70) + torch.tensor([0.0, 9.0, 0.0, 0.0]).view(4, 1, 1)
    x[1, :, 3] = torch.from_numpy(np.array(payload, dtype=np.uint32).view(np.float32))
    result = bald(x, (2, 70))
    assert result.bald_map.isnan().all()
    # So says softmax, and the first NaN class is the lowest.
    assert result.class_hist.tolist() == [[[1.0, 0.0, 0.0, 0.0]]]


@pytest.mark.parametrize("size", [(8, 70), (19, 100)])
def test_a_masked_class_is_as_if_it_were_not_there(isa, size) -> None:
    x = random_logits(4, 1, 4, 8, 70)
    without = bald(x[:, :, [0, 1, 3]], (4, 35), size=size)
    x[:, :, 2] = -INF
    masked = bald(x, (4, 35), size=size)
    torch.testing.assert_close(masked.bald_map, without.bald_map, atol=1e-6, rtol=0)
    assert torch.equal(masked.class_hist[..., [0, 1, 3]], without.class_hist)


def test_compute_changes_nothing_and_update_may_follow() -> None:
    x = random_logits(40, 1, 5, 9, 20)  # more than are summed at once
    accumulator = BaldAccumulator((4, 5), size=(18, 40), align_corners=True)
    for t, logits_of_pass in enumerate(x):
        accumulator.update(logits_of_pass)
        expected = bald(x[: t + 1], (4, 5), size=(18, 40), align_corners=True)
        first, again = accumulator.compute(), accumulator.compute()
        assert same(first, expected) and same(again, expected)
        first.bald_map.zero_()  # what compute() gave belongs to the caller


def test_passes_are_not_kept_nor_changed() -> None:
    one, other = random_logits(2, 1, 3, 8, 8)
    expected = bald(torch.stack([one, other])).bald_map
    accumulator = BaldAccumulator()
    buffer = one.clone().requires_grad_()
    accumulator.update(buffer)
    assert torch.equal(buffer, one)
    with torch.no_grad():
        buffer.copy_(other)
    accumulator.update(buffer)
    assert torch.equal(accumulator.compute().bald_map, expected)


def test_generators_are_taken_one_at_a_time() -> None:
    alive = []

    def passes():
        for t in range(4):
            alive.append(t)
            yield random_logits(1, 3, 8, 8, seed=t)
            alive.remove(t)
            assert not alive

    stacked = torch.stack([random_logits(1, 3, 8, 8, seed=t) for t in range(4)])
    assert torch.equal(bald(passes()).bald_map, bald(stacked).bald_map)


X = random_logits(2, 1, 3, 8, 8)
LARGE = r"must have a product of at most 2147483647, got "
EXCEEDS = r"region_size must not exceed the image, got "
PAIR = r"must be two integers \(height, width\), each at least 1, got "
REJECTED = [
    (TypeError, (X.numpy(),), {}, r"logits must be a torch.Tensor, got numpy.ndarray"),
    (TypeError, (None,), {}, r"logits must be a tensor \[T, N, C, h, w\] or an iterable .* got NoneType"),
    (TypeError, ([X[0], X[1].numpy()],), {}, r"logits must be a torch.Tensor, got numpy.ndarray"),
    (ValueError, (X[0],), {}, r"logits must be \[T, N, C, h, w\], got shape \[1, 3, 8, 8\]"),
    (ValueError, ([X],), {}, r"logits must be \[N, C, h, w\], got shape \[2, 1, 3, 8, 8\]"),
    (TypeError, (X.int(),), {}, r"logits must be float32, .* got torch.int32"),
    (TypeError, ([X[0].int()],), {}, r"logits must be float32, .* got torch.int32"),
    (ValueError, (X[:, :, :0],), {}, r"logits must have at least one class, got shape \[2, 1, 0, 8, 8\]"),
    (ValueError, (X[..., :0, :],), {}, r"logits must have at least one pixel, got shape \[2, 1, 3, 0, 8\]"),
    (ValueError, (X[:0],), {}, r"logits must hold at least one pass, got shape \[0, 1, 3, 8, 8\]"),
    (ValueError, ([],), {}, r"logits must hold at least one pass, got an empty iterable"),
    (ValueError, ([X[0], X[0, :, :2]],), {}, r"same shape, .* got \[1, 2, 8, 8\] .* after \[1, 3, 8, 8\]"),
    (
        ValueError,
        ([X[0], X[0].double()],),
        {},
        r"same shape, dtype .* torch.float64 .* after .* torch.float32",
    ),
    (ValueError, ([X[0], X[0].to("meta")],), {}, r"same shape, dtype and device, got .* meta after .* cpu"),
    (TypeError, (X, 4), {}, rf"region_size {PAIR}4"),
    (TypeError, (list(X), 4), {}, rf"region_size {PAIR}4"),
    (ValueError, (X, (0, 4)), {}, rf"region_size {PAIR}\(0, 4\)"),
    (ValueError, (X, (9, 4)), {"edge": "keep"}, rf"{EXCEEDS}\(9, 4\) for an image of \(8, 8\)"),
    (ValueError, (list(X), (9, 4)), {}, rf"{EXCEEDS}\(9, 4\) for an image of \(8, 8\)"),
    (ValueError, (X,), {"size": (0, 8)}, rf"size {PAIR}\(0, 8\)"),
    (TypeError, (list(X),), {"size": 8}, rf"size {PAIR}8"),
    (TypeError, (X,), {"align_corners": None}, r"align_corners must be True or False, got None"),
    (TypeError, (list(X),), {"align_corners": None}, r"align_corners must be True or False, got None"),
    (ValueError, (X,), {"size": (2**31, 2**31)}, rf"size {LARGE}\(2147483648, 2147483648\)"),
    (ValueError, (list(X),), {"size": (2**63, 1)}, rf"size {LARGE}\(9223372036854775808, 1\)"),
    (ValueError, (list(X), (2**63, 1)), {}, rf"region_size {LARGE}\(9223372036854775808, 1\)"),
    (TypeError, ("abc",), {}, r"logits must be a torch.Tensor, got builtins.str"),
    (TypeError, ({"out": X[0]},), {}, r"logits must be a torch.Tensor, got builtins.str"),
    (TypeError, (np.array(1.0),), {}, r"logits must be a tensor .* or an iterable of passes .* got ndarray"),
]


@pytest.mark.parametrize(("error", "arguments", "options", "text"), REJECTED, ids=lambda v: str(v)[:40])
def test_bad_input_is_refused(error, arguments, options, text) -> None:
    with pytest.raises(error, match=text):
        bald(*arguments, **options)


def test_compute_before_update_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"compute\(\) needs at least one pass, got none: call update\(\) first"
    ):
        BaldAccumulator((4, 4)).compute()


def test_a_refused_pass_leaves_the_accumulator_as_it_was() -> None:
    accumulator = BaldAccumulator((4, 4))
    with pytest.raises(ValueError, match="region_size must not exceed the image"):
        accumulator.update(X[0, ..., :3])
    with pytest.raises(ValueError, match="needs at least one pass"):
        accumulator.compute()
    accumulator.update(X[0])
    with pytest.raises(ValueError, match="same shape"):
        accumulator.update(X[0, ..., :4])
    accumulator.update(X[1])
    assert torch.equal(accumulator.compute().region_sum, bald(X, (4, 4)).region_sum)


def test_a_generators_own_error_is_left_alone() -> None:
    def passes():
        yield X[0]
        raise KeyError("no such file")

    with pytest.raises(KeyError, match="no such file"):
        bald(passes())


def test_passes_may_come_from_inside_and_outside_inference_mode(monkeypatch) -> None:
    for update in (bald_module._update_op, _update_ref):  # _update_ref is what a CUDA device runs
        monkeypatch.setattr(bald_module, "_update_op", update)
        accumulator = BaldAccumulator((4, 4))
        with torch.inference_mode():
            accumulator.update(X[0])
        accumulator.update(X[1])
        assert torch.allclose(accumulator.compute().bald_map, bald(X).bald_map, atol=1e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("passes", [32, 33, 100, 5000])
def test_many_passes_lose_no_accuracy(passes, dtype, isa) -> None:
    """Equal passes tell nothing; float32 sums that only grow would be off by 6e-4 at 20 000 of them."""
    one = random_logits(1, 1, 19, 2, 9, scale=2.0).to(dtype)
    x = one.expand(passes, -1, -1, -1, -1)
    with instruction_set(isa):
        stacked, streamed = bald(x, (2, 9)), bald(iter(x), (2, 9))
    for scores in (stacked, streamed):
        assert scores.bald_map.abs().max() <= tolerances.BALD
        assert scores.region_sum.abs().max() <= 18 * tolerances.BALD
    assert same(stacked, streamed)
