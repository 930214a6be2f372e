"""A batch of one copy, read and written per agent with NumPy arrays and Python numbers."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from gpu_marl_envs.spec import Group


class Mirror:
    """Tensors of a batch of one copy as NumPy arrays: the same memory on the CPU, copies of it for a GPU.

    Attributes:
        arrays: the tensors without their first dimension.
    """

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        sources = list(tensors)
        hosts = [
            source if source.device.type == "cpu" else torch.empty_like(source, device="cpu") for source in sources
        ]
        self._remote = [pair for pair in zip(sources, hosts, strict=True) if pair[0] is not pair[1]]
        self.arrays: list[np.ndarray] = [host.numpy()[0, ...] for host in hosts]

    def fetch(self) -> None:
        """Brings the arrays up to date."""
        for source, host in self._remote:
            host.copy_(source)

    def send(self) -> None:
        """Brings the tensors up to date."""
        for source, host in self._remote:
            source.copy_(host)


class StepResult:
    """What a step returns, read per agent."""

    def __init__(
        self,
        observation: dict[str, torch.Tensor],
        reward: dict[str, torch.Tensor],
        terminated: dict[str, torch.Tensor],
        truncated: torch.Tensor,
    ) -> None:
        self._mirror = Mirror([*observation.values(), *reward.values(), *terminated.values(), truncated])
        groups = len(observation)
        arrays = self._mirror.arrays
        self._observations, self._rewards = arrays[:groups], arrays[groups : 2 * groups]
        self._terminations, self._truncated = arrays[2 * groups : 3 * groups], arrays[-1]

    def read(self) -> tuple[list[np.ndarray], list[float], list[bool], bool]:
        """Fresh observations, rewards and terminations of all agents, and the truncation."""
        self._mirror.fetch()
        observations: list[np.ndarray] = []
        rewards: list[float] = []
        terminations: list[bool] = []
        for array in self._observations:
            observations.extend(array.copy())
        for array in self._rewards:
            rewards += array.tolist()
        for array in self._terminations:
            terminations += array.tolist()
        return observations, rewards, terminations, bool(self._truncated)


class MaskedObservations:
    """Action masks beside the observations of those agents that have one, as PettingZoo's environments have them."""

    def __init__(self, groups: Iterable[Group], masks: Mapping[str, torch.Tensor]) -> None:
        self._mirror = Mirror(masks.values())
        arrays = dict(zip(masks, self._mirror.arrays, strict=True))
        self._rows: list[tuple[np.ndarray, Group] | None] = []
        for group in groups:
            rows = arrays.get(group.name)
            self._rows += [None if rows is None else (rows[i], group) for i in range(group.size)]

    def of(self, observations: Iterable[np.ndarray]) -> list[Any]:
        """The observations of all agents, each with its present mask."""
        self._mirror.fetch()
        pairs = zip(observations, self._rows, strict=True)
        return [seen if row is None else {"observation": seen, "action_mask": _mask(*row)} for seen, row in pairs]


def observation_space(group: Group) -> spaces.Space[Any]:
    """What an agent of the group observes: a ``Box``, or with a mask ``{"observation": …, "action_mask": …}``."""
    if not group.action_mask:
        return group.observation_space
    masks = [spaces.Box(0, 1, (count,), np.int8) for count in group.action_counts]
    mask = spaces.Tuple(masks) if group.action_shape else masks[0]
    return spaces.Dict({"observation": group.observation_space, "action_mask": mask})


def _mask(row: np.ndarray, group: Group) -> np.ndarray | tuple[np.ndarray, ...]:
    """What ``sample`` of the group's action space takes."""
    if not group.action_shape:
        return row.astype(np.int8)
    return tuple(part[:count].astype(np.int8) for part, count in zip(row, group.action_counts, strict=True))


def action_writer(group: Group, buffer: np.ndarray, i: int) -> Callable[[Any], None]:
    """A function that writes an action of the group's ``i``-th agent; it raises TypeError or ValueError if invalid."""
    if isinstance(group.action_space, spaces.Discrete):
        return _discrete_writer(buffer, i, group.action_counts[0])
    if isinstance(group.action_space, spaces.MultiDiscrete):
        return _multi_discrete_writer(buffer[i], group.action_counts)
    return _box_writer(buffer[i])


def _discrete_writer(buffer: np.ndarray, i: int, count: int) -> Callable[[Any], None]:
    def write(action: Any) -> None:
        value = operator.index(action)
        if not 0 <= value < count:
            raise ValueError
        buffer[i] = value

    return write


def _multi_discrete_writer(row: np.ndarray, counts: tuple[int, ...]) -> Callable[[Any], None]:
    def write(action: Any) -> None:
        action = np.asarray(action)
        if action.dtype.kind not in "iu" or action.shape != row.shape:
            raise ValueError
        for value, count in zip(action.tolist(), counts, strict=True):
            if not 0 <= value < count:
                raise ValueError
        row[:] = action

    return write


def _box_writer(row: np.ndarray) -> Callable[[Any], None]:
    def write(action: Any) -> None:
        action = np.asarray(action, dtype=np.float32)
        if action.shape != row.shape or not all(map(math.isfinite, action.ravel().tolist())):
            raise ValueError
        row[...] = action

    return write


def shown(action: Any) -> str:
    """An action for an error message, on one line and not too long."""
    text = " ".join(repr(action).split())
    return text if len(text) <= 80 else f"{text[:80]}…"
