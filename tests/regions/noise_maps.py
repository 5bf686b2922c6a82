"""Label maps of noise."""

import torch

from ralx.regions.label_map import RegionMap


def noise_map(seed=0, images=3, size=(7, 9), regions=6, dtype=torch.int32):
    """Every pixel in a random region, or in none; ids that are a multiple of 4 are empty in image 0."""
    low = 0 if dtype == torch.uint8 else -2
    labels = torch.randint(low, regions, (images, *size), generator=torch.Generator().manual_seed(seed))
    labels[0][labels[0] % 4 == 0] = 1
    labels[1, 0, 0] = 0  # not everything is in no region
    return RegionMap(labels.to(dtype), regions)
