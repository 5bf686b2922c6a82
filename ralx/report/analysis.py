"""The statistics of a study's records."""

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from ralx.report.records import Record, StudyResults
from ralx.report.statistics import (
    TARGET_SHARE,
    area_under,
    budgets_of,
    comparison,
    mean_std,
    regions_to_reach,
    share_of_way,
    standard_error,
    summary,
)

FLOOR, CEILING = "uniform", "cheat"


def analyse(results: StudyResults, baselines: Sequence[str] = ()) -> dict[str, Any]:
    """JSON values. Of each method: at every budget and for the area under its curve the mean over seeds, the
    paired difference from each baseline and the share of the way from uniform to cheat; the same of the share
    of the labelled pixels that the segmenter had wrong when they were asked for; and the regions needed to
    reach 96 % of full supervision.

    The methods are compared with those of `baselines` that are there, or else with the first of them all.
    """
    records = results.records
    methods = list(dict.fromkeys(record["method"] for record in records))  # in the study's order
    baselines = [method for method in baselines if method in methods] or methods[:1]
    starts = _values(results.references, "theta0_prime")
    full = _values(results.references, "full_supervision")
    start = next(iter(starts.values()), None)
    target = TARGET_SHARE * mean if (mean := _mean(full.values())) is not None else None
    budgets = budgets_of(records)
    curves = {method: _curves(records, method) for method in methods}
    # A curve that lacks budgets so far would have an area of another width.
    areas = {
        m: {seed: area_under(c) for seed, c in curves[m].items() if len(c) == len(budgets)} for m in methods
    }
    at = {b: {m: {s: c[b] for s, c in curves[m].items() if b in c} for m in methods} for b in budgets}
    mistaken = {b: {m: _mistaken(results.selected, m, b) for m in methods} for b in budgets}
    return {
        "split": results.measured_on,
        "full_supervision": summary(list(full.values())) if full else None,
        "target_miou": target,
        "theta0_prime": start,
        "known_pixels": results.known_pixels,
        "pool_pixels": results.pool_pixels,
        "baselines": baselines,
        "methods": {
            method: {
                "area": _compared(areas, method, baselines),
                "budgets": {
                    str(budget): compared
                    | _labels(records, method, budget, results)
                    | {"mistaken_share": _compared(mistaken[budget], method, baselines)}
                    for budget in budgets
                    if (compared := _compared(at[budget], method, baselines))
                },
                "regions_to_target": _reached(curves[method], start, target),
            }
            for method in methods
        },
    }


def _values(records: Iterable[Record], method: str) -> dict[int, float]:
    return {record["seed"]: record["miou"] for record in records if record["method"] == method}


def _mean(values: Iterable[float | None]) -> float | None:
    stat = mean_std(values)
    return stat.mean if stat else None


def _curves(records: Sequence[Record], method: str) -> dict[int, dict[int, float]]:
    """seed → budget → mIoU"""
    curves: dict[int, dict[int, float]] = {}
    for record in records:
        if record["method"] == method:
            curves.setdefault(record["seed"], {})[record["budget"]] = record["miou"]
    return curves


def _mistaken(selected: Sequence[Record], method: str, budget: int) -> dict[int, float]:
    """seed → share of the labelled pixels that the segmenter had wrong when they were asked for"""
    mine = [r for r in selected if (r["method"], r["budget"]) == (method, budget)]
    return {r["seed"]: r["mistaken_share"] for r in mine}


def _compared(
    values: dict[str, dict[int, float]], method: str, baselines: Sequence[str]
) -> dict[str, Any] | None:
    """`summary` of the method's values by seed, against each baseline, and its share of the way."""
    if not values[method]:
        return None
    against = {
        baseline: comparison(values[method], values[baseline]) for baseline in baselines if baseline != method
    }
    return summary(list(values[method].values())) | {
        "share_of_way": _share(values, method),
        "against": {baseline: found for baseline, found in against.items() if found},
    }


def _share(values: dict[str, dict[int, float]], method: str) -> float | None:
    """From uniform to cheat, of the means over the seeds that all three have; None where the way isn't longer
    than twice its standard error: noise over noise."""
    if not {FLOOR, CEILING} <= values.keys():
        return None
    three = (values[method], values[FLOOR], values[CEILING])
    seeds = sorted(set.intersection(*(set(each) for each in three)))
    way = [values[CEILING][seed] - values[FLOOR][seed] for seed in seeds]
    error = standard_error(way)
    if error is None or fmean(way) <= 2 * error:
        return None
    value, bottom, top = (fmean(each[seed] for seed in seeds) for each in three)
    return share_of_way(value, bottom, top)


def _labels(records: Sequence[Record], method: str, budget: int, results: StudyResults) -> dict[str, Any]:
    """What was labelled, on average over seeds."""
    mine = [r for r in records if (r["method"], r["budget"]) == (method, budget)]
    pixels = _mean(record["labelled_pixels"] for record in mine) or 0.0
    return {
        "labelled_pixels": pixels,
        "share_of_pool_pixels": pixels / results.pool_pixels,
        "total_labelled_pixels": results.known_pixels + pixels,
        "selected_entropy": summary([record["selected_entropy"] for record in mine]),
    }


def _reached(
    curves: dict[int, dict[int, float]], start: float | None, target: float | None
) -> dict[str, Any] | None:
    """Regions to the target, from θ0′ at 0: of the mean curve over the budgets that every seed has, and of
    each seed. null: not reached."""
    if target is None or not curves:
        return None
    origin = {} if start is None else {0: start}
    shared = set.intersection(*(set(curve) for curve in curves.values()))
    mean = {budget: _mean(curve[budget] for curve in curves.values()) or 0.0 for budget in shared}
    return {
        "of_mean": regions_to_reach(target, origin | mean),
        "by_seed": {str(s): regions_to_reach(target, origin | c) for s, c in sorted(curves.items())},
    }
