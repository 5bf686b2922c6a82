"""The benchmark's own rules: what a round holds, what counts as met, what a report gives away."""

import importlib
import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "bench"))
bars, gpu_check, gpu_timings, limits, machine, memory, results, sizes, table, timings = map(
    importlib.import_module,
    "bars gpu_check gpu_timings limits machine memory results sizes table timings".split(),
)
OP, EAGER, COMPILED = timings.OP, results.EAGER, results.COMPILED
WORK = results.Work(1e6, "B")


def result(op="bald", case="some", seconds=1.0, extra_bytes=None, **ratios):
    """A result whose alternatives took `ratios` times as long, by name."""
    alternatives = [
        results.Timing(name, name == "copy", 1.0, 3, seconds * ratio, seconds * ratio, ratio, None)
        for name, ratio in ratios.items()
    ]
    return results.Result(op, case, 2, WORK, 3, seconds, seconds, extra_bytes, alternatives, {})


class Clock:
    """Stands still between calls of what `takes` some seconds."""

    def __init__(self):
        self.now = 0.0

    def takes(self, *seconds):
        """A function that takes each of `seconds` in turn, again and again."""
        durations = cycle(seconds)

        def run():
            self.now += next(durations)

        return run

    def perf_counter(self):
        return self.now


class Fixture:
    """pytest-benchmark's, on a clock that is given."""

    def __init__(self, clock):
        self.clock = clock
        self.stats = SimpleNamespace(stats=SimpleNamespace(data=[]))

    def pedantic(self, target, setup, rounds):
        for _ in range(rounds):
            setup()
            start = self.clock.now
            target()
            self.stats.stats.data.append(self.clock.now - start)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timings, "time", clock)
    return clock


def test_every_case_has_a_name_of_its_own():
    for op, cases in [*sizes.FULL.items(), *sizes.SMALL.items(), *sizes.GPU.items()]:
        names = [case.name for case in cases]
        assert len(set(names)) == len(names), op


@pytest.mark.parametrize(("wanted", "cases"), [(bars.BARS, sizes.FULL), (bars.GPU_BARS, sizes.GPU)])
def test_every_bar_names_a_case_and_an_alternative_that_are_run(wanted, cases):
    for bar in wanted:
        [case] = [case for case in cases[bar.op] if case.name == bar.case]
        assert case.compiled or bar.against != COMPILED, bar
        make = importlib.import_module(f"bench_{bar.op}").make
        alternatives = {each.name for case in sizes.SMALL[bar.op] for each in make(case).alternatives}
        if wanted is bars.GPU_BARS:
            alternatives.add(results.BANDWIDTH)
        assert bar.against in {"", COMPILED, *alternatives}, bar


def test_small_runs_compile_one_case_per_op():
    assert all(sum(case.compiled for case in cases) <= 1 for cases in sizes.SMALL.values())


@pytest.mark.parametrize(
    ("quantity", "limit", "measured", "verdict"),
    [
        (bars.TIME, 0.5, result(copy=2.0), "met"),
        (bars.TIME, 0.5, result(copy=1.0), "missed by 2.00 ×"),
        (bars.SPEEDUP, 3, result(copy=3.5), "met"),
        (bars.SPEEDUP, 3, result(copy=2.0), "missed by 1.50 ×"),
        (bars.SECONDS, 2, result(seconds=1.9), "met"),
        (bars.SECONDS, 2, result(seconds=3.0), "missed by 1.50 ×"),
        (bars.EXTRA, 50, result(extra_bytes=49_000_000), "met"),
        (bars.EXTRA, 50, result(extra_bytes=55_000_000), "missed by 1.10 ×"),
        (bars.EXTRA_SHARE, 0.05, result(extra_bytes=0), "met"),
        (bars.EXTRA_SHARE, 0.05, result(extra_bytes=100_000), "missed by 2.00 ×"),
        (bars.TIME, 0.5, result(), "not measured"),
        (bars.EXTRA, 50, result(), "not measured"),
        (bars.SECONDS, 2, result(case="another"), "not measured"),
    ],
)
def test_a_bar_is_met_or_missed_by_how_much(quantity, limit, measured, verdict):
    bar = bars.Bar("bald", "some", quantity, limit, "copy")
    [judged] = bars.judge([measured], [bar])
    assert judged.text == verdict


def test_the_bars_follow_a_full_run_alone():
    full = results.Report({}, False, [result()])
    assert "not measured" in table.as_text(full)
    assert "not measured" not in table.as_text(replace(full, small=True))


def test_slow_alternatives_leave_the_rounds_early_and_the_op_is_in_all(clock):
    slow, fast = clock.takes(5.0), clock.takes(0.1)
    alternatives = [timings.Alternative("slow", slow), timings.Alternative("fast", fast)]
    rounds = timings.run_rounds(Fixture(clock), clock.takes(0.2), alternatives, seconds=3.0)
    assert [sorted(each) for each in rounds[:4]] == [["fast", OP, "slow"]] * 3 + [["fast", OP]]
    assert sum("fast" in each for each in rounds) == pytest.approx(10, abs=1)  # 3 s shared by three
    assert all(each[OP] == pytest.approx(0.2) for each in rounds)
    assert len({list(each).index(OP) for each in rounds[:3]}) > 1, "always in the same order"


def test_a_share_is_scaled_up_and_compared_round_by_round(clock):
    alternative = timings.Alternative("loops", clock.takes(0.5), lambda ours, theirs: None, share=0.25)
    comparison = timings.Comparison(clock.takes(1.0, 2.0, 4.0), WORK, [alternative])
    measured = timings.measure(Fixture(clock), "bald", "some", 1, comparison, {"loops": 7}, seconds=0.1)
    [timing] = measured.alternatives
    assert (timing.seconds_median, timing.ratio, timing.rounds) == (2.0, 1.0, 3)  # of 2/1, 2/2, 2/4
    assert (timing.share, timing.extra_bytes, timing.limit) == (0.25, 7, False)


def test_what_cannot_be_compiled_is_told_and_the_rest_is_timed(clock):
    def fail():
        raise timings.CannotCompile("no compiler")

    alternatives = [timings.Alternative(COMPILED, fail), timings.Alternative("copy", clock.takes(1.0))]
    comparison = timings.Comparison(clock.takes(1.0), WORK, alternatives)
    measured = timings.measure(Fixture(clock), "bald", "some", 1, comparison, {}, seconds=0.0)
    assert measured.not_run == {COMPILED: "no compiler"}
    assert [each.name for each in measured.alternatives] == ["copy"]
    assert "torch.compile can't: no compiler" in table.as_text(results.Report({}, True, [measured]))


def test_an_alternative_that_gives_something_else_is_not_timed(clock):
    def same(ours, theirs):
        assert ours == theirs, "not the same"

    comparison = timings.Comparison(lambda: 1, WORK, [timings.Alternative(EAGER, lambda: 2, same)])
    with pytest.raises(AssertionError, match="not the same"):
        timings.measure(Fixture(clock), "bald", "some", 1, comparison, {}, seconds=0.0)


needs_proc = pytest.mark.skipif(not memory.CLEAR_REFS.exists(), reason="Linux tells peak memory in /proc")


@needs_proc
def test_extra_memory_is_scratch_without_the_output():
    # In a process of its own, as cases are: here, memory freed by other tests may lie ready.
    code = """
import memory, numpy, torch

def call():
    scratch = numpy.ones(64_000_000, numpy.uint8)
    return torch.ones(40_000_000, dtype=torch.uint8), [torch.from_numpy(scratch[:1].copy())]

call()  # pays for code that is loaded when it is first used
print(memory.peak_of(call), memory.peak_of(lambda: torch.ones(40_000_000, dtype=torch.uint8)))
"""
    environment = os.environ | memory.MALLOC | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    with_scratch, without = map(int, run.stdout.split())
    assert with_scratch == pytest.approx(64e6, abs=2e6)
    assert without < 2e6


@needs_proc
def test_extra_memory_of_a_case_is_measured_in_a_process_of_its_own():
    case = replace(sizes.SMALL["bald"][0], scene=sizes.CAMVID)
    map_bytes = 4 * sizes.CAMVID.pixels  # eager torch holds several of them for each class
    extra = memory.extra_bytes("bald", case, threads=1)
    assert extra[EAGER] > 2 * case.scene.classes * map_bytes
    assert extra[OP] < map_bytes


def test_a_report_is_read_back_and_names_neither_host_nor_folder(tmp_path):
    check = results.Check("build", False, 1.5, ["it failed"])
    report = results.Report(machine.describe_machine(), True, [result(copy=0.5)], [check])
    results.save(report, tmp_path / "cpu.json")
    assert results.load(tmp_path / "cpu.json") == report
    text = (tmp_path / "cpu.json").read_text()
    assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text)
    assert str(ROOT) not in text and str(Path.home()) not in text


def test_the_picture_and_the_table_come_from_the_json_by_one_command(tmp_path):
    report = results.Report(machine.describe_machine(), True, [result(**{EAGER: 3.0, "copy": 0.5})])
    results.save(report, tmp_path / "cpu.json")
    file = str(tmp_path / "cpu.json")
    for script in ("picture", "readme"):
        command = [sys.executable, str(ROOT / "bench" / f"{script}.py"), file]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert (tmp_path / "cpu.png").read_bytes().startswith(b"\x89PNG")
    assert "| `bald`, some | 1 s | 2.00 × copy |  | 3 × |" in printed


def run_one_benchmark(*options):
    """What pytest prints."""
    file = str(ROOT / "bench" / "bench_kl_histogram.py")
    command = [sys.executable, "-m", "pytest", file, "--benchmark", "--small", "-k", "bfloat16", *options]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=alone).stdout


def test_pytest_benchmark_times_the_op(tmp_path):
    kept, theirs = tmp_path / "kept.json", tmp_path / "theirs.json"
    printed = run_one_benchmark(f"--json={kept}", f"--benchmark-json={theirs}", "--benchmark-only")
    stats = [each["stats"] for each in json.loads(theirs.read_text())["benchmarks"]]
    [own] = results.load(kept).results
    assert [(each["rounds"], each["min"], each["median"]) for each in stats] == [
        (own.rounds, own.seconds_min, own.seconds_median)
    ]
    assert "ralx benchmarks" in printed and "Outliers" not in printed, "pytest-benchmark's table is quiet"


def test_nothing_is_timed_where_pytest_benchmark_is_switched_off():
    assert "pytest-benchmark times nothing with --benchmark-disable" in run_one_benchmark(
        "--benchmark-disable"
    )


# --- on a GPU --------------------------------------------------------------------------------------


def test_a_report_of_a_gpu_has_its_own_bars():
    report = results.Report({"GPU": "NVIDIA H200"}, False, [result(**{results.BANDWIDTH: 0.9})])
    assert bars.bars_for(report) is bars.GPU_BARS
    text = table.as_text(report)
    assert "Bars, set for one H200" in text and "at least 85% of the copy bandwidth" in text
    assert bars.bars_for(results.Report({}, False, [])) is bars.BARS


def test_the_bandwidth_of_a_copy_counts_what_it_reads_and_writes():
    alternative = limits.bandwidth(read=1000, device="cpu", copied=2000)
    copied = alternative.run()
    assert copied.nbytes == 2000 and alternative.share == 4  # 2000 read and 2000 written for the op's 1000


def gpu_round(*alternatives, run=lambda: 1):
    return gpu_timings.first_calls(timings.Comparison(run, WORK, []), list(alternatives))


def test_what_cannot_be_run_on_a_gpu_is_told_and_what_is_wrong_has_failed():
    def cannot():
        raise timings.CannotCompile("no compiler")

    def breaks():
        raise RuntimeError("broken\nand more")

    def same(ours, theirs):
        assert ours == theirs, "not the same"

    not_run, wrong = gpu_round(
        timings.Alternative("compiled", cannot),
        timings.Alternative("broken", breaks),
        timings.Alternative("other", lambda: 2, same),
        timings.Alternative("right", lambda: 1, same),
    )
    assert list(not_run) == ["compiled", "broken", "other"]
    assert wrong == ["broken: RuntimeError: broken", "other: AssertionError: not the same"]


def test_a_gpus_rounds_hold_the_op_and_who_has_time_left():
    took = {OP: 0.1, "slow": 5.0, "fast": 0.2}
    rounds = gpu_timings.run_rounds({name: lambda n=name: took[n] for name in took}, seconds=3.0)
    assert [set(each) for each in rounds[:5]] == [{OP, "slow", "fast"}] * 3 + [{OP, "fast"}] * 2
    assert all(OP in each for each in rounds)
    assert len(rounds) == pytest.approx(10, abs=1)  # of 0.1 s in its third of 3 s
    assert len({list(each).index(OP) for each in rounds[:3]}) > 1, "always in the same order"


def test_one_op_is_timed_by_the_code_that_times_it_on_a_gpu():
    case = sizes.SMALL["region_features"][0]
    measured, wrong = gpu_timings.measure("region_features", case, "cpu", seconds=0.01)
    assert wrong == [] and measured.not_run == {}
    assert [each.name for each in measured.alternatives] == [EAGER, results.BANDWIDTH]
    assert measured.alternative(results.BANDWIDTH).limit and measured.rounds >= timings.ROUNDS[0]


def test_an_op_that_differs_from_call_to_call_fails(monkeypatch):
    calls = cycle([torch.zeros(3), torch.ones(3)])
    comparison = timings.Comparison(lambda: next(calls), WORK, [])
    again = timings.Alternative("again", comparison.run, gpu_timings.identical)
    assert gpu_timings.first_calls(comparison, [again])[1] == ["again: AssertionError: not the same bits"]


def test_what_is_timed_is_what_there_are_cases_for():
    assert list(sizes.GPU) == list(gpu_check.TIMED)


def shell(line, **options):
    return gpu_check.Part("part", ["sh", "-c", line], **options)


@pytest.mark.parametrize(
    ("part", "time_left", "passed", "told"),
    [
        (shell("echo some; echo 3 passed"), 9, True, ["3 passed"]),
        (shell("echo some; echo 3 passed", lines=2), 9, True, ["some", "3 passed"]),
        (shell("echo a; echo FAILED test_a; echo 1 failed; exit 1"), 9, False, ["FAILED test_a", "1 failed"]),
        (shell("echo 'x.cu(3): error: no'; exit 1"), 9, False, ["x.cu(3): error: no"]),
        (shell("echo 3 skipped", must_say=" passed"), 9, False, ["3 skipped"]),
        (shell("echo begun; sleep 60 & sleep 60"), 0.5, False, ["begun", "stopped after 0 s"]),
        (shell("echo begun; sleep 60", limit=0.5), 9, False, ["begun", "stopped after 0 s"]),
        (shell("echo begun", kept=10), 9, False, ["not run: no time was left"]),
        (shell(f"echo {ROOT}/bench/x.py", must_say="x.py"), 9, True, ["bench/x.py"]),
    ],
)
def test_a_part_says_how_it_went(part, time_left, passed, told):
    check, output = gpu_check.run(part, time_left)
    assert (check.passed, check.told) == (passed, told) and check.seconds < 5
    assert str(ROOT) not in output


def test_the_other_parts_go_on_and_the_verdict_names_what_failed(monkeypatch, tmp_path, capsys):
    def parts(options, folder):
        yield [gpu_check.Part("build", ["false"])]
        yield [gpu_check.Part("tests: a", ["echo", "fine"]), gpu_check.Part("tests: b", ["no such program"])]
        yield [gpu_check.Part("step", ["echo", "left out"])]

    monkeypatch.setattr(gpu_check, "stages", parts)
    monkeypatch.setattr(
        sys, "argv", [*"gpu_check --device cpu --only build tests --out".split(), str(tmp_path)]
    )
    assert gpu_check.main() == 1
    assert "FAILED: build; tests: b" in capsys.readouterr().out
    kept = results.load(tmp_path / "dry-run.json").checks
    assert [(each.name, each.passed) for each in kept] == [
        ("build", False),
        ("tests: a", True),
        ("tests: b", False),
    ]
    assert kept[2].told == ["FileNotFoundError: [Errno 2] No such file or directory: 'no such program'"]
    assert "fine" in (tmp_path / "dry-run.log").read_text()
    assert "FAILED" in (tmp_path / "dry-run.txt").read_text()


def test_the_check_of_a_gpu_can_be_tried_out_on_the_cpu(tmp_path):
    command = [sys.executable, str(ROOT / "bench" / "gpu_check.py"), "--device", "cpu", "--small"]
    command += ["--out", str(tmp_path), "--only", "environment", "tests", "step", "protocol"]
    printed = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert printed.returncode == 0, printed.stdout + printed.stderr
    assert "All parts passed." in printed.stdout
    names = [each.name for each in results.load(tmp_path / "dry-run.json").checks]
    assert names == ["environment", "tests", "step", "protocol"]
    assert "one seed takes at least" in printed.stdout
