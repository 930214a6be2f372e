"""Two agents that each know where the other should go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_marl_envs.particles import Disc, Particles, Shade
from gpu_marl_envs.spec import Field, Group, param

COLOURS: tuple[Shade, ...] = ((0.75, 0.25, 0.25), (0.25, 0.75, 0.25), (0.25, 0.25, 0.75))


@dataclass(frozen=True, kw_only=True)
class SimpleReference(Particles):
    """Two agents tell each other which of three landmarks to go to.

    ## Description
    Both move as the agent of `simple-v3`, through each other, and say one word of ten in each step. Each knows the
    other's goal and not its own.

    ## Agents
    `agent_0` and `agent_1`.

    ## Action space
    `Discrete(50)`: move + 5 · word, moves being nothing, −x, +x, −y, +y. With `continuous_actions`, a `Box` of 15
    numbers from 0 to 1: nothing, how much of each of these directions, and how much of each word; others are clipped.

    ## Observation space
    21 floats: own velocity, the landmarks relative to oneself, the colour of the other's goal (0.75 at its index, else
    0.25), the other's word.

    ## Rewards
    `local_ratio` · (minus the other's distance to its goal) + (1 − `local_ratio`) · (minus the mean of both distances).

    ## Start
    Agents and landmarks uniformly in the square from −1 to 1, at rest, with random goals; nobody has said anything.

    ## End
    Truncates after `max_cycles` steps.

    ## Source
    `simple_reference_v3` of the Python package mpe2 1.1.1: from equal states both take equal steps.

    ## Version history
    - v3: first version here; as in mpe2.
    """

    id = "simple_reference-v3"

    local_ratio: float = param(0.5, "weight of an agent's own reward against the shared one", low=0.0, high=1.0)

    def state_fields(self) -> tuple[Field, ...]:
        """The agents, the landmarks, goals and words."""
        goal = Field("goal", "int32", "landmark that the other agent should go to", low=0, high=2)
        words = Field("communication", "float32", "how much of each word it said", shape=(10,), low=0.0, high=1.0)
        return (*self.bodies(landmarks=3), goal, words)

    def groups(self) -> tuple[Group, ...]:
        """The agents."""
        return (self.group("agent", 2, 21, words=10),)

    def words(self, state: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Both speak."""
        return dict(zip(self.agent_names, state["communication"], strict=True))

    def discs(self, state: Mapping[str, Any]) -> list[Disc]:
        """Landmarks in three colours, agents in the colours of where they should go."""
        agents = [(0.05, COLOURS[goal]) for goal in state["goal"][::-1]]
        return self.landmark_discs(state, [(0.05, colour) for colour in COLOURS]) + self.agent_discs(state, agents)
