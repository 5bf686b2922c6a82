"""Segmenters of other libraries by name: `smp:Unet?encoder_name=resnet34`, `torchvision:deeplabv3_resnet50`,
`hf:FOLDER`.

A library is imported when a segmenter of it is made, never before, and nothing is ever downloaded. The images
that all of them get are normalised as ralx's own segmenters get them, with ImageNet's mean and standard
deviation; what the networks return is `logits_of`'s to read.
"""

import ast
import functools
import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Options = dict[str, Any]

LIBRARY_NAMES = "smp:ARCHITECTURE, torchvision:NETWORK, hf:FOLDER"

# What classification networks' weight files hold beside the encoder, under the names of timm, torchvision and
# the older collections that segmentation_models_pytorch takes its encoders from.
_CLASSIFIERS = ("fc.", "_fc.", "classifier.", "last_linear.", "linear.", "head.")


def library_factory(name: str) -> Callable[..., nn.Module] | None:
    """What makes the network that `name` means, from `num_classes=...`; None where it names no library.

    The factory raises ValueError: package missing, network or option unknown, options that don't go together.
    """
    library, _, rest = name.partition(":")
    make = _LIBRARIES.get(library)
    if make is None:
        return None
    network, _, text = rest.partition("?")
    return functools.partial(make, name, network, _parsed(name, text))


def library_files(name: str) -> tuple[Path, ...]:
    """The files that a name of `library_factory` stands for: the network depends on what they hold."""
    library, _, rest = name.partition(":")
    if library != "hf":
        return ()
    place = Path(rest.partition("?")[0]).expanduser()
    if place.is_file():
        return (place,)
    return *sorted(place.glob("*.json")), *sorted(place.glob("*.safetensors"))


def library_name_from(folder: Path, name: str) -> str:
    """`name`, where a relative path in it begins at `folder`."""
    library, _, rest = name.partition(":")
    if library != "hf":
        return name
    path, mark, options = rest.partition("?")
    return f"hf:{folder / Path(path).expanduser()}{mark}{options}"


def _smp(name: str, architecture: str, options: Options, *, num_classes: int) -> nn.Module:
    """A network of segmentation_models_pytorch, for images of any size."""
    smp = _imported(name, "segmentation_models_pytorch", "smp")
    known = smp.MODEL_ARCHITECTURES_MAPPING
    if architecture.lower() not in known:
        raise ValueError(
            f"segmenter: {name}: expected an architecture among "
            f"{', '.join(each.__name__ for each in known.values())}, got {architecture!r}"
        )
    network = known[architecture.lower()]
    if "encoder_weights" in options:
        raise ValueError(
            f"segmenter: {name}: encoder_weights can't be given, for nothing is downloaded; a file of the "
            "encoder's weights is given by the option weights"
        )
    # The ones left out are ralx's to say. An unknown one would reach the encoder, and be ignored.
    set_here = {"self", "in_channels", "classes", "encoder_weights", "activation", "aux_params", "kwargs"}
    _check_known(name, options, inspect.signature(network.__init__).parameters.keys() - set_here)
    with _naming(name):
        segmenter = type(network.__name__, (_OfAnySize, network), {})(
            encoder_weights=None, classes=num_classes, **options
        )
    segmenter.encoder.classifier_only = _CLASSIFIERS
    return segmenter


class _OfAnySize(nn.Module):
    """Most networks of segmentation_models_pytorch take only multiples of their encoder's stride: the border
    pixels are repeated at the right and bottom up to one, and what is predicted there is cut off."""

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        stride: int = self.encoder.output_stride  # type: ignore[union-attr,assignment]
        padded = F.pad(images, (0, -width % stride, 0, -height % stride), mode="replicate")
        logits = super().forward(padded)  # type: ignore[misc]  # the library's network comes next
        # Logits may be at a lower resolution than the images.
        rows = -(-height * logits.shape[-2] // padded.shape[-2])
        cols = -(-width * logits.shape[-1] // padded.shape[-1])
        return logits[..., :rows, :cols]


def _torchvision(name: str, network: str, options: Options, *, num_classes: int) -> nn.Module:
    """A network of torchvision.models.segmentation."""
    models = _imported(name, "torchvision.models", "torchvision")
    known = models.list_models(models.segmentation)
    if network not in known:
        raise ValueError(f"segmenter: {name}: expected a network among {', '.join(known)}, got {network!r}")
    make = models.get_model_builder(network)
    _check_known(name, options, inspect.signature(make).parameters.keys() & {"aux_loss"})
    with _naming(name):
        segmenter = make(weights=None, weights_backbone=None, num_classes=num_classes, **options)
    segmenter.backbone.classifier_only = _CLASSIFIERS
    return segmenter


def _transformers(name: str, path: str, options: Options, *, num_classes: int) -> nn.Module:
    """A network of transformers: of a folder with config.json and safetensors, whose classifier is made anew
    where it has other classes, or of a config file alone, with random weights."""
    place = Path(path).expanduser()
    if not (place.is_file() or (place / "config.json").is_file()):
        raise ValueError(
            f"segmenter: {name}: expected a local folder with config.json and safetensors, or a config file "
            f"for random weights, got {path!r}; nothing is downloaded"
        )
    transformers = _imported(name, "transformers", "transformers")
    if transformers.__version__.startswith("4."):  # makes a new classifier that no seed determines
        raise ValueError(f"segmenter: {name} needs transformers 5 or newer, got {transformers.__version__}")
    local: Options = {"local_files_only": True, "trust_remote_code": False}
    with _naming(name), _quiet(transformers.utils.logging):
        auto = transformers.AutoModelForSemanticSegmentation
        config = transformers.AutoConfig.from_pretrained(str(place), **local)
    _check_known(name, options, config.to_dict().keys() - {"id2label", "label2id", "model_type"})
    with _naming(name), _quiet(transformers.utils.logging):
        for option, value in options.items():
            setattr(config, option, value)
        config.num_labels = num_classes
        if place.is_file():
            return auto.from_config(config, trust_remote_code=False).float()
        segmenter, found = auto.from_pretrained(
            str(place),
            config=config,
            use_safetensors=True,  # no pickle, so that no code of a file runs
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **local,
        )
    _check_loaded(name, segmenter, found)
    return segmenter.float()


def _check_loaded(name: str, segmenter: nn.Module, found: Options) -> None:
    """Only the classifier, whose first axis is the classes, may differ, and the whole decoder may be missing:
    that is how weights of another data set and of ImageNet are taken over."""
    for tensor, shape, wanted in found["mismatched_keys"]:
        if shape[1:] != wanted[1:]:
            raise ValueError(
                f"segmenter: {name}: {tensor!r} should have shape {list(wanted)}, got {list(shape)}"
            )
    if len(found["missing_keys"]) >= len(list(segmenter.parameters())):
        raise ValueError(f"segmenter: {name}: expected weights of this network, got none")


_LIBRARIES: dict[str, Callable[..., nn.Module]] = {
    "smp": _smp,
    "torchvision": _torchvision,
    "hf": _transformers,
}


def _parsed(name: str, text: str) -> Options:
    """`a=1&b=resnet34&c=(64,32)`: numbers, tuples, true, false and none as such, all else as text."""
    options = {}
    for part in filter(None, text.split("&")):
        option, equals, value = part.partition("=")
        if not option or not equals or option in options:
            raise ValueError(
                f"segmenter: {name}: expected options as name=value&name=value, each once, got {part!r}"
            )
        options[option] = _value(value)
    return options


def _value(text: str) -> object:
    try:
        return ast.literal_eval(text.capitalize() if text.lower() in ("true", "false", "none") else text)
    except (ValueError, SyntaxError):
        return text


def _check_known(name: str, options: Options, known: Iterable[str]) -> None:
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ValueError(
            f"segmenter: {name}: expected options among {', '.join(sorted(known)) or 'none'}, "
            f"got {unknown[0]!r}"
        )


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """ValueError in place of whatever a library raises where its options don't go together: each has errors
    of its own."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"segmenter: {name} can't be made: {error}") from error


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Without transformers' progress bars, and without its report of a classifier that is meant to be new."""
    level, shows_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shows_bars:
            logging.enable_progress_bar()


def _imported(name: str, package: str, extra: str) -> Any:
    with _naming(name):
        _load_torchvision()
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(
            f"segmenter: {name} needs {package.partition('.')[0]}: pip install 'ralx[{extra}]' ({error})"
        ) from error


def _load_torchvision() -> None:
    """Import torchvision, if it is there, so that the libraries that import it themselves find it loaded.

    torchvision from PyPI is built for a torch with CUDA. Beside a torch without, its compiled operators don't
    load, and its import fails in describing two of them, nms and qnms, to the tracer. No segmentation network
    calls an operator of torchvision, so the descriptions get the two schemas that they lack, and the import
    is tried again. Where the operators load, the first try succeeds and nothing is defined. A call of either
    operator fails as torchvision means it to ("Couldn't load custom C++ ops").
    """
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        pass  # whoever needs torchvision says so
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        _define_missing_schemas()
        importlib.import_module("torchvision")


@functools.cache  # keeps the schemas: they go with the library object
def _define_missing_schemas() -> torch.library.Library:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
