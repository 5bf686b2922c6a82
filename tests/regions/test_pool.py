"""The grid's indices, the pool's candidates and labelled regions, and the oracle."""

import pytest
import torch

from ralx.regions import Oracle, Region, RegionGrid, RegionPool

# 4 × 6 regions an image, remainders both ways.
GRID = RegionGrid(num_images=5, image_size=(37, 50), region_size=(9, 8))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_grid_of_the_papers_data_sets():
    camvid = RegionGrid(100, (360, 480), (90, 80))
    assert (camvid.rows, camvid.cols, camvid.regions_per_image, camvid.num_regions) == (4, 6, 24, 2400)
    assert camvid.dropped_share == 0
    cityscapes = RegionGrid(150, (1024, 2048), (128, 128))
    assert (cityscapes.rows, cityscapes.cols, cityscapes.regions_per_image) == (8, 16, 128)


def test_dropped_share_counts_the_remainder():
    assert GRID.dropped_share == pytest.approx(1 - (36 * 48) / (37 * 50))


def test_split_turns_flat_indices_back():
    image, row, col = GRID.split(torch.tensor([[0, 23], [24, 4 * 24 + 2 * 6 + 5]]))
    assert image.tolist() == [[0, 0], [1, 4]]
    assert row.tolist() == [[0, 3], [0, 2]]
    assert col.tolist() == [[0, 5], [0, 5]]
    assert GRID.region(4 * 24 + 2 * 6 + 5) == Region(4, 2, 5)


def test_a_region_as_large_as_the_image_is_the_only_one():
    assert RegionGrid(3, (37, 50), (37, 50)).num_regions == 3


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((5, (37, 50), (38, 8)), ValueError, r"must not exceed the image, got \(38, 8\) for .* \(37, 50\)"),
        ((5, (37, 50), (0, 8)), ValueError, r"region_size must be .* at least 1, got \(0, 8\)"),
        ((5, (37,), (9, 8)), ValueError, r"image_size must be two integers .* got \(37,\)"),
        ((5, (37, 50), 9), TypeError, r"region_size must be two integers .* got 9"),
        ((5, (37, 50), (9, 8), "cut"), ValueError, "edge must be 'drop' or 'keep', got 'cut'"),
        ((-1, (37, 50), (9, 8)), ValueError, r"num_images must be in 0\.\.\d+, got -1"),
        ((True, (37, 50), (9, 8)), TypeError, r"num_images must be an integer, got True"),
    ],
)
def test_grid_rejects(arguments, error, match):
    with pytest.raises(error, match=match):
        RegionGrid(*arguments)


def test_split_rejects_indices_outside_the_grid():
    with pytest.raises(ValueError, match=r"regions must lie in 0\.\.119, got 3\.\.120"):
        GRID.split(torch.tensor([3, 120]))
    with pytest.raises(ValueError, match=r"got -1\.\.3"):
        GRID.split(torch.tensor([3, -1]))
    with pytest.raises(TypeError, match=r"regions must be an integer tensor .* got torch\.float32 tensor"):
        GRID.split(torch.tensor([3.0]))
    with pytest.raises(TypeError, match="got list"):
        GRID.split([3])


def test_candidates_are_disjoint_unlabelled_pools():
    pool = RegionPool(GRID)
    labelled = torch.arange(0, 120, 3)
    pool.label(labelled)
    candidates = pool.draw_candidates(6, 10, generator())
    assert candidates.shape == (6, 10) and candidates.dtype == torch.int64
    assert candidates.unique().numel() == 60
    assert not torch.isin(candidates, labelled).any()


def test_candidates_are_uniform_over_regions():
    # One image is nearly used up: its last region must come up as often as any other. Drawing images first,
    # as the published code does, would draw it 24 times as often.
    pool = RegionPool(RegionGrid(2, (36, 48), (9, 8)))
    pool.label(torch.arange(23))
    draws, rng = 4000, generator()
    counts = torch.zeros(48)
    for _ in range(draws):
        counts[pool.draw_candidates(1, 5, rng).flatten()] += 1
    expected = draws * 5 / 25
    assert counts[:23].sum() == 0
    assert (counts[23:] - expected).abs().max() < 5 * (expected * 0.8) ** 0.5


def test_candidates_of_few_images_come_from_no_more_images_than_needed():
    pool = RegionPool(RegionGrid(50, (36, 48), (9, 8)))
    pool.label(torch.arange(0, 1200, 2))  # 12 left in each image
    rng, seen = generator(), set()
    for _ in range(20):
        candidates = pool.draw_candidates(5, 6, rng, few_images=True)
        images = (candidates // 24).unique()
        assert candidates.shape == (5, 6) and candidates.unique().numel() == 30
        assert not pool.labelled[candidates].any()
        assert len(images) <= 3  # 2 hold 24 of the 30
        seen.update(images.tolist())
    assert len(seen) > 20, "always the same images"


def test_candidates_of_few_images_never_take_all_that_the_images_hold():
    pool = RegionPool(RegionGrid(3, (4, 6), (2, 2)))  # 6 regions an image
    for seed in range(9):
        candidates = pool.draw_candidates(2, 3, generator(seed), few_images=True)
        assert len((candidates // 6).unique()) == 2


def test_candidates_of_few_images_when_every_region_is_needed():
    pool = RegionPool(GRID)
    assert pool.draw_candidates(6, 20, generator(), few_images=True).unique().numel() == 120


def test_the_same_generator_state_draws_the_same_candidates():
    pool = RegionPool(GRID)
    assert torch.equal(pool.draw_candidates(4, 5, generator(7)), pool.draw_candidates(4, 5, generator(7)))
    assert not torch.equal(pool.draw_candidates(4, 5, generator(7)), pool.draw_candidates(4, 5, generator(8)))


def test_pools_shorten_when_regions_run_out():
    pool = RegionPool(GRID)
    pool.label(torch.arange(100))
    assert pool.draw_candidates(6, 10, generator()).shape == (6, 3)  # 20 left: 20 // 6
    pool.label(torch.arange(100, 117))
    last = pool.draw_candidates(6, 10, generator())
    assert last.shape == (3, 1) and sorted(last.flatten().tolist()) == [117, 118, 119]
    pool.label(last.flatten())
    with pytest.raises(ValueError, match="no region is left to draw from: all 120 are labelled"):
        pool.draw_candidates(6, 10, generator())


@pytest.mark.parametrize("sizes", [(0, 5), (5, 0)])
def test_draw_rejects_empty_sizes(sizes):
    expected = f"query_size and pool_size must be >= 1, got {sizes[0]} and {sizes[1]}"
    with pytest.raises(ValueError, match=expected):
        RegionPool(GRID).draw_candidates(*sizes, generator())


def test_labelling_moves_regions_and_keeps_their_order():
    pool = RegionPool(GRID)
    assert pool.num_labelled == 0 and pool.unlabelled.all()
    pool.label(torch.tensor([5, 2]))
    pool.label(torch.tensor([90]))
    assert pool.num_labelled == 3
    assert pool.order.tolist() == [5, 2, 90]
    assert pool.labelled.nonzero().flatten().tolist() == [2, 5, 90]
    assert torch.equal(pool.labelled, ~pool.unlabelled)


@pytest.mark.parametrize(
    ("regions", "match"),
    [
        ([7, 8, 7], r"regions must be distinct, got \[7\] more than once"),
        ([8, 5], r"regions must be unlabelled, got \[5\], labelled already"),
        ([8, 120], r"regions must lie in 0\.\.119, got 8\.\.120"),
    ],
)
def test_a_rejected_labelling_changes_nothing(regions, match):
    pool = RegionPool(GRID)
    pool.label(torch.tensor([5]))
    with pytest.raises(ValueError, match=match):
        pool.label(torch.tensor(regions))
    assert pool.order.tolist() == [5] and pool.labelled.sum() == 1


def test_pixel_mask_is_true_inside_labelled_regions_only():
    pool = RegionPool(GRID)
    pool.label(torch.tensor([24 + 2 * 6 + 3, 4 * 24]))  # image 1 (row 2, col 3), image 4 (row 0, col 0)
    expected = torch.zeros(3, 37, 50, dtype=torch.bool)
    expected[0, 0:9, 0:8] = True
    expected[2, 18:27, 24:32] = True
    assert torch.equal(pool.pixel_mask(torch.tensor([4, 0, 1])), expected)


def test_pixel_mask_covers_all_but_the_remainder_when_everything_is_labelled():
    pool = RegionPool(GRID)
    pool.label(torch.arange(120))
    mask = pool.pixel_mask(torch.arange(5))
    assert mask[:, :36, :48].all() and not mask[:, 36:].any() and not mask[:, :, 48:].any()
    assert pool.pixel_mask(torch.zeros(0, dtype=torch.int64)).shape == (0, 37, 50)
    with pytest.raises(ValueError, match=r"images must lie in 0\.\.4, got 5\.\.5"):
        pool.pixel_mask(torch.tensor([5]))


def test_pool_state_round_trip():
    pool = RegionPool(GRID)
    pool.label(torch.tensor([7, 3, 50]))
    saved = pool.state_dict()
    pool.label(torch.tensor([9]))
    restored = RegionPool(GRID)
    restored.label(torch.tensor([1]))
    restored.load_state_dict(saved)
    assert restored.order.tolist() == [7, 3, 50]
    assert restored.labelled.nonzero().flatten().tolist() == [3, 7, 50]


def test_a_state_of_another_grid_is_rejected_and_changes_nothing():
    pool = RegionPool(GRID)
    pool.label(torch.tensor([1]))
    with pytest.raises(ValueError, match=r"regions must lie in 0\.\.119, got 500\.\.500"):
        pool.load_state_dict({"order": torch.tensor([500])})
    assert pool.order.tolist() == [1]


def test_oracle_cuts_each_region_out_of_its_label_map():
    grid = RegionGrid(40, (37, 50), (9, 8))
    labels = torch.randint(0, 12, (40, 37, 50), generator=generator(), dtype=torch.uint8)
    reads = []

    def read(images):
        reads.extend(images.tolist())
        return labels[images]

    regions = torch.randperm(grid.num_regions, generator=generator())[:200]
    tiles = Oracle(read, grid).label(regions)
    assert tiles.shape == (200, 9, 8) and tiles.dtype == torch.uint8
    for tile, index in zip(tiles, regions.tolist(), strict=True):
        image, row, col = grid.region(index)
        assert torch.equal(tile, labels[image, row * 9 : row * 9 + 9, col * 8 : col * 8 + 8])
    assert len(reads) == len(set(reads)), "an image's labels were read more than once"


def test_oracle_of_no_regions_reads_nothing():
    def read(images):
        raise AssertionError("nothing was to be read")

    assert Oracle(read, GRID).label(torch.zeros(0, dtype=torch.int64)).shape == (0, 9, 8)


def test_oracle_rejects_label_maps_of_another_size():
    oracle = Oracle(lambda images: torch.zeros(len(images), 37, 51, dtype=torch.uint8), GRID)
    with pytest.raises(ValueError, match=r"label maps must be \[1, 37, 50\], got \[1, 37, 51\]"):
        oracle.label(torch.tensor([0]))


def test_oracle_rejects_an_ignore_index_that_the_labels_cannot_hold():
    oracle = Oracle(lambda images: torch.zeros(len(images), 37, 50, dtype=torch.uint8), GRID, -1)
    with pytest.raises(ValueError, match=r"ignore_index must fit into torch\.uint8 labels, got -1"):
        oracle.label(torch.tensor([0]))
    with pytest.raises(TypeError, match=r"ignore_index must be an integer, got 0\.5"):
        Oracle(lambda images: images, GRID, 0.5)


# --- with the edge kept ------------------------------------------------------------------------------------


def test_ragged_regions_leave_nothing_over():
    grid = RegionGrid(5, (37, 50), (9, 8), edge="keep")
    assert (grid.rows, grid.cols, grid.num_regions) == (5, 7, 175)
    assert grid.dropped_share == 0
    assert grid.num_pixels(torch.tensor([0, 6, 28, 34])).tolist() == [72, 18, 8, 2]
    assert RegionGrid(1, (36, 48), (9, 8), edge="keep").num_regions == 24


def test_ragged_regions_are_drawn_and_resumed_like_others():
    grid = RegionGrid(5, (37, 50), (9, 8), edge="keep")
    pool = RegionPool(grid)
    assert pool.draw_candidates(5, 35, generator()).unique().numel() == 175
    pool.label(torch.tensor([34, 3]))
    restored = RegionPool(grid)
    restored.load_state_dict(pool.state_dict())
    assert restored.order.tolist() == [34, 3]
    with pytest.raises(ValueError, match=r"regions must lie in 0\.\.119, got 174\.\.174"):
        RegionPool(GRID).load_state_dict({"order": torch.tensor([174])})
