"""Numbers that are no longer finite: how they are found, and what to change is named."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from ralx.support.files import RunError


@contextlib.contextmanager
def naming_divergence(option: str, when: str) -> Iterator[None]:
    """A FloatingPointError inside becomes a RunError that names what to change and when it happened."""
    try:
        yield
    except FloatingPointError as error:
        raise RunError(f"{option}: {error} ({when})") from error


def all_finite(*tensors: Tensor) -> bool:
    """Whether none holds NaN or an infinity; one wait for the device they are on."""
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())


def refuse_not_finite(*features: Tensor) -> None:
    """FloatingPointError where a feature or score is NaN or infinite, which finite logits never give."""
    if not all_finite(*features):
        raise FloatingPointError("the segmenter has diverged: what its logits give holds NaN or infinities")
