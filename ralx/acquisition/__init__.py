"""Acquisition functions: how much a region is worth labelling."""

from ralx.acquisition.batch import (
    BATCH_ACQUISITIONS,
    BatchAcquisition,
    Step,
    class_balanced,
    k_centre,
    stratified,
)
from ralx.acquisition.scores import ACQUISITIONS, Acquisition, bald, best, entropy, pick, score_sum, uniform

__all__ = [
    "ACQUISITIONS",
    "BATCH_ACQUISITIONS",
    "Acquisition",
    "BatchAcquisition",
    "Step",
    "bald",
    "best",
    "class_balanced",
    "entropy",
    "k_centre",
    "pick",
    "score_sum",
    "stratified",
    "uniform",
]
