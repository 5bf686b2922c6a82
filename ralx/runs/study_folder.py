"""What a study leaves for its readers: files, a table and pictures, made of what is finished."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ralx.report import save_figures, write_report
from ralx.report.analysis import analyse
from ralx.report.comparison import miou_vs_budget, per_class_iou, selected_classes
from ralx.report.records import MeasuredOn, StudyResults
from ralx.report.regions import selections
from ralx.report.study_tables import MEASURED_ON, miou_table, selected_table
from ralx.report.tables import iou_table
from ralx.runs.config import RunConfig
from ralx.runs.engine import Worker
from ralx.runs.results import as_csv, gather, timing
from ralx.runs.stage import Stage
from ralx.runs.studies import STUDIES, StudyName
from ralx.support.files import write_json, write_sealed, write_whole

_PATHS = ("data", "gta5", "split_lists", "weights", "policy")  # where files lie on this machine


def write_study(
    name: StudyName,
    config: RunConfig,
    plan: Sequence[Stage],
    worker: Worker,
    folder: Path,
    measured_on: MeasuredOn,
) -> str:
    """Write the study's folder; returns its table as Markdown.

    In the folder: results.json, reference.json, selections/, steps.jsonl and config.json as ralx-train leaves
    them, results.csv, statistics.json, table.md, machine.json, and PNG files; for budget-curve report/ too,
    whose pages are about the test set.
    """
    study = STUDIES[name]
    results = gather(study.arms(config), config, plan, worker, measured_on)
    folder.mkdir(parents=True, exist_ok=True)
    _write_files(results, folder)
    analysis = analyse(results, study.baselines)
    write_json(folder / "statistics.json", analysis)
    tables = [miou_table(analysis) if study.trains else selected_table(results)]
    if name == "per-class" and measured_on == "test":  # IoU by class is measured there alone
        tables.append(iou_table(results.run.results, results.run.references))
    text = "\n".join([f"# {study.title}\n", *(table.markdown() for table in tables)])
    write_whole(folder / "table.md", text.encode())
    pictures = worker.splits(config).eval_set
    save_figures(folder, _figures(name, results, pictures))
    if name == "budget-curve" and results.run.results and measured_on == "test":
        write_report(folder, pictures=pictures)
    return text


def _write_files(results: StudyResults, folder: Path) -> None:
    run = results.run
    options = {name: value for name, value in run.config.items() if name not in _PATHS}
    write_json(folder / "config.json", options)
    write_json(folder / "results.json", run.results)
    write_json(folder / "reference.json", run.references)
    write_json(folder / "machine.json", timing(results.work))
    write_whole(folder / "steps.jsonl", "".join(f"{json.dumps(line)}\n" for line in run.steps).encode())
    write_whole(folder / "results.csv", as_csv(results).encode())
    chosen = {f"{found['method']}-seed{found['seed']}.json": found for found in run.selections}
    for path in (folder / "selections").glob("*-seed*.json"):
        if path.name not in chosen:  # of a method that is no longer compared
            path.unlink()
    for name, selection in chosen.items():
        write_sealed(folder / "selections" / name, selection)


def _figures(name: StudyName, results: StudyResults, pictures: Any) -> dict[str, Callable[[], Any]]:
    """File name → what draws it."""
    run = results.run
    chosen = dataclasses.replace(run, results=results.selected)
    pixels, images = results.pool_pixels, MEASURED_ON[results.measured_on]
    drawn: dict[str, dict[str, Callable[[], Any]]] = {
        "per-class": {"per_class_iou.png": lambda: per_class_iou(run)},
        "selected-classes": {"selected_classes.png": lambda: selected_classes(chosen)},
        "selections": {"selections.png": lambda: selections(run, pictures)},
        "upper-bound": {},
    }
    return drawn.get(name, {"miou_vs_budget.png": lambda: miou_vs_budget(run, pixels, images)})
