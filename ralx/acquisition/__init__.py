"""Acquisition functions: how much a region is worth labelling."""

from ralx.acquisition.batch import BatchAcquisition, Step, class_balanced, k_centre, stratified
from ralx.acquisition.methods import ACQUISITIONS, BATCH_ACQUISITIONS
from ralx.acquisition.scores import Acquisition, bald, best, entropy, pick, score_sum, uniform

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
