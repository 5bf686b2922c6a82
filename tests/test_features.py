"""The featurizer's state and action against the paper's formulas, one region and one cell at a time."""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import entropy as kl_divergence
from torch import nn

from ralx.features import KL_RANGE, Featurizer, gather_regions
from ralx.regions import RegionGrid

NUM_CLASSES = 5
REGION = (18, 17)  # height, width: neither divides into the cells
CELLS = (4, 3)
IMAGE = (40, 52)  # 2 × 3 regions, remainders both ways


class Segmenter(nn.Module):
    """Logits at quarter resolution; a batch norm and dropout that would show a wrong mode."""

    def __init__(self, num_classes=NUM_CLASSES):
        super().__init__()
        self.conv = nn.Conv2d(3, num_classes, 5, stride=4, padding=2)
        self.norm = nn.BatchNorm2d(num_classes)
        self.dropout = nn.Dropout(0.5)
        nn.init.normal_(self.conv.weight, std=0.5)

    def forward(self, images):
        return self.dropout(self.norm(self.conv(images)))


@pytest.fixture
def segmenter():
    torch.manual_seed(0)
    return Segmenter()


@pytest.fixture
def images():
    return torch.randn(2, 3, *IMAGE, generator=torch.Generator().manual_seed(1))


def reference_regions(segmenter, images, region_size, cells, align_corners=True):
    """The paper's features one region and one cell at a time, in float64: [N, R, C + 3·ch·cw]."""
    segmenter.eval()
    with torch.no_grad():
        logits = nn.functional.interpolate(
            segmenter(images).double(), images.shape[-2:], mode="bilinear", align_corners=align_corners
        ).numpy()
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    pixel_entropy = -(p * np.log(p)).sum(1)
    predicted = p.argmax(1)
    (rh, rw), (ch, cw) = region_size, cells
    h, w = rh // ch, rw // cw
    corners = itertools.product(
        range(len(images)),
        range(0, images.shape[2] - rh + 1, rh),
        range(0, images.shape[3] - rw + 1, rw),
    )
    rows = []
    for n, y, x in corners:
        row = [(predicted[n, y : y + rh, x : x + rw] == c).mean() for c in range(p.shape[1])]
        for pool, i, j in itertools.product((np.min, np.mean, np.max), range(ch), range(cw)):
            row.append(pool(pixel_entropy[n, y + i * h : y + (i + 1) * h, x + j * w : x + (j + 1) * w]))
        rows.append(row)
    return np.array(rows).reshape(len(images), -1, len(rows[0]))


def reference_histograms(predicted, reference, bins, kl_range):
    """One KL divergence at a time, by SciPy: [M, bins]."""
    smooth = 1e-7
    histograms = np.zeros((len(predicted), bins))
    for i, p in enumerate(predicted):
        values = [kl_divergence(p + smooth, q + smooth) for q in reference]
        if values:
            histograms[i] = np.histogram(values, bins=bins, range=kl_range)[0] / len(values)
    return histograms


@pytest.mark.parametrize("options", [{}, {"align_corners": False}])
def test_state_is_the_papers_in_the_upsampling_asked_for(segmenter, images, options):
    state = Featurizer(segmenter, REGION, cells=CELLS, **options).state(images)
    expected = reference_regions(segmenter, images, REGION, CELLS, **options)
    assert state.shape == (2 * 6, NUM_CLASSES + 3 * 12) and state.dtype == torch.float32
    np.testing.assert_allclose(state.numpy(), expected.reshape(12, -1), atol=1e-4)


def test_state_lists_region_after_region_image_after_image(segmenter, images):
    featurizer = Featurizer(segmenter, REGION, cells=CELLS)
    assert torch.equal(featurizer.state(images), featurizer.regions(images).view(12, -1))
    assert torch.equal(featurizer.state(images[1:]), featurizer.state(images)[6:])


def test_dimensions_are_the_papers_by_default():
    featurizer = Featurizer(Segmenter(11), (90, 80))
    assert featurizer.state_dim(11) == 11 + 192 and featurizer.action_dim(11) == 11 + 192 + 64
    assert featurizer.state_dim(19) == 211 and featurizer.action_dim(19) == 275
    regions = featurizer.regions(torch.randn(1, 3, 180, 160))
    assert regions.shape == (1, 4, featurizer.state_dim(11))
    action = featurizer.action(regions.view(2, 2, -1), torch.zeros(0, 11))
    assert action.shape == (2, 2, featurizer.action_dim(11))


@pytest.mark.parametrize("kl_range", [KL_RANGE, None])
def test_action_is_the_papers(kl_range):
    rng = np.random.default_rng(0)
    num_classes, pools, pool_size, bins = 6, 3, 4, 10
    counts = rng.multinomial(100, rng.dirichlet(np.full(num_classes, 0.4), size=pools * pool_size))
    predicted = (counts / 100).astype(np.float32)
    entropies = rng.random((12, 12), dtype=np.float32)
    labelled = rng.dirichlet(np.full(num_classes, 0.4), size=9).astype(np.float32)
    labelled[4] = 0  # an all-void region
    regions = torch.from_numpy(np.concatenate([predicted, entropies], 1)).view(pools, pool_size, -1)

    featurizer = Featurizer(nn.Identity(), (8, 8), cells=(2, 2), kl_bins=bins, kl_range=kl_range)
    action = featurizer.action(regions, torch.from_numpy(labelled)).view(12, -1).numpy()

    assert action.shape[1] == featurizer.action_dim(num_classes)
    np.testing.assert_array_equal(action[:, :18], regions.view(12, -1).numpy())
    predicted, labelled = predicted.astype(np.float64), labelled.astype(np.float64)
    for found, reference in ((action[:, 18:28], labelled), (action[:, 28:], predicted)):
        expected = reference_histograms(predicted, reference, bins, kl_range)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_counts_are_the_published_class_features(segmenter, images):
    segmenter.norm.bias.data[2] = -2.5  # a class that few regions have
    fractions = Featurizer(segmenter, REGION, cells=CELLS).regions(images)
    featurizer = Featurizer(segmenter, REGION, cells=CELLS, counts=True, kl_range=None)
    regions = featurizer.regions(images)
    assert torch.equal(regions[..., NUM_CLASSES:], fractions[..., NUM_CLASSES:])
    counts = (fractions[..., :NUM_CLASSES].double() * 18 * 17).round()
    assert 0 < (counts[..., 2] == 0).sum() < 12
    expected = counts.where(counts > 0, 1e-7)
    np.testing.assert_allclose(regions[..., :NUM_CLASSES].numpy(), expected.numpy(), rtol=1e-6)

    action = featurizer.action(regions, torch.zeros(0, NUM_CLASSES)).view(12, -1)
    rows = expected.view(12, -1).numpy()
    published = [np.histogram([kl_divergence(p, q) for q in rows], bins=32)[0] / 12 for p in rows]
    np.testing.assert_allclose(action[:, -32:].numpy(), published, atol=1e-6)


def test_ragged_regions_count_their_own_pixels(segmenter, images):
    fractions = Featurizer(segmenter, REGION, cells=CELLS, edge="keep").regions(images)
    assert fractions.shape == (2, 3 * 4, NUM_CLASSES + 36)
    whole = Featurizer(segmenter, REGION, cells=CELLS).regions(images)
    assert torch.equal(fractions.unflatten(1, (3, 4))[:, :2, :3].flatten(1, 2), whole)
    counts = Featurizer(segmenter, REGION, cells=CELLS, counts=True, edge="keep").regions(images)
    pixels = counts[..., :NUM_CLASSES].sum(2)
    expected = torch.tensor([[18.0], [18], [4]]) * torch.tensor([17.0, 17, 17, 1])  # 40×52 pixels
    np.testing.assert_allclose(pixels.numpy(), expected.flatten().expand(2, -1).numpy(), rtol=1e-6)
    np.testing.assert_allclose(fractions[..., :NUM_CLASSES].sum(2).numpy(), 1, rtol=1e-6)


def test_nothing_labelled_gives_a_histogram_of_zeros():
    featurizer = Featurizer(nn.Identity(), (8, 8), cells=(1, 1))
    regions = torch.tensor([[[0.5, 0.5, 0.1, 0.2, 0.3], [1.0, 0.0, 0.0, 0.0, 0.0]]])
    action = featurizer.action(regions, torch.zeros(0, 2))
    assert (action[..., 5:37] == 0).all()
    assert torch.allclose(action[..., 37:].sum(-1), torch.ones(1, 2))


def test_the_candidate_itself_is_among_the_unlabelled():
    featurizer = Featurizer(nn.Identity(), (8, 8), cells=(1, 1))
    alone = featurizer.action(torch.tensor([[[0.5, 0.5, 0.0, 0.0, 0.0]]]), torch.zeros(0, 2))
    assert alone[0, 0, 37] == 1  # one divergence, of 0: the first bin


def test_the_unlabelled_are_those_of_all_pools():
    featurizer = Featurizer(nn.Identity(), (8, 8), cells=(1, 1))
    # K = 2 pools of one candidate each, as unlike as can be.
    regions = torch.tensor([[[1.0, 0.0, 0, 0, 0]], [[0.0, 1.0, 0, 0, 0]]])
    action = featurizer.action(regions, torch.zeros(0, 2))
    assert action[..., 37].tolist() == [[0.5], [0.5]]
    assert action[..., 68].tolist() == [[0.5], [0.5]]  # KL = ln(1e7) = 16.1 lies in the last bin of (0, 16.2)


def test_the_segmenter_is_left_as_it_was(segmenter, images):
    segmenter.train()
    segmenter.norm.eval()  # frozen
    before = {name: value.clone() for name, value in segmenter.state_dict().items()}
    Featurizer(segmenter, REGION, cells=CELLS).state(images)
    assert (segmenter.training, segmenter.norm.training, segmenter.dropout.training) == (True, False, True)
    assert all(torch.equal(value, before[name]) for name, value in segmenter.state_dict().items())


def test_the_mode_is_restored_after_an_error(segmenter, images):
    segmenter.train()
    with pytest.raises(ValueError, match="region"):
        Featurizer(segmenter, (41, 8), cells=(1, 1)).state(images)
    assert segmenter.training and segmenter.norm.training


def test_features_are_constants_that_a_query_network_can_learn_from(segmenter, images):
    state = Featurizer(segmenter, REGION, cells=CELLS).state(images)
    assert not state.requires_grad
    head = nn.Linear(state.shape[1], 1)
    head(state).sum().backward()  # fails on tensors made in inference mode
    assert head.weight.grad is not None and segmenter.conv.weight.grad is None


ROWS = torch.zeros(1, 2, 5)


@pytest.mark.parametrize(
    ("error", "regions", "labelled", "message"),
    [
        (ValueError, ROWS, torch.zeros(4, 3), r"labelled must be \[L, 2\], got \[4, 3\]"),
        (ValueError, ROWS[0], torch.zeros(4, 2), r"regions must be \[K, M, C \+ 3\] .* got \[2, 5\]"),
        (ValueError, ROWS[..., :3], torch.zeros(0, 0), r"at least one class, got \[1, 2, 3\]"),
        (
            ValueError,
            ROWS,
            torch.zeros(4, 2, device="meta"),
            "regions and labelled must be on one device, got cpu and meta",
        ),
        (TypeError, ROWS.numpy(), torch.zeros(4, 2), "regions must be a torch.Tensor, got numpy.ndarray"),
        (TypeError, ROWS, None, "labelled must be a torch.Tensor, got builtins.NoneType"),
        (TypeError, ROWS, torch.ones(4, 2).long(), "labelled must be float32, .* got torch.int64"),
    ],
)
def test_action_rejects(error, regions, labelled, message):
    with pytest.raises(error, match=message):
        Featurizer(nn.Identity(), (8, 8), cells=(1, 1)).action(regions, labelled)


SEGMENTER = nn.Identity()
IMAGES = torch.zeros(1, 3, 16, 16)


@pytest.mark.parametrize(
    ("error", "changed", "message"),
    [
        (TypeError, {"segmenter": lambda x: x}, "segmenter must be a torch.nn.Module, got function"),
        (TypeError, {"segmenter": nn.Identity}, "segmenter must be a torch.nn.Module, got type"),
        (TypeError, {"region_size": 8}, "region_size must be two integers .* got 8"),
        (TypeError, {"region_size": (8.0, 8)}, r"region_size must be two integers .* got \(8.0, 8\)"),
        (ValueError, {"region_size": (0, 8)}, r"region_size must be two .* at least 1, got \(0, 8\)"),
        (ValueError, {"region_size": (2**63, 1)}, "region_size must have a product of at most 2147483647"),
        (TypeError, {"cells": "ab"}, "cells must be two integers .* got 'ab'"),
        (ValueError, {"cells": (9, 8)}, r"cells must not exceed the region, got \(9, 8\) .* \(8, 8\)"),
        (ValueError, {"region_size": (8, 7)}, r"cells must not exceed the region, got \(8, 8\) .* \(8, 7\)"),
        (ValueError, {"kl_bins": 0}, r"kl_bins must be in 1\.\.2147483647, got 0"),
        (TypeError, {"kl_bins": 2.5}, "kl_bins must be an integer, got 2.5"),
        (ValueError, {"kl_range": (2, 1)}, r"kl_range must have low < high, both finite, got \(2, 1\)"),
        (TypeError, {"kl_range": 16.2}, r"kl_range must be two numbers \(low, high\) or None, got 16.2"),
        (TypeError, {"counts": 1}, "counts must be True or False, got 1"),
        (ValueError, {"edge": "cut"}, "edge must be 'drop' or 'keep', got 'cut'"),
        (TypeError, {"align_corners": None}, "align_corners must be True or False, got None"),
    ],
)
def test_options_are_checked_when_it_is_made(error, changed, message):
    with pytest.raises(error, match=message):
        Featurizer(**({"segmenter": SEGMENTER, "region_size": (8, 8)} | changed))


@pytest.mark.parametrize("method", ["forward", "regions", "state"])
@pytest.mark.parametrize(
    ("error", "images", "message"),
    [
        (TypeError, IMAGES.numpy(), "images must be a torch.Tensor, got numpy.ndarray"),
        (TypeError, None, "images must be a torch.Tensor, got builtins.NoneType"),
        (ValueError, torch.tensor(1.0), r"images must be \[N, \.\.\., H, W\], got shape \[\]"),
        (ValueError, IMAGES[0, 0], r"images must be \[N, \.\.\., H, W\], got shape \[16, 16\]"),
        (ValueError, IMAGES[..., :7], r"region_size must not exceed the image, got \(8, 8\) .* \(16, 7\)"),
    ],
)
def test_images_are_checked_before_the_segmenter_runs(method, error, images, message):
    class Untouched(nn.Module):
        def forward(self, images):
            raise AssertionError("the segmenter ran")

    with pytest.raises(error, match=message):
        getattr(Featurizer(Untouched(), (8, 8)), method)(images)


@pytest.mark.parametrize(
    ("error", "output", "message"),
    [
        (TypeError, {"masks": IMAGES}, "the segmenter's output must be .*, got builtins.dict of masks"),
        (ValueError, IMAGES[0], r"the segmenter's output must be \[N, C, h, w\], got shape \[3, 16, 16\]"),
        (TypeError, IMAGES.long(), "the segmenter's output must be float32, .* got torch.int64"),
        (
            ValueError,
            IMAGES[:, :0],
            r"the segmenter's output must have at least one class, .* \[1, 0, 16, 16",
        ),
    ],
)
def test_a_segmenter_that_gives_no_logits_is_named(error, output, message):
    class Gives(nn.Module):
        def forward(self, images):
            return output

    segmenter = Gives()
    with pytest.raises(error, match=message):
        Featurizer(segmenter, (8, 8)).state(IMAGES)
    assert segmenter.training


def test_dimensions_need_a_number_of_classes():
    featurizer = Featurizer(SEGMENTER, (8, 8))
    with pytest.raises(TypeError, match="num_classes must be an integer, got 'a'"):
        featurizer.state_dim("a")
    with pytest.raises(ValueError, match=r"num_classes must be in 1\.\.\d+, got 0"):
        featurizer.action_dim(0)


GRID = RegionGrid(num_images=9, image_size=(20, 30), region_size=(9, 8))  # 2 × 3 regions


def rows_of(images):
    """Region r of image i is [100·i + r, 0.5], so that every row tells where it comes from."""
    index = images[:, None] * 100.0 + torch.arange(6)
    return torch.stack([index, torch.full_like(index, 0.5)], -1)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_gather_regions_returns_each_candidates_row(batch_size):
    candidates = torch.tensor([[3 * 6 + 5, 0], [8 * 6 + 1, 3 * 6], [7, 5]])
    reads = []

    def read(images):
        assert len(images) <= batch_size
        reads.extend(images.tolist())
        return images

    rows = gather_regions(rows_of, read, GRID, candidates, batch_size)
    assert rows[..., 0].tolist() == [[305, 0], [801, 300], [101, 5]]
    assert (rows[..., 1] == 0.5).all()
    assert reads == [0, 1, 3, 8], "an image was read twice, or one without candidates was read"


def test_gather_regions_of_everything_in_any_order():
    candidates = torch.randperm(54, generator=torch.Generator().manual_seed(0)).view(6, 9)
    rows = gather_regions(rows_of, lambda images: images, GRID, candidates, 4)[..., 0]
    assert torch.equal(rows, (candidates // 6 * 100 + candidates % 6).float())


def test_gather_regions_takes_scores_too():
    scores = gather_regions(lambda i: rows_of(i)[..., 0], lambda i: i, GRID, torch.tensor([[6, 1]]), 2)
    assert scores.tolist() == [[100, 1]]


@pytest.mark.parametrize(
    ("error", "changed", "message"),
    [
        (TypeError, {"candidates": [[0, 1]]}, r"candidates must be a torch\.Tensor, got builtins.list"),
        (ValueError, {"candidates": torch.tensor([0, 1])}, r"must be \[K, M\] and not empty, got \[2\]"),
        (ValueError, {"candidates": torch.zeros(0, 4).long()}, r"not empty, got \[0, 4\]"),
        (ValueError, {"candidates": torch.tensor([[0, 54]])}, r"regions must lie in 0\.\.53, got 0\.\.54"),
        (ValueError, {"batch_size": 0}, r"batch_size must be in 1\.\.\d+, got 0"),
        (ValueError, {"compute": lambda i: rows_of(i)[:, :5]}, r"must give \[1, 6\] rows .* got \[1, 5\]"),
    ],
)
def test_gather_regions_rejects(error, changed, message):
    arguments = {"compute": rows_of, "candidates": torch.tensor([[0, 1]]), "batch_size": 2} | changed
    with pytest.raises(error, match=message):
        gather_regions(read_images=lambda i: i, grid=GRID, **arguments)
