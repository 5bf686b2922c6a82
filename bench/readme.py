"""The cases that have a bar, and the bars, as Markdown: the first table is the one of docs/speed.md.

python bench/readme.py bench/results/cpu.json
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from bars import bars_for, judge, with_bars
from results import COMPILED, EAGER, PUBLISHED, Report, Result, load
from table import megabytes
from timings import OP


def as_markdown(report: Report) -> str:
    headings = "", OP, "of the limit", COMPILED, EAGER, PUBLISHED, "extra memory"
    cases = markdown_table(headings, [cells(result) for result in with_bars(report)])
    verdicts = [
        (f"`{verdict.bar.op}`, {verdict.bar.case}", verdict.bar.text, verdict.number, verdict.text)
        for verdict in judge(report.results, bars_for(report))
    ]
    return f"{cases}\n\n{markdown_table(('', 'bar', 'measured', ''), verdicts)}"


def cells(result: Result) -> tuple[str, ...]:
    return (
        f"`{result.op}`, {result.case}",
        duration(result.seconds_median),
        ", ".join(f"{1 / limit.ratio:.2f} × {limit.name}" for limit in result.limits),
        *(times(result, name) for name in (COMPILED, EAGER, PUBLISHED)),
        "" if result.extra_bytes is None else f"{megabytes(result.extra_bytes)} MB",
    )


def times(result: Result, name: str) -> str:
    timing = result.alternative(name)
    return "" if timing is None else f"{short(timing.ratio)} ×"


def duration(seconds: float) -> str:
    """To three digits."""
    number, unit = (seconds, "s") if seconds >= 1 else (seconds * 1e3, "ms")
    return f"{short(number)} {unit}"


def short(number: float) -> str:
    """Three digits that mean something, without an exponent."""
    return f"{float(f'{number:.3g}'):g}"


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    [_, file] = sys.argv
    print(as_markdown(load(Path(file))))
