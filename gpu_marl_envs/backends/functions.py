"""Functions that belong to no environment: written once as its dynamics are, compiled and launched by each backend."""

from __future__ import annotations

import abc
import ctypes
import importlib
import re
from functools import cache
from typing import Any

import torch

from gpu_marl_envs.sources import sources_folder

_STRUCT = re.compile(r"^struct (\w+) \{\n(.*?)^\};", re.MULTILINE | re.DOTALL)
_MEMBER = re.compile(r"^  (?:const )?([\w:]+|unsigned char)(\*?) (\w+)(?:\[(\d+)\])?;", re.MULTILINE)
_TYPES: dict[str, type[Any]] = {"float": ctypes.c_float, "std::int32_t": ctypes.c_int32, "std::int64_t": ctypes.c_int64}


class Functions(abc.ABC):
    """The functions of a folder of ``cuda_src``, compiled for one device.

    A function is a struct of its arguments with what it does; the headers of the folder define them. ``functions_cpu``
    and ``functions_cuda``, two of these headers, export them.

    Attributes:
        folder: with the headers.
        structs: arguments by the name of the function, and the structs that they consist of.
    """

    def __init__(self, folder: str, device: torch.device) -> None:
        """Compiles the functions, or takes them from the cache."""
        self.folder = sources_folder() / folder
        self.device = device
        self.structs = _structs("".join(path.read_text() for path in sorted(self.folder.glob("*.cuh"))))

    @abc.abstractmethod
    def launch(self, arguments: ctypes.Structure, size: int, row_floats: int = 0) -> None:
        """Runs the function of these arguments, in order with torch's work on this device.

        Args:
            arguments: one of ``structs``; the tensors that it points to must be on this device.
            size: number of indexes, rows or lanes, at least 1.
            row_floats: numbers in a row that is worked on in fast memory.
        """


@cache
def functions_for(folder: str, device: torch.device) -> Functions:
    """Compiles the functions of a folder for a device, once; ``backends/<device type>.py`` does it.

    Raises:
        BackendUnavailableError: a compiler is missing.
    """
    module = importlib.import_module(f"gpu_marl_envs.backends.{device.type}")
    functions: Functions = module.FUNCTIONS(folder, device)
    return functions


def _structs(text: str) -> dict[str, type[ctypes.Structure]]:
    """The structs of a source as ctypes sees them, so that their members stand in one place, with comments."""
    bodies = dict(_STRUCT.findall(text))
    made: dict[str, type[ctypes.Structure]] = {}

    def made_of(name: str) -> type[Any]:
        if name not in made:
            members = []
            for kind, pointer, member, length in _MEMBER.findall(bodies[name]):
                member_type: Any = ctypes.c_void_p if pointer else _TYPES.get(kind) or made_of(kind)
                members.append((member, member_type * int(length) if length else member_type))
            made[name] = type(name, (ctypes.Structure,), {"_fields_": members})
        return made[name]

    return {name: made_of(name) for name in bodies}
