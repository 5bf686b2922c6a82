"""Times an op and its alternatives in turn: the op by pytest-benchmark, the alternatives around it."""

import random
import statistics
import time
from collections.abc import Callable, Iterator
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
    benchmark: Any,
    op: str,
    case: str,
    threads: int,
    comparison: Comparison,
    extra: dict[str, int],
    seconds: float,
) -> Result:
    """Checks the alternatives' results, then times them for about `seconds`. `benchmark`: pytest-benchmark's
    fixture, which times the op; `extra`: extra bytes by name."""
    not_run = first_calls(comparison)
    alternatives = [each for each in comparison.alternatives if each.name not in not_run]
    rounds = run_rounds(benchmark, comparison.run, alternatives, seconds)
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
    benchmark: Any, run: Callable[[], Any], alternatives: list[Alternative], seconds: float
) -> list[dict[str, float]]:
    """Seconds by name of each round. A round runs the op and every alternative that has time left of its
    share of `seconds`, once each, in an order of its own: nobody always finds the same caches, and a machine
    that slows down slows all of them."""
    share = seconds / (len(alternatives) + 1)
    number = rounds_within(share, min(timed(each.run) for each in alternatives))
    rounds: list[dict[str, float]] = []

    def take_turns() -> Iterator[None]:
        """Runs the alternatives of round after round, and waits wherever it is the op's turn."""
        order = random.Random(0)
        runs = {each.name: each.run for each in alternatives}
        spent: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(number):
            names = [OP, *(name for name in runs if not is_done(spent[name], share))]
            order.shuffle(names)
            took = {}
            for name in names:
                if name == OP:
                    yield
                    took[name] = benchmark.stats.stats.data[-1]
                else:
                    took[name] = timed(runs[name])
                    spent[name].append(took[name])
            rounds.append(took)

    def own() -> None:
        run()  # its result is freed while the clock runs, as the alternatives' are

    turns = take_turns()
    benchmark.pedantic(own, setup=lambda: next(turns, None), rounds=number)
    next(turns, None)  # who comes after the op in the last round
    return rounds


def rounds_within(seconds: float, fastest: float) -> int:
    """Enough for the alternative whose call takes the `fastest` seconds."""
    fewest, most = ROUNDS
    return min(max(int(seconds / fastest), fewest), most)


def is_done(spent: list[float], seconds: float) -> bool:
    return len(spent) >= ROUNDS[0] and sum(spent) >= seconds


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
