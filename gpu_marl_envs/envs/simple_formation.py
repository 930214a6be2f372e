"""Agents that form a circle around a landmark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpu_marl_envs.particles import BLUE, DARK, Disc, Particles
from gpu_marl_envs.spec import Field, Group, param


@dataclass(frozen=True, kw_only=True)
class SimpleFormation(Particles):
    """N agents spread evenly over a circle around a landmark.

    ## Description
    All move as the agent of `simple-v3`, and push each other apart where they touch (radius 0.05). N targets lie evenly
    on a circle of radius 0.5 around the landmark, the first in the direction of the agent with the smallest angle from
    the x axis, counted from 0 to 2π. Agents are assigned to targets so that the sum of their distances is least.

    ## Agents
    `agent_0`, …, as many as `N`.

    ## Action space
    `Discrete(5)`: nothing, −x, +x, −y, +y. With `continuous_actions`, a `Box` of five numbers from 0 to 1: nothing,
    and how much of each of these directions; others are clipped.

    ## Observation space
    6 floats: own velocity, own position, the landmark relative to oneself.

    ## Rewards
    All get minus the mean distance of an agent to its target, where distances count up to 2.

    ## Start
    Agents uniformly in the square from −1 to 1, at rest, the landmark in that from −0.5 to 0.5.

    ## End
    Truncates after `max_cycles` steps. With `terminate_on_success`, terminates before that once every agent is nearer
    to its target than 0.05.

    ## Source
    `simple_formation_v1` of the Python package mpe2 1.1.1: from equal states both take equal steps.

    ## Version history
    - v1: first version here; as in mpe2.
    """

    id = "simple_formation-v1"

    N: int = param(4, "number of agents", low=1, high=100, static=True)
    terminate_on_success: bool = param(False, "the episode ends when all have arrived")

    def state_fields(self) -> tuple[Field, ...]:
        """The agents and the landmark."""
        return self.bodies(landmarks=1, contact=True) + self.assignment()

    def groups(self) -> tuple[Group, ...]:
        """The agents."""
        return (self.group("agent", self.N, 6),)

    def discs(self, state: Mapping[str, Any]) -> list[Disc]:
        """A dark landmark, blue agents."""
        return self.landmark_discs(state, [(0.03, DARK)]) + self.agent_discs(state, [(0.05, BLUE)] * self.N)
