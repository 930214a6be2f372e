"""Pursuit: a team surrounds evaders on a grid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from gymnasium.spaces import Box, Discrete

from gpu_marl_envs.spec import Environment, Field, Group, param

if TYPE_CHECKING:
    from gpu_marl_envs.rendering import Canvas

RED, BLUE, CYAN, YELLOW = (255, 0, 0), (0, 0, 255), (0, 255, 255), (255, 255, 0)
ORANGE = np.array([255.0, 152.0, 72.0])


@dataclass(frozen=True, kw_only=True)
class Pursuit(Environment):
    """A team of pursuers surrounds randomly walking evaders on a grid with an obstacle.

    ## Description
    In a step the pursuers move, then evaders are caught, then those that are left take a random step. No one steps off
    the map or onto the obstacle, a rectangle in the middle; any number may share a cell. An evader is caught when a
    pursuer stands on each of the cells beside it (four, fewer at the edge and at the obstacle), or, without
    `surround`, when `n_catch` pursuers stand on its cell.

    ## Agents
    `n_pursuers` pursuers (`pursuer_0`, …). The `n_evaders` evaders are no agents: they walk at random, or with
    `freeze_evaders` stand still.

    ## Action space
    `Discrete(5)`: −x, +x, +y, −y, stay.

    ## Observation space
    `[obs_range, obs_range, 3]`: rows (y), then columns (x) of the window around the pursuer. The entries of a cell: 1
    for the obstacle and for what is off the map, else 0; the number of pursuers; the number of evaders.

    ## Rewards
    `urgency_reward` in every step; `catch_reward` for every pursuer that helped to catch an evader (once, however many
    it helped to catch); `tag_reward` for every evader beside the pursuer after its move, before any evader moves.
    Pursuers move in turn in the original and touch after each turn, so here the evaders beside where pursuer i of n
    stood count i/n and those beside where it stands now (n − i)/n; beyond the edge, its own cell counts as one beside
    it. With `shared_reward`, every pursuer gets the mean.

    ## Start
    Uniformly random cells, of which no two of pursuers are the same or side by side, and no two of evaders, within a
    random window of `constraint_window` times the size of the map. Where a group does not fit in that way, its last
    ones start anywhere in the window, and if that is all obstacle, anywhere.

    ## End
    Terminates for all when no evader is left; truncates after `episode_length` steps. In that last step it only
    truncates, as in the original.

    ## Source
    PettingZoo's `sisl/pursuit-v5`, of Gupta, Egorov and Kochenderfer, "Cooperative multi-agent control using deep
    reinforcement learning", 2017. Its argument `max_cycles` is `episode_length` here; the PettingZoo constructors take
    either.

    ## Version history
    - v5: first version here, numbered as the original.
    """

    id = "pursuit-v5"
    agents_leave = False

    x_size: int = param(16, "width of the map", low=2, high=1_000, unit="cells", static=True)
    y_size: int = param(16, "height of the map", low=2, high=1_000, unit="cells", static=True)
    episode_length: int = param(500, "longest episode", low=1, unit="steps")
    shared_reward: bool = param(True, "every pursuer gets the mean of all rewards")
    n_evaders: int = param(30, "number of evaders", low=1, high=100_000, static=True)
    n_pursuers: int = param(8, "number of pursuers", low=1, high=100_000, static=True)
    obs_range: int = param(7, "width and height of what a pursuer sees", low=1, high=1_000, unit="cells", static=True)
    n_catch: int = param(2, "pursuers on an evader's cell that catch it, without surround", low=0)
    freeze_evaders: bool = param(False, "evaders stand still")
    tag_reward: float = param(0.01, "reward for each evader beside a pursuer")
    catch_reward: float = param(5.0, "reward for helping to catch an evader")
    urgency_reward: float = param(-0.1, "reward in every step")
    surround: bool = param(True, "evaders are caught by being surrounded, else by pursuers on their cell")
    constraint_window: float = param(
        1.0, "size of the window in which agents start", low=0.0, high=1.0, unit="size of the map"
    )

    def state_fields(self) -> tuple[Field, ...]:
        """Where pursuers and evaders stand, and which evaders are gone."""
        right, top = self.x_size - 1, self.y_size - 1
        evaders = partial(Field, dtype="int32", per="environment", shape=(self.n_evaders,), low=0)
        cells = partial(Field, dtype="int32", per="environment", shape=(self.x_size * self.y_size,), scratch=True)
        return (
            Field("x", "int32", "column of the pursuer's cell", low=0, high=right),
            Field("y", "int32", "row of the pursuer's cell", low=0, high=top),
            evaders("evader_x", doc="column of each evader's cell", high=right),
            evaders("evader_y", doc="row of each evader's cell", high=top),
            evaders("caught", doc="1 for each evader that was caught, else 0", high=1),
            Field("helped", "int32", "evaders that the pursuer helps to catch in this step", scratch=True),
            cells("pursuers_on", doc="number of pursuers on each cell"),
            cells("evaders_on", doc="number of evaders on each cell"),
        )

    def groups(self) -> tuple[Group, ...]:
        """The pursuers."""
        crowd = max(self.n_pursuers, self.n_evaders)
        observation = Box(0.0, crowd, (self.obs_range, self.obs_range, 3), np.float32)
        return (Group("pursuer", self.n_pursuers, observation, Discrete(5)),)

    def draw(self, canvas: Canvas, state: dict[str, np.ndarray]) -> None:
        """The map with what pursuers see shaded, and beside agents the number of them on the cell; y points down."""
        canvas.view(-0.5, -0.5, self.x_size - 0.5, self.y_size - 0.5)
        shades = self._shades(state)
        for y, x in np.ndindex(self.y_size, self.x_size):
            red, green, blue = shades[y, x].tolist()
            up = self.y_size - 1 - y
            canvas.rectangle(x - 0.5, up - 0.5, x + 0.5, up + 0.5, (red, green, blue))

        left = state["caught"] == 0
        evaders = np.stack([state["evader_x"][left], state["evader_y"][left]], axis=1)
        pursuers = np.stack([state["x"], state["y"]], axis=1)
        for positions, disc, text, above in ((evaders, BLUE, CYAN, -0.2), (pursuers, RED, YELLOW, 0.2)):
            cells, counts = np.unique(positions, axis=0, return_counts=True)
            for (x, y), count in zip(cells.tolist(), counts.tolist(), strict=True):
                up = self.y_size - 1 - y
                canvas.circle(x, up, 1 / 3, disc)
                if canvas.pixel < 1 / 16:
                    canvas.text(x + 0.2, up + above, str(count) if count < 10 else "+", text)
        legend = ((f"pursuers {self.n_pursuers}", RED), (f"evaders {len(evaders)} of {self.n_evaders}", BLUE))
        canvas.heading(self, state, legend)

    def _shades(self, state: dict[str, np.ndarray]) -> np.ndarray:
        """The colour of every cell, ``[y_size, x_size, 3]``: white where the obstacle is, orange what is seen."""
        y, x = np.indices((self.y_size, self.x_size))
        obstacle = (10 * x > 3 * self.x_size) & (10 * x < 7 * self.x_size)
        obstacle &= (5 * y > self.y_size) & (5 * y < 4 * self.y_size)
        shade = np.where(obstacle[..., None], 255.0, np.zeros(3))
        reach = (self.obs_range - 1) // 2
        for column, line in zip(state["x"].tolist(), state["y"].tolist(), strict=True):
            seen = shade[max(line - reach, 0) : line + reach + 1, max(column - reach, 0) : column + reach + 1]
            seen += (ORANGE - seen) / 2
        return shade.astype(int)
