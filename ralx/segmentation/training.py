"""Training a segmenter: on the regions labelled last, on all labelled regions, or on whole data sets.

As the paper's authors train (PAPER: SGD with momentum, gradient norm clipped, the rate multiplied twice per
epoch, random crops and horizontal flips), with pixels outside labelled regions left out of the loss. All
randomness comes from a generator that is passed in.
"""

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ralx.regions import RegionPool, image_sizes
from ralx.segmentation.augmentation import Crops, crops_anywhere, crops_around, cut, positions
from ralx.segmentation.inference import SegmentationData, dropout_layers
from ralx.segmentation.modes import (
    Precision,
    autocast,
    check_precision,
    device_of,
    dropout_from,
    inputs_for,
    set_mode,
)
from ralx.segmentation.outputs import logits_of
from ralx.support.devices import to_device
from ralx.support.options import Concern


@dataclass(frozen=True)
class TrainingConfig(Concern):
    """Every training of the segmenter."""

    may_be_zero = ("segmenter_momentum", "segmenter_weight_decay")

    crop_size: tuple[int, int] = (224, 224)
    """Height and width of a training crop in pixels, at scale 1."""
    batch_size: int = 32
    """Crops per training batch of the segmenter."""
    segmenter_momentum: float = 0.95
    """SGD momentum of the segmenter."""
    segmenter_weight_decay: float = 1e-4
    """L2 penalty of the segmenter."""
    segmenter_clip_norm: float = 4.0
    """Largest norm of the segmenter's gradient."""
    segmenter_lr_decay: float = 0.998
    """Factor of the learning rate per epoch, applied twice as in the published code."""
    loss_weights: Literal["equal", "rarity"] = "equal"
    """What a pixel counts in the segmenter's loss. equal: all the same (paper). rarity: 1 / sqrt(C x its
    class's share of the pixels of D_T, or of what a segmenter is pretrained on)."""
    train_dropout: bool = True
    """Train the segmenter with dropout. Without (published), only BALD's passes use it."""


class SegmenterTrainer:
    """A segmenter with its optimizer: one gradient step per `step`, one decay of the learning rate per
    `end_epoch`.

    Args:
        segmenter: normalised images [n, 3, H, W] -> logits [n, C, h, w]; trained in place. It may return all
            that `logits_of` takes; one channel is a binary logit, trained by binary cross entropy.
        options: of them, `loss_weights` is said by `class_weights`.
        lr: learning rate of SGD.
        ignore_index: label of pixels that are left out of the loss.
        precision: "auto" (bfloat16 where a CUDA device has it), "float32" or "bfloat16".
        class_weights: [C], what a pixel of each class counts in the loss; None: all 1.
    """

    def __init__(
        self,
        segmenter: nn.Module,
        options: TrainingConfig,
        *,
        lr: float,
        ignore_index: int,
        precision: Precision = "auto",
        class_weights: Tensor | None = None,
    ):
        if not lr > 0:
            raise ValueError(f"lr: expected a number above 0, got {lr}")
        check_precision(precision)
        self.segmenter = segmenter
        self.options = options
        self.lr_decay = options.segmenter_lr_decay
        self.ignore_index = ignore_index
        self.precision: Precision = precision
        self.device = device_of(segmenter)
        self.class_weights = None if class_weights is None else class_weights.to(self.device, torch.float32)
        self._parameters = {name: p for name, p in segmenter.named_parameters() if p.requires_grad}
        if not self._parameters:
            raise ValueError("segmenter: expected parameters to train, this network has none")
        # One fused update instead of three small operations per parameter.
        self._optimizer = torch.optim.SGD(
            self._parameters.values(),
            lr=lr,
            momentum=options.segmenter_momentum,
            weight_decay=options.segmenter_weight_decay,
            fused=True,
        )

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self._optimizer.param_groups[0]["lr"]

    @lr.setter
    def lr(self, lr: float) -> None:
        self._optimizer.param_groups[0]["lr"] = lr

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One gradient step. images uint8 [n, 3, H, W], labels uint8 [n, H, W] -> the batch's mean loss per
        labelled pixel, before the step, as a tensor on the device (nothing waits for it); 0 where every pixel
        is ignored.

        A batch of one image is too small for batch statistics (a 1×1 map has none at all): batch norm uses
        its running ones.
        """
        set_mode(self.segmenter, True)
        fixed = [] if self.options.train_dropout else dropout_layers(self.segmenter)
        if len(images) == 1:
            fixed += [layer for layer in self.segmenter.modules() if isinstance(layer, _BatchNorm)]
        for layer in fixed:
            layer.eval()
        self._optimizer.zero_grad()
        with autocast(self.device, self.precision):
            logits = logits_of(self.segmenter(inputs_for(self.segmenter, images)), self.segmenter)
        loss = segmentation_loss(
            logits, to_device(labels, self.device), self.ignore_index, self.class_weights
        )
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters.values(), self.options.segmenter_clip_norm)
        self._optimizer.step()
        return loss.detach()

    def read_loss(self, loss: Tensor) -> float:
        """`loss`, a tensor on the device, as a number.

        FloatingPointError where it, the weights or the running statistics are NaN or infinite, or so large
        that their norm is. The host waits for the device once.
        """
        learned = [tensor for tensor in self.segmenter.state_dict().values() if tensor.is_floating_point()]
        value, norm = torch.stack((loss, nn.utils.get_total_norm(learned))).tolist()
        if math.isfinite(value) and math.isfinite(norm):
            return value
        found = "weights have no finite norm" if math.isfinite(value) else f"loss is {value}"
        raise FloatingPointError(
            f"the segmenter has diverged: its {found} at a learning rate of {self.lr:g}; try a lower one"
        )

    def end_epoch(self) -> None:
        """Decay the learning rate: twice, see `lr_decay`."""
        self._optimizer.param_groups[0]["lr"] *= self.lr_decay * self.lr_decay

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of everything that training changes, by name, contiguous (safetensors takes them):
        `weights.*`, `momentum.*` once a step was taken, and `lr`."""
        state = {f"weights.{name}": tensor for name, tensor in self.segmenter.state_dict().items()}
        for name, parameter in self._parameters.items():
            momentum = self._optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                state[f"momentum.{name}"] = momentum
        state = {name: t.detach().clone(memory_format=torch.contiguous_format) for name, t in state.items()}
        state["lr"] = torch.tensor(self.lr, dtype=torch.float64, device="cpu")
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on exactly where `state_dict` was taken.

        Raises:
            ValueError: tensors missing, unknown or of another shape; nothing is changed.
        """
        expected = self._expected_shapes(state)
        for name in expected.keys() | state.keys():
            if name not in state or name not in expected:
                rule = "missing from" if name in expected else "unknown in"
                raise ValueError(f"state: {name!r} is {rule} the segmenter's saved state")
            if state[name].shape != expected[name]:
                raise ValueError(
                    f"state: {name!r} should have shape {list(expected[name])}, got {list(state[name].shape)}"
                )
        self.segmenter.load_state_dict(
            {name: state[f"weights.{name}"] for name in self.segmenter.state_dict()}
        )
        self._optimizer.state.clear()
        for name, parameter in self._parameters.items():
            if (saved := state.get(f"momentum.{name}")) is not None:
                # In the parameter's own memory format: the fused update walks both in the same order.
                momentum = torch.empty_like(parameter.detach()).copy_(saved)
                self._optimizer.state[parameter]["momentum_buffer"] = momentum
        self._optimizer.param_groups[0]["lr"] = float(state["lr"])

    def _expected_shapes(self, state: dict[str, Tensor]) -> dict[str, torch.Size]:
        """Of all weights, and of the momentum where `state` has it: a parameter without gradient has none."""
        shapes = {f"weights.{name}": tensor.shape for name, tensor in self.segmenter.state_dict().items()}
        momentum = {f"momentum.{name}": parameter.shape for name, parameter in self._parameters.items()}
        shapes |= {name: shape for name, shape in momentum.items() if name in state}
        return shapes | {"lr": torch.Size()}


def segmentation_loss(
    logits: Tensor, labels: Tensor, ignore_index: int, class_weights: Tensor | None = None
) -> Tensor:
    """Cross entropy of logits [n, C, h, w], upsampled bilinearly (corners aligned) to the labels' size, with
    labels [n, H, W]; in float32.

    Each pixel counts `class_weights` [C] of its class times, or once. The sum over the pixels that are not
    ignored, divided by their number; 0 instead of torch's NaN where all are, so that NaN always means
    divergence.
    """
    rows = _upsampling(logits.shape[-2], labels.shape[-2], logits.device)
    cols = _upsampling(logits.shape[-1], labels.shape[-1], logits.device)
    upsampled = rows @ logits.float().contiguous() @ cols.T
    total = F.cross_entropy(
        upsampled, labels.long(), weight=class_weights, ignore_index=ignore_index, reduction="sum"
    )
    return total / (labels != ignore_index).sum().clamp(min=1)


@functools.lru_cache(maxsize=64)
def _upsampling(size: int, upsampled: int, device: torch.device) -> Tensor:
    """Linear interpolation of one axis as a matrix [upsampled, size].

    Two matrix products give what `interpolate` gives, four times as fast with their gradient on the CPU, and
    on CUDA with a gradient that is the same from run to run.
    """
    identity = torch.eye(size, device="cpu")[None, None]
    matrix = F.interpolate(identity, size=(upsampled, size), mode="bilinear", align_corners=True)
    return matrix[0, 0].to(device)


def train_on_regions(
    trainer: SegmenterTrainer,
    dataset: SegmentationData,
    regions: Tensor,
    pool: RegionPool,
    *,
    generator: torch.Generator,
) -> float:
    """The paper's one iteration: one pass over K new regions, a random crop around each, in batches.

    Every labelled region of `pool` that a crop shows takes part in the loss, not only the new ones.

    Args:
        regions: int64 [K], flat indices into the pool's grid, labelled already.

    Returns:
        the mean loss.

    Raises:
        FloatingPointError: the segmenter has diverged.
    """
    if not len(regions):
        raise ValueError("regions: expected at least one, got none")
    crop_size = _crop_size(trainer, dataset)
    order = torch.randperm(len(regions), generator=generator, device="cpu")
    crops = crops_around(regions.cpu()[order], pool.grid, crop_size, generator)
    return _train_pass(trainer, dataset, crops, pool, generator)


def train_epoch(
    trainer: SegmenterTrainer,
    dataset: SegmentationData,
    *,
    generator: torch.Generator,
    pool: RegionPool | None = None,
    crops: Tensor | None = None,
) -> float:
    """One epoch. The learning rate's decay is the caller's to ask for: `trainer.end_epoch()`.

    Without `pool`: one random crop of every image, with all its labels. With `pool`: `crops` of every image
    that has a labelled region, each around a random one of them, with the labels of labelled regions only.

    Args:
        crops: int64 [N], how many of each image, in random order among all; None: one.

    Returns:
        the mean loss.

    Raises:
        FloatingPointError: the segmenter has diverged.
    """
    crop_size = _crop_size(trainer, dataset)
    if pool is None:
        if not len(dataset):
            raise ValueError("dataset: expected at least one image, got none")
        images = torch.randperm(len(dataset), generator=generator, device="cpu")
        places = crops_anywhere(images, image_sizes(dataset)[images], crop_size, generator)
    else:
        regions = _labelled_regions(pool, crops, generator)
        places = crops_around(regions, pool.grid, crop_size, generator)
    return _train_pass(trainer, dataset, places, pool, generator)


def _crop_size(trainer: SegmenterTrainer, dataset: SegmentationData) -> tuple[int, int]:
    """The crop size, cut down to the image where it is larger."""
    (height, width), (image_height, image_width) = trainer.options.crop_size, dataset.image_size
    return min(height, image_height), min(width, image_width)


def _labelled_regions(pool: RegionPool, per_image: Tensor | None, generator: torch.Generator) -> Tensor:
    """Random labelled regions, int64 [n] flat indices: `per_image` [N] of each image that has any, or one;
    the images in random order."""
    labelled = pool.labelled.view(pool.grid.num_images, -1)
    images = labelled.any(dim=1).nonzero().squeeze(1)
    if not len(images):
        raise ValueError("pool: expected at least one labelled region, got none")
    if per_image is not None:
        images = images.repeat_interleave(per_image.to(images.device)[images])
    images = images[torch.randperm(len(images), generator=generator, device="cpu")]
    within = torch.multinomial(labelled[images].double(), 1, generator=generator).squeeze(1)
    return images * pool.grid.regions_per_image + within


def _train_pass(
    trainer: SegmenterTrainer,
    dataset: SegmentationData,
    crops: Crops,
    pool: RegionPool | None,
    generator: torch.Generator,
) -> float:
    """One pass over the crops. The loss is read once, at the end: nothing waits for the device in between."""
    n, crop_size = len(crops.image), _crop_size(trainer, dataset)
    device = trainer.device
    trainable = None if pool is None else functools.partial(pool.grid.mask, to_device(pool.labelled, device))
    on_device = crops.to(device)
    total = torch.zeros((), device=device)
    with dropout_from(generator, device):
        for first, last in _even_batches(n, trainer.options.batch_size):
            images, labels = dataset.batch(crops.image[first:last])
            images, labels = to_device(images, device), to_device(labels, device)
            batch = on_device.batch(first, last)
            rows, cols = positions(batch, crop_size)
            images, labels = cut(images, rows, cols), cut(labels, rows, cols)
            if trainable is not None:
                labels = labels.masked_fill(~trainable(batch.image, rows, cols), trainer.ignore_index)
            total += trainer.step(images, labels) * (last - first)
    return trainer.read_loss(total / n)


def _even_batches(n: int, batch_size: int) -> list[tuple[int, int]]:
    """As few batches as `batch_size` allows, of equal size give or take one: a small last batch would have
    poor batch statistics and as much weight as a full one."""
    count = math.ceil(n / batch_size)
    return list(itertools.pairwise(n * i // count for i in range(count + 1)))
