"""Choosing the regions of a project's next round among all that are unlabelled."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ralx.acquisition import BatchAcquisition, Step, uniform
from ralx.acquisition.methods import Method, method_of, uses_policy
from ralx.labelling.images import batches, class_maps, read_ahead, regions_with, size_of
from ralx.labelling.labels import UNLABELLED
from ralx.labelling.policy import KL_BINS, Sight, experience, labelled_counts, learned_policy
from ralx.labelling.project import Project
from ralx.labelling.worker import ProjectWorker
from ralx.metrics import distribution_of
from ralx.ops import RegionFeatures, region_features
from ralx.runs.stage import Artifact, Place, Stage
from ralx.segmentation import autocast, predict
from ralx.segmentation.modes import inputs_for
from ralx.segmentation.outputs import logits_of
from ralx.support.divergence import refuse_not_finite
from ralx.support.randomness import stream

MC_PASSES = 20  # of the methods that have some
UNIFORM, WARM = "uniform", "entropy"  # without a model, and before the policy has learned anything
POOL_SIZE = 10  # candidates among which a method that looks at the whole batch picks each region


class Regions:
    """All regions of a project by flat index: image after image, those of one image row-major."""

    def __init__(self, project: Project):
        self.project, self.images = project, project.images
        self.first = np.array([image["first_region"] for image in self.images])
        self.num_regions = self.first[-1] + project.grid(size_of(self.images[-1])).num_regions

    def images_of(self, regions: np.ndarray) -> np.ndarray:
        """The number of the image that each region [K] lies in."""
        return np.searchsorted(self.first, regions, side="right") - 1

    def unlabelled(self) -> np.ndarray:
        """Regions that were not asked and have a pixel without label, int64 [U], ascending."""
        is_open = np.ones(self.num_regions, bool)
        with self.project.reading() as connection:
            asked = connection.execute("SELECT place FROM regions").fetchall()
            given = connection.execute("SELECT DISTINCT image FROM labels WHERE region IS NULL").fetchall()
        for (image,) in given:
            first, grid = self.first[image], self.project.grid(size_of(self.images[image]))
            unknown = self.project.label_map(image) == UNLABELLED
            is_open[first : first + grid.num_regions] = False
            is_open[first + regions_with(unknown, grid.region_size)] = True
        is_open[[place for (place,) in asked]] = False
        return np.flatnonzero(is_open)


@dataclass(frozen=True)
class Choose(Stage):
    """The regions of a round: the kept ones at random among all that are unlabelled, the others by a method.

    The whole unlabelled set is scored, image after image. So that a round isn't many times the same, the
    predicted classes take turns, and no image gives many regions. Without a model the regions are random ones
    of as many images as there are.

    Leaves the flat indices of the chosen regions, of which the last are kept, their number, the scores of the
    others, and what the model predicts of each.
    """

    method: str
    model: Path | None
    unlabelled: str  # hash of which regions may be asked
    labels: str  # hash of the labels so far
    round: int
    count: int
    kept: int
    seed: int

    @property
    def kind(self) -> str:
        return f"ask {self.method}"

    def run(self, place: Place) -> Artifact:
        assert isinstance(place, ProjectWorker)
        regions = Regions(place.project)
        unlabelled = regions.unlabelled()
        order = torch.randperm(len(unlabelled), generator=self._random("kept")).numpy()
        kept, others = unlabelled[order[: self.kept]], np.sort(unlabelled[order[self.kept :]])
        count = min(self.count - len(kept), len(others))
        sight = Sight(place, place.segmenter(self.model)) if self.model else None
        used, chosen, scores = self.choose(place, regions, others, count, sight)
        places = np.concatenate([chosen, kept])
        tensors = {"regions": torch.from_numpy(places), "scores": torch.from_numpy(scores).float()}
        if sight:
            tensors |= self.seen(sight, regions, places)
        return Artifact(tensors, {"kept": len(kept), "method": used})

    def choose(
        self, place: ProjectWorker, regions: Regions, among: np.ndarray, count: int, sight: Sight | None
    ) -> tuple[str, np.ndarray, np.ndarray]:
        """The method that was used, `count` regions of `among`, and their scores."""
        images = regions.images_of(among)
        if sight is None:
            scores = self._at_random(len(among))
            chosen = spread(scores, np.zeros_like(images), images, count)
            return UNIFORM, among[chosen], scores[chosen]
        name, method = self._method(place, sight)
        if method.score is uniform:
            scores = self._at_random(len(among))
            chosen = np.argsort(-scores, kind="stable")[:count]
            return name, among[chosen], scores[chosen]
        if method.batch:
            chosen = self.choose_batch(sight, method.batch, regions, among, count)
            return name, chosen, np.zeros(len(chosen))
        scores, predicted = self.score_all(place, sight, name, method, regions, among)
        chosen = spread(scores[among], predicted[among], images, count)
        return name, among[chosen], scores[among[chosen]]

    def _method(self, place: ProjectWorker, sight: Sight) -> tuple[str, Method]:
        """The policy chooses once it has learned something, and entropy until then."""
        if not uses_policy(self.method):
            return self.method, method_of(self.method)
        policy = learned_policy(place, sight, self.seed, experience(place.project))
        if policy is None:
            return WARM, method_of(WARM)
        return self.method, Method("the learned policy", score=policy)

    def score_all(
        self,
        place: ProjectWorker,
        sight: Sight,
        name: str,
        method: Method,
        regions: Regions,
        among: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The score of every region of the images in which `among` lie, float32, and the class that it shows
        most of, uint8. What is done is kept now and then, so that an interrupted round goes on."""
        assert method.score
        project, segmenter = place.project, sight.segmenter
        scores, predicted = np.zeros(regions.num_regions, np.float32), np.zeros(regions.num_regions, np.uint8)
        groups = batches(regions.images[n] for n in np.unique(regions.images_of(among)))
        checkpoint, done = place.checkpoint(self), 0
        if saved := checkpoint.load():
            tensors, done = saved
            scores, predicted = tensors["scores"].numpy(), tensors["predicted"].numpy()
        kept = {"scores": torch.from_numpy(scores), "predicted": torch.from_numpy(predicted)}
        options = {"num_mc_samples": MC_PASSES} if method.uses_dropout else {}
        with place.monitor.task(f"score by {name}", len(groups), done) as update:
            for group, pixels in read_ahead(project, groups[done:]):
                inputs = inputs_for(segmenter, pixels.to(place.device))
                with autocast(place.device, "auto"), _outputs_of(segmenter) as outputs:
                    found = method.score(
                        segmenter,
                        inputs,
                        project.region_size,
                        edge="keep",
                        generator=stream("score", self.seed, self.round, group[0]["number"]),
                        **options,
                    )
                logits = logits_of(outputs[0], segmenter) if outputs else predict(segmenter, pixels)
                refuse_not_finite(found)
                shown = _features(project, logits, pixels).class_hist.argmax(-1)
                for image, row, classes in zip(group, found.cpu().numpy(), shown.cpu().numpy(), strict=True):
                    these = slice(image["first_region"], image["first_region"] + len(row))
                    scores[these], predicted[these] = row, classes
                done += 1
                update(done)
                checkpoint.save(lambda: (kept, done))  # noqa: B023, it is called at once
        return scores, predicted

    def choose_batch(
        self,
        sight: Sight,
        acquisition: BatchAcquisition,
        regions: Regions,
        among: np.ndarray,
        count: int,
    ) -> np.ndarray:
        """One region of each of `count` random pools, by what the whole batch and the known labels are."""
        project = regions.project
        size = min(POOL_SIZE, len(among) // count)
        generator = self._random("pools")
        drawn = torch.randperm(len(among), generator=generator)[: count * size].numpy()
        candidates = among[drawn]
        rows = np.zeros((len(candidates), len(project.classes) + 1), np.float32)
        for position, logits, pixels in self._at(sight, regions, candidates):
            features = _features(project, logits, pixels)
            seen = torch.cat([features.class_hist, features.entropy_sum[..., None]], -1)
            for image, which, local in position:
                rows[which] = seen[image, local].cpu().numpy()
        refuse_not_finite(torch.from_numpy(rows))
        seen = torch.from_numpy(rows).view(count, size, -1)
        labelled = labelled_counts(project)
        step = Step(seen[..., :-1], seen[..., -1], distribution_of(labelled), labelled.sum(0))
        picked = acquisition(step, generator).numpy()
        return candidates.reshape(count, size)[np.arange(count), picked]

    def seen(self, sight: Sight, regions: Regions, chosen: np.ndarray) -> dict[str, Any]:
        """What the policy sees of the chosen regions: the state, features float32 [K, Da], and the guesses,
        which are what the model predicts: label maps uint8 [h, w] by the region's place among the chosen."""
        guesses, features = {}, torch.zeros(len(chosen), sight.state.shape[1] + 2 * KL_BINS)
        for position, logits, pixels in self._at(sight, regions, chosen):
            size = (pixels.shape[-2], pixels.shape[-1])
            classes, grid = class_maps(logits, size), regions.project.grid(size)
            actions = sight.actions(sight.rows(logits, size)).cpu()
            for image, which, local in position:
                features[which] = actions[image, local]
                corners = (part.tolist() for part in grid.boxes(torch.from_numpy(local))[1:])
                for index, top, left, height, width in zip(which, *corners, strict=True):
                    box = slice(top, top + height), slice(left, left + width)
                    guesses[str(index)] = classes[(image, *box)].contiguous()
        return {"state": sight.state.cpu(), "features": features, "guesses": guesses}

    def _at(
        self, sight: Sight, regions: Regions, wanted: np.ndarray
    ) -> Iterator[tuple[list[tuple[int, np.ndarray, np.ndarray]], Tensor, Tensor]]:
        """For each batch of the images in which regions [K] lie: of each image, its place in the batch, which
        of the regions lie in it, and where; the logits; the pixels."""
        images = regions.images_of(wanted)
        groups = batches(regions.images[n] for n in np.unique(images))
        for group, pixels in read_ahead(regions.project, groups):
            logits = predict(sight.segmenter, pixels)
            position = []
            for row, image in enumerate(group):
                which = np.flatnonzero(images == image["number"])
                position.append((row, which, wanted[which] - image["first_region"]))
            yield position, logits, pixels

    def _at_random(self, number: int) -> np.ndarray:
        return torch.rand(number, generator=self._random("scores"), dtype=torch.float64).numpy()

    def _random(self, purpose: str) -> torch.Generator:
        return stream("ask", purpose, self.seed, self.round)


def spread(scores: np.ndarray, classes: np.ndarray, images: np.ndarray, count: int) -> np.ndarray:
    """The places int64 [count] of high scores [U] that differ: the classes [U] take turns, each with its
    highest score that is left, and no image [U] gives more than twice its share of `count`.

    Where this leaves too few, images may give twice as many, and so on.
    """
    by_score = np.argsort(-scores, kind="stable")
    rank_in_image = _rank_within(images[by_score])
    most = max(1, 2 * count // len(np.unique(images)))
    while True:
        few = by_score[rank_in_image < most]
        if len(few) >= count:
            turns = _rank_within(classes[few])
            return few[np.argsort(turns, kind="stable")[:count]]
        most *= 2


def _rank_within(groups: np.ndarray) -> np.ndarray:
    """How many members of its own group come before each, int64 [n]."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    rank = np.arange(len(groups)) - np.repeat(starts, np.diff(np.r_[starts, len(groups)]))
    back = np.empty_like(rank)
    back[order] = rank
    return back


@contextmanager
def _outputs_of(segmenter: nn.Module) -> Iterator[list[object]]:
    """Yields what the segmenter gives while the block runs."""
    outputs: list[object] = []
    hook = segmenter.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        hook.remove()


def _features(project: Project, logits: Tensor, pixels: Tensor) -> RegionFeatures:
    size = (pixels.shape[-2], pixels.shape[-1])
    return region_features(
        logits, project.region_size, cells=(1, 1), size=size, align_corners=True, edge="keep"
    )
