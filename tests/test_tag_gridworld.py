"""Tag on a grid against its NumPy reference, from injected states and along whole episodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references import tag_gridworld as reference
from references.harness import assert_close, by_group, inject, joined, rules_of, state_of

from gpu_marl_envs.batched import BatchedEnv

Make = Callable[..., BatchedEnv]
ENV = "tag_gridworld-v0"
COPIES = 96

# Every entry compiles once; the parameters that need no compiling are drawn by hypothesis.
STATIC = [
    dict(num_taggers=1, use_full_observation=True),
    dict(num_taggers=1, use_full_observation=False),
    dict(num_taggers=4, use_full_observation=True, start="fixed"),
    dict(num_taggers=4, use_full_observation=False, start="fixed"),
    dict(num_taggers=10, use_full_observation=True),
    dict(num_taggers=40, use_full_observation=False),
]
MANY_STATIC = [
    dict(num_taggers=taggers, use_full_observation=full)
    for taggers in (2, 3, 5, 7, 15, 31, 32, 33, 63, 64, 127, 300)
    for full in (True, False)
]
money = st.floats(0.0, 20.0, width=32)
DYNAMIC = st.fixed_dictionaries(
    dict(
        grid_length=st.integers(1, 12),
        episode_length=st.integers(1, 6),
        wall_hit_penalty=money,
        tag_reward_for_tagger=money,
        tag_penalty_for_runner=money,
        step_cost_for_tagger=money,
    )
)
SEEDS = st.integers(0, 2**32 - 1)


def random_state(rules: reference.Rules, copies: int, rng: np.random.Generator) -> reference.State:
    shape = (copies, rules.num_agents)
    return reference.State(
        x=rng.integers(0, rules.grid_length + 1, shape),
        y=rng.integers(0, rules.grid_length + 1, shape),
        step=rng.integers(0, rules.episode_length, copies),
    )


def check_step(env: BatchedEnv, rules: reference.Rules, rng: np.random.Generator, active: np.ndarray) -> None:
    """Steps once with random actions and compares everything in the ``active [E]`` copies."""
    before = state_of(env, reference.State)
    actions = rng.integers(0, 5, before.x.shape)
    expected = reference.step(rules, before, actions)
    observation, reward, terminated, truncated, info = env.step(by_group(env, actions))

    after = state_of(env, reference.State)
    for name in ("x", "y", "step"):
        np.testing.assert_array_equal(getattr(after, name)[active], getattr(expected.state, name)[active], name)
    assert_close(joined(reward), expected.reward, active)
    everyone = np.broadcast_to(expected.terminated[:, None], before.x.shape)
    np.testing.assert_array_equal(joined(terminated)[active], everyone[active])
    np.testing.assert_array_equal(env.alive.cpu().numpy()[active], ~everyone[active])
    np.testing.assert_array_equal(truncated.cpu().numpy()[active], expected.truncated[active])
    done = expected.terminated | expected.truncated
    np.testing.assert_array_equal(info["done"].cpu().numpy()[active], done[active])
    assert_close(joined(observation), reference.observe(rules, expected.state), active)


def check_injected_states(make: Make, params: dict[str, Any], seed: int) -> None:
    env = make(ENV, COPIES, autoreset_mode="DISABLED", **params)
    rules = rules_of(reference.Rules, env)
    rng = np.random.default_rng(seed)
    state = random_state(rules, COPIES, rng)
    inject(env, state)
    assert_close(joined(env.observe()), reference.observe(rules, state))
    check_step(env, rules, rng, active=np.ones(COPIES, dtype=bool))


@pytest.mark.parametrize("static", STATIC, ids=str)
@given(dynamic=DYNAMIC, seed=SEEDS)
@settings(max_examples=12)
def test_a_step_from_any_state_follows_the_rules(
    make: Make, static: dict[str, Any], dynamic: dict[str, Any], seed: int
) -> None:
    check_injected_states(make, static | dynamic, seed)


@pytest.mark.slow
@pytest.mark.parametrize("static", MANY_STATIC, ids=str)
@given(dynamic=DYNAMIC, seed=SEEDS)
@settings(max_examples=30)
def test_a_step_from_any_state_follows_the_rules_for_many_sizes(
    make: Make, static: dict[str, Any], dynamic: dict[str, Any], seed: int
) -> None:
    check_injected_states(make, static | dynamic, seed)


@pytest.mark.parametrize("static", STATIC, ids=str)
def test_whole_episodes_follow_the_rules(make: Make, static: dict[str, Any]) -> None:
    env = make(ENV, COPIES, seed=5, autoreset_mode="DISABLED", grid_length=7, episode_length=25, **static)
    rules = rules_of(reference.Rules, env)
    rng = np.random.default_rng(5)
    observation = env.reset()
    assert_close(joined(observation), reference.observe(rules, state_of(env, reference.State)))
    finished = 0
    for _ in range(60):
        check_step(env, rules, rng, active=np.ones(COPIES, dtype=bool))
        over = (~env.alive.any(dim=1)) | (env.state.step >= rules.episode_length)
        finished += int(over.sum())
        env.reset(mask=over)
        fresh = over.cpu().numpy()
        assert (state_of(env, reference.State).step[fresh] == 0).all()
        assert env.alive[over].all()
    assert finished >= 2 * COPIES


def test_a_tagged_runner_at_the_wall_pays_for_both(make: Make) -> None:
    env = make(ENV, 1, num_taggers=2, grid_length=4, autoreset_mode="DISABLED", use_full_observation=False)
    env.reset()
    # The first tagger steps onto the runner, which runs into the wall; the second tagger stays far away.
    env.state.x = torch.tensor([[3, 0, 4]], dtype=torch.int32, device=env.device)
    env.state.y = torch.tensor([[2, 0, 2]], dtype=torch.int32, device=env.device)
    actions = by_group(env, np.array([[1, 0, 1]]))
    observation, reward, terminated, truncated, _ = env.step(actions)
    assert_close(joined(reward), np.array([[10.0, 10.0, -2.1]]))
    assert joined(terminated).all() and not truncated.any()
    assert_close(joined(observation)[0, 1], np.array([0.0, 0.0, 1.0, 0.5, 0.0, 0.01]))
    assert_close(joined(observation)[0, 2], np.array([1.0, 0.5, 1.0, 0.5, 1.0, 0.01]))


def test_agents_that_swap_cells_do_not_meet(make: Make) -> None:
    env = make(ENV, 1, num_taggers=1, grid_length=4, autoreset_mode="DISABLED", use_full_observation=False)
    env.reset()
    env.state.x = torch.tensor([[1, 2]], dtype=torch.int32, device=env.device)
    env.state.y = torch.tensor([[3, 3]], dtype=torch.int32, device=env.device)
    _, reward, terminated, _, _ = env.step(by_group(env, np.array([[1, 2]])))
    assert not joined(terminated).any()
    assert_close(joined(reward), np.array([[-0.01, 0.01]]))


@pytest.mark.parametrize("length", [1, 4, 9])
def test_the_fixed_start_is_the_centre_and_a_corner(make: Make, length: int) -> None:
    env = make(ENV, 5, num_taggers=4, use_full_observation=True, start="fixed", grid_length=length)
    env.reset()
    for position in (env.state.x, env.state.y):
        assert (position[:, :4] == length // 2).all()
        assert (position[:, 4] == 0).all()


def test_the_random_start_is_uniform_over_all_cells(make: Make) -> None:
    copies, length = 8192, 3
    env = make(ENV, copies, num_taggers=4, use_full_observation=True, grid_length=length, seed=11)
    env.reset()
    first = (env.state.x * (length + 1) + env.state.y).cpu().numpy()
    cells = (length + 1) ** 2
    expected = copies / cells
    spread = 5 * np.sqrt(expected * (1 - 1 / cells))
    for agent in range(5):
        counts = np.bincount(first[:, agent], minlength=cells)
        assert len(counts) == cells
        assert np.abs(counts - expected).max() < spread
        for other in range(agent):  # independent of one another: they share a cell as often as chance has it
            assert abs((first[:, agent] == first[:, other]).sum() - expected) < spread
    env.reset()
    second = (env.state.x * (length + 1) + env.state.y).cpu().numpy()
    assert np.abs((first == second).sum(axis=0) - expected).max() < spread  # and of the episode before
