"""Settings, states and actions of the particle environments, for comparing them with their originals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpu_marl_envs.backends.source import persistent_fields
from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.spec import Environment

POSITIONS = ("x", "y", "landmark_x", "landmark_y")

# Every entry compiles once; parameters that need no compiling are drawn by hypothesis.
STEERED = dict(continuous_actions=True)
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "collect_treasure-v1": [{}, STEERED | dict(num_collectors=3, num_deposits=3, num_treasures=2)],
    "simple-v3": [{}, STEERED],
    "simple_adversary-v3": [{}, STEERED | dict(N=5, num_agent_neighbors=7, num_landmark_neighbors=1)],
    "simple_crypto-v3": [{}, STEERED],
    "simple_formation-v1": [{}, STEERED | dict(N=1), dict(N=3, terminate_on_success=True)],
    "simple_line-v1": [{}, STEERED | dict(N=1), dict(N=3, terminate_on_success=True)],
    "simple_push-v3": [{}, STEERED],
    "simple_reference-v3": [{}, STEERED],
    "simple_speaker_listener-v4": [{}, STEERED],
    "simple_spread-v3": [
        {},
        STEERED | dict(N=5, curriculum=True, num_agent_neighbors=2, num_landmark_neighbors=7),
        dict(N=2, terminate_on_success=True, num_landmark_neighbors=1),
    ],
    "simple_tag-v3": [
        {},
        STEERED | dict(num_good=2, num_obstacles=3, curriculum=True, num_agent_neighbors=5, num_landmark_neighbors=2),
        dict(num_good=3, num_adversaries=2, num_obstacles=0, terminate_on_success=True, num_agent_neighbors=2),
    ],
    "simple_world_comm-v3": [
        {},
        STEERED | dict(num_good=3, num_adversaries=2, num_obstacles=0, num_food=1, num_forests=3),
        dict(num_good=1, num_adversaries=1, num_obstacles=2, num_food=3, num_forests=0),
    ],
}
MANY_SETTINGS: dict[str, list[dict[str, Any]]] = {
    "collect_treasure-v1": [dict(num_collectors=1, num_deposits=1, num_treasures=1), dict(num_collectors=12)],
    "simple_adversary-v3": [dict(N=1), dict(N=40), STEERED | dict(N=12, num_agent_neighbors=1)],
    "simple_formation-v1": [dict(N=6), STEERED | dict(N=5, terminate_on_success=True)],
    "simple_line-v1": [dict(N=6), STEERED | dict(N=2, terminate_on_success=True)],
    "simple_spread-v3": [
        dict(N=1),
        dict(N=34),
        STEERED | dict(N=3, terminate_on_success=True, curriculum=True),
        dict(N=8, num_agent_neighbors=3),
        dict(N=8, num_landmark_neighbors=3),
    ],
    "simple_tag-v3": [
        dict(num_good=12, num_adversaries=24, num_obstacles=1),
        dict(num_good=1, num_adversaries=1, num_obstacles=1, terminate_on_success=True, curriculum=True),
        STEERED | dict(num_good=4, num_adversaries=6, num_agent_neighbors=4),
        dict(num_good=4, num_adversaries=6, num_obstacles=5, num_landmark_neighbors=3),
    ],
    "simple_world_comm-v3": [
        dict(num_good=6, num_adversaries=9, num_obstacles=3, num_food=4, num_forests=4),
        STEERED | dict(num_good=10, num_adversaries=10),
        dict(num_good=2, num_adversaries=1, num_forests=1),
    ],
}


def cases(table: dict[str, list[dict[str, Any]]]) -> pytest.MarkDecorator:
    """Runs a test with every ``env_id`` and its ``static`` parameters."""
    found = [
        pytest.param(env_id, static, id=f"{env_id}-{number}")
        for env_id, settings in table.items()
        for number, static in enumerate(settings)
    ]
    return pytest.mark.parametrize(("env_id", "static"), found)


every_environment = pytest.mark.parametrize("env_id", SETTINGS)


def random_state(declaration: Environment, copies: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """States of every kind: spread out or crowded, near the middle or far away, slow or fast."""
    scale = rng.choice([0.1, 0.3, 1.0, 3.0], copies, p=[0.25, 0.25, 0.4, 0.1])
    centre = {axis: rng.uniform(-1, 1, copies) * (scale < 1) for axis in "xy"}
    speed = rng.choice([0.0, 1.0, 3.0], copies)
    state = {}
    for field in persistent_fields(declaration):
        shape = (copies, *[declaration.num_agents] * (field.per == "agent"), *field.shape)
        column = (copies, *[1] * (len(shape) - 1))
        if field.dtype == "int32":
            values = rng.integers(int(field.low), int(field.high) + 1, shape)
        elif np.isfinite(field.low):
            values = rng.uniform(field.low, field.high, shape)
        elif field.name in POSITIONS:
            values = rng.uniform(-1, 1, shape) * scale.reshape(column) + centre[field.name[-1]].reshape(column)
        else:
            values = rng.uniform(-1, 1, shape) * speed.reshape(column)
        state[field.name] = values.astype(field.dtype)
    return state


def random_actions(env: BatchedEnv, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Actions of every agent, by group; continuous ones in every proportion, at the limits and beyond them."""
    actions = {}
    for name, group in env.groups.items():
        shape = (env.num_envs, group.size, *group.action_shape)
        if group.action_counts:
            actions[name] = rng.integers(0, group.action_counts[0], shape)
        else:
            kinds = [rng.random(shape), rng.integers(0, 2, shape), rng.normal(0, 100, shape), np.zeros(shape)]
            actions[name] = np.choose(rng.integers(0, len(kinds), shape[:2])[..., None], kinds).astype(np.float32)
    return actions


def copies_of(env: BatchedEnv) -> list[dict[str, np.ndarray]]:
    """The present state, copy by copy."""
    fields = {name: tensor.cpu().numpy().copy() for name, tensor in env.state.fields().items()}
    return [{name: array[copy] for name, array in fields.items()} for copy in range(env.num_envs)]


def rows(groups: dict[str, Any], copy: int) -> list[np.ndarray]:
    """One copy's entries of all agents, in order, of what is given by group."""
    return [row for tensor in groups.values() for row in np.asarray(tensor)[copy]]
