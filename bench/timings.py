"""Times an op and its alternatives in turn."""

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from results import Result, Timing, Work

ROUNDS = (3, 30)  # of each alternative, at least and at most
OP = "ralx"


class CannotCompile(Exception):
    """The compiler has no code for an alternative, for the reason given."""


@dataclass(frozen=True)
class Alternative:
    """What the op is compared with.

    `check(ours, theirs)` asserts that both results are the same; a limit, which does only what the op can't
    do without, has nothing to check. `run` may do a `share` of the work: its times are divided by it.
    """

    name: str
    run: Callable[[], Any]
    check: Callable[[Any, Any], None] | None = None
    share: float = 1.0


@dataclass(frozen=True)
class Comparison:
    run: Callable[[], Any]
    work: Work
    alternatives: list[Alternative]


def measure(
    op: str, case: str, threads: int, comparison: Comparison, extra: dict[str, int], seconds: float
) -> Result:
    """Checks the alternatives' results, then times them for about `seconds`. `extra`: their extra bytes."""
    not_run = first_calls(comparison)
    alternatives = [each for each in comparison.alternatives if each.name not in not_run]
    rounds = run_rounds(comparison.run, alternatives, seconds)
    own = [each[OP] for each in rounds]
    return Result(
        op=op,
        case=case,
        threads=threads,
        work=comparison.work,
        rounds=len(rounds),
        seconds_min=min(own),
        seconds_median=statistics.median(own),
        extra_bytes=extra.get(OP),
        alternatives=[timing(each, rounds, extra) for each in alternatives],
        not_run=not_run,
    )


def first_calls(comparison: Comparison) -> dict[str, str]:
    """Compares the results. First calls also pay for memory, threads and the compiler. What can't be compiled
    comes back, with the reason."""
    not_run = {}
    ours = comparison.run()
    for each in comparison.alternatives:
        try:
            theirs = each.run()
        except CannotCompile as error:
            not_run[each.name] = str(error)
            continue
        if each.check:
            each.check(ours, theirs)
    return not_run


def run_rounds(
    run: Callable[[], Any], alternatives: list[Alternative], seconds: float
) -> list[dict[str, float]]:
    """Seconds by name of each round. A round runs the op and every alternative that has time left of its
    share of `seconds`, once each, in an order of its own: nobody always finds the same caches, and a machine
    that slows down slows all of them."""
    order = random.Random(0)
    runs = {OP: run} | {each.name: each.run for each in alternatives}
    waiting = [each.name for each in alternatives]
    spent: dict[str, list[float]] = {name: [] for name in runs}
    rounds = []
    while waiting:
        names = [OP, *waiting]
        order.shuffle(names)
        rounds.append({name: timed(runs[name]) for name in names})
        for name, taken in rounds[-1].items():
            spent[name].append(taken)
        waiting = [name for name in waiting if not is_done(spent[name], seconds / len(runs))]
    return rounds


def is_done(spent: list[float], seconds: float) -> bool:
    fewest, most = ROUNDS
    return len(spent) >= most or (len(spent) >= fewest and sum(spent) >= seconds)


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def timing(each: Alternative, rounds: list[dict[str, float]], extra: dict[str, int]) -> Timing:
    pairs = [(one[each.name] / each.share, one[OP]) for one in rounds if each.name in one]
    seconds = [theirs for theirs, _ in pairs]
    return Timing(
        name=each.name,
        limit=each.check is None,
        share=each.share,
        rounds=len(pairs),
        seconds_min=min(seconds),
        seconds_median=statistics.median(seconds),
        ratio=statistics.median(theirs / ours for theirs, ours in pairs),
        extra_bytes=extra.get(each.name),
    )
