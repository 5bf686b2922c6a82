"""The statistics against scipy and numpy, and against what can be counted by hand."""

import random

import numpy as np
import pytest
import scipy.stats

from ralx.study.statistics import (
    area_under,
    bootstrap_interval,
    comparison,
    regions_to_reach,
    share_of_way,
    summary,
    t_test,
)


def numbers(count, seed=0, mean=0.01, spread=0.02):
    draw = random.Random(seed)
    return [draw.gauss(mean, spread) for _ in range(count)]


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 7, 8, 9, 20, 51])
@pytest.mark.parametrize("mean", [-0.05, 0.0, 0.004, 0.03])
def test_the_t_test_is_scipys(count, mean):
    differences = numbers(count, seed=count, mean=mean)
    expected = scipy.stats.ttest_1samp(differences, 0.0)
    t, p = t_test(differences)
    assert t == pytest.approx(expected.statistic, rel=1e-9)
    assert p == pytest.approx(expected.pvalue, rel=1e-7, abs=1e-12)


def test_the_comparison_is_the_paired_test_of_the_shared_seeds():
    a = dict(enumerate(numbers(6, 1), start=2))
    b = dict(enumerate(numbers(6, 2)))
    shared = range(2, 6)
    found = comparison(a, b)
    expected = scipy.stats.ttest_rel([a[s] for s in shared], [b[s] for s in shared])
    assert found["n"] == 4
    assert (found["t"], found["p"]) == pytest.approx((expected.statistic, expected.pvalue))
    differences = np.array([a[s] - b[s] for s in shared])
    assert found["mean"] == pytest.approx(differences.mean())
    assert found["std"] == pytest.approx(differences.std(ddof=1))
    assert found["standard_error"] == pytest.approx(scipy.stats.sem(differences))


def test_pairing_matters():
    base = dict(enumerate(numbers(5, 3, mean=0.4, spread=0.1)))
    better = {seed: value + 0.01 + 1e-4 * seed for seed, value in base.items()}
    assert comparison(better, base)["p"] < 1e-5
    unpaired = scipy.stats.ttest_ind(list(better.values()), list(base.values())).pvalue
    assert unpaired > 0.5


def test_what_says_nothing_has_no_p():
    assert t_test([0.3]) == (None, None)
    assert t_test([0.1, 0.1, 0.1]) == (None, None)
    assert comparison({0: 0.5}, {1: 0.4}) is None
    assert comparison({0: 0.5}, {0: 0.4})["std"] is None


def test_the_bootstrap_interval_is_scipys():
    values = numbers(8, 5)
    expected = scipy.stats.bootstrap(
        (np.array(values),), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    low, high = bootstrap_interval(values)
    width = expected.high - expected.low
    assert abs(low - expected.low) < 0.03 * width and abs(high - expected.high) < 0.03 * width
    assert bootstrap_interval(values) == (low, high)


def test_a_summary_has_mean_std_and_interval():
    values = numbers(5, 6)
    found = summary(values)
    assert found["n"] == 5 and found["mean"] == pytest.approx(np.mean(values))
    assert found["std"] == pytest.approx(np.std(values, ddof=1))
    assert found["low"] < found["mean"] < found["high"]
    single = summary([0.5])
    assert (single["std"], single["low"], single["high"]) == (None, None, None)


def test_the_area_is_the_mean_height():
    curve = {240: 0.30, 480: 0.34, 960: 0.36}
    assert area_under(curve) == pytest.approx(np.trapezoid([0.30, 0.34, 0.36], [240, 480, 960]) / 720)
    assert area_under({960: 0.36, 240: 0.30, 480: 0.34}) == area_under(curve)
    assert area_under({240: 0.3}) == 0.3


def test_the_target_is_reached_between_two_budgets():
    curve = {0: 0.30, 240: 0.34, 480: 0.33, 960: 0.37}
    assert regions_to_reach(0.32, curve) == pytest.approx(120)
    assert regions_to_reach(0.35, curve) == pytest.approx(720), "where it rises for the first time"
    assert regions_to_reach(0.37, curve) == pytest.approx(960)
    assert regions_to_reach(0.30, curve) == 0
    assert regions_to_reach(0.38, curve) is None and regions_to_reach(0.1, {}) is None


def test_the_share_of_the_way():
    assert share_of_way(0.44, 0.40, 0.50) == pytest.approx(0.4)
    assert share_of_way(0.39, 0.40, 0.50) == pytest.approx(-0.1)
    assert share_of_way(0.44, 0.50, 0.40) is None and share_of_way(0.4, 0.4, 0.4) is None
