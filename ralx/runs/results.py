"""What the finished stages of a study found, in the format of a run's files."""

import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from ralx.regions import num_pixels
from ralx.report.records import MeasuredOn, Record, Run, StudyResults
from ralx.runs.config import RunConfig
from ralx.runs.engine import Worker
from ralx.runs.plan import Stages
from ralx.runs.stage import Stage
from ralx.runs.stages import Learn, Select, TakePolicy
from ralx.runs.studies import Arm


def gather(
    arms: Sequence[Arm], config: RunConfig, plan: Sequence[Stage], worker: Worker, measured_on: MeasuredOn
) -> StudyResults:
    """The records of what is finished, the arm's label in the place of the method."""
    splits = worker.splits(config)
    classes = splits.train_set.classes
    records, selected = [], []
    for seed in config.seeds:
        for arm in arms:
            stages, label = Stages(arm.config), {"method": arm.label}
            select = stages.select(arm.method, seed)
            if found := worker.found(select):
                for shown, part in zip(config.evaluation.budgets, found["selected"], strict=True):
                    of = {"seed": seed, "budget": shown, "iou": dict.fromkeys(classes)}
                    selected.append(part | label | of)
            budgets = zip(arm.config.evaluation.budgets, config.evaluation.budgets, strict=True)
            for own, shown in budgets:
                if found := worker.found(stages.final(arm.method, seed, own)):
                    records.append(_measured_on(found, measured_on) | label | {"budget": shown})
    run = Run(
        config=config.to_json(),
        steps=steps_of(policies_of(arms, config), worker),
        results=records,
        references=[_measured_on(found, measured_on) for found in references_of(config, worker)],
        selections=[
            selection_of(select, worker) | {"method": arm.label}
            for arm in arms
            for seed in config.seeds
            if worker.finished(select := Stages(arm.config).select(arm.method, seed))
        ],
    )
    return StudyResults(
        run,
        measured_on,
        selected,
        work=[worker.made(stage) for stage in plan if worker.finished(stage)],
        classes=classes,
        known_pixels=sum(map(num_pixels, (splits.state_set, splits.train_set, splits.reward_set))),
        pool_pixels=num_pixels(splits.eval_set),
    )


def references_of(config: RunConfig, worker: Worker) -> list[dict[str, Any]]:
    """What the finished ones of θ0, θ0′ and full supervision of every seed found."""
    stages = Stages(config)
    full = (stages.full_supervision(seed) for seed in config.seeds)
    return [found for each in (stages.theta0, stages.theta0_prime, *full) if (found := worker.found(each))]


def policies_of(arms: Sequence[Arm], config: RunConfig) -> list[Learn | TakePolicy]:
    """The policy of each seed of the config, where one of the arms chooses by it."""
    policies = []
    for seed in config.seeds:
        own = Stages(config).policy(seed)
        if any(own in Stages(arm.config).select(arm.method, seed).needs for arm in arms):
            policies.append(own)
    return policies


def steps_of(policies: Sequence[Stage], worker: Worker) -> list[Record]:
    """The lines of steps.jsonl, as far as the policies are finished."""
    return [line for policy in policies for line in (worker.found(policy) or {"steps": []})["steps"]]


def selection_of(select: Select, worker: Worker) -> Record:
    """A file of selections/, but for its checksum."""
    tensors = worker.artifact(select).tensors
    data = worker.images(select.eval_set)
    image, row, col = (part.tolist() for part in select.grid(worker).split(tensors["regions"]))
    return {
        "method": select.method,
        "seed": select.seed,
        "region_size": list(select.regions.region_size),
        "budgets": list(select.budgets),
        "regions": [[data.names[i], r, c] for i, r, c in zip(image, row, col, strict=True)],
        "mistaken_pixels": tensors["mistaken"].tolist(),
    }


def _measured_on(found: dict[str, Any], measured_on: MeasuredOn) -> Record:
    """The record with the mIoU of these images; IoU by class is measured on the test set alone."""
    record = found["record"]
    if measured_on == "test":
        return record
    return record | {"miou": found["reward_miou"], "iou": dict.fromkeys(record["iou"])}


def timing(work: Sequence[Record]) -> Record:
    """machine.json: what the stages were computed on, each machine once, and how many stages of each kind
    there are and how long their last attempts took; "learn", and by method the others."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for made in work:
        seconds[made["kind"]].append(made["seconds"])
    machines = {json.dumps(made["machine"], sort_keys=True): made["machine"] for made in work}
    kinds = {
        kind: {"stages": len(each), "seconds": round(math.fsum(each), 1)} for kind, each in seconds.items()
    }
    return {"machines": list(machines.values()), "stages": kinds}


def as_csv(results: StudyResults) -> str:
    """A row per record: mIoU, IoU of each class, and what was selected."""
    mistaken = {_record_key(part): part["mistaken_share"] for part in results.selected}
    text = io.StringIO()
    names = ["method", "budget", "seed", "miou", *results.classes, "selected_entropy", "labelled_pixels"]
    names += ["share_of_pool_pixels", "total_labelled_pixels", "mistaken_share"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, *(f"selected {name}" for name in results.classes)])
    for record in results.run.results:
        pixels = record["labelled_pixels"]
        row = [*(record[name] for name in names[:4]), *record["iou"].values(), record["selected_entropy"]]
        row += [pixels, pixels / results.pool_pixels, results.known_pixels + pixels]
        writer.writerow([*row, mistaken.get(_record_key(record)), *record["selected_class_fraction"]])
    return text.getvalue()


def _record_key(record: Record) -> tuple[str, int, int]:
    return record["method"], record["budget"], record["seed"]
