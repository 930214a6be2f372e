"""Acrobot: two links swing themselves up from the joint between them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from gymnasium.spaces import Box, Discrete

from gpu_marl_envs.spec import Environment, Field, Group, param

if TYPE_CHECKING:
    from gpu_marl_envs.rendering import Canvas

TOP_SPEED_INNER, TOP_SPEED_OUTER = 4 * math.pi, 9 * math.pi


@dataclass(frozen=True, kw_only=True)
class Acrobot(Environment):
    """Two links hang from a pivot and swing their end up by a torque at the joint between them.

    ## Description
    Each link is 1 m long and weighs 1 kg, with its mass centred and a moment of inertia of 1 kg m²; gravity is
    9.8 m/s². A step is one of 0.2 s of the fourth-order Runge-Kutta method. Then angles are taken back to [−π, π] and
    angular velocities are limited to ±4π (inner link) and ±9π radians/s (outer link). With `book_or_nips="nips"` the
    equation of motion lacks a term, as it does in the paper.

    ## Agents
    One (`agent_0`).

    ## Action space
    `Discrete(3)`: a torque of −1, 0 or 1 N m.

    ## Observation space
    Six floats: cosine and sine of the inner link's angle from hanging down, cosine and sine of the outer link's angle
    against the inner one, and the two angular velocities.

    ## Rewards
    −1 in every step, 0 in the one that reaches the goal.

    ## Start
    Angles and angular velocities are uniform in [−0.1, 0.1].

    ## End
    Terminates when the end is more than 1 m above the pivot; truncates after `episode_length` steps.

    ## Source
    Gymnasium's `Acrobot-v1`, after Sutton, "Generalization in reinforcement learning: successful examples using sparse
    coarse coding", 1996, and Sutton and Barto, "Reinforcement Learning: An Introduction".

    ## Version history
    - v1: first version here, numbered as the original.
    """

    id = "acrobot-v1"
    agents_leave = False
    state = (
        Field(
            "angle",
            "float32",
            "of the inner link from hanging down, of the outer link against the inner one, radians",
            shape=(2,),
            low=-math.pi,
            high=math.pi,
        ),
        Field(
            "angular_velocity",
            "float32",
            "of the inner and of the outer link, radians/s",
            shape=(2,),
            low=-TOP_SPEED_OUTER,
            high=TOP_SPEED_OUTER,
        ),
    )

    episode_length: int = param(500, "longest episode", low=1, unit="steps")
    book_or_nips: Literal["book", "nips"] = param("book", "equations of motion of the book or of the paper")

    def groups(self) -> tuple[Group, ...]:
        """The one agent."""
        high = np.array([1.0, 1.0, 1.0, 1.0, TOP_SPEED_INNER, TOP_SPEED_OUTER], np.float32)
        return (Group("agent", 1, Box(-high, high, dtype=np.float32), Discrete(3)),)

    def draw(self, canvas: Canvas, state: dict[str, np.ndarray]) -> None:
        """The links, their joints, and the height to reach."""
        canvas.view(-2.2, -2.2, 2.2, 2.2)
        canvas.line(-2.2, 1.0, 2.2, 1.0, (0, 0, 0))
        x, y, direction = 0.0, 0.0, 0.0
        for angle in state["angle"][0].tolist():
            direction += angle
            end_x, end_y = x + math.sin(direction), y - math.cos(direction)
            canvas.bar(x, y, end_x, end_y, 0.2, (0, 204, 204))
            canvas.circle(x, y, 0.1, (204, 204, 0))
            x, y = end_x, end_y
        canvas.heading(self, state, legend=())
