"""Mountain car with a throttle: a car too weak for the hill swings itself up, at a cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from gymnasium.spaces import Box

from gpu_marl_envs.envs.mountain_car import OBSERVATION, STATE, draw_valley
from gpu_marl_envs.spec import Environment, Group, param

if TYPE_CHECKING:
    from gpu_marl_envs.rendering import Canvas


@dataclass(frozen=True, kw_only=True)
class MountainCarContinuous(Environment):
    """A car in a valley is too weak for the hill, and pays for using its engine.

    ## Description
    The ground is at the height sin 3x. In a step, the velocity changes by 0.0015 × throttle − 0.0025 cos 3x and is
    limited to ±0.07; then the position changes by the velocity and is limited to [−1.2, 0.6]. At the left end the car
    stops.

    ## Agents
    One (`agent_0`).

    ## Action space
    `Box(−1, 1, (1,))`: the throttle; it is clipped.

    ## Observation space
    Two floats: position and velocity.

    ## Rewards
    −0.1 × throttle² in every step, of the throttle as it was given; 100 more in the step that reaches the goal.

    ## Start
    At rest, at a uniformly random position in [−0.6, −0.4].

    ## End
    Terminates when the position is at least 0.45 and the velocity at least `goal_velocity`; truncates after
    `episode_length` steps.

    ## Source
    Gymnasium's `MountainCarContinuous-v0`, after Moore, "Efficient memory-based learning for robot control", 1990.

    ## Version history
    - v0: first version here, numbered as the original.
    """

    id = "mountain_car_continuous-v0"
    agents_leave = False
    state = STATE

    episode_length: int = param(999, "longest episode", low=1, unit="steps")
    goal_velocity: float = param(0.0, "least velocity at the goal", unit="position per step")

    def groups(self) -> tuple[Group, ...]:
        """The one agent."""
        return (Group("agent", 1, OBSERVATION, Box(-1.0, 1.0, (1,), np.float32)),)

    def draw(self, canvas: Canvas, state: dict[str, np.ndarray]) -> None:
        """The car in its valley."""
        draw_valley(self, canvas, state, goal=0.45)
