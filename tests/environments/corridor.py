"""A corridor in which not every action is possible everywhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from gpu_marl_envs.spec import Environment, Field, Group, param


@dataclass(frozen=True, kw_only=True)
class Corridor(Environment):
    """Walkers cannot walk through its ends, porters can lift only what lies at their place, and guests may do anything.

    Walkers leave now and then. Whoever does what was not allowed has it counted.
    """

    id = "corridor-v0"
    state = (
        Field("place", "int32", "from 0 to length - 1", low=0),
        Field("faults", "int32", "how often an agent did what was not allowed", low=0),
        Field("parcel", "int32", "where it lies", per="environment", low=0),
    )

    num_walkers: int = param(2, "who can stay, go left or go right", low=1, static=True)
    length: int = param(4, "places", low=2)
    episode_length: int = param(9, "longest episode", low=1)

    def groups(self) -> tuple[Group, ...]:
        """Two groups with masks, and one without."""
        seen = Box(0.0, np.inf, (3,), np.float32)
        return (
            Group("walker", self.num_walkers, seen, Discrete(3), action_mask=True),
            Group("guest", 1, seen, Box(-1.0, 1.0, (1,))),
            Group("porter", 2, seen, MultiDiscrete([3, 2]), action_mask=True),
        )
