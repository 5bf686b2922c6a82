"""`pytest bench/ --benchmark`: every op beside its alternatives, timed in turn within one process.

    --benchmark   run the benchmarks (without it they are skipped)
    --small       small inputs, for CI
    --json FILE   keep the results

The alternatives of a case are the published algorithm's loops (published.py), eager torch and torch.compile
(eager.py), and a limit (limits.py). A round runs each of them and the op once, see timings.py. The table at
the end gives minimum and median, the median over the rounds of (time of the alternative / time of the op),
and the peak of extra memory, see memory.py; after a full run also which bars were met, see bars.py.

pytest-benchmark times the op; its options (--benchmark-json, --benchmark-compare, ...) are about that alone.

    python bench/readme.py FILE    the main cases and the bars as Markdown, from what --json kept
    python bench/picture.py FILE   the main cases as a picture
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sizes
import torch
from machine import describe_machine
from memory import extra_bytes
from results import Report, Result, save
from table import as_text
from timings import Comparison, measure

SECONDS_PER_CASE = {"small": 0.2, "full": 4.0}
RESULTS: list[Result] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ralx")
    group.addoption("--benchmark", action="store_true", dest="run_benchmarks", help="run the benchmarks")
    group.addoption("--small", action="store_true", dest="small_benchmarks", help="small inputs, for CI")
    group.addoption("--json", metavar="FILE", type=Path, dest="benchmark_results", help="keep the results")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("python_files", "bench_*.py")
    config.addinivalue_line("python_functions", "bench_*")
    config.option.benchmark_quiet = True  # pytest-benchmark's own table, which lacks the alternatives


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives each benchmark that takes a `case` those of its op, see sizes.py."""
    if "case" in metafunc.fixturenames:
        op = metafunc.module.__name__.removeprefix("bench_")
        table = sizes.SMALL if metafunc.config.getoption("small_benchmarks") else sizes.FULL
        metafunc.parametrize("case", table[op], ids=lambda case: case.name.replace("×", "x"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if not item.config.getoption("run_benchmarks"):
        # Not switched off, but asked for by name: --benchmark is the command of docs/speed.md, and CI runs
        # it; a plain `pytest` over the whole tree shouldn't spend minutes on timing.
        pytest.skip("run with --benchmark")


@pytest.fixture
def compare(request: pytest.FixtureRequest, benchmark: Any) -> Callable[..., None]:
    """compare(case, make): times what `make(case)` gives and keeps the result for the table."""
    seconds = SECONDS_PER_CASE["small" if request.config.getoption("small_benchmarks") else "full"]
    op = request.module.__name__.removeprefix("bench_")

    def compare(case: sizes.Case, make: Callable[[Any], Comparison]) -> None:
        if benchmark.disabled:
            # Asked for by whoever ran it so. Benchmarks at once would time each other, and without timing
            # there are no ratios to give.
            pytest.skip("pytest-benchmark times nothing with --benchmark-disable or with workers in parallel")
        given = torch.get_num_threads()
        threads = min(case.threads, given)
        extra = extra_bytes(op, case, threads)
        torch.set_num_threads(threads)
        try:
            RESULTS.append(measure(benchmark, op, case.name, threads, make(case), extra, seconds))
        finally:
            torch.set_num_threads(given)
            if case.compiled:
                torch.compiler.reset()  # what is compiled for this case serves no other

    return compare


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not RESULTS:
        return
    report = Report(describe_machine(), config.getoption("small_benchmarks"), RESULTS)
    terminalreporter.section("ralx benchmarks")
    terminalreporter.write_line(as_text(report))
    path = config.getoption("benchmark_results")
    if path:
        save(report, path)
        terminalreporter.write_line(f"kept in {path}")
