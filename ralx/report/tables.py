"""A report's tables: one value, rendered as Markdown, in the terminal and, by the template, as HTML."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

from rich import box
from rich.table import Table as TerminalTable
from rich.text import Text

from ralx.report.records import Record, Run
from ralx.report.statistics import (
    REFERENCES,
    TARGET_SHARE,
    TARGET_TEXT,
    Stat,
    budgets_of,
    class_iou,
    class_share,
    classes_of,
    compared_budget,
    entropy_of,
    methods_at,
    methods_of,
    miou_of,
    seeds_text,
    stat_of,
)
from ralx.report.style import on_one_line


class Cell(NamedTuple):
    """A number as it is written; `best` is set in bold where the medium has it."""

    mean: str
    std: str = ""
    best: bool = False

    def __str__(self) -> str:
        return f"{self.mean} ± {self.std}" if self.std else self.mean


ABSENT = Cell("–")
Row = Sequence[str | Cell]


@dataclass(frozen=True)
class Table:
    """Rows of text, under `labels`, then numbers, under `columns`; a line sets groups of rows apart."""

    caption: str
    labels: Sequence[str]
    columns: Sequence[str]
    groups: Sequence[Sequence[Row]]
    notes: Sequence[str] = ()
    wide: bool = False  # set smaller on the page

    def markdown(self) -> str:
        """The rows, where there are any, and below them the caption and the notes. It is read as text too, so
        that nothing is bold."""
        lines = [[str(cell) for cell in row] for group in self.groups for row in group]
        rows = ""
        if lines:
            head = [*self.labels, *self.columns]
            lines = [_escaped(head), ["---", *["---:"] * (len(head) - 1)], *map(_escaped, lines)]
            rows = "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"
        return rows + "".join(f"{line}\n" for line in (self.caption, *self.notes))

    def terminal(self) -> TerminalTable:
        table = TerminalTable(
            title=Text(self.caption),
            caption=Text("\n".join(self.notes)),
            title_justify="left",
            caption_justify="left",
            title_style="bold",
            caption_style="",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
        )
        for place, name in enumerate([*self.labels, *self.columns]):
            table.add_column(Text(on_one_line(name)), justify="right" if place else "left", no_wrap=True)
        for group in self.groups:
            for row in group:
                bold = ["bold" if isinstance(cell, Cell) and cell.best else "" for cell in row]
                texts = [on_one_line(str(cell)) for cell in row]
                table.add_row(*map(Text, texts, bold))
            table.add_section()
        return table


def _escaped(texts: Sequence[str]) -> list[str]:
    """Names of classes and methods without a meaning for Markdown."""
    return [re.sub(r"[\\`*<|~]", r"\\\g<0>", on_one_line(text)) for text in texts]


class Quantity(NamedTuple):
    """A number of a record: its name and how it is written."""

    name: str
    value: Callable[[Record], float | None]
    scale: float = 100.0
    digits: int = 1
    ranked: bool = True  # a higher value is better

    def cell(self, stat: Stat | None) -> Cell:
        if stat is None:
            return ABSENT
        mean, std = ("" if part is None else f"{part * self.scale:.{self.digits}f}" for part in stat)
        return Cell(mean, std)

    def cells(self, records: Sequence[Record], methods: Sequence[str], budget: int) -> list[Cell]:
        """A cell of each method; the best as they are shown are marked, unless there is only one."""
        cells = [self.cell(stat_of(records, self.value, method, budget)) for method in methods]
        shown = [cell.mean for cell in cells if cell != ABSENT]
        if self.ranked and len(shown) > 1:
            best = max(shown, key=float)
            cells = [cell._replace(best=cell.mean == best) for cell in cells]
        return cells


MIOU = Quantity("mIoU", miou_of)
MISTAKEN = Quantity("mistaken pixels", itemgetter("mistaken_share"))
ENTROPY = Quantity("entropy [nats]", entropy_of, scale=1.0, digits=2)


def budget_rows(results: Sequence[Record], quantity: Quantity) -> list[Row]:
    """Budgets down, methods across: mean ± std over seeds."""
    methods = methods_of(results)
    return [[f"{budget:,}", *quantity.cells(results, methods, budget)] for budget in budgets_of(results)]


def method_rows(records: Sequence[Record], quantities: Sequence[Quantity], budget: int) -> list[Row]:
    """Methods down, quantities across, at one budget."""
    methods = methods_at(records, budget)
    rows = zip(methods, *(quantity.cells(records, methods, budget) for quantity in quantities), strict=True)
    return [[f"{budget:,}", *row] for row in rows]


def iou_table(results: Sequence[Record], references: Sequence[Record]) -> Table:
    """A row per budget and method, a column per class (Table 1); below them where all start and could end."""
    quantities = [*(Quantity(name, class_iou(name)) for name in classes_of(results or references)), MIOU]
    groups = [method_rows(results, quantities, budget) for budget in budgets_of(results)]
    networks: list[Row] = [
        ["", label, *(q.cell(stat_of(references, q.value, name)) for q in quantities)]
        for name, label in REFERENCES.items()
        if any(record["method"] == name for record in references)
    ]
    caption = f"Test IoU by class [%], {seeds_text(results or references)}"
    return Table(caption, ["regions", "method"], [q.name for q in quantities], [*groups, networks], wide=True)


def miou_tables(run: Run) -> list[Table]:
    """mIoU by budget and method, who reaches 96 % of full supervision when, then the reference networks."""
    tables = []
    full = stat_of(run.references, miou_of, "full_supervision")
    if run.results:
        reached = [_first_reaching(run.results, full.mean * TARGET_SHARE)] if full else []
        tables.append(_by_budget("Test mIoU [%]", run.results, MIOU, reached))
    marks = {label: stat_of(run.references, miou_of, name) for name, label in REFERENCES.items()}
    if full:
        marks[f"{TARGET_TEXT} of full supervision"] = Stat(full.mean * TARGET_SHARE, None)
    if any(marks.values()):
        networks: list[Row] = [[label, MIOU.cell(stat)] for label, stat in marks.items() if stat]
        caption = f"Reference networks, {seeds_text(run.references)}"
        tables.append(Table(caption, ["network"], ["test mIoU [%]"], [networks]))
    return tables


def _first_reaching(results: Sequence[Record], target: float) -> Row:
    """Of each method the smallest evaluated budget at which its mean mIoU is at least `target`."""
    row: list[str | Cell] = [f"first to reach {TARGET_TEXT} of full supervision"]
    for method in methods_of(results):
        stats = {budget: stat_of(results, miou_of, method, budget) for budget in budgets_of(results)}
        reached = (budget for budget, stat in stats.items() if stat and stat.mean >= target)
        row.append(next((Cell(f"{budget:,}") for budget in reached), ABSENT))
    return row


def selected_tables(run: Run) -> list[Table]:
    """Entropy of the selected classes by budget and method, how much of the selected pixels the segmenter had
    wrong, and the shares of the classes at the budget of the picture."""
    if not run.results:
        return []
    tables = [_by_budget("Entropy of the selected classes [nats]", run.results, ENTROPY)]
    mistaken = {(each["method"], each["seed"]): each.get("mistaken_pixels") for each in run.selections}
    told = [
        record | {"mistaken_share": sum(found[: record["budget"]]) / record["labelled_pixels"]}
        for record in run.results
        if (found := mistaken.get((record["method"], record["seed"]))) and record.get("labelled_pixels")
    ]
    if told:
        caption = "Selected pixels that the segmenter had wrong when it asked [%]"
        tables.append(_by_budget(caption, told, MISTAKEN))
    budget = compared_budget(run.results)
    caption = f"Share of the selected pixels by class [%] at {budget:,} regions, {seeds_text(run.results)}"
    classes = classes_of(run.results)
    shares = [
        Quantity(name, class_share(index), digits=2, ranked=False) for index, name in enumerate(classes)
    ]
    rows = [row[1:] for row in method_rows(run.results, shares, budget)]
    return [*tables, Table(caption, ["method"], classes, [rows], wide=True)]


def _by_budget(
    caption: str, results: Sequence[Record], quantity: Quantity, last: Sequence[Row] = ()
) -> Table:
    groups = [budget_rows(results, quantity), last]
    return Table(f"{caption}, {seeds_text(results)}", ["regions"], methods_of(results), groups)


def summary_table(results: Sequence[Record], references: Sequence[Record]) -> TerminalTable:
    """The methods side by side, for a terminal of 80 columns.

    `results` and `references` are the records of results.json and reference.json. A row is a budget, a
    column a method. The upper half is the test mIoU in %, the lower half the entropy of the selected
    pixels' classes in nats, the best in bold; θ0′, full supervision and 96 % of it stand below.
    """
    caption = "No results"
    if results:
        caption = f"Test mIoU [%] and entropy H of the selected classes [nats], {seeds_text(results)}"
    groups = []
    for name, quantity in ("mIoU", MIOU), ("H(classes)", ENTROPY):
        rows = budget_rows(results, quantity)
        groups.append([["" if place else name, *row] for place, row in enumerate(rows)])
    notes = []
    start = stat_of(references, miou_of, "theta0_prime")
    full = stat_of(references, miou_of, "full_supervision")
    if start:
        notes.append(f"{REFERENCES['theta0_prime']}, before the first region: {MIOU.cell(start)} %")
    if full:
        notes.append(f"{REFERENCES['full_supervision']}: {MIOU.cell(full)} %")
        notes.append(f"{TARGET_TEXT} of it: {full.mean * TARGET_SHARE * 100:.1f} %")
    return Table(caption, ["", "regions"], methods_of(results), groups, notes).terminal()
