"""Tag on a grid: several taggers hunt one runner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from gymnasium.spaces import Box, Discrete

from gpu_marl_envs.spec import Environment, Field, Group, param


@dataclass(frozen=True, kw_only=True)
class TagGridworld(Environment):
    """Taggers hunt one runner on a square grid; all move at once.

    ## Description
    Agents stand on the cells (0, 0) to (`grid_length`, `grid_length`); several may share a cell. A tagger that
    stands on the runner's cell after a move ends the game.

    ## Agents
    `num_taggers` taggers (`tagger_0`, …) and one runner (`runner_0`).

    ## Action space
    `Discrete(5)`: stay, +x, −x, +y, −y. A move that leaves the grid is clipped.

    ## Observation space
    Full, 4n + 1 floats for n agents: x / L of every agent, y / L of every agent, 1 for the runner else 0, 1 for
    oneself else 0, then time / `episode_length`; L is `grid_length`. Partial, 6 floats: own x / L and y / L; the
    runner's x / L and y / L (for the runner: the nearest tagger's, ties to the lowest index); 1 for a runner else 0;
    time / `episode_length`.

    ## Rewards
    A move that is clipped costs `wall_hit_penalty`. If the runner is caught, every tagger gets
    `tag_reward_for_tagger` and the runner −`tag_penalty_for_runner`. In every other step a tagger gets
    −`step_cost_for_tagger` and the runner +`step_cost_for_tagger`.

    ## Start
    Uniformly random cells (`start="random"`), or the taggers in the middle and the runner at (0, 0) (`"fixed"`).

    ## End
    Terminates for all agents when the runner is caught; truncates after `episode_length` steps.

    ## Source
    The rules and parameter names follow WarpDrive's `tag_gridworld` (Lan, Srinivasa, Wang, Zheng 2021).

    ## Version history
    - v0: first version.
    """

    id = "tag_gridworld-v0"
    agents_leave = False
    loop_by_loop = True

    num_taggers: int = param(10, "number of taggers", low=1, high=99_999, static=True)
    grid_length: int = param(10, "largest coordinate of a cell", low=1, high=30_000, unit="cells")
    episode_length: int = param(100, "longest episode", low=1, unit="steps")
    wall_hit_penalty: float = param(0.1, "cost of a move that leaves the grid")
    tag_reward_for_tagger: float = param(10.0, "reward of every tagger when the runner is caught")
    tag_penalty_for_runner: float = param(2.0, "cost to the runner of being caught")
    step_cost_for_tagger: float = param(0.01, "cost of a step to a tagger, and the runner's reward for it")
    use_full_observation: bool = param(True, "observe all agents, else only oneself and the opponent")
    start: Literal["random", "fixed"] = param("random", "where agents start")

    def state_fields(self) -> tuple[Field, ...]:
        """The cells where agents stand."""
        return (
            Field("x", "int32", "column of the agent's cell", low=0, high=self.grid_length),
            Field("y", "int32", "row of the agent's cell", low=0, high=self.grid_length),
        )

    def groups(self) -> tuple[Group, ...]:
        """The taggers, then the runner."""
        size = 4 * (self.num_taggers + 1) + 1 if self.use_full_observation else 6
        observation = Box(0.0, 1.0, (size,), np.float32)
        return Group("tagger", self.num_taggers, observation, Discrete(5)), Group("runner", 1, observation, Discrete(5))
