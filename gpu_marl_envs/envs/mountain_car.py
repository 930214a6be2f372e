"""Mountain car: a car too weak for the hill swings itself up."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from gymnasium.spaces import Box, Discrete

from gpu_marl_envs.spec import Environment, Field, Group, param

if TYPE_CHECKING:
    from gpu_marl_envs.rendering import Canvas

LEFT_END, RIGHT_END, TOP_SPEED = -1.2, 0.6, 0.07
STATE = (
    Field("position", "float32", "of the car along the horizontal axis", low=LEFT_END, high=RIGHT_END),
    Field("velocity", "float32", "change of position per step", low=-TOP_SPEED, high=TOP_SPEED),
)
OBSERVATION = Box(
    np.array([LEFT_END, -TOP_SPEED], np.float32), np.array([RIGHT_END, TOP_SPEED], np.float32), dtype=np.float32
)


@dataclass(frozen=True, kw_only=True)
class MountainCar(Environment):
    """A car in a valley is too weak for the hill and has to gather speed by going back and forth.

    ## Description
    The ground is at the height sin 3x. In a step, the velocity changes by 0.001 × (action − 1) − 0.0025 cos 3x and is
    limited to ±0.07; then the position changes by the velocity and is limited to [−1.2, 0.6]. At the left end the car
    stops.

    ## Agents
    One (`agent_0`).

    ## Action space
    `Discrete(3)`: accelerate to the left, not at all, to the right.

    ## Observation space
    Two floats: position and velocity.

    ## Rewards
    −1 in every step.

    ## Start
    At rest, at a uniformly random position in [−0.6, −0.4].

    ## End
    Terminates when the position is at least 0.5 and the velocity at least `goal_velocity`; truncates after
    `episode_length` steps.

    ## Source
    Gymnasium's `MountainCar-v0`, after Moore, "Efficient memory-based learning for robot control", 1990.

    ## Version history
    - v0: first version here, numbered as the original.
    """

    id = "mountain_car-v0"
    agents_leave = False
    state = STATE

    episode_length: int = param(200, "longest episode", low=1, unit="steps")
    goal_velocity: float = param(0.0, "least velocity at the goal", unit="position per step")

    def groups(self) -> tuple[Group, ...]:
        """The one agent."""
        return (Group("agent", 1, OBSERVATION, Discrete(3)),)

    def draw(self, canvas: Canvas, state: dict[str, np.ndarray]) -> None:
        """The car in its valley."""
        draw_valley(self, canvas, state, goal=0.5)


def draw_valley(declaration: Environment, canvas: Canvas, state: dict[str, np.ndarray], goal: float) -> None:
    """Draws the valley, the car, and a flag at ``goal``."""

    def height(x: float) -> float:
        return 0.45 * math.sin(3 * x) + 0.55

    canvas.view(LEFT_END, 0.0, RIGHT_END, 1.2)
    ground = np.linspace(LEFT_END, RIGHT_END, 100).tolist()
    for x0, x1 in itertools.pairwise(ground):
        canvas.line(x0, height(x0), x1, height(x1), (0, 0, 0), width=1)

    canvas.line(goal, height(goal), goal, height(goal) + 0.15, (0, 0, 0), width=1)
    tip = height(goal) + 0.15
    canvas.polygon([(goal, tip), (goal, tip - 0.03), (goal + 0.075, tip - 0.015)], (204, 204, 0))

    x = float(state["position"][0])
    slope = math.cos(3 * x)  # the original turns the car by this
    along, up = (math.cos(slope), math.sin(slope)), (-math.sin(slope), math.cos(slope))
    ground_x, ground_y = x, height(x) + 0.03
    middle_x, middle_y = ground_x + 0.03 * up[0], ground_y + 0.03 * up[1]
    front, back = 0.06, -0.06
    canvas.bar(
        middle_x + back * along[0],
        middle_y + back * along[1],
        middle_x + front * along[0],
        middle_y + front * along[1],
        0.06,
        (0, 0, 0),
    )
    for axle in (front / 2, back / 2):
        canvas.circle(ground_x + axle * along[0], ground_y + axle * along[1], 0.024, (128, 128, 128))
    canvas.heading(declaration, state, legend=())
