"""Which regions of some images is a segmenter least sure of?

python examples/featurizer.py [IMAGE ...]

Without images it makes four street scenes. The segmenter stands in for yours and has learned nothing: any
module will do that maps images [N, 3, H, W] to logits [N, C, h, w].
"""

import sys

import numpy as np
import torch
from PIL import Image

import ralx
from ralx.datasets import synthetic_dataset

IMAGE_SIZE, REGION_SIZE = (360, 480), (90, 80)  # pixels: height, width


def read(paths: list[str]) -> torch.Tensor:
    """The images of these files, or street scenes: uint8 [N, 3, H, W]."""
    if not paths:
        names = [f"street-{number}" for number in range(4)]
        return synthetic_dataset(names, IMAGE_SIZE).images(torch.arange(4))
    images = [Image.open(path).convert("RGB").resize(IMAGE_SIZE[::-1]) for path in paths]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


torch.manual_seed(0)
images = read(sys.argv[1:]) / 255
segmenter = torch.nn.Conv2d(3, 11, kernel_size=8, stride=4, padding=2)

featurizer = ralx.Featurizer(segmenter, REGION_SIZE)
features = featurizer(images)  # of all regions [N, R]

height, width = REGION_SIZE
entropies = features.entropy_sum / (height * width)  # nats a pixel
print(f"{entropies.numel()} regions. The segmenter is least sure of these:")
for index in entropies.flatten().argsort(descending=True)[:5].tolist():
    image, region = divmod(index, entropies.shape[1])
    row, col = divmod(region, IMAGE_SIZE[1] // width)
    share, label = features.class_hist[image, region].max(0)
    where = f"image {image}, row {row}, column {col}"
    print(f"{where}: {entropies[image, region]:.3f} nats a pixel, {share:.0%} predicted as class {label}")
