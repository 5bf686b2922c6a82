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
    regions_to_reach,
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
    records, references = results.run.results, results.run.references
    methods = list(dict.fromkeys(record["method"] for record in records))  # in the study's order
    baselines = [method for method in baselines if method in methods] or methods[:1]
    start = next(iter(_by_seed(references, "miou", method="theta0_prime").values()), None)
    full = list(_by_seed(references, "miou", method="full_supervision").values())
    target = TARGET_SHARE * fmean(full) if full else None
    budgets = budgets_of(records)
    at = {b: {m: _by_seed(records, "miou", method=m, budget=b) for m in methods} for b in budgets}
    mistaken = {
        b: {m: _by_seed(results.selected, "mistaken_share", method=m, budget=b) for m in methods}
        for b in budgets
    }
    curves: dict[str, dict[int, dict[int, float]]] = {method: {} for method in methods}
    for record in records:  # by method, seed and budget
        curves[record["method"]].setdefault(record["seed"], {})[record["budget"]] = record["miou"]
    # A curve that lacks budgets so far would have an area of another width.
    areas = {
        m: {seed: area_under(c) for seed, c in curves[m].items() if len(c) == len(budgets)} for m in methods
    }
    return {
        "split": results.measured_on,
        "full_supervision": summary(full) if full else None,
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


def _by_seed(records: Iterable[Record], field: str, **of: Any) -> dict[int, float]:
    """seed → the field of its record that has the values `of`"""
    return {r["seed"]: r[field] for r in records if all(r[name] == value for name, value in of.items())}


def _compared(
    values: dict[str, dict[int, float]], method: str, baselines: Sequence[str]
) -> dict[str, Any] | None:
    """`summary` of the method's values by seed, against each baseline, and its share of the way."""
    if not values[method]:
        return None
    own = values[method]
    others = [baseline for baseline in baselines if baseline != method]
    return summary(list(own.values())) | {
        "share_of_way": _share(values, method),
        "against": {name: found for name in others if (found := comparison(own, values[name]))},
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
    return (value - bottom) / (top - bottom)


def _labels(records: Sequence[Record], method: str, budget: int, results: StudyResults) -> dict[str, Any]:
    """What was labelled, on average over seeds."""
    pixels = fmean(_by_seed(records, "labelled_pixels", method=method, budget=budget).values())
    entropy = _by_seed(records, "selected_entropy", method=method, budget=budget)
    return {
        "labelled_pixels": pixels,
        "share_of_pool_pixels": pixels / results.pool_pixels,
        "total_labelled_pixels": results.known_pixels + pixels,
        "selected_entropy": summary(list(entropy.values())),
    }


def _reached(
    curves: dict[int, dict[int, float]], start: float | None, target: float | None
) -> dict[str, Any] | None:
    """Regions to the target, from θ0′ at 0: of the mean curve over the budgets that every seed has, and of
    each seed. null: not reached."""
    if target is None:
        return None
    origin = {} if start is None else {0: start}
    shared = set.intersection(*(set(curve) for curve in curves.values()))
    mean = {budget: fmean(curve[budget] for curve in curves.values()) for budget in shared}
    return {
        "of_mean": regions_to_reach(target, origin | mean),
        "by_seed": {str(s): regions_to_reach(target, origin | c) for s, c in sorted(curves.items())},
    }
