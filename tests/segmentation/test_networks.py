"""The FPN networks: torchvision's names, quarter resolution, dropout before the classifier."""

import pytest
import torch

from ralx.segmentation import build_segmenter
from ralx.segmentation.encoders import BasicBlock, Bottleneck, MobileNetV2, ResNet, SmallEncoder

NAMES = ["fpn-resnet50", "fpn-resnet34", "fpn-resnet18", "fpn-mobilenetv2", "fpn-small"]

# torchvision's own counts less its classifier: resnet50 has 25 557 032 parameters of which fc has 2 049 000.
TORCHVISION = [
    pytest.param(Bottleneck, (3, 4, 6, 3), 23_508_032, 318, id="resnet50"),
    pytest.param(BasicBlock, (3, 4, 6, 3), 21_284_672, 216, id="resnet34"),
    pytest.param(BasicBlock, (2, 2, 2, 2), 11_176_512, 120, id="resnet18"),
]


@pytest.mark.parametrize(("block", "blocks", "parameters", "entries"), TORCHVISION)
def test_resnet_has_torchvisions_size(block, blocks, parameters, entries):
    resnet = ResNet(block, blocks)
    assert sum(p.numel() for p in resnet.parameters()) == parameters
    assert len(resnet.state_dict()) == entries


def test_resnet50_has_torchvisions_names_and_shapes():
    shapes = {name: list(t.shape) for name, t in ResNet(Bottleneck, (3, 4, 6, 3)).state_dict().items()}
    expected = {
        "conv1.weight": [64, 3, 7, 7],
        "bn1.running_var": [64],
        "layer1.0.conv1.weight": [64, 64, 1, 1],
        "layer1.0.downsample.0.weight": [256, 64, 1, 1],
        "layer1.0.downsample.1.num_batches_tracked": [],
        "layer2.3.conv2.weight": [128, 128, 3, 3],
        "layer3.5.bn3.bias": [1024],
        "layer4.0.downsample.0.weight": [2048, 1024, 1, 1],
        "layer4.2.conv3.weight": [2048, 512, 1, 1],
    }
    assert {name: shapes.get(name) for name in expected} == expected


def test_resnet50_strides_in_the_3x3_convolution():
    """As in torchvision; in the 1×1, where the first ResNet had it, torchvision's weights give other maps."""
    block = ResNet(Bottleneck, (3, 4, 6, 3)).layer2[0]
    assert (block.conv1.stride, block.conv2.stride) == ((1, 1), (2, 2))


def test_mobilenetv2_has_torchvisions_size_names_and_shapes():
    """3 504 872 parameters less the 412 160 of the last convolution and the 1 281 000 of the classifier."""
    mobilenet = MobileNetV2()
    assert sum(p.numel() for p in mobilenet.parameters()) == 1_811_712
    shapes = {name: list(t.shape) for name, t in mobilenet.state_dict().items()}
    expected = {
        "features.0.0.weight": [32, 3, 3, 3],
        "features.0.1.running_mean": [32],
        "features.1.conv.0.0.weight": [32, 1, 3, 3],
        "features.1.conv.1.weight": [16, 32, 1, 1],
        "features.1.conv.2.bias": [16],
        "features.2.conv.0.0.weight": [96, 16, 1, 1],
        "features.7.conv.1.0.weight": [192, 1, 3, 3],
        "features.14.conv.2.weight": [160, 576, 1, 1],
        "features.17.conv.3.num_batches_tracked": [],
    }
    assert {name: shapes.get(name) for name in expected} == expected
    assert not any(name.startswith(MobileNetV2.classifier_only) for name in shapes)


def test_mobilenetv2_folds_its_batch_norm_where_that_only_scales():
    mobilenet, images = MobileNetV2().double().eval(), torch.randn(2, 3, 64, 96, dtype=torch.float64)
    for layer in mobilenet.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            for tensor in (layer.running_var, layer.weight.detach()):
                tensor.uniform_(0.5, 1.5)
            for tensor in (layer.running_mean, layer.bias.detach()):
                tensor.normal_()

    def plain(x):
        for block in mobilenet.features:
            inner = block.conv if hasattr(block, "conv") else block
            y = x
            for layer in (leaf for part in inner for leaf in part.modules() if not list(leaf.children())):
                y = layer(y)
            x = x + y if getattr(block, "shortcut", False) else y
        return x

    torch.testing.assert_close(mobilenet(images)[-1], plain(images), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "encoder",
    [ResNet(BasicBlock, (2, 2, 2, 2)), MobileNetV2(), SmallEncoder()],
    ids=["resnet18", "mobilenetv2", "small"],
)
def test_encoder_gives_strides_4_to_32(encoder):
    maps = encoder(torch.zeros(1, 3, 64, 96))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (c, 64 // s, 96 // s) for c, s in zip(encoder.channels, (4, 8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("size", "quarter"), [((64, 96), (16, 24)), ((45, 61), (12, 16))])
def test_logits_are_at_quarter_resolution(name, size, quarter):
    segmenter = build_segmenter(name, 5).eval()
    assert segmenter(torch.zeros(2, 3, *size)).shape == (2, 5, *quarter)


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (33, 200)])
def test_any_image_size_works(size):
    logits = build_segmenter("fpn-small", 4).eval()(torch.randn(1, 3, *size))
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", ["fpn-mobilenetv2", "fpn-small"])
def test_every_parameter_learns(name):
    segmenter = build_segmenter(name, 3)
    segmenter(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert [n for n, p in segmenter.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_coarsest_level_reaches_the_finest_logits():
    """A change in one corner shows in the other one, far outside the reach of the fine levels alone."""
    segmenter = build_segmenter("fpn-small", 3).eval()
    images = torch.zeros(1, 3, 96, 96)
    changed = images.clone()
    changed[..., :8, :8] = 3
    with torch.no_grad():
        difference = (segmenter(images) - segmenter(changed)).abs().amax(dim=1)[0]
    assert difference[-1, -1] > 0


@pytest.mark.parametrize("name", ["fpn-small", "fpn-resnet18"])
def test_only_the_classifier_is_random(name):
    segmenter = build_segmenter(name, 3, dropout=0.5).eval()
    segmenter.dropout.train()
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        features = segmenter.encode(images)
        assert torch.equal(features, segmenter.encode(images))
        assert not torch.equal(segmenter.classify(features), segmenter.classify(features))


def test_dropout_acts_in_training():
    segmenter = build_segmenter("fpn-small", 3, dropout=0.5).train()
    images = torch.randn(2, 3, 32, 32)
    assert not torch.equal(segmenter(images), segmenter(images))


def test_eval_mode_is_deterministic_and_equals_encode_then_classify():
    segmenter = build_segmenter("fpn-small", 3, dropout=0.5).eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(segmenter(images), segmenter.classify(segmenter.encode(images)))


@pytest.mark.parametrize("name", ["fpn-small", "fpn-resnet18"])
def test_dropout_drops_at_the_given_rate_just_before_the_classifier(name):
    segmenter = build_segmenter(name, 3, dropout=0.25).train()
    seen = []
    segmenter.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    segmenter.classify(torch.ones(100, segmenter.classifier.in_channels, 2, 2))
    assert (seen[0] == 0).float().mean().item() == pytest.approx(0.25, abs=0.05)


def test_small_network_is_small():
    assert 0.3e6 < sum(p.numel() for p in build_segmenter("fpn-small", 11).parameters()) < 0.7e6
