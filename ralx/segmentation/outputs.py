"""What segmenters return, as logits: a tensor, or what transformers, torchvision and smp wrap one in."""

import warnings
import weakref
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ralx.ops.arguments import check_logits

_NAMES = ("logits", "out")  # transformers, torchvision
_ROUNDING = 1e-2  # of bfloat16's probabilities and their sum

_looked_at: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def logits_of(output: object, segmenter: nn.Module) -> Tensor:
    """The logits [N, C, h, w] in what `segmenter` gave.

    They may be a tensor, an entry or attribute "logits" (transformers) or "out" (torchvision), or first in a
    tuple or list (smp with a classification head, transformers without dicts, deep supervision). One channel
    is a binary logit z: two classes, whose logits are 0 and z.

    Warns once per segmenter whose first output on the CPU looks like probabilities.

    Raises:
        TypeError, ValueError: naming what was found and what is taken.
    """
    logits = check_logits("the segmenter's output", _unwrapped(output))
    _warn_of_probabilities(logits, segmenter)
    return torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits


def _unwrapped(output: object) -> Tensor:
    if isinstance(output, Tensor):
        return output
    for name in _NAMES:
        part = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if part is not None:
            return _unwrapped(part)
    if isinstance(output, (tuple, list)) and output:
        return _unwrapped(output[0])
    found = f"{type(output).__module__}.{type(output).__qualname__}"
    if isinstance(output, Mapping):
        found += f" of {', '.join(map(str, output)) or 'nothing'}"
    raise TypeError(
        "the segmenter's output must be logits [N, C, h, w]: a torch.Tensor, one under 'logits' or 'out', or "
        f"the first in a tuple or list, got {found}"
    )


def _warn_of_probabilities(logits: Tensor, segmenter: nn.Module) -> None:
    # Neither a compiler's stand-ins nor, without a wait, a CUDA device's numbers can be looked at.
    if torch.compiler.is_compiling() or type(logits) is not Tensor or not logits.is_cpu:
        return
    if segmenter in _looked_at or not logits.numel():
        return
    _looked_at.add(segmenter)
    values = logits.detach().float().numpy()
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 1 + _ROUNDING):
        return
    if values.shape[1] == 1:
        # The logits of a network that hasn't learned yet may lie in 0..1 too, but hardly come near both.
        suspect, found = high <= 1 and low < 0.1 and high > 0.9, "values from 0 to 1"
    else:
        suspect, found = abs(values.sum(1) - 1).max() <= _ROUNDING, "values in 0..1 that sum to 1"
    if suspect:
        warnings.warn(
            f"the segmenter {type(segmenter).__name__} gives {found}, which look like probabilities: pass "
            "logits, for a softmax or sigmoid taken twice flattens entropies",
            stacklevel=3,
        )
