"""Times one op and its alternatives on a GPU: part of gpu_check.py, which runs it for op after op.

python bench/gpu_timings.py region_features --json FILE [--device cuda] [--small] [--seconds 1]

A round calls each once, in an order of its own. Before each call the GPU reads more than its L2 cache holds,
then sleeps while the host gets ahead: what CUDA events around the call measure is the device's time, from
memory that isn't cached, without the launches. Two more rows tell the op's own time otherwise: in a CUDA
graph of several calls with inputs of their own, and from the host, which launches a call and waits for it.

The limit is the time in which a copy, of much more than the cache holds, moves the bytes that the op reads:
its ratio is the share of the copy's bandwidth that the op reaches.
"""

import argparse
import importlib
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import limits
import sizes
import torch
from checks import identical
from machine import describe_machine
from memory import bytes_of
from results import COMPILED, EAGER, PUBLISHED, Report, Result, save
from timings import OP, ROUNDS, Alternative, CannotCompile, Comparison, is_done, timed, timing

GRAPH, HOST = "ralx in a CUDA graph", "ralx as the host sees it"
ON_CPU = ("torch.exp", "copy", PUBLISHED)  # alternatives that say nothing of a GPU
FLUSHED = 2**28  # bytes that are read between calls
SLEEP = 2_000_000  # cycles of the device, about a millisecond: the host launches a call meanwhile
GRAPH_CALLS = 16  # at most
WARM_UP = 0.3  # seconds, after which a GPU's clock has risen


class Gpu:
    """Seconds that a call takes on the device."""

    def __init__(self) -> None:
        self.flushed = torch.zeros(FLUSHED // 4, device="cuda")

    def __call__(self, run: Callable[[], object]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.flushed.sum()  # reads only: nothing is left that the call would have to write back
        torch.cuda._sleep(SLEEP)
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3


def from_host(run: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    return timed(lambda: (run(), torch.cuda.synchronize()))


def main() -> int:
    options = parse()
    torch.set_float32_matmul_precision("highest")
    cases = (sizes.SMALL if options.small else sizes.GPU)[options.op]
    machine = describe_machine(options.device)
    results, failed = [], []
    for case in cases:
        try:
            result, wrong = measure(options.op, case, options.device, options.seconds)
            results.append(result)
            failed += [f"{case.name}: {each}" for each in wrong]
        except Exception as error:
            failed.append(f"{case.name}: {short(error)}")
        torch.compiler.reset()
        # Whole or not at all: this process may be stopped any time.
        partly = options.json.with_suffix(".part")
        save(Report(machine, options.small, results), partly)
        partly.replace(options.json)
    for each in failed:
        print(f"FAILED {options.op}, {each}")
    print(f"{len(results)} of {len(cases)} cases timed")
    return 1 if failed else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("op", choices=sizes.GPU)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="small inputs, for CI")
    parser.add_argument("--seconds", type=float, default=1.0, help="to time each case for")
    return parser.parse_args()


def measure(op: str, case: sizes.Case, device: str, seconds: float) -> tuple[Result, list[str]]:
    """The case's result, and which alternatives gave something else or failed where they mustn't."""
    make = importlib.import_module(f"bench_{op}").make
    on_gpu = device != "cpu"
    if not on_gpu:  # where this is tried out: compiling takes long there, and is timed by pytest bench/
        case = replace(case, compiled=False)
    with torch.device(device):
        comparison = make(case)
    alternatives = alternatives_on(device, comparison)
    not_run, wrong = first_calls(comparison, alternatives)
    if on_gpu:
        add_graph(alternatives, not_run, wrong, lambda: in_graph(make, case, device, comparison))
    alternatives = [each for each in alternatives if each.name not in not_run]
    clock = Gpu() if on_gpu else timed
    clocks = {HOST: from_host}
    runs = {OP: comparison.run} | {each.name: each.run for each in alternatives}
    extra = extra_bytes(runs) if on_gpu else {}
    warm_up(comparison.run)
    rounds = run_rounds({name: lambda n=name: clocks.get(n, clock)(runs[n]) for name in runs}, seconds)
    own = [each[OP] for each in rounds]
    result = Result(
        op=op,
        case=case.name,
        threads=torch.get_num_threads(),
        work=comparison.work,
        rounds=len(rounds),
        seconds_min=min(own),
        seconds_median=statistics.median(own),
        extra_bytes=extra.get(OP),
        alternatives=[timing(each, rounds, extra) for each in alternatives],
        not_run=not_run,
    )
    return result, wrong


def alternatives_on(device: str, comparison: Comparison) -> list[Alternative]:
    """Those of the case that say something of a GPU, and its limit."""
    alternatives = [each for each in comparison.alternatives if each.name not in ON_CPU]
    if comparison.work.unit == "B":
        copied = limits.COPIED if device != "cpu" else int(comparison.work.amount)
        alternatives.append(limits.bandwidth(comparison.work.amount, device, copied))
    if device != "cpu":
        alternatives.append(Alternative(HOST, comparison.run, identical))
    return alternatives


def first_calls(comparison: Comparison, alternatives: list[Alternative]) -> tuple[dict[str, str], list[str]]:
    """Why alternatives couldn't be run, by name; and which of them gave something else."""
    not_run, wrong = {}, []
    ours = comparison.run()
    for each in alternatives:
        try:
            theirs = each.run()
            if each.check:
                each.check(ours, theirs)
        except (CannotCompile, torch.OutOfMemoryError) as error:
            not_run[each.name] = short(error)
        except Exception as error:
            not_run[each.name] = short(error)
            wrong.append(f"{each.name}: {short(error)}")
    return not_run, wrong


def add_graph(
    alternatives: list[Alternative],
    not_run: dict[str, str],
    wrong: list[str],
    make: Callable[[], Alternative],
) -> None:
    """Every op can be captured: a failure is a defect."""
    try:
        alternatives.append(make())
    except Exception as error:
        not_run[GRAPH] = short(error)
        wrong.append(f"{GRAPH}: {short(error)}")


def in_graph(
    make: Callable[[Any], Comparison], case: sizes.Case, device: str, first: Comparison
) -> Alternative:
    """As many calls as it takes for their inputs not to fit into the cache, each with its own."""
    calls = 1
    if first.work.unit == "B":
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        calls = min(int(4 * cache / first.work.amount) + 1, GRAPH_CALLS)
    with torch.device(device):
        runs = [first.run, *(make(case).run for _ in range(calls - 1))]
    expected = first.run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = [run() for run in runs]

    def replay() -> None:
        assert runs  # they own the inputs, which the graph reads again
        graph.replay()

    replay()
    for result in results:
        identical(result, expected)
    return Alternative(GRAPH, replay, identical, share=calls)


def extra_bytes(runs: dict[str, Callable[[], Any]]) -> dict[str, int]:
    """Peak memory beyond input and output that torch's allocator gives out."""
    return {name: peak_of(runs[name]) for name in (OP, EAGER, COMPILED) if name in runs}


def peak_of(run: Callable[[], Any]) -> int:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    output = run()
    return max(torch.cuda.max_memory_allocated() - before - bytes_of(output), 0)


def warm_up(run: Callable[[], object]) -> None:
    start = time.perf_counter()
    while time.perf_counter() - start < WARM_UP:
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()


def run_rounds(clocks: dict[str, Callable[[], float]], seconds: float) -> list[dict[str, float]]:
    """Seconds by name of each round; `clocks` call each and tell them. Who has had its share of `seconds`
    leaves, the op last of all."""
    order, share = random.Random(0), seconds / len(clocks)
    spent: dict[str, list[float]] = {name: [] for name in clocks}
    rounds: list[dict[str, float]] = []
    while len(rounds) < ROUNDS[1]:
        names = [name for name in clocks if not is_done(spent[name], share)]
        if not names:
            break
        names = list({OP: None} | dict.fromkeys(names))
        order.shuffle(names)
        rounds.append({name: clocks[name]() for name in names})
        for name, took in rounds[-1].items():
            spent[name].append(took)
    return rounds


def short(error: BaseException) -> str:
    """Its kind and first line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
