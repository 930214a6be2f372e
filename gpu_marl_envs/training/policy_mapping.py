"""Who plays and learns what: which policies play which groups, and how those that are trained begin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.errors import ParameterError, nearest
from gpu_marl_envs.training.algorithm import Algorithm
from gpu_marl_envs.training.checkpoints import Checkpoint
from gpu_marl_envs.training.learner import Learner, PolicySpec
from gpu_marl_envs.training.policies import ActorCritic
from gpu_marl_envs.training.rollout import global_state_size


def resolve_policies(
    env: BatchedEnv, algorithm: Algorithm, policies: Mapping[str, PolicySpec] | None
) -> dict[str, PolicySpec]:
    """Every policy with its groups and its algorithm; groups that nobody plays get a policy of their name.

    Raises:
        ParameterError: a group is unknown or has two policies, groups of one policy differ, or the algorithms cannot
            share a rollout.
    """
    resolved: dict[str, PolicySpec] = {}
    played: dict[str, str] = {}
    for name, spec in (policies or {}).items():
        groups = tuple(spec.groups or (name,))
        for group in groups:
            if group not in env.groups:
                hint = nearest(group, env.groups)
                raise ParameterError(f"There is no group {group!r} for policy {name!r} to play; {hint}")
            if group in played:
                raise ParameterError(f"Group {group!r} has two policies, {played[group]!r} and {name!r}; give it one.")
            played[group] = name
        resolved[name] = replace(spec, groups=groups, algorithm=spec.algorithm or algorithm)
    for group in env.groups.keys() - played.keys():
        if group in resolved:
            raise ParameterError(f"Nobody plays group {group!r}; add it to the groups of policy {group!r}.")
    missing = {group: PolicySpec(groups=(group,), algorithm=algorithm) for group in env.groups if group not in played}
    resolved |= missing
    for name, spec in resolved.items():
        _check_alike(env, name, spec.groups)
    rollout_steps(resolved)
    return resolved


def rollout_steps(specs: Mapping[str, PolicySpec]) -> int:
    """How many steps all copies take between two updates.

    Raises:
        ParameterError: the policies that learn do not agree, or there are none.
    """
    trained = {name: spec.algorithm for name, spec in specs.items() if spec.algorithm and not spec.frozen}
    steps = {name: algorithm.rollout_steps for name, algorithm in trained.items()}
    if not steps:
        raise ParameterError("All policies are frozen; train at least one.")
    if len(set(steps.values())) > 1:
        given = ", ".join(f"{name!r} has {count}" for name, count in steps.items())
        raise ParameterError(f"All policies must have the same rollout_steps, but {given}.")
    return next(iter(steps.values()))


def _check_alike(env: BatchedEnv, name: str, groups: Sequence[str]) -> None:
    first = env.groups[groups[0]]
    spaces: tuple[object, object]
    for group in (env.groups[other] for other in groups[1:]):
        if group.observation_space.shape != first.observation_space.shape:
            kind, spaces = "observation", (first.observation_space, group.observation_space)
        elif group.action_space != first.action_space:
            kind, spaces = "action", (first.action_space, group.action_space)
        elif group.action_mask != first.action_mask:
            raise ParameterError(
                f"Policy {name!r} cannot play both {first.name!r} and {group.name!r}, since only one of them masks "
                "actions; give each a policy of its own."
            )
        else:
            continue
        raise ParameterError(
            f"Policy {name!r} cannot play both {first.name!r} and {group.name!r}, whose {kind} spaces differ: "
            f"{spaces[0]} and {spaces[1]}; give each a policy of its own."
        )


def make_learners(env: BatchedEnv, specs: Mapping[str, PolicySpec], seed: int) -> dict[str, Learner]:
    """Learners with fresh weights, or with those of the checkpoints that the specifications name.

    Args:
        env: what they will play.
        specs: see :func:`resolve_policies`.
        seed: of the initial weights.

    Raises:
        CheckpointError: a checkpoint has no policy that fits.
        ParameterError: a network cannot do what is asked.
    """
    learners = {}
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn from torch's global generator of the CPU
        torch.manual_seed(seed)
        for name, spec in specs.items():
            learners[name] = Learner(name, spec, _initial_policy(env, name, spec).to(env.device), env.device)
    return learners


def _initial_policy(env: BatchedEnv, name: str, spec: PolicySpec) -> ActorCritic:
    algorithm = spec.algorithm
    assert algorithm is not None
    if spec.weights is not None:
        policy = Checkpoint.load(spec.weights).policy_for(env, name, spec.groups)
        if not spec.frozen and bool(policy.interface.state_size) != algorithm.central_critic:
            has, setting = ("a", True) if policy.interface.state_size else ("no", False)
            raise ParameterError(
                f"The weights of policy {name!r} have {has} centralised critic; set central_critic={setting}."
            )
        policy.in_bfloat16 = algorithm.bfloat16
        return policy
    return ActorCritic(
        env.groups[spec.groups[0]],
        spec.network or algorithm.network(),
        normalize_observations=algorithm.normalize_observations,
        normalize_returns=algorithm.normalize_returns,
        state_size=global_state_size(env) if algorithm.central_critic else 0,
        bfloat16=algorithm.bfloat16,
    )


def policies_by_group(learners: Mapping[str, Learner]) -> dict[str, ActorCritic]:
    """The policy of each group."""
    return {group: learner.policy for learner in learners.values() for group in learner.groups}
