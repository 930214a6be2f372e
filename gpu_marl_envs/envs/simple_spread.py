"""Agents that cover landmarks together without touching each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_marl_envs.particles import BLUE, DARK, Disc, Particles, agent_places, distances, landmark_places
from gpu_marl_envs.spec import Field, Group, param


@dataclass(frozen=True, kw_only=True)
class SimpleSpread(Particles):
    """N agents cover N landmarks, and should not touch each other.

    ## Description
    All move as the agent of `simple-v3`, and push each other apart where they touch (radius 0.15). They share the
    reward for landmarks with an agent near them, and each pays for touching others.

    ## Agents
    `agent_0`, …, as many as `N`.

    ## Action space
    `Discrete(5)`: nothing, −x, +x, −y, +y. With `continuous_actions`, a `Box` of five numbers from 0 to 1: nothing,
    and how much of each of these directions; others are clipped.

    ## Observation space
    6N floats: own velocity, own position, the landmarks and then the other agents relative to oneself, and two zeros
    for each other agent, which says nothing. With `num_landmark_neighbors` or `num_agent_neighbors`, only so many of
    the nearest, nearest first (ties to the lowest index), padded with zeros.

    ## Rewards
    `local_ratio` · (−1 for each agent that one touches) + (1 − `local_ratio`) · (minus the sum over the landmarks of
    the distance to the nearest agent). With `curriculum`, touching is free in stage 0, `state.curriculum_stage == 0`;
    write the stage of each copy there, 1 being the full game.

    ## Start
    Agents and landmarks uniformly in the square from −1 to 1, agents at rest.

    ## End
    Truncates after `max_cycles` steps. With `terminate_on_success`, terminates before that once every landmark has an
    agent within 0.1.

    ## Source
    `simple_spread_v3` of the Python package mpe2 1.1.1: from equal states both take equal steps. The curriculum is the
    one that mpe2 documents; its own methods for it leave the stage at 0.

    ## Version history
    - v3: first version here; as in mpe2.
    """

    id = "simple_spread-v3"

    N: int = param(3, "number of agents and of landmarks", low=1, high=1_000, static=True)
    local_ratio: float = param(0.5, "weight of an agent's own reward against the shared one", low=0.0, high=1.0)
    curriculum: bool = param(False, "touching is free in stage 0 of the curriculum")
    terminate_on_success: bool = param(False, "the episode ends when all landmarks are covered")
    num_agent_neighbors: int | None = param(None, "nearest agents that one observes", low=1, high=1_000, static=True)
    num_landmark_neighbors: int | None = param(
        None, "nearest landmarks that one observes", low=1, high=1_000, static=True
    )

    def state_fields(self) -> tuple[Field, ...]:
        """The agents, the landmarks, and the stage of the curriculum."""
        stage = self.stage("curriculum_stage", "stage, with a curriculum: 0 or 1", 1, curriculum=self.curriculum)
        return (*self.bodies(landmarks=self.N, contact=True), stage)

    def groups(self) -> tuple[Group, ...]:
        """The agents."""
        landmarks = self.num_landmark_neighbors or self.N
        others = self.num_agent_neighbors or self.N - 1
        return (self.group("agent", self.N, 4 + 2 * landmarks + 4 * others),)

    def report(self, i: int, state: Mapping[str, np.ndarray]) -> tuple[float, int, float, int]:
        """Reward with an equal weight for all, agents touched, distances to the landmarks summed up, those covered."""
        agents = agent_places(state)
        nearest = distances(agents, landmark_places(state)).min(axis=0)
        touched = int((distances(agents[[i]], agents) < 0.3).sum()) - 1
        far = float(nearest.sum())
        return -far - touched, touched, far, int((nearest < 0.1).sum())

    def discs(self, state: Mapping[str, Any]) -> list[Disc]:
        """Dark landmarks, blue agents."""
        agents, landmarks = [(0.15, BLUE)] * self.N, [(0.05, DARK)] * self.N
        return self.agent_discs(state, agents) + self.landmark_discs(state, landmarks)
