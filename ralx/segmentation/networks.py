"""Feature pyramid networks: an encoder with four levels, a top-down pathway, and a head whose logits stay at
quarter resolution. Logits are never upsampled here: the ops and the loss do that.

Every network has `encode` (images -> what the classifier reads, never random) and `classify` (the logits,
with dropout where it is on), so that MC passes run `encode` once.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ralx.segmentation.encoders import Encoder, conv3x3


def _resize(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=True)


# Width of the top-down pathway, and of each of the four levels that are concatenated, as published.
_PYRAMID, _LEVEL = 256, 128
_SMALL_PYRAMID = 48


class _Network(nn.Module):
    encode: Callable[[Tensor], Tensor]
    classifier: nn.Module
    dropout: nn.Module

    def classify(self, features: Tensor) -> Tensor:
        """What `encode` gave -> logits, with dropout where it is on."""
        return self.classifier(self.dropout(features))

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.encode(images))


class FPN(_Network):
    """Feature pyramid network (Lin et al. 2017) with the head of the paper's authors: every level is
    smoothed, brought to quarter resolution and concatenated with the others.

    Args:
        encoder: see `Encoder`.
        num_classes: C.
        dropout: rate of the dropout before the classifier, in training and in MC passes.

    forward: normalised images float [N, 3, H, W] -> logits [N, C, ceil(H/4), ceil(W/4)].
    """

    def __init__(self, encoder: Encoder, num_classes: int, *, dropout: float = 0.5):
        super().__init__()
        self.encoder = encoder
        self.lateral = nn.ModuleList(nn.Conv2d(c, _PYRAMID, 1) for c in encoder.channels)
        self.smooth = nn.ModuleList(
            nn.Sequential(
                conv3x3(_PYRAMID, _PYRAMID, bias=True),
                nn.ReLU(inplace=True),
                conv3x3(_PYRAMID, _LEVEL, bias=True),
                nn.ReLU(inplace=True),
            )
            for _ in encoder.channels
        )
        # The finest level is at quarter resolution; the others are upsampled to it and convolved once more.
        self.upsampled = nn.ModuleList(conv3x3(_LEVEL, _LEVEL, bias=True) for _ in encoder.channels[1:])
        self.dropout = nn.Dropout(dropout)
        self.classifier = conv3x3(len(encoder.channels) * _LEVEL, num_classes, bias=True)

    def encode(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, 512, ceil(H/4), ceil(W/4)], without randomness."""
        maps = self.encoder(images)
        levels = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for i in range(len(levels) - 2, -1, -1):
            levels[i] = levels[i] + _resize(levels[i + 1], levels[i])
        levels = [smooth(x) for smooth, x in zip(self.smooth, levels, strict=True)]
        coarse = [conv(_resize(x, levels[0])) for conv, x in zip(self.upsampled, levels[1:], strict=True)]
        return torch.cat([levels[0], *coarse], dim=1)


class SmallFPN(_Network):
    """Feature pyramid network for two CPU cores: one narrow top-down pathway, whose finest map is classified.

    Dropout drops whole channels. The classifier is 1×1, so that this is the same as dropping its weights,
    which is how Gal & Ghahramani (2016) derive MC dropout; a mask per pixel would cost more than the pass.

    Args: as of `FPN`.

    forward: normalised images float [N, 3, H, W] -> logits [N, C, ceil(H/4), ceil(W/4)].
    """

    def __init__(self, encoder: Encoder, num_classes: int, *, dropout: float = 0.2):
        super().__init__()
        self.encoder = encoder
        channels = _SMALL_PYRAMID
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, channels, 1, bias=False), nn.BatchNorm2d(channels))
            for c in encoder.channels
        )
        self.relu = nn.ReLU(inplace=True)
        self.smooth = nn.Sequential(
            conv3x3(channels, channels), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def encode(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, 48, ceil(H/4), ceil(W/4)], without randomness."""
        levels = [lateral(x) for lateral, x in zip(self.lateral, self.encoder(images), strict=True)]
        top = self.relu(levels[-1])
        for level in reversed(levels[:-1]):
            top = self.relu(level + _resize(top, level))
        return self.smooth(top)
