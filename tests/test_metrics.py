import math

import pytest
import torch
from torchmetrics.functional.classification import multiclass_jaccard_index

from ralx.metrics import (
    class_counts,
    class_distribution,
    distribution_entropy,
    iou,
    mean_iou,
    rarity,
)

VOID = 11


def confusion_of(prediction, target, num_classes):
    return torch.bincount(target * num_classes + prediction, minlength=num_classes**2).view(num_classes, -1)


def test_iou_by_hand():
    #                       predicted 0  1  2
    confusion = torch.tensor([[3, 1, 0], [2, 4, 0], [0, 0, 5]])
    assert iou(confusion).tolist() == pytest.approx([3 / 6, 4 / 7, 1.0])
    assert iou(confusion).dtype == torch.float64
    assert mean_iou(confusion) == pytest.approx((3 / 6 + 4 / 7 + 1) / 3)


def test_iou_agrees_with_torchmetrics():
    rng = torch.Generator().manual_seed(0)
    prediction = torch.randint(0, 7, (5000,), generator=rng)
    target = torch.randint(0, 7, (5000,), generator=rng)
    expected = multiclass_jaccard_index(prediction, target, num_classes=7, average="none")
    assert torch.allclose(iou(confusion_of(prediction, target, 7)).float(), expected)


def test_a_class_without_target_pixels_is_left_out_of_the_mean_even_if_predicted():
    confusion = torch.tensor([[4, 0, 1], [0, 5, 0], [0, 0, 0]])
    values = iou(confusion)
    assert values[:2].tolist() == pytest.approx([4 / 5, 1.0]) and math.isnan(values[2])
    assert mean_iou(confusion) == pytest.approx(0.9)


def test_a_class_never_found_counts_as_zero():
    assert mean_iou(torch.tensor([[2, 0], [2, 0]])) == pytest.approx((0.5 + 0) / 2)


def test_only_an_empty_confusion_matrix_has_no_mean():
    assert math.isnan(mean_iou(torch.zeros(3, 3, dtype=torch.int64)))


def test_counts_beyond_float32_stay_exact():
    # Cityscapes' test set has 1e9 pixels: float32 would lose single ones.
    confusion = torch.tensor([[2**31, 1], [0, 2**31]])
    assert iou(confusion)[0].item() == 2**31 / (2**31 + 1)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_class_counts_leave_void_out(dtype):
    labels = torch.tensor([[[0, 1], [1, VOID]], [[VOID, VOID], [VOID, VOID]]], dtype=dtype)
    counts = class_counts(labels, 11, VOID)
    assert counts.shape == (2, 11) and counts.dtype == torch.int64
    assert counts[0].tolist() == [1, 2] + [0] * 9
    assert counts[1].tolist() == [0] * 11


def test_void_may_be_255_or_one_of_the_class_ids():
    labels = torch.tensor([[0, 1, 255, 255]], dtype=torch.uint8)
    assert class_counts(labels, 2, 255).tolist() == [[1, 1]]
    assert class_counts(torch.tensor([[0, 1, 1]]), 2, 1).tolist() == [[1, 0]]


def test_class_distribution_is_of_the_pixels_that_count():
    regions = [[[0, 1], [1, VOID]], [[VOID, VOID], [VOID, VOID]], [[2, 2], [2, 3]]]
    distribution = class_distribution(torch.tensor(regions, dtype=torch.uint8), 11, VOID)
    assert distribution.dtype == torch.float32
    assert distribution[0, :2].tolist() == pytest.approx([1 / 3, 2 / 3])
    assert distribution[0].sum().item() == pytest.approx(1)
    assert distribution[1].tolist() == [0] * 11
    assert distribution[2, 2:4].tolist() == [0.75, 0.25]


def test_no_regions_give_no_rows():
    assert class_distribution(torch.zeros(0, 9, 8, dtype=torch.uint8), 11, VOID).shape == (0, 11)


def test_rarity_is_one_for_equal_classes_and_bounded_for_absent_ones():
    assert rarity(torch.tensor([7, 7, 7])).tolist() == pytest.approx([1, 1, 1])
    # shares 0.64, 0.04, 0.32 and nothing, which counts as a thousandth; four classes
    expected = [2.56**-0.5, 0.16**-0.5, 1.28**-0.5, 0.004**-0.5]
    weights = rarity(torch.tensor([64, 4, 32, 0]))
    assert weights.dtype == torch.float64 and weights.tolist() == pytest.approx(expected)
    assert rarity(torch.zeros(3, dtype=torch.int64)).isfinite().all()


def test_distribution_entropy_in_nats():
    assert distribution_entropy(torch.full((11,), 1 / 11)) == pytest.approx(math.log(11), abs=1e-6)
    assert distribution_entropy(torch.tensor([0.0, 1.0])) == 0
    assert distribution_entropy(torch.tensor([0.25, 0.75])) == pytest.approx(0.5623351446)
    assert distribution_entropy(torch.zeros(4)) == 0


ROW = torch.tensor([[3, 11]])


@pytest.mark.parametrize(
    ("error", "function", "arguments", "text"),
    [
        (TypeError, mean_iou, ([[1, 0], [0, 1]],), r"confusion must be a torch\.Tensor, got builtins\.list"),
        (TypeError, iou, (torch.eye(2).bool(),), r"confusion must be of integers .* got torch\.bool"),
        (ValueError, iou, (torch.zeros(2, 3),), r"confusion must be \[C, C\], got \[2, 3\]"),
        (ValueError, class_counts, (ROW, 11, 255), r"labels must lie in 0\.\.10 or be 255 .*, got \[11\]"),
        (ValueError, class_counts, (-ROW, 12, 255), r"labels must lie in .*, got \[-11, -3\]"),
        (TypeError, class_counts, (ROW.float(), 11, 255), r"labels must be uint8, .* got torch\.float32"),
        (ValueError, class_counts, (ROW[0], 11, 255), r"labels must be \[K, \.\.\.\] .* got \[2\]"),
        (ValueError, class_counts, (ROW, 0, 255), r"num_classes must be in 1\.\.\d+, got 0"),
        (TypeError, class_counts, ([[3, 11]], 11, 255), r"labels must be a torch\.Tensor, got .*list"),
        (TypeError, class_distribution, (ROW, 11.0, 255), r"num_classes must be an integer, got 11\.0"),
        (ValueError, class_counts, (ROW, 12, 10**30), r"ignore_index must be in -\d+\.\.\d+, got 10000"),
        (ValueError, distribution_entropy, (torch.tensor([4.0, 8.0]),), r"non-negative .* got a sum of 12"),
        (
            ValueError,
            distribution_entropy,
            (torch.tensor([1.5, -0.5]),),
            r"distribution must be non-negative",
        ),
        (ValueError, distribution_entropy, (torch.tensor([math.nan, 1.0]),), r"sum of nan"),
        (
            ValueError,
            distribution_entropy,
            (torch.ones(1, 2) / 2,),
            r"distribution must be \[C\], got \[1, 2",
        ),
        (TypeError, distribution_entropy, ([0.5, 0.5],), r"distribution must be a torch\.Tensor, got .*list"),
        (TypeError, distribution_entropy, (ROW[0],), r"distribution must be float32, .* got torch\.int64"),
    ],
)
def test_bad_input_is_refused(error, function, arguments, text):
    with pytest.raises(error, match=text):
        function(*arguments)
