"""A batched environment in plain torch, for what the engine would not let happen, and settings that learn fast."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, Space
from gymnasium.vector import AutoresetMode
from torch import Tensor

from gpu_marl_envs.spec import Group
from gpu_marl_envs.training import A2C, PPO, RandomStream

TAG = {"num_taggers": 2, "num_runners": 3, "episode_length": 12, "tagging_distance": 0.1}
SMALL = {"hidden_size": 16, "hidden_layers": 1}
FAST = PPO(rollout_steps=8, learning_rate=1e-2, discount=0.5, **SMALL)
FAST_A2C = A2C(rollout_steps=8, learning_rate=1e-2, discount=0.5, optimizer_name="adam", **SMALL)


@dataclasses.dataclass(frozen=True)
class FakeDeclaration:
    """What training asks of a declaration."""

    max_steps: int
    id: str = "fake-v0"

    def params(self) -> dict[str, Any]:
        return {}


class FakeState:
    """Nothing to save: runs on this environment are not resumed."""

    def save(self) -> dict[str, Tensor]:
        return {}


class FakeEnv:
    """A batch of copies whose agents observe one of two contexts; a game says what is paid, and what ends.

    It resets finished copies in the same step, as ``BatchedEnv`` does. Observations are one-hot contexts. With
    ``mask`` it declares which actions are allowed, given the contexts.
    """

    autoreset_mode = AutoresetMode.SAME_STEP

    def __init__(
        self,
        reward: Callable[[Tensor, Tensor], Tensor],
        action_space: Space = Discrete(2),  # noqa: B008
        *,
        copies: int = 16,
        agents: int = 2,
        max_steps: int = 4,
        terminates: bool = False,
        leaves: bool = False,
        mask: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.device = torch.device("cpu")
        self.declaration = FakeDeclaration(max_steps)
        self.state = FakeState()
        self.num_envs, self.num_agents = copies, agents
        group = Group("player", agents, Box(0.0, 1.0, (2,), np.float32), action_space)
        self.groups, self.agent_slices = {"player": group}, {"player": slice(0, agents)}
        self.alive = torch.ones(copies, agents, dtype=torch.bool)
        self._reward, self._terminates, self._leaves, self._mask = reward, terminates, leaves, mask
        self._random = torch.Generator().manual_seed(0)
        self._time = 0

    @property
    def action_masks(self) -> dict[str, Tensor]:
        return {} if self._mask is None else {"player": self._mask(self.context)}

    def reset(self) -> dict[str, Tensor]:
        self._time = 0
        self.alive.fill_(True)
        return {"player": self._draw()}

    def _draw(self) -> Tensor:
        self.context = torch.randint(2, (self.num_envs, self.num_agents), generator=self._random)
        return torch.nn.functional.one_hot(self.context, 2).float()

    def step(self, actions: Mapping[str, Tensor], out: Mapping[str, Any]) -> tuple[Any, ...]:
        action = actions["player"]
        assert action.shape == (self.num_envs, self.num_agents, *self.groups["player"].action_shape)
        self._time += 1
        out["reward"]["player"].copy_(self._reward(self.context, action))
        if self._leaves:  # the second agent is gone after its first step
            self.alive[:, 1] = False
        last = self._time == self.declaration.max_steps
        out["terminated"]["player"].copy_(~self.alive | (last and self._terminates))
        out["truncated"].fill_(last and not self._terminates)
        out["done"].fill_(last)
        final = self._draw()
        out["observation"]["player"].copy_(self.reset()["player"] if last else self._draw())
        statistics = torch.ones(self.num_envs)
        info = {name: {"player": statistics} for name in ("episode_return", "episode_length")}
        return None, None, None, None, info | {"final_obs": {"player": final}}


def play(env: FakeEnv, result: Any) -> Tensor:
    """Mean reward of the most probable actions, in a fresh observation."""
    observation = env.reset()["player"]
    action = result.policies["player"].act(observation, RandomStream(0), deterministic=True)
    return env._reward(env.context, action).mean()


def matching_bit(context: Tensor, action: Tensor) -> Tensor:
    return (action == context).float()
