"""Times an op and its baselines in turn, and shows what came out."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from ralx import _C

ROUNDS = (3, 30)  # at least, at most


@dataclass(frozen=True)
class Work:
    """What a call does, to tell how fast it is: bytes that it has to read, or floating-point operations."""

    amount: float
    unit: str  # "B" or "flop"


@dataclass(frozen=True)
class Baseline:
    """What the op is compared with. `run` may do only a `share` of the work: its times are divided by it."""

    name: str
    run: Callable[[], object]
    share: float = 1.0


@dataclass(frozen=True)
class Timing:
    name: str
    seconds_min: float
    seconds_median: float
    ratio: float  # times as long as the op; median over the rounds
    share: float  # of the work, done and scaled up


@dataclass(frozen=True)
class Result:
    op: str
    case: str
    work: Work
    rounds: int
    seconds_min: float
    seconds_median: float
    baselines: list[Timing]


def measure(
    benchmark: Any,
    op: str,
    case: str,
    run: Callable[[], object],
    work: Work,
    baselines: list[Baseline],
    seconds: float,
) -> Result:
    """Runs rounds for about `seconds`: in each, every baseline once and then the op, which is timed by
    `benchmark`, pytest-benchmark's fixture."""
    times: dict[str, list[float]] = {baseline.name: [] for baseline in baselines}

    def run_baselines() -> None:
        for baseline in baselines:
            times[baseline.name].append(timed(baseline.run) / baseline.share)

    run_baselines(), run()  # the first calls pay for memory and threads
    rounds = int(seconds / (timed(run_baselines) + timed(run)))
    rounds = min(max(rounds, ROUNDS[0]), ROUNDS[1])
    for measured in times.values():
        measured.clear()
    benchmark.pedantic(run, setup=run_baselines, rounds=rounds)
    own = benchmark.stats.stats.data
    timings = [timing(baseline, times[baseline.name], own) for baseline in baselines]
    return Result(op, case, work, rounds, min(own), statistics.median(own), timings)


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def timing(baseline: Baseline, seconds: list[float], own: list[float]) -> Timing:
    ratio = statistics.median(theirs / ours for theirs, ours in zip(seconds, own, strict=True))
    return Timing(baseline.name, min(seconds), statistics.median(seconds), ratio, baseline.share)


def as_text(results: list[Result]) -> str:
    table = Table(box=None, pad_edge=False)
    table.add_column("op, case")
    table.add_column("measured")
    for heading in ("min ms", "median ms", "ratio", "rate"):
        table.add_column(heading, justify="right")
    for result in results:
        best, median = milliseconds(result.seconds_min), milliseconds(result.seconds_median)
        table.add_row(
            f"{result.op}, {result.case}", "ralx", best, median, "", rate(result.work, result.seconds_min)
        )
        for each in result.baselines:
            name = each.name if each.share == 1 else f"{each.name} ({each.share:.1%} of it, scaled up)"
            best, median = milliseconds(each.seconds_min), milliseconds(each.seconds_median)
            table.add_row("", name, best, median, f"{each.ratio:.1f}×", rate(result.work, each.seconds_min))
    text = StringIO()
    Console(file=text, width=200).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}"


def rate(work: Work, seconds: float) -> str:
    return f"{work.amount / seconds / 1e9:.2f} G{work.unit}/s"


def describe_machine() -> dict[str, str | int]:
    """What the numbers depend on; not the host's name, nor where its files lie."""
    versions = {name: metadata.version(name) for name in ("ralx", "torch", "numpy", "scipy")}
    return {
        "CPU": cpu_model(),
        "architecture": platform.machine(),
        "instruction set": _C.active_isa().name,
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **versions,
    }


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown"
