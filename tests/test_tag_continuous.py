"""Continuous Tag against its NumPy reference, from injected states and along whole episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references import tag_continuous as reference
from references.harness import Excluded, assert_close, by_group, inject, joined, rules_of, state_of

from gpu_marl_envs.batched import BatchedEnv

Make = Callable[..., BatchedEnv]
ENV = "tag_continuous-v0"
COPIES = 96
FIELDS = ("x", "y", "speed", "direction", "acceleration")


def static(taggers: int, runners: int, **others: Any) -> dict[str, Any]:
    return dict(num_taggers=taggers, num_runners=runners) | others


# Every entry compiles once; the parameters that need no compiling are drawn by hypothesis.
STATIC = [
    static(1, 1),
    static(2, 3, use_full_observation=False, num_other_agents_observed=2),
    static(3, 2, use_full_observation=False, num_other_agents_observed=7, continuous_actions=True),
    static(2, 5, runner_exits_game_after_tagged=False, num_acceleration_levels=3, num_turn_levels=5),
    static(4, 4, use_full_observation=True, continuous_actions=True),
    static(10, 30, use_full_observation=False, num_other_agents_observed=10),
]
MANY_STATIC = [
    static(taggers, runners, use_full_observation=not observed, **({"num_other_agents_observed": observed}
           if observed else {}), runner_exits_game_after_tagged=exits, continuous_actions=continuous)
    for taggers, runners, observed, exits, continuous in [
        (1, 4, 0, True, False), (1, 4, 1, False, True), (4, 1, 3, True, True), (5, 11, 0, False, True),
        (8, 8, 15, True, False), (8, 24, 5, True, True), (16, 17, 0, True, False), (3, 60, 4, True, False),
        (32, 33, 12, False, False), (10, 100, 10, True, False), (100, 50, 10, True, True), (64, 65, 0, True, False),
    ]
]  # fmt: skip
DYNAMIC = st.fixed_dictionaries(
    dict(
        grid_length=st.floats(0.5, 20.0, width=32),
        episode_length=st.integers(1, 6),
        max_speed=st.floats(0.125, 2.0, width=32),
        skill_level_tagger=st.floats(0.25, 2.0, width=32),
        skill_level_runner=st.floats(0.25, 2.0, width=32),
        min_acceleration=st.floats(-1.0, 0.0, width=32),
        max_acceleration=st.floats(0.125, 1.0, width=32),
        min_turn=st.floats(-4.0, 0.0, width=32),
        max_turn=st.floats(0.125, 4.0, width=32),
        edge_hit_penalty=st.floats(-2.0, 0.0, width=32),
        # Squares of much smaller distances would vanish in float32.
        tagging_distance=st.just(0.0) | st.floats(2**-10, 0.5, width=32),
        tag_reward_for_tagger=st.floats(0.0, 10.0, width=32),
        step_penalty_for_tagger=st.floats(-1.0, 0.0, width=32),
        tag_penalty_for_runner=st.floats(-10.0, 0.0, width=32),
        step_reward_for_runner=st.floats(0.0, 1.0, width=32),
        end_of_game_reward_for_runner=st.floats(0.0, 5.0, width=32),
    )
)
SEEDS = st.integers(0, 2**32 - 1)


def random_state(rules: reference.Rules, copies: int, rng: np.random.Generator) -> reference.State:
    """Any state that an episode could be in, edges and full speed included."""
    shape = (copies, rules.num_agents)

    def uniform(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, shape).astype(np.float32)

    # Round inwards, so that the limits hold in float32 too.
    length, top = np.float32(rules.grid_length), rules.top_speed.astype(np.float32)
    at_edge = rng.random(shape) < 0.1
    alive = rng.random(shape) < 0.75
    alive[:, : rules.num_taggers] = True
    alive[np.arange(copies), rng.integers(rules.num_taggers, rules.num_agents, copies)] = True
    moving = alive | (rng.random(shape) < 0.5)  # some of those out of the game left in the very last step
    speed = np.where(rng.random(shape) < 0.2, top, np.minimum(uniform(0, 1) * top, top))
    return reference.State(
        x=np.where(at_edge, rng.choice([np.float32(0), length], shape), np.minimum(uniform(0, length), length)),
        y=np.minimum(uniform(0, length), length),
        speed=np.where(moving, speed, np.float32(0)).astype(np.float32),
        direction=np.where(moving, np.minimum(uniform(0, 6.28), np.float32(6.28)), np.float32(0)),
        acceleration=uniform(-1, 1),
        alive=alive,
        step=rng.integers(0, rules.episode_length, copies).astype(np.int32),
    )


def random_actions(rules: reference.Rules, copies: int, rng: np.random.Generator) -> np.ndarray:
    shape = (copies, rules.num_agents)
    if rules.continuous_actions:
        low, high = (rules.min_acceleration, rules.min_turn), (rules.max_acceleration, rules.max_turn)
        actions = rng.uniform(low, high, (*shape, 2)).astype(np.float32)
        return np.clip(actions, np.float32(low), np.float32(high))
    return np.stack(
        [rng.integers(0, rules.num_acceleration_levels + 1, shape), rng.integers(0, rules.num_turn_levels + 1, shape)],
        axis=-1,
    )


def assert_same_direction(actual: np.ndarray, expected: np.ndarray) -> None:
    """Equal as angles, and wrapped."""
    assert ((actual >= 0) & (actual < np.float32(2 * np.pi))).all()
    apart = np.abs(actual - expected)
    assert (np.minimum(apart, 2 * np.pi - apart) < 1e-5).all()


def check_step(
    env: BatchedEnv, rules: reference.Rules, actions: np.ndarray, excluded: Excluded, active: np.ndarray
) -> int:
    """Steps once and compares everything in the ``active [E]`` copies; returns how many runners were tagged there."""
    before = state_of(env, reference.State)
    expected = reference.move(rules, before, actions)
    observation, reward, terminated, truncated, info = env.step(by_group(env, actions))

    after = state_of(env, reference.State)
    wide = np.broadcast_to(active[:, None], before.x.shape)
    for name in ("x", "y", "speed"):
        assert_close(getattr(after, name), getattr(expected.state, name), wide)
    assert_same_direction(after.direction[active], expected.state.direction[active])
    sure = excluded.count(expected.sure_acceleration)
    assert_close(after.acceleration, expected.state.acceleration, wide & sure)
    np.testing.assert_array_equal(after.step[active], expected.state.step[active])

    # From here on the reference continues from the state just compared, so that rounding does not add up.
    moved = dataclasses.replace(after, alive=before.alive)
    outcome = reference.settle(rules, moved, expected.hit_edge)
    assert outcome.truncated.shape == (env.num_envs,)
    sure_copy = excluded.count(outcome.sure) & active
    sure_agent = excluded.count(expected.sure_edge) & sure_copy[:, None]
    assert_close(joined(reward), outcome.reward, sure_agent)
    np.testing.assert_array_equal(joined(terminated)[sure_copy], outcome.terminated[sure_copy])
    still_in_game = ~outcome.terminated
    np.testing.assert_array_equal(after.alive[sure_copy], still_in_game[sure_copy])
    np.testing.assert_array_equal(truncated.cpu().numpy()[active], outcome.truncated[active])
    done = outcome.terminated.all(axis=1) | outcome.truncated
    np.testing.assert_array_equal(info["done"].cpu().numpy()[sure_copy], done[sure_copy])

    seen, sure = reference.observe(rules, moved)
    assert_close(joined(observation), seen, excluded.count(sure) & wide)
    return int(outcome.tags[active].sum())


def check_injected_states(make: Make, params: dict[str, Any], seed: int) -> None:
    env = make(ENV, COPIES, autoreset_mode="DISABLED", **params)
    rules = rules_of(reference.Rules, env)
    rng = np.random.default_rng(seed)
    inject(env, random_state(rules, COPIES, rng))
    excluded = Excluded()
    seen, sure = reference.observe(rules, state_of(env, reference.State))
    assert_close(joined(env.observe()), seen, excluded.count(sure))
    check_step(env, rules, random_actions(rules, COPIES, rng), excluded, active=np.ones(COPIES, dtype=bool))
    excluded.assert_rare(0.02)


@pytest.mark.parametrize("static", STATIC, ids=str)
@given(dynamic=DYNAMIC, seed=SEEDS)
@settings(max_examples=15)
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


@pytest.mark.parametrize("static", [*STATIC[:5], STATIC[1] | dict(start="fixed")], ids=str)
def test_whole_episodes_follow_the_rules(make: Make, static: dict[str, Any]) -> None:
    params = dict(grid_length=4.0, episode_length=30, tagging_distance=0.06, max_speed=0.5, edge_hit_penalty=-0.3)
    env = make(ENV, COPIES, seed=5, autoreset_mode="DISABLED", **static, **params)
    rules = rules_of(reference.Rules, env)
    rng = np.random.default_rng(5)
    excluded, tags, finished = Excluded(), 0, 0
    observation = env.reset()
    seen, sure = reference.observe(rules, state_of(env, reference.State))
    assert_close(joined(observation), seen, excluded.count(sure))
    for _ in range(65):
        actions = random_actions(rules, COPIES, rng)
        tags += check_step(env, rules, actions, excluded, active=np.ones(COPIES, dtype=bool))
        over = (~env.alive.any(dim=1)) | (env.state.step >= rules.episode_length)
        finished += int(over.sum())
        env.reset(mask=over)
        assert (env.state.step[over] == 0).all()
        assert env.alive[over].all()
    assert tags >= COPIES // 4
    assert finished >= 2 * COPIES
    excluded.assert_rare(0.05)


def lay_out(env: BatchedEnv, **fields: list[float]) -> None:
    """Puts the first copy into the given state; fields left out are 0."""
    env.reset()
    for name in FIELDS:
        getattr(env.state, name)[0] = torch.tensor(fields.get(name, [0.0] * env.num_agents), device=env.device)


STILL = static(3, 2, use_full_observation=False, num_other_agents_observed=2)


def test_of_equally_near_taggers_the_lowest_index_tags(make: Make) -> None:
    env = make(ENV, 1, autoreset_mode="DISABLED", tagging_distance=0.2, tag_reward_for_tagger=3.0, **STILL)
    # Both runners stand at equal distances from the taggers 1 and 2, on whole coordinates: an exact tie.
    lay_out(env, x=[9, 3, 5, 4, 4], y=[9, 4, 4, 4, 4])
    _, reward, terminated, _, _ = env.step(by_group(env, np.zeros((1, 5, 2), dtype=np.int64)))
    assert_close(joined(reward), np.array([[0.0, 6.0, 0.0, -1.0, -1.0]]))
    assert joined(terminated).all()


def test_a_tagger_exactly_at_the_tagging_distance_does_not_tag(make: Make) -> None:
    env = make(ENV, 1, autoreset_mode="DISABLED", grid_length=8.0, tagging_distance=0.25, **STILL)
    lay_out(env, x=[8, 8, 0, 2, 5], y=[8, 8, 0, 0, 8])
    _, reward, _, _, _ = env.step(by_group(env, np.zeros((1, 5, 2), dtype=np.int64)))
    assert_close(joined(reward), np.zeros((1, 5)))


def test_of_equally_near_agents_the_lowest_index_is_observed_first(make: Make) -> None:
    env = make(ENV, 1, autoreset_mode="DISABLED", grid_length=8.0, tagging_distance=0.0, **STILL)
    # Seen from the last runner, at (4, 4), everyone else is exactly one unit away.
    lay_out(env, x=[5, 4, 3, 4, 4], y=[4, 5, 4, 3, 4])
    observation = joined(env.observe())[0, 4, :14].reshape(7, 2)
    unit = 1 / (8 * np.sqrt(2))
    assert_close(observation[:2], np.array([[unit, 0.0], [0.0, unit]]))
    assert_close(observation[5:], np.ones((2, 2)))


def test_a_tagged_runner_stops_in_the_step_after_it_left(make: Make) -> None:
    env = make(ENV, 1, autoreset_mode="DISABLED", tagging_distance=0.1, use_full_observation=True, **TWO_RUNNERS)
    lay_out(env, x=[5, 5, 1], y=[5, 4.5, 1], speed=[0, 0.25, 0], direction=[0, 1.5, 0])
    stay = by_group(env, np.zeros((1, 3, 2), dtype=np.int64))
    observation, _, terminated, _, _ = env.step(stay)
    assert joined(terminated).tolist() == [[False, True, False]]
    assert env.alive.tolist() == [[True, False, True]]
    assert env.state.speed[0, 1] == 0.25 and env.state.direction[0, 1] == 1.5
    rows = joined(observation)[0, :, :14].reshape(3, 7, 2)
    assert_close(rows[0, 2], np.array([0.25, 0.0]))  # the tagger still sees it moving, and in the game
    assert_close(rows[0, 6], np.array([1.0, 1.0]))
    assert joined(observation)[0, 1, 14] > 0  # and it sees its last observation itself

    where = env.state.x[0, 1].item(), env.state.y[0, 1].item()
    observation, reward, terminated, _, _ = env.step(stay)
    assert env.state.speed[0, 1] == 0 and env.state.direction[0, 1] == 0
    assert (env.state.x[0, 1].item(), env.state.y[0, 1].item()) == where
    assert joined(reward)[0, 1] == 0 and joined(terminated)[0, 1]
    rows = joined(observation)[0, :, :14].reshape(3, 7, 2)
    assert_close(rows[0, 6], np.array([0.0, 1.0]))
    assert_close(rows[1], np.array([[0.0, 0.0]] * 5 + [[1.0, 0.0], [1.0, 1.0]]))
    assert joined(observation)[0, 1, 14] == 0


TWO_RUNNERS = static(1, 2)


def test_runners_that_stay_in_the_game_can_be_tagged_again(make: Make) -> None:
    params = static(2, 5, runner_exits_game_after_tagged=False, num_acceleration_levels=3, num_turn_levels=5)
    env = make(ENV, 1, autoreset_mode="DISABLED", tagging_distance=0.1, episode_length=3, **params)
    lay_out(env, x=[5, 9, 5, 1, 1, 1, 1], y=[5, 9, 5, 1, 1, 1, 1])
    stay = by_group(env, np.zeros((1, 7, 2), dtype=np.int64))
    for last in (False, False, True):
        _, reward, terminated, truncated, _ = env.step(stay)
        bonus = 1.0 if last else 0.0
        assert_close(joined(reward), np.array([[1.0, 0.0, bonus - 1.0, bonus, bonus, bonus, bonus]]))
        assert not joined(terminated).any() and bool(truncated) == last


def test_tagging_the_last_runner_at_the_last_step_terminates_and_truncates(make: Make) -> None:
    env = make(ENV, 1, autoreset_mode="DISABLED", tagging_distance=0.1, episode_length=1, **static(1, 1))
    lay_out(env, x=[5, 5], y=[5, 5])
    _, reward, terminated, truncated, info = env.step(by_group(env, np.zeros((1, 2, 2), dtype=np.int64)))
    assert joined(terminated).all() and truncated.all() and info["done"].all()
    assert_close(joined(reward), np.array([[1.0, -1.0]]))  # it left, so no reward for the end of the game


def test_continuous_actions_are_clipped(make: Make) -> None:
    env = make(ENV, 1, autoreset_mode="DISABLED", **static(4, 4, continuous_actions=True))
    lay_out(env, speed=[0.5] * 8, x=[5] * 8, y=[5] * 8)
    within = env.state.save()
    limits = np.array([[[-1.0, np.pi / 2]] * 8], dtype=np.float32)
    env.step(by_group(env, limits))
    expected = {name: getattr(env.state, name).clone() for name in FIELDS}
    env.state.restore(within)
    env.step(by_group(env, limits * np.float32(100)))
    for name in FIELDS:
        assert torch.equal(getattr(env.state, name), expected[name]), name


def test_the_random_start_is_uniform(make: Make) -> None:
    copies = 8192
    env = make(ENV, copies, seed=3, **static(4, 4, continuous_actions=True))
    env.reset()
    state = state_of(env, reference.State)
    assert (state.speed == 0).all() and (state.acceleration == 0).all() and state.alive.all()
    turns = state.direction / (np.pi / 2)
    assert np.abs(turns - turns.round()).max() < 1e-6
    assert np.abs(np.bincount(turns.round().astype(int).ravel(), minlength=4) / turns.size - 0.25).max() < 0.01
    assert turns.round().max() == 3
    for position in (state.x, state.y):
        assert position.min() >= 0 and position.max() <= 10
        shares = np.histogram(position, bins=10, range=(0, 10))[0] / position.size
        assert np.abs(shares - 0.1).max() < 0.006  # 5 standard deviations
    columns = np.concatenate([state.x, state.y, state.direction], axis=1)
    correlation = np.corrcoef(columns, rowvar=False) - np.eye(columns.shape[1])
    assert np.abs(correlation).max() < 5 / np.sqrt(copies)


def test_the_fixed_start_is_one_layout_for_every_copy_and_episode(make: Make) -> None:
    params = static(4, 4, continuous_actions=True, start="fixed")
    env = make(ENV, 16, seed=3, **params)
    env.reset()
    first = {name: getattr(env.state, name).clone() for name in FIELDS}
    for name in FIELDS:
        assert (first[name] == first[name][:1]).all(), name
    assert len(first["x"][0].unique()) == 8
    env.reset()
    for name in FIELDS:
        assert torch.equal(getattr(env.state, name), first[name]), name
    other = make(ENV, 4, seed=4, **params)
    other.reset()
    assert not torch.equal(other.state.x[0], first["x"][0])
    env.reset(seed=4)
    assert torch.equal(env.state.x[0], other.state.x[0])


@pytest.mark.parametrize("levels", [2, 3, 21])
def test_discrete_actions_are_evenly_spaced_levels(make: Make, levels: int) -> None:
    """Every acceleration with no turn, and every turn with no acceleration, from rest and from half speed."""
    env = make(
        ENV, 1, autoreset_mode="DISABLED", num_taggers=levels, num_runners=1 + levels, grid_length=50.0, max_speed=9.0,
        tagging_distance=0.0, num_acceleration_levels=levels, num_turn_levels=levels, min_acceleration=-0.5,
        use_full_observation=False,
    )  # fmt: skip
    lay_out(env, x=[25] * env.num_agents, y=[25] * env.num_agents, speed=[4] * env.num_agents)
    actions = np.zeros((1, env.num_agents, 2), dtype=np.int64)
    actions[0, :levels, 0] = np.arange(1, levels + 1)
    actions[0, levels + 1 :, 1] = np.arange(1, levels + 1)
    env.step(by_group(env, actions))
    after = state_of(env, reference.State)
    assert_close(after.speed[0, :levels], 4 + np.linspace(-0.5, 1.0, levels))
    assert_close(after.speed[0, levels:], np.full(levels + 1, 4.0))
    turns = np.concatenate([[0.0], np.linspace(-np.pi / 2, np.pi / 2, levels)])
    assert_same_direction(after.direction[0, levels:], np.mod(turns, 2 * np.pi))


@pytest.mark.parametrize(("top", "skill"), [(0.3, 0.9), (0.3, 1.3), (0.7, 0.9), (0.3, 0.0)])
def test_a_difference_in_speed_stays_in_its_space(make: Make, top: float, skill: float) -> None:
    """The bound is a product of parameters, and so is the speed: rounding must not carry one past the other."""
    skills = dict(max_speed=top, skill_level_tagger=skill, skill_level_runner=skill)
    env = make(ENV, 1, autoreset_mode="DISABLED", **static(1, 1), **skills)
    lay_out(env, x=[5, 5], y=[5, 5])
    env.step(by_group(env, np.array([[[10, 0], [0, 0]]])))
    assert env.state.speed[0, 0] == np.float32(top) * np.float32(skill)
    for name, observation in env.observe().items():
        assert env.observation_spaces[name].contains(observation[0, 0].cpu().numpy()), name
