"""What the finished cells of a study found, in the format of a run's files."""

import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ralx.config import Config
from ralx.report.records import Record
from ralx.study.cells import Cell, with_needs
from ralx.study.studies import Arm, Study, cells_of
from ralx.study.worker import Workshop, unique
from ralx.support.files import write_json, write_sealed, write_whole

Split = Literal["test", "validation"]


class Results(NamedTuple):
    """Records as ralx-train writes them, the arm's label in the place of the method; only of what is
    finished."""

    split: Split  # that the mIoU of records and references is of
    records: list[Record]
    references: list[Record]
    selections: list[Record]
    selected: list[Record]  # what the regions selected at each budget hold
    steps: list[str]  # lines of steps.jsonl, of the arm that is called ralis
    cells: list[Record]  # everything that was found, with seconds and machine
    classes: tuple[str, ...]
    known_pixels: int  # labelled before the first region: D_S, D_T and D_R
    pool_pixels: int  # of D_V


def gather(study: Study, config: Config, workshop: Workshop, split: Split) -> Results:
    """The study's results; the mIoU of `split`."""
    arms = study.arms(config)
    splits = workshop.experiment(config).splits
    cells = unique(with_needs(cells_of(study, config)), workshop)
    selects = [(arm, s, Cell("select", arm.config, s, arm.method)) for arm in arms for s in config.seeds]
    selections = [_labelled(arm, found["selection"]) for arm, found in _found(selects, workshop)]
    return Results(
        split=split,
        records=_records(arms, config, workshop, split),
        references=_references(config, workshop, split),
        selections=selections,
        selected=_selected(arms, config, workshop, splits.train_set.classes),
        steps=_steps(arms, config, workshop),
        cells=[found for cell in cells if (found := workshop.found(cell))],
        classes=splits.train_set.classes,
        known_pixels=sum(map(_pixels, (splits.state_set, splits.train_set, splits.reward_set))),
        pool_pixels=_pixels(splits.eval_set),
    )


def _pixels(data: Any) -> int:
    return len(data) * math.prod(data.image_size)


def _found(wanted: Sequence[tuple[Arm, int, Cell]], workshop: Workshop) -> list[tuple[Arm, Record]]:
    return [(arm, found) for arm, _, cell in wanted if (found := workshop.found(cell))]


def _labelled(arm: Arm, record: Record) -> Record:
    return record | {"method": arm.label}


def _of_split(found: Record, split: Split) -> Record:
    """The record with the mIoU of the split; IoU by class is measured on the test set alone."""
    record = found["record"]
    if split == "test":
        return record
    return record | {"miou": found["reward_miou"], "iou": dict.fromkeys(record["iou"])}


def _records(arms: Sequence[Arm], config: Config, workshop: Workshop, split: Split) -> list[Record]:
    records = []
    for seed in config.seeds:
        for arm in arms:
            for own, shown in zip(arm.config.budgets, config.budgets, strict=True):
                found = workshop.found(Cell("final", arm.config, seed, arm.method, own))
                if found:
                    records.append(_labelled(arm, _of_split(found, split)) | {"budget": shown})
    return records


def _references(config: Config, workshop: Workshop, split: Split) -> list[Record]:
    cells = [Cell("theta0", config, config.seed), Cell("theta0_prime", config, config.seed)]
    cells += [Cell("full_supervision", config, seed) for seed in config.seeds]
    return [_of_split(found, split) for cell in cells if (found := workshop.found(cell))]


def _selected(
    arms: Sequence[Arm], config: Config, workshop: Workshop, classes: tuple[str, ...]
) -> list[Record]:
    """Records without a mIoU, which is not known yet."""
    records = []
    for seed in config.seeds:
        for arm in arms:
            found = workshop.found(Cell("select", arm.config, seed, arm.method))
            for shown, part in zip(config.budgets, found["selected"] if found else (), strict=False):
                cell = {"method": arm.label, "seed": seed, "iou": dict.fromkeys(classes)}
                # Cells of a store that is older than the count of mistakes lack it.
                records.append({"mistaken_share": None} | part | cell | {"budget": shown})
    return records


def _steps(arms: Sequence[Arm], config: Config, workshop: Workshop) -> list[str]:
    learned = [
        Cell("learn", arm.config, seed) for arm in arms if arm.label == "ralis" for seed in config.seeds
    ]
    files = [workshop.work(cell).path / "steps.jsonl" for cell in learned if workshop.finished(cell)]
    return [line for path in files if path.exists() for line in path.read_text(encoding="utf-8").splitlines()]


def seconds_by_kind(cells: Sequence[Record]) -> Record:
    """How many cells of each kind there are and how long their last attempts took; "learn", and by method the
    others."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for found in cells:
        cell = found["cell"]
        seconds[" ".join(filter(None, (cell["kind"], cell["method"])))].append(found["seconds"])
    return {
        kind: {"cells": len(each), "seconds": round(math.fsum(each), 1)} for kind, each in seconds.items()
    }


def machines(cells: Sequence[Record]) -> list[Record]:
    """What the cells were computed on, each once."""
    return list({json.dumps(found["machine"], sort_keys=True): found["machine"] for found in cells}.values())


def write_files(results: Results, config: Config, folder: Path) -> None:
    """results.json, reference.json, selections/, config.json, steps.jsonl, machine.json, results.csv."""
    options = {name: value for name, value in config.to_json().items() if name not in _PATHS}
    write_json(folder / "config.json", options)
    write_json(folder / "results.json", results.records)
    write_json(folder / "reference.json", results.references)
    timing = {"machines": machines(results.cells), "cells": seconds_by_kind(results.cells)}
    write_json(folder / "machine.json", timing)
    steps = "".join(f"{line}\n" for line in results.steps)
    write_whole(folder / "steps.jsonl", steps.encode())
    write_whole(folder / "results.csv", _csv(results).encode())
    chosen = {f"{found['method']}-seed{found['seed']}.json": found for found in results.selections}
    for path in (folder / "selections").glob("*-seed*.json"):
        if path.name not in chosen:  # of a method that is no longer compared
            path.unlink()
    for name, selection in chosen.items():
        write_sealed(folder / "selections" / name, selection)


# They tell where things lie on this machine.
_PATHS = ("data", "gta5", "split_lists", "weights", "policy")


def _csv(results: Results) -> str:
    """A row per record: mIoU, IoU of each class, and what was selected."""
    mistaken = {_cell_of(part): part["mistaken_share"] for part in results.selected}
    text = io.StringIO()
    shares = [f"selected {name}" for name in results.classes]
    names = ["method", "budget", "seed", "miou", *results.classes, "selected_entropy", "labelled_pixels"]
    writer = csv.writer(text, lineterminator="\n")
    pixel_names = ["share_of_pool_pixels", "total_labelled_pixels", "mistaken_share"]
    writer.writerow([*names, *pixel_names, *shares])
    for record in results.records:
        pixels = record["labelled_pixels"]
        row = [
            *(record[name] for name in names[:4]),
            *record["iou"].values(),
            record["selected_entropy"],
            pixels,
        ]
        row += [pixels / results.pool_pixels, results.known_pixels + pixels, mistaken.get(_cell_of(record))]
        writer.writerow([*row, *record["selected_class_fraction"]])
    return text.getvalue()


def _cell_of(record: Record) -> tuple[str, int, int]:
    return record["method"], record["budget"], record["seed"]
