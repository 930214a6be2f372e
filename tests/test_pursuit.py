"""Pursuit against ``sisl/pursuit-v5`` of PettingZoo 1.27.0, from injected states and along episodes.

The original's evaders take the steps that ours drew: the random numbers are computed here, by a Philox of NumPy, and
handed to the original as its ``evader_controller``. So not a single integer is left to chance.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pettingzoo
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pettingzoo.sisl.pursuit import pursuit_base
from pettingzoo.sisl.pursuit.utils import agent_utils, two_d_maps
from references.harness import assert_close
from references.philox import first_integers
from scipy import stats

from gpu_marl_envs import registry
from gpu_marl_envs.batched import BatchedEnv

Make = Callable[..., BatchedEnv]
ENV = "pursuit-v5"
STAY = 4

# The original looks for starting places for ever where a map is too small for them; here it is told where to start.
PLACED_IN_A_CORNER = mock.patch.object(agent_utils, "feasible_position_exp", return_value=(0, 0))

# Every entry compiles once: number of agents, size of the map and of what is seen, and the switches.
STATIC: list[dict[str, Any]] = [
    {},
    dict(shared_reward=False),
    dict(n_pursuers=3, n_evaders=4, x_size=5, y_size=7, obs_range=3, surround=False, shared_reward=False),
    dict(n_pursuers=5, n_evaders=6, x_size=4, y_size=3, obs_range=6, shared_reward=False),
    dict(n_pursuers=6, n_evaders=3, x_size=2, y_size=10, obs_range=1, freeze_evaders=True),
    dict(n_pursuers=1, n_evaders=2, x_size=9, y_size=2, obs_range=4, surround=False),
]
MANY_STATIC = [
    dict(n_pursuers=pursuers, n_evaders=evaders, x_size=x, y_size=y, obs_range=seen, surround=surround,
         shared_reward=shared, freeze_evaders=frozen)
    for pursuers, evaders, x, y, seen, surround, shared, frozen in [
        (2, 1, 3, 3, 5, True, False, False), (4, 9, 10, 10, 8, False, True, False), (8, 8, 5, 5, 2, True, True, True),
        (12, 5, 6, 4, 9, True, False, True), (20, 60, 20, 11, 11, True, False, False),
        (33, 10, 7, 8, 3, True, False, False), (40, 12, 10, 5, 5, False, False, True),
        (3, 3, 30, 20, 13, True, True, False),
    ]
]  # fmt: skip
DYNAMIC = st.fixed_dictionaries(
    dict(
        episode_length=st.integers(1, 3),
        n_catch=st.integers(1, 4),
        tag_reward=st.floats(-1.0, 1.0, width=32),
        catch_reward=st.floats(-10.0, 10.0, width=32),
        urgency_reward=st.floats(-1.0, 1.0, width=32),
    )
)
SEEDS = st.integers(0, 2**32 - 1)
FIELDS = ("x", "y", "evader_x", "evader_y", "caught", "step")


class Original:
    """PettingZoo's environment, whose state can be set and whose evaders do what they are told."""

    def __init__(self, **params: Any) -> None:
        if "episode_length" in params:
            params["max_cycles"] = params.pop("episode_length")
        # Frozen evaders are the original's own: it is its controller that keeps them in their places.
        controller = {} if params.get("freeze_evaders") else {"evader_controller": self}
        with PLACED_IN_A_CORNER:
            self.env = pettingzoo.make("parallel", "sisl/pursuit-v5", **params, **controller)
        self.game = self.env.unwrapped.env
        self.moves: dict[int, int] = {}
        self._moved = 0

    def act(self, _: np.ndarray) -> int:
        """The step of the next evader that is left, as its turn comes."""
        evader = self.game.evader_layer.allies[self._moved]
        self._moved += 1
        return self.moves[evader.number]

    def start(self, state: dict[str, np.ndarray]) -> None:
        """An episode in this state of one copy."""
        game, (x, y, evader_x, evader_y, caught, step) = self.game, (state[name] for name in FIELDS)
        with PLACED_IN_A_CORNER:
            self.env.reset(seed=0)
        for pursuer, *position in zip(game.pursuers, x, y, strict=True):
            pursuer.set_position(*position)
        for number, (evader, *position) in enumerate(zip(game.evaders, evader_x, evader_y, strict=True)):
            evader.number = number
            evader.set_position(*position)
        for number in np.flatnonzero(caught)[::-1]:
            game.evader_layer.remove_agent(number)
        game.evaders_gone[:] = caught
        game.frames = int(step)
        game.model_state[1] = game.pursuer_layer.get_state_matrix()
        game.model_state[2] = game.evader_layer.get_state_matrix()

    def step(self, actions: np.ndarray, moves: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool, bool]:
        """Observations, rewards, termination and truncation of a step in which evaders walk as ``moves [n]`` say."""
        self.moves, self._moved = dict(enumerate(moves.tolist())), 0
        chosen = dict(zip(self.env.possible_agents, actions.tolist(), strict=True))
        observations, rewards, terminations, truncations, _ = self.env.step(chosen)
        (terminated,), (truncated,) = set(terminations.values()), set(truncations.values())
        return np.stack(list(observations.values())), np.array(list(rewards.values())), terminated, truncated

    def observe(self) -> np.ndarray:
        return np.stack([self.env.unwrapped.observe(agent) for agent in self.env.possible_agents])

    def pursuers(self) -> np.ndarray:
        return np.array([pursuer.current_position() for pursuer in self.game.pursuers])

    def evaders(self) -> dict[int, tuple[int, int]]:
        """Where the evaders that are left stand, by number."""
        return {evader.number: tuple(evader.current_position().tolist()) for evader in self.game.evader_layer.allies}


def random_state(env: BatchedEnv, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Positions off the obstacle, most of them crowded, so that there is something to catch."""
    rules, copies = env.declaration, env.num_envs
    cells = np.argwhere(open_cells(rules))
    near = np.abs(cells[None] - cells[rng.integers(0, len(cells), (copies, 1))]).sum(-1)
    state = {}
    for prefix, number in (("", rules.n_pursuers), ("evader_", rules.n_evaders)):
        chosen = cells[rng.integers(0, len(cells), (copies, number))]
        for copy in np.flatnonzero(rng.random(copies) < 0.7):
            close = cells[near[copy] <= 3]  # to the same cell for both teams
            chosen[copy] = close[rng.integers(0, len(close), number)]
        state[f"{prefix}x"], state[f"{prefix}y"] = chosen[..., 0], chosen[..., 1]
    state["caught"] = rng.random((copies, rules.n_evaders)) < rng.choice([0.0, 0.3, 0.8], (copies, 1))
    state["caught"][np.arange(copies), rng.integers(0, rules.n_evaders, copies)] = False
    state["step"] = rng.integers(0, rules.episode_length, copies)
    return state


def open_cells(rules: Any) -> np.ndarray:
    """Where agents may stand: bool ``[x_size, y_size]``."""
    return two_d_maps.rectangle_map(rules.x_size, rules.y_size) == 0


def surround_someone(env: BatchedEnv, state: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    """Puts pursuers beside or upon the first evader that is left, in a third of the copies."""
    rules = env.declaration
    for copy in np.flatnonzero(rng.random(env.num_envs) < 0.33):
        evader = np.flatnonzero(~state["caught"][copy])[0]
        here = np.array([state["evader_x"][copy, evader], state["evader_y"][copy, evader]])
        offsets = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]]) if rules.surround else np.zeros((4, 2), int)
        places = here + offsets
        is_open = open_cells(rules)
        on_map = ((places >= 0) & (places < (rules.x_size, rules.y_size))).all(axis=1)
        places = np.array([place for place in places[on_map] if is_open[tuple(place)]]).reshape(-1, 2)
        number = min(len(places), rules.n_pursuers)
        who = rng.permutation(rules.n_pursuers)[:number]
        state["x"][copy, who], state["y"][copy, who] = places[:number].T


def inject(env: BatchedEnv, state: dict[str, np.ndarray]) -> None:
    env.reset()
    for name, values in state.items():
        getattr(env.state, name).copy_(torch.from_numpy(values.astype(np.int32)))


def state_of(env: BatchedEnv, copy: int) -> dict[str, np.ndarray]:
    return {name: getattr(env.state, name)[copy].cpu().numpy() for name in FIELDS}


def evader_moves(env: BatchedEnv) -> np.ndarray:
    """What the evaders of every copy drew in the last step: int64 ``[E, n_evaders]``."""
    rules, state = env.declaration, env.state
    evaders = rules.n_pursuers + np.arange(rules.n_evaders)
    arrays = (tensor.cpu().numpy() for tensor in (state.key, state.episode, state.step))
    return first_integers(*arrays, evaders, 5)


def assert_same_positions(env: BatchedEnv, copy: int, original: Original) -> None:
    state = state_of(env, copy)
    np.testing.assert_array_equal(np.stack([state["x"], state["y"]], axis=1), original.pursuers())
    here = {
        int(e): (int(state["evader_x"][e]), int(state["evader_y"][e])) for e in np.flatnonzero(state["caught"] == 0)
    }
    assert here == original.evaders()


def check_injected_states(make: Make, params: dict[str, Any], seed: int, copies: int) -> int:
    """Compares one step of every copy from its own state; returns how many evaders were caught."""
    env = make(ENV, copies, seed=seed % 1000, autoreset_mode="DISABLED", **params)
    rng = np.random.default_rng(seed)
    state = random_state(env, rng)
    surround_someone(env, state, rng)
    inject(env, state)
    actions = rng.integers(0, 5, (copies, env.num_agents))
    actions[rng.random(copies) < 0.5] = STAY
    before = env.observe()["pursuer"].cpu().numpy().copy()
    observation, reward, terminated, truncated, _ = env.step({"pursuer": torch.from_numpy(actions).to(env.device)})
    moves = evader_moves(env)
    original = Original(**params)
    for copy in range(copies):
        original.start({name: state[name][copy] for name in FIELDS})
        np.testing.assert_array_equal(before[copy], original.observe())
        seen, rewards, ended, cut = original.step(actions[copy], moves[copy])
        assert_same_positions(env, copy, original)
        np.testing.assert_array_equal(observation["pursuer"][copy].cpu().numpy(), seen)
        assert_close(reward["pursuer"][copy].cpu().numpy(), rewards)
        assert set(terminated["pursuer"][copy].tolist()) == {ended}
        assert bool(truncated[copy]) is cut
    return int((env.state.caught.cpu().numpy() - state["caught"]).sum())


def test_the_original_is_the_one_that_this_was_tested_with() -> None:
    assert pettingzoo.__version__ == "1.27.0"


@pytest.mark.parametrize("params", [{}, *STATIC[2:]], ids=str)
def test_spaces_are_the_originals(make: Make, params: dict[str, Any]) -> None:
    env, original = make(ENV, 1, **params), Original(**params).env
    assert env.observation_spaces["pursuer"] == original.observation_space("pursuer_0")
    assert env.action_spaces["pursuer"] == original.action_space("pursuer_0")
    assert list(env.declaration.agent_names) == original.possible_agents


def test_arguments_and_defaults_are_the_originals() -> None:
    arguments = dict(inspect.signature(pursuit_base.Pursuit).parameters)
    for not_ours in ("evader_controller", "pursuer_controller", "render_mode"):
        del arguments[not_ours]
    expected = {name: argument.default for name, argument in arguments.items()}
    expected["episode_length"] = expected.pop("max_cycles")
    assert registry.get(ENV)().params() == expected


@pytest.mark.parametrize("static", STATIC, ids=str)
@given(dynamic=DYNAMIC, seed=SEEDS)
@settings(max_examples=10)
def test_a_step_from_any_state_is_the_originals(
    make: Make, static: dict[str, Any], dynamic: dict[str, Any], seed: int
) -> None:
    check_injected_states(make, static | dynamic, seed, copies=48)


@pytest.mark.slow
@pytest.mark.parametrize("static", [*STATIC, *MANY_STATIC], ids=str)
@given(dynamic=DYNAMIC, seed=SEEDS)
@settings(max_examples=30)
def test_a_step_from_many_states_is_the_originals(
    make: Make, static: dict[str, Any], dynamic: dict[str, Any], seed: int
) -> None:
    check_injected_states(make, static | dynamic, seed, copies=48)


@pytest.mark.parametrize("surround", [True, False])
def test_what_is_injected_catches_evaders(make: Make, surround: bool) -> None:
    """The comparisons above are of little worth unless they see evaders caught."""
    assert check_injected_states(make, dict(n_catch=2, surround=surround), seed=3, copies=64) >= 16


@pytest.mark.parametrize(
    "params", [{}, STATIC[2] | dict(n_catch=1, episode_length=60), STATIC[3] | dict(episode_length=40)], ids=str
)
def test_whole_episodes_are_the_originals(make: Make, params: dict[str, Any]) -> None:
    """From our start to the end of the episode, or for 60 steps; nothing is corrected on the way."""
    copies = 2
    env = make(ENV, copies, seed=5, autoreset_mode="DISABLED", **params)
    env.reset()
    originals = [Original(**params) for _ in range(copies)]
    for copy, original in enumerate(originals):
        original.start(state_of(env, copy))
    rng = np.random.default_rng(5)
    running = set(range(copies))
    for _ in range(60):
        actions = rng.integers(0, 5, (copies, env.num_agents))
        observation, reward, terminated, truncated, _ = env.step({"pursuer": torch.from_numpy(actions).to(env.device)})
        moves = evader_moves(env)
        for copy in sorted(running):
            seen, rewards, ended, cut = originals[copy].step(actions[copy], moves[copy])
            np.testing.assert_array_equal(observation["pursuer"][copy].cpu().numpy(), seen)
            assert_close(reward["pursuer"][copy].cpu().numpy(), rewards)
            assert (bool(terminated["pursuer"][copy, 0]), bool(truncated[copy])) == (ended, cut)
            if ended or cut:
                running.remove(copy)
    assert not params or not running, "no episode came to its end"


def test_catching_the_last_evader_in_the_last_step_only_truncates(make: Make) -> None:
    """So does the original, whose flags the comparisons above follow; here it is seen to happen."""
    params = dict(n_pursuers=1, n_evaders=2, x_size=9, y_size=2, surround=False, n_catch=1, episode_length=3)
    for step, flags in ((1, (True, False)), (2, (False, True))):
        env, original = make(ENV, 1, autoreset_mode="DISABLED", **params), Original(**params)
        state = {name: np.zeros((1, 2 if name.startswith(("evader", "caught")) else 1), int) for name in FIELDS}
        state["caught"][0, 1] = 1
        state["step"] = np.array([step])
        inject(env, state)
        original.start({name: state[name][0] for name in FIELDS})
        _, _, terminated, truncated, info = env.step({"pursuer": torch.full((1, 1), STAY, device=env.device)})
        assert (bool(terminated["pursuer"][0, 0]), bool(truncated[0])) == flags
        assert original.step(np.array([STAY]), np.array([STAY, STAY]))[2:] == flags
        assert info["done"].all()


@pytest.mark.parametrize("surround", [True, False])
def test_positions_off_the_map_are_harmless(make: Make, surround: bool) -> None:
    """Whoever writes them into the state gets no more than what the space allows."""
    env = make(ENV, 4, surround=surround)
    for far in (-(10**8), 10**8):
        env.reset()
        for name in ("x", "y", "evader_x", "evader_y"):
            getattr(env.state, name).fill_(far)
        for _ in range(2):
            observation, reward, *_ = env.step({"pursuer": torch.full((4, 8), STAY, device=env.device)})
            assert reward["pursuer"].isfinite().all()
            assert env.observation_spaces["pursuer"].contains(observation["pursuer"][0, 0].cpu().numpy())


# ---- the start ----


def start_positions(make: Make, copies: int, **params: Any) -> tuple[np.ndarray, np.ndarray]:
    """Positions ``[E, n, 2]`` of pursuers and evaders."""
    env = make(ENV, copies, seed=13, **params)
    env.reset()
    assert not env.state.caught.any()
    columns = [getattr(env.state, name).cpu().numpy() for name in ("x", "y", "evader_x", "evader_y")]
    return np.stack(columns[:2], axis=-1), np.stack(columns[2:], axis=-1)


def distances(positions: np.ndarray) -> np.ndarray:
    """Between every two agents of a copy, in steps: ``[E, pairs]``."""
    first, second = np.triu_indices(positions.shape[1], k=1)
    return np.abs(positions[:, first] - positions[:, second]).sum(-1)


@pytest.mark.parametrize("params", [{}, dict(constraint_window=0.6, n_evaders=8, x_size=20, y_size=13)], ids=str)
def test_the_start_is_distributed_as_the_originals(make: Make, params: dict[str, Any]) -> None:
    ours = start_positions(make, 8192, **params)
    env = pettingzoo.make("parallel", "sisl/pursuit-v5", **params)
    env.reset(seed=2)
    game, theirs = env.unwrapped.env, ([], [])
    for _ in range(1024):
        game.reset()
        for team, positions in zip((game.pursuers, game.evaders), theirs, strict=True):
            positions.append([agent.current_position().copy() for agent in team])
    for mine, original in zip(ours, map(np.array, theirs), strict=True):
        numbers = [np.ravel_multi_index(positions.T, game.map_matrix.shape) for positions in (mine, original)]
        for agents in (slice(None), slice(0, 1), slice(-1, None)):  # those placed first and last are the least alike
            counts = np.stack([np.bincount(n[agents].ravel(), minlength=game.map_matrix.size) for n in numbers])
            used = counts.sum(axis=0) > 0
            assert not game.map_matrix.ravel()[counts[0] > 0].any(), "someone starts on the obstacle"
            assert stats.chi2_contingency(counts[:, used]).pvalue > 1e-3
        assert distances(mine).min() >= 2
        far = [distances(positions).ravel() for positions in (mine, original)]
        counts = np.stack([np.bincount(np.minimum(values, 25), minlength=26)[2:] for values in far])
        shares = counts / counts.sum(axis=1, keepdims=True)
        assert np.abs(shares[0] - shares[1]).max() < 0.01
        spans = [np.ptp(positions, axis=1) for positions in (mine, original)]
        for axis in (0, 1):
            assert stats.ks_2samp(spans[0][:, axis], spans[1][:, axis]).pvalue > 1e-3


@pytest.mark.parametrize(
    ("params", "apart"),
    [
        (dict(constraint_window=0.0), False),
        (dict(constraint_window=0.1), False),
        (dict(constraint_window=0.3, n_evaders=200), False),
        (dict(n_pursuers=5, n_evaders=60, x_size=4, y_size=4), False),
        (dict(n_pursuers=1, n_evaders=1, x_size=2, y_size=2, constraint_window=0.0), True),
        (dict(n_pursuers=40, n_evaders=1, x_size=18, y_size=18), True),
    ],
    ids=str,
)
def test_a_crowded_start_is_still_on_the_map(make: Make, params: dict[str, Any], apart: bool) -> None:
    """Where agents do not fit, the original fails or never returns; ours then gives up keeping them apart."""
    rules = registry.get(ENV)(**params)
    is_open = open_cells(rules)
    teams = start_positions(make, 512, **params)
    for positions in teams:
        assert (positions >= 0).all() and (positions < (rules.x_size, rules.y_size)).all()
        assert is_open[positions[..., 0], positions[..., 1]].all()
    if apart:
        assert all(distances(positions).min(initial=2) >= 2 for positions in teams)
    everyone = np.concatenate(teams, axis=1)
    width = np.maximum(np.ceil(rules.constraint_window * np.array([rules.x_size, rules.y_size])), 1)
    fits = (np.ptp(everyone, axis=1) < width).all(axis=1)
    # Where a window is all obstacle, its agents start anywhere.
    assert fits.mean() > 0.5
