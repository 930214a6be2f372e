"""An environment that calls everything the engine offers, so that devices can be compared over all of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gymnasium.spaces import Box, Discrete

from gpu_marl_envs.spec import Environment, Field, Group, param


@dataclass(frozen=True, kw_only=True)
class Probe(Environment):
    """Two groups of different kinds; every function and reduction of the engine leaves its result in the state."""

    id = "probe-v0"
    loop_by_loop = True
    state = (
        Field("x", "float32", "position"),
        Field("y", "float32", "position"),
        Field("results", "float32", "elementary functions of x and y", shape=(10,)),
        Field("pick", "int32", "results of integer functions", shape=(4,)),
        Field("sums", "float32", "reductions over groups", per="environment", shape=(3,)),
        Field("counts", "int32", "reductions over groups", per="environment", shape=(4,)),
        Field("votes", "int32", "how many agents are nearest to this one", scratch=True),
    )

    num_many: int = param(7, "agents of the larger group", low=1, static=True)
    neighbors_observed: int = param(3, "nearest agents to observe", low=1, static=True)
    episode_length: int = param(12, "longest episode", low=1)
    leave_below: float = param(0.05, "chance to leave in a step", low=0.0, high=1.0)

    def neighbors(self) -> int:
        """As many as are observed, and one to vote for."""
        return self.neighbors_observed

    def groups(self) -> tuple[Group, ...]:
        """Three agents with continuous actions and many with discrete ones."""
        few = Group("few", 3, Box(-np.inf, np.inf, (5,)), Box(-1.0, 1.0, (2,)))
        many = Group("many", self.num_many, Box(-np.inf, np.inf, (2 * self.neighbors_observed + 1,)), Discrete(7))
        return few, many
