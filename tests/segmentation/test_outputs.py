"""What a segmenter may return: the wrappers of the ecosystem, one binary channel, and no probabilities."""

import copy
import gc
import math
import weakref
from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_segmentation import IGNORE, TinyDataset, TinySegmenter
from torch import nn
from torch.nn import functional as F

from ralx import Featurizer
from ralx.acquisition import ACQUISITIONS
from ralx.segmentation import (
    SegmenterTrainer,
    TrainingConfig,
    evaluate,
    logits_of,
    mc_logits,
    normalise,
    predict,
)

REGION = (8, 8)


class ModelOutput(OrderedDict):
    """As of transformers: an ordered dict whose entries are attributes too."""

    __getattr__ = OrderedDict.__getitem__


LossAndLogits = namedtuple("LossAndLogits", "loss logits")

WRAPPERS = {
    "tensor": lambda logits: logits,
    "transformers": lambda logits: ModelOutput(loss=torch.tensor(0.5), logits=logits),
    "transformers without dicts": lambda logits: (logits, (logits[:, :, :1], logits[:, :1])),
    "torchvision": lambda logits: OrderedDict(out=logits, aux=-logits),
    "dict": lambda logits: {"aux": -logits, "logits": logits},
    "smp with a classifier": lambda logits: (logits, torch.zeros(len(logits), 2)),
    "deep supervision": lambda logits: [logits, -logits],
    "object": lambda logits: SimpleNamespace(logits=logits),
    "namedtuple": lambda logits: LossAndLogits(torch.tensor(0.5), logits),
    "wrapped twice": lambda logits: ({"out": logits}, None),
}


class Wrapping(nn.Module):
    """`segmenter`, whose output is wrapped."""

    def __init__(self, segmenter, wrap):
        super().__init__()
        self.segmenter, self.wrap = segmenter, wrap

    def forward(self, images):
        return self.wrap(self.segmenter(images))


def everything(segmenter, dataset):
    """What every function that takes a segmenter makes of it."""
    images, labels = dataset.batch(torch.arange(4))
    inputs, generator = normalise(images), torch.Generator().manual_seed(2)
    found = {
        "features": list(Featurizer(segmenter, REGION)(inputs)),
        "predict": predict(segmenter, images),
        "evaluate": evaluate(segmenter, dataset, batch_size=4),
    }
    torch.manual_seed(3)
    found["mc_logits"] = list(mc_logits(segmenter, inputs, 2))
    for name, score in ACQUISITIONS.items():
        found[name] = score(segmenter, inputs, REGION, num_mc_samples=3, generator=generator)
    trainer = SegmenterTrainer(segmenter, TrainingConfig(), lr=0.1, ignore_index=IGNORE)
    found["step"] = [trainer.step(images, labels), *(p.detach() for p in segmenter.parameters())]
    return found


@pytest.mark.parametrize("name", WRAPPERS)
def test_logits_are_found_in_what_libraries_return(segmenter, name):
    logits = torch.randn(2, 3, 4, 5)
    assert logits_of(WRAPPERS[name](logits), segmenter) is logits


@pytest.mark.parametrize("name", ["transformers", "torchvision", "smp with a classifier"])
def test_every_function_takes_what_libraries_return(segmenter, dataset, name):
    wrapping = Wrapping(copy.deepcopy(segmenter), WRAPPERS[name])
    expected, found = (everything(each, dataset) for each in (segmenter, wrapping))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_classify_may_wrap_its_logits_too():
    class Halves(TinySegmenter):
        def encode(self, images):
            return self.bn(self.conv(images)).relu()

        def classify(self, features):
            return {"out": self.classifier(self.dropout(features))}

    first, second = mc_logits(Halves(), torch.randn(1, 3, 8, 8), 2)
    assert first.shape == (1, 3, 2, 2) and not torch.equal(first, second)


@pytest.mark.parametrize(
    ("output", "found"),
    [
        ({"masks": 1, "boxes": 2}, "builtins.dict of masks, boxes"),
        ({}, "builtins.dict of nothing"),
        ({"logits": None}, "builtins.dict of logits"),
        ([{"sem_seg": torch.zeros(1)}], "builtins.dict of sem_seg"),
        ((), "builtins.tuple"),
        (np.zeros((1, 2, 3, 3)), "numpy.ndarray"),
        (None, "builtins.NoneType"),
    ],
)
def test_other_outputs_are_named(segmenter, output, found):
    expected = rf"must be logits .* under 'logits' or 'out', or the first in a tuple or list, got {found}$"
    for call in (
        Featurizer(Wrapping(segmenter, lambda _: output), REGION),
        lambda images: logits_of(output, segmenter),
    ):
        with pytest.raises(TypeError, match=expected):
            call(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("error", "output", "message"),
    [
        (ValueError, torch.zeros(1, 8, 8), r"must be \[N, C, h, w\], got shape \[1, 8, 8\]"),
        (TypeError, torch.zeros(1, 2, 8, 8).long(), r"must be float32, .* got torch\.int64"),
        (ValueError, torch.zeros(1, 0, 8, 8), "must have at least one class"),
    ],
)
def test_tensors_that_are_no_logits_are_named_by_predict_as_well(segmenter, error, output, message):
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(error, match=f"the segmenter's output {message}"):
        predict(Wrapping(segmenter, lambda _: output), images)


# --- one channel ------------------------------------------------------------------------------------------


class WithZero(nn.Module):
    """The two classes that a binary segmenter stands for."""

    def __init__(self, segmenter):
        super().__init__()
        self.segmenter = segmenter

    def forward(self, images):
        z = self.segmenter(images)
        return torch.cat([torch.zeros_like(z), z], 1)


@pytest.mark.filterwarnings("error")
def test_one_channel_is_a_binary_logit_everywhere():
    torch.manual_seed(0)
    segmenter, dataset = TinySegmenter(num_classes=1), TinyDataset(num_classes=2)
    two = WithZero(copy.deepcopy(segmenter))
    found, expected = everything(segmenter, dataset), everything(two, dataset)
    assert found["predict"].shape[1] == 2 and found["entropy"].min() > 0 and found["bald"].min() > 0
    torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("error")
def test_a_binary_segmenter_is_trained_by_binary_cross_entropy():
    dataset, segmenter = TinyDataset(num_classes=2), nn.Conv2d(3, 1, 1)
    images, labels = dataset.batch(torch.arange(4))
    labels[0, :5] = IGNORE
    known = labels != IGNORE
    z = segmenter(normalise(images))[:, 0].detach()
    expected = F.binary_cross_entropy_with_logits(z[known], labels[known].float())
    trainer = SegmenterTrainer(segmenter, TrainingConfig(), lr=0.5, ignore_index=IGNORE)
    torch.testing.assert_close(trainer.step(images, labels), expected)
    losses = [trainer.step(images, labels).item() for _ in range(60)]
    assert losses[-1] < 0.3 * expected
    assert evaluate(segmenter, dataset, batch_size=6).diag().sum() > 0.95 * dataset.label_data.numel()


# --- probabilities ----------------------------------------------------------------------------------------

PROBABILITIES = {
    "softmax": lambda x: x.softmax(1),
    "bfloat16": lambda x: x.bfloat16().softmax(1),
    "sure": lambda x: (50 * x).softmax(1),
    "in a dict": lambda x: {"out": x.softmax(1)},
    "sigmoid": lambda x: (50 * (x - x[:, :1].mean()))[:, :1].sigmoid(),
}
LOGITS = {
    "logits": lambda x: x,
    "log_softmax": lambda x: x.log_softmax(1),
    "in 0..1, but of no common sum": lambda x: x.sigmoid(),
    "summing to 1, but below 0": lambda x: x - x.mean(1, keepdim=True) + 1 / 3,
    "one channel": lambda x: x[:, :1],
    "one channel of zeros": lambda x: 0 * x[:, :1],
    "one channel that has learned nothing yet": lambda x: x[:, :1].sigmoid() / 2,
    "NaN": lambda x: x.softmax(1) * math.nan,
    "no image": lambda x: x[:0].softmax(1),
    "on a device that has to be waited for": lambda x: x.softmax(1).to("meta"),
}


@pytest.mark.parametrize("name", PROBABILITIES)
def test_a_first_output_of_probabilities_is_told_once(dataset, name):
    segmenter = Wrapping(TinySegmenter(), PROBABILITIES[name])
    attributes = set(vars(segmenter))
    images, labels = dataset.batch(torch.arange(2))
    expected = "the segmenter Wrapping gives values .*1, which .*: pass logits"
    with pytest.warns(UserWarning, match=expected) as told:
        predict(segmenter, images)
        Featurizer(segmenter, REGION)(normalise(images))
        SegmenterTrainer(segmenter, TrainingConfig(), lr=0.1, ignore_index=IGNORE).step(images, labels % 2)
    assert len(told) == 1 and set(vars(segmenter)) == attributes
    with pytest.warns(UserWarning, match="pass logits"):  # another network, another warning
        predict(copy.deepcopy(segmenter), images)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", LOGITS)
def test_logits_are_no_probabilities(name):
    logits_of(LOGITS[name](torch.randn(2, 3, 4, 5)), nn.Identity())


def test_a_segmenter_that_was_looked_at_can_be_collected(dataset):
    segmenter = TinySegmenter()
    predict(segmenter, dataset.image_data)
    gone = weakref.ref(segmenter)
    del segmenter
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("wrap", ["tensor", "torchvision"])
def test_a_featurizer_can_be_compiled_and_exported(wrap):
    images = torch.randn(1, 3, 16, 16)
    featurizer = Featurizer(Wrapping(TinySegmenter(), WRAPPERS[wrap]), REGION)
    expected = featurizer(images)
    compiled = torch.compile(featurizer, backend="eager", fullgraph=True)
    exported = torch.export.export(featurizer, (images,)).module()
    for found in (compiled(images), exported(images)):
        torch.testing.assert_close(list(found), list(expected))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_any_float_are_run_and_trained(dtype):
    segmenter, data = TinySegmenter(3).to(dtype), TinyDataset()
    images, labels = data.batch(torch.arange(len(data)))
    assert predict(segmenter, images).dtype == dtype
    whole = evaluate(segmenter, data, batch_size=2, precision="float32").sum()
    assert whole == (labels != IGNORE).sum()
    loss = SegmenterTrainer(
        segmenter, TrainingConfig(), lr=0.01, ignore_index=IGNORE, precision="float32"
    ).step(images, labels)
    assert loss.isfinite()
