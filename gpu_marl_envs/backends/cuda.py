"""Environments as CUDA kernels: compiled by nvcc, launched by PyCUDA in torch's context and on its memory."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from gpu_marl_envs.backends.base import Backend
from gpu_marl_envs.backends.compilation import compile_cached, is_strict
from gpu_marl_envs.backends.functions import Functions
from gpu_marl_envs.backends.layout import MANY_COPIES, MOST_WORDS, WARP, Layout, Phases, cuda_layout
from gpu_marl_envs.backends.overlapping import OverlappingKernels
from gpu_marl_envs.backends.source import OPERATIONS, arguments_dtype, translation_unit
from gpu_marl_envs.errors import BackendUnavailableError, DeclarationError, ParameterError, UsageError
from gpu_marl_envs.spec import Environment

# Contraction (fmad) would fuse a multiplication with an addition, and change the bits against a CPU.
_FLAGS = ["-cubin", "-std=c++17", "-O3", "-fmad=false", "-lineinfo", "--expt-relaxed-constexpr"]
_STRICT = ["--Werror", "all-warnings"]
_SPLIT_COMPILE_SINCE = 12, 1  # release of nvcc
_THREADS = 128  # of a block of functions
_SHARED_BYTES = 48 * 1024  # that it takes at most, if 32 rows fit
_NON_BLOCKING = 1  # of CUstream_flags


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
        _driver()
        self._gpu = _gpu(torch.cuda.current_device() if device.index is None else device.index)
        self.device = self._gpu.device
        self.layout, binary = compile_kernels(
            environment, autoreset, self._gpu.architecture, self._gpu.shared_limit, num_envs, obs_dtype
        )
        properties = torch.cuda.get_device_properties(self.device)
        self._multiprocessors = properties.multi_processor_count
        self._grid, self._block, self._shared_bytes = self.layout.launch_shape(
            num_envs, self._multiprocessors, self._gpu.shared_limit
        )
        self._turns_round = self.layout.turns_round(num_envs, self._multiprocessors, properties.L2_cache_size)
        self._backwards = False
        self._process = os.getpid()
        self._arguments_bytes = arguments_dtype(environment).itemsize
        self._launchers = {
            operation: [self._launcher(name, searches, binary) for name, searches in _kernels(operation, self.layout)]
            for operation in OPERATIONS
        }

    def bind(self, arguments: np.ndarray[Any, Any]) -> None:
        self._arguments = arguments
        torch.cuda.current_stream(self.device).synchronize()  # whatever stream steps next finds the tensors filled

    def launch(self, operation: str) -> None:
        if self._turns_round:
            self._arguments["backwards"] = self._backwards = not self._backwards
        launchers, arguments = self._launchers[operation], self._arguments.tobytes()

        def launch_all(stream: Any) -> None:
            for launcher in launchers:
                launcher(stream, arguments)

        self._gpu.enqueue(launch_all)

    def _launcher(self, name: str, searches: bool, binary: Path) -> Callable[[Any, bytes], None]:
        """What launches a kernel on a stream of PyCUDA's, with its arguments.

        Where warps search, there are as many blocks as run at once.
        """
        grid, block, shared_bytes = self._grid, self._block, self._shared_bytes
        with self._gpu.current():
            if self.layout.overlaps:
                kernels = self._gpu.overlapping_kernels(binary)
                # Environments share a kernel, and their launches take different amounts. Phases ask for none: what
                # they use is known when they are compiled.
                kernels.allow_shared_bytes(name, self._gpu.shared_limit if shared_bytes else 0)
                if searches:
                    block = WARP * self.layout.searching_warps, 1, 1
                    grid = self._multiprocessors * kernels.resident_blocks(name, block[0]), 1
                return lambda stream, arguments: kernels.launch(
                    name, grid, block, 0 if stream is None else stream.handle, shared_bytes, arguments
                )
            function = self._gpu.module(binary).get_function(name)
            function.prepare([f"{self._arguments_bytes}s"])
            function.set_attribute(_driver().function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES, self.layout.shared_bytes)
        return lambda stream, arguments: function.prepared_async_call(
            grid, block, stream, arguments, shared_size=shared_bytes
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
        """This thread's stream on which launches cost least; make it current for a rollout or a graph capture."""
        return self._gpu.stream


class CudaFunctions(Functions):
    """Functions as CUDA kernels on one GPU."""

    def __init__(self, folder: str, device: torch.device) -> None:
        super().__init__(folder, device)
        self._gpu = _gpu(device.index)
        with self._gpu.current():
            self._module = self._gpu.module(compile_functions(self.folder, self._gpu.architecture))
        self._functions: dict[str, Any] = {}

    def launch(self, arguments: ctypes.Structure, size: int, row_floats: int = 0) -> None:
        name, content = type(arguments).__name__, bytes(arguments)
        function = self._functions.get(name) or self._function(name)
        threads, shared_bytes = _block_of_rows(row_floats, self._gpu.shared_limit)
        grid, block = (-(-size // threads), 1), (threads, 1, 1)
        self._gpu.enqueue(
            lambda stream: function.prepared_async_call(grid, block, stream, content, shared_size=shared_bytes)
        )

    def _function(self, name: str) -> Any:
        with self._gpu.current():
            function = self._functions[name] = self._module.get_function(f"gpu_marl_{name}")
            function.prepare([f"{ctypes.sizeof(self.structs[name])}s"])
            function.set_attribute(_driver().function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES, self._gpu.shared_limit)
        return function


def _block_of_rows(row_floats: int, shared_limit: int) -> tuple[int, int]:
    """Threads of a block, each with a row of so many floats in shared memory, and bytes of it for the block."""
    if row_floats == 0:
        return _THREADS, 0
    row_bytes = 4 * (row_floats | 1)  # as in cuda_src/training/functions_cuda.cuh
    if row_bytes > shared_limit:
        raise ParameterError(
            f"A row of {row_floats} numbers does not fit a block's {shared_limit} bytes of shared memory."
        )
    threads = min(_THREADS, _SHARED_BYTES // row_bytes // 32 * 32) or min(32, shared_limit // row_bytes)
    return threads, threads * row_bytes


def compile_functions(folder: Path, architecture: str) -> Path:
    """Compiles the functions of a folder of kernel sources for an architecture (``"sm_90"``); needs no GPU.

    Raises:
        BackendUnavailableError: there is no nvcc.
        KernelCompileError: they do not compile.
    """
    file = folder / "functions_cuda.cuh"
    return compile_cached(f'#include "{file}"\n', file, _command(architecture), ".cubin", _nvcc_version())


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
        DeclarationError: it declares ``loop_by_loop``, but loops depend on what is known only when it runs.
        KernelCompileError: the dynamics do not compile.
    """
    hopper = int(architecture.removeprefix("sm_").rstrip("af")) >= 90
    layout = cuda_layout(environment, shared_limit, num_envs, obs_dtype.itemsize, hopper=hopper)

    def compiled(layout: Layout, suffix: str) -> Path:
        source = translation_unit(environment, layout, autoreset, obs_dtype, cuda=True)
        command = _command(architecture, suffix, many_kernels=layout.phased)
        return compile_cached(source, environment.kernel(), command, suffix, _nvcc_version())

    if layout.phased:
        assembler = compiled(layout, ".ptx").read_text()
        phases = _find_phases(assembler, environment.id)
        if layout.grouped and _searches_while_playing(assembler):  # for which blocks of a group have too little memory
            layout = cuda_layout(environment, shared_limit, num_envs, obs_dtype.itemsize, may_group=False)
        layout = replace(layout, phases=_grouped(phases) if layout.grouped else phases)
    return layout, compiled(layout, ".cubin")


def _find_phases(assembler: str, env_id: str) -> dict[str, tuple[Phases, ...]]:
    """The phases of each operation as in a layout, which a compiler has worked out (``COUNT_PHASES`` in the engine).

    Raises:
        DeclarationError: it has not, or there is too little room for results of reductions.
    """
    found, words = {}, 0
    for kernel in _kernels_of(assembler):
        for operation, *registers in re.findall(r"// (\w+) has (%r\d+) phases, (%r\d+) words", kernel):
            phases, its_words = (_constant(kernel, register) for register in registers)
            playing, searches = _parts_played(kernel)
            if phases is None or its_words is None or None in playing or None in searches:
                continue
            found[operation] = tuple(
                Phases(p, p + 1, *(() if p in playing else searches.get(p, ()))) for p in range(phases)
            )
            words = max(words, its_words)
    if found.keys() != set(OPERATIONS):
        raise DeclarationError(
            f"{env_id} declares loop_by_loop, but how many loops over agents it has is not known when its kernel is "
            "compiled; leave loop_by_loop out, or make what they depend on static parameters."
        )
    if words > MOST_WORDS:
        raise DeclarationError(
            f"{env_id} declares loop_by_loop, but its reductions and searches leave {words} words of results, with "
            f"room for {MOST_WORDS}; leave loop_by_loop out."
        )
    return found


def _kernels_of(assembler: str) -> list[str]:
    return assembler.split(".entry")[1:]


def _searches_while_playing(assembler: str) -> bool:
    """Whether there is a phase in which warps search in some copies while blocks play others."""
    return any(playing & searches.keys() for playing, searches in map(_parts_played, _kernels_of(assembler)))


def _parts_played(kernel: str) -> tuple[set[int | None], dict[int | None, tuple[int, int]]]:
    """The phases in which blocks play a copy each, and those in which warps search, with ``part`` and ``left``.

    Where copies search in different ways, blocks play them as well. None stands for a phase that cannot be read.
    """

    def phases(register: str) -> set[int | None]:
        # Where the number of phases is a constant, so is each of them; its register may serve for other things as well.
        constants = re.findall(rf"^\s*mov\.\S+\s+{re.escape(register)}, (\d+);", kernel, re.MULTILINE)
        return set(map(int, constants)) or {None}

    playing = set().union(*map(phases, re.findall(r"// plays in (%r\d+)", kernel)))
    searches: dict[int | None, tuple[int, int]] = {}
    for found in re.finditer(r"// searches in (%r\d+), parts of (\d+), left in (%r\d+)", kernel):
        words = re.findall(rf"^\s*mov\.\S+\s+{re.escape(found[3])}, (\S+);", kernel[: found.start()], re.MULTILINE)
        word = int(words[-1]) if words and words[-1].isdecimal() else None
        for phase in {None} if word is None else phases(found[1]):
            search = int(found[2]), word or 0
            if searches.setdefault(phase, search) != search:  # another search, of copies that do something else
                playing.add(phase)
    return playing, searches


def _grouped(phases: dict[str, tuple[Phases, ...]]) -> dict[str, tuple[Phases, ...]]:
    """The same with all phases between two searches in one launch."""
    grouped = {}
    for operation, single in phases.items():
        runs = [list(run) for _, run in groupby(single, key=lambda phase: phase.first if phase.part else -1)]
        grouped[operation] = tuple(Phases(run[0].first, run[-1].end, run[0].part, run[0].left) for run in runs)
    return grouped


def _constant(kernel: str, register: str) -> int | None:
    """What a register of PTX code is set to, if that is a number and happens once."""
    written = re.findall(rf"^\s*(?:@\S+\s+)?(\S+)\s+{re.escape(register)}, (.*);", kernel, re.MULTILINE)
    is_constant = len(written) == 1 and written[0][0].startswith("mov.") and written[0][1].isdecimal()
    return int(written[0][1]) if is_constant else None


def _kernels(operation: str, layout: Layout) -> list[tuple[str, bool]]:
    """The kernels that an operation launches, in this order, and whether warps search in it."""
    name = f"gpu_marl_{operation}"
    if not layout.phased:
        return [(name, False)]
    return [(f"{name}_{phases.first}", phases.part > 0) for phases in layout.phases[operation]]


def _command(architecture: str, suffix: str = ".cubin", *, many_kernels: bool = False) -> list[str]:
    flags = _FLAGS if suffix == ".cubin" else ["-ptx", *_FLAGS[1:]]
    release = re.search(r"release (\d+)\.(\d+)", _nvcc_version())
    at_once = many_kernels and release is not None and (int(release[1]), int(release[2])) >= _SPLIT_COMPILE_SINCE
    parallel = ["--split-compile=0"] if at_once else []  # on all processors
    return [_nvcc(), *flags, *parallel, *(_STRICT if is_strict() else ()), f"-arch={architecture}"]


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


class _Gpu:
    """One GPU, as torch and PyCUDA both know it.

    Attributes:
        device: for torch.
        architecture: for nvcc.
        shared_limit: bytes of shared memory that a block may use.
    """

    def __init__(self, index: int) -> None:
        driver = _driver()
        self.device = torch.device("cuda", index)
        if index >= torch.cuda.device_count():
            raise BackendUnavailableError(
                f"There is no device '{self.device}': torch sees {torch.cuda.device_count()} GPUs, name one of them."
            )
        major, minor = torch.cuda.get_device_capability(self.device)
        self.architecture = f"sm_{major}{minor}"
        self.shared_limit = driver.Device(index).get_attribute(
            driver.device_attribute.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        )
        torch.zeros(1, device=self.device)  # torch creates its context now
        self._context = driver.Device(index).retain_primary_context()
        self._streams: dict[int, tuple[Any, torch.cuda.Stream]] = {}
        self._modules: dict[Path, Any] = {}
        self._overlapping: dict[Path, OverlappingKernels] = {}
        atexit.register(self._release)

    @property
    def stream(self) -> torch.cuda.Stream:
        """This thread's stream of PyCUDA's."""
        return self._own()[1]

    def _own(self) -> tuple[Any, torch.cuda.Stream]:
        """This thread's stream, as PyCUDA and torch know it.

        With one for all threads, what one of them launches would become part of a graph that another one captures. Nor
        do streams wait for the default stream, as torch's own do not: a launch there would break off the capture.
        """
        thread = threading.get_ident()
        if thread not in self._streams:
            with self.current():
                own = _driver().Stream(_NON_BLOCKING)
            self._streams[thread] = own, torch.cuda.ExternalStream(own.handle, device=self.device)
        return self._streams[thread]

    def module(self, binary: Path) -> Any:
        """Compiled kernels, in a context that is current.

        They are kept: garbage is collected in any thread and at any time, and unloading kernels takes the thread that
        loaded them and breaks off a graph that is being captured.
        """
        if binary not in self._modules:
            self._modules[binary] = _driver().module_from_buffer(binary.read_bytes())
        return self._modules[binary]

    def overlapping_kernels(self, binary: Path) -> OverlappingKernels:
        """The same as ``module``, for launches that overlap."""
        if binary not in self._overlapping:
            self._overlapping[binary] = OverlappingKernels(binary)
        return self._overlapping[binary]

    def _release(self) -> None:
        """Frees what PyCUDA could no longer free once Python has ended."""
        with self.current():
            self._modules.clear()
            self._streams.clear()

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Makes torch's context current in this thread; each thread starts without one."""
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def enqueue(self, launch: Callable[[Any], None]) -> None:
        """Has a stream of PyCUDA's launched on, in order with the work on torch's current stream."""
        current = torch.cuda.current_stream(self.device)
        own, stream = self._own()
        with self.current():
            if current.cuda_stream == 0:  # the legacy default stream, which PyCUDA knows as None
                launch(None)
            elif current.cuda_stream == stream.cuda_stream:
                launch(own)
            else:  # PyCUDA launches on streams of its own only: go there and back, which a graph capture follows
                stream.wait_stream(current)
                launch(own)
                current.wait_stream(stream)


@cache
def _gpu(index: int) -> _Gpu:
    return _Gpu(index)


BACKEND = CudaBackend
FUNCTIONS = CudaFunctions
