"""Reference of Tag on a grid: the rules in NumPy over a batch of copies ``[E, n]``; the runner is the last agent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOVES = np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)])  # stay, +x, −x, +y, −y


@dataclass(frozen=True)
class Rules:
    """Parameters of the game, under the names that the environment gives them."""

    num_taggers: int
    grid_length: int
    episode_length: int
    wall_hit_penalty: float
    tag_reward_for_tagger: float
    tag_penalty_for_runner: float
    step_cost_for_tagger: float
    use_full_observation: bool
    start: str

    @property
    def num_agents(self) -> int:
        """Taggers and the runner."""
        return self.num_taggers + 1


@dataclass
class State:
    """Positions ``[E, n]`` and steps taken ``[E]``."""

    x: np.ndarray
    y: np.ndarray
    step: np.ndarray


@dataclass
class Outcome:
    """What one step returns: ``reward [E, n]`` in float64, ``terminated [E]`` and ``truncated [E]``."""

    state: State
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


def step(rules: Rules, state: State, actions: np.ndarray) -> Outcome:
    """One step of every copy with ``actions [E, n]``."""
    target_x = state.x + MOVES[actions, 0]
    target_y = state.y + MOVES[actions, 1]
    x = np.clip(target_x, 0, rules.grid_length)
    y = np.clip(target_y, 0, rules.grid_length)
    hit_wall = (x != target_x) | (y != target_y)

    tagged = ((x[:, :-1] == x[:, -1:]) & (y[:, :-1] == y[:, -1:])).any(axis=1)
    reward = np.where(hit_wall, -rules.wall_hit_penalty, 0.0)
    reward[:, :-1] += np.where(tagged, rules.tag_reward_for_tagger, -rules.step_cost_for_tagger)[:, None]
    reward[:, -1] += np.where(tagged, -rules.tag_penalty_for_runner, rules.step_cost_for_tagger)

    steps = state.step + 1
    return Outcome(State(x, y, steps), reward, tagged, steps >= rules.episode_length)


def observe(rules: Rules, state: State) -> np.ndarray:
    """Observations ``[E, n, d]`` of every agent, in float64."""
    return _observe_all(rules, state) if rules.use_full_observation else _observe_nearest(rules, state)


def _observe_all(rules: Rules, state: State) -> np.ndarray:
    copies, agents = state.x.shape
    runner = np.zeros(agents)
    runner[-1] = 1.0
    rows = []
    for agent in range(agents):
        oneself = np.zeros(agents)
        oneself[agent] = 1.0
        rows.append(
            np.concatenate(
                [
                    state.x / rules.grid_length,
                    state.y / rules.grid_length,
                    np.broadcast_to(runner, (copies, agents)),
                    np.broadcast_to(oneself, (copies, agents)),
                    state.step[:, None] / rules.episode_length,
                ],
                axis=1,
            )
        )
    return np.stack(rows, axis=1)


def _observe_nearest(rules: Rules, state: State) -> np.ndarray:
    copies, agents = state.x.shape
    runner = agents - 1
    # Whole squared distances, so that ties are exact; argmin takes the lowest index.
    distance = (state.x[:, :-1] - state.x[:, -1:]) ** 2 + (state.y[:, :-1] - state.y[:, -1:]) ** 2
    other = np.full((copies, agents), runner)
    other[:, runner] = distance.argmin(axis=1)
    observation = np.zeros((copies, agents, 6))
    observation[..., 0] = state.x / rules.grid_length
    observation[..., 1] = state.y / rules.grid_length
    observation[..., 2] = np.take_along_axis(state.x, other, axis=1) / rules.grid_length
    observation[..., 3] = np.take_along_axis(state.y, other, axis=1) / rules.grid_length
    observation[:, runner, 4] = 1.0
    observation[..., 5] = state.step[:, None] / rules.episode_length
    return observation
