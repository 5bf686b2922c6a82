"""The report of a labelling project: a page of pictures and tables, with the look of a run's report."""

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from ralx.labelling.gains import Gains, advice, last_gains, points
from ralx.labelling.pictures import (
    MAPS,
    Predictions,
    image_views,
    region_views,
    shown_images,
    shown_regions,
)
from ralx.labelling.policy import labelled_counts
from ralx.labelling.project import Project
from ralx.labelling.status import status
from ralx.labelling.train import ENOUGH_KEPT
from ralx.report import write_page
from ralx.report.labelling import Models, image_maps, kept_class_iou, kept_miou, region_maps
from ralx.report.page import render
from ralx.report.tables import ABSENT, Cell, Row, Table
from ralx.support.devices import find_device


def write_report(project: Project, device: str = "auto") -> Path:
    """Write PROJECT/report, index.html and its PNG files, whole or not at all; the path of index.html. The
    same project gives the same bytes.

    DataError: an image that is shown or measured on has changed, or a model's file is damaged.
    """
    models, asked = [dict(model) for model in project.models()], project.asked_regions()
    where = find_device(device)
    measured = last_gains(project, where)
    predictions = Predictions(project, where) if models else None
    regions, images = shown_regions(asked), shown_images(project, asked)
    titles = MAPS if predictions else MAPS[:1]
    figures = {
        "miou.png": lambda: kept_miou(models),
        "classes.png": lambda: kept_class_iou(models),
        "regions.png": lambda: region_maps(
            region_views(project, regions, predictions), titles, project.classes
        ),
        "images.png": lambda: image_maps(
            image_views(project, images, asked, predictions) if predictions else [], project.classes
        ),
    }
    return write_page(
        project.path / "report",
        figures,
        lambda drawn: render(
            "labelling.html.j2",
            name=project.name,
            headline=_headline(project),
            advice=advice(measured, bool(models)),
            drawn=drawn,
            measured=measured,
            models=[_models_table(models)] if models else [],
            gains=_gains_table(measured),
            enough_kept=ENOUGH_KEPT,
            classes=_classes_table(project, models),
            rounds=_rounds_table(project),
            shown_round=regions[0].round if regions else None,
        ),
    )


def _headline(project: Project) -> str:
    found, (height, width) = status(project), project.region_size
    facts = [
        f"{found['images']:,} images, {len(project.classes)} classes, regions of {height}×{width} pixels",
        f"{found['round'] or 0} rounds",
        f"{found['regions_labelled']:,} of {found['regions_asked']:,} asked regions labelled",
        f"{found['pixels_labelled']:,} pixels",
    ]
    if found["minutes"] is not None:
        facts.append(f"{found['minutes']:,.1f} minutes")
    return " · ".join(facts)


def _models_table(models: Models) -> Table:
    rows: list[Row] = [
        [
            str(model["number"]),
            str(model["round"] or ABSENT),
            _count(model["regions"]),
            _count(model["pixels"]),
            _number(model["minutes"]),
            _percent(model["miou"]),
            ABSENT
            if model["low"] is None
            else Cell(f"{model['low'] * 100:.1f} to {model['high'] * 100:.1f}"),
        ]
        for model in models
    ]
    columns = ["regions", "pixels", "minutes so far", "mIoU [%]", "95 % interval"]
    return Table("Models", ["model", "after round"], columns, [rows])


def _gains_table(found: Gains) -> Table:
    rows: list[Row] = [
        [
            str(gain.round or ABSENT),
            Cell(points(gain.gain)),
            ABSENT if gain.interval is None else Cell(" to ".join(map(points, gain.interval))),
            _number(gain.minutes),
            ABSENT if gain.per_hour is None else Cell(points(gain.per_hour)),
        ]
        for gain in found.gains
    ]
    columns = ["gain [points of mIoU]", "95 % interval", "minutes", "points per hour"]
    return Table("What the last rounds brought", ["round"], columns, [rows])


def _classes_table(project: Project, models: Models) -> Table:
    """Of each class its IoU by the two newest models, and its pixels in asked regions to learn from."""
    known = [json.loads(model["iou"]) for model in models if model["miou"] is not None]
    before, newest = [{}, {}, *known][-2:]
    pixels = labelled_counts(project).sum(0).tolist()
    rows: list[Row] = [
        [name, _percent(before.get(name)), _percent(newest.get(name)), _count(count)]
        for name, count in zip(project.classes.names, pixels, strict=True)
    ]
    caption = "IoU by class [%], and labelled pixels of asked regions to learn from"
    return Table(caption, ["class"], ["model before", "newest model", "pixels"], [rows])


def _rounds_table(project: Project) -> Table:
    """A row for each round, and one for all of them."""
    with project.reading() as connection:
        rounds = connection.execute(
            "SELECT rounds.number AS round, method, count(*) AS asked, sum(state = 'labelled') AS labelled, "
            "sum(state = 'unsure') AS unsure, sum(state = 'asked') AS left, "
            "sum(kept AND state = 'labelled') AS kept, total(pixels) AS pixels, sum(seconds) AS seconds, "
            "sum(labels.number IS NOT NULL AND seconds IS NULL) AS untimed "
            "FROM rounds JOIN regions ON round = rounds.number "
            "LEFT JOIN labels ON region = regions.id AND NOT undone WHERE is_open GROUP BY rounds.number"
        ).fetchall()
    counted = ("asked", "labelled", "unsure", "left", "kept", "pixels", "untimed")

    def row(labels: list[str], members: Sequence[sqlite3.Row]) -> Row:
        seconds = [member["seconds"] for member in members if member["seconds"] is not None]
        counts = [_count(sum(member[name] for member in members)) for name in counted]
        return [*labels, *counts, _number(sum(seconds) / 60 if seconds else None)]

    groups = [[row([str(each["round"]), each["method"]], [each]) for each in rounds]]
    if len(rounds) > 1:
        groups.append([row(["all", ""], rounds)])
    columns = "asked,labelled,not sure,left,kept and labelled,pixels,labels without time,minutes".split(",")
    return Table("Rounds", ["round", "method"], columns, groups)


def _count(value: float) -> Cell:
    return Cell(f"{value:,.0f}")


def _number(value: float | None) -> Cell:
    return ABSENT if value is None else Cell(f"{value:,.1f}")


def _percent(fraction: float | None) -> Cell:
    return ABSENT if fraction is None else _number(fraction * 100)
