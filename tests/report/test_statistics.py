"""The statistics, against SciPy, NumPy and what can be counted by hand."""

import random

import numpy as np
import pytest
import scipy.stats
from report_run import RESULTS

from ralx.report.statistics import (
    area_under,
    bootstrap_interval,
    compared_budget,
    comparison,
    methods_of,
    regions_to_reach,
    t_test,
)


def numbers(count, seed=0, mean=0.01, spread=0.02):
    draw = random.Random(seed)
    return [draw.gauss(mean, spread) for _ in range(count)]


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
    assert found["low"] < found["mean"] < found["high"]
    assert found["standard_error"] == pytest.approx(scipy.stats.sem(differences))


def test_what_says_nothing_has_no_p():
    assert t_test([0.3]) == (None, None)
    assert t_test([0.1, 0.1, 0.1]) == t_test([0.0, 0.0]) == t_test([0.1 + 0.2, 0.3]) == (None, None)
    assert comparison({0: 0.5}, {1: 0.4}) is None
    single = comparison({0: 0.5}, {0: 0.4})
    assert single["n"] == 1 and {single[name] for name in ("std", "low", "high", "standard_error")} == {None}


def test_the_bootstrap_interval_is_that_of_the_mean_and_the_same_at_every_call():
    low, high = bootstrap_interval([0.0, 1.0])
    assert (low, high) == (0.0, 1.0)  # a quarter of the samples have 0 twice, a quarter 1
    values = numbers(200, 5)
    low, high = bootstrap_interval(values)
    half = 1.96 * scipy.stats.sem(values)
    assert (low, high) == pytest.approx((np.mean(values) - half, np.mean(values) + half), abs=0.1 * half)
    assert bootstrap_interval(values) == (low, high)


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


def test_methods_come_in_the_order_of_the_report():
    records = [{"method": name} for name in ("uniform", "other", "bald", "entropy", "ralis")]
    assert methods_of(records) == ["ralis", "entropy", "bald", "uniform", "other"]


def test_classes_are_compared_where_most_methods_are():
    assert compared_budget(RESULTS) == 24
    assert compared_budget([r for r in RESULTS if r["budget"] == 48 or r["method"] == "ralis"]) == 48
