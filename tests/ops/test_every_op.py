"""What every op promises alike: of threads, memory layouts, gradients, torch's tools, and empty inputs."""

import pytest
import torch
from calls import CALLS, COMPILED, Call, opcheck
from logit_cases import DTYPES, LAYOUTS, MAP_LAYOUTS, OnDevice, random_logits, same, tensors, threads
from torch._subclasses.fake_tensor import FakeTensorMode

from ralx.ops import BaldAccumulator, bald, confusion_matrix, kl_histogram, region_features

each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
each_call_of_images = pytest.mark.parametrize(
    "call", [call for call in CALLS.values() if len(call.shape) > 3], ids=[n for n in CALLS if "kl" not in n]
)


@each_call
def test_number_of_threads_changes_nothing(call: Call) -> None:
    x = random_logits(*call.shape)
    if len(call.shape) == 4:
        x[0, 1, 3, 4] = torch.nan
    results = []
    for count in (1, 2, 5, 1):
        with threads(count):
            results.append(call.run(x))
    assert all(same(result, results[0]) for result in results)


@each_call_of_images
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_changes_nothing(call: Call, layout) -> None:
    # Of 11 classes CUDA kernels read some layouts in ways of their own, which round otherwise.
    x = random_logits(*call.shape)[..., :7, :, :]
    assert same(call.run(LAYOUTS[layout](x)), call.run(x))


@each_call
def test_inputs_stay_and_outputs_neither_alias_them_nor_require_grad(call: Call) -> None:
    x = random_logits(*call.shape).requires_grad_()
    before = x.detach().clone()
    result = tensors(call.run(x))
    assert torch.equal(x, before) and not any(value.requires_grad for value in result)
    kept = [value.clone() for value in result]
    with torch.no_grad():
        x.zero_()
    assert same(result, kept)
    with torch.inference_mode():
        assert same(call.run(before), kept)


@each_call_of_images
def test_no_images_give_empty_outputs(call: Call) -> None:
    x = random_logits(*call.shape)
    for none, some in zip(*(tensors(call.run(each)) for each in (x[..., :0, :, :, :], x)), strict=True):
        counts = none.shape == some.shape == (len(some),) * 2  # a confusion matrix
        assert none.dtype == some.dtype and not none.any()
        assert counts or none.shape == (0, *some.shape[1:])


@each_call_of_images
def test_a_negated_view_is_read_as_negated(call: Call) -> None:
    x = random_logits(*call.shape)
    assert same(call.run(x._neg_view()), call.run(-x))


def test_a_negated_label_map_is_read_as_negated() -> None:
    x, ids = random_logits(1, 3, 8, 8), torch.randint(3, (1, 8, 8))
    for call in (
        lambda map_: region_features(x, None, regions=map_, num_regions=3),
        lambda map_: confusion_matrix(x, map_, 3),
    ):
        assert same(call((-ids)._neg_view()), call(ids))


@each_call
def test_tensors_without_data_give_outputs_without_data(call: Call) -> None:
    x = random_logits(*call.shape)
    expected = [(value.shape, value.dtype) for value in tensors(call.run(x))]
    on_meta = tensors(call.run(x.to("meta")))
    assert all(value.is_meta for value in on_meta)
    assert [(value.shape, value.dtype) for value in on_meta] == expected
    with FakeTensorMode() as mode:
        fake = tensors(call.run(mode.from_tensor(x)))
        assert [(value.shape, value.dtype) for value in fake] == expected


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("logits", lambda x: region_features(x, (8, 8))),
        ("logits", lambda x: bald([x])),
        ("logits", lambda x: BaldAccumulator().update(x)),
        ("regions", lambda x: region_features(random_logits(1, 3, 8, 8), None, regions=x, num_regions=1)),
        ("prediction", lambda x: confusion_matrix(x, x, 3)),
        ("p", lambda x: kl_histogram(x, x)),
    ],
)
def test_other_devices_are_refused(name, call) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be on the CPU or a CUDA device, got xpu"):
        call(OnDevice(random_logits(1, 3, 8, 8), "xpu"))


@pytest.mark.parametrize(
    ("dtype", "layout", "map_layout"),
    [
        *((dtype, "channels_last", "contiguous") for dtype in DTYPES),
        *zip([torch.float32] * len(LAYOUTS), LAYOUTS, ("contiguous", *MAP_LAYOUTS), strict=True),
    ],
)
def test_opcheck(dtype, layout, map_layout) -> None:
    opcheck(LAYOUTS[layout](random_logits(2, 2, 3, 16, 18).to(dtype)), map_layout)


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_into_one_graph(name, dynamic) -> None:
    axes = CALLS[name].shape
    larger = [n if axis == len(axes) - 3 else n + 3 for axis, n in enumerate(axes)]  # of as many classes
    torch.compiler.reset()

    def run(x):
        return tensors(CALLS[name].run(x * 2))

    compiled = torch.compile(run, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for shape in (axes, larger):
        x = random_logits(*shape).requires_grad_()
        assert same(compiled(x), run(x))


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
@each_call
def test_torchs_default_dtype_changes_nothing(call: Call, default) -> None:
    x = random_logits(*call.shape)
    expected = call.run(x)
    torch.set_default_dtype(default)
    try:
        assert same(call.run(x), expected)
    finally:
        torch.set_default_dtype(torch.float32)
