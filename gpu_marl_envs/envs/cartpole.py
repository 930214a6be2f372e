"""Cart and pole: a cart balances a pole by moving left and right."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from gymnasium.spaces import Box, Discrete

from gpu_marl_envs.spec import Environment, Field, Group, param

if TYPE_CHECKING:
    from gpu_marl_envs.rendering import Canvas

STEEPEST = math.radians(12)  # of the pole before the episode ends
FARTHEST = 2.4  # of the cart before the episode ends


@dataclass(frozen=True, kw_only=True)
class CartPole(Environment):
    """A cart on a track balances a pole by being pushed left or right.

    ## Description
    The pole is hinged to the cart and falls over unless the cart is moved beneath it. There is no friction. A step is
    one explicit Euler step of 0.02 s.

    ## Agents
    One (`agent_0`).

    ## Action space
    `Discrete(2)`: push the cart to the left (0) or to the right (1) with 10 N.

    ## Observation space
    Four floats: position of the cart (m), its velocity (m/s), angle of the pole from upright (radians, positive to the
    right), its angular velocity (radians/s).

    ## Rewards
    1 in every step, the last one included. With `sutton_barto_reward`, 0 in every step but −1 in the one in which the
    pole falls or the cart leaves the track.

    ## Start
    All four quantities are uniform in [−0.05, 0.05].

    ## End
    Terminates when the cart is farther than 2.4 m from the middle or the pole leans more than 12°; truncates after
    `episode_length` steps.

    ## Source
    Gymnasium's `CartPole-v1`, after Barto, Sutton and Anderson, "Neuronlike adaptive elements that can solve difficult
    learning control problems", 1983.

    ## Version history
    - v1: first version here, numbered as the original.
    """

    id = "cartpole-v1"
    agents_leave = False
    state = (
        Field(
            "position", "float32", "of the cart from the middle of the track, m", low=-2 * FARTHEST, high=2 * FARTHEST
        ),
        Field("velocity", "float32", "of the cart, m/s"),
        Field("angle", "float32", "of the pole from upright, radians", low=-2 * STEEPEST, high=2 * STEEPEST),
        Field("angular_velocity", "float32", "of the pole, radians/s"),
    )

    episode_length: int = param(500, "longest episode", low=1, unit="steps")
    sutton_barto_reward: bool = param(False, "reward −1 for failing and 0 otherwise, instead of 1 for every step")

    def groups(self) -> tuple[Group, ...]:
        """The one agent."""
        high = np.array([2 * FARTHEST, np.inf, 2 * STEEPEST, np.inf], np.float32)
        return (Group("agent", 1, Box(-high, high, dtype=np.float32), Discrete(2)),)

    def draw(self, canvas: Canvas, state: dict[str, np.ndarray]) -> None:
        """The cart on its track, with the pole."""
        x, lean = float(state["position"][0]), float(state["angle"][0])
        hinge = 0.06
        canvas.view(-FARTHEST, -0.8, FARTHEST, 2.4)
        canvas.line(-FARTHEST, 0, FARTHEST, 0, (0, 0, 0))
        canvas.rectangle(x - 0.2, -0.12, x + 0.2, 0.12, (0, 0, 0))
        canvas.bar(x, hinge, x + math.sin(lean), hinge + math.cos(lean), 0.08, (202, 152, 101))
        canvas.circle(x, hinge, 0.04, (129, 132, 203))
        canvas.heading(self, state, legend=())
