"""A segmenter from its name or import path, with weights from a file."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ralx.segmentation.adapters import LIBRARY_NAMES, library_factory
from ralx.segmentation.encoders import BasicBlock, Bottleneck, MobileNetV2, ResNet, SmallEncoder
from ralx.segmentation.networks import FPN, SmallFPN
from ralx.support.imports import import_callable

SEGMENTERS: dict[str, Callable[..., nn.Module]] = {
    "fpn-resnet50": lambda **options: FPN(ResNet(Bottleneck, (3, 4, 6, 3)), **options),
    "fpn-resnet34": lambda **options: FPN(ResNet(BasicBlock, (3, 4, 6, 3)), **options),
    "fpn-resnet18": lambda **options: FPN(ResNet(BasicBlock, (2, 2, 2, 2)), **options),
    "fpn-mobilenetv2": lambda **options: SmallFPN(MobileNetV2(), **options),
    "fpn-small": lambda **options: SmallFPN(SmallEncoder(), **options),
}


def build_segmenter(
    name: str, num_classes: int, *, dropout: float | None = None, weights: str | Path | None = None
) -> nn.Module:
    """Make a segmentation network, on the CPU: normalised images [N, 3, H, W] -> logits [N, C, h, w].

    Args:
        name: a key of `SEGMENTERS`; a network of another library, see `ralx.segmentation.adapters`; or
            `package.module:factory`, which is called with `num_classes=...`.
        num_classes: C. A network for two classes may give one channel, see `logits_of`.
        dropout: rate before the classifier, in [0, 1); None keeps the network's own default. An imported
            factory gets it if it has a parameter `dropout`, and else sets its own. Other libraries' networks
            refuse it: where they have such an option, the name says it (`smp:FPN?decoder_dropout=0.3`).
        weights: a safetensors file or a torch file of tensors, see `load_weights`.

    Raises:
        ValueError: unknown name, import path that gives no network, library that isn't installed, bad rate,
            weights that don't fit.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes: expected at least 1, got {num_classes}")
    if dropout is not None and not 0 <= dropout < 1:
        raise ValueError(f"dropout: expected a rate in [0, 1), got {dropout}")
    factory = library_factory(name)
    if factory is not None and dropout is not None:
        raise ValueError(
            f"dropout: {name} sets its own rate; where its library has an option for it, it is given in the "
            "name, as in smp:FPN?decoder_dropout=0.3"
        )
    if factory is None:
        factory = import_callable("segmenter", name) if ":" in name else SEGMENTERS.get(name)
    if factory is None:
        raise ValueError(
            f"segmenter: expected one of {', '.join(SEGMENTERS)}, {LIBRARY_NAMES} or an import path "
            f"package.module:factory, got {name!r}"
        )
    options = {"dropout": dropout} if dropout is not None and _accepts(factory, "dropout") else {}
    try:
        with torch.device("cpu"):  # whatever torch's default is: its initial weights don't depend on it
            segmenter = factory(num_classes=num_classes, **options)
    except TypeError as error:
        raise ValueError(f"segmenter: {name} can't be called with num_classes=...: {error}") from error
    if not isinstance(segmenter, nn.Module):
        raise ValueError(f"segmenter: {name} should return a torch.nn.Module, got {type(segmenter).__name__}")
    if not any(parameter.requires_grad for parameter in segmenter.parameters()):
        raise ValueError(f"segmenter: {name} should have parameters to train, got none")
    if weights is not None:
        load_weights(segmenter, weights)
    # Convolutions on small maps run a quarter to a third faster this way on the CPU, and need it for tensor
    # cores on CUDA.
    return segmenter.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it


def _accepts(factory: Callable[..., nn.Module], parameter: str) -> bool:
    parameters = inspect.signature(factory).parameters
    return parameter in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def load_weights(segmenter: nn.Module, path: str | Path) -> None:
    """Load a weight file into `segmenter`, or, where it holds a classification network such as torchvision's
    ResNets and MobileNetV2, into its encoder (`segmenter.encoder`, or `segmenter.backbone` as torchvision has
    it); the classifier of such a file is ignored.

    Files that end in .safetensors are read as such, all others by `torch.load(weights_only=True)`: no code of
    the file ever runs.

    Raises:
        ValueError: no such file, not a file of tensors, missing or unknown tensors, tensors of another shape
            or with numbers that aren't finite; nothing is loaded.
    """
    path = Path(path)
    loaded = _read_tensors(path)
    target, expected = segmenter, segmenter.state_dict()
    encoder = getattr(segmenter, "encoder", getattr(segmenter, "backbone", None))
    if isinstance(encoder, nn.Module) and not any(name in expected for name in loaded):
        target, expected = encoder, encoder.state_dict()
        ignored = getattr(encoder, "classifier_only", ())
        loaded = {name: tensor for name, tensor in loaded.items() if not name.startswith(ignored)}
    _check_fit(path, loaded, expected)
    # Not by the network's own method: smp's encoders have one that renames, drops, and knows no `strict`.
    nn.Module.load_state_dict(target, loaded, strict=False)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"weights: no such file: {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"weights: {path} can't be read: {error}") from error
    except Exception as error:
        # A damaged pickle can provoke anything, and torch's own text advises to let the file run code.
        raise ValueError(
            f"weights: {path} should be a torch file of tensors by name and nothing else, "
            "got one that is damaged or holds other things"
        ) from error
    if not isinstance(loaded, Mapping):
        raise ValueError(f"weights: {path} should hold tensors by name, got {type(loaded).__name__}")
    for name, tensor in loaded.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError(
                f"weights: {path} should hold tensors by name, got {type(tensor).__name__} by {name!r}"
            )
    return dict(loaded)


def _check_fit(path: Path, loaded: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    unknown = [name for name in loaded if name not in expected]
    # torchvision's older files lack the batch counters, which nothing here uses.
    missing = [name for name in expected if name not in loaded and not name.endswith(".num_batches_tracked")]
    if unknown or missing:
        parts = [f"missing {missing[0]!r} ({len(missing)} in all)"] if missing else []
        parts += [f"unknown {unknown[0]!r} ({len(unknown)} in all)"] if unknown else []
        raise ValueError(f"weights: {path} doesn't fit this segmenter: {', '.join(parts)}")
    for name, tensor in loaded.items():
        odd = tensor.is_nested or tensor.is_quantized or tensor.is_complex() or tensor.is_meta
        if odd or tensor.layout != torch.strided:
            raise ValueError(f"weights: {path}: {name!r} should be a dense tensor of real numbers")
        if tensor.shape != expected[name].shape:
            raise ValueError(
                f"weights: {path}: {name!r} should have shape {list(expected[name].shape)}, "
                f"got {list(tensor.shape)}"
            )
        # float64's numbers may be too large for float32, and an integer made of NaN tells nothing.
        if not all(tensor.to(dtype).isfinite().all() for dtype in (torch.float64, expected[name].dtype)):
            raise ValueError(f"weights: {path}: {name!r} should hold finite numbers, got NaN or infinities")
