"""A function as a CUDA graph."""

import pytest
import torch

from ralx.segmentation import CudaGraph, build_segmenter, normalise


class Doubled:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return 2 * x


def test_off_cuda_the_function_itself_runs_at_every_call() -> None:
    function = Doubled()
    graph = CudaGraph(function)
    for value in (1.0, 2.0, 3.0):
        assert torch.equal(graph(torch.tensor([value])), torch.tensor([2 * value]))
    assert function.calls == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_replays_see_new_images_and_new_weights() -> None:
    segmenter = build_segmenter("fpn-small", 5).cuda().eval()
    graph = CudaGraph(lambda images: segmenter(normalise(images)))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        for _ in range(5):
            images = torch.randint(0, 256, (2, 3, 96, 128), dtype=torch.uint8, generator=generator).cuda()
            for parameter in segmenter.parameters():
                parameter.mul_(0.9)
            torch.clear_autocast_cache()
            expected = segmenter(normalise(images))
            assert torch.allclose(graph(images), expected, atol=1e-2, rtol=1e-2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_a_shape_is_captured_when_it_comes_again_as_long_as_there_are_few() -> None:
    function = Doubled()
    graph = CudaGraph(function)
    for n in [*range(1, 8), *range(1, 8)] * 2:
        assert torch.equal(graph(torch.ones(n, device="cuda")), torch.full((n,), 2.0, device="cuda"))
    captured, warm_up_and_capture, others = 4, 3 + 1, 3
    assert function.calls == captured * (1 + warm_up_and_capture) + others * 4
