"""Classic control against Gymnasium 1.4.0, which it follows, from injected states and from the start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references.harness import Excluded, assert_close
from scipy import stats

from gpu_marl_envs import registry
from gpu_marl_envs.batched import BatchedEnv

Make = Callable[..., BatchedEnv]
State = np.ndarray  # [E, size] float64, in the order of the original's state
COPIES = 256
ROUNDING = 2e-6  # quantities of about 1 closer than this to a threshold may lie on its other side in float32


@dataclass(frozen=True)
class Game:
    """One environment and its original.

    Attributes:
        env_id: ours.
        original: Gymnasium's.
        fields: ours, in the order of the original's state.
        spread: random states ``[E, size]`` that an episode could reach, for parameters.
        static: settings that are compiled for; each is tested by itself.
        dynamic: strategies of parameters that are not.
        angles: the columns of the state that are angles, equal modulo 2π.
        in_doubt: where ``(before, after, params)`` leave it to rounding whether a threshold was passed.
        steps: of whole episodes from the start that stay equal, or none where rounding grows too fast.
        left_out: the largest share of comparisons that may be in doubt.
    """

    env_id: str
    original: str
    fields: tuple[str, ...]
    spread: Callable[[np.random.Generator, int], State]
    in_doubt: Callable[[State, State, dict[str, Any]], np.ndarray]
    static: tuple[dict[str, Any], ...] = ({},)
    dynamic: dict[str, st.SearchStrategy[Any]] = field(default_factory=dict)
    angles: tuple[int, ...] = ()
    steps: int = 0
    left_out: float = 0.005

    def make_original(self, **params: Any) -> gymnasium.Env[Any, Any]:
        attributes = {key: params.pop(key) for key in ("book_or_nips",) if key in params}
        if "episode_length" in params:
            params["max_episode_steps"] = params.pop("episode_length")
        env = gymnasium.make(self.original, disable_env_checker=True, **params)
        for key, value in attributes.items():
            setattr(env.unwrapped, key, value)
        env.reset(seed=0)
        return env

    def inject(self, env: BatchedEnv, states: State) -> None:
        env.reset()
        first = 0
        for name in self.fields:
            target = getattr(env.state, name)
            size = target[0].numel()
            values = torch.from_numpy(states[:, first : first + size].astype(np.float32))
            target.copy_(values.reshape(target.shape))
            first += size

    def state_of(self, env: BatchedEnv) -> State:
        columns = [getattr(env.state, name).cpu().double().numpy().reshape(env.num_envs, -1) for name in self.fields]
        return np.concatenate(columns, axis=1)


def random_cartpoles(rng: np.random.Generator, copies: int) -> State:
    limits = np.array([2.4, 3.0, 0.2094, 3.0])
    states = rng.uniform(-limits, limits, (copies, 4))
    states[rng.random(copies) < 0.1, 1:] *= (1, 0, 1)  # without velocity
    return states


def random_cars(rng: np.random.Generator, copies: int) -> State:
    position, velocity = rng.uniform(-1.2, 0.6, copies), rng.uniform(-0.07, 0.07, copies)
    position[rng.random(copies) < 0.1] = -1.2
    velocity = np.where(rng.random(copies) < 0.1, rng.choice([-0.07, 0.0, 0.07], copies), velocity)
    return np.stack([position, velocity], axis=1)


def random_pendulums(rng: np.random.Generator, copies: int) -> State:
    turns = np.where(rng.random(copies) < 0.2, rng.integers(-3, 4, copies), 0)
    angle = rng.uniform(-np.pi, np.pi, copies) * rng.choice([1, 0.01], copies) + 2 * np.pi * turns
    return np.stack([angle, rng.uniform(-8, 8, copies)], axis=1)


def random_acrobots(rng: np.random.Generator, copies: int) -> State:
    speeds = rng.uniform(-1, 1, (copies, 2)) * (4 * np.pi, 9 * np.pi) * rng.choice([1, 0.3, 0.03], (copies, 1))
    return np.concatenate([rng.uniform(-np.pi, np.pi, (copies, 2)), speeds], axis=1)


def pole_in_doubt(_: State, after: State, __: dict[str, Any]) -> np.ndarray:
    distance = np.minimum(np.abs(np.abs(after[:, 0]) - 2.4), np.abs(np.abs(after[:, 2]) - np.radians(12)))
    return distance < ROUNDING


def car_in_doubt(goal: float) -> Callable[[State, State, dict[str, Any]], np.ndarray]:
    def in_doubt(_: State, after: State, params: dict[str, Any]) -> np.ndarray:
        # A car that comes as near to the left end as this without touching it keeps its velocity.
        nearly_stopped = (np.abs(after[:, 0] + 1.2) < ROUNDING) & (after[:, 1] < 0)
        hardly_moving = np.abs(after[:, 1] - params.get("goal_velocity", 0.0)) < ROUNDING
        at_goal = (np.abs(after[:, 0] - goal) < ROUNDING) | ((after[:, 0] > goal - 0.01) & hardly_moving)
        return nearly_stopped | at_goal

    return in_doubt


def acrobot_in_doubt(_: State, after: State, __: dict[str, Any]) -> np.ndarray:
    return np.abs(-np.cos(after[:, 0]) - np.cos(after[:, 0] + after[:, 1]) - 1) < 2e-5


def never_in_doubt(_: State, after: State, __: dict[str, Any]) -> np.ndarray:
    return np.zeros(len(after), dtype=bool)


GOAL_VELOCITY = {"goal_velocity": st.just(0.0) | st.floats(-0.0625, 0.0625, width=32)}
GAMES = [
    Game(
        "cartpole-v1",
        "CartPole-v1",
        ("position", "velocity", "angle", "angular_velocity"),
        random_cartpoles,
        pole_in_doubt,
        static=({}, {"sutton_barto_reward": True}),
        steps=500,
    ),
    Game(
        "mountain_car-v0",
        "MountainCar-v0",
        ("position", "velocity"),
        random_cars,
        car_in_doubt(0.5),
        dynamic=GOAL_VELOCITY,
        steps=200,
    ),
    Game(
        "mountain_car_continuous-v0",
        "MountainCarContinuous-v0",
        ("position", "velocity"),
        random_cars,
        car_in_doubt(0.45),
        dynamic=GOAL_VELOCITY,
        steps=999,
    ),
    Game(
        "pendulum-v1",
        "Pendulum-v1",
        ("angle", "angular_velocity"),
        random_pendulums,
        never_in_doubt,
        dynamic={"g": st.just(10.0) | st.floats(-20.0, 20.0, width=32)},
        angles=(0,),
    ),
    Game(
        "acrobot-v1",
        "Acrobot-v1",
        ("angle", "angular_velocity"),
        random_acrobots,
        acrobot_in_doubt,
        static=({}, {"book_or_nips": "nips"}),
        angles=(0, 1),
        left_out=0.08,
    ),
]
EVERY_GAME = pytest.mark.parametrize("game", GAMES, ids=lambda game: game.env_id)
EVERY_SETTING = pytest.mark.parametrize(
    ("game", "static"),
    [pytest.param(game, static, id=f"{game.env_id}-{static}") for game in GAMES for static in game.static],
)
SEEDS = st.integers(0, 2**32 - 1)


@dataclass
class Outcome:
    """What the original did, for every copy."""

    state: State
    observation: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray


def step_original(original: gymnasium.Env[Any, Any], states: State, actions: np.ndarray) -> Outcome:
    """One step of the original from each of ``states``."""
    env, results = original.unwrapped, []
    for state, action in zip(states, actions, strict=True):
        env.state = state.copy()
        env.steps_beyond_terminated = None
        observation, reward, terminated, _, _ = env.step(action)
        results.append((np.array(env.state, np.float64), observation, reward, terminated))
    return Outcome(*(np.array(column) for column in zip(*results, strict=True)))


def random_actions(env: BatchedEnv, rng: np.random.Generator) -> np.ndarray:
    """For every copy; continuous ones also at and far beyond their bounds."""
    space = env.groups["agent"].action_space
    if isinstance(space, gymnasium.spaces.Discrete):
        return rng.integers(0, space.n, env.num_envs)
    actions = rng.uniform(1.5 * space.low, 1.5 * space.high, (env.num_envs, 1))
    extreme = rng.choice([-100.0, -1.0, 0.0, 1.0, 100.0], (env.num_envs, 1)) * space.high
    return np.where(rng.random((env.num_envs, 1)) < 0.2, extreme, actions).astype(np.float32)


def act(env: BatchedEnv, actions: np.ndarray) -> tuple[np.ndarray, ...]:
    """Steps; observation, reward, terminated and truncated of the only agent."""
    observation, reward, terminated, truncated, _ = env.step(
        {"agent": torch.from_numpy(actions[:, None]).to(env.device)}
    )
    tensors = (observation["agent"][:, 0], reward["agent"][:, 0], terminated["agent"][:, 0], truncated)
    return tuple(tensor.cpu().numpy() for tensor in tensors)


def assert_same_state(game: Game, actual: State, expected: State, sure: np.ndarray) -> None:
    difference = actual - expected
    for column in game.angles:
        difference[:, column] -= 2 * np.pi * np.round(difference[:, column] / (2 * np.pi))
    assert_close(expected + difference, expected, sure)


def well_conditioned(
    game: Game, original: gymnasium.Env[Any, Any], outcome: Outcome, states: State, actions: np.ndarray
) -> np.ndarray:
    """Where the original itself does not blow a rounding of the state up by a factor of 30 and more.

    Acrobot alone does so: at full speed its outer link turns by six radians in one step of the integration.
    """
    if game.original != "Acrobot-v1":
        return np.ones(len(states), dtype=bool)
    sure = np.ones(len(states), dtype=bool)
    for column in range(states.shape[1]):
        moved = states.copy()
        moved[:, column] += 1e-6
        difference = step_original(original, moved, actions).state - outcome.state
        difference[:, :2] -= 2 * np.pi * np.round(difference[:, :2] / (2 * np.pi))
        sure &= np.abs(difference).max(axis=1) < 3e-5
    return sure


def test_the_originals_are_those_that_this_was_tested_with() -> None:
    assert gymnasium.__version__ == "1.4.0"


@EVERY_GAME
def test_spaces_and_limits_are_the_originals(game: Game) -> None:
    declaration, original = registry.get(game.env_id)(), game.make_original()
    (group,) = declaration.agent_groups
    assert group.observation_space == original.observation_space
    assert group.action_space == original.action_space
    assert declaration.max_steps == gymnasium.spec(game.original).max_episode_steps


@EVERY_SETTING
@given(data=st.data(), seed=SEEDS)
@settings(max_examples=8)
def test_a_step_from_any_state_is_the_originals(
    make: Make, game: Game, static: dict[str, Any], data: st.DataObject, seed: int
) -> None:
    params = static | data.draw(st.fixed_dictionaries(game.dynamic))
    rng = np.random.default_rng(seed)
    env = make(game.env_id, COPIES, autoreset_mode="DISABLED", **params)
    original = game.make_original(**params)
    states = game.spread(rng, COPIES).astype(np.float32).astype(np.float64)
    game.inject(env, states)
    actions = random_actions(env, rng)
    observation, reward, terminated, truncated = act(env, actions)
    expected = step_original(original, states, actions)

    excluded = Excluded()
    sure = well_conditioned(game, original, expected, states, actions)
    sure = excluded.count(sure & ~game.in_doubt(states, expected.state, params))
    assert_same_state(game, game.state_of(env), expected.state, sure)
    assert_close(observation, expected.observation, sure)
    assert_close(reward, expected.reward, sure)
    np.testing.assert_array_equal(terminated[sure], expected.terminated[sure])
    assert not truncated.any()
    excluded.assert_rare(game.left_out)


@pytest.mark.parametrize("game", [game for game in GAMES if game.steps], ids=lambda game: game.env_id)
def test_whole_episodes_are_the_originals(make: Make, game: Game) -> None:
    """From our random start to the end of every episode, without correcting rounding on the way."""
    copies = 12
    env = make(game.env_id, copies, seed=11, autoreset_mode="DISABLED")
    env.reset()
    originals = [game.make_original() for _ in range(copies)]
    for original, state in zip(originals, game.state_of(env), strict=True):
        original.unwrapped.state = state
    rng = np.random.default_rng(11)
    running = np.ones(copies, dtype=bool)
    ends = []
    for step in range(game.steps):
        before = game.state_of(env)
        # With the motion most of the time: this swings cars up, and fells poles.
        actions = np.where(rng.random(copies) < 0.2, rng.integers(0, 3, copies) - 1, np.sign(before[:, 1])).astype(int)
        if game.original == "CartPole-v1":
            actions = (actions > 0).astype(int)
        elif game.original == "MountainCar-v0":
            actions += 1
        else:
            actions = (0.7 * actions[:, None]).astype(np.float32)
        observation, reward, terminated, truncated = act(env, actions)
        for i in np.flatnonzero(running):
            theirs = originals[i].step(actions[i])
            np.testing.assert_allclose(
                observation[i], theirs[0], rtol=1e-4, atol=1e-5, err_msg=f"copy {i}, step {step}"
            )
            assert (terminated[i], truncated[i]) == theirs[2:4]
            assert reward[i] == pytest.approx(theirs[1], rel=1e-6)
            running[i] = not (theirs[2] or theirs[3])
            if not running[i]:
                ends.append(step + 1)
        if not running.any():
            break
    assert len(ends) == copies and min(ends) > 5
    assert game.original == "CartPole-v1" or min(ends) < game.steps


@EVERY_GAME
def test_an_episode_is_truncated_when_the_originals_is(make: Make, game: Game) -> None:
    env = make(game.env_id, 1, autoreset_mode="DISABLED", episode_length=4)
    original = game.make_original(episode_length=4)
    env.reset()
    for step in range(1, 5):
        action = random_actions(env, np.random.default_rng(step))
        *_, truncated = act(env, action)
        assert bool(truncated[0]) is original.step(action[0])[3] is (step == 4)


@EVERY_GAME
def test_the_start_is_distributed_as_the_originals(make: Make, game: Game) -> None:
    copies = 4096
    env = make(game.env_id, copies, seed=7)
    env.reset()
    ours = game.state_of(env)
    original = game.make_original()
    theirs = []
    original.reset(seed=1)
    for _ in range(2048):
        original.reset()
        theirs.append(np.array(original.unwrapped.state, np.float64))
    columns = np.stack(theirs).T
    for column, expected in zip(ours.T, columns, strict=True):
        assert stats.ks_2samp(column, expected).pvalue > 1e-3
        assert column.min() >= expected.min() - 0.01 * np.ptp(expected)
        assert column.max() <= expected.max() + 0.01 * np.ptp(expected)
    random_columns = ours[:, np.ptp(columns, axis=1) > 0]
    correlation = np.atleast_2d(np.corrcoef(random_columns, rowvar=False)) - np.eye(random_columns.shape[1])
    assert np.abs(correlation).max() < 5 / np.sqrt(copies)
    env.reset()
    again = game.state_of(env)
    assert (again != ours).any(axis=1).mean() > 0.99, "the next episode starts where this one did"
