"""Between a reference, which is NumPy over all agents of a copy, and a batch, which is tensors by group."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import numpy as np
import torch

from gpu_marl_envs.batched import BatchedEnv

RulesT = TypeVar("RulesT")


@dataclasses.dataclass
class Excluded:
    """How many comparisons were left out because rounding could turn them, of how many."""

    left_out: int = 0
    of: int = 0

    def count(self, sure: np.ndarray) -> np.ndarray:
        """Takes note of a mask, and returns it."""
        self.left_out += int((~sure).sum())
        self.of += sure.size
        return sure

    def assert_rare(self, share: float) -> None:
        """Fails if more than ``share`` was left out."""
        assert self.left_out <= share * self.of, f"{self.left_out} of {self.of} comparisons were left out"


def rules_of(rules: type[RulesT], env: BatchedEnv) -> RulesT:
    """The parameters of ``env`` as a reference's ``Rules``, whose fields must be the same by name."""
    params = env.declaration.params()
    assert set(params) == {field.name for field in dataclasses.fields(rules)}  # type: ignore[arg-type]
    return rules(**params)


def inject(env: BatchedEnv, state: Any) -> None:
    """Starts new episodes and puts every copy into ``state``, a reference's dataclass of arrays."""
    env.reset()
    for field in dataclasses.fields(state):
        value = torch.from_numpy(getattr(state, field.name)).to(env.device)
        target = env.alive if field.name == "alive" else getattr(env.state, field.name)
        target.copy_(value)


def state_of(env: BatchedEnv, state: type) -> Any:
    """The present state of ``env`` as a reference's dataclass; floats widened to float64 (exactly)."""
    values = {}
    for field in dataclasses.fields(state):
        tensor = env.alive if field.name == "alive" else getattr(env.state, field.name)
        values[field.name] = tensor.cpu().numpy().astype(_WIDE.get(tensor.dtype, tensor.cpu().numpy().dtype))
    return state(**values)


_WIDE = {torch.float32: np.float64, torch.int32: np.int64}


def by_group(env: BatchedEnv, values: np.ndarray) -> dict[str, torch.Tensor]:
    """``values [E, n, …]`` as one contiguous tensor for each group."""
    return {
        name: torch.from_numpy(np.ascontiguousarray(values[:, agents])).to(env.device)
        for name, agents in env.agent_slices.items()
    }


def joined(groups: dict[str, torch.Tensor]) -> np.ndarray:
    """The inverse of :func:`by_group`, as a copy."""
    return np.concatenate([tensor.cpu().numpy() for tensor in groups.values()], axis=1)


def assert_close(actual: np.ndarray, expected: np.ndarray, sure: np.ndarray | None = None) -> None:
    """Equal within float32 rounding (1e-5, relative or near zero absolute) wherever ``sure``, a leading mask, holds."""
    assert actual.shape == expected.shape
    if sure is not None:
        actual, expected = actual[sure], expected[sure]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
