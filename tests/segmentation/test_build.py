"""Segmenters by name and import path, and their weight files."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ralx.segmentation import build_segmenter, load_weights
from ralx.segmentation.encoders import BasicBlock, MobileNetV2, ResNet


def linear(num_classes):
    """A plug-in without a parameter `dropout`."""
    return nn.Conv2d(3, num_classes, 4, stride=4)


def with_dropout(num_classes, dropout=0.1):
    return nn.Sequential(nn.Dropout(dropout), nn.Conv2d(3, num_classes, 1))


def no_network(num_classes):
    return [num_classes]


def write(state: dict[str, torch.Tensor], path: Path) -> None:
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    else:
        torch.save(state, path)


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    other = b.state_dict()
    return all(torch.equal(t, other[n]) for n, t in a.state_dict().items())


class TestNames:
    def test_import_path_gives_any_module(self):
        segmenter = build_segmenter(f"{__name__}:linear", 7, dropout=0.3)
        assert segmenter(torch.zeros(2, 3, 16, 24)).shape == (2, 7, 4, 6)

    def test_dropout_reaches_a_factory_that_takes_it(self):
        assert build_segmenter(f"{__name__}:with_dropout", 2, dropout=0.4)[0].p == 0.4
        assert build_segmenter(f"{__name__}:with_dropout", 2)[0].p == 0.1

    def test_dropout_rate_of_the_fpn(self):
        assert build_segmenter("fpn-small", 2, dropout=0.35).dropout.p == 0.35

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            (
                "fpn-resnet51",
                r"segmenter: expected one of fpn-resnet50, .*package\.module:factory, got 'fpn-resnet51'",
            ),
            ("no_such_package.nets:make", r"can't import 'no_such_package\.nets'"),
            ("ralx.segmentation:no_such", r"'ralx\.segmentation' has no function or class 'no_such'"),
            (":make", r"expected an import path package\.module:name, got ':make'"),
            ("ralx.segmentation:", r"expected an import path package\.module:name"),
            ("ralx.segmentation:__all__", r"has no function or class '__all__'"),
            (f"{__name__}:no_network", r"should return a torch\.nn\.Module, got list"),
            ("os:getcwd", r"segmenter: os:getcwd can't be called with num_classes=\.\.\.: "),
            ("torch.nn:Identity", r"segmenter: torch\.nn:Identity should have parameters to train, got none"),
        ],
    )
    def test_names_of_no_trainable_network(self, name, message):
        with pytest.raises(ValueError, match=message):
            build_segmenter(name, 3)

    @pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
    def test_bad_dropout(self, rate):
        with pytest.raises(ValueError, match=r"dropout: expected a rate in \[0, 1\), got"):
            build_segmenter("fpn-small", 3, dropout=rate)

    def test_no_class(self):
        with pytest.raises(ValueError, match="num_classes: expected at least 1, got 0"):
            build_segmenter("fpn-small", 0)


class TestWeights:
    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    @pytest.mark.parametrize("name", ["fpn-small", f"{__name__}:linear"])
    def test_a_segmenters_own_file(self, tmp_path, name, suffix):
        saved, path = build_segmenter(name, 4), tmp_path / f"weights{suffix}"
        write(saved.state_dict(), path)
        assert same_weights(build_segmenter(name, 4, weights=str(path)), saved)

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    @pytest.mark.parametrize("counters", [True, False], ids=["new", "without batch counters"])
    @pytest.mark.parametrize(
        ("name", "encoder", "classifier"),
        [
            ("fpn-resnet18", ResNet(BasicBlock, (2, 2, 2, 2)), {"fc.weight": [1000, 512], "fc.bias": [1000]}),
            (
                "fpn-mobilenetv2",
                MobileNetV2(),
                {"features.18.0.weight": [1280, 320, 1, 1], "classifier.1.weight": [1000, 1280]},
            ),
        ],
    )
    def test_torchvision_classification_file_loads_into_the_encoder(
        self, tmp_path, suffix, counters, name, encoder, classifier
    ):
        state = {n: t for n, t in encoder.state_dict().items() if counters or "num_batches_tracked" not in n}
        state |= {n: torch.zeros(shape) for n, shape in classifier.items()}
        path = tmp_path / f"{name}{suffix}"
        write(state, path)
        segmenter = build_segmenter(name, 4, weights=path)
        assert same_weights(segmenter.encoder, encoder)

    def test_other_class_count_names_file_and_tensor_and_changes_nothing(self, tmp_path):
        path = tmp_path / "nineteen.pth"
        torch.save(build_segmenter("fpn-small", 19).state_dict(), path)
        segmenter = build_segmenter("fpn-small", 11)
        before = {n: t.clone() for n, t in segmenter.state_dict().items()}
        expected = r"nineteen\.pth: 'classifier\.weight' should have shape \[11, .*got \[19"
        with pytest.raises(ValueError, match=expected):
            load_weights(segmenter, path)
        assert all(torch.equal(t, before[n]) for n, t in segmenter.state_dict().items())

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda state: state.pop("classifier.bias"), r"missing 'classifier\.bias' \(1 in all\)"),
            (lambda state: state.clear(), r"missing 'conv1\.weight'"),
        ],
    )
    def test_missing_tensors(self, tmp_path, spoil, message):
        state = build_segmenter("fpn-small", 2).state_dict()
        spoil(state)
        torch.save(state, tmp_path / "x.pth")
        with pytest.raises(ValueError, match=rf"x\.pth doesn't fit this segmenter: {message}"):
            build_segmenter("fpn-small", 2, weights=tmp_path / "x.pth")

    def test_another_resnet(self, tmp_path):
        torch.save(ResNet(BasicBlock, (3, 4, 6, 3)).state_dict(), tmp_path / "x.pth")
        with pytest.raises(ValueError, match=r"x\.pth doesn't fit this segmenter: unknown 'layer1\.2\."):
            build_segmenter("fpn-resnet18", 2, weights=tmp_path / "x.pth")

    @pytest.mark.parametrize(
        ("dtype", "number"),
        [(torch.float32, float("nan")), (torch.bfloat16, float("inf")), (torch.float64, 1e300)],
    )
    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_numbers_that_are_not_finite_are_named_and_nothing_is_loaded(
        self, tmp_path, suffix, dtype, number
    ):
        saved = {"weight": torch.ones(2, 3, 4, 4), "bias": torch.tensor([0.0, number], dtype=dtype)}
        path = tmp_path / f"spoilt{suffix}"
        write(saved, path)
        segmenter = linear(2)
        before = segmenter.weight.detach().clone()
        expected = rf"weights: \S*spoilt{suffix}: 'bias' should hold finite numbers, got NaN or infinities"
        with pytest.raises(ValueError, match=expected):
            load_weights(segmenter, path)
        assert torch.equal(segmenter.weight, before)

    def test_an_encoders_file_may_hold_anything_in_the_classifier_that_is_left_out(self, tmp_path):
        encoder, path = ResNet(BasicBlock, (2, 2, 2, 2)), tmp_path / "resnet18.pth"
        state = encoder.state_dict() | {"fc.bias": torch.full((1000,), float("nan"))}
        torch.save(state, path)
        assert same_weights(build_segmenter("fpn-resnet18", 2, weights=path).encoder, encoder)
        state["layer1.0.bn1.running_var"][3] = float("inf")
        torch.save(state, path)
        with pytest.raises(ValueError, match=r"'layer1\.0\.bn1\.running_var' should hold finite numbers"):
            build_segmenter("fpn-resnet18", 2, weights=path)

    @pytest.mark.parametrize(
        "odd", [torch.ones(2).to_sparse(), torch.ones(2, device="meta"), torch.ones(2) * 1j]
    )
    def test_other_than_dense_real_tensors(self, tmp_path, odd):
        torch.save({"weight": torch.ones(2, 3, 4, 4), "bias": odd}, tmp_path / "x.pth")
        with pytest.raises(ValueError, match=r"x\.pth: 'bias' should be a dense tensor of real numbers"):
            load_weights(linear(2), tmp_path / "x.pth")

    def test_no_file(self, tmp_path):
        with pytest.raises(ValueError, match=r"weights: no such file: .*absent\.pth"):
            build_segmenter("fpn-small", 2, weights=tmp_path / "absent.pth")

    @pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
    def test_damaged_file(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"\x80\x02not a weight file")
        with pytest.raises(ValueError, match=rf"weights: .*{name}"):
            build_segmenter("fpn-small", 2, weights=tmp_path / name)

    def test_no_code_of_a_torch_file_runs(self, tmp_path):
        class Harmful:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "ran"),)

        torch.save({"classifier.weight": Harmful()}, tmp_path / "harmful.pth")
        with pytest.raises(ValueError, match=r"harmful\.pth should be a torch file of tensors by name"):
            build_segmenter("fpn-small", 2, weights=tmp_path / "harmful.pth")
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"hello\n",
            b"# a readme\nkey: value\n",
            b"]." * 3,
            b"0" * 300,
            b"a",
            b"\x89PNG\r\n\x1a\n",
            b"0.",
        ],
    )
    def test_file_that_torch_did_not_write(self, tmp_path, content):
        (tmp_path / "x.pth").write_bytes(content)
        expected = (
            r"^weights: \S*x\.pth should be a torch file of tensors by name and nothing else, "
            "got one that is damaged or holds other things$"
        )
        with pytest.raises(ValueError, match=expected):
            build_segmenter("fpn-small", 2, weights=tmp_path / "x.pth")

    @pytest.mark.parametrize(
        ("content", "found"),
        [
            ([torch.zeros(2)], "list"),
            ({0: torch.zeros(2)}, "Tensor by 0"),
            ({"state_dict": {"a": torch.zeros(2)}}, "dict by 'state_dict'"),
        ],
    )
    def test_file_of_something_else(self, tmp_path, content, found):
        torch.save(content, tmp_path / "x.pth")
        with pytest.raises(ValueError, match=rf"x\.pth should hold tensors by name, got {found}$"):
            build_segmenter("fpn-small", 2, weights=tmp_path / "x.pth")
