"""Predators that hunt faster prey among obstacles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_marl_envs.particles import DARK, GREEN, RED, Disc, Particles, agent_places, distances
from gpu_marl_envs.spec import Field, Group, param


@dataclass(frozen=True, kw_only=True)
class SimpleTag(Particles):
    """Slow adversaries hunt fast agents among round obstacles.

    ## Description
    All move as the agent of `simple-v3`, but adversaries (radius 0.075) with a force of 3 up to a speed of 1, and
    agents (radius 0.05) with a force of 4 up to a speed of 1.3. They push each other apart where they touch, and
    obstacles (radius 0.2) push them away.

    ## Agents
    `num_adversaries` adversaries (`adversary_0`, …) and `num_good` agents (`agent_0`, …).

    ## Action space
    `Discrete(5)`: nothing, −x, +x, −y, +y. With `continuous_actions`, a `Box` of five numbers from 0 to 1: nothing,
    and how much of each of these directions; others are clipped.

    ## Observation space
    Own velocity, own position, the obstacles and then the others relative to oneself, the velocities of the agents
    other than oneself (not of adversaries). With `num_landmark_neighbors` or `num_agent_neighbors`, only so many of the
    nearest, nearest first (ties to the lowest index), padded with zeros; each of these others then has a velocity,
    which is 0 for an adversary.

    ## Rewards
    Every adversary gets 10 for each pair of an adversary and an agent that touch; an agent pays 10 for each adversary
    that touches it. An agent also pays for each of its coordinates c beyond ±0.9: 10 (|c| − 0.9) up to 1, and beyond it
    exp(2|c| − 2), at most 10.

    ## Start
    Everyone uniformly in the square from −1 to 1, at rest, obstacles in that from −0.9 to 0.9. With `curriculum`,
    agents have 0.5, 0.75 or 1 of their force and greatest speed in an episode that starts in stage 0, 1 or 2; write the
    stage of each copy to `state.curriculum_stage`.

    ## End
    Truncates after `max_cycles` steps. With `terminate_on_success`, terminates before that once every agent is touched
    by an adversary.

    ## Source
    `simple_tag_v3` of the Python package mpe2 1.1.1: from equal states both take equal steps. The curriculum is the
    one that mpe2 documents; its own methods for it leave the stage at 0.

    ## Version history
    - v3: first version here; as in mpe2.
    """

    id = "simple_tag-v3"

    num_good: int = param(1, "number of agents that are hunted", low=1, high=1_000, static=True)
    num_adversaries: int = param(3, "number of adversaries", low=1, high=1_000, static=True)
    num_obstacles: int = param(2, "number of obstacles", low=0, high=1_000, static=True)
    curriculum: bool = param(False, "the hunted are slower in the first stages of the curriculum")
    terminate_on_success: bool = param(False, "the episode ends when all of the hunted are touched")
    num_agent_neighbors: int | None = param(None, "nearest others that one observes", low=1, high=1_000, static=True)
    num_landmark_neighbors: int | None = param(
        None, "nearest obstacles that one observes", low=1, high=1_000, static=True
    )

    def state_fields(self) -> tuple[Field, ...]:
        """Everyone, the obstacles, and stages of the curriculum."""
        stages = (
            ("curriculum_stage", "stage of the next episodes, with a curriculum: 0, 1 or 2"),
            ("present_stage", "stage of this episode, with a curriculum"),
        )
        fields = self.bodies(landmarks=self.num_obstacles, contact=True)
        return fields + tuple(self.stage(name, doc, 2, curriculum=self.curriculum) for name, doc in stages)

    def groups(self) -> tuple[Group, ...]:
        """The adversaries, then the agents."""
        obstacles = self.num_landmark_neighbors or self.num_obstacles
        others = self.num_agent_neighbors or self.num_adversaries + self.num_good - 1
        velocities = self.num_agent_neighbors or self.num_good
        size = 4 + 2 * (obstacles + others + velocities)
        return (
            self.group("adversary", self.num_adversaries, size),
            self.group("agent", self.num_good, size - 2 * (self.num_agent_neighbors is None)),
        )

    def report(self, i: int, state: Mapping[str, np.ndarray]) -> int:
        """The agents that an adversary touches."""
        agents, first = agent_places(state), self.num_adversaries
        return int((distances(agents[[i]], agents[first:]) < 0.125).sum()) if i < first else 0

    def discs(self, state: Mapping[str, Any]) -> list[Disc]:
        """Dark obstacles, red adversaries, green agents."""
        agents = [(0.075, RED)] * self.num_adversaries + [(0.05, GREEN)] * self.num_good
        obstacles = [(0.2, DARK)] * self.num_obstacles
        return self.landmark_discs(state, obstacles) + self.agent_discs(state, agents)
