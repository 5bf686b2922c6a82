"""A tiny data set, segmenter and generator for every test."""

import pytest
import torch
from tiny_segmentation import TinyDataset, TinySegmenter


@pytest.fixture
def dataset() -> TinyDataset:
    return TinyDataset()


@pytest.fixture
def segmenter() -> TinySegmenter:
    torch.manual_seed(0)
    return TinySegmenter()


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)
