"""Observations in fewer bits: what the kernels round is what torch rounds."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from references.batches import CHASE, ENVS, GRID, leaves

from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.benchmarking import least_bytes_per_step
from gpu_marl_envs.errors import ParameterError, StateError
from gpu_marl_envs.testing import check_environment, sample_actions
from gpu_marl_envs.training import PPO, train

Make = Callable[..., BatchedEnv]
HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
MANY = 16 * 1024 + 5  # copies that a GPU plays with a lane each


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.cpu().contiguous().view(torch.int16)


@HALVES
@pytest.mark.parametrize("num_envs", [37, pytest.param(MANY, marks=pytest.mark.gpu)])
@ENVS
def test_observations_are_those_of_float32_rounded(
    make: Make, env_id: str, params: dict[str, Any], num_envs: int, dtype: torch.dtype
) -> None:
    options = {"autoreset_mode": "SAME_STEP", "seed": 3, **params}
    exact, rounded = make(env_id, num_envs, **options), make(env_id, num_envs, obs_dtype=dtype, **options)
    assert rounded.obs_dtype == dtype and exact.obs_dtype == torch.float32
    generator = torch.Generator().manual_seed(3)

    def compare(one: Any, two: Any) -> None:
        for name in exact.groups:
            assert two[name].dtype == dtype
            assert torch.equal(_bits(two[name]), _bits(one[name].to(dtype)))

    compare(exact.reset(), rounded.reset())
    for _ in range(20):
        actions = sample_actions(exact, generator)
        one, two = exact.step(actions), rounded.step(actions)
        compare(one[0], two[0])
        compare(one[4]["final_obs"], two[4]["final_obs"])
        assert all(torch.equal(a, b) for a, b in zip(leaves(one[1:4]), leaves(two[1:4]), strict=True))
    compare(exact.observe(), rounded.observe())


@HALVES
def test_steps_write_into_tensors_of_that_dtype_only(make: Make, dtype: torch.dtype) -> None:
    env = make(*GRID[:1], 5, obs_dtype=dtype, **GRID[1])
    env.reset()
    shape = (5, 2, *env.observation_spaces["tagger"].shape)
    own = torch.full(shape, torch.nan, dtype=dtype, device=env.device)
    result = env.step(env.actions, out={"observation": {"tagger": own}})[0]["tagger"]
    assert result is own and not own.isnan().any()
    with pytest.raises(StateError, match=str(dtype).removeprefix("torch.")):
        env.step(env.actions, out={"observation": {"tagger": own.float()}})


@HALVES
def test_a_pickled_batch_keeps_its_dtype(make: Make, dtype: torch.dtype) -> None:
    env = make(*CHASE[:1], 3, obs_dtype=dtype, **CHASE[1])
    env.reset()
    copy = pickle.loads(pickle.dumps(env))
    assert copy.obs_dtype == dtype
    for name, observation in env.observe().items():
        assert torch.equal(_bits(observation), _bits(copy.observe()[name]))
    copy.close()


def test_a_dtype_has_a_name(make: Make) -> None:
    assert make(*GRID[:1], 2, obs_dtype="float16", **GRID[1]).reset()["runner"].dtype == torch.float16


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, "half", 16, None])
def test_another_dtype_is_refused(make: Make, dtype: Any) -> None:
    with pytest.raises(ParameterError, match=r"obs_dtype must be torch.float32 or torch.bfloat16 or torch.float16"):
        make(*GRID[:1], 2, obs_dtype=dtype, **GRID[1])


@HALVES
def test_fewer_bytes_are_counted(make: Make, dtype: torch.dtype) -> None:
    exact, rounded = make(*GRID[:1], 2, **GRID[1]), make(*GRID[:1], 2, obs_dtype=dtype, **GRID[1])
    entries = sum(group.size * group.observation_size for group in exact.groups.values())
    counts = [least_bytes_per_step(env, env.reset(), env.actions) for env in (exact, rounded)]
    assert counts[0] - counts[1] == 2 * entries


@HALVES
def test_the_conformance_suite_takes_a_dtype(device: str, dtype: torch.dtype) -> None:
    check_environment(GRID[0], device, obs_dtype=dtype, **GRID[1])


@HALVES
@pytest.mark.usefixtures("one_thread")
def test_policies_learn_from_rounded_observations(make: Make, dtype: torch.dtype) -> None:
    env = make(*CHASE[:1], 8, obs_dtype=dtype, autoreset_mode="SAME_STEP", **CHASE[1])
    result = train(env, PPO(rollout_steps=8, hidden_size=8), total_steps=1, progress=False)
    assert result.agent_steps == 8 * 8 * env.num_agents
