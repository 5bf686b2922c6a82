"""A region's score by entropy, BALD and the others, against float64; and which candidates are picked."""

import math

import pytest
import torch
from torch import nn

from ralx.acquisition import ACQUISITIONS, bald, best, entropy, pick, uniform
from ralx.segmentation import build_segmenter

REGION = (9, 8)
IMAGE = (37, 50)  # 4 × 6 regions, remainders both ways


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Segmenter(nn.Module):
    """A quarter-resolution network whose head has dropout; counts how often each part runs."""

    def __init__(self, rate=0.5):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 16, 5, stride=4, padding=2)
        self.head = nn.Conv2d(16, 5, 1)
        self.dropout = nn.Dropout(rate)
        self.encoded = self.classified = 0

    def encode(self, images):
        self.encoded += 1
        return self.conv(images).relu()

    def classify(self, features):
        self.classified += 1
        return 4 * self.head(self.dropout(features))

    def forward(self, images):
        return self.classify(self.encode(images))


@pytest.fixture
def images():
    return torch.randn(3, 3, *IMAGE, generator=generator())


def region_sums(maps):
    """[N, H, W] → [N, R], the sum over each region's pixels."""
    return maps[:, :36, :48].double().unflatten(2, (6, 8)).unflatten(1, (4, 9)).sum((2, 4)).flatten(1)


def ragged_sums(maps):
    """[N, H, W] → [N, R], regions cut at the border too."""
    rows = [part.sum(1) for part in maps.double().split(9, 1)]
    return torch.stack([part.sum(1) for row in rows for part in row.split(8, 1)], 1)


def probabilities(logits):
    return nn.functional.interpolate(logits.double(), IMAGE, mode="bilinear", align_corners=True).softmax(1)


def pixel_entropy(p):
    return torch.special.entr(p).sum(1)


def test_entropy_is_cumulative_over_all_pixels_of_a_region(images):
    segmenter = Segmenter().train()
    scores = entropy(segmenter, images, REGION)
    assert segmenter.training
    segmenter.eval()
    expected = region_sums(pixel_entropy(probabilities(segmenter(images).detach())))
    assert scores.shape == (3, 24) and scores.dtype == torch.float32 and not scores.requires_grad
    assert torch.allclose(scores.double(), expected, atol=72 * 1e-4)


def test_entropy_of_ragged_regions_is_summed_over_their_own_pixels(images):
    segmenter = Segmenter().eval()
    scores = entropy(segmenter, images, REGION, edge="keep")
    expected = ragged_sums(pixel_entropy(probabilities(segmenter(images).detach())))
    assert scores.shape == (3, 35)
    assert torch.allclose(scores.double(), expected, atol=72 * 1e-4)


def test_an_uncertain_region_has_the_highest_entropy():
    class Known(nn.Module):
        def forward(self, images):
            logits = torch.zeros(1, 4, 36, 48)
            logits[:, 0] = 20.0
            logits[:, 0, 18:27, 40:48] = 0.0  # row 2, col 5: all classes alike
            return logits

    scores = entropy(Known(), torch.zeros(1, 3, 36, 48), REGION)
    assert scores.argmax().item() == 2 * 6 + 5
    assert scores.max().item() == pytest.approx(72 * math.log(4), rel=1e-5)


def test_bald_is_the_cumulative_mutual_information(images):
    class Passes(Segmenter):
        """Remembers the logits that it gave."""

        def classify(self, features):
            self.given.append(super().classify(features))
            return self.given[-1]

    segmenter = Passes()
    segmenter.given = []
    scores = bald(segmenter, images, REGION, num_mc_samples=6, generator=generator())
    p = torch.stack([probabilities(logits) for logits in segmenter.given])
    assert len(p) == 6 and not torch.equal(p[0], p[1])
    expected = region_sums(pixel_entropy(p.mean(0)) - torch.stack([pixel_entropy(q) for q in p]).mean(0))
    assert scores.shape == (3, 24) and not scores.requires_grad
    assert torch.allclose(scores.double(), expected, atol=72 * 1e-4)
    assert (expected > 0.1).all()


@pytest.mark.parametrize(("options", "passes"), [({}, 20), ({"num_mc_samples": 7}, 7)])
def test_bald_runs_the_encoder_once_and_the_head_per_pass(images, options, passes):
    segmenter = Segmenter()
    bald(segmenter, images, REGION, **options)
    assert (segmenter.encoded, segmenter.classified) == (1, passes)


def test_bald_draws_from_the_generator_and_from_nothing_else(images):
    segmenter = Segmenter()
    torch.manual_seed(5)
    expected_next = torch.rand(3)
    torch.manual_seed(5)
    first = bald(segmenter, images, REGION, num_mc_samples=3, generator=generator(1))
    assert torch.equal(torch.rand(3), expected_next), "torch's global generator was moved"
    assert torch.equal(bald(segmenter, images, REGION, num_mc_samples=3, generator=generator(1)), first)
    assert not torch.equal(bald(segmenter, images, REGION, num_mc_samples=3, generator=generator(2)), first)


@pytest.mark.parametrize("training", [True, False])
def test_bald_leaves_the_segmenter_in_its_mode(images, training):
    segmenter = Segmenter().train(training)
    bald(segmenter, images, REGION, num_mc_samples=2)
    assert segmenter.training is training and segmenter.dropout.training is training


@pytest.mark.parametrize("segmenter", [nn.Conv2d(3, 5, 1), Segmenter(rate=0.0)])
def test_bald_refuses_a_network_without_dropout(segmenter, images):
    with pytest.raises(ValueError, match="need a dropout layer with a rate above 0, this network has none"):
        bald(segmenter, images, REGION)


def test_uniform_scores_are_random_reproducible_and_need_no_network(images):
    segmenter = Segmenter()
    scores, again, other = (uniform(segmenter, images, REGION, generator=generator(n)) for n in (3, 3, 4))
    assert scores.shape == (3, 24) and scores.unique().numel() == 72
    assert torch.equal(again, scores) and not torch.equal(other, scores)
    assert segmenter.encoded == 0


@pytest.mark.parametrize(("edge", "regions"), [("drop", 24), ("keep", 35)])
@pytest.mark.parametrize("name", ACQUISITIONS)
def test_every_acquisition_function_takes_the_same_arguments(name, edge, regions, images):
    segmenter, score = build_segmenter("fpn-small", 5), ACQUISITIONS[name]
    scores = score(segmenter, images, REGION, edge=edge, num_mc_samples=2, generator=generator())
    assert scores.shape == (3, regions) and scores.dtype == torch.float32 and scores.isfinite().all()


def window_entropy(classes, num_classes):
    """[N, H, W] → the entropy of the classes in the 3×3 window around each pixel, cut at the border."""
    one_hot = nn.functional.one_hot(classes, num_classes).permute(0, 3, 1, 2).double()
    share = nn.functional.avg_pool2d(one_hot, 3, stride=1, padding=1, count_include_pad=False)
    return torch.special.entr(share).sum(1)


@pytest.mark.parametrize(("edge", "sums"), [("drop", region_sums), ("keep", ragged_sums)])
@pytest.mark.parametrize("name", ["margin", "least-confidence", "ripu"])
def test_scores_of_pixels_are_summed_over_each_region(name, edge, sums, images):
    segmenter = Segmenter().train()
    scores = ACQUISITIONS[name](segmenter, images, REGION, edge=edge)
    assert segmenter.training and scores.dtype == torch.float32 and not scores.requires_grad
    p = probabilities(segmenter.eval()(images).detach())
    best_two = p.topk(2, dim=1).values
    maps = {
        "margin": 1 - (best_two[:, 0] - best_two[:, 1]),
        "least-confidence": 1 - best_two[:, 0],
        "ripu": window_entropy(p.argmax(1), 5) * pixel_entropy(p),
    }
    assert torch.allclose(scores.double(), sums(maps[name]), atol=72 * 1e-4)


def test_best_takes_the_highest_scores_and_the_first_of_equal_ones():
    assert best(torch.tensor([0.1, 0.9, -1.0, 0.3]), 3).tolist() == [1, 3, 0]
    scores = torch.zeros(1000)
    scores[[400, 700]] = 1
    assert best(scores, 4).tolist() == [400, 700, 0, 1]


def test_best_rejects_nan_and_too_few_scores():
    with pytest.raises(FloatingPointError, match="scores must not be NaN, got 1 of them"):
        best(torch.tensor([0.0, math.nan]), 1)
    for scores, count in ((torch.zeros(2), 3), (torch.zeros(2), 0), (torch.zeros(2, 2), 1)):
        with pytest.raises(ValueError, match=f"M of at least count={count}, got"):
            best(scores, count)


def test_pick_takes_the_highest_score_of_each_pool_and_the_first_of_equal_ones():
    chosen = pick(torch.tensor([[0.1, 0.9, 0.3], [-1.0, -2.0, -0.5]]))
    assert chosen.tolist() == [1, 2] and chosen.dtype == torch.int64
    assert pick(torch.zeros(2, 1000)).tolist() == [0, 0]
    scores = torch.zeros(1, 1000)
    scores[0, [400, 700]] = 1
    assert pick(scores).tolist() == [400]


def test_pick_rejects_nan_and_empty_pools():
    scores = torch.zeros(3, 4)
    scores[1, 2] = math.nan
    with pytest.raises(FloatingPointError, match=r"scores must not be NaN, got NaN in pools \[1\]"):
        pick(scores)
    for scores, found in ((torch.zeros(3, 0), r"\[3, 0\]"), (torch.zeros(4), r"\[4\]")):
        with pytest.raises(ValueError, match=rf"scores must be \[K, M\] with at least one .* got {found}"):
            pick(scores)
