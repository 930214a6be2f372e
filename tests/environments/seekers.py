"""An environment that only looks for nearest agents, so that a search can be compared with its definition."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gymnasium.spaces import Box, Discrete

from gpu_marl_envs.spec import Environment, Field, Group, param


@dataclass(frozen=True, kw_only=True)
class Seekers(Environment):
    """Everybody observes the numbers of the nearest of those who hide; nobody moves."""

    id = "seekers-v0"
    loop_by_loop = True
    state = (
        Field("x", "float32", "position"),
        Field("y", "float32", "position"),
        Field("visible", "int32", "whether it may be found"),
    )

    num_hiders: int = param(100, "agents among whom all look", low=1, static=True)
    neighbors_observed: int = param(3, "nearest agents to observe", low=1, static=True)
    within: float = param(1e30, "they are closer than this", low=0.0)
    episode_length: int = param(10, "longest episode", low=1)

    def neighbors(self) -> int:
        """As many as are observed."""
        return self.neighbors_observed

    def groups(self) -> tuple[Group, ...]:
        """Those who only look come first, so that the numbers of the others do not start at zero."""
        observation = Box(-1.0, np.inf, (self.neighbors_observed,))
        watchers = Group("watcher", 7, observation, Discrete(2))
        return watchers, Group("hider", self.num_hiders, observation, Discrete(2))
