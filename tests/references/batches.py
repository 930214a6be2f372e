"""Small batches of every kind of action, and what tests do with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch

from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.testing import sample_actions

GRID = "tag_gridworld-v0", dict(num_taggers=2, grid_length=4, episode_length=7)
CHASE = (
    "tag_continuous-v0",
    dict(
        num_taggers=2,
        num_runners=3,
        use_full_observation=False,
        episode_length=7,
        grid_length=3.0,
        tagging_distance=0.1,
    ),
)
STEERED = "tag_continuous-v0", CHASE[1] | dict(continuous_actions=True)
ENVS = pytest.mark.parametrize(("env_id", "params"), [GRID, CHASE, STEERED], ids=["grid", "chase", "steered"])


def clone(tree: Any) -> Any:
    """A deep copy of the tensors in nested dicts and tuples, on the CPU."""
    if isinstance(tree, Mapping):
        return {key: clone(value) for key, value in tree.items()}
    return tree.cpu().clone() if isinstance(tree, torch.Tensor) else tuple(clone(value) for value in tree)


def leaves(tree: Any) -> Iterator[torch.Tensor]:
    """All tensors in nested dicts and tuples."""
    if isinstance(tree, torch.Tensor):
        yield tree
    else:
        for value in tree.values() if isinstance(tree, Mapping) else tree:
            yield from leaves(value)


def same(left: Any, right: Any, copies: slice = slice(None)) -> bool:
    """Whether two trees have equal tensors, of the right one only ``copies``."""
    pairs = zip(leaves(left), leaves(right), strict=True)
    return all(torch.equal(one.cpu(), two.cpu()[copies]) for one, two in pairs)


def play(env: BatchedEnv, steps: int, seed: int = 0) -> list[Any]:
    """What ``steps`` steps with random actions gave."""
    generator = torch.Generator().manual_seed(seed)
    results = []
    for _ in range(steps):
        actions = sample_actions(env, generator)
        results.append(clone(env.step(actions)))
    return results


def idle(env: BatchedEnv) -> dict[str, torch.Tensor]:
    """Actions that change nothing, for every agent."""
    return {name: torch.zeros_like(actions) for name, actions in env.actions.items()}
