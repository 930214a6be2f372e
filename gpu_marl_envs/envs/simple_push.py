"""An adversary that pushes an agent away from its goal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpu_marl_envs.particles import Disc, Particles, Shade
from gpu_marl_envs.spec import Field, Group


@dataclass(frozen=True, kw_only=True)
class SimplePush(Particles):
    """An agent goes to one of two landmarks; an adversary, who does not know which, pushes it away.

    ## Description
    Both move as the agent of `simple-v3`, and push each other apart where they touch (radius 0.05).

    ## Agents
    `adversary_0` and `agent_0`.

    ## Action space
    `Discrete(5)`: nothing, −x, +x, −y, +y. With `continuous_actions`, a `Box` of five numbers from 0 to 1: nothing,
    and how much of each of these directions; others are clipped.

    ## Observation space
    Adversary, 8 floats: own velocity, the landmarks and the agent relative to oneself. Agent, 19 floats: own velocity,
    the goal relative to oneself, own colour, the landmarks relative to oneself, their colours, the adversary relative
    to oneself. A colour has three parts; the agent's is 0.75 where the goal's colour is 0.9.

    ## Rewards
    The agent gets minus its distance to the goal; the adversary gets that distance minus its own.

    ## Start
    Both and the landmarks uniformly in the square from −1 to 1, at rest; one of the landmarks is the goal.

    ## End
    Truncates after `max_cycles` steps.

    ## Source
    `simple_push_v3` of the Python package mpe2 1.1.1: from equal states both take equal steps.

    ## Version history
    - v3: first version here; as in mpe2.
    """

    id = "simple_push-v3"

    def state_fields(self) -> tuple[Field, ...]:
        """Both, the landmarks, and the goal."""
        goal = Field("goal", "int32", "landmark that is the goal", per="environment", low=0, high=1)
        return (*self.bodies(landmarks=2, contact=True), goal)

    def groups(self) -> tuple[Group, ...]:
        """The adversary, then the agent."""
        return self.group("adversary", 1, 8), self.group("agent", 1, 19)

    def discs(self, state: Mapping[str, Any]) -> list[Disc]:
        """Green and blue landmarks, a red adversary, and the agent in the tint of its goal."""
        tint: Shade = (0.25, 0.75, 0.25) if state["goal"] == 0 else (0.25, 0.25, 0.75)
        agents = self.agent_discs(state, [(0.05, (0.75, 0.25, 0.25)), (0.05, tint)])
        return self.landmark_discs(state, [(0.05, (0.1, 0.9, 0.1)), (0.05, (0.1, 0.1, 0.9))]) + agents
