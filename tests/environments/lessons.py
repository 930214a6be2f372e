"""Small games whose best play, and whose values, are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from gpu_marl_envs.spec import ActionSpace, Environment, Field, Group, param


@dataclass(frozen=True, kw_only=True)
class Lessons(Environment):
    """Players see one of two contexts and are paid by one of four rules.

    - ``bandit``: in every step 1 for the action that fits the context, which is then drawn anew.
    - ``delayed``: in the last step 1 if the action of the first step fitted, when the context was shown.
    - ``endless``: 1 in every step, whatever is done.
    - ``secret``: in every step 1 or −1, a bit that is in the state and in nobody's observation.
    """

    id = "lessons-v0"
    agents_leave = False
    state = (
        Field("context", "int32", "0 or 1", low=0, high=1),
        Field("fitted", "int32", "whether the first action fitted", low=0, high=1),
        Field("secret", "int32", "0 or 1", low=0, high=1),
    )

    rule: Literal["bandit", "delayed", "endless", "secret"] = param("bandit", "what is paid")
    actions: Literal["discrete", "multi_discrete", "box"] = param("discrete", "how players act")
    num_players: int = param(2, "players", low=1, static=True)
    episode_length: int = param(1, "steps of an episode", low=1)
    terminates: bool = param(True, "episodes end by termination, rather than by truncation")

    def groups(self) -> tuple[Group, ...]:
        spaces: dict[str, ActionSpace] = {
            "discrete": Discrete(2),
            "multi_discrete": MultiDiscrete([2, 3]),
            "box": Box(0.0, 4.0, (1,)),
        }
        return (Group("player", self.num_players, Box(0.0, 1.0, (3,), np.float32), spaces[self.actions]),)
