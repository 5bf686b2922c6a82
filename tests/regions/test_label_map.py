"""Regions from a label map: a pool of them, a segmenter trained on them, and SLIC's superpixels."""

import builtins
import inspect
import sys

import pytest
import torch
from noise_maps import noise_map
from torch import nn

import ralx.regions.label_map
from ralx import region_features
from ralx.acquisition import pick
from ralx.features import gather_regions
from ralx.regions import Oracle, RegionPool, chosen_regions
from ralx.regions.label_map import RegionMap, slic_regions
from ralx.segmentation import SegmenterTrainer, TrainingConfig, train_epoch, train_on_regions


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_empty_ids_are_never_drawn_and_cannot_be_labelled():
    region_map = noise_map()
    pool = RegionPool(region_map)
    assert pool.empty.nonzero().flatten().tolist() == [0, 4]
    drawn = pool.draw_candidates(4, 4, generator()).flatten()
    assert sorted(drawn.tolist()) == sorted(set(range(18)) - {0, 4})
    with pytest.raises(ValueError, match=r"regions must have pixels, got \[4\], which have none"):
        pool.label(torch.tensor([3, 4]))
    assert pool.num_labelled == 0
    pool.label(drawn)
    with pytest.raises(ValueError, match="no region is left to draw from: all 16 are labelled"):
        pool.draw_candidates(4, 4, generator())


def test_candidates_of_few_images():
    candidates = RegionPool(noise_map()).draw_candidates(2, 1, generator(), few_images=True)
    assert len((candidates // 6).unique()) == 1


def test_a_pool_of_superpixels_resumes():
    pool = RegionPool(noise_map())
    pool.label(torch.tensor([9, 2]))
    restored = RegionPool(noise_map())
    restored.load_state_dict(pool.state_dict())
    assert restored.order.tolist() == [9, 2]
    assert torch.equal(restored.unlabelled, pool.unlabelled)
    with pytest.raises(ValueError, match=r"regions must have pixels, got \[4\]"):
        restored.load_state_dict({"order": torch.tensor([4])})
    assert restored.order.tolist() == [9, 2]


class Scenes:
    """Three noise images that remember nothing but their labels."""

    image_size = (16, 20)

    def __len__(self):
        return 3

    def batch(self, index):
        pixels = torch.randint(256, (3, 3, 16, 20), dtype=torch.uint8, generator=generator())
        return pixels[index], (pixels[:, 0] > 127).to(torch.uint8)[index]


def test_a_segmenter_trains_on_superpixels():
    pool = RegionPool(noise_map(size=(16, 20)))
    regions = pool.draw_candidates(4, 1, generator()).flatten()
    pool.label(regions)
    options = TrainingConfig(crop_size=(12, 12), batch_size=2)
    trainer = SegmenterTrainer(nn.Conv2d(3, 2, 4, stride=4), options, lr=0.1, ignore_index=255)
    before = trainer.segmenter.weight.detach().clone()
    assert train_on_regions(trainer, Scenes(), regions, pool, generator=generator()) > 0
    assert not torch.equal(trainer.segmenter.weight, before)
    assert train_epoch(trainer, Scenes(), pool=pool, generator=generator()) > 0


ZEROS = torch.zeros(1, 2, 2, dtype=torch.int32)


@pytest.mark.parametrize(
    ("error", "labels", "regions", "message"),
    [
        (TypeError, [[[0]]], 1, "labels must be a torch.Tensor, got builtins.list"),
        (TypeError, ZEROS.float(), 1, r"labels must be uint8, .* got torch\.float32"),
        (ValueError, ZEROS[0], 1, r"labels must be \[N, H, W\], got shape \[2, 2"),
        (ValueError, ZEROS[:, :0], 1, "labels must have at least one pixel an image"),
        (ValueError, ZEROS + 7, 7, "labels must be below regions_per_image=7, got 7"),
        (ValueError, ZEROS - 1, 0, r"regions_per_image must be in 1\.\.\d+, got 0"),
        (TypeError, ZEROS, 1.0, "regions_per_image must be an integer, got 1.0"),
    ],
)
def test_region_map_rejects(error, labels, regions, message):
    with pytest.raises(error, match=message):
        RegionMap(labels, regions)


@pytest.mark.parametrize(("dtype", "regions"), [(torch.uint8, 261), (torch.int16, 2**16 + 5)])
def test_more_regions_than_the_labels_type_can_number(dtype, regions):
    region_map = RegionMap(torch.full((1, 2, 2), 6, dtype=dtype), regions)
    assert region_map.num_pixels(torch.tensor([5, 6, 7])).tolist() == [0, 4, 0]


def test_flat_indices_are_checked():
    with pytest.raises(ValueError, match=r"regions must lie in 0\.\.17, got 18\.\.18"):
        noise_map().boxes(torch.tensor([18]))
    with pytest.raises(TypeError, match=r"regions must be an integer tensor .* got torch\.float32 tensor"):
        noise_map().num_pixels(torch.tensor([1.0]))


def test_no_images_no_regions():
    region_map = RegionMap(torch.zeros(0, 4, 5, dtype=torch.int32), 3)
    assert (region_map.num_regions, region_map.box_size) == (0, (0, 0))
    with pytest.raises(ValueError, match="no region is left to draw from: all 0 are labelled"):
        RegionPool(region_map).draw_candidates(1, 1, generator())


# --- SLIC -------------------------------------------------------------------------------------------------


@pytest.fixture
def slic():
    pytest.importorskip("skimage")
    return slic_regions


@pytest.fixture
def images():
    """Two of 40×60: coarse blocks of colour, the second one without any."""
    blocks = torch.randint(256, (2, 3, 4, 6), generator=generator(), dtype=torch.uint8)
    blocks[1] = 90
    return blocks.repeat_interleave(10, 2).repeat_interleave(10, 3)


def test_slic_gives_about_as_many_regions_as_wanted_and_covers_every_pixel(slic, images):
    region_map = slic(images, 24)
    assert region_map.labels.shape == (2, 40, 60) and region_map.labels.dtype == torch.int32
    assert 12 <= region_map.regions_per_image <= 48
    assert region_map.labels.min() == 0
    assert region_map.num_pixels(torch.arange(region_map.num_regions)).sum() == images[:, 0].numel()


def test_slic_follows_colours(slic, images):
    labels = slic(images[:1], 24, compactness=0.1).labels[0]
    mixed = [images[0, :, labels == i].unique(dim=1).shape[1] > 1 for i in labels.unique()]
    assert sum(mixed) <= len(mixed) // 4


def noise(*size):
    return torch.randint(256, (1, 3, *size), generator=generator(), dtype=torch.uint8)


def half_noise():
    image = torch.full((1, 3, 64, 96), 90, dtype=torch.uint8)
    image[..., 48:] = noise(64, 48)
    return image


@pytest.mark.parametrize(
    ("image", "wanted"),
    [
        (noise(64, 96), 30),
        (noise(64, 96), 2),
        ((noise(64, 96)[:, :1] > 127).to(torch.uint8).expand(-1, 3, -1, -1) * 255, 30),
        (half_noise(), 30),
        (torch.full((1, 3, 64, 96), 90, dtype=torch.uint8), 30),
        (noise(1, 96), 30),
        (noise(5, 5), 3),
    ],
    ids=["noise", "halves of noise", "black and white", "half noise", "flat", "one row", "tiny"],
)
def test_slic_gives_about_as_many_regions_of_what_is_no_photograph(slic, image, wanted):
    region_map = slic(image, wanted)
    pixels = region_map.num_pixels(torch.arange(region_map.num_regions))
    assert wanted / 2 < len(pixels) < 2 * wanted and (pixels > 0).all()
    assert pixels.max() < 3 * image[0, 0].numel() / wanted


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 2), (3, 3)])
def test_slic_of_fewer_pixels_than_regions_gives_one_for_each_pixel(slic, size):
    assert slic(noise(*size), 30).regions_per_image == size[0] * size[1]


def test_slic_gives_the_same_regions_every_time(slic, images):
    first, again = slic(images, 24), slic(images.clone(), 24)
    assert torch.equal(first.labels, again.labels) and first.num_regions == again.num_regions
    assert torch.equal(slic(images[:1], 24).labels, first.labels[:1])


def test_slic_of_no_image(slic, images):
    assert slic(images[:0], 24).num_regions == 0


@pytest.mark.parametrize(
    ("error", "change", "message"),
    [
        (ValueError, {"images": noise(4, 5)[0]}, r"images must be \[N, 3, H, W\]"),
        (ValueError, {"images": noise(4, 5).float()}, r"images must be uint8 .* got torch\.float32"),
        (ValueError, {"images": noise(4, 5)[:, :1]}, r"must be uint8 .* \[1, 1, 4, 5\]"),
        (ValueError, {"regions_per_image": 0}, r"regions_per_image must be in 1\.\.\d+, got 0"),
        (ValueError, {"compactness": 0}, "compactness must be above 0, got 0"),
        (ValueError, {"compactness": float("nan")}, "compactness must be above 0, got nan"),
        (ValueError, {"compactness": float("inf")}, "compactness must be finite, got inf"),
        (ValueError, {"images": noise(0, 5)}, r"images must have at least one pixel, got \[1, 3, 0, 5\]"),
    ],
)
def test_slic_rejects(images, error, change, message):
    with pytest.raises(error, match=message):
        slic_regions(**({"images": images, "regions_per_image": 24} | change))


def test_without_scikit_image_the_extra_is_named(images, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs scikit-image: pip install 'ralx\[superpixels\]'"):
        slic_regions(images, 24)


def test_the_step_in_the_docstring(images):
    """What the module's docstring shows runs as it stands there."""
    truth = torch.randint(0, 4, (2, 40, 60), generator=generator(), dtype=torch.uint8)
    names = dict(
        vars(builtins),
        torch=torch,
        images=images,
        slic_regions=lambda images, wanted: noise_map(images=2, size=(40, 60), regions=30),
        read_labels=lambda index: truth[index],
        segmenter=nn.Conv2d(3, 4, 4, stride=4),
        size=(40, 60),
        generator=generator(),
        K=5,
        M=3,
    )
    for function in (RegionPool, Oracle, region_features, gather_regions, chosen_regions, pick):
        names[function.__name__] = function
    code = inspect.cleandoc(ralx.regions.label_map.__doc__).partition("::\n")[2]
    exec(inspect.cleandoc(code), names)
    pool, chosen = names["pool"], names["chosen"]
    assert pool.num_labelled == 5 and not pool.empty[chosen].any()
    every = names["score"](torch.arange(2)).flatten()
    for candidates, best in zip(names["candidates"], chosen, strict=True):
        assert every[candidates].max() == every[best]
    pixels = pool.grid.num_pixels(chosen).sum()
    assert (names["labels"] != 255).sum() == pixels == names["trainable"].sum()
