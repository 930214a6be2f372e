"""Work that is repeated on the same tensors of a GPU: it becomes one CUDA graph, which the host only starts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import torch

from gpu_marl_envs.errors import UsageError

Result = TypeVar("Result")
_RECORDING = threading.Lock()


class Recorded(Generic[Result]):
    """Calls a function, and replays what it did from the second call on.

    The first call runs as written, for libraries to load kernels and for optimizers to make their state; the second one
    is recorded and replayed, and all later ones are replayed. The device does the same work in the same order either
    way.

    Args:
        work: reads and writes tensors that stay where they are, never waits for the device, launches the same kernels
            at every call, and takes what changes between calls from tensors. What it returns are the same tensors at
            every replay, which the next one overwrites.
        what: the work, in words for an error.
        device: the GPU where it works, on the stream that is current at the second call.

    Raises:
        UsageError: the work waits for the device; raised by the second call.
    """

    def __init__(self, work: Callable[[], Result], what: str, device: torch.device) -> None:
        self._work, self._what, self._device = work, what, device
        self._has_run = False
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result: Result

    def __call__(self) -> Result:
        """Does the work."""
        if not self._has_run:
            self._has_run = True
            return self._work()
        if self._graph is None:
            self._graph = self._record()
        self._graph.replay()
        return self._result

    def _record(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.current_stream(self._device)
        try:
            # Other threads may use the GPU meanwhile, but not begin to record, which waits for all its streams.
            with _RECORDING, torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                self._result = self._work()
        except RuntimeError as error:
            if "captur" not in str(error):
                raise
            raise UsageError(
                f"A CUDA graph cannot hold {self._what}, because something in it waits for the GPU, as a network does "
                f"that reads a tensor's value in Python; change that, or set cuda_graphs=False ({error})."
            ) from error
        return graph
