"""How a segmenter is run: normalised input, eval mode, precision, and dropout that draws from a given
generator.
"""

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ralx.support.devices import to_device

Precision = Literal["auto", "float32", "bfloat16"]

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


@functools.lru_cache(maxsize=8)
def _affine(device: torch.device) -> tuple[Tensor, Tensor]:
    # Kept per device: making them at every call would be a copy to the device, and a wait for it.
    std = torch.tensor(_IMAGENET_STD, dtype=torch.float64, device="cpu").view(3, 1, 1)
    mean = torch.tensor(_IMAGENET_MEAN, dtype=torch.float64, device="cpu").view(3, 1, 1)
    return (1 / (255 * std)).float().to(device), (-mean / std).float().to(device)


def normalise(images: Tensor) -> Tensor:
    """uint8 [N, 3, H, W] -> float32, ImageNet's mean and standard deviation per channel taken out,
    channels_last.

    Raises:
        TypeError: not uint8. ValueError: not [N, 3, H, W].
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"images: expected uint8, got {images.dtype}")
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images: expected [N, 3, H, W], got {list(images.shape)}")
    scale, shift = _affine(images.device)
    return torch.addcmul(shift, images.to(torch.float32, memory_format=torch.channels_last), scale)


def device_of(segmenter: nn.Module, otherwise: torch.device | None = None) -> torch.device:
    """Where the segmenter's weights are; for a network without any, such as a frozen one, `otherwise` or the
    CPU."""
    tensor = next(segmenter.parameters(), next(segmenter.buffers(), None))
    if tensor is None:
        return otherwise or torch.device("cpu")
    return tensor.device


def inputs_for(segmenter: nn.Module, images: Tensor) -> Tensor:
    """`images` normalised, on the segmenter's device and in its weights' dtype; float32 where it has none."""
    device = device_of(segmenter, images.device)
    floating = (p.dtype for p in segmenter.parameters() if p.is_floating_point())
    return normalise(to_device(images, device)).to(next(floating, torch.float32))


def check_precision(precision: str) -> None:
    if precision not in get_args(Precision):
        raise ValueError(f"precision: expected one of {', '.join(get_args(Precision))}, got {precision!r}")


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager:
    """bfloat16 where asked for, and under "auto" on CUDA devices that have it; float32 otherwise.

    bfloat16 has float32's range, so that no gradient scaling is needed.
    """
    check_precision(precision)
    enabled = precision == "bfloat16" or (
        precision == "auto"
        and device.type == "cuda"
        and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def set_mode(segmenter: nn.Module, training: bool) -> None:
    """`segmenter.train(training)`, where all that can't change its mode runs in the one that it has."""
    try:
        segmenter.train(training)
    # Torch raises it for a graph of torch.export, which keeps the mode that it was exported in, and for a
    # module that holds one. The other children of such a module can change.
    except NotImplementedError:
        for child in segmenter.children():
            set_mode(child, training)


@contextmanager
def evaluating(segmenter: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients inside; after, every submodule has back the mode that it had, if any."""
    before = [(module, getattr(module, "training", None)) for module in segmenter.modules()]
    try:
        with torch.no_grad():
            set_mode(segmenter, False)
            yield
    finally:
        for module, training in before:
            if training is not None:
                module.training = training
            elif hasattr(module, "training"):  # torch.jit freezes modules without one, but lets it be set
                del module.training


@contextmanager
def dropout_from(generator: torch.Generator, device: torch.device) -> Iterator[None]:
    """Dropout can only draw from torch's global generators: inside they are seeded from `generator`, after
    they are as they were."""
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    cuda = []
    if device.type == "cuda":
        cuda = [torch.cuda.current_device() if device.index is None else device.index]
    with torch.random.fork_rng(devices=cuda):
        # Not torch.manual_seed: it would reseed the other devices too, and fork_rng doesn't restore those.
        torch.random.default_generator.manual_seed(seed)
        for index in cuda:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield
