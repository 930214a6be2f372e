"""What BatchedEnv asks of a backend."""

from __future__ import annotations

import abc
import importlib
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from gpu_marl_envs.backends.layout import Layout
from gpu_marl_envs.errors import BackendUnavailableError
from gpu_marl_envs.spec import Environment


class Backend(abc.ABC):
    """An environment compiled for one device.

    Attributes:
        layout: how copies map to the device.
        device: where the tensors live.
    """

    layout: Layout
    device: torch.device
    checks_actions: bool  # whether actions are checked unless the user says otherwise

    @abc.abstractmethod
    def __init__(
        self,
        environment: Environment,
        device: torch.device,
        autoreset: AutoresetMode,
        num_envs: int,
        obs_dtype: torch.dtype,
    ) -> None:
        """Compiles the environment for so many copies and such observations, or takes it from the cache."""

    @abc.abstractmethod
    def bind(self, arguments: np.ndarray[Any, Any]) -> None:
        """Says what later launches take; the caller changes the struct in place between them.

        Args:
            arguments: the struct of :func:`gpu_marl_envs.backends.source.arguments_dtype`, shape ``()``.
        """

    @abc.abstractmethod
    def launch(self, operation: str) -> None:
        """Runs ``step``, ``reset`` or ``observe`` over all copies, in order with torch's work on this device."""

    def find_invalid_action(self, group: int, actions: torch.Tensor, counts: torch.Tensor | None) -> int:
        """Index of the first element of a group's bound actions that lies outside the action space, or -1.

        Args:
            group: number of the group.
            actions: the tensor that is bound.
            counts: number of choices of each component, or none for continuous actions.
        """
        bad = ~actions.isfinite() if counts is None else (actions < 0) | (actions >= counts)
        return int(bad.flatten().int().argmax()) if bool(bad.any()) else -1

    @abc.abstractmethod
    def free_bytes(self) -> int:
        """Memory that new tensors may take."""

    @abc.abstractmethod
    def check_process(self) -> None:
        """Raises UsageError where this process cannot use the device."""


def backend_for(
    environment: Environment, device: torch.device, autoreset: AutoresetMode, num_envs: int, obs_dtype: torch.dtype
) -> Backend:
    """Compiles an environment for a device and a number of copies; ``backends/<device type>.py`` does it.

    Raises:
        BackendUnavailableError: there is no backend for this type of device, or it lacks a compiler or driver.
        KernelCompileError: the dynamics do not compile.
    """
    try:
        module = importlib.import_module(f"gpu_marl_envs.backends.{device.type}")
    except ModuleNotFoundError as error:
        if error.name != f"gpu_marl_envs.backends.{device.type}":
            raise
        raise BackendUnavailableError(f"There is no backend for device {str(device)!r}; use 'cpu' or 'cuda'.") from None
    backend: Backend = module.BACKEND(environment, device, autoreset, num_envs, obs_dtype)
    return backend
