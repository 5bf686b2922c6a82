"""Crops stay inside the image, hold their region's centre, and show what slicing would show."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ralx.regions import RegionGrid
from ralx.segmentation.augmentation import Crops, crops_anywhere, crops_around, cut, positions


@st.composite
def grids_with_crops(draw):
    region = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    image = draw(st.integers(region[0], 40)), draw(st.integers(region[1], 40))
    crop = draw(st.integers(1, image[0])), draw(st.integers(1, image[1]))
    return RegionGrid(3, image, region, draw(st.sampled_from(["drop", "keep"]))), crop


@given(grids_with_crops(), st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_crops_around_regions_lie_inside_and_hold_the_centre(case, seed):
    grid, crop_size = case
    regions = torch.arange(grid.num_regions)
    crops = crops_around(regions, grid, crop_size, torch.Generator().manual_seed(seed))
    image, row, col = grid.split(regions)
    assert torch.equal(crops.image, image)
    for start, cell, region, crop, whole in zip(
        (crops.top, crops.left), (row, col), grid.region_size, crop_size, grid.image_size, strict=True
    ):
        first, last = cell * region, (cell * region + region).clamp(max=whole)  # cut at the border
        centre = first + (last - first) // 2
        assert (start >= 0).all() and (start + crop <= whole).all()
        assert (start <= centre).all() and (centre < start + crop).all()


def test_crops_reach_every_position_and_both_flips():
    grid = RegionGrid(1, (12, 12), (4, 4))
    regions = torch.full((4000,), 4)  # rows and columns 4..7, centre 6
    crops = crops_around(regions, grid, (5, 3), torch.Generator().manual_seed(0))
    assert crops.top.unique().tolist() == [2, 3, 4, 5, 6]
    assert crops.left.unique().tolist() == [4, 5, 6]
    counts = crops.left.bincount()[4:].float() / 4000
    torch.testing.assert_close(counts, torch.full((3,), 1 / 3), atol=0.05, rtol=0)
    assert crops.flip.float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_crops_anywhere_are_uniform_over_the_image():
    images = torch.zeros(4000, dtype=torch.int64)
    crops = crops_anywhere(
        images, torch.tensor([[7, 5]]).expand(len(images), 2), (4, 5), torch.Generator().manual_seed(0)
    )
    counts = crops.top.bincount(minlength=4).float() / 4000
    torch.testing.assert_close(counts, torch.full((4,), 1 / 4), atol=0.05, rtol=0)
    assert not crops.left.any()


def test_cut_equals_slicing():
    images = torch.randint(256, (3, 3, 10, 12), dtype=torch.uint8)
    crops = Crops(
        torch.arange(3), torch.tensor([0, 3, 5]), torch.tensor([6, 0, 2]), torch.tensor([False, True, False])
    )
    rows, cols = positions(crops, (5, 6))
    expected = torch.stack([images[0, :, 0:5, 6:12], images[1, :, 3:8, 0:6].flip(2), images[2, :, 5:10, 2:8]])
    assert torch.equal(cut(images, rows, cols), expected)
    assert torch.equal(cut(images[:, 0], rows, cols), expected[:, 0])
