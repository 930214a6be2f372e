"""The particle environments against their originals in mpe2 1.1.1: from equal states both take equal steps."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from references import mpe

from gpu_marl_envs.backends.source import persistent_fields
from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.spec import Environment

Make = Callable[..., BatchedEnv]
COPIES = 48
MARGIN = 1e-5  # comparisons that were decided by less are left out: float32 may decide them otherwise
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]  # smaller states would say no more
SEEDS = st.integers(0, 2**32 - 1)

# Every entry compiles once; parameters that need no compiling are drawn by hypothesis.
STEERED = dict(continuous_actions=True)
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "collect_treasure-v1": [{}, STEERED | dict(num_collectors=3, num_deposits=3, num_treasures=2)],
    "simple-v3": [{}, STEERED],
    "simple_adversary-v3": [{}, STEERED | dict(N=4, num_agent_neighbors=6, num_landmark_neighbors=2)],
    "simple_crypto-v3": [{}, STEERED],
    "simple_formation-v1": [{}, STEERED | dict(N=1), dict(N=3, terminate_on_success=True)],
    "simple_line-v1": [{}, STEERED | dict(N=1), dict(N=3, terminate_on_success=True)],
    "simple_push-v3": [{}, STEERED],
    "simple_reference-v3": [{}, STEERED],
    "simple_speaker_listener-v4": [{}, STEERED],
    "simple_spread-v3": [
        {},
        STEERED | dict(N=5, curriculum=True, num_agent_neighbors=2, num_landmark_neighbors=7),
        dict(N=2, terminate_on_success=True, num_landmark_neighbors=1),
    ],
    "simple_tag-v3": [
        {},
        STEERED | dict(num_good=2, num_obstacles=3, curriculum=True, num_agent_neighbors=5, num_landmark_neighbors=2),
        dict(num_good=3, num_adversaries=2, num_obstacles=0, terminate_on_success=True, num_agent_neighbors=2),
    ],
    "simple_world_comm-v3": [
        {},
        STEERED | dict(num_good=3, num_adversaries=2, num_obstacles=0, num_food=1, num_forests=3),
        dict(num_good=1, num_adversaries=1, num_obstacles=2, num_food=3, num_forests=0),
    ],
}
STAGES = {"curriculum_stage", "present_stage", "step", "episode", "key"}  # what the original has elsewhere
RATIO = st.floats(0.0, 1.0, width=32)
DYNAMIC = {env_id: st.fixed_dictionaries(dict(max_cycles=st.integers(1, 6))) for env_id in SETTINGS}
for env_id in ("simple_spread-v3", "simple_reference-v3"):
    DYNAMIC[env_id] = st.fixed_dictionaries(dict(max_cycles=st.integers(1, 6), local_ratio=RATIO))
CASES = [
    pytest.param(env_id, static, id=f"{env_id}-{number}")
    for env_id, settings_ in SETTINGS.items()
    for number, static in enumerate(settings_)
]
every_case = pytest.mark.parametrize(("env_id", "static"), CASES)


def random_state(declaration: Environment, copies: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """States of every kind: spread out or crowded, near the middle or far away, slow or fast."""
    scale = rng.choice([0.1, 0.3, 1.0, 3.0], copies, p=[0.25, 0.25, 0.4, 0.1])
    centre = {axis: rng.uniform(-1, 1, copies) * (scale < 1) for axis in "xy"}
    speed = rng.choice([0.0, 1.0, 3.0], copies)
    state = {}
    for field in persistent_fields(declaration):
        shape = (copies, *[declaration.num_agents] * (field.per == "agent"), *field.shape)
        column = (copies, *[1] * (len(shape) - 1))
        unit = rng.uniform(-1, 1, shape)
        if field.dtype == "int32":
            values = rng.integers(int(field.low), int(field.high) + 1, shape)
        elif np.isfinite(field.low):
            values = rng.uniform(field.low, field.high, shape)
        elif field.name in mpe.POSITIONS:
            values = unit * scale.reshape(column) + centre[field.name[-1]].reshape(column)
        else:
            values = unit * speed.reshape(column)
        state[field.name] = values.astype(field.dtype)
    return state


def random_actions(env: BatchedEnv, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Actions of every agent, by group; continuous ones in every proportion, at the limits and beyond them."""
    actions = {}
    for name, group in env.groups.items():
        shape = (env.num_envs, group.size, *group.action_shape)
        if group.action_counts:
            actions[name] = rng.integers(0, group.action_counts[0], shape)
        else:
            kinds = [rng.random(shape), rng.integers(0, 2, shape), rng.normal(0, 100, shape), np.zeros(shape)]
            actions[name] = np.choose(rng.integers(0, len(kinds), shape[:2])[..., None], kinds).astype(np.float32)
    return actions


@dataclasses.dataclass
class Excluded:
    """Comparisons with the original that are left out, of how many."""

    left_out: int = 0
    of: int = 0

    def is_sure(self, margin: float) -> bool:
        self.of += 1
        self.left_out += margin < MARGIN
        return margin >= MARGIN


def assert_agrees(actual: Any, expected: Any, what: str) -> None:
    """Equal if integers; else within float32 rounding: 1e-5, relative or near zero absolute."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, what
    if actual.dtype.kind in "ib":
        np.testing.assert_array_equal(actual, expected, what)
    else:
        known = ~np.isnan(expected)
        np.testing.assert_allclose(actual[known], expected[known], rtol=1e-5, atol=1e-5, err_msg=what)


def copies_of(env: BatchedEnv) -> list[dict[str, np.ndarray]]:
    """The present state, copy by copy."""
    fields = {name: tensor.cpu().numpy().copy() for name, tensor in env.state.fields().items()}
    return [{name: array[copy] for name, array in fields.items()} for copy in range(env.num_envs)]


def rows(groups: dict[str, Any], copy: int) -> list[np.ndarray]:
    """One copy's entries of all agents, in order, of what is given by group."""
    return [row for tensor in groups.values() for row in np.asarray(tensor)[copy]]


def check_observations(original: mpe.Original, observation: dict[str, Any], copy: int, orders: Excluded) -> None:
    expected_rows, margin = original.observe()
    if orders.is_sure(margin):
        for row, expected in zip(rows(observation, copy), expected_rows, strict=True):
            assert_agrees(row, expected, f"an observation in copy {copy}")


def check_step(env: BatchedEnv, original: mpe.Original, rng: np.random.Generator, excluded: Excluded) -> None:
    """Steps both from the present states of ``env`` and compares everything that the step gives."""
    before, steps = copies_of(env), env.state.step.tolist()
    actions = random_actions(env, rng)
    result = env.step({name: torch.from_numpy(array).to(env.device) for name, array in actions.items()})
    observation, reward, terminated = ({name: t.cpu() for name, t in part.items()} for part in result[:3])
    after, truncated = copies_of(env), result[3].tolist()
    for copy in range(env.num_envs):
        original.put(before[copy], steps[copy])
        original.foresee(after[copy])
        rewards, is_terminated, is_truncated, margin = original.step(rows(actions, copy))
        fields = original.read()
        assert fields.keys() | STAGES == after[copy].keys() | STAGES
        for name, expected in fields.items():
            assert_agrees(after[copy][name], expected, f"state.{name} of copy {copy}")
        assert truncated[copy] == is_truncated
        if excluded.is_sure(margin):
            assert_agrees(np.array(rows(reward, copy)), np.array(rewards), f"the rewards in copy {copy}")
            assert all(left == is_terminated for left in rows(terminated, copy))
        check_observations(original, observation, copy, excluded)


def check_injected_states(make: Make, env_id: str, params: dict[str, Any], seed: int, excluded: Excluded) -> None:
    env = make(env_id, COPIES, autoreset_mode="DISABLED", **params)
    rng = np.random.default_rng(seed)
    original = mpe.ORIGINALS[env_id](env.declaration)
    states = random_state(env.declaration, COPIES, rng)
    original.make_possible(states)
    env.reset()
    for name, values in states.items():
        getattr(env.state, name).copy_(torch.from_numpy(values))
    env.state.step = torch.from_numpy(rng.integers(0, env.declaration.max_steps, COPIES))
    observation = {name: tensor.cpu() for name, tensor in env.observe().items()}
    for copy, state in enumerate(copies_of(env)):
        original.put(state, 0)
        check_observations(original, observation, copy, excluded)
    check_step(env, original, rng, excluded)


# ---- the tests ----


def test_the_originals_are_of_the_version_that_is_named() -> None:
    assert importlib.metadata.version("mpe2") == mpe.VERSION == "1.1.1"


@every_case
def test_a_step_from_any_state_is_the_originals(make: Make, env_id: str, static: dict[str, Any]) -> None:
    excluded = Excluded()

    @given(dynamic=DYNAMIC[env_id], seed=SEEDS)
    @settings(max_examples=12, phases=PHASES)
    def check(dynamic: dict[str, Any], seed: int) -> None:
        check_injected_states(make, env_id, static | dynamic, seed, excluded)

    check()
    assert excluded.of >= 1000
    assert excluded.left_out <= mpe.ORIGINALS[env_id].most_left_out * excluded.of
