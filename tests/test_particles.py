"""The particle environments against their originals in mpe2 1.1.1: from equal states both take equal steps."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from references import mpe
from references.particles import MANY_SETTINGS, SETTINGS, cases, copies_of, random_actions, random_state, rows

from gpu_marl_envs.batched import BatchedEnv

Make = Callable[..., BatchedEnv]
COPIES = 48
MARGIN = 1e-5  # comparisons that were decided by less are left out: float32 may decide them otherwise
SEEDS = st.integers(0, 2**32 - 1)
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]  # smaller states would say no more
ELSEWHERE = {"curriculum_stage", "present_stage", "step", "episode", "key"}  # what the original keeps in other places


def dynamic(env_id: str) -> st.SearchStrategy[dict[str, Any]]:
    """Parameters that need no compiling."""
    parameters: dict[str, st.SearchStrategy[Any]] = dict(max_cycles=st.integers(1, 6))
    if env_id in ("simple_spread-v3", "simple_reference-v3"):
        parameters["local_ratio"] = st.floats(0.0, 1.0, width=32)
    return st.fixed_dictionaries(parameters)


@dataclass
class Tally:
    """Comparisons with the original: how many, how many of them left out, and how many found a success."""

    of: int = 0
    left_out: int = 0
    terminated: int = 0

    def is_sure(self, margin: float) -> bool:
        self.of += 1
        self.left_out += margin < MARGIN
        return margin >= MARGIN


def assert_agrees(actual: Any, expected: Any, what: str) -> None:
    """Equal if integers; else within float32 rounding: 1e-5, relative or near zero absolute. NaN agrees with all."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, what
    if actual.dtype.kind in "ib":
        np.testing.assert_array_equal(actual, expected, what)
    else:
        known = ~np.isnan(expected)
        np.testing.assert_allclose(actual[known], expected[known], rtol=1e-5, atol=1e-5, err_msg=what)


def on_cpu(groups: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.cpu().clone() for name, tensor in groups.items()}


def take_step(env: BatchedEnv, actions: dict[str, np.ndarray]) -> tuple[Any, ...]:
    """Observations, rewards and terminations by group on the CPU, truncations."""
    result = env.step({name: torch.from_numpy(array).to(env.device) for name, array in actions.items()})
    return (*map(on_cpu, result[:3]), result[3].tolist())


def check_observations(original: mpe.Original, observation: dict[str, Any], copy: int, tally: Tally) -> None:
    expected_rows, margin = original.observe()
    if tally.is_sure(margin):
        for row, expected in zip(rows(observation, copy), expected_rows, strict=True):
            assert_agrees(row, expected, f"an observation in copy {copy}")


def check_outcome(
    original: mpe.Original,
    outcome: mpe.Outcome,
    after: dict[str, np.ndarray],
    result: tuple[Any, ...],
    copy: int,
    tally: Tally,
) -> None:
    """Compares all that a step gave: the original, which took it, with our state ``after`` it and its ``result``."""
    observation, reward, terminated, truncated = result
    fields = original.read()
    assert fields.keys() | ELSEWHERE == after.keys() | ELSEWHERE
    for name, expected in fields.items():
        assert_agrees(after[name], expected, f"state.{name} of copy {copy}")
    assert truncated[copy] == outcome.truncated
    if tally.is_sure(outcome.margin):
        assert_agrees(np.array(rows(reward, copy)), np.array(outcome.rewards), f"the rewards in copy {copy}")
        assert all(left == outcome.terminated for left in rows(terminated, copy))
        tally.terminated += outcome.terminated
    check_observations(original, observation, copy, tally)


def check_injected_states(make: Make, env_id: str, params: dict[str, Any], seed: int, tally: Tally) -> None:
    env = make(env_id, COPIES, autoreset_mode="DISABLED", **params)
    rng = np.random.default_rng(seed)
    original = mpe.ORIGINALS[env_id](env.declaration)
    states = random_state(env.declaration, COPIES, rng)
    original.make_possible(states, rng)
    env.reset()
    for name, values in states.items():
        getattr(env.state, name).copy_(torch.from_numpy(values))
    env.state.step = torch.from_numpy(rng.integers(0, env.declaration.max_steps, COPIES))
    before, observation = copies_of(env), on_cpu(env.observe())
    actions = random_actions(env, rng)
    result, after = take_step(env, actions), copies_of(env)
    for copy in range(COPIES):
        original.put(before[copy], int(before[copy]["step"]))
        check_observations(original, observation, copy, tally)
        original.foresee(after[copy])
        check_outcome(original, original.step(rows(actions, copy)), after[copy], result, copy, tally)


def check_many(make: Make, env_id: str, static: dict[str, Any], examples: int, most_left_out: float) -> None:
    tally = Tally()

    @given(dynamic=dynamic(env_id), seed=SEEDS)
    @settings(max_examples=examples, phases=PHASES)
    def check(dynamic: dict[str, Any], seed: int) -> None:
        check_injected_states(make, env_id, static | dynamic, seed, tally)

    check()
    assert tally.of >= 3 * COPIES * examples
    assert tally.left_out <= most_left_out * tally.of
    assert (tally.terminated > 0) == static.get("terminate_on_success", False)


# ---- the tests ----


def test_the_originals_are_of_the_version_that_is_named() -> None:
    assert importlib.metadata.version("mpe2") == mpe.VERSION == "1.1.1"


@cases(SETTINGS)
def test_a_step_from_any_state_is_the_originals(make: Make, env_id: str, static: dict[str, Any]) -> None:
    check_many(make, env_id, static, 12, mpe.ORIGINALS[env_id].most_left_out)


@pytest.mark.slow
@cases(MANY_SETTINGS)
def test_a_step_is_the_originals_for_many_sizes(make: Make, env_id: str, static: dict[str, Any]) -> None:
    check_many(make, env_id, static, 20, most_left_out=0.25)  # the more bodies, the more comparisons there are


@pytest.mark.slow
@cases(SETTINGS)
def test_a_step_from_many_states_is_the_originals(make: Make, env_id: str, static: dict[str, Any]) -> None:
    check_many(make, env_id, static, 60, mpe.ORIGINALS[env_id].most_left_out)


@pytest.mark.parametrize("env_id", SETTINGS)
def test_whole_episodes_are_the_originals(make: Make, env_id: str) -> None:
    """From the start to the end, wherever the original itself does not make a rounding error 20 times larger."""
    copies = 24
    env = make(env_id, copies, seed=3, autoreset_mode="DISABLED")
    rng = np.random.default_rng(3)
    env.reset()
    states, plays = [copies_of(env)], []
    for _ in range(env.declaration.max_steps):
        actions = random_actions(env, rng)
        plays.append((actions, take_step(env, actions)))
        states.append(copies_of(env))
    original, shifted = (mpe.ORIGINALS[env_id](env.declaration) for _ in range(2))
    compared = 0
    for copy in range(copies):
        start, tally = states[0][copy], Tally()
        nudged = {name: values * (1 + 1e-6) if values.dtype.kind == "f" else values for name, values in start.items()}
        original.put(start, 0)
        shifted.put(nudged, 0)
        for (actions, result), after in zip(plays, states[1:], strict=True):
            for world in (original, shifted):
                world.foresee(after[copy])
            outcome, other = (world.step(rows(actions, copy)) for world in (original, shifted))
            truth, moved = original.read(), shifted.read()
            apart = max(np.nanmax(np.abs(moved[name] - values), initial=0.0) for name, values in truth.items())
            if min(outcome.margin, other.margin) < 1e-4 or apart > 2e-5:
                break
            check_outcome(original, outcome, after[copy], result, copy, tally)
            compared += 1
    assert compared > 0.6 * copies * env.declaration.max_steps
