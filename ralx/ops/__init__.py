"""The fused ops: argument checks and torch registration in Python, the numbers made in C++ (ralx._C)."""

import torch  # noqa: F401  first: ralx._C then shares torch's OpenMP runtime instead of bringing a second one

from ralx.ops.bald import BaldAccumulator, BaldScores, bald
from ralx.ops.confusion_matrix import confusion_matrix
from ralx.ops.kl_histogram import kl_histogram
from ralx.ops.region_features import RegionFeatures, ScoredRegionFeatures, region_features
from ralx.ops.registration import BuildInfo, build_info

__all__ = [
    "BaldAccumulator",
    "BaldScores",
    "BuildInfo",
    "RegionFeatures",
    "ScoredRegionFeatures",
    "bald",
    "build_info",
    "confusion_matrix",
    "kl_histogram",
    "region_features",
]
