"""Bad input gets one exception with one sentence that names what is wrong, and loses nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import gpu_marl_envs
from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.errors import (
    ActionError,
    BackendUnavailableError,
    GpuMarlError,
    OutOfMemoryError,
    ParameterError,
    StateError,
    UnknownEnvironmentError,
    UsageError,
)

Make = Callable[..., BatchedEnv]

GRID = "tag_gridworld-v0"
GRID_PARAMS = dict(num_taggers=2, grid_length=4, episode_length=7)
CHASE = "tag_continuous-v0"
CHASE_PARAMS = dict(num_taggers=2, num_runners=3, use_full_observation=False, episode_length=7, grid_length=3.0)
STEERED_PARAMS = CHASE_PARAMS | dict(continuous_actions=True)
COPIES = 3


@contextmanager
def raises(error: type[GpuMarlError], *named: str) -> Iterator[None]:
    """Expects an ``error`` whose message is one sentence that contains all of ``named``."""
    with pytest.raises(error) as caught:
        yield
    message = str(caught.value)
    assert re.fullmatch(r"[^\n]+[.?]", message), message
    assert not re.search(r"[.?!] [A-Z]", message), message
    for name in named:
        assert name in message, message


@contextmanager
def keeps_state(env: BatchedEnv) -> Iterator[None]:
    """Expects that the block leaves the state as it was, and the batch usable."""
    before = env.state.save()
    yield
    after = env.state.save()
    assert set(before) == set(after)
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name
    env.step(env.actions)


# ---- making one ----


def test_an_unknown_environment_names_the_nearest(make: Make) -> None:
    with raises(UnknownEnvironmentError, "'tag_gridword-v0'", "'tag_gridworld-v0'"):
        make("tag_gridword-v0", 1)
    with raises(UnknownEnvironmentError, "7"):
        make(7, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("params", "named"),
    [
        (dict(num_tagers=2), ["'num_tagers'", "'num_taggers'"]),
        (dict(num_taggers=0), ["num_taggers", "whole number from 1", "0"]),
        (dict(num_taggers=1.5), ["num_taggers", "whole number", "1.5"]),
        (dict(num_taggers=True), ["num_taggers", "whole number", "True"]),
        (dict(num_taggers="3"), ["num_taggers", "whole number", "'3'"]),
        (dict(use_full_observation=1), ["use_full_observation", "True or False", "1"]),
        (dict(start="middle"), ["start", "'random'", "'fixed'", "'middle'"]),
        (dict(wall_hit_penalty=float("nan")), ["wall_hit_penalty", "nan"]),
        (dict(wall_hit_penalty=float("inf")), ["wall_hit_penalty", "inf"]),
        (dict(episode_length=0), ["episode_length", "0"]),
        (dict(episode_length=2**40), ["episode_length", str(2**40)]),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_bad_parameter_names_its_valid_range(make: Make, params: dict[str, Any], named: list[str]) -> None:
    with raises(ParameterError, GRID, *named):
        make(GRID, 1, **params)


@pytest.mark.parametrize(
    ("params", "named"),
    [
        (dict(edge_hit_penalty=0.5), ["edge_hit_penalty", "at most 0", "0.5"]),
        (dict(tag_penalty_for_runner=1.0), ["tag_penalty_for_runner", "at most 0"]),
        (dict(step_penalty_for_tagger=1), ["step_penalty_for_tagger", "at most 0"]),
        (dict(tagging_distance=-0.1), ["tagging_distance", "-0.1"]),
        (dict(grid_length=0), ["grid_length"]),
        (dict(max_speed=0.0), ["max_speed"]),
        (dict(min_turn=1.0, max_turn=-1.0), ["min_turn", "max_turn"]),
        (dict(min_acceleration=1.0, max_acceleration=-1.0), ["min_acceleration", "max_acceleration"]),
        (dict(num_turn_levels=0), ["num_turn_levels"]),
        (dict(num_other_agents_observed=0, use_full_observation=False), ["num_other_agents_observed"]),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_bad_parameter_of_the_chase_names_its_valid_range(
    make: Make, params: dict[str, Any], named: list[str]
) -> None:
    with raises(ParameterError, CHASE, *named):
        make(CHASE, 1, **params)


@pytest.mark.parametrize("copies", [0, -1, 1.5, True, "8", None])
def test_a_bad_number_of_copies_is_named(make: Make, copies: Any) -> None:
    with raises(ParameterError, "num_envs", repr(copies)):
        make(GRID, copies, **GRID_PARAMS)


@pytest.mark.parametrize("seed", ["x", 1.5, -1, 2**64])
def test_a_bad_seed_is_named(make: Make, seed: Any) -> None:
    with raises(ParameterError, "seed", repr(seed)):
        make(GRID, 1, seed=seed, **GRID_PARAMS)
    env = make(GRID, 1, **GRID_PARAMS)
    with raises(ParameterError, "seed", repr(seed)):
        env.reset(seed=seed)


def test_a_bad_autoreset_mode_names_the_modes(make: Make) -> None:
    with raises(ParameterError, "autoreset_mode", "NEXT_STEP", "SAME_STEP", "DISABLED", "'LATER'"):
        make(GRID, 1, autoreset_mode="LATER", **GRID_PARAMS)


@pytest.mark.parametrize("name", ["tpu", "nonsense:0", "cuda:x", 7.5])
def test_a_bad_device_is_named(name: Any) -> None:
    with raises(ParameterError, "device", str(name)):
        gpu_marl_envs.make_batched(GRID, num_envs=1, device=name, **GRID_PARAMS)


def test_a_device_without_a_backend_names_those_that_have_one() -> None:
    with raises(BackendUnavailableError, "'meta'", "'cpu'", "'cuda'"):
        gpu_marl_envs.make_batched(GRID, num_envs=1, device="meta", **GRID_PARAMS)


def test_cuda_is_not_replaced_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with raises(BackendUnavailableError, "cuda", "cpu"):
        gpu_marl_envs.make_batched(GRID, num_envs=1, device="cuda", **GRID_PARAMS)


def test_too_many_copies_say_how_many_would_fit(make: Make) -> None:
    with pytest.raises(OutOfMemoryError) as caught:
        make(GRID, 10**10, **GRID_PARAMS)
    message = str(caught.value)
    assert re.fullmatch(r"[^\n]+[.]", message)
    numbers = [int(digits.replace(",", "")) for digits in re.findall(r"\d[\d,]*\d", message)]
    assert any(10**3 < number < 10**10 for number in numbers), message


# ---- calls out of order ----


def test_stepping_before_reset_says_to_reset(make: Make) -> None:
    env = make(GRID, COPIES, **GRID_PARAMS)
    with raises(UsageError, "reset"):
        env.step(env.actions)
    with raises(UsageError, "reset"):
        env.observe()
    env.reset()
    env.step(env.actions)


def test_a_first_reset_with_a_mask_says_to_reset_all(make: Make) -> None:
    env = make(GRID, COPIES, **GRID_PARAMS)
    with raises(UsageError, "reset", "mask"):
        env.reset(mask=torch.ones(COPIES, dtype=torch.bool, device=env.device))


def test_using_a_closed_batch_says_that_it_is_closed(make: Make) -> None:
    env = make(GRID, COPIES, **GRID_PARAMS)
    env.reset()
    actions = env.actions
    env.close()
    for call in (lambda: env.step(actions), env.reset, env.observe):
        with raises(UsageError, "close"):
            call()


# ---- actions ----


def zeros(*shape: int, dtype: torch.dtype = torch.int32, **options: Any) -> torch.Tensor:
    return torch.zeros(*shape, dtype=dtype, **options)


def chase_actions(**changes: Any) -> dict[str, Any]:
    return {"tagger": zeros(COPIES, 2, 2), "runner": zeros(COPIES, 3, 2)} | changes


BAD_ACTIONS = [
    (lambda: {"tagger": zeros(COPIES, 2, 2)}, ["runner"]),
    (lambda: chase_actions(walker=zeros(1)), ["'walker'", "'tagger'"]),
    (lambda: zeros(COPIES, 5, 2), ["dict"]),
    (lambda: None, ["dict"]),
    (lambda: chase_actions(runner=[[0, 0]] * 3), ["runner", "list", "tensor"]),
    (lambda: chase_actions(runner=zeros(COPIES, 3)), ["runner", "[3, 3]", "[3, 3, 2]"]),
    (lambda: chase_actions(runner=zeros(COPIES - 1, 3, 2)), ["runner", "[2, 3, 2]", "[3, 3, 2]"]),
    (lambda: chase_actions(runner=zeros(COPIES, 3, 2, dtype=torch.float32)), ["runner", "float32", "int32"]),
    (lambda: chase_actions(tagger=zeros(COPIES, 2, 2, dtype=torch.int16)), ["tagger", "int16", "int32"]),
    (lambda: chase_actions(tagger=zeros(COPIES, 2, 2, dtype=torch.bool)), ["tagger", "bool", "int32"]),
    (lambda: chase_actions(tagger=zeros(COPIES, 2, 2, device="meta")), ["tagger", "meta", "cpu"]),
]  # fmt: skip


@pytest.mark.parametrize(("actions", "named"), BAD_ACTIONS)
def test_bad_actions_name_the_group_and_what_was_expected(
    make: Make, actions: Callable[[], Any], named: list[str]
) -> None:
    env = make(CHASE, COPIES, device="cpu", **CHASE_PARAMS)
    env.reset()
    with keeps_state(env), raises(ActionError, *named):
        env.step(actions())


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(-1, torch.int32), (11, torch.int32), (2**31 - 1, torch.int32), (-(2**31), torch.int64), (2**40, torch.int64)],
)
def test_an_action_out_of_range_names_itself(make: Make, value: int, dtype: torch.dtype) -> None:
    env = make(CHASE, COPIES, check_actions=True, **CHASE_PARAMS)
    env.reset()
    actions = {name: torch.zeros_like(tensor, dtype=dtype) for name, tensor in env.actions.items()}
    actions["runner"][1, 2, 1] = value
    with keeps_state(env), raises(ActionError, "'runner'", str(value), "[1, 2, 1]", "11"):
        env.step(actions)


def test_on_the_cpu_actions_are_checked_unless_switched_off(make: Make) -> None:
    env = make(GRID, COPIES, device="cpu", **GRID_PARAMS)
    env.reset()
    for group, column, value in (("tagger", 1, 5), ("runner", 0, 255)):
        actions = {name: torch.zeros_like(tensor, dtype=torch.uint8) for name, tensor in env.actions.items()}
        actions[group][2, column] = value
        with keeps_state(env), raises(ActionError, group, str(value), "Discrete(5)"):
            env.step(actions)


@pytest.mark.parametrize("value", [-1, 5, 2**31 - 1, -(2**31)])
def test_unchecked_actions_out_of_range_stay_inside_their_buffers(make: Make, value: int) -> None:
    for env_id, params in ((GRID, GRID_PARAMS), (CHASE, CHASE_PARAMS)):
        env = make(env_id, 64, check_actions=False, autoreset_mode="DISABLED", **params)
        env.reset()
        for tensor in env.actions.values():
            tensor.fill_(value)
        observation, *_ = env.step(env.actions)
        assert all(tensor.isfinite().all() for tensor in observation.values())
        for field in ("x", "y"):
            position = getattr(env.state, field)
            assert (position >= 0).all() and (position <= params["grid_length"]).all()


def test_continuous_actions_that_are_no_numbers_are_named(make: Make) -> None:
    env = make(CHASE, COPIES, check_actions=True, **STEERED_PARAMS)
    env.reset()
    actions = {name: torch.zeros_like(tensor) for name, tensor in env.actions.items()}
    actions["runner"][0, 1, 0] = float("nan")
    with keeps_state(env), raises(ActionError, "runner", "nan"):
        env.step(actions)
    with keeps_state(env), raises(ActionError, "tagger", "int32", "float32"):
        env.step(actions | {"tagger": torch.zeros(COPIES, 2, 2, dtype=torch.int32, device=env.device)})


# ---- state, masks and out ----


def test_a_state_that_does_not_fit_is_named(make: Make) -> None:
    env = make(GRID, COPIES, **GRID_PARAMS)
    env.reset()
    wrong: list[tuple[str, Any, list[str]]] = [
        ("x", torch.zeros(COPIES, 2, dtype=torch.int32), ["x", "[3, 2]", "[3, 3]"]),
        ("x", torch.zeros(COPIES, 3), ["x", "float32", "int32"]),
        ("x", "three", ["x", "str", "tensor"]),
        ("step", torch.zeros(COPIES + 1, dtype=torch.int32), ["step", "[4]", "[3]"]),
    ]
    for name, value, named in wrong:
        with keeps_state(env), raises(StateError, *named):
            setattr(env.state, name, value)


def test_an_unknown_state_field_names_the_known_ones(make: Make) -> None:
    env = make(GRID, COPIES, **GRID_PARAMS)
    with pytest.raises(AttributeError, match=r"'velocity'; known: .*x, y"):
        _ = env.state.velocity
    with pytest.raises(AttributeError, match="'velocity'"):
        env.state.velocity = env.state.x


def test_a_saved_state_of_another_batch_does_not_fit(make: Make) -> None:
    env, larger, other = make(GRID, 3, **GRID_PARAMS), make(GRID, 4, **GRID_PARAMS), make(CHASE, 3, **CHASE_PARAMS)
    for batch in (env, larger, other):
        batch.reset()
    for batch in (larger, other):
        with keeps_state(env), raises(StateError):
            env.state.restore(batch.state.save())
    incomplete = env.state.save()
    del incomplete["x"]
    with keeps_state(env), raises(StateError, "x"):
        env.state.restore(incomplete)


@pytest.mark.parametrize(
    ("mask", "named"),
    [
        (torch.ones(COPIES + 1, dtype=torch.bool), ["mask", "[4]", "[3]"]),
        (torch.ones(COPIES), ["mask", "float32", "bool"]),
        ([True, False, True], ["mask", "list"]),
    ],
    ids=["shape", "dtype", "type"],
)
def test_a_bad_mask_is_named(make: Make, mask: Any, named: list[str]) -> None:
    env = make(GRID, COPIES, device="cpu", **GRID_PARAMS)
    env.reset()
    with keeps_state(env), raises(ParameterError, *named):
        env.reset(mask=mask)


@pytest.mark.parametrize(
    ("out", "named"),
    [
        ([torch.zeros(COPIES, 2)], ["out", "dict"]),
        ({"rewards": {}}, ["'rewards'", "reward"]),
        ({"reward": torch.zeros(COPIES, 3)}, ["reward", "dict"]),
        ({"reward": {"walker": torch.zeros(COPIES, 2)}}, ["walker"]),
        ({"reward": {"tagger": torch.zeros(COPIES, 3)}}, ["reward", "tagger", "[3, 3]", "[3, 2]"]),
        ({"reward": {"tagger": torch.zeros(COPIES, 2, dtype=torch.float64)}}, ["reward", "tagger", "float64"]),
        ({"reward": {"tagger": torch.zeros(2, COPIES).T}}, ["reward", "tagger", "contiguous"]),
        ({"truncated": torch.zeros(COPIES)}, ["truncated", "float32", "bool"]),
        ({"done": torch.zeros(COPIES + 1, dtype=torch.bool)}, ["done", "[4]", "[3]"]),
        ({"truncated": torch.zeros(COPIES, dtype=torch.bool, device="meta")}, ["truncated", "meta", "cpu"]),
    ],
)
def test_a_bad_out_is_named(make: Make, out: Any, named: list[str]) -> None:
    env = make(GRID, COPIES, device="cpu", **GRID_PARAMS)
    env.reset()
    with keeps_state(env), raises(StateError, *named):
        env.step(env.actions, out=out)
