"""Reference of continuous Tag: the rules in NumPy over a batch of copies ``[E, n]``; taggers first, then runners.

The arithmetic is float64. A decision that rounding to float32 could turn (the speed reached its end, the square was
left, a runner was caught, who is nearest) comes with a mask that says where it is beyond doubt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MARGIN = 3e-6  # a few float32 roundings: comparisons closer than this, relative to their operands, are in doubt


@dataclass(frozen=True)
class Rules:
    """Parameters of the game, under the names that the environment gives them."""

    num_taggers: int
    num_runners: int
    grid_length: float
    episode_length: int
    max_speed: float
    skill_level_tagger: float
    skill_level_runner: float
    min_acceleration: float
    max_acceleration: float
    min_turn: float
    max_turn: float
    num_acceleration_levels: int
    num_turn_levels: int
    edge_hit_penalty: float
    use_full_observation: bool
    num_other_agents_observed: int
    tagging_distance: float
    tag_reward_for_tagger: float
    step_penalty_for_tagger: float
    tag_penalty_for_runner: float
    step_reward_for_runner: float
    end_of_game_reward_for_runner: float
    runner_exits_game_after_tagged: bool
    continuous_actions: bool
    start: str

    @property
    def num_agents(self) -> int:
        """Taggers and runners."""
        return self.num_taggers + self.num_runners

    @property
    def is_tagger(self) -> np.ndarray:
        """``[n]`` bool."""
        return np.arange(self.num_agents) < self.num_taggers

    @property
    def top_speed(self) -> np.ndarray:
        """``[n]``, distance per step."""
        return self.max_speed * np.where(self.is_tagger, self.skill_level_tagger, self.skill_level_runner)


@dataclass
class State:
    """Fields ``[E, n]`` in float64, ``alive [E, n]`` (in the game at the next step) and ``step [E]``."""

    x: np.ndarray
    y: np.ndarray
    speed: np.ndarray
    direction: np.ndarray
    acceleration: np.ndarray
    alive: np.ndarray
    step: np.ndarray


@dataclass
class Move:
    """The state after the move, who left the square, and where both are beyond doubt (all ``[E, n]``)."""

    state: State
    hit_edge: np.ndarray
    sure_edge: np.ndarray
    sure_acceleration: np.ndarray


@dataclass
class Outcome:
    """What follows from the positions after a move.

    Attributes:
        reward: ``[E, n]``.
        alive: ``[E, n]``, in the game at the next step.
        terminated: ``[E, n]``.
        truncated: ``[E]``.
        sure: ``[E]``, no tag of this copy is in doubt.
        tags: ``[E]``, runners tagged in this step.
    """

    reward: np.ndarray
    alive: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    sure: np.ndarray
    tags: np.ndarray


def changes(rules: Rules, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Changes of acceleration and direction ``[E, n]`` that ``actions [E, n, 2]`` ask for."""
    limits = (
        (rules.min_acceleration, rules.max_acceleration, rules.num_acceleration_levels),
        (rules.min_turn, rules.max_turn, rules.num_turn_levels),
    )
    asked = []
    for component, (low, high, levels) in enumerate(limits):
        chosen = actions[..., component]
        if rules.continuous_actions:
            asked.append(np.clip(chosen.astype(np.float64), low, high))
        else:
            asked.append(np.concatenate([[0.0], np.linspace(low, high, levels)])[chosen])
    return asked[0], asked[1]


def move(rules: Rules, state: State, actions: np.ndarray) -> Move:
    """The first half of a step: every agent in the game changes its motion and moves, the others stand still."""
    more_acceleration, turn = changes(rules, actions)
    alive = state.alive
    acceleration = state.acceleration + more_acceleration
    direction = np.mod(state.direction + turn, 2 * np.pi)
    wanted = state.speed + acceleration
    speed = np.clip(wanted, 0.0, rules.top_speed)
    at_end = (wanted <= 0.0) | (wanted >= rules.top_speed)
    doubt = np.minimum(np.abs(wanted), np.abs(wanted - rules.top_speed)) < MARGIN * (1 + np.abs(state.speed))
    sure_acceleration = ~(doubt & (np.abs(acceleration) > MARGIN)) | ~alive

    speed = np.where(alive, speed, 0.0)
    direction = np.where(alive, direction, 0.0)
    acceleration = np.where(alive, np.where(at_end, 0.0, acceleration), state.acceleration)
    wanted_x = state.x + speed * np.cos(direction)
    wanted_y = state.y + speed * np.sin(direction)
    x = np.clip(wanted_x, 0.0, rules.grid_length)
    y = np.clip(wanted_y, 0.0, rules.grid_length)
    hit_edge = ((x != wanted_x) | (y != wanted_y)) & alive

    slack = MARGIN * (rules.grid_length + speed)
    in_doubt = np.zeros_like(alive)
    for value in (wanted_x, wanted_y):
        in_doubt |= (np.abs(value) < slack) | (np.abs(value - rules.grid_length) < slack)
    # An agent that stands still cannot leave, however close to the edge it stands.
    sure_edge = ~in_doubt | (speed == 0.0)
    moved = State(x, y, speed, direction, acceleration, alive.copy(), state.step + 1)
    return Move(moved, hit_edge, sure_edge, sure_acceleration)


def settle(rules: Rules, state: State, hit_edge: np.ndarray) -> Outcome:
    """The second half of a step, from the ``state`` after the move: tags, rewards, who leaves, and the end."""
    taggers = rules.num_taggers
    copies = len(state.step)
    threshold = rules.tagging_distance * rules.grid_length
    reward = np.where(hit_edge, rules.edge_hit_penalty, 0.0)
    distance = np.hypot(
        state.x[:, taggers:, None] - state.x[:, None, :taggers],
        state.y[:, taggers:, None] - state.y[:, None, :taggers],
    )  # [E, runners, taggers]
    catcher = distance.argmin(axis=2)  # of equals the lowest index
    closest = distance.min(axis=2)
    runner_alive = state.alive[:, taggers:]
    tagged = runner_alive & (closest < threshold)

    reward[:, taggers:] += np.where(tagged, rules.tag_penalty_for_runner, 0.0)
    copy, runner = np.nonzero(tagged)
    np.add.at(reward, (copy, catcher[copy, runner]), rules.tag_reward_for_tagger)

    step_reward = np.where(rules.is_tagger, rules.step_penalty_for_tagger, rules.step_reward_for_runner)
    reward += np.where(state.alive, step_reward, 0.0)

    alive = state.alive.copy()
    if rules.runner_exits_game_after_tagged:
        alive[:, taggers:] &= ~tagged
    last_step = state.step == rules.episode_length
    reward[:, taggers:] += np.where(alive[:, taggers:] & last_step[:, None], rules.end_of_game_reward_for_runner, 0.0)

    over = ~alive[:, taggers:].any(axis=1)
    terminated = ~alive | over[:, None]
    truncated = state.step >= rules.episode_length

    slack = MARGIN * (threshold + distance)
    rival = (np.abs(distance - closest[..., None]) < slack) & (distance != closest[..., None])
    doubt = (np.abs(closest - threshold) < MARGIN * threshold) | (rival.any(axis=2) & tagged)
    sure = ~(doubt & runner_alive).any(axis=1)
    return Outcome(reward, alive, terminated, truncated, sure, tagged.sum(axis=1).reshape(copies))


def observe(rules: Rules, state: State) -> tuple[np.ndarray, np.ndarray]:
    """Observations ``[E, n, d]`` and whether their order of neighbours is beyond doubt ``[E, n]``.

    ``state.alive`` says who was in the game before this step's tagged runners left.
    """
    copies, agents = state.x.shape
    diagonal = rules.grid_length * np.sqrt(2.0)
    scales = (
        (state.x, diagonal),
        (state.y, diagonal),
        (state.speed, rules.max_speed),
        (state.acceleration, rules.max_speed),
        (state.direction, 2 * np.pi),
    )
    columns = agents - 1 if rules.use_full_observation else rules.num_other_agents_observed
    table = np.zeros((copies, agents, 7, columns))
    sure = np.ones((copies, agents), dtype=bool)
    for observer in range(agents):
        others = np.delete(np.arange(agents), observer)
        if rules.use_full_observation:
            order = np.broadcast_to(others, (copies, agents - 1))
            seen = np.ones((copies, agents - 1), dtype=bool)
        else:
            order, seen, sure[:, observer] = _nearest(state, observer, others, columns)
        width = order.shape[1]
        rows = table[:, observer, :, :width]
        watching = state.alive[:, observer, None]
        for row, (values, scale) in enumerate(scales):
            difference = (np.take_along_axis(values, order, axis=1) - values[:, observer, None]) / scale
            rows[:, row] = np.where(seen & watching, difference, 0.0)
        stays = seen if rules.use_full_observation else seen & watching
        rows[:, 5] = np.where(stays, rules.is_tagger[order], 0.0)
        rows[:, 6] = np.where(stays, np.take_along_axis(state.alive, order, axis=1), 0.0)
    time = np.where(state.alive, state.step[:, None] / rules.episode_length, 0.0)
    return np.concatenate([table.reshape(copies, agents, -1), time[..., None]], axis=2), sure


def _nearest(state: State, observer: int, others: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ``count`` nearest of ``others`` in the game ``[E, ≤count]``, which entries there are, and if sure ``[E]``."""
    distance = np.hypot(state.x[:, others] - state.x[:, [observer]], state.y[:, others] - state.y[:, [observer]])
    distance = np.where(state.alive[:, others], distance, np.inf)
    rank = np.argsort(distance, axis=1, kind="stable")  # stable: of equals the lowest index
    ordered = np.take_along_axis(distance, rank, axis=1)
    with np.errstate(invalid="ignore"):  # inf − inf, between two that are out of the game
        gap = np.diff(ordered, axis=1)
    nearer, last = ordered[:, :-1], ordered[:, :count][:, -1:]
    rivals = nearer <= last * (1 + MARGIN)  # some as near as the last one may follow it
    close = rivals & (gap > 0) & (gap < MARGIN * nearer)
    rank = rank[:, :count]
    return others[rank], np.isfinite(ordered[:, :count]), ~close.any(axis=1)
