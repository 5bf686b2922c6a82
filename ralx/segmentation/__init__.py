"""Segmenters: networks by name, their weights, training on labelled regions, and evaluation."""

from ralx.segmentation.build import SEGMENTERS, build_segmenter, load_weights
from ralx.segmentation.cuda_graph import CudaGraph
from ralx.segmentation.inference import SegmentationData, dropout_layers, evaluate, mc_logits, predict
from ralx.segmentation.modes import Precision, autocast, normalise
from ralx.segmentation.networks import FPN
from ralx.segmentation.outputs import logits_of
from ralx.segmentation.training import SegmenterTrainer, TrainingConfig, train_epoch, train_on_regions

__all__ = [
    "FPN",
    "SEGMENTERS",
    "CudaGraph",
    "Precision",
    "SegmentationData",
    "SegmenterTrainer",
    "TrainingConfig",
    "autocast",
    "build_segmenter",
    "dropout_layers",
    "evaluate",
    "load_weights",
    "logits_of",
    "mc_logits",
    "normalise",
    "predict",
    "train_epoch",
    "train_on_regions",
]
