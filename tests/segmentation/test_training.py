"""Training: what it learns from, what it leaves alone, and that it can be stopped and resumed exactly."""

import copy
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_segmentation import IGNORE, TinyDataset, TinySegmenter
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ralx.regions import RegionGrid, RegionPool
from ralx.segmentation import SegmenterTrainer, TrainingConfig, build_segmenter, evaluate
from ralx.segmentation.training import segmentation_loss, train_epoch, train_on_regions

CROP = (16, 16)


def trainer_of(
    segmenter: nn.Module, lr: float = 0.05, precision="auto", class_weights=None, **options
) -> SegmenterTrainer:
    config = TrainingConfig(**({"crop_size": CROP, "batch_size": 4} | options))
    given = dict(precision=precision, class_weights=class_weights)
    return SegmenterTrainer(segmenter, config, lr=lr, ignore_index=IGNORE, **given)


def labelled_pool(dataset: TinyDataset, regions: list[int]) -> RegionPool:
    pool = RegionPool(RegionGrid(len(dataset), dataset.image_size, (8, 8)))  # 3×4 regions an image
    pool.label(torch.tensor(regions))
    return pool


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def epoch(trainer: SegmenterTrainer, dataset: TinyDataset, seed: int = 0, **options) -> float:
    return train_epoch(trainer, dataset, **({"generator": seeded(seed)} | options))


def regions_pass(trainer, dataset: TinyDataset, regions, pool: RegionPool, seed: int = 0) -> float:
    return train_on_regions(trainer, dataset, torch.as_tensor(regions), pool, generator=seeded(seed))


def watch(target: object, method: str, what: Callable) -> list:
    """The list of `what` of the arguments of every call of a method from now on."""
    seen, called = [], getattr(target, method)
    setattr(target, method, lambda *args: seen.append(what(*args)) or called(*args))
    return seen


def same_bytes(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


class TestLearning:
    def test_epochs_on_whole_images_learn_the_classes(self, segmenter, dataset):
        trainer = trainer_of(segmenter, batch_size=3)
        losses = [epoch(trainer, dataset, e) for e in range(40)]
        confusion = evaluate(segmenter, dataset, batch_size=4)
        assert losses[-1] < 0.7 * losses[0]
        assert confusion.diag().sum() > 0.8 * confusion.sum()

    def test_passes_over_labelled_regions_learn_the_classes(self, segmenter, dataset):
        regions = list(range(0, 72, 2))
        pool, trainer = labelled_pool(dataset, regions), trainer_of(segmenter, batch_size=8)
        for i in range(20):
            regions_pass(trainer, dataset, pool.order, pool, i)
        confusion = evaluate(segmenter, dataset, batch_size=4)
        assert confusion.diag().sum() > 0.8 * confusion.sum()

    def test_fpn_small_learns(self, dataset):
        torch.manual_seed(0)
        segmenter = build_segmenter("fpn-small", 3)
        trainer = trainer_of(segmenter, lr=0.02, crop_size=(24, 32), batch_size=3)
        for e in range(25):
            epoch(trainer, dataset, e)
        confusion = evaluate(segmenter, dataset, batch_size=6)
        assert confusion.diag().sum() > 0.7 * confusion.sum()


class TestMasking:
    @pytest.mark.parametrize("whole_epoch", [False, True], ids=["train_on_regions", "train_epoch"])
    def test_labels_outside_labelled_regions_change_nothing(self, dataset, whole_epoch):
        pool = labelled_pool(dataset, [0, 1, 14, 40, 41, 60])
        scrambled = copy.deepcopy(dataset)
        outside = ~pool.pixel_mask(torch.arange(len(dataset)))
        scrambled.label_data[outside] = (scrambled.label_data[outside] + 1) % 3
        states = []
        for data in (dataset, scrambled):
            torch.manual_seed(0)
            trainer = trainer_of(TinySegmenter(), crop_size=(24, 32))
            if whole_epoch:
                epoch(trainer, data, 2, pool=pool)
            else:
                regions_pass(trainer, data, [14, 60], pool, 2)
            states.append(trainer.state_dict())
        assert same_bytes(*states)

    def test_labels_inside_labelled_regions_count(self, dataset):
        pool = labelled_pool(dataset, [14])
        changed = copy.deepcopy(dataset)
        inside = pool.pixel_mask(torch.arange(len(dataset)))
        changed.label_data[inside] = (changed.label_data[inside] + 1) % 3
        states = []
        for data in (dataset, changed):
            torch.manual_seed(0)
            trainer = trainer_of(TinySegmenter())
            epoch(trainer, data, 2, pool=pool)
            states.append(trainer.state_dict())
        assert not same_bytes(*states)

    @pytest.mark.parametrize("crops", [None, [3, 1, 5, 2, 5, 0]])
    def test_an_epoch_over_a_pool_takes_the_crops_of_each_image_with_a_labelled_region(
        self, dataset, segmenter, crops
    ):
        batches = watch(dataset, "batch", Tensor.tolist)
        pool = labelled_pool(dataset, [0, 1, 14, 40, 41, 60])  # images 0, 1, 3, 5
        crops = None if crops is None else torch.tensor(crops)
        epoch(trainer_of(segmenter, batch_size=3), dataset, pool=pool, crops=crops)
        seen = [image for batch in batches for image in batch]
        assert sorted(seen) == ([0, 1, 3, 5] if crops is None else [0, 0, 0, 1, 3, 3])
        assert crops is None or seen != sorted(seen), "in random order among all"

    def test_a_pass_over_regions_takes_one_crop_of_each_region(self, dataset, segmenter):
        batches = watch(dataset, "batch", Tensor.tolist)
        pool = labelled_pool(dataset, [0, 1, 14, 40, 41, 60])
        regions_pass(trainer_of(segmenter, batch_size=2), dataset, [40, 41, 0], pool)
        assert sorted(image for batch in batches for image in batch) == [0, 3, 3]


class TestRandomness:
    def test_the_generator_decides_everything_and_the_global_state_stays(self, dataset):
        states = []
        for seed, global_seed in ((1, 10), (1, 20), (2, 10)):
            torch.manual_seed(0)
            trainer = trainer_of(TinySegmenter(dropout=0.5))
            torch.manual_seed(global_seed)
            before = torch.get_rng_state()
            epoch(trainer, dataset, seed)
            assert torch.equal(torch.get_rng_state(), before)
            states.append(trainer.state_dict())
        assert same_bytes(states[0], states[1])
        assert not same_bytes(states[0], states[2])

    def test_flips_exchange_left_and_right(self, dataset, segmenter):
        """Over some epochs of whole-image crops, both an image and its mirror image are trained on."""
        trainer = trainer_of(segmenter, crop_size=(24, 32), batch_size=1)
        seen = watch(trainer, "step", lambda images, labels: images[0].numpy().tobytes())
        dataset.image_data, dataset.label_data = dataset.image_data[:1], dataset.label_data[:1]
        for e in range(12):
            epoch(trainer, dataset, e)
        image = dataset.image_data[0]
        assert set(seen) == {image.numpy().tobytes(), image.flip(2).contiguous().numpy().tobytes()}


class TestResume:
    @pytest.mark.parametrize("name", ["tiny", "fpn-small"])
    def test_two_epochs_equal_one_saved_loaded_and_one_more(self, tmp_path, dataset, name):
        def fresh(seed):
            torch.manual_seed(seed)
            segmenter = TinySegmenter() if name == "tiny" else build_segmenter(name, 3)
            return trainer_of(segmenter)

        def one_more(trainer, generator):
            epoch(trainer, dataset, generator=generator)
            trainer.end_epoch()

        whole, generator = fresh(0), seeded(3)
        one_more(whole, generator)
        save_file(whole.state_dict(), tmp_path / "trainer.safetensors")
        random_state = generator.get_state()
        one_more(whole, generator)

        resumed, generator = fresh(1), torch.Generator()
        resumed.load_state_dict(load_file(tmp_path / "trainer.safetensors"))
        generator.set_state(random_state)
        one_more(resumed, generator)
        assert same_bytes(resumed.state_dict(), whole.state_dict())

    @pytest.mark.parametrize("loaded", [False, True], ids=["saved", "loaded"])
    def test_a_state_does_not_change_with_further_training(self, dataset, segmenter, loaded):
        trainer = trainer_of(segmenter)
        epoch(trainer, dataset)
        state = trainer.state_dict()
        before = copy.deepcopy(state)
        if loaded:
            trainer.load_state_dict(state)
        epoch(trainer, dataset, 1)
        assert same_bytes(state, before)

    def test_loading_a_state_from_before_the_first_step_forgets_the_momentum(self, dataset, segmenter):
        trainer = trainer_of(segmenter)
        start = trainer.state_dict()
        results = []
        for _ in range(2):
            trainer.load_state_dict(start)
            epoch(trainer, dataset)
            results.append(trainer.state_dict())
        assert same_bytes(*results)

    def test_refuses_another_networks_state_and_keeps_its_own(self, segmenter):
        trainer = trainer_of(segmenter)
        before = trainer.state_dict()
        for state, message in (
            (trainer_of(TinySegmenter(4)).state_dict(), r"'weights\.classifier\.\w+' should have .*got \[4"),
            ({n: t for n, t in before.items() if n != "lr"}, "'lr' is missing from the segmenter's saved"),
            (before | {"extra": torch.zeros(1)}, "'extra' is unknown in the segmenter's saved state"),
        ):
            with pytest.raises(ValueError, match=f"state: {message}"):
                trainer.load_state_dict(state)
        assert same_bytes(trainer.state_dict(), before)


class TestStep:
    def test_loss_is_the_cross_entropy_of_upsampled_logits(self):
        logits = torch.randn(2, 3, 4, 5)
        labels = torch.randint(3, (2, 16, 20), dtype=torch.uint8)
        labels[0, :4] = IGNORE
        upsampled = nn.functional.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=True)
        expected = nn.functional.cross_entropy(upsampled, labels.long(), ignore_index=IGNORE)
        torch.testing.assert_close(segmentation_loss(logits, labels, IGNORE), expected)

    def test_a_pixel_counts_the_weight_of_its_class(self):
        logits, labels = torch.randn(2, 3, 4, 5), torch.randint(3, (2, 4, 5), dtype=torch.uint8)
        labels[0, :2] = IGNORE
        weights = torch.tensor([0.5, 1.0, 4.0])
        each = nn.functional.cross_entropy(logits, labels.long(), ignore_index=IGNORE, reduction="none")
        wanted = each * weights[labels.clamp(max=2).long()]
        loss = segmentation_loss(logits, labels, IGNORE, weights)
        torch.testing.assert_close(loss, wanted.sum() / (labels != IGNORE).sum())
        ones = segmentation_loss(logits, labels, IGNORE, torch.ones(3))
        assert torch.equal(ones, segmentation_loss(logits, labels, IGNORE))

    def test_the_class_weights_reach_the_step(self, dataset):
        segmenter, (images, labels) = TinySegmenter(dropout=0.0), dataset.batch(torch.arange(4))
        plain = trainer_of(copy.deepcopy(segmenter)).step(images, labels)
        doubled = trainer_of(segmenter, class_weights=torch.full((3,), 2.0)).step(images, labels)
        torch.testing.assert_close(doubled, 2 * plain)

    def test_the_update_is_sgd_with_momentum_decay_and_clipped_gradient(self, dataset):
        torch.manual_seed(0)
        plain, trained = TinySegmenter(dropout=0.0), TinySegmenter(dropout=0.0)
        trained.load_state_dict(plain.state_dict())
        trainer = trainer_of(trained, lr=0.5, segmenter_clip_norm=0.1)
        optimizer = torch.optim.SGD(plain.parameters(), lr=0.5, momentum=0.95, weight_decay=1e-4)
        images, labels = dataset.batch(torch.arange(4))
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        inputs = (images / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        for _ in range(3):
            loss = trainer.step(images, labels)
            expected = segmentation_loss(plain(inputs), labels, IGNORE)
            torch.testing.assert_close(loss, expected.detach(), atol=1e-5, rtol=1e-5)
            optimizer.zero_grad()
            expected.backward()
            norm = torch.cat([p.grad.flatten() for p in plain.parameters()]).norm()
            assert norm > 0.1  # so that clipping matters
            for p in plain.parameters():
                p.grad *= 0.1 / norm
            optimizer.step()
        for p, q in zip(plain.parameters(), trained.parameters(), strict=True):
            torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-4)

    def test_rate_decays_twice_an_epoch(self, segmenter):
        trainer = trainer_of(segmenter, lr=1e-3)
        for _ in range(3):
            trainer.end_epoch()
        assert trainer.lr == pytest.approx(1e-3 * 0.998**6, rel=1e-12)

    def test_all_pixels_ignored_is_no_nan(self, segmenter, dataset):
        images, labels = dataset.batch(torch.arange(3))
        trainer = trainer_of(segmenter)
        assert trainer.step(images, torch.full_like(labels, IGNORE)).item() == 0
        assert all(p.isfinite().all() for p in segmenter.parameters())

    def test_bfloat16_keeps_float32_weights_and_loss(self, dataset):
        torch.manual_seed(0)
        segmenter = TinySegmenter()
        seen = []
        segmenter.classifier.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
        trainer = trainer_of(segmenter, precision="bfloat16")
        loss = trainer.step(*dataset.batch(torch.arange(4)))
        assert seen == [torch.bfloat16]
        assert loss.dtype == torch.float32 and loss.isfinite()
        assert {p.dtype for p in segmenter.parameters()} == {torch.float32}

    def test_dropout_acts_unless_switched_off(self, dataset):
        torch.manual_seed(0)
        start = TinySegmenter(dropout=0.5).state_dict()
        losses = {}
        for on in (True, False):
            losses[on] = []
            for seed in (1, 2):
                segmenter = TinySegmenter(dropout=0.5)
                segmenter.load_state_dict(start)
                torch.manual_seed(seed)
                trainer = trainer_of(segmenter, train_dropout=on)
                losses[on].append(trainer.step(*dataset.batch(torch.arange(4))).item())
        assert losses[True][0] != losses[True][1]
        assert losses[False][0] == losses[False][1]

    @pytest.mark.parametrize("name", ["fpn-small", "fpn-resnet18"])
    def test_a_batch_of_one_with_a_single_pixel_per_map(self, name):
        """Batch statistics of one value don't exist; torch refuses to compute them."""
        trainer = trainer_of(build_segmenter(name, 3))
        images = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
        assert trainer.step(images, torch.zeros(1, 16, 16, dtype=torch.uint8)).isfinite()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"lr": 0.0}, "lr: expected a number above 0, got 0.0"),
            ({"lr": float("nan")}, "lr: expected a number above 0, got nan"),
            ({"segmenter_clip_norm": -1.0}, "segmenter_clip_norm: must be positive, got -1.0"),
            ({"segmenter_lr_decay": 0.0}, "segmenter_lr_decay: must be positive, got 0.0"),
            ({"crop_size": (0, 4)}, r"crop_size: every number must be at least 1, got \(0, 4\)"),
            ({"batch_size": 0}, "batch_size: must be positive, got 0"),
            ({"precision": "float16"}, "precision: expected one of auto, float32, bfloat16, got 'float16'"),
        ],
    )
    def test_bad_options(self, segmenter, options, message):
        with pytest.raises(ValueError, match=message):
            trainer_of(segmenter, **options)


class TestPasses:
    @pytest.mark.parametrize(("images", "batch_size", "sizes"), [(5, 4, [3, 2]), (6, 4, [3, 3]), (4, 8, [4])])
    def test_batches_are_even(self, segmenter, images, batch_size, sizes):
        trainer = trainer_of(segmenter, batch_size=batch_size)
        seen = watch(trainer, "step", lambda images, labels: len(images))
        epoch(trainer, TinyDataset(num_images=images))
        assert sorted(seen, reverse=True) == sizes

    def test_crops_never_exceed_the_image(self, segmenter, dataset):
        high, wide = (trainer_of(segmenter, crop_size=size) for size in ((224, 20), (20, 224)))
        seen = [watch(each, "step", lambda images, labels: images.shape[2:]) for each in (high, wide)]
        epoch(high, dataset)
        regions_pass(wide, dataset, [3], labelled_pool(dataset, [3]))
        assert [set(sizes) for sizes in seen] == [{(24, 20)}, {(20, 32)}]

    def test_mean_loss_weighs_every_crop_the_same(self, dataset, segmenter):
        trainer = trainer_of(segmenter)
        losses = iter([1.0, 2.0])  # batches of 2 and 3
        trainer.step = lambda images, labels: torch.tensor(next(losses))
        loss = epoch(trainer, TinyDataset(num_images=5))
        assert loss == pytest.approx((2 * 1.0 + 3 * 2.0) / 5)

    @pytest.mark.parametrize("first", ["nan", "inf"])
    def test_a_loss_of_the_first_batch_that_is_no_number_is_an_error(self, dataset, segmenter, first):
        trainer = trainer_of(segmenter, lr=0.5, batch_size=3)
        losses = iter([float(first), 1.0])
        trainer.step = lambda images, labels: torch.tensor(next(losses))
        expected = f"the segmenter has diverged: its loss is {first} at a learning rate of 0.5; try a lower"
        with pytest.raises(FloatingPointError, match=expected):
            epoch(trainer, dataset)

    def test_a_last_step_that_spoils_the_weights_is_an_error(self, dataset, segmenter):
        # The loss of the only batch is computed before the step, and is a number.
        with pytest.raises(FloatingPointError, match=r"its weights have no finite norm at a .* of 1e\+30"):
            epoch(trainer_of(segmenter, lr=1e30, batch_size=99), dataset)

    def test_nothing_is_read_back_per_batch(self, dataset, segmenter):
        """The number of values that Python reads from tensors doesn't grow with the number of batches."""

        class Reads(TorchDispatchMode):
            count = 0

            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                self.count += func is torch.ops.aten._local_scalar_dense.default
                return func(*args, **(kwargs or {}))

        pool = labelled_pool(dataset, list(range(12)))
        counts = []
        for batch_size in (12, 2):
            with Reads() as reads:
                regions_pass(trainer_of(segmenter, batch_size=batch_size), dataset, pool.order, pool)
            counts.append(reads.count)
        assert counts[0] == counts[1] > 0

    def test_refuses_nothing_to_train_on(self, dataset, segmenter):
        trainer = trainer_of(segmenter)
        empty = RegionPool(RegionGrid(len(dataset), dataset.image_size, (8, 8)))
        with pytest.raises(ValueError, match="regions: expected at least one, got none"):
            regions_pass(trainer, dataset, empty.order, empty)
        with pytest.raises(ValueError, match="pool: expected at least one labelled region, got none"):
            epoch(trainer, dataset, pool=empty)
        dataset.label_data = dataset.label_data[:0]
        with pytest.raises(ValueError, match="dataset: expected at least one image, got none"):
            epoch(trainer, dataset)
