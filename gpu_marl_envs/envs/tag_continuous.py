"""Tag in the plane: taggers hunt runners that accelerate and turn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from gymnasium.spaces import Box, MultiDiscrete

from gpu_marl_envs.errors import ParameterError
from gpu_marl_envs.spec import ActionSpace, Environment, Field, Group, param


@dataclass(frozen=True, kw_only=True)
class TagContinuous(Environment):
    """Taggers hunt runners on a square; everyone accelerates and turns, and tagged runners leave.

    ## Description
    Agents move in [0, L]², L being `grid_length`. In a step, an agent in the game changes its acceleration and its
    direction by its action; its speed changes by its acceleration and stays within 0 and `max_speed` × its skill
    (acceleration becomes 0 when the speed reaches either end); it moves by its speed along its direction. At the edge
    it stops. Then each runner whose nearest tagger (ties to the lowest index) is closer than `tagging_distance` · L
    is tagged by it. Agents out of the game stand still.

    ## Agents
    `num_taggers` taggers (`tagger_0`, …) and `num_runners` runners (`runner_0`, …).

    ## Action space
    `MultiDiscrete([num_acceleration_levels + 1, num_turn_levels + 1])`: index 0 changes nothing, index i ≥ 1 is the
    (i − 1)-th of the values spaced evenly from `min_acceleration` to `max_acceleration`, or `min_turn` to `max_turn`.
    With `continuous_actions`, a `Box` of the two values themselves.

    ## Observation space
    For K other agents, seven rows of K and then time / `episode_length`. Rows: differences (other − self) of x and y
    over L√2, of speed and acceleration over `max_speed`, of direction over 2π; 1 for a tagger; 1 if in the game. Full:
    all others by index. Partial: the `num_other_agents_observed` nearest of those in the game, nearest first (ties to
    the lowest index), padded with zeros. It is taken after moving and before tagged runners leave. An agent out of the
    game observes zeros, except for the last two rows of the full observation.

    ## Rewards
    `edge_hit_penalty` for being stopped at the edge; `tag_reward_for_tagger` for each runner tagged and
    `tag_penalty_for_runner` for being tagged; `step_penalty_for_tagger` or `step_reward_for_runner` in every step;
    `end_of_game_reward_for_runner` for a runner that is still in the game at the last step.

    ## Start
    Uniformly random positions and one of the four directions 0, π/2, π, 3π/2, at rest; with `start="fixed"` the same
    layout, drawn from the seed, for every copy and episode.

    ## End
    A tagged runner terminates if `runner_exits_game_after_tagged`; all terminate when no runner is left. Truncates
    after `episode_length` steps.

    ## Source
    The rules and parameter names follow WarpDrive's `tag_continuous` (Lan, Srinivasa, Wang, Zheng 2021).

    ## Version history
    - v0: first version.
    """

    id = "tag_continuous-v0"
    loop_by_loop = True

    num_taggers: int = param(1, "number of taggers", low=1, high=100_000, static=True)
    num_runners: int = param(10, "number of runners", low=1, high=100_000, static=True)
    grid_length: float = param(10.0, "side of the square", low=1e-3, high=1e6)
    episode_length: int = param(100, "longest episode", low=1, unit="steps")
    max_speed: float = param(1.0, "greatest speed at skill 1", low=1e-6, high=1e6, unit="length per step")
    skill_level_tagger: float = param(1.0, "factor of a tagger's greatest speed", low=0.0, high=1e6)
    skill_level_runner: float = param(1.0, "factor of a runner's greatest speed", low=0.0, high=1e6)
    min_acceleration: float = param(-1.0, "smallest change of acceleration", low=-1e6, high=1e6)
    max_acceleration: float = param(1.0, "largest change of acceleration", low=-1e6, high=1e6)
    min_turn: float = param(-math.pi / 2, "smallest change of direction", low=-1e3, high=1e3, unit="radians")
    max_turn: float = param(math.pi / 2, "largest change of direction", low=-1e3, high=1e3, unit="radians")
    num_acceleration_levels: int = param(10, "discrete changes of acceleration", low=1, high=10_000, static=True)
    num_turn_levels: int = param(10, "discrete changes of direction", low=1, high=10_000, static=True)
    edge_hit_penalty: float = param(0.0, "reward for being stopped at the edge", high=0.0)
    use_full_observation: bool = param(True, "observe all others, else the nearest")
    num_other_agents_observed: int = param(2, "nearest others in a partial observation", low=1, high=1000, static=True)
    tagging_distance: float = param(0.01, "reach of a tagger", low=0.0, high=10.0, unit="grid_length")
    tag_reward_for_tagger: float = param(1.0, "reward for tagging a runner")
    step_penalty_for_tagger: float = param(0.0, "a tagger's reward in every step", high=0.0)
    tag_penalty_for_runner: float = param(-1.0, "reward for being tagged", high=0.0)
    step_reward_for_runner: float = param(0.0, "a runner's reward in every step")
    end_of_game_reward_for_runner: float = param(1.0, "reward for being in the game at the last step")
    runner_exits_game_after_tagged: bool = param(True, "tagged runners leave the game")
    continuous_actions: bool = param(False, "actions are the two changes themselves")
    start: Literal["random", "fixed"] = param("random", "where agents start")

    def check(self) -> None:
        """Intervals must not be empty."""
        for what in ("acceleration", "turn"):
            low, high = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            if low > high:
                raise ParameterError(f"{self.id}: min_{what} ({low:g}) must not exceed max_{what} ({high:g}).")

    def state_fields(self) -> tuple[Field, ...]:
        """Where agents are and how they move."""
        fastest = self.max_speed * max(self.skill_level_tagger, self.skill_level_runner)
        return (
            Field("x", "float32", "position", low=0.0, high=self.grid_length),
            Field("y", "float32", "position", low=0.0, high=self.grid_length),
            Field("speed", "float32", "length moved per step", low=0.0, high=fastest),
            Field("direction", "float32", "heading in radians", low=0.0, high=2 * math.pi),
            Field("acceleration", "float32", "change of speed per step", low=-fastest, high=fastest),
            Field("tags", "int32", "runners that a tagger tags in this step", scratch=True),
        )

    def neighbors(self) -> int:
        """As many as a partial observation shows."""
        return self.num_other_agents_observed

    def groups(self) -> tuple[Group, ...]:
        """The taggers, then the runners."""
        action: ActionSpace = MultiDiscrete([self.num_acceleration_levels + 1, self.num_turn_levels + 1])
        if self.continuous_actions:
            low, high = (self.min_acceleration, self.min_turn), (self.max_acceleration, self.max_turn)
            action = Box(np.array(low, np.float32), np.array(high, np.float32), dtype=np.float32)
        others = self.num_taggers + self.num_runners - 1
        observed = others if self.use_full_observation else self.num_other_agents_observed
        skill = max(self.skill_level_tagger, self.skill_level_runner) * (1 + 1e-6)  # speed / max_speed is rounded
        rows = ((1, 1), (1, 1), (skill, skill), (2 * skill, 2 * skill), (1, 1), (0, 1), (0, 1))  # (-low, high)
        low_row = np.repeat([-low for low, _ in rows], observed)
        high_row = np.repeat([high for _, high in rows], observed)
        observation = Box(
            np.append(low_row, 0.0).astype(np.float32), np.append(high_row, 1.0).astype(np.float32), dtype=np.float32
        )
        return (
            Group("tagger", self.num_taggers, observation, action),
            Group("runner", self.num_runners, observation, action),
        )
