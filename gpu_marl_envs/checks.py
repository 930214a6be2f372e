"""What users may get wrong in the options of a batch, and how errors name it."""

from __future__ import annotations

import operator
from typing import Any

import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from gpu_marl_envs.errors import ParameterError

OBS_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def given(value: Any) -> str:
    """What was given, in words, for the end of an error's sentence."""
    if not isinstance(value, Tensor):
        return f"{type(value).__name__} was given"
    layout = "" if value.is_contiguous() else "non-contiguous "
    return f"a {layout}{dtype_name(value.dtype)} tensor of shape {list(value.shape)} on {value.device} was given"


def dtype_name(dtype: torch.dtype) -> str:
    """As in ``"float32"``."""
    return str(dtype).removeprefix("torch.")


def positive(value: Any, name: str) -> int:
    """The value as a whole number of at least 1; ParameterError if it is none."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise ParameterError(f"{name} must be a whole number of at least 1, but {value!r} was given.")
    return number


def seed_bits(value: Any) -> int:
    """The seed as the 64-bit pattern that the kernels read; ParameterError if it is not from 0 to 2**64 - 1."""
    try:
        seed = operator.index(value)
    except TypeError:
        seed = -1
    if not 0 <= seed < 2**64:
        raise ParameterError(f"seed must be a whole number from 0 to 2**64 - 1, but {value!r} was given.")
    return seed - 2**64 if seed >= 2**63 else seed


def autoreset_mode_of(value: str | AutoresetMode) -> AutoresetMode:
    """The autoreset mode of that name; ParameterError if there is none."""
    if isinstance(value, AutoresetMode):
        return value
    if isinstance(value, str) and value in AutoresetMode.__members__:
        return AutoresetMode[value]
    names = ", ".join(AutoresetMode.__members__)
    raise ParameterError(f"autoreset_mode must be one of {names}, but {value!r} was given.")


def obs_dtype_of(value: str | torch.dtype) -> torch.dtype:
    """The dtype of observations, given itself or by name; ParameterError if observations cannot have it."""
    for dtype in OBS_DTYPES:
        if value in (dtype, dtype_name(dtype)):
            return dtype
    names = " or ".join(map(str, OBS_DTYPES))
    raise ParameterError(f"obs_dtype must be {names}, but {value!r} was given.")


def device_of(value: str | torch.device) -> torch.device:
    """The torch device of that name; ParameterError if it is not one."""
    try:
        device = torch.device(value)
        return torch.device("cpu") if device.type == "cpu" else device  # torch's CPU tensors have no index
    except (RuntimeError, TypeError):
        raise ParameterError(f"device must be 'cpu', 'cuda' or 'cuda:<number>', but {value!r} was given.") from None
