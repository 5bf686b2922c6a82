"""`pytest bench/ --benchmark`: every op beside its baselines, timed in turn within one process.

    --benchmark   run the benchmarks (without it they are skipped)
    --small       small inputs, for CI
    --json FILE   keep the results

Each round runs every baseline once and then the op, so that a machine that slows down slows all of them. The
table at the end gives minimum and median, and the median over the rounds of (time of the baseline / time of
the op).
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import sizes
from timings import Baseline, Result, Work, as_text, describe_machine, measure

SECONDS_PER_CASE = {"small": 1.0, "full": 10.0}
RESULTS: list[Result] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ralx")
    group.addoption("--benchmark", action="store_true", dest="run_benchmarks", help="run the benchmarks")
    group.addoption("--small", action="store_true", dest="small_benchmarks", help="small inputs, for CI")
    group.addoption("--json", metavar="FILE", type=Path, dest="benchmark_results", help="keep the results")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("python_files", "bench_*.py")
    config.addinivalue_line("python_functions", "bench_*")
    config.option.benchmark_quiet = True  # pytest-benchmark's own table, which lacks the baselines


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives each benchmark that takes a `case` those of its op, see sizes.py."""
    if "case" in metafunc.fixturenames:
        op = metafunc.module.__name__.removeprefix("bench_")
        table = sizes.SMALL if metafunc.config.getoption("small_benchmarks") else sizes.FULL
        metafunc.parametrize("case", table[op], ids=lambda case: case.name)


@pytest.fixture
def compare(request: pytest.FixtureRequest) -> Callable[..., None]:
    """compare(case name, op, work, baselines): times them in turn and keeps the result for the table."""
    if not request.config.getoption("run_benchmarks"):
        # Nothing is switched off: plain `pytest` over the whole tree shouldn't spend minutes on timing.
        pytest.skip("run with --benchmark")
    benchmark = request.getfixturevalue("benchmark")
    seconds = SECONDS_PER_CASE["small" if request.config.getoption("small_benchmarks") else "full"]
    op = request.module.__name__.removeprefix("bench_")

    def compare(case: str, run: Callable[[], object], work: Work, baselines: list[Baseline]) -> None:
        RESULTS.append(measure(benchmark, op, case, run, work, baselines, seconds))

    return compare


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not RESULTS:
        return
    machine = describe_machine()
    report = {
        "machine": machine,
        "small": config.getoption("small_benchmarks"),
        "results": [asdict(result) for result in RESULTS],
    }
    terminalreporter.section("ralx benchmarks")
    terminalreporter.write_line(", ".join(f"{name} {value}" for name, value in machine.items()))
    terminalreporter.write_line(as_text(RESULTS))
    path = config.getoption("benchmark_results")
    if path:
        path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        terminalreporter.write_line(f"kept in {path}")
