"""A data set in memory and the smallest segmenters that behave like real ones."""

import torch
from torch import Tensor, nn

IGNORE = 255


class TinyDataset:
    """Images whose colour tells the class: class c is c/C of full brightness, plus a little noise."""

    ignore_index = IGNORE

    def __init__(self, num_images: int = 6, image_size: tuple[int, int] = (24, 32), num_classes: int = 3):
        generator = torch.Generator().manual_seed(1)
        self.classes = tuple(f"class{c}" for c in range(num_classes))
        self.image_size = image_size
        coarse = torch.randint(num_classes, (num_images, 1, 3, 4), generator=generator).float()
        labels = nn.functional.interpolate(coarse, size=image_size)[:, 0].to(torch.uint8)
        bright = labels[:, None].float() * (200 / num_classes) + 20
        noise = torch.randint(20, (num_images, 3, *image_size), generator=generator)
        self.image_data = (bright + noise).to(torch.uint8)
        self.label_data = labels

    def __len__(self) -> int:
        return len(self.label_data)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.image_data[index], self.label_data[index]


class TinySegmenter(nn.Module):
    """Two convolutions with batch norm and dropout; logits at quarter resolution."""

    def __init__(self, num_classes: int = 3, dropout: float = 0.2):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4)
        self.bn = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(8, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.bn(self.conv(images)).relu()))
