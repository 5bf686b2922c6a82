"""The report's page: captions and tables around the pictures, as one HTML file without scripts or network."""

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import NamedTuple

from matplotlib.figure import Figure

from ralx.records import Record, Run
from ralx.report.stats import (
    REFERENCES,
    TARGET_SHARE,
    TARGET_TEXT,
    Stat,
    best_of,
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
    stats_of,
)


class Section(NamedTuple):
    """A heading, a picture with its caption, and tables."""

    title: str
    file: str  # the picture's file name
    figure: Figure | None  # None: the run lacks what it needs
    caption: str
    needs: str
    tables: str = ""  # HTML


_CSS = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 1100px; margin: 2.5em auto;
  padding: 0 1.2em; }
h1 { font-size: 1.7em; margin-bottom: 0.2em; }
h2 { font-size: 1.25em; margin-top: 2.4em; border-bottom: 1px solid #ddd; padding-bottom: 0.2em; }
figure { margin: 1em 0; }
figure img { max-width: 100%; height: auto; display: block; margin: 0 auto; }
figcaption, .note { color: #555; font-size: 0.92em; max-width: 75ch; }
figcaption { margin: 0.6em auto 0; }
.missing { border-left: 4px solid #E69F00; background: #fff8ea; padding: 0.5em 1em; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 1em 0; font-size: 0.88em; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: 0.4em; }
th, td { padding: 0.25em 0.7em; text-align: right; white-space: nowrap; }
th { font-weight: 600; }
th.text, td.text { text-align: left; }
thead th { border-bottom: 1.5px solid #222; }
tbody + tbody { border-top: 1px solid #bbb; }
table { border-bottom: 1.5px solid #222; }
table.wide { font-size: 0.8em; }
.wide th, .wide td { padding: 0.25em 0.35em; }
.std { color: #777; font-size: 0.88em; }
""".strip()


def render_page(run: Run, sections: Sequence[Section]) -> str:
    """index.html. Every text that comes from the run is escaped."""
    title = " · ".join(["ralx report", *(str(run.config[key]) for key in ("dataset",) if key in run.config)])
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>\n<style>\n{_CSS}\n</style>\n</head>\n<body>",
        f"<h1>{escape(title)}</h1>",
        f'<p class="note">{escape(_headline(run))}</p>',
        *_missing_note(run),
        *(_section(section) for section in sections),
        *_config_section(run.config),
        "</body>\n</html>\n",
    ]
    return "\n".join(parts)


def _headline(run: Run) -> str:
    facts = [
        f"{key.replace('_', ' ')} {run.config[key]}"
        for key in ("preset", "seed", "num_seeds")
        if key in run.config
    ]
    if run.steps:
        episodes = len({(step["seed"], step["episode"]) for step in run.steps})
        facts.append(f"{episodes:,} learning episodes, {len(run.steps):,} steps")
    if run.results:
        facts.append(f"{len(run.results):,} results: {', '.join(methods_of(run.results))}")
    return " · ".join(facts)


def _missing_note(run: Run) -> Iterable[str]:
    parts = {
        "config.json": run.config,
        "steps.jsonl": run.steps,
        "results.json": run.results,
        "reference.json": run.references,
        "selections/": run.selections,
    }
    missing = [name for name, part in parts.items() if not part]
    if missing:
        files = ", ".join(missing)
        yield f'<p class="missing">This run has nothing in {files}; what needs it is left out below.</p>'


def _section(section: Section) -> str:
    parts = [f"<h2>{escape(section.title)}</h2>"]
    if section.figure is None:
        parts.append(f'<p class="missing">Not drawn: this needs {escape(section.needs)}.</p>')
    else:
        alt, caption = escape(section.title), escape(section.caption.replace(" %", "\N{NO-BREAK SPACE}%"))
        parts.append(
            f'<figure>\n<img src="{section.file}" alt="{alt}">\n<figcaption>{caption}</figcaption>\n</figure>'
        )
    return "\n".join([*parts, section.tables]).rstrip()


def _config_section(config: Record) -> Iterable[str]:
    if config:
        rows = "\n".join(
            f'<tr><td class="text">{escape(str(key))}</td><td class="text">{escape(str(value))}</td></tr>'
            for key, value in config.items()
        )
        yield f"<h2>Configuration</h2>\n<details><summary>{len(config)} settings</summary>"
        yield f"<table>\n<tbody>\n{rows}\n</tbody>\n</table>\n</details>"


# --- tables -----------------------------------------------------------------------------------------------


def _cell(stat: Stat | None, *, best: bool = False, scale: float = 100.0, digits: int = 1) -> str:
    if stat is None:
        return "<td>–</td>"
    mean, _, std = stat.text(scale, digits).partition(" ± ")
    mean = f"<b>{mean}</b>" if best else mean
    return f'<td>{mean} <span class="std">± {std}</span></td>' if std else f"<td>{mean}</td>"


def _head(names: Iterable[str], text_columns: int = 1) -> str:
    cells = (
        f'<th class="text">{escape(name)}</th>' if place < text_columns else f"<th>{escape(name)}</th>"
        for place, name in enumerate(names)
    )
    return f"<thead><tr>{''.join(cells)}</tr></thead>"


def _table(caption: str, head: str, groups: Iterable[Sequence[str]], *, wide: bool = False) -> str:
    """A table whose row groups are set apart by a line; rows are ready HTML. `wide` ones are set smaller."""
    bodies = "\n".join("<tbody>\n" + "\n".join(rows) + "\n</tbody>" for rows in groups if rows)
    kind = ' class="wide"' if wide else ""
    return (
        f'<div class="scroll"><table{kind}>\n<caption>{escape(caption)}</caption>\n{head}\n{bodies}\n'
        "</table></div>"
    )


def budget_table(
    results: Sequence[Record],
    quantity: str,
    value: Callable[[Record], float],
    *,
    scale: float = 100.0,
    digits: int = 1,
    more: Sequence[str] = (),
) -> str:
    """Budgets down, methods across, mean ± std, the highest in bold; `more` are rows below."""
    methods = methods_of(results)
    rows = []
    for budget in budgets_of(results):
        stats = {method: stat_of(results, value, method, budget) for method in methods}
        best = best_of(stats, scale, digits)
        cells = (
            _cell(stat, best=method in best, scale=scale, digits=digits) for method, stat in stats.items()
        )
        rows.append(f'<tr><td class="text">{budget:,}</td>{"".join(cells)}</tr>')
    return _table(f"{quantity}, {seeds_text(results)}", _head(["regions", *methods]), [rows, more])


def miou_tables(run: Run) -> str:
    """mIoU by budget and method, who reaches 96 % of full supervision when, then the reference networks."""
    if not run.results:
        return reference_table(run.references)
    full = stat_of(run.references, miou_of, "full_supervision")
    more = []
    if full:
        reached = [
            first_budget_reaching(run.results, method, full.mean * TARGET_SHARE)
            for method in methods_of(run.results)
        ]
        cells = "".join(f"<td>{'–' if budget is None else f'{budget:,}'}</td>" for budget in reached)
        more = [f'<tr><td class="text">first to reach {TARGET_TEXT} of full supervision</td>{cells}</tr>']
    return (
        budget_table(run.results, "Test mIoU [%]", miou_of, more=more)
        + "\n"
        + reference_table(run.references)
    )


def first_budget_reaching(results: Sequence[Record], method: str, target: float) -> int | None:
    """The smallest evaluated budget at which the method's mean mIoU is at least `target`."""
    for budget in budgets_of(results):
        stat = stat_of(results, miou_of, method, budget)
        if stat and stat.mean >= target:
            return budget
    return None


def reference_table(references: Sequence[Record]) -> str:
    rows = []
    for name, label in REFERENCES.items():
        stat = stat_of(references, miou_of, name)
        if stat:
            rows.append(f'<tr><td class="text">{label}</td>{_cell(stat)}</tr>')
    full = stat_of(references, miou_of, "full_supervision")
    if full:
        target = Stat(full.mean * TARGET_SHARE, None)
        rows.append(f'<tr><td class="text">{TARGET_TEXT} of full supervision</td>{_cell(target)}</tr>')
    if not rows:
        return ""
    return _table(
        f"Reference networks, {seeds_text(references)}", _head(["network", "test mIoU [%]"]), [rows]
    )


def per_class_table(run: Run) -> str:
    """A group of rows per budget, in it a row per method; the best of a group in bold, absent classes –."""
    if not run.results:
        return ""
    classes = classes_of(run.results)
    groups = [_class_group(run.results, budget, classes) for budget in budgets_of(run.results)]
    groups.append(_class_references(run.references, classes))
    head = _head(["regions", "method", *classes, "mIoU"], text_columns=2)
    return _table(f"Test IoU by class [%], {seeds_text(run.results)}", head, groups, wide=True)


def _class_group(results: Sequence[Record], budget: int, classes: Sequence[str]) -> list[str]:
    methods = methods_at(results, budget)
    columns = [
        {method: stat_of(results, value, method, budget) for method in methods}
        for value in [*map(class_iou, classes), miou_of]
    ]
    bests = [best_of(stats) for stats in columns]
    return [
        f'<tr><td class="text">{budget:,}</td><td class="text">{escape(method)}</td>'
        + "".join(
            _cell(stats[method], best=method in best) for stats, best in zip(columns, bests, strict=True)
        )
        + "</tr>"
        for method in methods
    ]


def _class_references(references: Sequence[Record], classes: Sequence[str]) -> list[str]:
    present = {record["method"] for record in references}
    return [
        f'<tr><td class="text"></td><td class="text">{label}</td>'
        + "".join(map(_cell, stats_of(references, [*map(class_iou, classes), miou_of], name)))
        + "</tr>"
        for name, label in REFERENCES.items()
        if name in present
    ]


def selected_tables(run: Run) -> str:
    """Entropy of the selected classes by budget and method, how much of the selected pixels the segmenter had
    wrong, and the shares of the classes at the budget of the picture."""
    if not run.results:
        return ""
    classes, budget = classes_of(run.results), compared_budget(run.results)
    rows = []
    for method in methods_at(run.results, budget):
        stats = stats_of(run.results, map(class_share, range(len(classes))), method, budget)
        cells = "".join(_cell(stat, digits=2) for stat in stats)
        rows.append(f'<tr><td class="text">{escape(method)}</td>{cells}</tr>')
    caption = f"Share of the selected pixels by class [%] at {budget:,} regions, {seeds_text(run.results)}"
    shares = _table(caption, _head(["method", *classes]), [rows], wide=True)
    entropies = budget_table(
        run.results, "Entropy of the selected classes [nats]", entropy_of, scale=1.0, digits=2
    )
    return "\n".join(filter(None, [entropies, mistaken_table(run), shares]))


def mistaken_table(run: Run) -> str:
    """Empty where no selection tells how many of its pixels the segmenter had wrong."""
    mistaken = {
        (selection["method"], selection["seed"]): selection["mistaken_pixels"]
        for selection in run.selections
        if "mistaken_pixels" in selection
    }
    told = [r for r in run.results if (r["method"], r["seed"]) in mistaken and r.get("labelled_pixels")]
    if not told:
        return ""

    def share(record: Record) -> float:
        pixels = mistaken[record["method"], record["seed"]][: record["budget"]]
        return sum(pixels) / record["labelled_pixels"]

    return budget_table(told, "Selected pixels that the segmenter had wrong when it asked [%]", share)
