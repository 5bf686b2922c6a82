"""ralx: learn which image regions to label.

The ops (`region_features`, `kl_histogram`, `bald`, `confusion_matrix`) and `Featurizer` serve anyone's
active learning; `ralx-train` runs the whole system of "Reinforced Active Learning for Image Segmentation"
(ICLR 2020).
"""

from ralx.support import interrupts, threads  # noqa: F401, I001  # before torch, which the others import

from ralx.features import Featurizer
from ralx.ops import (
    BaldAccumulator,
    BaldScores,
    BuildInfo,
    RegionFeatures,
    ScoredRegionFeatures,
    bald,
    build_info,
    confusion_matrix,
    kl_histogram,
    region_features,
)
from ralx.version import __version__

__all__ = [
    "BaldAccumulator",
    "BaldScores",
    "BuildInfo",
    "Featurizer",
    "RegionFeatures",
    "ScoredRegionFeatures",
    "__version__",
    "bald",
    "build_info",
    "confusion_matrix",
    "kl_histogram",
    "region_features",
]
