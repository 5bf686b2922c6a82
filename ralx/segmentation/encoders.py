"""Encoders: ResNets and MobileNetV2 under torchvision's parameter names, and a small one of its own."""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Encoder(Protocol):
    """Normalised images [N, 3, H, W] -> four maps at strides 4, 8, 16 and 32 with `channels` channels."""

    channels: tuple[int, int, int, int]

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]: ...


def conv3x3(inputs: int, outputs: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut (ResNet-18/34)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, downsample: nn.Module | None):
        super().__init__()
        self.conv1 = conv3x3(inputs, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return self.relu(x + shortcut)


class Bottleneck(nn.Module):
    """1×1, 3×3 (which has the stride, as in torchvision), 1×1 and a shortcut (ResNet-50)."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, downsample: nn.Module | None):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return self.relu(x + shortcut)


def _stage(
    block: type[BasicBlock] | type[Bottleneck], inputs: int, width: int, blocks: int, stride: int
) -> nn.Sequential:
    outputs = width * block.expansion
    downsample = None
    if stride != 1 or inputs != outputs:
        downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    layers = [block(inputs, width, stride, downsample)]
    layers += [block(outputs, width, 1, None) for _ in range(blocks - 1)]
    return nn.Sequential(*layers)


def initialise(module: nn.Module) -> None:
    """He initialisation of every convolution (fan out), as torchvision's ResNet has it."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class ResNet(nn.Module):
    """ResNet without its classifier (He et al. 2016), under torchvision's parameter names.

    forward: see `Encoder`.
    """

    classifier_only = ("fc.",)  # what torchvision's weight files hold beside it

    def __init__(self, block: type[BasicBlock] | type[Bottleneck], blocks: tuple[int, int, int, int]):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        e = block.expansion
        self.layer1 = _stage(block, 64, 64, blocks[0], 1)
        self.layer2 = _stage(block, 64 * e, 128, blocks[1], 2)
        self.layer3 = _stage(block, 128 * e, 256, blocks[2], 2)
        self.layer4 = _stage(block, 256 * e, 512, blocks[3], 2)
        self.channels = (64 * e, 128 * e, 256 * e, 512 * e)
        initialise(self)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        c2 = self.layer1(x)
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return c2, c3, c4, self.layer4(c4)


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

    channels = (24, 32, 96, 320)
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


class SmallEncoder(nn.Module):
    """A ResNet to train from scratch on two CPU cores: 3×3 stem, one basic block a level.

    forward: see `Encoder`.
    """

    def __init__(self) -> None:
        super().__init__()
        stem, channels = 24, (32, 64, 96, 128)
        self.conv1 = conv3x3(3, stem, stride=2)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(BasicBlock, stem, channels[0], 1, 2)
        self.layer2 = _stage(BasicBlock, channels[0], channels[1], 1, 2)
        self.layer3 = _stage(BasicBlock, channels[1], channels[2], 1, 2)
        self.layer4 = _stage(BasicBlock, channels[2], channels[3], 1, 2)
        self.channels = channels
        initialise(self)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        c2 = self.layer1(self.relu(self.bn1(self.conv1(x))))
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return c2, c3, c4, self.layer4(c4)
