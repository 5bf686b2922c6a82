"""What holds of all regions, be they tiles of a grid or of a label map, against one pixel at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from noise_maps import noise_map

from ralx.regions import CanvasGrid, Oracle, RegionGrid, RegionPool
from ralx.segmentation.augmentation import crops_anywhere, cut, positions


def generator(seed):
    return torch.Generator().manual_seed(seed)


@st.composite
def grids(draw):
    region = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    image = draw(st.integers(region[0], 24)), draw(st.integers(region[1], 24))
    return RegionGrid(3, image, region, draw(st.sampled_from(["drop", "keep"])))


@st.composite
def canvases(draw):
    grid = draw(grids())
    sides = (st.integers(part, whole) for part, whole in zip(grid.region_size, grid.image_size, strict=True))
    sizes = draw(st.lists(st.tuples(*sides), min_size=3, max_size=3))
    return CanvasGrid(3, grid.image_size, grid.region_size, grid.edge, sizes=torch.tensor(sizes))


maps = st.builds(
    noise_map,
    st.integers(0, 99),
    st.just(3),
    st.tuples(st.integers(1, 8), st.integers(1, 8)),
    st.integers(2, 9),
    st.sampled_from([torch.uint8, torch.int16, torch.int32, torch.int64]),
)
KINDS = pytest.mark.parametrize("kind", [grids(), canvases(), maps], ids=["grid", "canvas", "label map"])


def region_of_pixel(regions):
    """int64 [N, H, W], -1 in no region."""
    if not isinstance(regions, RegionGrid):
        first = torch.arange(regions.num_images)[:, None, None] * regions.regions_per_image
        return torch.where(regions.labels < 0, -1, regions.labels.long() + first)
    (height, width), (rh, rw) = regions.image_size, regions.region_size
    tops, lefts = (
        range(0, whole if regions.edge == "keep" else whole - part + 1, part)
        for whole, part in ((height, rh), (width, rw))
    )
    ids, count = torch.full((regions.num_images, height, width), -1), 0
    for image in range(regions.num_images):
        for top in tops:
            for left in lefts:
                ids[image, top : top + rh, left : left + rw] = count
                count += 1
    if isinstance(regions, CanvasGrid):
        for image, (high, wide) in zip(ids, regions.sizes.tolist(), strict=True):
            image[high:], image[:, wide:] = -1, -1
        whole = (torch.bincount(ids[ids >= 0], minlength=count) == rh * rw) | (regions.edge == "keep")
        ids[(ids >= 0) & ~whole[ids]] = -1
    return ids


@KINDS
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_boxes_and_pixels_of_every_region(kind, data):
    regions = data.draw(kind)
    ids, every = region_of_pixel(regions), torch.arange(regions.num_regions)
    assert regions.num_regions == 3 * regions.regions_per_image > ids.max()
    assert torch.equal(regions.num_pixels(every), ids[ids >= 0].bincount(minlength=len(every)))
    boxes = regions.boxes(every)
    for index, (image, top, left, height, width) in enumerate(torch.stack(boxes, 1).tolist()):
        inside = (ids == index).nonzero()
        assert image == index // regions.regions_per_image
        if len(inside):
            assert inside.amin(0).tolist() == [image, top, left]
            assert inside.amax(0).tolist() == [image, top + height - 1, left + width - 1]
        else:
            assert (top, left, height, width) == (0, 0, 0, 0)
    assert regions.box_size == (boxes.height.max(), boxes.width.max())
    if isinstance(regions, RegionGrid):
        pixels = regions.sizes_of(torch.arange(3)).prod(1).sum()
        assert regions.dropped_share == pytest.approx(1 - int((ids >= 0).sum()) / int(pixels))


@KINDS
@given(data=st.data(), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_pixel_mask_and_labels_of_any_regions(kind, data, seed):
    regions = data.draw(kind)
    ids, pool = region_of_pixel(regions), RegionPool(regions)
    chosen = pool.draw_candidates(regions.num_regions // 2 + 1, 1, generator(seed)).flatten()
    pool.label(chosen)
    images = torch.tensor([2, 0, 2, 1])
    mask = pool.pixel_mask(images)
    assert torch.equal(mask, torch.isin(ids, chosen)[images])
    crop = tuple(data.draw(st.integers(1, whole)) for whole in regions.image_size)
    rows, cols = positions(crops_anywhere(images, regions.sizes_of(images), crop, generator(seed)), crop)
    assert torch.equal(regions.mask(pool.labelled, images, rows, cols), cut(mask, rows, cols))

    truth = torch.randint(0, 12, ids.shape, generator=generator(seed), dtype=torch.uint8)
    tiles = Oracle(lambda images: truth[images], regions).label(chosen)
    assert tiles.shape == (len(chosen), *regions.box_size) and tiles.dtype == torch.uint8
    for tile, index, top, left in zip(tiles, chosen.tolist(), *regions.boxes(chosen)[1:3], strict=True):
        image, row, col = (ids == index).nonzero().unbind(1)
        assert torch.equal(tile[row - top, col - left], truth[image, row, col])
        assert (tile != 255).sum() == len(row)
