"""One agent that is drawn to a landmark, for trying things out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpu_marl_envs.particles import DARK, Disc, Particles
from gpu_marl_envs.spec import Field, Group


@dataclass(frozen=True, kw_only=True)
class Simple(Particles):
    """One agent moves to a landmark; for trying things out.

    ## Description
    The agent starts anywhere in the square from −1 to 1 and may leave it. A step of 0.1 units of time moves it by its
    velocity; a quarter of the velocity is lost and the action's force, at most 5 in each direction, is added to it.

    ## Agents
    `agent_0`.

    ## Action space
    `Discrete(5)`: nothing, −x, +x, −y, +y. With `continuous_actions`, a `Box` of five numbers from 0 to 1: nothing,
    and how much of each of these directions; others are clipped.

    ## Observation space
    4 floats: own velocity, the landmark relative to oneself.

    ## Rewards
    Minus the square of the distance to the landmark.

    ## Start
    Agent and landmark uniformly in the square from −1 to 1, the agent at rest.

    ## End
    Truncates after `max_cycles` steps.

    ## Source
    `simple_v3` of the Python package mpe2 1.1.1: from equal states both take equal steps.

    ## Version history
    - v3: first version here; as in mpe2.
    """

    id = "simple-v3"

    def state_fields(self) -> tuple[Field, ...]:
        """The agent and the landmark."""
        return self.bodies(landmarks=1)

    def groups(self) -> tuple[Group, ...]:
        """The agent."""
        return (self.group("agent", 1, 4),)

    def discs(self, state: Mapping[str, Any]) -> list[Disc]:
        """A red landmark, a dark agent."""
        return self.landmark_discs(state, [(0.05, (0.75, 0.25, 0.25))]) + self.agent_discs(state, [(0.05, DARK)])
