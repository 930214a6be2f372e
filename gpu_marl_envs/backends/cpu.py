"""Environments as native CPU libraries: compiled by a C++ compiler, called through ctypes, threads over copies."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from gpu_marl_envs.backends.base import Backend
from gpu_marl_envs.backends.compilation import compile_cached, is_strict
from gpu_marl_envs.backends.functions import Functions
from gpu_marl_envs.backends.layout import cpu_layout
from gpu_marl_envs.backends.source import arguments_dtype, translation_unit
from gpu_marl_envs.errors import BackendUnavailableError
from gpu_marl_envs.spec import Environment

SANITIZE_VARIABLE = "GPU_MARL_ENVS_SANITIZE"

# Contraction would fuse a multiplication with an addition on processors that can, and change the bits.
_FLAGS = ["-x", "c++", "-std=c++17", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-ffp-contract=off"]
_FLAGS += ["-fno-math-errno", "-fno-trapping-math", "-pthread"]
_STRICT = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
_SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1"]


class CpuBackend(Backend):
    """An environment as a native library."""

    checks_actions = True

    def __init__(
        self,
        environment: Environment,
        device: torch.device,
        autoreset: AutoresetMode,
        num_envs: int,
        obs_dtype: torch.dtype = torch.float32,
    ) -> None:
        self.device = device
        self._num_envs = num_envs
        self.layout = cpu_layout(environment)
        source = translation_unit(environment, self.layout, autoreset, obs_dtype, cuda=False)
        self._library = _load(_compile(source, environment.kernel()))
        if self._library.gpu_marl_arguments_bytes() != arguments_dtype(environment).itemsize:
            raise _other_structs()
        names = ("step", "reset", "observe")
        self._functions = {name: getattr(self._library, f"gpu_marl_{name}") for name in names}
        for function in self._functions.values():
            function.argtypes = [ctypes.c_void_p, ctypes.c_int]
            function.restype = None
        self._find_invalid_action = self._library.gpu_marl_find_invalid_action
        self._find_invalid_action.argtypes = [ctypes.c_void_p, ctypes.c_int]
        self._find_invalid_action.restype = ctypes.c_longlong

    def bind(self, arguments: np.ndarray[Any, Any]) -> None:
        self._arguments = arguments  # keeps the memory at the address alive
        self._address = arguments.ctypes.data

    def launch(self, operation: str) -> None:
        self._functions[operation](self._address, 1 if self._num_envs == 1 else torch.get_num_threads())

    def find_invalid_action(self, group: int, actions: torch.Tensor, counts: torch.Tensor | None) -> int:
        return int(self._find_invalid_action(self._address, group))

    def free_bytes(self) -> int:
        try:
            lines = Path("/proc/meminfo").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024
        except (OSError, StopIteration):
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def check_process(self) -> None:
        """A native library works in every process, also after a fork."""


class CpuFunctions(Functions):
    """Functions in a native library."""

    def __init__(self, folder: str, device: torch.device) -> None:
        super().__init__(folder, device)
        file = self.folder / "functions_cpu.cuh"
        self._library = _load(_compile(f'#include "{file}"\n', file))
        self._functions: dict[str, Any] = {}

    def launch(self, arguments: ctypes.Structure, size: int, row_floats: int = 0) -> None:
        name = type(arguments).__name__
        function = self._functions.get(name) or self._function(name)
        function(ctypes.addressof(arguments), torch.get_num_threads())

    def _function(self, name: str) -> Any:
        if getattr(self._library, f"gpu_marl_{name}_bytes")() != ctypes.sizeof(self.structs[name]):
            raise _other_structs()
        function = self._functions[name] = getattr(self._library, f"gpu_marl_{name}")
        function.argtypes = [ctypes.c_void_p, ctypes.c_int]
        function.restype = None
        return function


def _other_structs() -> BackendUnavailableError:
    return BackendUnavailableError(f"{_compiler()[0]} lays out structs in its own way; use another C++ compiler.")


@cache
def _compiler() -> tuple[str, ...]:
    """The C++ compiler to use: ``$CXX``, g++, clang++, c++, or the one in the package ziglang."""
    named = os.environ.get("CXX")
    if named:
        command = shlex.split(named)
        if shutil.which(command[0]) is None:
            raise BackendUnavailableError(
                f"The compiler that CXX names, {command[0]!r}, is not there; correct or unset CXX."
            )
        return tuple(command)
    for name in ("g++", "clang++", "c++"):
        path = shutil.which(name)
        if path is not None:
            return (path,)
    if importlib.util.find_spec("ziglang") is not None:
        return (sys.executable, "-m", "ziglang", "c++")
    raise BackendUnavailableError(
        "No C++ compiler was found; install g++ or clang++, or `pip install 'gpu-marl-envs[compiler]'`, "
        "which brings one as a Python package."
    )


@cache
def _identity() -> str:
    """What compiled code depends on apart from the source: the compiler's version and this processor's features."""
    version = subprocess.run([*_compiler(), "--version"], capture_output=True, text=True, check=False).stdout
    features = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features += next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        features += platform.processor() + platform.node()
    return version + features


def _compile(source: str, kernel: Path) -> Path:
    command = [*_compiler(), *_FLAGS, "-march=native"]
    if is_strict():
        command += _STRICT
    if os.environ.get(SANITIZE_VARIABLE):
        command += _SANITIZE
    return compile_cached(source, kernel, command, ".so", _identity())


@cache
def _load(path: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(path))


BACKEND = CpuBackend
FUNCTIONS = CpuFunctions
