"""The numbers that the report shows: means over seeds, the order of methods, who is best."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from ralx.records import Record

# The order in which methods are shown; others follow by name.
METHODS = (
    *("ralis", "entropy", "bald", "uniform", "ralis-all", "margin", "least-confidence", "ripu"),
    *("class-balanced", "k-centre", "stratified", "cheat"),
)
REFERENCES = {"theta0": "θ0", "theta0_prime": "θ0′", "full_supervision": "full supervision"}
TARGET_SHARE = 0.96  # the share of full supervision's mIoU that the paper's headline compares with
TARGET_TEXT = f"{TARGET_SHARE * 100:.0f} %"


class Stat(NamedTuple):
    """Mean and sample standard deviation over seeds; `std` is None for a single seed."""

    mean: float
    std: float | None

    def text(self, scale: float = 100.0, digits: int = 1) -> str:
        mean = f"{self.mean * scale:.{digits}f}"
        return mean if self.std is None else f"{mean} ± {self.std * scale:.{digits}f}"


def mean_std(values: Iterable[float | None]) -> Stat | None:
    """Mean and sample standard deviation of the values that are there; None if none is."""
    present = [value for value in values if value is not None]
    if not present:
        return None
    mean = math.fsum(present) / len(present)
    if len(present) == 1:
        return Stat(mean, None)
    return Stat(mean, math.sqrt(math.fsum((value - mean) ** 2 for value in present) / (len(present) - 1)))


def methods_of(records: Iterable[Record]) -> list[str]:
    """The methods that occur, in the order in which they are shown."""
    found = {record["method"] for record in records}
    return [method for method in METHODS if method in found] + sorted(found.difference(METHODS))


def budgets_of(results: Iterable[Record]) -> list[int]:
    return sorted({record["budget"] for record in results})


def seeds_of(records: Iterable[Record]) -> list[int]:
    return sorted({record["seed"] for record in records})


def classes_of(records: Sequence[Record]) -> list[str]:
    return list(records[0]["iou"]) if records else []


def stat_of(
    records: Iterable[Record], value: Callable[[Record], float | None], method: str, budget: int | None = None
) -> Stat | None:
    """mean_std of `value` over the seeds of one method (and budget, if given)."""
    return mean_std(
        value(record)
        for record in records
        if record["method"] == method and (budget is None or record["budget"] == budget)
    )


def stats_of(
    records: Sequence[Record],
    values: Iterable[Callable[[Record], float | None]],
    method: str,
    budget: int | None = None,
) -> list[Stat | None]:
    """stat_of each value."""
    return [stat_of(records, value, method, budget) for value in values]


def miou_of(record: Record) -> float:
    return record["miou"]


def entropy_of(record: Record) -> float:
    return record["selected_entropy"]


def class_iou(name: str) -> Callable[[Record], float | None]:
    return lambda record: record["iou"].get(name)


def class_share(index: int) -> Callable[[Record], float]:
    return lambda record: record["selected_class_fraction"][index]


def best_of(stats: Mapping[str, Stat | None], scale: float = 100.0, digits: int = 1) -> set[str]:
    """The names whose mean, as shown, is highest: equal figures share it. Empty for fewer than two names."""
    shown = {name: round(stat.mean * scale, digits) for name, stat in stats.items() if stat is not None}
    if len(shown) < 2:
        return set()
    return {name for name, value in shown.items() if value == max(shown.values())}


def compared_budget(results: Sequence[Record]) -> int:
    """The smallest budget that most methods have: there the choices differ most."""
    return min(budgets_of(results), key=lambda budget: (-len(methods_at(results, budget)), budget))


def methods_at(results: Sequence[Record], budget: int) -> list[str]:
    return methods_of(record for record in results if record["budget"] == budget)


def seeds_text(records: Sequence[Record]) -> str:
    """Says over what a mean ± std runs."""
    count = len(seeds_of(records))
    return "one seed" if count == 1 else f"mean ± std over {count} seeds"
