"""How fast the ops have to be, and whether they were. A missed bar is a number to report, not an error.

Set for two cores and for one H200, with the alternatives in the same run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from results import BANDWIDTH, COMPILED, EAGER, SDK, Report, Result

THREADS = 2


@dataclass(frozen=True)
class Quantity:
    """`text` says the bar in words, `of` measures it (given the alternative's name, if it is about one)."""

    text: str
    of: Callable[[Result, str], float | None]
    more_is_better: bool = False


def ratio(result: Result, against: str) -> float | None:
    timing = result.alternative(against)
    return timing.ratio if timing else None


def time_in(result: Result, against: str) -> float | None:
    times = ratio(result, against)
    return 1 / times if times else None


def extra(result: Result, _: str) -> float | None:
    return None if result.extra_bytes is None else result.extra_bytes / 1e6


def extra_share(result: Result, _: str) -> float | None:
    return None if result.extra_bytes is None else result.extra_bytes / result.work.amount


TIME = Quantity("at most {limit:g} × the time of {against}", time_in)
SPEEDUP = Quantity("at least {limit:g} × as fast as {against}", ratio, more_is_better=True)
SHARE = Quantity("at least {limit:.0%} of the {against}", ratio, more_is_better=True)
SECONDS = Quantity("within {limit:g} s", lambda result, _: result.seconds_median)
EXTRA = Quantity("extra memory within {limit:g} MB", extra)
EXTRA_SHARE = Quantity("extra memory within {limit:.0%} of the input", extra_share)


class Bar(NamedTuple):
    op: str
    case: str
    quantity: Quantity
    limit: float
    against: str = ""

    @property
    def text(self) -> str:
        return self.quantity.text.format(limit=self.limit, against=self.against)


CAMVID = "CamVid 4×11×360×480"
PASSES = "CamVid 2×11×360×480, 20 passes"
PAIRS = "2560×2560×19"
ALL_PAIRS = "Cityscapes' pools 25600×25600×19"

BARS = [
    Bar("region_features", CAMVID, TIME, 0.7, "torch.exp"),
    Bar("region_features", CAMVID, SPEEDUP, 3, COMPILED),
    Bar("region_features", CAMVID, SPEEDUP, 30, EAGER),
    Bar("region_features", f"{CAMVID}, bfloat16", TIME, 1, "ralx float32"),
    Bar("region_features", f"{CAMVID}, upsampled ×4", SPEEDUP, 3, COMPILED),
    Bar("region_features", f"{CAMVID}, upsampled ×4", SPEEDUP, 25, EAGER),
    Bar("bald", PASSES, TIME, 1, "torch.exp"),
    Bar("bald", PASSES, SPEEDUP, 4, COMPILED),
    Bar("bald", PASSES, SPEEDUP, 10, EAGER),
    Bar("bald", PASSES, EXTRA_SHARE, 0.05),
    Bar("kl_histogram", PAIRS, TIME, 3, "torch.mm"),
    Bar("kl_histogram", PAIRS, SPEEDUP, 3, EAGER),
    Bar("kl_histogram", f"{PAIRS}, fixed range", TIME, 2, "torch.mm"),
    Bar("kl_histogram", f"{PAIRS}, fixed range", SPEEDUP, 3, EAGER),
    Bar("kl_histogram", ALL_PAIRS, SECONDS, 2),
    Bar("kl_histogram", ALL_PAIRS, EXTRA, 50),
    Bar("kl_histogram", f"{ALL_PAIRS}, fixed range", SECONDS, 2),
    Bar("kl_histogram", f"{ALL_PAIRS}, fixed range", EXTRA, 50),
    Bar("confusion_matrix", CAMVID, TIME, 1.25, "copy"),
    Bar("confusion_matrix", CAMVID, SPEEDUP, 8, EAGER),
    Bar("action", "Cityscapes", SECONDS, 2.5),
    Bar("label_rle", "CamVid 360×480, blobs of 5 pixels", SPEEDUP, 100, SDK),
    Bar("label_rle", "Cityscapes 1024×2048, blobs of 20 pixels", SPEEDUP, 100, SDK),
]


STREET = "Cityscapes 1×19×1024×2048"
STREET_PASSES = f"{STREET}, 20 passes"
POOLS = "25600×25600×19, fixed range"

GPU_BARS = [
    Bar("region_features", STREET, SHARE, 0.85, BANDWIDTH),
    Bar("region_features", STREET, SPEEDUP, 2, COMPILED),
    Bar("region_features", f"{STREET}, bfloat16", SHARE, 0.85, BANDWIDTH),
    Bar("region_features", f"{STREET}, bfloat16", SPEEDUP, 2, COMPILED),
    Bar("region_features", f"{STREET}, upsampled ×4", SPEEDUP, 4, COMPILED),
    Bar("confusion_matrix", STREET, SHARE, 0.85, BANDWIDTH),
    Bar("confusion_matrix", STREET, SPEEDUP, 2, COMPILED),
    Bar("confusion_matrix", f"{STREET}, bfloat16", SHARE, 0.85, BANDWIDTH),
    Bar("confusion_matrix", f"{STREET}, bfloat16", SPEEDUP, 2, COMPILED),
    Bar("bald", STREET_PASSES, SHARE, 0.8, BANDWIDTH),
    Bar("bald", STREET_PASSES, SPEEDUP, 2, COMPILED),
    Bar("bald", f"{STREET_PASSES}, bfloat16", SHARE, 0.8, BANDWIDTH),
    Bar("kl_histogram", POOLS, TIME, 1, "torch.mm"),
    Bar("kl_histogram", POOLS, SPEEDUP, 2, COMPILED),
    Bar("action", "Cityscapes", SECONDS, 0.02),
    Bar("action", "Cityscapes", SPEEDUP, 2, COMPILED),
    Bar("step", "Cityscapes", SPEEDUP, 2, COMPILED),
]


class Verdict(NamedTuple):
    bar: Bar
    measured: float | None  # None: the case or the alternative was not run
    shortfall: float | None  # measured over limit, or the other way round where more is better; > 1 misses

    @property
    def number(self) -> str:
        return "" if self.measured is None else f"{self.measured:.3g}"

    @property
    def text(self) -> str:
        if self.shortfall is None:
            return "not measured"
        return "met" if self.shortfall <= 1 else f"missed by {self.shortfall:.2f} ×"


def bars_for(report: Report) -> list[Bar]:
    return GPU_BARS if report.gpu else BARS


def with_bars(report: Report) -> list[Result]:
    """The cases that a bar is about; all where there are none, as in a small run."""
    wanted = {(bar.op, bar.case) for bar in bars_for(report)}
    return [each for each in report.results if (each.op, each.case) in wanted] or report.results


def judge(results: list[Result], bars: list[Bar]) -> list[Verdict]:
    by_case = {(result.op, result.case): result for result in results}
    return [verdict(bar, by_case.get((bar.op, bar.case))) for bar in bars]


def verdict(bar: Bar, result: Result | None) -> Verdict:
    measured = bar.quantity.of(result, bar.against) if result else None
    if measured is None:
        return Verdict(bar, None, None)
    shortfall = bar.limit / measured if bar.quantity.more_is_better else measured / bar.limit
    return Verdict(bar, measured, shortfall)
