"""Encoders: ResNets and MobileNetV2 under torchvision's parameter names, and a small one of its own."""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Encoder(Protocol):
    """Normalised images [N, 3, H, W] -> four maps at strides 4, 8, 16 and 32 with `channels` channels."""

    channels: tuple[int, ...]

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]: ...


def conv3x3(inputs: int, outputs: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)


class _Residual(nn.Module):
    """Convolutions, a batch norm after each, and a shortcut, which has one where the map's shape changes."""

    def __init__(self, inputs: int, stride: int, *convs: nn.Conv2d):
        super().__init__()
        outputs, self._depth = convs[-1].out_channels, len(convs)
        for i, conv in enumerate(convs, start=1):
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", nn.BatchNorm2d(conv.out_channels))
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        for i in range(1, self._depth + 1):
            x = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x))
            x = self.relu(x if i < self._depth else x + shortcut)
        return x


class BasicBlock(_Residual):
    """Two 3×3 convolutions and a shortcut (ResNet-18/34)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__(inputs, stride, conv3x3(inputs, width, stride), conv3x3(width, width))


class Bottleneck(_Residual):
    """1×1, 3×3 (which has the stride, as in torchvision), 1×1 and a shortcut (ResNet-50)."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int):
        first = nn.Conv2d(inputs, width, 1, bias=False)
        last = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        super().__init__(inputs, stride, first, conv3x3(width, width, stride), last)


def _stage(
    block: type[BasicBlock] | type[Bottleneck], inputs: int, width: int, blocks: int, stride: int
) -> nn.Sequential:
    more = (block(width * block.expansion, width, 1) for _ in range(blocks - 1))
    return nn.Sequential(block(inputs, width, stride), *more)


def initialise(module: nn.Module) -> None:
    """He initialisation of every convolution (fan out), as torchvision's ResNet has it."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class ResNet(nn.Module):
    """ResNet without its classifier (He et al. 2016), under torchvision's parameter names.

    A `stem` of stride 2 takes the place of the 7×7 convolution and the pooling, whose stride is the first
    stage's then.

    forward: see `Encoder`.
    """

    classifier_only: tuple[str, ...] = ("fc.",)  # what torchvision's weight files hold beside it

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: tuple[int, int, int, int],
        widths: tuple[int, int, int, int] = (64, 128, 256, 512),
        stem: nn.Conv2d | None = None,
    ):
        super().__init__()
        self.conv1 = stem or nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(self.conv1.out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if stem else nn.MaxPool2d(3, stride=2, padding=1)
        self.channels = c2, c3, c4, _ = tuple(width * block.expansion for width in widths)
        self.layer1 = _stage(block, self.conv1.out_channels, widths[0], blocks[0], 2 if stem else 1)
        self.layer2 = _stage(block, c2, widths[1], blocks[1], 2)
        self.layer3 = _stage(block, c3, widths[2], blocks[2], 2)
        self.layer4 = _stage(block, c4, widths[3], blocks[3], 2)
        initialise(self)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        c2 = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return c2, c3, c4, self.layer4(c4)


class SmallEncoder(ResNet):
    """A ResNet to train from scratch on two CPU cores: 3×3 stem, one basic block a level.

    forward: see `Encoder`.
    """

    classifier_only = ()

    def __init__(self) -> None:
        super().__init__(BasicBlock, (1, 1, 1, 1), (32, 64, 96, 128), stem=conv3x3(3, 24, stride=2))


def _conv_norm(x: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
    """norm(conv(x)). Where running statistics normalise, the convolution does that too, with scaled weights:
    a pass less over maps that are large for their few operations. A ResNet on the CPU gains nothing by it."""
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    if norm.training or norm.running_mean is None or norm.running_var is None:
        return norm(conv(x))
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    weight, bias = conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
    return F.conv2d(x, weight, bias, conv.stride, padding=conv.kernel_size[0] // 2, groups=conv.groups)


class ConvNormReLU6(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1):
        super().__init__(
            nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU6(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        conv, norm, relu6 = self
        return relu6(_conv_norm(x, conv, norm))


class InvertedResidual(nn.Module):
    """1×1 to `expansion` times the channels, 3×3 of each channel by itself, 1×1 back without a nonlinearity;
    a shortcut where nothing changes its shape."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int):
        super().__init__()
        width = inputs * expansion
        expand = [ConvNormReLU6(inputs, width, 1)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *expand,
            ConvNormReLU6(width, width, 3, stride, groups=width),
            nn.Conv2d(width, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        *layers, conv, norm = self.conv
        y = x
        for layer in layers:
            y = layer(y)
        y = _conv_norm(y, conv, norm)
        return x + y if self.shortcut else y


class MobileNetV2(nn.Module):
    """MobileNetV2 without its classifier (Sandler et al. 2018), under torchvision's parameter names: with
    ImageNet's weights a network that a CPU can train.

    forward: see `Encoder`.
    """

    channels: tuple[int, ...] = (24, 32, 96, 320)
    classifier_only = ("features.18.", "classifier.")
    # Expansion, channels, blocks and the first one's stride of every stage.
    _STAGES = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    _LAST_OF_STRIDE = (3, 6, 13, 17)  # of `features`

    def __init__(self) -> None:
        super().__init__()
        inputs = 32
        layers: list[nn.Module] = [ConvNormReLU6(3, inputs, 3, 2)]
        for expansion, outputs, blocks, first_stride in self._STAGES:
            for i in range(blocks):
                layers.append(InvertedResidual(inputs, outputs, first_stride if i == 0 else 1, expansion))
                inputs = outputs
        self.features = nn.Sequential(*layers)
        initialise(self)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        maps = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self._LAST_OF_STRIDE:
                maps.append(x)
        c2, c3, c4, c5 = maps
        return c2, c3, c4, c5
