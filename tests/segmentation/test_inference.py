"""Predictions, MC passes and evaluation."""

import pytest
import torch
from tiny_segmentation import TinyDataset
from torch import nn

from ralx.segmentation import build_segmenter, evaluate, mc_logits, normalise, predict


class CountingSegmenter(nn.Module):
    """Logits from a fixed map, with dropout in `classify` only; counts how often each half runs."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 64, 4, stride=4)
        self.bn = nn.BatchNorm2d(64)
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Conv2d(64, 3, 1)
        self.encoded = self.classified = 0

    def encode(self, images):
        self.encoded += 1
        return self.bn(self.conv(images))

    def classify(self, features):
        self.classified += 1
        return self.classifier(self.dropout(features))

    def forward(self, images):
        return self.classify(self.encode(images))


class TestPredict:
    def test_is_the_segmenter_in_eval_mode_on_normalised_images(self, segmenter, dataset):
        segmenter.train()
        images, _ = dataset.batch(torch.arange(2))
        statistics = segmenter.bn.running_mean.clone()
        logits = predict(segmenter, images)
        assert segmenter.training and torch.equal(segmenter.bn.running_mean, statistics)
        assert logits.shape == (2, 3, 6, 8) and not logits.requires_grad
        segmenter.eval()
        torch.testing.assert_close(logits, segmenter(normalise(images)))

    def test_bfloat16(self, segmenter, dataset):
        images, _ = dataset.batch(torch.arange(2))
        logits = predict(segmenter, images, precision="bfloat16")
        assert logits.dtype == torch.bfloat16
        torch.testing.assert_close(logits.float(), predict(segmenter, images), atol=0.05, rtol=0.05)


class TestMcLogits:
    def test_the_encoder_runs_once(self):
        segmenter = CountingSegmenter()
        passes = list(mc_logits(segmenter, torch.randn(2, 3, 16, 16), 5))
        assert (segmenter.encoded, segmenter.classified) == (1, 5)
        assert [p.shape for p in passes] == [(2, 3, 4, 4)] * 5

    def test_passes_differ_and_only_dropout_trains(self):
        segmenter = CountingSegmenter()
        statistics = segmenter.bn.running_mean.clone()
        first, second = mc_logits(segmenter, torch.randn(2, 3, 16, 16), 2)
        assert not torch.equal(first, second) and not first.requires_grad
        assert torch.equal(segmenter.bn.running_mean, statistics)

    def test_passes_average_to_the_prediction(self):
        """Dropout before a linear classifier is unbiased, so that many passes approach the eval logits."""
        torch.manual_seed(0)
        segmenter = CountingSegmenter().eval()
        inputs = torch.randn(1, 3, 8, 8)
        mean = torch.stack(list(mc_logits(segmenter, inputs, 4000))).mean(0)
        with torch.no_grad():
            torch.testing.assert_close(mean, segmenter(inputs), atol=0.05, rtol=0)

    def test_modes_are_the_callers_between_passes(self):
        segmenter = CountingSegmenter()
        segmenter.bn.eval()
        before = [m.training for m in segmenter.modules()]
        for _ in mc_logits(segmenter, torch.randn(1, 3, 16, 16), 2):
            assert [m.training for m in segmenter.modules()] == before

    def test_a_network_without_halves_runs_whole(self, segmenter):
        first, second = mc_logits(segmenter, torch.randn(2, 3, 16, 16), 2)
        assert first.shape == (2, 3, 4, 4) and not torch.equal(first, second)

    def test_global_seed_decides(self):
        segmenter, inputs = build_segmenter("fpn-small", 3, dropout=0.5), torch.randn(1, 3, 32, 32)
        runs = []
        for _ in range(2):
            torch.manual_seed(9)
            runs.append(torch.stack(list(mc_logits(segmenter, inputs, 3))))
        assert torch.equal(*runs)

    @pytest.mark.parametrize(
        ("segmenter", "passes", "message"),
        [
            (nn.Conv2d(3, 2, 1), 2, "segmenter: MC passes need a dropout layer with a rate above 0"),
            (nn.Dropout(0.0), 2, "segmenter: MC passes need a dropout layer with a rate above 0"),
            (nn.Dropout(0.5), 0, "num_samples: expected at least 1, got 0"),
        ],
    )
    def test_refuses_a_network_without_dropout_and_no_pass(self, segmenter, passes, message):
        with pytest.raises(ValueError, match=message):
            mc_logits(segmenter, torch.zeros(1, 3, 8, 8), passes)


class TestEvaluate:
    def test_counts_every_labelled_pixel_of_the_data_set_once(self, segmenter, dataset):
        dataset.label_data[0, :5] = dataset.ignore_index
        confusion = evaluate(segmenter, dataset, batch_size=4)
        target = dataset.label_data[dataset.label_data != dataset.ignore_index]
        assert torch.equal(confusion.sum(dim=1), target.long().bincount(minlength=3))
        assert confusion.dtype == torch.int64

    def test_equals_the_argmax_of_upsampled_logits(self, segmenter, dataset):
        images, labels = dataset.batch(torch.arange(len(dataset)))
        logits = nn.functional.interpolate(
            predict(segmenter, images), size=dataset.image_size, mode="bilinear", align_corners=True
        )
        pairs = labels.long() * 3 + logits.argmax(1)
        expected = pairs.flatten().bincount(minlength=9).view(3, 3)
        # Where two classes tie to the last bit, the op may choose the other one.
        assert (evaluate(segmenter, dataset, batch_size=6) - expected).abs().sum() <= 2

    def test_corners_are_aligned(self):
        """One coarse edge: it lies in another column where corners aren't aligned."""

        class Edge(nn.Module):
            def forward(self, images):
                row = torch.tensor([3.0, -1.0])
                return torch.stack([row, -row])[None, :, None].expand(len(images), 2, 2, 2)

        dataset = TinyDataset(image_size=(8, 42), num_classes=2)
        dataset.label_data = torch.zeros_like(dataset.label_data)
        confusion = evaluate(Edge(), dataset, batch_size=6)
        # The first logit is 3 - 4·x/41, above 0 in columns 0..30; unaligned it would be so in 0..25.
        assert confusion.tolist() == [[6 * 8 * 31, 6 * 8 * 11], [0, 0]]

    def test_does_not_depend_on_the_batch_size_or_the_mode(self, segmenter, dataset):
        segmenter.train()
        whole = evaluate(segmenter, dataset, batch_size=len(dataset))
        assert torch.equal(evaluate(segmenter, dataset, batch_size=1), whole)
        assert segmenter.training

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_a_logit_that_is_no_number_is_an_error(self, segmenter, dataset, bad):
        with torch.no_grad():
            segmenter.classifier.bias[1] = bad
        expected = "the segmenter has diverged: its logits hold NaN or inf"
        with pytest.raises(FloatingPointError, match=expected):
            evaluate(segmenter, dataset, batch_size=4)

    def test_a_logit_that_is_no_number_is_an_error_in_whichever_batch_it_is(self, dataset):
        class NanAtFirst(nn.Module):
            offsets = iter([torch.nan, 0.0, 0.0])

            def forward(self, images):
                return images + next(self.offsets)

        with pytest.raises(FloatingPointError, match="the segmenter has diverged"):
            evaluate(NanAtFirst(), dataset, batch_size=2)

    def test_leaves_out_what_the_data_set_calls_ignored(self, segmenter, dataset):
        dataset.ignore_index = 2
        confusion = evaluate(segmenter, dataset, batch_size=4)
        assert confusion[2].sum() == 0 and confusion.sum() == (dataset.label_data != 2).sum()

    def test_a_class_that_is_ruled_out_is_none(self, segmenter, dataset):
        with torch.no_grad():
            segmenter.classifier.bias[1] = float("-inf")
        confusion = evaluate(segmenter, dataset, batch_size=4)
        assert confusion[:, 1].sum() == 0 and confusion.sum() == dataset.label_data.numel()
