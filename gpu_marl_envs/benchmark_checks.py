"""What a benchmark makes sure of before it times an environment."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gpu_marl_envs.batched import BatchedEnv, StepResult, make_batched
from gpu_marl_envs.errors import GpuMarlError

CHECKED_COPIES = 1024  # at most, and no more pairs of agents than this, since a CPU may compare all of them
CHECKED_PAIRS = 2 * 10**9


class BenchmarkError(GpuMarlError, AssertionError):
    """What was to be timed computes something wrong, so its speed means nothing."""


def check_steps(env: BatchedEnv, actions: list[dict[str, Tensor]]) -> None:
    """Resets, steps a little, and looks at the result.

    Raises:
        BenchmarkError: a step is not counted, or an observation or a reward is not finite.
    """
    env.reset()
    for i in range(3):
        before, fresh = env.state.step.clone(), i == 0
        observation, reward, _, _, info = env.step(actions[i % len(actions)])
        counted = (env.state.step == before + 1) | info["done"]
        if not bool(counted.all() if fresh else counted.any()):
            raise BenchmarkError(f"{env.declaration.id}: a step was not counted; nothing was timed.")
        for what, tensors in (("observation", observation), ("reward", reward)):
            for name, tensor in tensors.items():
                if not bool(tensor.isfinite().all()):
                    raise BenchmarkError(
                        f"{env.declaration.id}: a {what} of group {name!r} is not finite; nothing was timed."
                    )


def check_against_cpu(
    env: BatchedEnv, start: dict[str, Tensor], action: dict[str, Tensor], env_id: str, params: dict[str, Any]
) -> int:
    """Takes one step here and on the CPU, and compares all bits of some copies, spread over the batch.

    Args:
        env: the batch; it is left one step beyond ``start``.
        start: its present state, as ``env.state.save()`` returns it.
        action: of the step, by group.
        env_id: the environment, and
        params: the options that it was made with, so that it can be made on the CPU.

    Returns:
        How many copies were compared.

    Raises:
        BenchmarkError: they differ; says in what.
    """
    copies = min(env.num_envs, CHECKED_COPIES, max(CHECKED_PAIRS // env.num_agents**2, 1))
    chosen = torch.arange(copies, device=env.device) * (env.num_envs - 1) // max(copies - 1, 1)
    reference = make_batched(env_id, copies, "cpu", check_actions=False, **params)
    reference.state.restore({name: tensor[chosen].cpu() for name, tensor in start.items()})
    expected = _outcome(reference, reference.step({name: tensor[chosen].cpu() for name, tensor in action.items()}))
    actual = {name: tensor[chosen].cpu() for name, tensor in _outcome(env, env.step(action)).items()}
    for name, tensor in expected.items():
        differing = (_bits(tensor) != _bits(actual[name])).any(dim=1)
        if bool(differing.any()):
            copy = int(chosen[differing.nonzero()[0, 0]])
            raise BenchmarkError(
                f"{env.declaration.id}: the {name} of copy {copy} on {env.device} is not what the CPU build computes; "
                f"nothing was timed."
            )
    reference.close()
    return copies


def _outcome(env: BatchedEnv, result: StepResult) -> dict[str, Tensor]:
    """All that a step gave, and the state after it, ``[E, …]`` each; statistics where an episode ended."""
    observation, reward, terminated, truncated, info = result
    done = info["done"]
    by_group = {"observation": observation, "reward": reward, "terminated": terminated}
    ended = {name: info[name] for name in ("episode_return", "episode_length", "final_obs") if name in info}
    found = {f"{what} of {name}": t for what, groups in by_group.items() for name, t in groups.items()}
    for what, groups in ended.items():
        for name, tensor in groups.items():
            found[f"{what} of {name}"] = tensor.masked_fill(~done.view(-1, *[1] * (tensor.dim() - 1)), 0)
    found |= {"truncated": truncated, "done": done, "alive": env.alive}
    found |= {f"state.{name}": tensor for name, tensor in env.state.fields().items()}
    return {name: tensor.reshape(env.num_envs, -1) for name, tensor in found.items()}


def _bits(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    return tensor.view({4: torch.int32, 2: torch.int16}[tensor.element_size()])
