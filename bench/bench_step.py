"""The features of one active-learning step beside eager torch, from logits that are given.

The state set's regions, the candidates' regions, and the candidates' KL histograms to the labelled regions
and to each other. Work: the logits, read once.
"""

from collections.abc import Callable

import eager
import torch
from sizes import Scene, StepCase
from timings import Baseline, Work
from torch import Tensor, nn

from ralx.features import KL_RANGE, Featurizer

KL_BINS = 32


class GivenLogits(nn.Module):
    """A segmenter that has its logits already, whatever the images."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: Tensor) -> Tensor:
        return self.logits


def make_logits(scene: Scene) -> Tensor:
    return torch.randn(scene.images, scene.classes, *scene.logits) * 3


def bench_step(case: StepCase, compare: Callable[..., None]) -> None:
    torch.manual_seed(0)
    state_logits, candidate_logits = make_logits(case.state), make_logits(case.candidates)
    labelled = torch.rand(case.labelled, case.state.classes).softmax(1)
    chosen = torch.randperm(case.candidates.regions)[: case.pools * case.pool_size]
    state = Featurizer(GivenLogits(state_logits), case.state.region, kl_bins=KL_BINS)
    candidates = Featurizer(GivenLogits(candidate_logits), case.candidates.region, kl_bins=KL_BINS)
    # All that the featurizer asks of its images is their size.
    state_images = torch.empty(0, 3, *case.state.image)
    candidate_images = torch.empty(0, 3, *case.candidates.image)

    def run():
        regions = candidates.regions(candidate_images).flatten(0, 1)[chosen]
        action = candidates.action(regions.unflatten(0, (case.pools, case.pool_size)), labelled)
        return state.state(state_images), action

    def eager_vectors(logits: Tensor, scene: Scene) -> Tensor:
        parts = eager.region_features(logits, scene)[:4]
        return torch.cat([part.flatten(2) for part in parts], dim=2).flatten(0, 1)

    def baseline():
        regions = eager_vectors(candidate_logits, case.candidates)[chosen]
        predicted = regions[:, : case.candidates.classes]
        kl = [eager.kl_histogram(predicted, q, KL_BINS, KL_RANGE) for q in (labelled, predicted)]
        action = torch.cat([regions, *kl], dim=1).unflatten(0, (case.pools, case.pool_size))
        return eager_vectors(state_logits, case.state), action

    for ours, theirs in zip(run(), baseline(), strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().mean() < 1e-3
    work = Work(state_logits.nbytes + candidate_logits.nbytes, "B")
    compare(case.name, run, work, [Baseline("eager torch", baseline)])
