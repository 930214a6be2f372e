"""Calls of the functions in ``cuda_src/training``, on the device of their tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gpu_marl_envs.backends.functions import functions_for


def launch(name: str, device: torch.device, size: int, *, row_floats: int = 0, **arguments: Any) -> None:
    """Runs a function, in order with torch's work on the device.

    Args:
        name: of its struct in ``cuda_src/training``.
        device: where the tensors are.
        size: number of indexes, rows or lanes; nothing happens if it is 0.
        row_floats: numbers in a row that is worked on in fast memory.
        **arguments: the members of the struct: numbers, contiguous tensors, or tuples of these for arrays.
    """
    if size == 0:
        return
    functions = functions_for("training", device)
    plain = {member: value.data_ptr() if isinstance(value, Tensor) else value for member, value in arguments.items()}
    functions.launch(functions.structs[name](**plain), size, row_floats)
