"""A message over a public channel, and a key that only two share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_marl_envs.particles import DARK, Disc, Particles, Shade
from gpu_marl_envs.spec import Field, Group


@dataclass(frozen=True, kw_only=True)
class SimpleCrypto(Particles):
    """Alice sends Bob one of two messages; both have a key, and Eve, who has none, listens.

    ## Description
    Nobody moves; everyone says one word of four in each step. Bob and Eve say what they think the message is.

    ## Agents
    `eve_0`, `bob_0` and `alice_0`.

    ## Action space
    `Discrete(4)`: which word to say. With `continuous_actions`, a `Box` of four numbers from 0 to 1: how much of each;
    others are clipped.

    ## Observation space
    Messages, keys and words are vectors of four; message and key are one of the first two unit vectors. Eve observes
    Alice's word; Bob the key and Alice's word; Alice the message and the key.

    ## Rewards
    An error is the squared distance between what one says and the message, 0 if one says nothing at all. Alice and Bob
    get Eve's error minus Bob's; Eve gets minus her own.

    ## Start
    A random message and a random key; nobody has said anything.

    ## End
    Truncates after `max_cycles` steps.

    ## Source
    `simple_crypto_v3` of the Python package mpe2 1.1.1: from equal states both take equal steps. That one also has
    positions, which nobody observes and nothing depends on.

    ## Version history
    - v3: first version here; as in mpe2.
    """

    id = "simple_crypto-v3"
    state = (
        Field("communication", "float32", "how much of each word an agent said", shape=(4,), low=0.0, high=1.0),
        Field("goal", "int32", "the message", per="environment", low=0, high=1),
        Field("private_key", "int32", "the key of Alice and Bob", per="environment", low=0, high=1),
    )

    def state_fields(self) -> tuple[Field, ...]:
        """Words, message and key."""
        return self.state

    def groups(self) -> tuple[Group, ...]:
        """Eve, Bob and Alice."""
        return tuple(
            self.group(name, 1, size, words=4, moves=0) for name, size in (("eve", 4), ("bob", 8), ("alice", 8))
        )

    def report(self, i: int, state: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """What the agent says, and the message."""
        return state["communication"][i].astype(np.float64), np.eye(4)[int(state["goal"])]

    def words(self, state: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """All of them speak."""
        return dict(zip(self.agent_names, state["communication"], strict=True))

    def discs(self, state: Mapping[str, Any]) -> list[Disc]:
        """The two messages, dark Alice, Bob in the colour of his message, and Eve in red below."""
        messages: tuple[Shade, ...] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
        agents = ((-0.8, 0.2, DARK), (0.8, 0.2, messages[int(state["goal"])]), (0.0, -0.6, (0.75, 0.25, 0.25)))
        looks = ((-0.2, 0.8, messages[0]), (0.2, 0.8, messages[1]), *agents)
        return [Disc(x, y, 0.05, shade) for x, y, shade in looks]
