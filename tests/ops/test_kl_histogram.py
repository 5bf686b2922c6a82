"""kl_histogram against SciPy's divergences and numpy.histogram in float64."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from logit_cases import DTYPES, distributions, examples, threads
from scipy.special import rel_entr
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ralx.ops import kl_histogram
from ralx.ops.kl_histogram import kl_histogram_ref

# Rows of q that end just before, at and after a tile of any instruction set, and a panel.
LENGTHS = (1, 2, 3, 15, 16, 17, 31, 32, 33, 100, 4095, 4096, 4097, 8193)


def rows(count: int, classes: int, seed: int, dtype=torch.float32, zeros: float = 0.0) -> Tensor:
    return distributions(count, classes, seed=seed, dtype=dtype, zeros=zeros)


def divergences(p: Tensor, q: Tensor, eps: float) -> np.ndarray:
    """KL(p_i ‖ q_j) [M, L] in nats."""
    p, q = (x.double().numpy() + eps for x in (p, q))
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    return rel_entr(p[:, None], q[None]).sum(-1)


def assert_histograms(result: Tensor, values: np.ndarray, bins: int, range) -> None:
    """Each row is numpy.histogram's, but for values so near to an edge that their rounding decides."""
    band = 1e-11
    length = values.shape[1]
    assert result.shape == (len(values), bins) and result.dtype == torch.float32
    for row, x in zip(result.double().numpy(), values, strict=True):
        counts = row * length
        np.testing.assert_allclose(counts, np.rint(counts), atol=1e-3)
        low, high = range or (x.min(), x.max())
        if low == high:
            low, high = low - 0.5, high + 0.5
        edges = np.linspace(low, high, bins + 1)[1:-1]
        first, last = (np.searchsorted(edges, x + side, side="right") for side in (-band, band))
        certain = np.bincount(first[first == last], minlength=bins)
        bin = np.arange(bins)[:, None]
        possible = ((first <= bin) & (bin <= last)).sum(1)
        assert np.rint(counts).sum() == length
        assert (certain <= np.rint(counts)).all() and (np.rint(counts) <= possible).all()
        if (first == last).all():
            expected = np.histogram(x.clip(low, high), bins, (low, high))[0]
            np.testing.assert_array_equal(np.rint(counts), expected)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, int, tuple[float, float] | None, float]:
    classes, seed = draw(st.integers(1, 24)), draw(st.integers(0, 2**31))
    zeros = draw(st.sampled_from([0.0, 0.3]))
    p = rows(draw(st.integers(0, 9)), classes, seed, draw(st.sampled_from(DTYPES)), zeros)
    q = rows(draw(st.integers(1, 70)), classes, seed + 1, draw(st.sampled_from(DTYPES)), zeros)
    bins = draw(st.integers(1, 40))
    range = draw(st.sampled_from([None, (0.0, 16.2), (0.5, 2.0), (-1.0, 0.01)]))
    eps = draw(st.sampled_from([1e-7, 1e-3, 1.0]))
    return p, q, bins, range, eps


@examples(150)
@given(cases())
def test_is_numpys_histogram_of_scipys_divergences(case) -> None:
    p, q, bins, range, eps = case
    expected = divergences(p, q, eps)
    assert_histograms(kl_histogram(p, q, bins=bins, range=range, eps=eps), expected, bins, range)
    assert_histograms(kl_histogram_ref(p, q, bins, range, eps), expected, bins, range)


@pytest.mark.parametrize("range", [None, (0.0, 3.0)])
@pytest.mark.parametrize("length", LENGTHS)
def test_any_number_of_reference_rows(isa, length, range) -> None:
    p, q = rows(5, 19, 0), rows(length, 19, 1)
    result = kl_histogram(p, q, range=range)
    assert_histograms(result, divergences(p, q, 1e-7), 32, range)
    torch.testing.assert_close(result.sum(1), torch.ones(5))


@pytest.mark.parametrize("function", [kl_histogram, kl_histogram_ref])
def test_bins_of_an_example_by_hand(function) -> None:
    # KL of (½, ½) to (¼, ¾) is ½ ln(4/3) = 0.144, to (1/10, 9/10) ½ ln(25/9) = 0.511, to itself 0.
    p, q = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 3.0], [1.0, 9.0], [2.0, 2.0], [9.0, 1.0]])
    assert function(p, q, bins=4, range=(0.0, 0.4), eps=0.0).tolist() == [[0.25, 0.25, 0, 0.5]]
    assert function(p, q, bins=4, range=None, eps=0.0).tolist() == [[0.25, 0.25, 0, 0.5]]
    assert function(p, q, bins=2, range=(0.2, 0.5), eps=0.0).tolist() == [[0.5, 0.5]]
    assert function(p, q[:0], bins=2, range=None, eps=0.0).tolist() == [[0, 0]]


def test_nearly_equal_rows_are_told_apart_in_every_dtype() -> None:
    # An untrained network predicts nearly the same everywhere: divergences below what float32 resolves.
    p = torch.full((1, 11), 1 / 11)
    noise = torch.randn(11, generator=torch.Generator().manual_seed(0))
    q = p + torch.linspace(0, 1e-4, 50).unsqueeze(1) * noise
    values = divergences(p, q, 1e-7)
    assert 1e-9 < values.max() < 1e-5
    assert_histograms_exactly(kl_histogram(p, q), values)


def assert_histograms_exactly(result: Tensor, values: np.ndarray, range=None) -> None:
    histograms = [np.histogram(x, result.shape[1], range)[0] for x in values]
    expected = np.stack(histograms) / values.shape[1]
    np.testing.assert_array_equal(result.numpy(), expected.astype(np.float32))


@pytest.mark.parametrize("side", [-1e-9, 1e-9])
def test_edges_finer_than_float32(isa, side) -> None:
    # Every divergence lies a billionth of a nat beside some edge: float32 can't tell on which side.
    p, q = rows(1, 19, 0), rows(300, 19, 1)
    values = divergences(p, q, 1e-7)
    for value in values[0]:
        range = (value + side - 10.0, value + side + 10.0)
        assert_histograms_exactly(kl_histogram(p, q, bins=16, range=range), values, range)


@pytest.mark.parametrize("classes", [1, 19, 64])
@pytest.mark.parametrize("length", LENGTHS)
def test_equal_rows_fall_in_one_bin(isa, length, classes) -> None:
    p, one = rows(7, classes, 0), rows(1, classes, 1)
    # All divergences of a row are equal, so it spans ±0.5 around them: the middle bin. If one differed in the
    # last bit, the row would span that difference and fill its end bins.
    result = kl_histogram(p, one.expand(length, -1), bins=9)
    expected = torch.zeros(7, 9)
    expected[:, 4] = 1
    assert torch.equal(result, expected)
    assert torch.equal(kl_histogram_ref(p, one.expand(length, -1), 9), expected)


def test_a_pair_depends_on_its_two_rows_alone(isa) -> None:
    # A thousand bins over the row's own range: a last bit would show wherever a value is near to an edge.
    distinct_p, distinct_q = rows(5, 19, 0), rows(40, 19, 1)
    generator = torch.Generator().manual_seed(2)
    which_p = torch.randint(5, (23,), generator=generator)
    which_q = torch.randint(40, (9001,), generator=generator)
    which_q[:40] = torch.arange(40)
    result = kl_histogram(distinct_p[which_p], distinct_q[which_q], bins=1000)
    for row in range(5):
        assert (result[which_p == row] == result[which_p == row][0]).all()
        assert (result[which_p == row][0] > 0).sum() <= 40
    shuffled = torch.randperm(9001, generator=generator)
    again = kl_histogram(distinct_p[which_p], distinct_q[which_q][shuffled], bins=1000)
    assert torch.equal(result, again)


@pytest.mark.parametrize("width", [3e-300, 1e-320])
def test_divergence_of_a_row_to_itself_is_zero(isa, width) -> None:
    p = rows(50, 19, 0)
    alone = torch.stack([kl_histogram(row, row[None], bins=3, range=(-width, width)) for row in p])
    assert torch.equal(alone, torch.tensor([0.0, 1.0, 0.0]).expand(50, 3))


@pytest.mark.parametrize("range", [None, (0.0, 16.2)])
@pytest.mark.parametrize("shape", [(3, 5000), (301, 77), (64, 4096)])
def test_number_of_threads_changes_nothing(shape, range) -> None:
    p, q = rows(shape[0], 19, 0), rows(shape[1], 19, 1)
    results = []
    for count in (1, 2, 3, 8):
        with threads(count):
            results.append(kl_histogram(p, q, bins=512, range=range))
    assert all(torch.equal(result, results[0]) for result in results)


def test_strides_and_leading_axes() -> None:
    p, q = rows(24, 19, 0), rows(50, 19, 1)
    expected = kl_histogram(p, q)
    transposed = p.T.contiguous().T
    assert torch.equal(kl_histogram(transposed, q.T.contiguous().T), expected)
    wide = torch.full((48, 40), math.nan)
    wide[::2, 1:39:2] = p
    assert torch.equal(kl_histogram(wide[::2, 1:39:2], q), expected)
    assert torch.equal(kl_histogram(p.flip(1), q.flip(1)).sum(), expected.sum())
    assert torch.equal(kl_histogram(p.view(2, 3, 4, 19), q), expected.view(2, 3, 4, 32))
    permuted = p.view(2, 3, 4, 19).permute(2, 0, 1, 3)
    assert torch.equal(kl_histogram(permuted, q), expected.view(2, 3, 4, 32).permute(2, 0, 1, 3))
    assert torch.equal(kl_histogram(p[0], q), expected[0])
    assert torch.equal(kl_histogram(p[:1].expand(6, 19), q), expected[:1].expand(6, 32))


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_are_read_exactly(isa, dtype) -> None:
    p, q = rows(6, 11, 0, dtype), rows(40, 11, 1, dtype)
    p[0, 3] = torch.finfo(dtype).smallest_normal / 4  # subnormal
    q[0, 3] = torch.finfo(dtype).max / 32
    expected = kl_histogram(p.double(), q.double())
    assert torch.equal(kl_histogram(p, q), expected)
    assert torch.equal(kl_histogram(p, q.double()), expected)
    assert_histograms(expected, divergences(p, q, 1e-7), 32, None)


@pytest.mark.parametrize("function", [kl_histogram, kl_histogram_ref])
@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 5)])
def test_no_rows(function, shape) -> None:
    q = rows(7, 5, 0)
    result = function(torch.zeros(shape), q)
    assert result.shape == (*shape[:-1], 32) and result.dtype == torch.float32
    no_reference = function(q, q[:0])
    assert torch.equal(no_reference, torch.zeros(7, 32))
    assert torch.equal(function(torch.full((2, 5), math.nan), q[:0]), torch.zeros(2, 32))
    assert function(q[:0], q[:0]).shape == (0, 32)


@pytest.mark.parametrize("function", [kl_histogram, kl_histogram_ref])
@pytest.mark.parametrize("q_rows", [3, 5000])
def test_without_smoothing(isa, function, q_rows) -> None:
    p = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    q = torch.tensor([[0.25, 0.75, 0.0], [0.1, 0.9, 0.0], [0.5, 0.5, 0.0]])
    q = q[torch.arange(q_rows) % 3]
    fixed = function(p, q, bins=4, range=(0.0, 0.4), eps=0.0)
    own = function(p, q, bins=4, range=None, eps=0.0)
    # The first row has p = 0 where q = 0: as if the class were not there.
    without = function(p[:1, :2], q[:, :2], bins=4, range=(0.0, 0.4), eps=0.0)
    assert torch.equal(fixed[0], without[0]) and without[0].isfinite().all()
    assert torch.equal(own[0], function(p[:1, :2], q[:, :2], bins=4, range=None, eps=0.0)[0])
    # The second has q = 0 < p, so KL = +inf.
    assert fixed[1].tolist() == [0, 0, 0, 1]
    assert own[1].isnan().all()


@pytest.mark.parametrize("function", [kl_histogram, kl_histogram_ref])
@pytest.mark.parametrize("range", [None, (0.0, 16.2)])
def test_nan_stays_in_its_row(isa, function, range) -> None:
    p, q = rows(9, 7, 0), rows(50, 7, 1)
    expected = function(p, q, range=range)
    for value in (math.nan, math.inf):
        broken = p.clone()
        broken[4, 2] = value
        result = function(broken, q, range=range)
        assert result[4].isnan().all()
        keep = torch.arange(9) != 4
        assert torch.equal(result[keep], expected[keep])


@pytest.mark.parametrize("range", [None, (0.0, 16.2)])
@pytest.mark.parametrize("position", [0, 31, 4097, 4999])
def test_nan_in_the_reference_reaches_every_row(isa, position, range) -> None:
    p, q = rows(5, 7, 0), rows(5000, 7, 1)
    q[position, 3] = math.nan
    assert kl_histogram(p, q, range=range).isnan().all()


def test_a_row_of_zeros() -> None:
    p, q = torch.zeros(1, 4), torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, 9]])
    # Smoothing makes it uniform; without smoothing there is nothing to divide by.
    assert torch.equal(kl_histogram(p, q, range=(0.0, 1.0)), kl_histogram(q[:1], q, range=(0.0, 1.0)))
    assert kl_histogram(p, q, range=(0.0, 1.0), eps=0).isnan().all()
    assert kl_histogram(q, p, range=(0.0, 1.0), eps=0).isnan().all()


def test_ranges_of_any_width() -> None:
    p, q = rows(3, 5, 0), rows(60, 5, 1)
    values = divergences(p, q, 1e-7)
    for range in [(-1e300, 1e300), (-5.0, 1e-200), (1e5, 1e6), (-2, -1)]:
        expected = np.stack([np.histogram(x.clip(*range), 32, range)[0] for x in values]) / 60
        np.testing.assert_array_equal(kl_histogram(p, q, range=range).numpy(), expected.astype(np.float32))


@pytest.mark.parametrize("range", [None, (0.0, 16.2)])
@pytest.mark.parametrize(("length", "classes"), [(5000, 512), (1_500_000, 1)])
def test_a_reference_too_large_to_keep(isa, range, length, classes) -> None:
    # Its logarithms are made span by span. The last span has a value far outside of the others.
    p, q = rows(3, classes, 0), rows(length, classes, 1)
    q[-1, 0] += 100
    assert_histograms(kl_histogram(p, q, range=range), divergences(p, q, 1e-7), 32, range)


@pytest.mark.parametrize("range", [None, (0.0, 16.2)])
def test_more_rows_than_are_counted_at_once(isa, range) -> None:
    p, q, bins = rows(130, 3, 0), rows(40, 3, 1), 20_000
    result = kl_histogram(p, q, bins=bins, range=range)
    assert torch.equal(result, torch.cat([kl_histogram(row[None], q, bins=bins, range=range) for row in p]))
    assert_histograms(result, divergences(p, q, 1e-7), bins, range)


def test_memory_does_not_grow_with_the_number_of_pairs() -> None:
    # One byte per pair would be 100 MB.
    script = """
import resource, torch
from ralx.ops import kl_histogram
p = torch.rand(10_000, 3)
for range in (None, (0.0, 16.2)):
    kl_histogram(p[:100], p[:100], range=range)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for range in (None, (0.0, 16.2)):
    kl_histogram(p, p, range=range)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 16 * 1024, f"grown by {done.stdout} KiB"


def test_the_reference_works_in_chunks() -> None:
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                self.numel = max(self.numel, result.numel())
            return result

    p, q = rows(6000, 2, 0), rows(2000, 2, 1)
    with Largest() as largest:
        result = kl_histogram_ref(p, q)
    assert 0 < largest.numel <= 2**22 < 6000 * 2000
    assert torch.equal(result[5000:5003], kl_histogram_ref(p[5000:5003], q))


def test_numbers_may_be_numpys() -> None:
    p, q = rows(4, 3, 0), rows(5, 3, 1)
    result = kl_histogram(p, q, bins=np.int32(4), range=(np.float32(0), np.int64(2)), eps=np.float32(0.25))
    assert torch.equal(result, kl_histogram(p, q, bins=4, range=(0, 2), eps=0.25))


@pytest.mark.parametrize("function", [kl_histogram, kl_histogram_ref])
@pytest.mark.parametrize("range", [None, (0.0, 16.2)])
def test_what_is_negative_once_normalised_makes_nan(isa, function, range) -> None:
    good = torch.tensor([[0.5, 0.25, 0.25]])
    for bad in ([1.5, -0.5, 0.5], [-1.5, 0.5, 0.5]):
        result = function(torch.cat([torch.tensor([bad]), good]), good, range=range)
        assert result.isnan().all(1).tolist() == [True, False]
        assert function(good, torch.tensor([bad]), range=range).isnan().all()
    # Smoothing may lift a number above 0, and a row of negative numbers normalises like its opposite.
    lifted = torch.tensor([[0.5, 0.5, -1e-8], [-2.0, -1.0, -1.0]])
    assert not function(lifted, good, range=range).isnan().any()


GOOD = torch.rand(4, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"p": GOOD.numpy()}, TypeError, r"p must be a torch.Tensor, got numpy.ndarray"),
        ({"q": GOOD.numpy()}, TypeError, r"q must be a torch.Tensor, got numpy.ndarray"),
        ({"p": [[0.5, 0.5]]}, TypeError, r"p must be a torch.Tensor, got builtins.list"),
        ({"p": GOOD.to_sparse()}, TypeError, r"p must be a dense \(strided\) tensor, .* torch.sparse_coo"),
        ({"p": GOOD.long()}, TypeError, r"p must be float32, .*, got torch.int64"),
        ({"q": GOOD.bool()}, TypeError, r"q must be float32, .*, got torch.bool"),
        ({"q": GOOD.to(torch.complex64)}, TypeError, r"q must be float32, .*, got torch.complex64"),
        ({"p": torch.tensor(1.0)}, ValueError, r"p must be \[..., C\], got a tensor without axes"),
        ({"q": GOOD[0]}, ValueError, r"q must be \[L, C\], got shape \[3\]"),
        ({"q": GOOD[None]}, ValueError, r"q must be \[L, C\], got shape \[1, 4, 3\]"),
        ({"p": GOOD[:, :0], "q": GOOD[:, :0]}, ValueError, r"p must have at least one class, .* \[4, 0\]"),
        ({"q": GOOD[:, :2]}, ValueError, r"q must have as many classes as p, got 2 for q and 3 for p"),
        ({"q": GOOD.to("meta")}, ValueError, r"p and q must be on one device, got cpu and meta"),
        ({"bins": 0}, ValueError, r"bins must be in 1..\d+, got 0"),
        ({"bins": -3}, ValueError, r"bins must be in 1..\d+, got -3"),
        ({"bins": 2**31}, ValueError, r"bins must be in 1..2147483647, got 2147483648"),
        ({"bins": 3.0}, TypeError, r"bins must be an integer, got 3.0"),
        ({"bins": True}, TypeError, r"bins must be an integer, got True"),
        ({"range": (1.0, 1.0)}, ValueError, r"range must have low < high, both finite, got \(1.0, 1.0\)"),
        ({"range": (2, 1)}, ValueError, r"range must have low < high, both finite, got \(2, 1\)"),
        ({"range": (0, math.inf)}, ValueError, r"range must have low < high, both finite, got \(0, inf\)"),
        ({"range": (math.nan, 1)}, ValueError, r"range must have low < high, both finite, got \(nan, 1\)"),
        ({"range": (0, 1, 2)}, ValueError, r"range must be two numbers .* or None, got \(0, 1, 2\)"),
        ({"range": 5.0}, TypeError, r"range must be two numbers \(low, high\) or None, got 5.0"),
        ({"range": ("a", 1)}, TypeError, r"range must be a number, got 'a'"),
        ({"eps": -1e-9}, ValueError, r"eps must be finite and at least 0, got -1e-09"),
        ({"eps": math.nan}, ValueError, r"eps must be finite and at least 0, got nan"),
        ({"eps": math.inf}, ValueError, r"eps must be finite and at least 0, got inf"),
        ({"eps": "small"}, TypeError, r"eps must be a number, got 'small'"),
        ({"eps": np.float32(math.inf)}, ValueError, r"eps must be finite and at least 0, got inf"),
        ({"eps": True}, TypeError, r"eps must be a number, got True"),
        ({"eps": 10**400}, ValueError, r"eps must be finite and at least 0, got 10000"),
        ({"range": (0, 10**400)}, ValueError, r"range must have low < high, both finite, got \(0, 10000"),
        ({"range": (-(10**400), 0)}, ValueError, r"range must have low < high, both finite, got \(-10000"),
        ({"range": (2**53, 2**53 + 1)}, ValueError, r"range must have low < high, both finite, got"),
        ({"range": (-1.5e308, 1.5e308)}, ValueError, r"range must have low < high, both finite, got"),
    ],
)
def test_rejections(arguments, error, message) -> None:
    with pytest.raises(error, match=message):
        kl_histogram(**({"p": GOOD, "q": GOOD} | arguments))


@pytest.mark.parametrize("large", [1e308, 1.7e308])
def test_rows_whose_sum_is_too_large_for_float64(large) -> None:
    p = torch.tensor([[large, large, large], [large, 0.0, 0.0]], dtype=torch.float64)
    shares = torch.tensor([[1 / 3, 1 / 3, 1 / 3], [1.0, 0.0, 0.0]], dtype=torch.float64)
    for eps in (0.0, 1e-7):
        found = kl_histogram(p, p, bins=4, range=(0.0, 20.0), eps=eps)
        expected = kl_histogram(shares, shares, bins=4, range=(0.0, 20.0), eps=0.0)
        assert torch.equal(found, expected)
        assert torch.equal(kl_histogram_ref(p, p, 4, (0.0, 20.0), eps).float(), expected)
