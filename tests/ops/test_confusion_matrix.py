"""confusion_matrix against counting by NumPy, and every promise of its contract."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from logit_cases import (
    INF,
    ISAS,
    LABEL_DTYPES,
    MAP_LAYOUTS,
    NAN,
    examples,
    image_sizes,
    instruction_set,
    logits,
    map_layout,
    random_logits,
    same,
    threads,
    undecided,
)
from torch import Tensor

from ralx.ops import confusion_matrix
from ralx.ops.confusion_matrix import confusion_matrix_ref


def labels(*shape: int, classes: int, seed: int = 0, dtype=torch.uint8, ignore: int | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(classes, shape, generator=generator)
    if ignore is not None:
        drawn[torch.rand(shape, generator=generator) < 0.2] = ignore
    return drawn.to(dtype)


def counted(prediction: Tensor, target: Tensor, classes: int, ignore_index: int) -> Tensor:
    """By NumPy, one pixel at a time."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    for t, p in zip(target.flatten().tolist(), prediction.flatten().tolist(), strict=True):
        if t != ignore_index:
            counts[t, p] += 1
    return torch.from_numpy(counts)


@st.composite
def label_cases(draw: st.DrawFn):
    classes = draw(st.sampled_from([1, 2, 11, 19, 100]))
    shape = [
        draw(st.integers(0, 2)),
        draw(st.integers(1, 20)),
        draw(st.sampled_from([1, 5, 63, 64, 65, 130])),
    ]
    if shape[0] == 0:
        return torch.zeros(shape, dtype=torch.uint8), torch.zeros(shape, dtype=torch.int64), classes, 255
    seed, ignore = draw(st.integers(0, 2**31)), draw(st.sampled_from([255, 11, 0, 1]))
    prediction = labels(*shape, classes=classes, seed=seed, dtype=draw(st.sampled_from(LABEL_DTYPES)))
    target = labels(
        *shape, classes=classes, seed=seed + 1, dtype=draw(st.sampled_from(LABEL_DTYPES)), ignore=ignore
    )
    prediction = map_layout(prediction, draw(st.sampled_from(MAP_LAYOUTS)))
    return prediction, map_layout(target, draw(st.sampled_from(MAP_LAYOUTS))), classes, ignore


@examples(150)
@given(label_cases())
def test_counts_of_label_maps(case) -> None:
    prediction, target, classes, ignore = case
    result = confusion_matrix(prediction, target, classes, ignore_index=ignore)
    assert result.dtype == torch.int64
    assert torch.equal(result, counted(prediction, target, classes, ignore))
    assert torch.equal(result, confusion_matrix_ref(prediction, target, classes, ignore))


@st.composite
def logit_cases(draw: st.DrawFn):
    x = draw(logits())
    size = draw(image_sizes(x))
    target = labels(x.shape[0], *size, classes=x.shape[1], seed=draw(st.integers(0, 2**31)), ignore=255)
    target = map_layout(target, draw(st.sampled_from(MAP_LAYOUTS)))
    return x, target, size, draw(st.booleans()), draw(st.sampled_from(ISAS))


@examples(200)
@given(logit_cases())
def test_counts_of_logits(case) -> None:
    x, target, size, align_corners, isa = case
    before = x.clone(), target.clone()
    call = {"num_classes": x.shape[1], "size": size, "align_corners": align_corners}
    with instruction_set(isa):
        result = confusion_matrix(x, target, **call)
        with threads(3):
            assert same(confusion_matrix(x, target, **call), result)
    assert same((x, target), before)
    expected = confusion_matrix_ref(x.double(), target, x.shape[1], align_corners=align_corners)
    assert torch.equal(result.sum(1), expected.sum(1))
    assert (result - expected).abs().sum() <= 2 * undecided(x, size, align_corners).sum()


def test_rows_are_targets_and_columns_predictions() -> None:
    target = torch.tensor([[[0, 0, 1, 255]]], dtype=torch.uint8)
    prediction = torch.tensor([[[0, 2, 2, 1]]])
    assert confusion_matrix(prediction, target, 3).tolist() == [[1, 0, 1], [0, 0, 1], [0, 0, 0]]
    x = torch.nn.functional.one_hot(prediction, 3).permute(0, 3, 1, 2).float()
    assert confusion_matrix(x, target, 3).tolist() == [[1, 0, 1], [0, 0, 1], [0, 0, 0]]


def test_predicts_as_argmax_does(isa) -> None:
    pixels = torch.tensor(
        [
            [0, 1, 2, 3],
            [0, NAN, 5, 9],
            [9, 3, NAN, NAN],
            [INF, 1, 2, NAN],
            [2, 5, 5, 1],
            [-INF, -INF, -INF, -INF],
        ]
    )
    x = pixels.T.reshape(1, 4, 1, 6)
    result = confusion_matrix(x, torch.zeros(1, 1, 6, dtype=torch.int64), 4)
    assert result[0].tolist() == torch.tensor([3, 1, 2, 3, 1, 0]).bincount(minlength=4).tolist()


def test_ignored_pixels_may_hold_anything() -> None:
    target = torch.tensor([[[0, -100, -100]]])
    prediction = torch.tensor([[[1, 77, -5]]])
    assert confusion_matrix(prediction, target, 2, ignore_index=-100).tolist() == [[0, 1], [0, 0]]
    # A class can be the one that is ignored.
    assert confusion_matrix(
        torch.tensor([[[0, 1]]]), torch.tensor([[[0, 1]]]), 2, ignore_index=1
    ).tolist() == [
        [1, 0],
        [0, 0],
    ]


def test_a_label_that_is_no_class_is_an_error_and_named() -> None:
    target, prediction = torch.zeros(2, 3, 4, dtype=torch.int64), torch.zeros(2, 3, 4, dtype=torch.uint8)
    target[1, 2, 3] = 11
    with pytest.raises(
        ValueError, match=r"target must be in 0..10 .* ignore_index=255, got 11 at \[1, 2, 3\]"
    ):
        confusion_matrix(prediction, target, 11)
    target[0, 1, 0] = -1
    for count in (1, 2, 5):  # the first one in reading order, whichever thread saw it
        with threads(count), pytest.raises(ValueError, match=r"target must be .* got -1 at \[0, 1, 0\]"):
            confusion_matrix(prediction, target, 11)
    target.zero_()
    prediction[0, 2, 1] = 200
    with pytest.raises(ValueError, match=r"prediction must be in 0..10 .* got 200 at \[0, 2, 1\]"):
        confusion_matrix(prediction, target, 11)
    target[0, 2, 1] = 2**40
    with pytest.raises(ValueError, match=r"target must be .* got 1099511627776 at \[0, 2, 1\]"):
        confusion_matrix(random_logits(2, 11, 3, 4), target, 11)


def test_the_reference_skips_labels_that_are_no_class() -> None:
    # What CUDA does, where an error would have to wait for the device.
    target, prediction = torch.tensor([[[0, 5, -1, 1]]]), torch.tensor([[[0, 0, 0, 7]]])
    assert confusion_matrix_ref(prediction, target, 2).tolist() == [[1, 0], [0, 0]]


def test_one_class_everywhere_is_counted_exactly() -> None:
    target = torch.zeros(3, 400, 500, dtype=torch.uint8)
    for count in (1, 2):
        with threads(count):
            assert confusion_matrix(target, target, 3).tolist() == [[600000, 0, 0], [0, 0, 0], [0, 0, 0]]


X, T = random_logits(1, 3, 8, 8), labels(1, 8, 8, classes=3)
SHAPE = r"target must have the shape of the prediction, "
PAIR = r"must be two integers \(height, width\), each at least 1, got "
REJECTED = [
    (TypeError, {"prediction": X.numpy()}, r"prediction must be a torch.Tensor, got numpy.ndarray"),
    (TypeError, {"target": T.numpy()}, r"target must be a torch.Tensor, got numpy.ndarray"),
    (ValueError, {"prediction": X[0]}, r"prediction must be \[N, C, h, w\], got shape \[3, 8, 8\]"),
    (ValueError, {"prediction": X.long()}, r"prediction must be \[N, H, W\], got shape \[1, 3, 8, 8\]"),
    (ValueError, {"prediction": X[:, :0]}, r"prediction must have at least one class, .* \[1, 0, 8, 8\]"),
    (TypeError, {"prediction": T.bool()}, r"prediction must be uint8, int16, int32 or int64, got torch.bool"),
    (TypeError, {"prediction": X.to(torch.complex64)}, r"prediction must be uint8, .* got torch.complex64"),
    (TypeError, {"target": T.float()}, r"target must be uint8, int16, int32 or int64, got torch.float32"),
    (TypeError, {"target": T.bool()}, r"target must be uint8, int16, int32 or int64, got torch.bool"),
    (TypeError, {"target": T.to(torch.int8)}, r"target must be uint8, int16, int32 or int64, got torch.int8"),
    (ValueError, {"target": T.to("meta")}, r"prediction and target must be on one device, got cpu and meta"),
    (ValueError, {"target": T[0]}, r"target must be \[N, H, W\], got shape \[8, 8\]"),
    (ValueError, {"target": T[:, 1:]}, rf"{SHAPE}\[1, 8, 8\], got \[1, 7, 8\]"),
    (ValueError, {"target": T[:0]}, rf"{SHAPE}\[1, 8, 8\], got \[0, 8, 8\]"),
    (ValueError, {"size": (16, 16)}, rf"{SHAPE}\[1, 16, 16\], got \[1, 8, 8\]"),
    (ValueError, {"prediction": T[:, 1:]}, rf"{SHAPE}\[1, 7, 8\], got \[1, 8, 8\]"),
    (ValueError, {"num_classes": 4}, r"num_classes must be the .* of the logits, got 4 .* \[1, 3, 8, 8\]"),
    (ValueError, {"num_classes": 0, "prediction": T}, r"num_classes must be in 1..46340, got 0"),
    (TypeError, {"num_classes": 3.0}, r"num_classes must be an integer, got 3.0"),
    (TypeError, {"num_classes": True}, r"num_classes must be an integer, got True"),
    (TypeError, {"ignore_index": None}, r"ignore_index must be an integer, got None"),
    (TypeError, {"size": 8}, rf"size {PAIR}8"),
    (ValueError, {"size": (8, 0)}, rf"size {PAIR}\(8, 0\)"),
    (TypeError, {"align_corners": "no"}, r"align_corners must be True or False, got 'no'"),
    (ValueError, {"num_classes": 2**40, "prediction": T}, r"num_classes must be in 1..46340, got 1099511627"),
    (ValueError, {"num_classes": 46341, "prediction": T}, r"num_classes must be in 1..46340, got 46341"),
    (ValueError, {"ignore_index": 2**63}, r"ignore_index must be in -\d+..\d+, got 9223372036854775808"),
    (ValueError, {"ignore_index": -(10**30)}, r"ignore_index must be in -\d+..\d+, got -100000000000000"),
    (ValueError, {"size": (2**63, 1)}, r"size must have a product of at most 2147483647, got \(9223372036"),
    (
        ValueError,
        {"prediction": T[:1, :1, :1].expand(1, 2**16, 2**15)},
        r"prediction must have at most 2147483647 pixels an image, got shape \[1, 65536, 32768\]",
    ),
]


@pytest.mark.parametrize(("error", "changed", "text"), REJECTED, ids=lambda v: str(v)[:40])
def test_bad_input_is_refused(error, changed, text) -> None:
    arguments = {"prediction": X, "target": T, "num_classes": 3} | changed
    with pytest.raises(error, match=text):
        confusion_matrix(**arguments)


def test_integers_may_be_numpys_and_ignore_index_any_of_64_bits() -> None:
    target = torch.tensor([[[0, 2**63 - 1], [-(2**63), 199]]])
    prediction = torch.tensor([[[0, 0], [0, 199]]])
    for ignored, other in ((2**63 - 1, -(2**63)), (-(2**63), 2**63 - 1)):
        counts = confusion_matrix(
            prediction, target.where(target != other, 0), np.uint8(200), ignore_index=ignored
        )
        assert counts.shape == (200, 200) and counts[0, 0] == 2 and counts[199, 199] == 1
    assert confusion_matrix(prediction, prediction, 200, ignore_index=np.uint8(199)).sum() == 3


@pytest.mark.parametrize("size", [(40, 400), (2, 4), (4, 2)])
def test_a_label_map_is_not_resized(size) -> None:
    prediction = torch.zeros(1, 4, 4, dtype=torch.uint8)
    target = torch.zeros(1, *size, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"size must be a label map's own \(4, 4\): .*, got \("):
        confusion_matrix(prediction, target, 3, size=size)
    same = torch.zeros(1, 4, 4, dtype=torch.uint8)
    assert confusion_matrix(prediction, same, 3, size=(4, 4))[0, 0] == 16
