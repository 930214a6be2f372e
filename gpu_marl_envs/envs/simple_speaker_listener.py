"""A speaker that sees the goal, and a listener that can go there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_marl_envs.particles import DARK, Disc, Particles, Shade, agent_places, distances, landmark_places
from gpu_marl_envs.spec import Field, Group

COLOURS: tuple[Shade, ...] = ((0.65, 0.15, 0.15), (0.15, 0.65, 0.15), (0.15, 0.15, 0.65))


@dataclass(frozen=True, kw_only=True)
class SimpleSpeakerListener(Particles):
    """A speaker tells a listener which of three landmarks to go to.

    ## Description
    The listener moves as the agent of `simple-v3`; the speaker stays where it is and says one word of three in each
    step. Only the speaker knows the goal.

    ## Agents
    `speaker_0` and `listener_0`.

    ## Action space
    Speaker: `Discrete(3)`, which word to say. Listener: `Discrete(5)`, nothing, −x, +x, −y, +y. With
    `continuous_actions`, a `Box` of three or five numbers from 0 to 1: how much of each word; nothing, and how much of
    each direction; others are clipped.

    ## Observation space
    Speaker, 3 floats: the colour of the goal, 0.65 at its index and else 0.15. Listener, 11 floats: own velocity, the
    landmarks relative to oneself, the speaker's word.

    ## Rewards
    Both get minus the square of the listener's distance to the goal.

    ## Start
    Both and the landmarks uniformly in the square from −1 to 1, at rest, with a random goal; nothing has been said.

    ## End
    Truncates after `max_cycles` steps.

    ## Source
    `simple_speaker_listener_v4` of the Python package mpe2 1.1.1: from equal states both take equal steps.

    ## Version history
    - v4: first version here; as in mpe2.
    """

    id = "simple_speaker_listener-v4"

    def state_fields(self) -> tuple[Field, ...]:
        """Both, the landmarks, the goal and what the speaker said."""
        goal = Field("goal", "int32", "landmark that is the goal", per="environment", low=0, high=2)
        said = "how much of each word the speaker said"
        words = Field("communication", "float32", said, per="environment", shape=(3,), low=0.0, high=1.0)
        return (*self.bodies(landmarks=3), goal, words)

    def groups(self) -> tuple[Group, ...]:
        """The speaker, then the listener."""
        return self.group("speaker", 1, 3, words=3, moves=0), self.group("listener", 1, 11)

    def report(self, i: int, state: Mapping[str, np.ndarray]) -> float:
        """The reward."""
        return -float(distances(agent_places(state), landmark_places(state))[1, int(state["goal"])] ** 2)

    def words(self, state: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The speaker speaks."""
        return {"speaker_0": state["communication"]}

    def discs(self, state: Mapping[str, Any]) -> list[Disc]:
        """Landmarks in three colours, a dark speaker, and the listener in a light tint of its goal."""
        red, green, blue = COLOURS[int(state["goal"])]
        agents = [(0.075, DARK), (0.075, (red + 0.45, green + 0.45, blue + 0.45))]
        return self.landmark_discs(state, [(0.04, colour) for colour in COLOURS]) + self.agent_discs(state, agents)
