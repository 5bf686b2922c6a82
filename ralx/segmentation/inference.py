"""Running a segmenter without training it: predictions, MC passes, and the confusion matrix of a data set."""

import math
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from ralx.ops import confusion_matrix
from ralx.regions import equal_batches, image_sizes, trimmed
from ralx.segmentation.modes import Precision, autocast, device_of, evaluating, inputs_for
from ralx.segmentation.outputs import logits_of
from ralx.support.devices import to_device


class SegmentationData(Protocol):
    """What training and evaluation need of a data set. One of images of different sizes has `sizes`, int64
    [N, 2], as well: its batches are canvases of `image_size` with each image at the top left, and labels
    `ignore_index` beside it."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def ignore_index(self) -> int: ...

    @property
    def image_size(self) -> tuple[int, int]: ...

    def __len__(self) -> int: ...

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """int64 [n] -> images uint8 [n, 3, H, W], labels uint8 [n, H, W]."""
        ...


def predict(segmenter: nn.Module, images: Tensor, *, precision: Precision = "auto") -> Tensor:
    """images uint8 [N, 3, H, W] -> logits [N, C, h, w] in eval mode, without gradients, on the segmenter's
    device.

    The segmenter may return all that `logits_of` takes; a binary segmenter's one channel becomes two classes.
    """
    device = device_of(segmenter, images.device)
    with evaluating(segmenter), autocast(device, precision):
        return logits_of(segmenter(inputs_for(segmenter, images)), segmenter)


def dropout_layers(segmenter: nn.Module) -> list[nn.Module]:
    """The layers that make MC passes differ from each other."""
    return [layer for layer in segmenter.modules() if isinstance(layer, _DropoutNd) and layer.p > 0]


def mc_logits(segmenter: nn.Module, inputs: Tensor, num_samples: int) -> Iterator[Tensor]:
    """MC-dropout passes (Gal & Ghahramani 2016): dropout on, everything else in eval mode, no gradients.

    Where the network has `encode` and `classify` (with all its dropout in `classify`), the encoder runs once
    and only the classifier runs again per pass. The dropout masks come from torch's global generator of the
    inputs' device, the precision is the caller's (`autocast`).

    Args:
        inputs: what the segmenter takes, normalised images [N, 3, H, W] as a rule.
        num_samples: T.

    Returns:
        an iterator over T logits [N, C, h, w], made one at a time; a binary segmenter's one channel becomes
        two classes.

    Raises:
        ValueError: a network without dropout (its passes would all be equal), num_samples < 1.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples: expected at least 1, got {num_samples}")
    if not dropout_layers(segmenter):
        raise ValueError(
            "segmenter: MC passes need a dropout layer with a rate above 0, this network has none"
        )
    return _mc_passes(segmenter, inputs, num_samples)


def _mc_passes(segmenter: nn.Module, inputs: Tensor, num_samples: int) -> Iterator[Tensor]:
    encode: Callable[[Tensor], Tensor] | None = getattr(segmenter, "encode", None)
    classify: Callable[[Tensor], object] | None = getattr(segmenter, "classify", None)
    head: Callable[[Tensor], object] = segmenter
    if encode is not None and classify is not None:
        with evaluating(segmenter):
            inputs = encode(inputs)
        head = classify
    for _ in range(num_samples):
        # Between two passes every layer is in the caller's mode again.
        with evaluating(segmenter):
            for layer in dropout_layers(segmenter):
                layer.train()
            logits = logits_of(head(inputs), segmenter)
        yield logits


def evaluate(
    segmenter: nn.Module, dataset: SegmentationData, *, batch_size: int, precision: Precision = "auto"
) -> Tensor:
    """Confusion matrix of a whole data set: int64 [C, C] on the segmenter's device, rows are targets, ignored
    pixels left out. A binary segmenter's one channel is two classes, see `predict`.

    Raises:
        FloatingPointError: a logit is NaN or +inf (-inf is a class that the segmenter rules out).
    """
    device = device_of(segmenter)
    num_classes = len(dataset.classes)
    total = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
    usable = torch.ones((), dtype=torch.bool, device=device)
    sizes = image_sizes(dataset)
    for index, _ in equal_batches(sizes, batch_size):
        images, labels = (trimmed(part, sizes[index]) for part in dataset.batch(index))
        logits = predict(segmenter, images, precision=precision)
        usable &= (logits < math.inf).all()
        total += confusion_matrix(
            logits,
            to_device(labels, device),
            num_classes,
            ignore_index=dataset.ignore_index,
            size=(labels.shape[-2], labels.shape[-1]),
            align_corners=True,
        )
    if not usable:
        raise FloatingPointError("the segmenter has diverged: its logits hold NaN or infinities")
    return total
