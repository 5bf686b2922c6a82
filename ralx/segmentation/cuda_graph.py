"""A network's work on CUDA, launched as one."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_MOST_SHAPES = 4
_WARM_UP = 3  # calls, in which libraries choose their kernels and take their workspace


class _Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    argument: Tensor
    result: Tensor


class CudaGraph:
    """`function`, of one tensor, as a CUDA graph: replayed at once instead of launched kernel by kernel.

    A shape is captured when it comes a second time; before, for more than a few shapes, and off CUDA,
    `function` itself runs. Whatever it reads besides its argument must stay where it is in memory, as the
    weights of a segmenter do while it is trained in place. It must not wait for the device.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self._captured: dict[tuple, _Captured | None] = {}  # None: seen once

    def __call__(self, argument: Tensor) -> Tensor:
        if not argument.is_cuda:
            return self.function(argument)
        precision = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
        key = tuple(argument.shape), argument.dtype, argument.device, precision
        if key not in self._captured:
            if len(self._captured) < _MOST_SHAPES:
                self._captured[key] = None
            return self.function(argument)
        captured = self._captured[key]
        if captured is None:
            captured = self._captured[key] = self._capture(argument, precision)
        captured.argument.copy_(argument)
        captured.graph.replay()
        return captured.result.clone()

    def _capture(self, example: Tensor, precision: torch.dtype | None) -> _Captured:
        argument, graph = example.clone(), torch.cuda.CUDAGraph()
        # Weights that autocast keeps converted would be out of date, or gone, at a replay.
        uncached = torch.autocast("cuda", precision, enabled=precision is not None, cache_enabled=False)
        stream = torch.cuda.Stream(example.device)
        stream.wait_stream(torch.cuda.current_stream(example.device))
        with torch.no_grad(), uncached:
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP):
                    self.function(argument)
            torch.cuda.current_stream(example.device).wait_stream(stream)
            with torch.cuda.graph(graph):
                result = self.function(argument)
        return _Captured(graph, argument, result)
