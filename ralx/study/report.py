"""What a study leaves for its readers: files, a table and pictures, made of what is finished."""

import dataclasses
from pathlib import Path
from typing import Any

from ralx.config import Config
from ralx.report import (
    miou_vs_budget,
    per_class_iou,
    save_figures,
    selected_classes,
    selections,
    write_report,
)
from ralx.report.records import Run
from ralx.report.tables import iou_table
from ralx.study.analysis import analyse
from ralx.study.results import Results, Split, gather, write_files
from ralx.study.studies import STUDIES, StudyName
from ralx.study.tables import MEASURED_ON, miou_table, selected_table
from ralx.study.worker import Workshop
from ralx.support.files import write_json, write_whole


def write_study(name: StudyName, config: Config, workshop: Workshop, folder: Path, split: Split) -> str:
    """Write the study's folder; returns its table as Markdown.

    In the folder: results.json, reference.json, selections/, steps.jsonl and config.json as ralx-train leaves
    them, results.csv, statistics.json, table.md, machine.json, and PNG files; for budget-curve report/ too,
    whose pages are about the test set.
    """
    results = gather(STUDIES[name], config, workshop, split)
    folder.mkdir(parents=True, exist_ok=True)
    write_files(results, config, folder)
    analysis = analyse(results, STUDIES[name].baselines)
    write_json(folder / "statistics.json", analysis)
    tables = [miou_table(analysis) if STUDIES[name].trains else selected_table(results)]
    if name == "per-class" and split == "test":  # IoU by class is measured there alone
        tables.append(iou_table(results.records, results.references))
    text = "\n".join([f"# {STUDIES[name].title}\n", *(table.markdown() for table in tables)])
    write_whole(folder / "table.md", text.encode())
    pictures = workshop.experiment(config).splits.eval_set
    save_figures(folder, _figures(name, results, config, pictures))
    if name == "budget-curve" and results.records and split == "test":
        write_report(folder, pictures=pictures)
    return text


def _figures(name: StudyName, results: Results, config: Config, pictures: Any) -> dict[str, Any]:
    """File name → what draws it."""
    run = Run(
        config=config.to_json(),
        steps=[],
        results=results.records,
        references=results.references,
        selections=results.selections,
    )
    chosen = dataclasses.replace(run, results=results.selected)
    drawn = {
        "per-class": {"per_class_iou.png": lambda: per_class_iou(run)},
        "selected-classes": {"selected_classes.png": lambda: selected_classes(chosen)},
        "selections": {"selections.png": lambda: selections(run, pictures)},
        "upper-bound": {},
    }
    curve = {
        "miou_vs_budget.png": lambda: miou_vs_budget(run, results.pool_pixels, MEASURED_ON[results.split])
    }
    return drawn.get(name, curve)
