"""Collectors that bring treasures to the deposits of their types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_marl_envs.particles import Disc, Look, Particles, Shade
from gpu_marl_envs.spec import Field, Group, param

COLOURS: tuple[Shade, ...] = (
    (0.212, 0.408, 0.776),
    (0.945, 0.553, 0.0),
    (0.169, 0.627, 0.173),
    (0.839, 0.149, 0.157),
    (0.58, 0.404, 0.741),
    (0.549, 0.337, 0.294),
)
GREY: Shade = (0.85, 0.85, 0.85)


@dataclass(frozen=True, kw_only=True)
class CollectTreasure(Particles):
    """Collectors pick up treasures and bring each to the deposit of its type.

    ## Description
    All move as the agent of `simple-v3`, through each other, but with a force of 1.5 up to a speed of 1; deposits
    (radius 0.075) have a mass of 2.25. A collector (radius 0.05) with empty hands that touches a treasure (radius
    0.025) picks it up, the first of several; the treasure comes back elsewhere, with a new type, in the step after. A
    collector that touches the deposit for what it holds hands it over. Treasures are tried in order, then collectors.

    ## Agents
    `num_collectors` collectors (`collector_0`, …) and `num_deposits` deposits (`deposit_0`, …), one for each type.

    ## Action space
    `Discrete(5)`: nothing, −x, +x, −y, +y. With `continuous_actions`, a `Box` of five numbers from 0 to 1: nothing,
    and how much of each of these directions; others are clipped.

    ## Observation space
    Own position, own velocity, for collectors the type that one holds (one number for each type, 1 for this one). Then
    the others, nearest first (ties to the lowest index): position relative to oneself, velocity, the type of a deposit,
    the type that a collector holds. Then the treasures, nearest first: position relative to oneself and type; those
    that are gone come last and are zeros.

    ## Rewards
    All get 5 for each treasure that is picked up and 5 for each that is delivered. A collector pays 5 for each other
    collector that it touches, and 0.1 · its distance to the nearest treasure, or to the deposit for what it holds. A
    deposit pays 0.1 · its distance to the nearest collector with something for it; if there is none, to the middle of
    all collectors.

    ## Start
    Everyone uniformly in the square from −1 to 1, at rest and with empty hands, treasures of random types in that from
    −0.95 to 0.95.

    ## End
    Truncates after `max_cycles` steps.

    ## Source
    `collect_treasure_v1` of the Python package mpe2 1.1.1: from equal states both take equal steps.

    ## Version history
    - v1: first version here; as in mpe2.
    """

    id = "collect_treasure-v1"

    num_collectors: int = param(6, "number of collectors", low=1, high=1_000, static=True)
    num_deposits: int = param(2, "number of deposits and of types", low=1, high=6, static=True)
    num_treasures: int = param(6, "number of treasures", low=1, high=1_000, static=True)

    def state_fields(self) -> tuple[Field, ...]:
        """Everyone, the treasures as landmarks, and what is where."""
        last = self.num_deposits - 1
        treasure = "type of each treasure, −1 for one that is gone"
        return (
            *self.bodies(landmarks=self.num_treasures),
            Field("treasure", "int32", treasure, "environment", (self.num_treasures,), low=-1, high=last),
            Field("holding", "int32", "type that a collector holds, −1 for empty hands", low=-1, high=last),
            Field("bonus", "float32", "reward that all get", "environment", (1,), scratch=True),
        )

    def groups(self) -> tuple[Group, ...]:
        """The collectors, then the deposits."""
        others, types = self.num_collectors + self.num_deposits - 1, self.num_deposits
        size = 4 + others * (4 + 2 * types) + self.num_treasures * (2 + types)
        collectors = self.group("collector", self.num_collectors, size + types)
        return collectors, self.group("deposit", self.num_deposits, size)

    def report(self, i: int, state: Mapping[str, np.ndarray]) -> tuple[int | None, int]:
        """What a collector holds, or how many hold something for a deposit; and how many treasures there are."""
        there, holding = int((state["treasure"] >= 0).sum()), state["holding"]
        if i >= self.num_collectors:
            return int((holding[: self.num_collectors] == i - self.num_collectors).sum()), there
        return int(holding[i]) if holding[i] >= 0 else None, there

    def discs(self, state: Mapping[str, Any]) -> list[Disc]:
        """Treasures in the colours of their types, dark deposits, and collectors with the colour of what they hold."""
        held = state["holding"][: self.num_collectors].tolist()
        collectors: list[Look] = [(0.05, _dimmed(COLOURS[kind], 0.85) if kind >= 0 else GREY) for kind in held]
        deposits = [(0.075, _dimmed(colour, 0.35)) for colour in COLOURS[: self.num_deposits]]
        kinds = state["treasure"].tolist()
        treasures = self.landmark_discs(state, [(0.025, COLOURS[max(kind, 0)]) for kind in kinds])
        there = [disc for disc, kind in zip(treasures, kinds, strict=True) if kind >= 0]
        return self.agent_discs(state, collectors + deposits) + there


def _dimmed(shade: Shade, factor: float) -> Shade:
    red, green, blue = shade
    return factor * red, factor * green, factor * blue
