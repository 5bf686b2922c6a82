"""The tables: what stands in them; one value as Markdown and in the terminal (as HTML in test_page.py)."""

from report_run import REFERENCES, RESULTS, SELECTION, result, run_of
from rich.console import Console

from ralx.report.tables import MIOU, Cell, Table, iou_table, selected_tables, summary_table


def shown(table: Table) -> list[list[str]]:
    """Head and rows as text, the best in *asterisks*."""
    text = [[*table.labels, *table.columns]]
    for row in (row for group in table.groups for row in group):
        text.append([f"*{cell}*" if isinstance(cell, Cell) and cell.best else str(cell) for cell in row])
    return text


def printed(table, width=80) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_summary_table_shows_every_method_beside_the_others():
    text = printed(summary_table(RESULTS, REFERENCES))
    lines = [line.split() for line in text.splitlines() if line.strip()]
    assert ["regions", "ralis", "uniform"] in lines
    assert ["mIoU", "24", "62.0", "±", "2.8", "51.0", "±", "1.4"] in lines
    assert ["48", "67.0", "±", "0.0", "67.0", "±", "1.4"] in lines
    assert ["H(classes)", "24", "1.32", "±", "0.03", "1.05", "±", "0.07"] in lines
    assert "mean ± std over 2 seeds" in " ".join(text.split())
    assert "θ0′, before the first region: 32.0 ± 2.8 %" in text
    assert "full supervision: 69.0 ± 1.4 %" in text
    assert "96 % of it: 66.2 %" in text


def test_summary_table_sets_the_best_in_bold():
    table = summary_table(RESULTS, [])
    bold = {
        (str(column.header), row): cell.style == "bold"
        for column in table.columns[2:]
        for row, cell in enumerate(column.cells)
    }
    assert bold["ralis", 0] and not bold["uniform", 0]
    assert bold["ralis", 1] and bold["uniform", 1]  # 67.0 both
    assert bold["uniform", 3] and not bold["ralis", 3]  # the entropy of 48 regions


def test_summary_table_fits_a_plain_terminal():
    methods = ("ralis", "entropy", "bald", "uniform")
    results = [result(method, 30720, seed, 0.6 + seed / 10) for method in methods for seed in range(3)]
    text = printed(summary_table(results, REFERENCES))
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("70.0 ± 10.0") == 4
    assert "30,720" in text
    assert "…" not in text


def test_summary_table_of_a_partial_run():
    results = [record for record in RESULTS if (record["method"], record["budget"]) != ("ralis", 48)]
    assert ["48", "–", "67.0", "±", "1.4"] in [
        line.split() for line in printed(summary_table(results, [])).splitlines()
    ]
    assert "No results" in printed(summary_table([], []))


def test_the_best_are_those_that_are_shown_as_the_highest():
    mious = {"a": 0.50012, "b": 0.50041, "c": 0.49}
    records = [result(method, 24, 0, miou) for method, miou in mious.items()]
    assert [cell.best for cell in MIOU.cells(records, ["a", "b", "c", "d"], 24)] == [True, True, False, False]
    assert not any(cell.best for cell in MIOU.cells(records, ["a", "d"], 24))


ODD = "a|b *c* `d` <e> \\f [red]x[/] $g$\n\udce9\x1b"


def test_names_are_text_in_markdown_and_in_the_terminal():
    table = Table(
        "caption", ["regions", "method"], [ODD], [[["24", ODD, Cell("1.0", "0.1", True)]]], ["note"]
    )
    name = r"a\|b \*c\* \`d\` \<e> \\f [red]x[/] $g$ " + "\ufffd\ufffd"
    head = f"| regions | method | {name} |\n| --- | ---: | ---: |\n"
    assert table.markdown() == f"{head}| 24 | {name} | 1.0 ± 0.1 |\n\ncaption\nnote\n"
    lines = [line.split() for line in printed(table.terminal(), width=120).splitlines()]
    name = [*ODD.split()[:-1], "\ufffd\ufffd"]
    assert ["regions", "method", *name] in lines and ["24", *name, "1.0", "±", "0.1"] in lines
    assert Table("caption", ["method"], ["mIoU"], [[]]).markdown() == "caption\n"


def test_iou_by_class_marks_the_best_and_the_absent():
    iou = [{"road": 0.9, "pole": 0.2, "fence": None}, {"road": 0.8, "pole": 0.3, "fence": None}]
    results = [
        result(method, 1440, 0, 0.55, iou=each) for method, each in zip(("ralis", "bald"), iou, strict=True)
    ]
    table = iou_table(results, [record | {"iou": iou[0]} for record in REFERENCES])
    assert table.caption == "Test IoU by class [%], one seed"
    assert shown(table) == [
        ["regions", "method", "road", "pole", "fence", "mIoU"],
        ["1,440", "ralis", "*90.0*", "20.0", "–", "*55.0*"],
        ["1,440", "bald", "80.0", "*30.0*", "–", "*55.0*"],
        ["", "θ0′", "90.0 ± 0.0", "20.0 ± 0.0", "–", "32.0 ± 2.8"],
        ["", "full supervision", "90.0 ± 0.0", "20.0 ± 0.0", "–", "69.0 ± 1.4"],
    ]


def test_a_class_that_one_seed_lacks_is_averaged_over_the_others():
    results = [
        result("ralis", 24, seed, 0.5, iou={"road": 0.5, "pole": pole})
        for seed, pole in enumerate((None, 0.25))
    ]
    assert shown(iou_table(results, []))[1] == ["24", "ralis", "50.0 ± 0.0", "25.0", "50.0 ± 0.0"]


def test_the_mistakes_have_a_table_where_the_selections_tell_them():
    results = [r | {"labelled_pixels": 72 * r["budget"] // 24} for r in RESULTS if r["seed"] == 0]
    results = [r | {"budget": r["budget"] // 24} for r in results]  # budgets 1 and 2
    told = SELECTION | {"mistaken_pixels": [9, 27]}
    _, mistaken, _ = selected_tables(run_of(results, selections=[told, SELECTION | {"method": "uniform"}]))
    assert mistaken.caption == "Selected pixels that the segmenter had wrong when it asked [%], one seed"
    assert shown(mistaken) == [["regions", "ralis"], ["1", "12.5"], ["2", "25.0"]]
    assert len(selected_tables(run_of(results, selections=[SELECTION]))) == 2
