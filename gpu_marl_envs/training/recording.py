"""Work that is repeated on the same tensors: on a GPU it becomes one CUDA graph, which the host only starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch

Result = TypeVar("Result")


class Recorded(Generic[Result]):
    """Calls a function, and on a GPU replays what it did from the second call on.

    The first call runs as written, for libraries to load kernels and for optimizers to make their state; the second one
    is recorded and replayed, and all later ones are replayed. The device does the same work in the same order either
    way. On other devices every call runs as written.

    Args:
        work: reads and writes tensors that stay where they are, never waits for the device, launches the same kernels
            at every call, and takes what changes between calls from tensors. What it returns on a GPU is the same
            tensors at every replay, which the next one overwrites.
        device: where it works, on the stream that is current at the second call.
    """

    def __init__(self, work: Callable[[], Result], device: torch.device) -> None:
        self._work = work
        self._device = device
        self._has_run = False
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result: Result

    def __call__(self) -> Result:
        """Does the work."""
        if self._device.type != "cuda" or not self._has_run:
            self._has_run = True
            return self._work()
        if self._graph is None:
            self._graph = self._record()
        self._graph.replay()
        return self._result

    def _record(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.current_stream(self._device)
        # Other threads may use the GPU meanwhile.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            self._result = self._work()
        return graph
