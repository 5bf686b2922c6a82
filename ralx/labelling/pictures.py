"""What a labelling project's report shows of images: regions that were asked, and what the model sees."""

import math
import sqlite3
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ralx.datasets.geometry import Size
from ralx.labelling.bundle import box_in_crop, crop_box
from ralx.labelling.images import as_tensor, size_of
from ralx.labelling.labels import UNLABELLED
from ralx.labelling.project import AskedRegion, Project
from ralx.labelling.worker import trained_segmenter
from ralx.report.labelling import ImageView, RegionView
from ralx.report.style import readable
from ralx.segmentation import predict

MOST_REGIONS, MOST_IMAGES = 6, 4
LONGEST = 480  # pixels of an image's longer side, as it is shown
MAPS = ("label received", "guess when it was asked", "newest model")


class Predictions:
    """What the newest model of a project says of its images."""

    def __init__(self, project: Project, device: torch.device):
        newest = project.model_file(project.models()[-1]["number"])
        self._segmenter = trained_segmenter(project, newest, device)

    @torch.no_grad()
    def of(self, pixels: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
        """The classes, uint8, and the entropy in nats, float32, both [h, w] of `size`, of an image uint8
        [H, W, 3]."""
        logits = predict(self._segmenter, as_tensor([pixels])).float()
        log_p = F.interpolate(logits, size, mode="bilinear", align_corners=True)[0].log_softmax(0)
        return _array(log_p.argmax(0).to(torch.uint8)), _array(-(log_p.exp() * log_p).nansum(0))


def _array(values: Tensor) -> np.ndarray:
    return values.cpu().numpy()


def shown_regions(asked: Sequence[AskedRegion]) -> list[AskedRegion]:
    """Some regions of the last round that has labels, or of the last one where none has: from the highest
    score to the kept ones."""
    labelled = [each for each in asked if each.state == "labelled"] or list(asked)
    last = [each for each in labelled if each.round == labelled[-1].round]
    last.sort(key=lambda each: (each.kept, math.inf if each.score is None else -each.score, each.id))
    places = np.linspace(0, len(last) - 1, min(len(last), MOST_REGIONS)).round().astype(int)
    return [last[place] for place in places]


def region_views(
    project: Project, regions: Sequence[AskedRegion], predictions: Predictions | None
) -> list[RegionView]:
    """Each region with the `MAPS` of it; without a model only the first."""
    views = []
    for asked in regions:
        pixels, label = project.pixels(asked.image), project.label_of(asked.id)
        if label is None or (label == UNLABELLED).all():
            maps: list[np.ndarray | str] = ["not sure" if asked.state == "unsure" else "no label yet"]
        else:
            maps = [label]
        if predictions:
            guess = project.prelabel(asked.id)
            newest, _ = predictions.of(pixels, asked.image_size)
            maps += ["no model yet" if guess is None else guess, newest[asked.box.slices]]
        name = f"{asked.id}{' (kept)' if asked.kept else ''}\n{readable(asked.image, 24)}"
        views.append(RegionView(name, pixels[crop_box(asked).slices], box_in_crop(asked), asked.kept, maps))
    return views


def shown_images(project: Project, asked: Sequence[AskedRegion]) -> list[sqlite3.Row]:
    """Images of which most regions were asked in the last round, and as many of which none ever was."""
    last = Counter(each.image for each in asked if each.round == asked[-1].round)
    touched = {each.image for each in asked}
    by_name = {image["name"]: image for image in project.images}
    most = sorted(last, key=lambda name: (-last[name], name))
    others = [name for name in by_name if name not in touched]
    names = most[: max(MOST_IMAGES // 2, MOST_IMAGES - len(others))]
    return [by_name[name] for name in (*names, *others[: MOST_IMAGES - len(names)])]


def image_views(
    project: Project,
    images: Sequence[sqlite3.Row],
    asked: Sequence[AskedRegion],
    predictions: Predictions,
) -> list[ImageView]:
    """Each image, made smaller where it is large, with all regions that were asked of it."""
    views = []
    for image in images:
        scale = min(1.0, LONGEST / max(size_of(image)))
        height, width = (max(1, round(side * scale)) for side in size_of(image))
        pixels = project.read(image)
        photo = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
        boxes = [
            ([side * scale for side in each.box], each.kept) for each in asked if each.image == image["name"]
        ]
        found = predictions.of(pixels, (height, width))
        views.append(ImageView(readable(image["name"], 24), np.asarray(photo), boxes, *found))
    return views
