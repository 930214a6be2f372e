"""What the tests of the PettingZoo interface share: settings, random play, and errors."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pettingzoo
import pytest

from gpu_marl_envs.adapters import pettingzoo_registry
from gpu_marl_envs.errors import GpuMarlError

# Agents leave in the middle of an episode, groups differ in size, and each kind of action space occurs.
TAG = {"num_taggers": 2, "num_runners": 3, "tagging_distance": 0.2}
SETTINGS = {
    "gridworld": ("tag_gridworld-v0", {"num_taggers": 3, "grid_length": 4}),
    "gridworld-partial": ("tag_gridworld-v0", {"num_taggers": 2, "use_full_observation": False}),
    "continuous": ("tag_continuous-v0", TAG),
    "continuous-partial": ("tag_continuous-v0", TAG | {"use_full_observation": False}),
    "continuous-box": ("tag_continuous-v0", TAG | {"continuous_actions": True}),
}
every_setting = pytest.mark.parametrize(("env_id", "params"), SETTINGS.values(), ids=SETTINGS)


def module_of(env_id: str) -> ModuleType:
    return importlib.import_module(f"gpu_marl_envs.{pettingzoo_registry.module_name(env_id)}")


def random_actions(env: pettingzoo.ParallelEnv) -> dict[str, Any]:
    return {agent: env.action_space(agent).sample() for agent in env.agents}


def seed_actions(env: pettingzoo.ParallelEnv, seed: int) -> None:
    for i, agent in enumerate(env.possible_agents):
        env.action_space(agent).seed(seed + i)


def trajectory(env: pettingzoo.ParallelEnv, episodes: int = 1) -> Iterator[Any]:
    """Everything that random play returns, from the present step on, over several episodes."""
    for episode in range(episodes):
        if episode:
            yield env.reset()
        while env.agents:
            yield env.step(random_actions(env)), env.state(), list(env.agents)


def errors_of(call: Callable[[], Any], kind: type[GpuMarlError]) -> str:
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and message.endswith((".", "?"))
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return message
