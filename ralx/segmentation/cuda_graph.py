"""A network's work on CUDA, launched as one."""

from collections.abc import Callable

import torch
from torch import Tensor

_MOST_SHAPES = 4
_WARM_UP = 3  # calls, in which libraries choose their kernels and take their workspace


class CudaGraph:
    """`function`, of one tensor, as a CUDA graph: replayed at once instead of launched kernel by kernel.

    A shape is captured when it comes a second time; before, for more than a few shapes, and off CUDA,
    `function` itself runs. Whatever it reads besides its argument must stay where it is in memory, as the
    weights of a segmenter do while it is trained in place. It must not wait for the device.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self._replays: dict[tuple, Callable[[Tensor], Tensor] | None] = {}  # None: seen once

    def __call__(self, argument: Tensor) -> Tensor:
        if not argument.is_cuda:
            return self.function(argument)
        precision = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
        key = tuple(argument.shape), argument.dtype, argument.device, precision
        if key not in self._replays:
            if len(self._replays) < _MOST_SHAPES:
                self._replays[key] = None
            return self.function(argument)
        replay = self._replays[key]
        if replay is None:
            replay = self._replays[key] = self._capture(argument, precision)
        return replay(argument)

    def _capture(self, example: Tensor, precision: torch.dtype | None) -> Callable[[Tensor], Tensor]:
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

        def replay(new: Tensor) -> Tensor:
            argument.copy_(new)
            graph.replay()
            return result.clone()

        return replay
