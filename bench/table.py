"""A benchmark's results as text for the terminal: every case, then the bars."""

from io import StringIO

from bars import THREADS, bars_for, judge
from results import Check, Report, Result, Timing, Work
from rich.console import Console
from rich.table import Table
from rich.text import Text
from timings import OP


def as_text(report: Report) -> str:
    parts = []
    if report.results:
        parts.append(", ".join(f"{name} {value}" for name, value in report.machine.items()))
        parts.append(rendered(results_table(report.results)))
    if report.results and not report.small:
        where = "one H200" if report.gpu else f"{THREADS} threads"
        parts.append(f"Bars, set for {where}\n{rendered(bars_table(report))}")
    if report.checks:
        parts.append(rendered(checks_table(report.checks)))
    return "\n\n".join(parts)


def results_table(results: list[Result]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("op, case")
    table.add_column("measured")
    for heading in ("min ms", "median ms", "ratio", "rate", "extra MB"):
        table.add_column(heading, justify="right")
    for result in results:
        table.add_row(f"{result.op}, {result.case}", OP, *numbers(result, result, ""))
        for each in result.alternatives:
            table.add_row("", full_name(each), *numbers(each, result, f"{each.ratio:.2f} ×"))
        for name, reason in result.not_run.items():
            table.add_row("", f"{name} can't: {reason}")
    return table


def numbers(timing: Timing | Result, result: Result, ratio: str) -> tuple[str, ...]:
    return (
        f"{timing.seconds_min * 1e3:.3f}",
        f"{timing.seconds_median * 1e3:.3f}",
        ratio,
        rate(result.work, timing.seconds_min),
        "" if timing.extra_bytes is None else megabytes(timing.extra_bytes),
    )


def full_name(timing: Timing) -> str:
    limit = "limit: " if timing.limit else ""
    share = f" ({timing.share:.2g} of it, scaled up)" if timing.share < 1 else ""
    return f"{limit}{timing.name}{share}"


def checks_table(checks: list[Check]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("part", "", "s", "said"):
        table.add_column(heading)
    for check in checks:
        said = Text("\n".join(check.told))
        table.add_row(check.name, "passed" if check.passed else "FAILED", f"{check.seconds:.0f}", said)
    return table


def bars_table(report: Report) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("op, case", "bar", "measured", ""):
        table.add_column(heading)
    for verdict in judge(report.results, bars_for(report)):
        bar = verdict.bar
        table.add_row(f"{bar.op}, {bar.case}", bar.text, verdict.number, verdict.text)
    return table


def rendered(table: Table) -> str:
    text = StringIO()
    Console(file=text, width=200).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def megabytes(count: int) -> str:
    return f"{count / 1e6:.1f}"


def rate(work: Work, seconds: float) -> str:
    return f"{work.amount / seconds / 1e9:.2f} G{work.unit}/s"
