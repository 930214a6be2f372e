"""SuperSuit's vector environments, and Stable-Baselines3 on top of them."""

from __future__ import annotations

import importlib.util
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from gpu_marl_envs.adapters.pettingzoo import parallel_env

supersuit = pytest.importorskip("supersuit")

GRIDWORLD = ("tag_gridworld-v0", {"num_taggers": 2, "grid_length": 5, "episode_length": 20})
CONTINUOUS = ("tag_continuous-v0", {"num_taggers": 1, "num_runners": 3, "tagging_distance": 0.2, "episode_length": 20})
# Gymnasium warns of what SuperSuit's classes leave out, and forking is reported because torch has started threads.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:gymnasium"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


def rows(env_id: str, params: dict[str, Any]) -> Any:
    """All agents of one copy as a vector environment; agents that leave stay as rows of zeros."""
    env = parallel_env(env_id, **params)
    if env_id == CONTINUOUS[0]:
        env = supersuit.black_death_v3(env)
    return supersuit.pettingzoo_env_to_vec_env_v1(env)


def random_actions(vector: Any, rng: np.random.Generator) -> np.ndarray:
    counts = getattr(vector.action_space, "nvec", None)
    if counts is None:
        return rng.integers(vector.action_space.n, size=vector.num_envs)
    return rng.integers(counts, size=(vector.num_envs, len(counts)))


@pytest.mark.parametrize("case", [GRIDWORLD, CONTINUOUS], ids=["gridworld", "continuous"])
def test_one_copy_as_a_vector_environment(case: tuple[str, dict[str, Any]]) -> None:
    vector = rows(*case)
    reference = parallel_env(case[0], **case[1])
    rng = np.random.default_rng(0)
    observation, _ = vector.reset(seed=1)
    expected, _ = reference.reset(seed=1)
    finished = 0
    for _ in range(100):
        assert observation.shape == (vector.num_envs, *vector.observation_space.shape)
        for i, agent in enumerate(reference.possible_agents):
            wanted = expected.get(agent, np.zeros_like(observation[i]))
            assert np.array_equal(observation[i], wanted), agent
        actions = random_actions(vector, rng)
        observation, rewards, terminations, truncations, _ = vector.step(actions)
        if not reference.agents:  # the step that black_death_v3 adds after an episode's end
            expected, returned = reference.reset()[0], {}
        else:
            chosen = {agent: actions[reference.possible_agents.index(agent)] for agent in reference.agents}
            expected, returned, *_ = reference.step(chosen)
        assert rewards.tolist() == [np.float32(returned.get(agent, 0.0)) for agent in reference.possible_agents]
        if case is GRIDWORLD and (terminations | truncations).all():
            expected, _ = reference.reset()
        finished += bool((terminations | truncations).all())
    assert finished >= 2


@pytest.fixture(params=["fork", "spawn"])
def start_method(request: pytest.FixtureRequest) -> Iterator[str]:
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


def play(case: tuple[str, dict[str, Any]], copies: int, num_cpus: int, steps: int = 60) -> list[np.ndarray]:
    vector = supersuit.concat_vec_envs_v1(rows(*case), copies, num_cpus=num_cpus, base_class="gymnasium")
    observation, _ = vector.reset(seed=5)
    rng = np.random.default_rng(0)
    played = [observation]
    for _ in range(steps):
        observation, rewards, terminations, truncations, _ = vector.step(random_actions(vector, rng))
        played += [observation, rewards, np.asarray(terminations, bool), np.asarray(truncations, bool)]
    vector.close()
    return played


@pytest.mark.parametrize("case", [GRIDWORLD, CONTINUOUS], ids=["gridworld", "continuous"])
def test_several_copies(case: tuple[str, dict[str, Any]]) -> None:
    played = play(case, copies=4, num_cpus=0)
    assert all(np.array_equal(a, b) for a, b in zip(played, play(case, copies=4, num_cpus=1), strict=True))
    copies = np.split(played[0], 4)
    assert not any(np.array_equal(copies[0], other) for other in copies[1:]), "copies repeat one another"


@pytest.mark.parametrize("case", [GRIDWORLD, CONTINUOUS], ids=["gridworld", "continuous"])
def test_several_processes(case: tuple[str, dict[str, Any]], start_method: str) -> None:
    # With one copy per process SuperSuit gives the processes the seeds that it gives the copies of one process.
    here, there = play(case, copies=2, num_cpus=0), play(case, copies=2, num_cpus=2)
    assert all(np.array_equal(a, b) for a, b in zip(here, there, strict=True)), start_method


def test_unseeded_copies_differ() -> None:
    vector = supersuit.concat_vec_envs_v1(rows(*CONTINUOUS), 3, num_cpus=0, base_class="gymnasium")
    observation, _ = vector.reset()
    first, second, third = np.split(observation, 3)
    assert not np.array_equal(first, second) and not np.array_equal(second, third)


def test_padding_wrappers() -> None:
    env_id, params = GRIDWORLD
    env = supersuit.pad_action_space_v0(supersuit.pad_observations_v0(parallel_env(env_id, **params)))
    observations, _ = env.reset(seed=0)
    assert all(env.observation_space(agent).contains(observation) for agent, observation in observations.items())
    env.step({agent: env.action_space(agent).sample() for agent in env.agents})


@pytest.mark.parametrize("case", [GRIDWORLD, CONTINUOUS], ids=["gridworld", "continuous"])
def test_stable_baselines3_trains(case: tuple[str, dict[str, Any]]) -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    vector = supersuit.concat_vec_envs_v1(rows(*case), 2, num_cpus=1, base_class="stable_baselines3")
    model = sb3.PPO("MlpPolicy", vector, n_steps=16, batch_size=32, n_epochs=1, device="cpu")
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(4 * 16 * vector.num_envs)
    assert model.num_timesteps == 4 * 16 * vector.num_envs
    assert any(not after.equal(start) for after, start in zip(model.policy.parameters(), before, strict=True))
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())


def load_example() -> ModuleType:
    path = Path(__file__).parents[1] / "examples" / "sb3_supersuit.py"
    spec = importlib.util.spec_from_file_location("sb3_supersuit", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_learns() -> None:
    pytest.importorskip("stable_baselines3")
    example, threads = load_example(), torch.get_num_threads()
    try:
        model = example.train(steps=120_000, copies=16, seed=1)
    finally:
        torch.set_num_threads(threads)
    at_random = example.tagger_return(example.random_policy(0), episodes=300)
    trained = example.tagger_return(lambda observations: model.predict(observations)[0], episodes=300)
    # Random taggers catch the runner in about a third of the episodes, for a reward of 10 each.
    assert at_random < 5.0
    assert trained > 8.0, f"trained taggers score {trained:.2f}, random ones {at_random:.2f}"
