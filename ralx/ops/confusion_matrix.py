"""confusion_matrix: how often pixels of one class are predicted as another."""

import math

import torch
from torch import Tensor

from ralx.ops._reference import computed, upsample_ref
from ralx.ops.arguments import (
    LIMIT,
    check_flag,
    check_ignore_index,
    check_integer,
    check_label_map,
    check_logits,
    check_pair,
    check_same_device,
    place_in,
)
from ralx.ops.registration import Call, register

_MAX_CLASSES = math.isqrt(LIMIT)


def confusion_matrix(
    prediction: Tensor,
    target: Tensor,
    num_classes: int,
    *,
    ignore_index: int = 255,
    size: tuple[int, int] | None = None,
    align_corners: bool = False,
) -> Tensor:
    """Counts pixels by target and predicted class.

    Args:
        prediction: logits [N, C, h, w] (float32, float16, bfloat16 or float64), whose argmax is taken as
            torch.argmax does, or predicted labels [N, H, W] (uint8, int16, int32 or int64).
        target: labels [N, H, W], uint8, int16, int32 or int64.
        num_classes: C, at most 46340: the matrix holds at most 2³¹ - 1 counts.
        ignore_index: pixels with this target are skipped; any 64-bit integer.
        size: (H, W) to which logits are bilinearly upsampled inside the pass; of a label map its own size.
        align_corners: as in torch.nn.functional.interpolate.

    Returns:
        int64 [C, C]; row t, column p counts the pixels of target t that are predicted as p.

    Raises:
        TypeError, ValueError: naming the argument, the rule and what was given. On the CPU also for a target
            or a predicted label outside 0..C-1 in a pixel that isn't ignored; on CUDA, where finding out
            would stop the device, such pixels are skipped.
    """
    num_classes = check_integer("num_classes", num_classes, high=_MAX_CLASSES)
    ignore_index = check_ignore_index(ignore_index)
    check_flag("align_corners", align_corners)
    is_map = isinstance(prediction, Tensor) and not prediction.is_floating_point()
    if not is_map:
        images, classes, height, width = check_logits("prediction", prediction).shape
        if classes != num_classes:
            raise ValueError(
                f"num_classes must be the number of classes of the logits, got {num_classes} "
                f"for a prediction of shape {list(prediction.shape)}"
            )
    else:
        images, height, width = check_label_map("prediction", prediction).shape
        if height * width > LIMIT:
            raise ValueError(
                f"prediction must have at most {LIMIT} pixels an image, got shape {list(prediction.shape)}"
            )
    check_label_map("target", target)
    check_same_device("prediction", prediction, "target", target)
    if size is not None:
        own = height, width
        height, width = check_pair("size", size)
        if is_map and (height, width) != own:
            raise ValueError(f"size must be a label map's own {own}: only logits are upsampled, got {size}")
    if target.shape != (images, height, width):
        raise ValueError(
            f"target must have the shape of the prediction, [{images}, {height}, {width}], "
            f"got {list(target.shape)}"
        )
    return _op(prediction.detach(), target, num_classes, ignore_index, align_corners)


def confusion_matrix_ref(
    prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int = 255, align_corners: bool = False
) -> Tensor:
    """The same in plain torch, logits upsampled to the target's size; labels outside 0..C-1 are skipped."""
    if prediction.is_floating_point():
        prediction = upsample_ref(
            computed(prediction), (target.shape[1], target.shape[2]), align_corners
        ).argmax(1)
    target, prediction = target.long(), prediction.long()
    inside = (target >= 0) & (target < num_classes) & (prediction >= 0) & (prediction < num_classes)
    cell = torch.where(inside & (target != ignore_index), target * num_classes + prediction, num_classes**2)
    counts = torch.zeros(num_classes**2 + 1, dtype=torch.int64, device=target.device)
    counts.scatter_add_(0, cell.flatten(), torch.ones_like(cell).flatten())
    return counts[:-1].view(num_classes, num_classes)


def _call(
    prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int, align_corners: bool
) -> Call:
    def refuse(name: str, position: int, value: int) -> None:
        raise ValueError(
            f"{name} must be in 0..{num_classes - 1} where the target isn't ignore_index={ignore_index}, "
            f"got {value} at {place_in(target, position)}"
        )

    counts = target.new_empty(num_classes, num_classes, dtype=torch.int64)
    given = prediction, target, counts, ignore_index, align_corners
    return Call(counts, given, num_classes * target.numel(), (), refuse)


_op = register(
    "confusion_matrix(Tensor prediction, Tensor target, SymInt num_classes, int ignore_index, "
    "bool align_corners) -> Tensor",
    call=_call,
    ref=confusion_matrix_ref,
)
