"""Which regions of some images is a segmenter least sure of?

python examples/featurizer.py [IMAGE ...]

Without images it makes four street scenes. The segmenter is a stand-in that has learned nothing: put yours in its
place, any module that maps images [N, 3, H, W] to logits [N, C, h, w].
"""

import sys

import numpy as np
import torch
from PIL import Image

import ralx
from ralx.datasets import synthetic_dataset

SIZE, REGION_SIZE = (360, 480), (90, 80)  # pixels: height, width


def read(paths: list[str]) -> torch.Tensor:
    """uint8 [N, 3, H, W]: the images of these files, or street scenes."""
    if not paths:
        names = [f"street-{number}" for number in range(4)]
        return synthetic_dataset(names, SIZE).images(torch.arange(4))
    images = [Image.open(path).convert("RGB").resize(SIZE[::-1]) for path in paths]
    return torch.from_numpy(np.stack([np.array(image) for image in images])).permute(0, 3, 1, 2)


torch.manual_seed(0)
images = read(sys.argv[1:])
segmenter = torch.nn.Conv2d(3, 11, kernel_size=8, stride=4, padding=2)

featurizer = ralx.Featurizer(segmenter, REGION_SIZE)
features = featurizer(images / 255)

sure_of_none = features.entropy_sum.flatten().argsort(descending=True)[:5]
print(f"{features.entropy_sum.numel()} regions; the segmenter is least sure of these:")
for index in sure_of_none.tolist():
    image, region = divmod(index, features.entropy_sum.shape[1])
    row, col = divmod(region, SIZE[1] // REGION_SIZE[1])
    entropy = features.entropy_sum[image, region] / (REGION_SIZE[0] * REGION_SIZE[1])
    share, label = features.class_hist[image, region].max(0)
    print(
        f"image {image}, row {row}, column {col}: {entropy:.2f} nats a pixel, {share:.0%} predicted as class {label}"
    )
