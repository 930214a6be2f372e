"""Launches that may start while the kernel before is still ending ("programmatic dependent launch" of Hopper GPUs).

PyCUDA's launches take no attributes, so that these go through CUDA's driver itself, in a context that is current.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path

_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8  # of CUfunction_attribute
_PROGRAMMATIC_STREAM_SERIALIZATION = 6  # of CUlaunchAttributeID


class _Attribute(ctypes.Structure):  # CUlaunchAttribute
    _fields_ = (("id", ctypes.c_int), ("padding", ctypes.c_int), ("value", ctypes.c_int * 16))


class _Config(ctypes.Structure):  # CUlaunchConfig
    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("number_of_attributes", ctypes.c_uint),
    )


class OverlappingKernels:
    """Compiled kernels that wait by themselves for what the kernels before them have written."""

    def __init__(self, binary: Path) -> None:
        """Loads a ``.cubin`` file, for as long as the process lives."""
        self._module = ctypes.c_void_p()
        self._functions: dict[str, ctypes.c_void_p] = {}
        _check(_cuda().cuModuleLoadData(ctypes.byref(self._module), binary.read_bytes()))

    def allow_shared_bytes(self, name: str, shared_bytes: int) -> None:
        """Lets blocks of a kernel use so much dynamic shared memory."""
        function = ctypes.c_void_p()
        _check(_cuda().cuModuleGetFunction(ctypes.byref(function), self._module, name.encode()))
        _check(_cuda().cuFuncSetAttribute(function, _MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes))
        self._functions[name] = function

    def resident_blocks(self, name: str, threads: int) -> int:
        """Blocks of so many threads that run on a multiprocessor at once, without dynamic shared memory."""
        blocks = ctypes.c_int()
        function = self._functions[name]
        count = _cuda().cuOccupancyMaxActiveBlocksPerMultiprocessor
        _check(count(ctypes.byref(blocks), function, threads, ctypes.c_size_t(0)))
        return blocks.value

    def launch(
        self, name: str, grid: Sequence[int], block: Sequence[int], stream: int, shared_bytes: int, argument: bytes
    ) -> None:
        """Launches a kernel that takes one struct, on the stream with this handle."""
        overlap = _Attribute(_PROGRAMMATIC_STREAM_SERIALIZATION, 0, (ctypes.c_int * 16)(1))
        config = _Config(
            (ctypes.c_uint * 3)(*grid, *[1] * (3 - len(grid))),
            (ctypes.c_uint * 3)(*block),
            shared_bytes,
            stream,
            ctypes.pointer(overlap),
            1,
        )
        struct = ctypes.create_string_buffer(argument, len(argument))
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(struct))
        _check(_cuda().cuLaunchKernelEx(ctypes.byref(config), self._functions[name], arguments, None))


@cache
def _cuda() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def _check(code: int) -> None:
    if code == 0:
        return
    text = ctypes.c_char_p()
    _cuda().cuGetErrorString(code, ctypes.byref(text))
    raise RuntimeError(f"CUDA's driver says: {(text.value or b'unknown error').decode()} ({code}).")
