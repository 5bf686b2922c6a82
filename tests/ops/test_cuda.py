"""Every op on a CUDA device against its CPU kernel in float64, and what the contract promises of CUDA alone.

Without a device these tests are skipped. RALX_TEST_DEVICE=cpu runs those of them that a CPU can run, with the
CPU's kernels in the place of the CUDA kernels, or with RALX_TEST_HOST_GRID (conftest.py) the CUDA kernels as
C++: then the tests prove themselves.
"""

import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import tolerances
import torch
from calls import CALLS, COMPILED, SCORES, Call, opcheck
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from logit_cases import (
    DTYPES,
    HOST_GRID,
    INF,
    LABEL_DTYPES,
    LAYOUTS,
    MAP_LAYOUTS,
    NAN,
    POOLED,
    VALUES,
    distributions,
    map_layout,
    random_logits,
    same,
    tensors,
    undecided,
)
from torch import Tensor
from torch.nn import functional as F

import ralx
from ralx.ops import BaldAccumulator, bald, confusion_matrix, kl_histogram, region_features
from ralx.ops._reference import Pooled, pool_by_id, region_ids, upsample_ref
from ralx.ops.confusion_matrix import confusion_matrix_ref

DEVICE = os.environ.get("RALX_TEST_DEVICE", "cuda")
ON_CUDA = DEVICE.startswith("cuda")
CUDA_KERNELS = ON_CUDA or HOST_GRID is not None


def missing() -> str:
    """What these tests need and don't have."""
    if not ON_CUDA:
        return ""
    if not torch.cuda.is_available():
        return "needs a CUDA device"
    return "" if ralx.build_info().cuda else "ralx was built without CUDA kernels"


pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "nothing is missing")
needs_cuda = pytest.mark.skipif(not ON_CUDA, reason="needs a CUDA device")
needs_kernels = pytest.mark.skipif(not CUDA_KERNELS, reason="needs the CUDA kernels")
# The same examples every time, and no time spent on making a failing one smaller.
hypothesis = settings(
    deadline=None, max_examples=150, derandomize=True, database=None, phases=(Phase.generate,)
)


# --- inputs ----------------------------------------------------------------------------------------


class Logits(NamedTuple):
    """How to make logits; prints better than a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    values: str
    layout: str
    seed: int

    def make(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        x = random_logits(*self.shape, seed=self.seed)
        pixels = torch.rand(*self.shape[:-3], 1, *self.shape[-2:], generator=generator) < 0.05
        x = VALUES[self.values](x, pixels).to(self.dtype).to(DEVICE)
        if self.layout == "expanded":
            return x[:1, ..., :1, :].expand(x.shape)
        with torch.device(DEVICE):
            return LAYOUTS[self.layout](x)


class Image(NamedTuple):
    """What is asked of logits: size of the image, and its regions."""

    size: tuple[int, int]
    region: tuple[int, int]
    cells: tuple[int, int]
    keep_edge: bool
    align_corners: bool

    @property
    def options(self) -> dict[str, Any]:
        edge = "keep" if self.keep_edge else "drop"
        return {"size": self.size, "align_corners": self.align_corners, "edge": edge}

    def ids(self, images: int) -> tuple[Tensor, int]:
        """The region of each pixel, int64 [N, H, W], -1 for none; and R."""
        device = torch.device("cpu")
        ids, _, regions = region_ids(images, self.size, self.region, (1, 1), self.keep_edge, device)
        return ids, regions


@st.composite
def cases(draw: st.DrawFn, passes: bool = False) -> tuple[Logits, Image]:
    classes = draw(st.sampled_from([1, 2, 3, 7, 11, 19, 21, 64, 150]))
    height, width = draw(st.sampled_from([1, 2, 5, 16, 33])), draw(st.sampled_from([1, 3, 8, 31, 65, 130]))
    shape = (draw(st.integers(1, 3)), classes, height, width)
    size = (height, width)
    if draw(st.booleans()):
        size = draw(st.integers(1, 4 * height)), draw(st.integers(1, 4 * width))
    names = [name for name in VALUES if name != "large" or (size == (height, width) and not passes)]
    x = Logits(
        (draw(st.integers(1, 5)), *shape) if passes else shape,
        draw(st.sampled_from(DTYPES)),
        draw(st.sampled_from(names)),
        draw(st.sampled_from([*LAYOUTS, "expanded"])),
        draw(st.integers(0, 2**31)),
    )
    region = draw(st.integers(1, size[0])), draw(st.integers(1, size[1]))
    cells = draw(st.integers(1, min(region[0], 8))), draw(st.integers(1, min(region[1], 8)))
    return x, Image(size, region, cells, draw(st.booleans()), draw(st.booleans()))


def labels(*shape: int, below: int, dtype: torch.dtype, seed: int, layout: str = "contiguous") -> Tensor:
    drawn = torch.randint(below, shape, generator=torch.Generator().manual_seed(seed))
    return map_layout(drawn.to(dtype).to(DEVICE), layout)


def wide(x: Tensor) -> Tensor:
    """What the CPU's float64 kernels are given."""
    return x.cpu().double() if x.is_floating_point() else x.cpu()


# --- comparisons -----------------------------------------------------------------------------------


def twice(op: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """The result, which is the same when asked for again, and leaves what it was given as it was."""
    before = [value.clone() for value in (*arguments, *options.values()) if isinstance(value, Tensor)]
    first, again = op(*arguments, **options), op(*arguments, **options)
    assert same(first, again), "not the same from run to run"
    after = [value for value in (*arguments, *options.values()) if isinstance(value, Tensor)]
    assert same(before, after), "an input was changed"
    return first


def assert_within(got: Tensor, wanted: Tensor, limit: Tensor | float, what: str) -> None:
    """NaN where NaN is wanted; `limit` broadcasts."""
    got, wanted = got.cpu().double(), wanted.double()
    assert torch.equal(got.isnan(), wanted.isnan()), f"{what}: NaN in other places"
    error = (got - wanted).abs().nan_to_num(0)
    over = error - torch.as_tensor(limit).double().expand(error.shape)
    assert not (over > 0).any(), f"{what}: off by {error.flatten()[over.argmax()].item():g}"


class Near(NamedTuple):
    """By region [N, R]: its pixels; those whose class upsampling may swap; those with one in the window."""

    pixels: Tensor
    swapped: Tensor
    around: Tensor

    @classmethod
    def count(cls, swapped: Tensor, ids: Tensor, num_regions: int, window: int = 1) -> "Near":
        swapped = swapped.double()
        around = F.max_pool2d(swapped, window, stride=1, padding=window // 2)
        first, second = (pool_by_id(each, ids, num_regions) for each in (swapped, around))
        return cls(first.pixels, total(first), total(second))


def total(pooled: Pooled) -> Tensor:
    return pooled.mean * pooled.pixels


def assert_features(got: Any, wanted: Any, x: Tensor, upsampled: bool, near: Near, window: int = 3) -> None:
    """RegionFeatures or ScoredRegionFeatures."""
    classes = x.shape[1]
    assert all(
        a.device == x.device and a.dtype == b.dtype for a, b in zip(*map(tensors, (got, wanted)), strict=True)
    )
    one = tolerances.of_entropy(x.dtype, classes, upsampled) + tolerances.FIXED_POINT
    share = near.swapped / near.pixels.clamp_min(1)
    assert_within(
        got.class_hist, wanted.class_hist, share.unsqueeze(2) + 1e-6 * (share > 0).unsqueeze(2), "class_hist"
    )
    for name in POOLED:
        assert_within(getattr(got, name), getattr(wanted, name), one, name)
        assert not (getattr(got, name) < -1e-6).any(), name
    sums = near.pixels * one + 2e-7 * wanted.entropy_sum.nan_to_num(0).abs()
    assert_within(got.entropy_sum, wanted.entropy_sum, sums, "entropy_sum")
    if len(got) == len(ralx.RegionFeatures._fields):
        return
    assert torch.equal(got.pixel_count.cpu(), wanted.pixel_count)
    most = math.log(max(min(window**2, classes), 2))
    limits = {
        "margin_sum": near.pixels * one,
        "least_confidence_sum": near.pixels * one,
        "impurity_sum": near.pixels * one * max(1.0, most) + near.around * most * math.log(max(classes, 2)),
    }
    for name, limit in limits.items():
        value = getattr(wanted, name)
        if value is not None:
            assert_within(getattr(got, name), value, limit + 2e-7 * value.nan_to_num(0).abs(), name)


# --- region_features -------------------------------------------------------------------------------


@hypothesis
@given(cases())
def test_region_features(case) -> None:
    logits, image = case
    x = logits.make()
    result = twice(region_features, x, image.region, cells=image.cells, **image.options)
    expected = region_features(wide(x), image.region, cells=image.cells, **image.options)
    near = Near.count(undecided(wide(x), image.size, image.align_corners), *image.ids(len(x)))
    assert_features(result, expected, x, image.size != tuple(x.shape[2:]), near)


@hypothesis
@given(cases(), st.sampled_from([3, 5, 31]), st.permutations(SCORES), st.integers(1, 3))
def test_scores(case, window, names, count) -> None:
    logits, image = case
    x, asked = logits.make(), {"scores": names[:count], "neighbourhood": window}
    result = twice(region_features, x, image.region, cells=image.cells, **image.options, **asked)
    expected = region_features(wide(x), image.region, cells=image.cells, **image.options, **asked)
    near = Near.count(undecided(wide(x), image.size, image.align_corners), *image.ids(len(x)), window=window)
    assert_features(result, expected, x, image.size != tuple(x.shape[2:]), near, window)


@hypothesis
@given(
    cases(),
    st.sampled_from([1, 2, 40, 255, 3000]),
    st.sampled_from(LABEL_DTYPES),
    st.sampled_from(MAP_LAYOUTS),
    st.booleans(),
)
def test_regions_of_a_label_map(case, num_regions, dtype, layout, scored) -> None:
    logits, image = case
    x = logits.make()
    ids = labels(
        len(x), *image.size, below=min(num_regions, 200), dtype=dtype, seed=logits.seed, layout=layout
    )
    if dtype != torch.uint8:
        ids = ids - 3  # -3, -2 and -1 are no region
    options = {"size": image.size, "align_corners": image.align_corners, "num_regions": num_regions}
    options |= {"scores": SCORES} if scored else {}
    result = twice(region_features, x, None, regions=ids, **options)
    known = ids.cpu().long()
    expected = region_features(wide(x), None, regions=known.where(known < num_regions, -1), **options)
    near = Near.count(undecided(wide(x), image.size, image.align_corners), known, num_regions, window=3)
    assert_features(result, expected, x, image.size != tuple(x.shape[2:]), near)


@needs_kernels
@pytest.mark.parametrize("dtype", LABEL_DTYPES)
def test_ids_from_r_on_are_in_no_region(dtype) -> None:
    x, ids = random_logits(2, 5, 20, 33).to(DEVICE), labels(2, 20, 33, below=100, dtype=dtype, seed=0)
    result = region_features(x, None, regions=ids, num_regions=60)
    known = ids.cpu().long()
    expected = region_features(wide(x), None, regions=known.where(known < 60, -1), num_regions=60)
    assert torch.equal(result.pixel_count.cpu(), expected.pixel_count)
    assert torch.equal(result.class_hist.cpu(), expected.class_hist)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(8, 8), (16, 19)])
def test_finite_logits_of_any_size_give_a_finite_entropy(dtype, size) -> None:
    info = torch.finfo(dtype)
    extremes = torch.tensor([info.max, info.min, info.tiny, -info.tiny, 0.0, 88.0, -104.0, 1.0], dtype=dtype)
    which = torch.randint(8, (4, 5, 8, 8), generator=torch.Generator().manual_seed(0))
    for pooled in region_features(extremes[which].to(DEVICE), (8, 8), cells=(4, 4), size=size)[1:]:
        assert pooled.isfinite().all() and (pooled >= -1e-6).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_reduced_precision_number_is_read_exactly(dtype) -> None:
    numbers = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(dtype).view(1, 1, 256, 256)
    numbers = torch.cat([numbers, torch.zeros_like(numbers)], 1).to(DEVICE)
    reduced = region_features(numbers, (1, 1), cells=(1, 1))
    assert same(reduced, region_features(numbers.float(), (1, 1), cells=(1, 1)))


# --- bald ------------------------------------------------------------------------------------------


@hypothesis
@given(cases(passes=True))
def test_bald(case) -> None:
    logits, image = case
    x = logits.make()
    result, expected = (
        twice(bald, x, image.region, **image.options),
        bald(wide(x), image.region, **image.options),
    )
    assert all(value.device == x.device and value.dtype == torch.float32 for value in result)
    limit = tolerances.BALD if image.size == tuple(x.shape[-2:]) else tolerances.UPSAMPLED
    assert_within(result.bald_map, expected.bald_map, limit, "bald_map")
    near = Near.count(mean_may_swap(x, image), *image.ids(x.shape[1]))
    sums = near.pixels * (limit + tolerances.FIXED_POINT) + 2e-7 * expected.region_sum.nan_to_num(0).abs()
    assert_within(result.region_sum, expected.region_sum, sums, "region_sum")
    share = (near.swapped / near.pixels.clamp_min(1)).unsqueeze(2)
    assert_within(result.class_hist, expected.class_hist, share + 1e-6 * (share > 0), "class_hist")
    assert same(twice(bald, list(x), image.region, **image.options), result), "streamed passes differ"
    whole = bald(x, **image.options)
    assert same(whole.bald_map, result.bald_map) and whole.region_sum is None


def mean_may_swap(x: Tensor, image: Image) -> Tensor:
    """[N, H, W]: pixels whose two largest mean probabilities float32 may swap."""
    p = upsample_ref(wide(x), image.size, image.align_corners).softmax(2).mean(0)
    best = p.topk(min(2, p.shape[1]), dim=1).values
    # Where there's NaN the lowest class is taken, by all alike; of equal logits, the lowest too.
    return (
        (best[:, 0] - best[:, -1]) < 1e-5 if p.shape[1] > 1 else torch.zeros_like(p[:, 0], dtype=torch.bool)
    )


def test_bald_compute_changes_nothing_and_update_may_follow() -> None:
    x = random_logits(4, 2, 5, 9, 20).to(DEVICE)
    accumulator = BaldAccumulator((4, 5), size=(18, 40))
    for t, one_pass in enumerate(x):
        accumulator.update(one_pass)
        expected = bald(x[: t + 1], (4, 5), size=(18, 40))
        assert same(accumulator.compute(), expected) and same(accumulator.compute(), expected)


# --- confusion_matrix ------------------------------------------------------------------------------


@hypothesis
@given(cases(), st.sampled_from(LABEL_DTYPES), st.sampled_from(MAP_LAYOUTS))
def test_confusion_matrix_of_logits(case, dtype, layout) -> None:
    logits, image = case
    x, classes = logits.make(), logits.shape[1]
    target = labels(len(x), *image.size, below=classes, dtype=dtype, seed=logits.seed, layout=layout)
    options = {"ignore_index": classes // 2, "size": image.size, "align_corners": image.align_corners}
    result = twice(confusion_matrix, x, target, classes, **options)
    expected = confusion_matrix(wide(x), target.cpu(), classes, **options)
    assert result.device == x.device and result.dtype == torch.int64
    assert torch.equal(result.sum(1).cpu(), expected.sum(1))
    assert (result.cpu() - expected).abs().sum() <= 2 * undecided(
        wide(x), image.size, image.align_corners
    ).sum()


@hypothesis
@given(
    st.sampled_from([(0, 3, 5), (1, 1, 1), (2, 20, 33), (3, 64, 129)]),
    st.sampled_from([1, 2, 11, 19, 200, 1000]),
    st.sampled_from(LABEL_DTYPES),
    st.sampled_from(LABEL_DTYPES),
    st.sampled_from(MAP_LAYOUTS),
    st.sampled_from(MAP_LAYOUTS),
    st.sampled_from([255, 0, -100]),
)
def test_confusion_matrix_of_labels(shape, classes, dtype, other, layout, other_layout, ignored) -> None:
    below = min(classes, 256)
    target = labels(*shape, below=below, dtype=dtype, seed=0, layout=layout if shape[0] else "contiguous")
    prediction = labels(
        *shape, below=below, dtype=other, seed=1, layout=other_layout if shape[0] else "contiguous"
    )
    if CUDA_KERNELS and dtype != torch.uint8:  # no classes: skipped, where the CPU raises an error
        target = torch.where(target == 1, -7, torch.where(target == 2, classes, target)).to(dtype)
    if CUDA_KERNELS and other != torch.uint8:
        prediction = torch.where(prediction == 0, -1, prediction).to(other)
    result = twice(confusion_matrix, prediction, target, classes, ignore_index=ignored)
    expected = confusion_matrix_ref(prediction.cpu(), target.cpu(), classes, ignored)
    assert torch.equal(result.cpu(), expected)


@needs_kernels
def test_confusion_matrix_skips_targets_that_are_no_class() -> None:
    target = torch.tensor([[[0, 5, -1, 1, 255, 2**40, -(2**63), 1]]], device=DEVICE)
    prediction = torch.tensor([[[0, 0, 0, 7, 0, 0, 0, 1]]], device=DEVICE)
    assert confusion_matrix(prediction, target, 2).tolist() == [[1, 0], [0, 1]]
    x = F.one_hot(prediction.clamp(max=1), 2).permute(0, 3, 1, 2).float()
    assert confusion_matrix(x, target, 2).tolist() == [[1, 0], [0, 2]]


# --- kl_histogram ----------------------------------------------------------------------------------


def rows(*shape: int, **options: Any) -> Tensor:
    return distributions(*shape, **options).to(DEVICE)


def assert_histograms(p: Tensor, q: Tensor, **options: Any) -> None:
    """As the CPU counts them: where float32 can't tell the bin, float64 does."""
    result, expected = twice(kl_histogram, p, q, **options), kl_histogram(wide(p), wide(q), **options)
    assert result.device == p.device and result.dtype == torch.float32
    assert_within(result, expected, 0, "histogram")


@hypothesis
@given(
    st.sampled_from([1, 2, 5, 11, 19, 32, 33, 150]),
    st.sampled_from([0, 1, 7, 64, 65, 130]),
    st.sampled_from([0, 1, 2, 31, 33, 127, 129, 1000, 4097]),
    st.tuples(st.sampled_from(DTYPES), st.sampled_from(DTYPES)),
    st.sampled_from([1, 2, 32, 33, 1000]),
    st.sampled_from([None, (0.0, 16.2), (0.5, 2.0), (-1.0, 0.01)]),
    st.sampled_from([1e-7, 1e-3, 0.0]),
    st.booleans(),
)
def test_kl_histogram(classes, count, length, dtypes, bins, range, eps, strided) -> None:
    zeros = 0.0 if eps == 0 and range is None else 0.2
    p, q = (
        rows(n, classes, seed=seed, dtype=dtype, zeros=zeros)
        for n, seed, dtype in zip((count, length), (0, 1), dtypes, strict=True)
    )
    if strided:
        p, q = F.pad(p, (1, 2), value=NAN)[:, 1:-2], q.T.contiguous().T
    assert_histograms(p, q, bins=bins, range=range, eps=eps)


@pytest.mark.parametrize("range", [None, (0.0, 16.2)])
def test_kl_histogram_of_special_values(range) -> None:
    p, q = rows(6, 5, seed=0), rows(40, 5, seed=1)
    p[1, 2], p[2, 3], q[7, 0] = NAN, INF, -0.3
    assert_histograms(p, q[:7], range=range)
    assert_histograms(p, q, range=range)  # a negative number has no logarithm: NaN in every row
    p = torch.eye(5, device=DEVICE)
    assert_histograms(p, p.clone(), range=range, eps=0.0)  # +inf off the diagonal
    assert_histograms(rows(2, 3, 5, seed=2), rows(9, 5, seed=3), range=range)


def test_kl_histogram_of_equal_rows_has_one_bin() -> None:
    result = kl_histogram(rows(7, 19, seed=0), rows(1, 19, seed=1).expand(4097, -1), bins=9)
    expected = torch.zeros(7, 9)
    expected[:, 4] = 1  # all divergences are equal: half a nat to each side
    assert torch.equal(result.cpu(), expected)


def test_kl_histogram_tells_nearly_equal_rows_apart() -> None:
    # An untrained network predicts nearly the same everywhere: divergences below what float32 resolves.
    p = torch.full((1, 11), 1 / 11, device=DEVICE)
    q = p + torch.linspace(0, 1e-4, 50, device=DEVICE).unsqueeze(1) * random_logits(11).to(DEVICE)
    assert_histograms(p, q)
    assert_histograms(p, q, range=(0.0, 1e-6))


# --- all ops: streams, syncs, graphs, torch.compile ------------------------------------------------


each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def inputs_of(call: Call, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two that give other results."""
    first, second = (random_logits(*call.shape, seed=seed).to(dtype).to(DEVICE) for seed in (0, 1))
    assert not same(call.run(first), call.run(second))
    return first, second


@needs_cuda
@each_call
def test_work_goes_to_the_current_stream(call) -> None:
    x, other = inputs_of(call, torch.float32)
    expected, arriving = call.run(x), other.clone()
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(100_000_000)  # cycles; the input comes some 50 ms later
        arriving.copy_(x)
        result = call.run(arriving)
        torch.cuda.current_stream().synchronize()
    assert same(result, expected)


@needs_cuda
@each_call
@each_dtype
def test_no_call_waits_for_the_device(call, dtype) -> None:
    x, _ = inputs_of(call, dtype)
    torch.cuda.set_sync_debug_mode("error")
    try:
        call.run(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_cuda
@each_call
@each_dtype
def test_a_cuda_graph_replays_it(call, dtype) -> None:
    first, second = inputs_of(call, dtype)
    x, expected = first.clone(), call.run(second)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call.run(x)
    for _ in range(2):  # what one replay leaves must not reach the next
        x.copy_(second)
        graph.replay()
        assert same(result, expected)
        x.copy_(first)
        graph.replay()
        assert same(result, call.run(first))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a second CUDA device")
@each_call
def test_another_device_than_the_current_one(call) -> None:
    x, _ = inputs_of(call, torch.float32)
    for value, expected in zip(tensors(call.run(x.to("cuda:1"))), tensors(call.run(x)), strict=True):
        assert value.device == torch.device("cuda:1") and same(value.to("cuda:0"), expected)


@pytest.mark.parametrize("name", COMPILED)
def test_compiles_into_one_graph(name) -> None:
    call = CALLS[name]
    x, _ = inputs_of(call, torch.float32)
    torch.compiler.reset()
    compiled = torch.compile(lambda x: tensors(call.run(x * 2)), fullgraph=True, backend="aot_eager")
    assert same(compiled(x), call.run(x * 2))


@needs_cuda
def test_inductors_code_calls_the_ops() -> None:
    def both(x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        features = region_features(x * 2, (20, 30))
        return features.vector() + 1, confusion_matrix(x * 2, target, 11) + 1

    x = random_logits(2, 11, 40, 66).to(DEVICE)
    target = labels(2, 40, 66, below=11, dtype=torch.uint8, seed=0)
    for a, b in zip(torch.compile(both, fullgraph=True)(x, target), both(x, target), strict=True):
        torch.testing.assert_close(a, b)


def test_opcheck() -> None:
    opcheck(random_logits(2, 2, 3, 16, 18).to(DEVICE))


# --- empty and enormous ----------------------------------------------------------------------------


def test_nothing_gives_nothing() -> None:
    empty = torch.empty(0, 7, 20, 30, device=DEVICE)
    shapes = [(0, 24, 7), (0, 24, 2, 5), (0, 24, 2, 5), (0, 24, 2, 5), (0, 24)]
    result = region_features(empty, (10, 10), cells=(2, 5), size=(40, 60))
    assert [tuple(value.shape) for value in result] == shapes
    nowhere = torch.empty(0, 20, 30, dtype=torch.int64, device=DEVICE)
    assert region_features(empty, None, regions=nowhere, num_regions=4).pixel_count.shape == (0, 4)
    x = random_logits(1, 7, 20, 30).to(DEVICE)
    none = region_features(x, None, regions=torch.full((1, 20, 30), -1, device=DEVICE), num_regions=0)
    assert none.class_hist.shape == (1, 0, 7)
    assert [tuple(value.shape) for value in bald(empty.unsqueeze(0), (10, 10))] == [
        (0, 20, 30),
        (0, 6),
        (0, 6, 7),
    ]
    assert torch.equal(confusion_matrix(empty, nowhere, 7), torch.zeros(7, 7, device=DEVICE).long())
    p = rows(4, 5, seed=0)
    assert torch.equal(kl_histogram(p, p[:0]), torch.zeros(4, 32, device=DEVICE))
    assert kl_histogram(p[:0], p).shape == (0, 32)


@pytest.fixture
def scale() -> int:
    """How often images are repeated, so that a tensor holds more than 2³¹ numbers; few on the CPU."""
    if not ON_CUDA:
        return 2
    free, _ = torch.cuda.mem_get_info()
    # Not switched off: it runs wherever it fits. So many numbers, and what float64 makes of them, are larger
    # than most cards.
    if free < 30e9:
        pytest.skip(f"needs 30 GB of a device's memory, {free / 1e9:.0f} GB are free")
    torch.cuda.empty_cache()
    return 60


def test_offsets_beyond_32_bits_between_images(scale) -> None:
    one, last = (random_logits(1, 19, 1024, 2048, seed=seed).bfloat16().to(DEVICE) for seed in (0, 1))
    many = one.repeat(scale, 1, 1, 1)
    many[-1] = last[0]
    assert not ON_CUDA or many.numel() > 2**31
    regions, target = (128, 128), labels(1, 1024, 2048, below=19, dtype=torch.uint8, seed=0)

    expected = [region_features(x, regions) for x in (one, last)]
    for got, first, final in zip(region_features(many, regions), *expected, strict=True):
        assert same(got[:-1], first.expand_as(got[:-1])) and same(got[-1:], final)

    counts = [confusion_matrix(x, target, 19) for x in (one, last)]
    result = confusion_matrix(many, target.expand(scale, -1, -1), 19)
    assert torch.equal(result, counts[0] * (scale - 1) + counts[1])

    # Passes of one image, of which the last disagrees; and many images of two passes.
    assert same(bald(many.unsqueeze(1)), bald([one] * (scale - 1) + [last]))
    two = many.unflatten(0, (2, -1))
    assert same(bald(two, regions).bald_map[-1:], bald(torch.stack([one, last])).bald_map)


def test_offsets_beyond_32_bits_within_an_image_and_between_rows(scale) -> None:
    side = 4096 if ON_CUDA else 256
    tile = random_logits(1, 150, 256, side).bfloat16().to(DEVICE)
    image = tile.repeat(1, 1, side // 256, 1)
    assert not ON_CUDA or image.numel() > 2**31
    expected, result = region_features(tile, (256, 128)), region_features(image, (256, 128))
    for got, wanted in zip(result, expected, strict=True):
        assert same(got, wanted.repeat(1, side // 256, *[1] * (wanted.dim() - 2)))
    del image, result

    p, q = rows(256, 150, seed=0, dtype=torch.bfloat16), rows(5, 150, seed=1, dtype=torch.bfloat16)
    times = 60_000 if ON_CUDA else 20
    assert not ON_CUDA or p.numel() * times > 2**31
    got = kl_histogram(p.repeat(times, 1), q).unflatten(0, (times, -1))
    assert same(got, kl_histogram(p, q).expand_as(got))
