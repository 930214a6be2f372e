"""Agents that must not let an adversary know which landmark is theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_marl_envs.particles import BLUE, RED, Disc, Particles, agent_places, distances, landmark_places
from gpu_marl_envs.spec import Field, Group, param


@dataclass(frozen=True, kw_only=True)
class SimpleAdversary(Particles):
    """N agents go to one of N landmarks; an adversary wants to be there too, and does not know which it is.

    ## Description
    All move as the agent of `simple-v3`, through each other. The agents must spread over the landmarks, so that the
    adversary cannot tell the goal.

    ## Agents
    `adversary_0`, and `agent_0`, …, as many as `N`.

    ## Action space
    `Discrete(5)`: nothing, −x, +x, −y, +y. With `continuous_actions`, a `Box` of five numbers from 0 to 1: nothing,
    and how much of each of these directions; others are clipped.

    ## Observation space
    The landmarks and then the others relative to oneself; for an agent, the goal before them. With
    `num_landmark_neighbors` or `num_agent_neighbors`, only so many of the nearest, nearest first (ties to the lowest
    index), padded with zeros.

    ## Rewards
    The adversary gets minus its distance to the goal; every agent that distance minus the nearest agent's.

    ## Start
    Everyone and the landmarks uniformly in the square from −1 to 1, at rest; one of the landmarks is the goal.

    ## End
    Truncates after `max_cycles` steps.

    ## Source
    `simple_adversary_v3` of the Python package mpe2 1.1.1: from equal states both take equal steps.

    ## Version history
    - v3: first version here; as in mpe2.
    """

    id = "simple_adversary-v3"

    N: int = param(2, "number of agents and of landmarks", low=1, high=1_000, static=True)
    num_agent_neighbors: int | None = param(None, "nearest others that one observes", low=1, high=1_000, static=True)
    num_landmark_neighbors: int | None = param(
        None, "nearest landmarks that one observes", low=1, high=1_000, static=True
    )

    def state_fields(self) -> tuple[Field, ...]:
        """Everyone, the landmarks, and the goal."""
        goal = Field("goal", "int32", "landmark that is the goal", per="environment", low=0, high=self.N - 1)
        return (*self.bodies(landmarks=self.N), goal)

    def groups(self) -> tuple[Group, ...]:
        """The adversary, then the agents."""
        size = 2 * (self.num_landmark_neighbors or self.N) + 2 * (self.num_agent_neighbors or self.N)
        return self.group("adversary", 1, size), self.group("agent", self.N, size + 2)

    def report(self, i: int, state: Mapping[str, np.ndarray]) -> float | tuple[float, ...]:
        """Squared distances: of the adversary to the goal; of an agent to all landmarks, then to the goal."""
        squares = distances(agent_places(state)[[i]], landmark_places(state))[0] ** 2
        to_goal = float(squares[int(state["goal"])])
        return to_goal if i == 0 else (*squares.tolist(), to_goal)

    def discs(self, state: Mapping[str, Any]) -> list[Disc]:
        """Dark landmarks, the goal in green, a red adversary and blue agents."""
        shades = [(0.15, 0.65 if k == state["goal"] else 0.15, 0.15) for k in range(self.N)]
        agents = self.agent_discs(state, [(0.15, RED)] + [(0.15, BLUE)] * self.N)
        return agents + self.landmark_discs(state, [(0.08, shade) for shade in shades])
