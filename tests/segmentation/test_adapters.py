"""Segmenters of other libraries, against the real packages where they are installed."""

import copy
import importlib.util
import json
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from tiny_segmentation import IGNORE, TinyDataset
from torch import nn

from ralx.segmentation import (
    SegmenterTrainer,
    TrainingConfig,
    build_segmenter,
    dropout_layers,
    load_weights,
    mc_logits,
    normalise,
    predict,
)
from ralx.segmentation.adapters import _load_torchvision
from ralx.segmentation.encoders import BasicBlock, ResNet


def needs(package):
    # Not by an import: torchvision's may fail beside a torch without CUDA until the adapter has seen to it.
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(
        missing, reason=f"needs {package}, which the test extra leaves out for its size"
    )


smp = needs("segmentation_models_pytorch")
torchvision = needs("torchvision")
transformers = needs("transformers")

SMALL_UNET = "smp:Unet?encoder_name=resnet18&encoder_depth=3&decoder_channels=(32,16,8)"
SMALL_FPN = "smp:FPN?encoder_name=resnet18&decoder_pyramid_channels=32&decoder_segmentation_channels=32"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def connect(*args):
        raise AssertionError(f"a connection to {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)


def tiny_segformer(decoder_hidden_size=16):
    _load_torchvision()
    from transformers import SegformerConfig

    sizes = dict(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2])
    return SegformerConfig(num_labels=5, decoder_hidden_size=decoder_hidden_size, **sizes)


@pytest.fixture
def segformer(tmp_path):
    """A folder with a Segformer for five classes, and its weights."""
    config = tiny_segformer()
    from transformers import SegformerForSemanticSegmentation

    network = SegformerForSemanticSegmentation(config)
    network.save_pretrained(tmp_path / "segformer")
    return tmp_path / "segformer", network.state_dict()


def name_of(name, tmp_path):
    if name != "hf":
        return name
    tiny_segformer().to_json_file(tmp_path / "tiny.json")
    return f"hf:{tmp_path / 'tiny.json'}"


# --- every library ----------------------------------------------------------------------------------------

NETWORKS = [
    pytest.param(SMALL_UNET, False, marks=smp),
    pytest.param(SMALL_FPN, True, marks=smp),
    pytest.param("torchvision:lraspp_mobilenet_v3_large", False, marks=torchvision),
    pytest.param("torchvision:deeplabv3_mobilenet_v3_large?aux_loss=true", True, marks=torchvision),
    pytest.param("hf", True, marks=transformers),
]


@pytest.mark.parametrize(("name", "has_dropout"), NETWORKS)
def test_a_network_is_trained_saved_and_run_on_images_of_any_size(tmp_path, name, has_dropout):
    data = TinyDataset(image_size=(45, 70))
    segmenter = build_segmenter(name_of(name, tmp_path), 3)
    images, labels = data.batch(torch.arange(4))
    labels[:, :10] = IGNORE
    before = copy.deepcopy(segmenter.state_dict())
    trainer = SegmenterTrainer(segmenter, TrainingConfig(), lr=0.05, ignore_index=IGNORE)
    assert trainer.step(images, labels).isfinite()
    changed = [n for n, tensor in segmenter.state_dict().items() if not torch.equal(tensor, before[n])]
    assert len(changed) > len(before) / 2
    expected = predict(segmenter, images)
    assert expected.shape[:2] == (4, 3) and expected.isfinite().all()
    assert 45 / 4 <= expected.shape[2] <= 45 and 70 / 4 <= expected.shape[3] <= 70

    again = SegmenterTrainer(
        build_segmenter(name_of(name, tmp_path), 3), TrainingConfig(), lr=1, ignore_index=IGNORE
    )
    again.load_state_dict(trainer.state_dict())
    for same in (again.segmenter, copy.deepcopy(segmenter)):
        torch.testing.assert_close(predict(same, images), expected, rtol=0, atol=0)

    assert bool(dropout_layers(segmenter)) == has_dropout
    if has_dropout:
        first, second = mc_logits(segmenter, normalise(images), 2)
        assert first.shape == expected.shape and not torch.equal(first, second)
    else:
        with pytest.raises(ValueError, match="MC passes need a dropout layer"):
            mc_logits(segmenter, normalise(images), 2)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(SMALL_UNET, marks=smp),
        pytest.param("torchvision:lraspp_mobilenet_v3_large", marks=torchvision),
        pytest.param("segformer", marks=transformers),
    ],
)
def test_equal_seeds_give_equal_weights(request, name):
    if name == "segformer":  # whose classifier is new
        name = f"hf:{request.getfixturevalue('segformer')[0]}"
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(build_segmenter(name, 3).state_dict())
    first, same, other = states
    assert all(torch.equal(tensor, same[n]) for n, tensor in first.items())
    assert any(not torch.equal(tensor, other[n]) for n, tensor in first.items())


# --- names that mean no network ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "smp:Unet?resnet18",
            r"smp:Unet\?resnet18: expected options as name=value&name=value, .* got 'resnet18'",
        ),
        ("smp:Unet?=3", "each once, got '=3'"),
        ("torchvision:fcn_resnet50?aux_loss=true&aux_loss=false", "each once, got 'aux_loss=false'"),
        (
            "hf:nvidia/no-such-model",
            "expected a local folder .* got 'nvidia/no-such-model'; nothing is downl",
        ),
        ("hf:", "expected a local folder with config.json and safetensors, or a config file .* got ''"),
    ],
)
def test_names_that_need_no_library_to_be_refused(name, message):
    with pytest.raises(ValueError, match=f"^segmenter: .*{message}"):
        build_segmenter(name, 3)


def test_the_dropout_of_a_library_is_given_in_the_name():
    with pytest.raises(ValueError, match=r"^dropout: smp:FPN sets its own rate; .*decoder_dropout=0\.3"):
        build_segmenter("smp:FPN", 3, dropout=0.3)


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("smp:Unet", "segmentation_models_pytorch", "smp"),
        ("torchvision:fcn_resnet50", "torchvision", "torchvision"),
        ("hf:{}/config.json", "transformers", "transformers"),
        ("hf:{}", "transformers", "transformers"),
    ],
)
def test_a_missing_package_is_named_with_its_command(tmp_path, monkeypatch, name, package, extra):
    (tmp_path / "config.json").write_text("{}")
    for missing in (package, "torchvision", "torchvision.models"):
        monkeypatch.setitem(sys.modules, missing, None)
    name = name.format(tmp_path)
    expected = rf"^segmenter: {name} needs {package}: pip install 'ralx\[{extra}\]' \(.*{package}"
    with pytest.raises(ValueError, match=expected):
        build_segmenter(name, 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("smp:Unett", "expected an architecture among Unet, .*FPN, .*, got 'Unett'", marks=smp),
        pytest.param(
            "smp:Unet?encoder=resnet18",
            "expected options among decoder_attention_type, .*encoder_name, got 'encoder'",
            marks=smp,
        ),
        pytest.param("smp:Unet?classes=4", "expected options among .*, got 'classes'", marks=smp),
        pytest.param("smp:Unet?encoder_name=no-such", "can't be made: .*no-such.*resnet18", marks=smp),
        pytest.param(
            "smp:Unet?encoder_weights=imagenet",
            "encoder_weights can't be given, for nothing is downloaded; .* by the option weights",
            marks=smp,
        ),
        pytest.param(
            "torchvision:unet",
            "expected a network among deeplabv3_.*, lraspp_mobilenet_v3_large, got 'unet'",
            marks=torchvision,
        ),
        pytest.param(
            "torchvision:lraspp_mobilenet_v3_large?aux_loss=true",
            "expected options among none, got 'aux_loss'",
            marks=torchvision,
        ),
        pytest.param(
            "hf", "expected options among .*classifier_dropout_prob.*, got 'dropout'", marks=transformers
        ),
    ],
)
def test_networks_and_options_that_a_library_lacks(tmp_path, name, message):
    if name == "hf":
        name = name_of(name, tmp_path) + "?dropout=0.3"
    with pytest.raises(ValueError, match=f"^segmenter: .*{message}"):
        build_segmenter(name, 3)


# --- segmentation_models_pytorch --------------------------------------------------------------------------


@smp
@pytest.mark.parametrize("size", [(64, 96), (45, 70)])
def test_an_smp_network_is_the_librarys_own_with_the_border_repeated(size):
    segmenter = build_segmenter(SMALL_UNET, 3).eval()
    import segmentation_models_pytorch

    options = dict(encoder_name="resnet18", encoder_depth=3, decoder_channels=(32, 16, 8))
    own = segmentation_models_pytorch.Unet(encoder_weights=None, classes=3, **options).eval()
    own.load_state_dict(segmenter.state_dict())
    images = torch.randn(2, 3, *size)
    padded = nn.functional.pad(images, (0, -size[1] % 8, 0, -size[0] % 8), mode="replicate")
    with torch.no_grad():
        torch.testing.assert_close(segmenter(images), own(padded)[..., : size[0], : size[1]])


@smp
def test_logits_of_lower_resolution_are_cut_in_proportion():
    segmenter = build_segmenter(f"{SMALL_FPN}&upsampling=1&decoder_dropout=0.4", 3).eval()
    assert segmenter(torch.randn(1, 3, 45, 70)).shape == (1, 3, 12, 18)
    assert [layer.p for layer in dropout_layers(segmenter)] == [0.4]


@smp
def test_a_classification_file_of_the_encoder_loads(tmp_path):
    encoder = ResNet(BasicBlock, (2, 2, 2, 2))  # under torchvision's names
    torch.save(
        encoder.state_dict() | {"fc.weight": torch.ones(9, 512), "fc.bias": torch.ones(9)}, tmp_path / "r.pth"
    )
    segmenter = build_segmenter("smp:Unet?encoder_name=resnet18", 3, weights=tmp_path / "r.pth")
    found = segmenter.encoder.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in encoder.state_dict().items())


# --- torchvision ------------------------------------------------------------------------------------------


def test_a_classification_file_loads_into_what_torchvision_calls_backbone(tmp_path):
    class Backbone(nn.Conv2d):
        def load_state_dict(self, state_dict):
            raise AssertionError("another method, as smp's DenseNets have one")

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = Backbone(3, 4, 1)
            self.classifier = nn.Conv2d(4, 3, 1)

    expected, segmenter = nn.Conv2d(3, 4, 1), Network()
    torch.save(expected.state_dict(), tmp_path / "backbone.pth")
    load_weights(segmenter, tmp_path / "backbone.pth")
    assert torch.equal(segmenter.backbone.weight, expected.weight)


FAKE_TORCHVISION = {
    # As the real ones begin: operators that load or not, then their descriptions.
    "__init__.py": "from torchvision import operators, descriptions",
    "operators.py": """
        import torch
        library = torch.library.Library("torchvision", "DEF")
        for name in {operators}:
            library.define(f"{{name}}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        """,
    "descriptions.py": """
        import torch
        for name in {described}:
            torch.library.register_fake(f"torchvision::{{name}}")(lambda dets, scores, iou_threshold: None)
        """,
}


@pytest.mark.parametrize(
    ("operators", "described", "outcome"),
    [
        ((), ("nms", "qnms"), "True"),
        (("nms", "qnms"), ("nms", "qnms"), "False"),
        ((), ("other",), "operator torchvision::other does not exist"),
    ],
    ids=["operators that don't load", "operators that load", "another operator"],
)
def test_torchvision_gets_the_schemas_that_it_lacks(tmp_path, operators, described, outcome):
    (tmp_path / "torchvision").mkdir()
    for name, text in FAKE_TORCHVISION.items():
        text = textwrap.dedent(text).format(operators=operators, described=described)
        (tmp_path / "torchvision" / name).write_text(text)
    program = """
        from ralx.segmentation import adapters
        adapters._load_torchvision()
        adapters._load_torchvision()
        import torch, torchvision
        assert torch.ops.torchvision.nms and torch.ops.torchvision.qnms
        print(adapters._define_missing_schemas.cache_info().currsize == 1)
    """
    paths = [str(tmp_path), str(Path(__file__).parents[2])]
    program = f"import sys; sys.path[:0] = {paths}\n" + textwrap.dedent(program)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert outcome in (done.stdout or done.stderr)


@torchvision
def test_an_operator_that_did_not_load_is_refused_by_torchvision_itself():
    _load_torchvision()
    from torchvision import extension, ops

    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2]])
    if extension._has_ops():
        assert ops.nms(boxes, torch.tensor([1.0, 0.5]), 0.5).tolist() == [0]
    else:
        with pytest.raises(RuntimeError, match="Couldn't load custom C\\+\\+ ops"):
            ops.nms(boxes, torch.tensor([1.0, 0.5]), 0.5)


# --- transformers -----------------------------------------------------------------------------------------


@transformers
def test_a_folders_weights_are_loaded_and_the_classifier_is_made_anew(segformer):
    folder, weights = segformer
    found = build_segmenter(f"hf:{folder}", 3).state_dict()
    assert found["decode_head.classifier.weight"].shape == (3, 16, 1, 1)
    differ = {name for name, tensor in weights.items() if not torch.equal(found[name], tensor)}
    assert differ == {"decode_head.classifier.weight", "decode_head.classifier.bias"}
    found = build_segmenter(f"hf:{folder}", 5).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())


@transformers
def test_weights_of_half_precision_are_trained_in_float32(segformer, tmp_path):
    folder, weights = segformer
    half = {name: t.half() if t.is_floating_point() else t for name, t in weights.items()}
    save_file(half, folder / "model.safetensors", {"format": "pt"})
    found = build_segmenter(f"hf:{folder}", 5)
    assert {parameter.dtype for parameter in found.parameters()} == {torch.float32}


@transformers
def test_a_classification_networks_folder_gives_the_encoder(tmp_path):
    config = tiny_segformer()
    from transformers import SegformerForImageClassification

    classifier = SegformerForImageClassification(config)
    classifier.save_pretrained(tmp_path)
    found = build_segmenter(f"hf:{tmp_path}", 3).segformer.state_dict()
    assert all(torch.equal(found[name], t) for name, t in classifier.segformer.state_dict().items())


def test_a_transformers_whose_new_classifiers_follow_no_seed_is_refused(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(__version__="4.57.6"))
    with pytest.raises(ValueError, match=r"needs transformers 5 or newer, got 4\.57\.6$"):
        build_segmenter(f"hf:{tmp_path}", 3)


@transformers
def test_options_of_the_config(tmp_path):
    segmenter = build_segmenter(name_of("hf", tmp_path) + "?classifier_dropout_prob=0.25", 3)
    assert segmenter.decode_head.dropout.p == 0.25


@transformers
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "can't be made: .*model.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no"), "can't be made: "),
        (
            lambda folder: save_file({"a": torch.ones(1)}, folder / "model.safetensors", {"format": "pt"}),
            "expected weights of this network, got none",
        ),
        (
            lambda folder: tiny_segformer(decoder_hidden_size=8).to_json_file(folder / "config.json"),
            r"'decode_head\.\S*' should have shape \[.*8.*\], got \[.*16",
        ),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'),
            "can't be made: .*Segf",
        ),
        (lambda folder: (folder / "config.json").write_text("no"), "can't be made: .*config.json"),
        (lambda folder: (folder / "config.json").unlink(), "expected a local folder with config.json"),
    ],
)
def test_folders_without_a_network(segformer, spoil, message):
    folder, _ = segformer
    spoil(folder)
    with pytest.raises(ValueError, match=rf"(?s)^segmenter: hf:{folder}:? {message}"):
        build_segmenter(f"hf:{folder}", 3)


@transformers
def test_neither_pickles_nor_code_of_a_folder_run(segformer):
    folder, weights = segformer
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"(?s)can't be made: .*safetensors"):
        build_segmenter(f"hf:{folder}", 5)
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "own.py").write_text("raise SystemExit('code of the folder ran')")
    with pytest.raises(ValueError, match=r"(?s)can't be made: .*trust_remote_code"):
        build_segmenter(f"hf:{folder}", 5)
