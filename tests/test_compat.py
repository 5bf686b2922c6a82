"""The published code's functions against its formulas, one region at a time."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import entropy as kl_divergence
from torch import nn
from torch.nn import functional as F

from ralx import compat

CAMVID = SimpleNamespace(num_classes=11, region=(80, 90), image=(360, 480), width=268)
# A smaller image than the data set has.
CITYSCAPES = SimpleNamespace(num_classes=19, region=(128, 128), image=(256, 384), width=276)


class Net(nn.Module):
    """Logits at the images' size beside a second output, as the published networks give them."""

    def __init__(self, num_classes, dropout=True):
        super().__init__()
        torch.manual_seed(0)
        self.num_classes = num_classes
        self.conv = nn.Conv2d(3, 8, 9, stride=8, padding=4)
        self.dropout = nn.Dropout() if dropout else nn.Identity()
        self.head = nn.Conv2d(8, num_classes, 1)
        self.calls = 0

    def forward(self, x, bayesian=False, n_iter=1):
        self.calls += 1
        features = self.conv(x).relu()
        passes = [self._up(self.head(self.dropout(features)), x) for _ in range(n_iter)]
        return (passes if bayesian else passes[0]), features

    def _up(self, logits, x):
        return F.interpolate(8 * logits, x.shape[-2:], mode="bilinear", align_corners=True)


class Images:
    """Candidate set and state set of noise; the state set's regions are listed by columns, as published."""

    def __init__(self, setting, count=3, state_count=2):
        rng = torch.Generator().manual_seed(1)
        self.images = [torch.randn(3, *setting.image, generator=rng) for _ in range(count + state_count)]
        self.state_subset = list(range(count, count + state_count))
        (height, width), (rw, rh) = setting.image, setting.region
        self.corners = [(x, y) for x in range(0, width - rw + 1, rw) for y in range(0, height - rh + 1, rh)]

    def get_specific_item(self, index):
        return self.images[index], None, None, None

    def get_subset_state(self, index):
        return self.images[self.state_subset[index]], None, None, None, np.array(self.corners)


def labelled_rows(num_classes, count):
    """Class distributions of labelled regions, 1e-7 for an absent class."""
    rng = np.random.default_rng(3)
    rows = rng.multinomial(500, rng.dirichlet(np.full(num_classes + 1, 0.3)), size=count) / 500
    return np.where(rows == 0, 1e-7, rows).tolist()


def published_kl_bins(histogram, references):
    """One candidate's histogram, one reference at a time, over its own minimum to maximum."""
    values = [kl_divergence(histogram, reference) for reference in references]
    return np.histogram(values, bins=32)[0] / len(values)


def published_features(predicted, entropy, num_classes, region):
    """Counts with 1e-7 for an absent class, then entropies pooled cell by cell."""
    counts = np.array([(predicted == c).sum() for c in range(num_classes + 1)], dtype=np.float64)
    counts[counts == 0] = 1e-7
    w, h = region[0] // 8, region[1] // 8
    cells = entropy[: 8 * h, : 8 * w].reshape(8, h, 8, w)
    return np.concatenate([counts, *(pool(cells, (1, 3)).ravel() for pool in (np.min, np.mean, np.max))])


def published_regions(net, image, corners, num_classes, region):
    """The features of one image's regions, region after region."""
    net.eval()
    with torch.no_grad():
        p = net(image[None])[0][0].double().softmax(0).numpy()
    predicted, entropy = p.argmax(0), -(p * np.log(p)).sum(0)
    tiles = [np.s_[y : y + region[1], x : x + region[0]] for x, y in corners]
    return [published_features(predicted[t], entropy[t], num_classes, region) for t in tiles]


def compute(algorithm, net, candidates, images, groups, *, balance=(), region=(80, 90), **more):
    """`compute_state` of CamVid's size, unless told otherwise."""
    train_set = SimpleNamespace(num_classes=net.num_classes, balance_cl=balance)
    args = SimpleNamespace(al_algorithm=algorithm, **more)
    return compat.compute_state(args, net, list(candidates), images, train_set, groups, region)


def some_candidates(images, count):
    rng = np.random.default_rng(5)
    every = [(i, x, y) for i in range(3) for x, y in images.corners]
    return [every[i] for i in rng.permutation(len(every))[:count]]


@pytest.mark.parametrize("setting", [CAMVID, CITYSCAPES], ids=["camvid", "cityscapes"])
@pytest.mark.parametrize("labelled", [0, 7])
def test_state_and_candidates_are_the_published_ones(setting, labelled):
    net, images = Net(setting.num_classes), Images(setting)
    balance = labelled_rows(setting.num_classes, labelled)
    candidates = some_candidates(images, 12)

    torch.manual_seed(2)
    state, arranged = compute("ralis", net, candidates, images, 3, balance=balance, region=setting.region)
    torch.manual_seed(2)
    order = torch.randperm(12).numpy()

    regions = [
        published_regions(net, images.images[i], corners, setting.num_classes, setting.region)
        for i, corners in enumerate([sorted(c[1:] for c in candidates if c[0] == i) for i in range(3)])
    ]
    expected = np.concatenate([r for r in regions if r])
    histograms = expected[:, : setting.num_classes + 1]
    to_labelled = [published_kl_bins(h, balance) if balance else np.zeros(32) for h in histograms]
    to_pool = [published_kl_bins(h, histograms) for h in histograms]
    expected = np.concatenate([expected, to_labelled, to_pool], 1)[order].reshape(3, 4, -1)

    assert state["pool"].shape == (3, 4, setting.width) and state["pool"].dtype == torch.float32
    np.testing.assert_allclose(state["pool"].numpy(), expected, rtol=1e-5, atol=1e-4)
    assert (state["pool"][..., setting.num_classes] == np.float32(1e-7)).all()  # void
    assert arranged.shape == (3, 4, 3)
    np.testing.assert_array_equal(arranged, np.array(sorted(candidates))[order].reshape(3, 4, 3))

    subset = [
        published_regions(net, images.images[i], images.corners, setting.num_classes, setting.region)
        for i in images.state_subset
    ]
    assert (state["subset"][:, setting.num_classes] == np.float32(1e-7)).all()
    assert state["subset"].shape == (2 * len(images.corners), setting.num_classes + 1 + 192)
    np.testing.assert_allclose(state["subset"].numpy(), np.concatenate(subset), rtol=1e-5, atol=1e-4)


def test_the_network_runs_once_per_image():
    net, images = Net(11), Images(CAMVID)
    compute("ralis", net, [(i, x, y) for i in (0, 2) for x, y in images.corners], images, 4)
    assert net.calls == 2 + 2  # two images with candidates, two of the state set
    assert not net.training


def test_entropy_scores_are_the_regions_mean():
    net, images = Net(11), Images(CAMVID)
    state, arranged = compute("entropy", net, some_candidates(images, 6), images, 2)
    assert state["subset"] is None and state["pool"].shape == (2, 3, 1)
    for score, (i, x, y) in zip(state["pool"].flatten().tolist(), arranged.reshape(-1, 3), strict=True):
        pixels = compat.compute_entropy_seg(None, images.images[i], net)[0, y : y + 90, x : x + 80]
        assert score == pytest.approx(pixels.mean().item(), abs=1e-5)


def test_bald_scores_are_the_regions_mean():
    net, images = Net(11), Images(CAMVID, count=1)
    candidates = [(0, x, y) for x, y in images.corners[:6]]
    torch.manual_seed(4)
    state, arranged = compute("bald", net, candidates, images, 2, bald_iter=5)
    assert state["subset"] is None and not any(part.training for part in net.modules())
    torch.manual_seed(4)
    net.eval().apply(compat.apply_dropout)
    with torch.no_grad():
        passes = net(images.images[0][None], bayesian=True, n_iter=5)[0]
    maps, _ = compat.compute_bald(torch.cat(passes).softmax(1))
    for score, (_, x, y) in zip(state["pool"].flatten().tolist(), arranged.reshape(-1, 3), strict=True):
        assert score == pytest.approx(maps[0, y : y + 90, x : x + 80].mean().item(), abs=1e-5)
        assert score > 0.01


def test_random_scores_are_zeros_and_run_no_network():
    net, images = Net(11), Images(CAMVID)
    state, arranged = compute("random", net, some_candidates(images, 6), images, 3)
    assert torch.equal(state["pool"], torch.zeros(3, 2, 1)) and arranged.shape == (3, 2, 3)
    assert net.calls == 0


def test_candidates_that_do_not_fill_the_pools_are_left_out():
    images = Images(CAMVID)
    for count, shape in [(11, (3, 3, 3)), (2, (2, 1, 3))]:
        candidates = some_candidates(images, count)
        state, arranged = compute("random", Net(11), candidates, images, 3)
        assert arranged.shape == shape and state["pool"].shape[:2] == shape[:2]
        assert len({tuple(c) for c in arranged.reshape(-1, 3)} & set(candidates)) == shape[0] * shape[1]


def region_maps(num_classes, region, seed=0):
    rng = torch.Generator().manual_seed(seed)
    width, height = region
    predicted = torch.randint(0, num_classes - 2, (height, width), generator=rng).float()
    return predicted, 2 * torch.rand(height, width, generator=rng)


@pytest.mark.parametrize("setting", [CAMVID, CITYSCAPES], ids=["camvid", "cityscapes"])
def test_feature_vector_of_one_region(setting):
    predicted, entropy = region_maps(setting.num_classes, setting.region)
    vector = compat.create_feature_vector_3H_region_kl(
        predicted, entropy, num_classes=setting.num_classes, reg_sz=setting.region
    )
    assert isinstance(vector, list) and len(vector) == setting.width - 64
    expected = published_features(predicted.numpy(), entropy.numpy(), setting.num_classes, setting.region)
    np.testing.assert_allclose(vector, expected, atol=1e-5)


def test_feature_vector_takes_numpy_maps_and_a_list_for_the_region():
    predicted, entropy = region_maps(11, (80, 90))
    vector = compat.create_feature_vector_3H_region_kl(predicted, entropy, 11, (80, 90))
    same = compat.create_feature_vector_3H_region_kl(predicted.numpy(), entropy.numpy(), 11, [80, 90])
    assert same == vector


@pytest.mark.parametrize("labelled", [0, 1, 9])
def test_feature_vector_of_one_candidate(labelled):
    predicted, entropy = region_maps(19, (128, 128))
    balance = labelled_rows(19, labelled)
    vector = compat.create_feature_vector_3H_region_kl_sim(
        predicted, entropy, SimpleNamespace(balance_cl=balance)
    )
    assert isinstance(vector, list) and len(vector) == 276 - 32
    expected = published_features(predicted.numpy(), entropy.numpy(), 19, (128, 128))
    np.testing.assert_allclose(vector[:-32], expected, atol=1e-5)
    bins = published_kl_bins(expected[:20], balance) if balance else np.zeros(32)
    np.testing.assert_allclose(vector[-32:], bins, atol=1e-6)


def test_pool_histograms_are_added_at_the_end():
    rng = np.random.default_rng(0)
    counts = rng.multinomial(7200, rng.dirichlet(np.full(12, 0.3)), size=15).astype(np.float64)
    counts[counts == 0] = 1e-7
    state = torch.cat([torch.from_numpy(counts).float(), torch.rand(15, 7)], 1).view(3, 5, 19)
    result = compat.add_kl_pool2(state, n_cl=11)
    assert result.shape == (3, 5, 19 + 32) and result.dtype == torch.float32
    assert torch.equal(result[..., :19], state)
    rows = state[..., :12].double().view(15, 12).numpy()
    expected = [published_kl_bins(row, rows) for row in rows]
    np.testing.assert_allclose(result[..., 19:].view(15, 32).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("batched", [False, True])
def test_entropy_of_every_pixel(batched):
    net = Net(5).train()
    images = torch.randn(2, 3, 33, 47)
    entropy = compat.compute_entropy_seg(None, images if batched else images[0], net)
    assert not net.training and not entropy.requires_grad
    p = net(images)[0].double().softmax(1)
    expected = torch.special.entr(p).sum(1)
    assert torch.allclose(entropy.double(), expected if batched else expected[:1], atol=1e-5)


def test_bald_of_every_pixel():
    predictions = torch.randn(6, 5, 33, 47, dtype=torch.float64).mul(3).softmax(1)
    maps, predicted = compat.compute_bald(predictions.float())
    mean = predictions.mean(0)
    expected = torch.special.entr(mean).sum(0) - torch.special.entr(predictions).sum(1).mean(0)
    assert maps.shape == (1, 33, 47) and torch.allclose(maps[0].double(), expected, atol=1e-5)
    assert torch.equal(predicted, mean.argmax(0)[None])


def test_bald_of_a_probability_that_underflowed_to_zero():
    predictions = torch.tensor([[1.0, 0.0], [0.5, 0.5]]).view(2, 2, 1, 1)
    expected = kl_divergence([0.75, 0.25]) - np.log(2) / 2
    assert compat.compute_bald(predictions)[0].item() == pytest.approx(expected, abs=1e-6)


def test_confusion_matrix_has_predictions_as_rows_and_leaves_void_out():
    rng = torch.Generator().manual_seed(0)
    output = torch.randint(0, 4, (999,), generator=rng)
    target = torch.randint(0, 5, (999,), generator=rng)  # 4 is void
    target[:3] = 255
    cm = torch.ones(4, 4, dtype=torch.int32)
    result = compat.confusion_matrix_pytorch(cm, output, target, 4)
    expected = [[1 + ((output == i) & (target == j)).sum().item() for j in range(4)] for i in range(4)]
    assert result is cm and cm.dtype == torch.int32 and cm.tolist() == expected


def test_a_small_region_keeps_the_published_number_of_cells():
    # 22 × 20 pixels: cells of 2 × 2, and so 10 × 11 of them.
    predicted, entropy = region_maps(11, (22, 20))
    assert len(compat.create_feature_vector_3H_region_kl(predicted, entropy, 11, (22, 20))) == 12 + 3 * 110
    images = Images(SimpleNamespace(image=(40, 44), region=(22, 20)))
    state, _ = compute("ralis", Net(11), [(0, 22, 20), (1, 0, 0)], images, 1, region=(22, 20))
    assert state["pool"].shape == (1, 2, 12 + 3 * 110 + 64)


@pytest.mark.parametrize(
    ("error", "changed", "message"),
    [
        (ValueError, {"algorithm": "coreset"}, "al_algorithm must be random, entropy, bald or ralis, got 'c"),
        (ValueError, {"candidates": []}, "region_candidates must hold at least one candidate, got none"),
        (
            ValueError,
            {"candidates": [(0, 80), (90, 0), (80, 90)]},
            r"region_candidates must be \(image, x, y\) each, got \(0, 80\)",
        ),
        (ValueError, {"groups": 0}, r"num_groups must be in 1\.\.\d+, got 0"),
        (
            TypeError,
            {"algorithm": "bald", "bald_iter": "3"},
            r"args\.bald_iter must be an integer, got '3'",
        ),
        (
            ValueError,
            {"candidates": [(0, 0, 0), (0, 80, 80)]},
            r"480 x 360 image, x and y multiples of \(80, 90\), got \[80, 80\]",
        ),
        (ValueError, {"candidates": [(0, 480, 0)]}, r"got \[480, 0\]"),
        (
            ValueError,
            {"algorithm": "bald", "bald_iter": 3, "net": Net(11, dropout=False)},
            "net must have dropout for al_algorithm bald",
        ),
        (
            TypeError,
            {"net": SimpleNamespace(num_classes=11)},
            r"net must be a torch\.nn\.Module, got SimpleNamespace",
        ),
    ],
)
def test_bad_arguments_of_a_state_are_named(error, changed, message):
    options = {"algorithm": "entropy", "net": Net(11), "candidates": [(0, 80, 90)], "groups": 1} | changed
    with pytest.raises(error, match=message):
        compute(images=Images(CAMVID), **options)


MAP = torch.zeros(9, 8)
PIXELS = MAP[0].long()
region = compat.create_feature_vector_3H_region_kl
confusion = compat.confusion_matrix_pytorch


@pytest.mark.parametrize(
    ("error", "function", "arguments", "message"),
    [
        (TypeError, region, (None, MAP, 11, (8, 9)), "pred_region must be a torch"),
        (TypeError, region, (MAP, None, 11, (8, 9)), "ent_region must be a torch"),
        (ValueError, region, (MAP, MAP, 11, (9, 8)), r"pred_region must be \[8, 9\] as reg_sz, got \[9, 8\]"),
        (ValueError, region, (MAP, MAP[:8], 11, (8, 9)), r"ent_region must be \[9, 8\] as .* got \[8, 8\]"),
        (
            ValueError,
            region,
            (MAP + 12, MAP, 11, (8, 9)),
            r"pred_region must .* ids in 0\.\.11, got 12\.\.12",
        ),
        (ValueError, region, (MAP - 1, MAP, 11, (8, 9)), r"pred_region must .* ids in 0\.\.11, got -1\.\.-1"),
        (TypeError, region, (MAP, MAP, 11, 8), r"reg_sz must be two integers \(width, height\), .* got 8"),
        (ValueError, region, (MAP, MAP, 11, (7, 90)), r"reg_sz must be at least 8 in both .* got \(7, 90\)"),
        (TypeError, region, (MAP, MAP, "11", (8, 9)), "num_classes must be an integer, got '11'"),
        (
            TypeError,
            compat.add_kl_pool2,
            (np.zeros((1, 2, 20)),),
            r"state must be a torch\.Tensor, got numpy",
        ),
        (ValueError, compat.add_kl_pool2, (torch.ones(2, 20),), r"state must be \[K, M, D\], .* \[2, 20\]"),
        (
            ValueError,
            compat.add_kl_pool2,
            (torch.ones(1, 2, 19),),
            r"state must begin with n_cl \+ 1 = 20 bins, got shape \[1, 2, 19\]",
        ),
        (
            ValueError,
            compat.compute_entropy_seg,
            (None, MAP, Net(3)),
            r"im_t must be \[3, H, W\] or .* got shape \[9, 8\]",
        ),
        (
            TypeError,
            compat.compute_entropy_seg,
            (None, MAP[None], None),
            r"net must be a torch\.nn\.Module, got NoneType",
        ),
        (ValueError, compat.compute_bald, (MAP,), r"predictions must be \[T, C, H, W\], got shape \[9, 8\]"),
        (ValueError, confusion, (MAP[:3, :2], PIXELS, PIXELS, 3), r"cm must be \[3, 3\], got shape \[3, 2\]"),
        (
            ValueError,
            confusion,
            (MAP[:3, :3], PIXELS, PIXELS[:7], 3),
            "output_flatten and target_flatten must have one length, got 8 and 7",
        ),
        (
            ValueError,
            confusion,
            (MAP[:3, :3], MAP.long(), MAP.long(), 3),
            r"output_flatten must be \[pixels\], got shape \[9, 8\]",
        ),
        (
            TypeError,
            confusion,
            (MAP[:3, :3], PIXELS, PIXELS.float(), 3),
            "target_flatten must be uint8, int16, int32 or int64, got torch.float32",
        ),
    ],
)
def test_bad_arguments_are_named(error, function, arguments, message):
    with pytest.raises(error, match=message):
        function(*arguments)
