"""PettingZoo's APIs: its own tests, what an episode looks like, determinism over whole episodes, and copies."""

from __future__ import annotations

import copy
import importlib
import multiprocessing
import pickle
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pettingzoo
import pytest
from gymnasium.utils.env_checker import data_equivalence
from pettingzoo.utils.conversions import aec_to_parallel
from pettingzoo_play import TAG, every_setting, module_of, random_actions, seed_actions, trajectory

from gpu_marl_envs import registry
from gpu_marl_envs.adapters import pettingzoo as adapter
from gpu_marl_envs.adapters.pettingzoo import ParallelEnvironment, parallel_env

with warnings.catch_warnings():  # it imports an environment of its own by a deprecated name
    warnings.simplefilter("ignore", DeprecationWarning)
    from pettingzoo.test import api_test, max_cycles_test, parallel_api_test, render_test, state_test

# PettingZoo's tests warn of MultiDiscrete actions, and reset with an option that no environment knows.
lenient = pytest.mark.filterwarnings("ignore::UserWarning")


def same(first: pettingzoo.ParallelEnv, second: pettingzoo.ParallelEnv, episodes: int = 3) -> int:
    """Asserts that two environments go the same way, to the bit; returns the number of steps."""
    seed_actions(first, 7), seed_actions(second, 7)
    count = 0
    for ours, theirs in zip(trajectory(first, episodes), trajectory(second, episodes), strict=True):
        assert data_equivalence(ours, theirs, exact=True), f"they part after {count} steps"
        count += 1
    return count


# ---- PettingZoo's own tests ----


@lenient
@every_setting
def test_parallel_api(env_id: str, params: dict[str, Any]) -> None:
    parallel_api_test(parallel_env(env_id, **params), num_cycles=300)


@lenient
@every_setting
@pytest.mark.parametrize("constructor", ["env", "raw_env"])
def test_aec_api(env_id: str, params: dict[str, Any], constructor: str) -> None:
    api_test(getattr(module_of(env_id), constructor)(**params), num_cycles=300)


@every_setting
def test_back_and_forth_between_the_apis(env_id: str, params: dict[str, Any]) -> None:
    module = module_of(env_id)
    assert isinstance(aec_to_parallel(module.env(**params)), ParallelEnvironment)
    there = aec_to_parallel(pettingzoo.utils.wrappers.BaseWrapper(module.env(**params)))
    here = module.parallel_env(**params)
    for env in (here, there):
        env.reset(seed=5)
        seed_actions(env, 1)
    while here.agents:
        ours, theirs = here.step(random_actions(here)), there.step(random_actions(there))
        assert data_equivalence(ours[0], theirs[0], exact=True) and ours[1:4] == theirs[1:4]
    assert not there.agents


# Where an episode could end within four steps, settings in which it does not.
ENDLESS = {"tag_gridworld-v0": {"grid_length": 1000}, "tag_continuous-v0": {"tagging_distance": 0.0}}


@pytest.mark.parametrize("env_id", registry.ids())
def test_max_cycles(env_id: str) -> None:
    params = ENDLESS.get(env_id, {})
    module = module_of(env_id)
    max_cycles_test(
        SimpleNamespace(
            parallel_env=lambda max_cycles: module.parallel_env(max_cycles=max_cycles, **params),
            env=lambda max_cycles: module.env(max_cycles=max_cycles, **params),
        )
    )


@every_setting
def test_render(env_id: str, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setattr(adapter, "RENDER_FPS", 1000)  # no pauses
    render_test(lambda render_mode: module_of(env_id).env(render_mode=render_mode, **params))


@every_setting
def test_state(env_id: str, params: dict[str, Any]) -> None:
    module = module_of(env_id)
    state_test(module.env(**params), module.parallel_env(**params), num_cycles=100)


# ---- what an episode looks like ----


@every_setting
def test_everything_is_in_its_space_of_its_type_and_finite(env_id: str, params: dict[str, Any]) -> None:
    env = parallel_env(env_id, seed=3, **params)
    for _ in range(5):
        observations, infos = env.reset()
        assert list(observations) == list(infos) == env.agents == env.possible_agents
        while env.agents:
            acting = list(env.agents)
            observations, rewards, terminations, truncations, infos = env.step(random_actions(env))
            for returned in (observations, rewards, terminations, truncations, infos):
                assert type(returned) is dict and list(returned) == acting
            for agent, observation in observations.items():
                assert env.observation_space(agent).contains(observation), agent
            assert all(type(value) is float and np.isfinite(value) for value in rewards.values())
            assert all(type(value) is bool for value in (*terminations.values(), *truncations.values()))
            assert env.state_space.contains(env.state())
            left = [agent for agent in acting if terminations[agent] or truncations[agent]]
            assert env.agents == [agent for agent in acting if agent not in left]
            assert len(set(truncations.values())) == 1
            assert not (any(truncations.values()) and env.agents)


def test_tagged_runners_leave_and_the_others_play_on() -> None:
    env = parallel_env("tag_continuous-v0", num_taggers=1, num_runners=2, tagging_distance=0.1, start="random")
    env.reset(seed=0)
    stay = dict.fromkeys(env.agents, np.array([0, 0]))
    state = env.batched.state
    state.x[0, :] = state.x.new_tensor([1.0, 1.5, 9.0])
    state.y[0, :] = 1.0
    observations, rewards, terminations, truncations, _ = env.step(stay)
    assert terminations == {"tagger_0": False, "runner_0": True, "runner_1": False}
    assert rewards == {"tagger_0": 1.0, "runner_0": -1.0, "runner_1": 0.0}
    assert not any(truncations.values()) and set(observations) == set(stay)
    assert env.agents == ["tagger_0", "runner_1"] and env.num_agents == 2 and env.max_num_agents == 3
    observations, rewards, terminations, _, infos = env.step(stay)  # also for the agent that has left
    assert list(observations) == list(rewards) == list(infos) == ["tagger_0", "runner_1"]
    assert rewards == {"tagger_0": 0.0, "runner_1": 0.0}
    state.x[0, 2] = 1.5
    _, rewards, terminations, truncations, _ = env.step({agent: stay[agent] for agent in env.agents})
    assert terminations == {"tagger_0": True, "runner_1": True} and not any(truncations.values())
    assert env.agents == []
    assert env.step({}) == env.step(stay) == ({}, {}, {}, {}, {})
    env.reset()
    assert env.agents == env.possible_agents


def test_truncation_ends_the_episode_for_all() -> None:
    env = parallel_env("tag_continuous-v0", num_runners=3, tagging_distance=0.0, max_cycles=2)
    env.reset(seed=0)
    *_, terminations, truncations, _ = env.step(random_actions(env))
    assert not any(truncations.values()) and len(env.agents) == 4
    *_, terminations, truncations, _ = env.step(random_actions(env))
    assert all(truncations.values()) and not any(terminations.values()) and env.agents == []


@every_setting
def test_what_is_returned_belongs_to_the_caller(env_id: str, params: dict[str, Any]) -> None:
    """Whatever a caller does to what it was given, nothing else changes: neither earlier results nor the episode."""
    env, untouched = (parallel_env(env_id, **params) for _ in range(2))
    seed_actions(env, 0), seed_actions(untouched, 0)
    kept = []
    ours, theirs = env.reset(seed=1), untouched.reset(seed=1)
    while untouched.agents:
        assert data_equivalence(ours, theirs, exact=True)
        kept.append((ours[0], copy.deepcopy(theirs[0])))
        actions = random_actions(env)
        ours, theirs = env.step(actions), untouched.step(random_actions(untouched))
        for action in actions.values():
            if isinstance(action, np.ndarray):
                action[...] = 0
        env.state()[:] = -1
    assert all(data_equivalence(given, expected, exact=True) for given, expected in kept)
    for given in ours:  # clients add entries of their own, and write over observations in place
        given["__all__"] = {}
    for observations, _ in kept:
        for observation in observations.values():
            observation[...] = -7
    assert data_equivalence(env.reset(seed=2), untouched.reset(seed=2), exact=True)


# ---- determinism, copies ----


@every_setting
def test_one_seed_gives_one_course_over_many_episodes(env_id: str, params: dict[str, Any]) -> None:
    first, second = (parallel_env(env_id, **params) for _ in range(2))
    second.reset()
    list(trajectory(second))  # what came before must not matter
    assert data_equivalence(first.reset(seed=42), second.reset(seed=42), exact=True)
    assert same(first, second, episodes=5) > 20


def test_seeds() -> None:
    def start(env: ParallelEnvironment, **arguments: Any) -> list[float]:
        env.reset(**arguments)
        return env.state().tolist()

    new = lambda **arguments: parallel_env("tag_continuous-v0", **arguments)  # noqa: E731
    env = new(seed=11)
    own = [start(env) for _ in range(3)]
    assert own[0] != own[1] != own[2], "the episodes of one seed are all the same"
    assert own == [start(env, seed=11), start(env), start(env)]
    assert own[0] == start(new(), seed=11) == start(new(seed=5), seed=11) != start(new(seed=5))
    assert start(new()) != start(new()), "environments without a seed are all the same"
    assert start(new(), seed=np.int64(11)) == own[0]
    assert start(new(), seed=2**64 - 1) != own[0]


COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda env: pickle.loads(pickle.dumps(env)),
    "deepcopy": copy.deepcopy,
    "cloudpickle": lambda env: importlib.import_module("cloudpickle").loads(
        importlib.import_module("cloudpickle").dumps(env)
    ),
}


@every_setting
@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_a_copy_goes_on_with_the_same_bits(
    env_id: str, params: dict[str, Any], duplicate: Callable[[Any], Any]
) -> None:
    env = parallel_env(env_id, **params)
    env.reset(seed=9)
    for steps in (0, 2, 50):
        for _ in range(steps):
            if env.agents:
                env.step(random_actions(env))
        twin = duplicate(env)
        assert twin.agents == env.agents and data_equivalence(twin.state(), env.state(), exact=True)
        assert same(env, twin, episodes=2) > 0
        env.reset()


def test_a_copy_shares_nothing() -> None:
    env = parallel_env("tag_gridworld-v0", grid_length=50)
    env.reset(seed=1)
    before = env.state()
    twin = copy.deepcopy(env)
    for _ in range(5):
        twin.step(random_actions(twin))
    assert np.array_equal(env.state(), before) and not np.array_equal(twin.state(), before)
    env.close()
    twin.step(random_actions(twin))


def test_copies_of_a_fresh_environment() -> None:
    """Vector environments copy one that was never reset: without a seed the copies differ, with one they repeat it."""
    for seed, repeats in ((None, False), (4, True)):
        env = parallel_env("tag_continuous-v0", seed=seed)
        twins = [pickle.loads(pickle.dumps(env)) for _ in range(2)]
        states = []
        for twin in twins:
            twin.reset()
            states.append(twin.state())
        assert np.array_equal(*states) is repeats


@every_setting
@pytest.mark.parametrize("duplicate", [COPIES["pickle"], COPIES["deepcopy"]], ids=["pickle", "deepcopy"])
def test_a_copy_of_the_aec_environment_goes_on(
    env_id: str, params: dict[str, Any], duplicate: Callable[[Any], Any]
) -> None:
    env = module_of(env_id).env(**params)
    env.reset(seed=2)
    for i, agent in enumerate(env.possible_agents):
        env.action_space(agent).seed(i)
    for _ in range(7):  # into the middle of a turn
        _, _, termination, truncation, _ = env.last()
        env.step(None if termination or truncation else env.action_space(env.agent_selection).sample())
    twin = duplicate(env)
    steps = 0
    for agent, other in zip(env.agent_iter(), twin.agent_iter(), strict=True):
        assert agent == other and data_equivalence(env.last(), twin.last(), exact=True)
        _, _, termination, truncation, _ = env.last()
        for e in (env, twin):
            e.step(None if termination or truncation else e.action_space(agent).sample())
        steps += 1
    assert steps > 0 and not twin.agents


def _play_in_worker(env: ParallelEnvironment, make: Callable[..., ParallelEnvironment]) -> tuple[Any, list[str]]:
    return list(trajectory(env)), make(num_runners=2).possible_agents


def test_a_spawned_process_goes_on_with_a_copy() -> None:
    env = parallel_env("tag_continuous-v0", **TAG)
    env.reset(seed=3)
    seed_actions(env, 3)
    make = module_of("tag_continuous-v0").parallel_env
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there, agents = pool.apply(_play_in_worker, (env, make))
    assert data_equivalence(there, list(trajectory(env)), exact=True)
    assert agents == ["tagger_0", "runner_0", "runner_1"]


@pytest.mark.gpu
@every_setting
def test_the_gpu_plays_the_same_episodes(env_id: str, params: dict[str, Any]) -> None:
    here, there = (parallel_env(env_id, device=device, **params) for device in ("cpu", "cuda"))
    for env in (here, there):
        env.reset(seed=4)
    assert same(here, there, episodes=3) > 10
    assert same(here, copy.deepcopy(there), episodes=1) >= 0
