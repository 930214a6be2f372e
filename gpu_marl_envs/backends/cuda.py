"""Environments as CUDA kernels: compiled by nvcc, launched by PyCUDA in torch's context and on its memory."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from gpu_marl_envs.backends.base import Backend
from gpu_marl_envs.backends.compilation import compile_cached, is_strict
from gpu_marl_envs.backends.layout import MANY_COPIES, Layout, cuda_layout
from gpu_marl_envs.backends.source import arguments_dtype, translation_unit
from gpu_marl_envs.errors import BackendUnavailableError, UsageError
from gpu_marl_envs.spec import Environment

# Contraction (fmad) would fuse a multiplication with an addition, and change the bits against a CPU.
_FLAGS = ["-cubin", "-std=c++17", "-O3", "-fmad=false", "-lineinfo", "--expt-relaxed-constexpr"]
_STRICT = ["--Werror", "all-warnings"]


class CudaBackend(Backend):
    """An environment as CUDA kernels on one GPU."""

    checks_actions = False  # a check would wait for the GPU; out-of-range actions are clipped

    def __init__(
        self,
        environment: Environment,
        device: torch.device,
        autoreset: AutoresetMode,
        num_envs: int,
        obs_dtype: torch.dtype = torch.float32,
    ) -> None:
        driver = _driver()
        self.device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        if self.device.index >= torch.cuda.device_count():
            raise BackendUnavailableError(
                f"There is no device '{self.device}': torch sees {torch.cuda.device_count()} GPUs, name one of them."
            )
        major, minor = torch.cuda.get_device_capability(self.device)
        self._context = _primary_context(self.device.index)
        shared_limit = driver.Device(self.device.index).get_attribute(
            driver.device_attribute.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        )
        self.layout, binary = compile_kernels(
            environment, autoreset, f"sm_{major}{minor}", shared_limit, num_envs, obs_dtype
        )
        multiprocessors = torch.cuda.get_device_properties(self.device).multi_processor_count
        self._grid, self._block, self._shared_bytes = self.layout.launch_shape(num_envs, multiprocessors)
        self._process = os.getpid()
        with _current(self._context):
            self._module = driver.module_from_buffer(binary.read_bytes())
            names = ("step", "reset", "observe")
            self._functions = {name: self._module.get_function(f"gpu_marl_{name}") for name in names}
            for function in self._functions.values():
                function.prepare([arguments_dtype(environment)])
                function.set_attribute(
                    driver.function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES, self.layout.shared_bytes
                )

    def bind(self, arguments: np.ndarray[Any, Any]) -> None:
        self._arguments = arguments

    def launch(self, operation: str) -> None:
        current = torch.cuda.current_stream(self.device)
        own, own_as_torch = _own_stream(self.device.index)
        with _current(self._context):
            if current.cuda_stream == 0:  # the legacy default stream, which PyCUDA knows as None
                self._enqueue(operation, None)
            elif current.cuda_stream == own_as_torch.cuda_stream:
                self._enqueue(operation, own)
            else:  # PyCUDA launches on streams of its own only: go there and back, which a graph capture follows
                own_as_torch.wait_stream(current)
                self._enqueue(operation, own)
                current.wait_stream(own_as_torch)

    def _enqueue(self, operation: str, stream: Any) -> None:
        self._functions[operation].prepared_async_call(
            self._grid, self._block, stream, self._arguments.tobytes(), shared_size=self._shared_bytes
        )

    def free_bytes(self) -> int:
        unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return int(torch.cuda.mem_get_info(self.device)[0]) + unused

    def check_process(self) -> None:
        if os.getpid() != self._process:
            raise UsageError(
                "This environment lives on a GPU and its process was forked, which CUDA does not survive; "
                "start processes with the 'spawn' method, or make the environment in the child."
            )

    @property
    def stream(self) -> torch.cuda.Stream:
        """A stream on which launches cost least; make it current for a rollout or a graph capture."""
        return _own_stream(self.device.index)[1]


def compile_kernels(
    environment: Environment,
    autoreset: AutoresetMode,
    architecture: str,
    shared_limit: int,
    num_envs: int = MANY_COPIES,
    obs_dtype: torch.dtype = torch.float32,
) -> tuple[Layout, Path]:
    """Compiles for an architecture (``"sm_90"``) with so many bytes of shared memory per block; needs no GPU.

    Copies are mapped to lanes as is best for ``num_envs``, or for many.

    Raises:
        BackendUnavailableError: there is no nvcc.
        KernelCompileError: the dynamics do not compile.
    """
    clusters = int(architecture.removeprefix("sm_").rstrip("af")) >= 90
    layout = cuda_layout(environment, shared_limit, num_envs, obs_dtype.itemsize, clusters=clusters)
    source = translation_unit(environment, layout, autoreset, obs_dtype, cuda=True)
    command = [_nvcc(), *_FLAGS, *(_STRICT if is_strict() else ()), f"-arch={architecture}"]
    return layout, compile_cached(source, environment.kernel(), command, ".cubin", _nvcc_version())


@cache
def _nvcc() -> str:
    """Path of nvcc: ``$NVCC``, the one on PATH, or the one of ``$CUDA_HOME`` or /usr/local/cuda."""
    candidates = [os.environ.get("NVCC"), "nvcc"]
    candidates += [f"{root}/bin/nvcc" for root in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if root]
    for candidate in candidates:
        path = shutil.which(candidate) if candidate else None
        if path is not None:
            return path
    raise BackendUnavailableError(
        "No nvcc was found to compile kernels with; install the CUDA toolkit and put nvcc on PATH, or use device='cpu'."
    )


@cache
def _nvcc_version() -> str:
    return subprocess.run([_nvcc(), "--version"], capture_output=True, text=True, check=False).stdout


@cache
def _driver() -> Any:
    """PyCUDA's driver module, initialised after torch."""
    if torch.cuda._is_in_bad_fork():
        raise UsageError(
            "CUDA was initialised before this process was forked and cannot be used in it; "
            "start processes with the 'spawn' method."
        )
    if not torch.cuda.is_available():
        raise BackendUnavailableError(
            "device='cuda' needs a GPU that torch can use, and there is none; use device='cpu', or install "
            "a CUDA build of torch and the GPU's driver."
        )
    try:
        driver = importlib.import_module("pycuda.driver")
    except ImportError as error:
        raise BackendUnavailableError(
            f"device='cuda' needs PyCUDA, which cannot be imported ({error}); run `pip install 'gpu-marl-envs[cuda]'`."
        ) from None
    torch.cuda.init()
    driver.init()
    return driver


@cache
def _primary_context(index: int) -> Any:
    """The context that torch uses on a GPU."""
    torch.zeros(1, device=torch.device("cuda", index))  # torch creates it now
    return _driver().Device(index).retain_primary_context()


@cache
def _own_stream(index: int) -> tuple[Any, torch.cuda.Stream]:
    """A stream of PyCUDA on a GPU, and the same stream as torch sees it."""
    with _current(_primary_context(index)):
        stream = _driver().Stream()
    return stream, torch.cuda.ExternalStream(stream.handle, device=torch.device("cuda", index))


@contextlib.contextmanager
def _current(context: Any) -> Iterator[None]:
    """Makes a context current in this thread; each thread starts without one."""
    context.push()
    try:
        yield
    finally:
        context.pop()


BACKEND = CudaBackend
