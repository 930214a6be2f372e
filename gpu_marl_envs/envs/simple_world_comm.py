"""Predators with a leader hunt prey that eats and hides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_marl_envs.particles import DARK, Disc, Particles, agent_places, distances
from gpu_marl_envs.spec import Field, Group, param


@dataclass(frozen=True, kw_only=True)
class SimpleWorldComm(Particles):
    """Adversaries, led by one that sees all and speaks, hunt agents that look for food and hide in forests.

    ## Description
    All move and push each other as in `simple_tag-v3`, agents having a radius of 0.045. Who is in a forest (radius 0.3)
    is seen only by those in the same one, and sees only them; the leader sees everyone. Forests and food (radius 0.03)
    push nobody.

    ## Agents
    `leadadversary_0`, `num_adversaries` − 1 further adversaries (`adversary_0`, …), `num_good` agents (`agent_0`, …).

    ## Action space
    `Discrete(5)`: nothing, −x, +x, −y, +y. The leader has `Discrete(20)`: move + 5 · word. With `continuous_actions`, a
    `Box` of numbers from 0 to 1: nothing, how much of each of these directions, and for the leader how much of each of
    four words; others are clipped.

    ## Observation space
    Own velocity, own position; obstacles, food and forests relative to oneself; the others relative to oneself. Then,
    for adversaries, the velocities of the agents, for each forest 1 if one is in it and else −1, and the leader's word;
    for agents, the same for each forest, and the velocities of the other agents. Zeros for those that one does not see.

    ## Rewards
    Every adversary gets 5 for each pair of an adversary and an agent that touch, minus 0.1 · its distance to the
    nearest agent. An agent pays 5 for each adversary that touches it, and twice what an agent pays in `simple_tag-v3`
    for leaving the field; it gets 2 for each food that it touches, minus 0.05 · its distance to the nearest food.

    ## Start
    Everyone uniformly in the square from −1 to 1, at rest, all else in that from −0.9 to 0.9; nothing has been said.

    ## End
    Truncates after `max_cycles` steps.

    ## Source
    `simple_world_comm_v3` of the Python package mpe2 1.1.1: from equal states both take equal steps.

    ## Version history
    - v3: first version here; as in mpe2.
    """

    id = "simple_world_comm-v3"

    num_good: int = param(2, "number of agents that are hunted", low=1, high=1_000, static=True)
    num_adversaries: int = param(4, "number of adversaries, the leader included", low=1, high=1_000, static=True)
    num_obstacles: int = param(1, "number of obstacles", low=0, high=1_000, static=True)
    num_food: int = param(2, "number of pieces of food", low=1, high=1_000, static=True)
    num_forests: int = param(2, "number of forests", low=0, high=1_000, static=True)

    def state_fields(self) -> tuple[Field, ...]:
        """Everyone, the landmarks and what the leader said."""
        landmarks = self.num_obstacles + self.num_food + self.num_forests
        said = "how much of each word the leader said"
        words = Field("communication", "float32", said, per="environment", shape=(4,), low=0.0, high=1.0)
        return (*self.bodies(landmarks=landmarks, contact=True), words)

    def groups(self) -> tuple[Group, ...]:
        """The leader, the other adversaries if there are any, then the agents."""
        landmarks = self.num_obstacles + self.num_food + self.num_forests
        others = self.num_adversaries + self.num_good - 1
        hunter = 4 + 2 * landmarks + 2 * others + 2 * self.num_good + self.num_forests + 4
        groups = (
            self.group("leadadversary", 1, hunter, words=4),
            self.group("adversary", self.num_adversaries - 1, hunter),
            self.group("agent", self.num_good, hunter - 6),
        )
        return tuple(group for group in groups if group.size > 0)

    def report(self, i: int, state: Mapping[str, np.ndarray]) -> int:
        """The agents that an adversary touches."""
        agents, first = agent_places(state), self.num_adversaries
        return int((distances(agents[[i]], agents[first:]) < 0.12).sum()) if i < first else 0

    def words(self, state: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The leader speaks."""
        return {"leadadversary_0": state["communication"]}

    def discs(self, state: Mapping[str, Any]) -> list[Disc]:
        """Light forests, dark obstacles and blue food, then the leader in dark red, red adversaries, green agents."""
        adversaries = [(0.075, (0.65, 0.15, 0.15))] + [(0.075, (0.95, 0.45, 0.45))] * (self.num_adversaries - 1)
        obstacles, food = [(0.2, DARK)] * self.num_obstacles, [(0.03, (0.15, 0.15, 0.65))] * self.num_food
        landmarks = self.landmark_discs(state, [*obstacles, *food, *[(0.3, (0.6, 0.9, 0.6))] * self.num_forests])
        agents = self.agent_discs(state, adversaries + [(0.045, (0.45, 0.95, 0.45))] * self.num_good)
        return landmarks[::-1] + agents
