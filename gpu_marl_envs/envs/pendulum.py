"""Pendulum: swing it up and keep it there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from gymnasium.spaces import Box

from gpu_marl_envs.spec import Environment, Field, Group, param

if TYPE_CHECKING:
    from gpu_marl_envs.rendering import Canvas

TOP_SPEED, TOP_TORQUE, TIME_STEP = 8.0, 2.0, 0.05
FARTHEST = math.pi + TOP_SPEED * TIME_STEP


@dataclass(frozen=True, kw_only=True)
class Pendulum(Environment):
    """A pendulum is swung up by a torque at its pivot that is too weak to lift it, and balanced.

    ## Description
    A rod of 1 m and 1 kg, pivoted at one end. With the angle θ from upright, counted counter-clockwise, and the torque
    u, a step of Δt = 0.05 s adds (3/2 `g` sin θ + 3 u) Δt to the angular velocity, limits it to ±8 radians/s, and then
    adds angular velocity × Δt to θ.

    ## Agents
    One (`agent_0`).

    ## Action space
    `Box(−2, 2, (1,))`: the torque in N m, counter-clockwise; it is clipped.

    ## Observation space
    Three floats: cos θ, sin θ, angular velocity.

    ## Rewards
    −(θ² + 0.1 × angular velocity² + 0.001 u²), of the state before the step, with θ in [−π, π).

    ## Start
    θ uniform in [−π, π], angular velocity uniform in [−1, 1].

    ## End
    Truncates after `episode_length` steps.

    ## Source
    Gymnasium's `Pendulum-v1`. The state's angle leaves out whole turns, which neither observation nor reward show.

    ## Version history
    - v1: first version here, numbered as the original.
    """

    id = "pendulum-v1"
    agents_leave = False
    state = (
        Field("angle", "float32", "from upright, counter-clockwise, radians", low=-FARTHEST, high=FARTHEST),
        Field("angular_velocity", "float32", "radians/s", low=-TOP_SPEED, high=TOP_SPEED),
    )

    episode_length: int = param(200, "longest episode", low=1, unit="steps")
    g: float = param(10.0, "acceleration of gravity", low=-1e6, high=1e6, unit="m/s²")

    def groups(self) -> tuple[Group, ...]:
        """The one agent."""
        high = np.array([1.0, 1.0, TOP_SPEED], np.float32)
        action = Box(-TOP_TORQUE, TOP_TORQUE, (1,), np.float32)
        return (Group("agent", 1, Box(-high, high, dtype=np.float32), action),)

    def draw(self, canvas: Canvas, state: dict[str, np.ndarray]) -> None:
        """The rod and its pivot."""
        rod = (204, 77, 77)
        angle = float(state["angle"][0])
        tip_x, tip_y = -math.sin(angle), math.cos(angle)
        canvas.view(-2.2, -2.2, 2.2, 2.2)
        canvas.bar(0, 0, tip_x, tip_y, 0.2, rod)
        canvas.circle(0, 0, 0.1, rod)
        canvas.circle(tip_x, tip_y, 0.1, rod)
        canvas.circle(0, 0, 0.05, (0, 0, 0))
        canvas.heading(self, state, legend=())
