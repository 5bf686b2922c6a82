"""What the last rounds of labelling brought, and whether more of it is worth the work."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ralx.labelling.project import Project
from ralx.labelling.train import ENOUGH_KEPT, KeptRegions, drawn_again, middle_of
from ralx.labelling.worker import trained_segmenter
from ralx.metrics import mean_iou

ENOUGH_IMAGES = 10  # with kept regions: of fewer, an interval that draws images again is too narrow
LITTLE = 0.01  # of mIoU: whoever gains less for sure may stop
MODELS = 3  # that are compared


@dataclass(frozen=True)
class Gain:
    """How much better a model is than the one before, both measured on all that is kept today.

    Args:
        round: the last that the model has learned from; None: labels that the images came with.
        gain: in mIoU, a fraction.
        interval: 95 % of the gain's values where the images are drawn again; None for fewer than two images.
        minutes: of labelling between the two models; None where somebody's time wasn't noted.
    """

    round: int | None
    gain: float
    interval: tuple[float, float] | None
    minutes: float | None

    @property
    def per_hour(self) -> float | None:
        return None if self.minutes is None else self.gain * 60 / self.minutes


@dataclass(frozen=True)
class Gains:
    """Of the last models, the newest last, and how many kept regions in how many images measure them."""

    kept_regions: int
    kept_images: int
    gains: Sequence[Gain] = ()


def last_gains(project: Project, device: torch.device) -> Gains:
    """Measure the newest models of the last rounds again.

    Their numbers in the database are each of the regions that were kept at the time, so that a difference of
    them would be one of regions too.
    """
    kept = KeptRegions(project)
    num_images = sum(len(pixels) for pixels, _ in kept.batches)
    by_round = {model["round"]: model for model in project.models()}.values()
    models = [model for model in by_round if project.model_file(model["number"]).exists()][-MODELS:]
    if not num_images or len(models) < 2:
        return Gains(kept.num_regions, num_images)
    confusions = []
    for model in models:
        segmenter = trained_segmenter(project, project.model_file(model["number"]), device)
        confusions.append(kept.confusion(segmenter).numpy())
    drawn = [drawn_again(confusion, project.settings.seed) for confusion in confusions]
    mious = [mean_iou(torch.from_numpy(confusion.sum(0))) for confusion in confusions]
    gains = [
        Gain(
            models[place]["round"],
            mious[place] - mious[place - 1],
            middle_of(drawn[place] - drawn[place - 1]) if num_images > 1 else None,
            _minutes_between(project, models[place - 1], models[place]),
        )
        for place in range(1, len(models))
    ]
    return Gains(kept.num_regions, num_images, gains)


def _minutes_between(project: Project, before: sqlite3.Row, after: sqlite3.Row) -> float | None:
    """How long people labelled; None where a label's time wasn't noted, or no time was spent."""
    with project.reading() as connection:
        (unknown,) = connection.execute(
            "SELECT count(*) FROM labels JOIN regions ON region = id "
            "WHERE NOT undone AND seconds IS NULL AND round > ? AND round <= ?",
            (before["round"] or 0, after["round"] or 0),
        ).fetchone()
    minutes = (after["minutes"] or 0) - (before["minutes"] or 0)
    return None if unknown or minutes <= 0 else minutes


def advice(found: Gains, has_model: bool) -> str:
    """Whether to go on, in a sentence."""
    unknown = "It can’t be told yet whether to go on: "
    if not has_model:
        return unknown + "no model has been trained."
    if not found.kept_regions:
        return unknown + "no kept region has a label, and they alone measure the model."
    if not found.gains:
        return unknown + "a gain needs the models of two rounds. Label the next round and train again."
    if found.kept_regions < ENOUGH_KEPT or found.kept_images < ENOUGH_IMAGES:
        return (
            f"{unknown}{found.kept_regions} kept regions in {found.kept_images} images measure the model, "
            f"and a gain can be told from chance from {ENOUGH_KEPT} in {ENOUGH_IMAGES} on. Further rounds "
            "bring more of them."
        )
    last = found.gains[-1]
    assert last.interval  # of so many images
    low, high = last.interval
    where = f"the labels of round {last.round}"
    between = f"(95 % interval {points(low)} to {points(high)})"
    if low > 0:
        hourly = "" if last.per_hour is None else f", {points(last.per_hour)} per hour of labelling"
        return f"Going on is worth it: {where} brought {points(last.gain)} points of mIoU {between}{hourly}."
    if high < 0:
        return (
            f"Look at {where} before going on: the model that learned from them too is {points(-last.gain)} "
            f"points of mIoU worse than the one before {between}."
        )
    if high < LITTLE:
        return (
            f"You may stop: {where} brought less than {LITTLE * 100:g} point of mIoU {between}, and another "
            "round like it would bring as little."
        )
    return (
        f"{unknown}{where} brought {points(last.gain)} points of mIoU {between}, which chance alone may have "
        "made. Another round tells more."
    )


def points(miou: float) -> str:
    """A difference in mIoU, in hundredths."""
    return f"{np.round(miou * 100, 1) + 0.0:.1f}".replace("-", "−")
