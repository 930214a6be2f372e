"""The steps that a policy learns from, of all its agents, in one dimension."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gpu_marl_envs.training.policies import ActorCritic
from gpu_marl_envs.training.rollout import Rollout

VARIANCE_EPSILON = 1e-8  # keeps equal advantages, or equal returns, from dividing by zero


class Samples(NamedTuple):
    """Steps of the agents of one policy; N = T · E · agents."""

    observation: Tensor  # [N, size]
    action: Tensor  # [N, *action_shape]
    log_prob: Tensor  # [N], under the policy that acted
    advantage: Tensor  # [N]
    value: Tensor  # [N], the estimate before the update, in the network's own units
    target: Tensor  # [N], the λ-return that the value is fitted to, in the network's own units
    weight: Tensor  # [N], 0 where the agent had left the game, so that no mean, loss or gradient sees the step; else 1
    mask: Tensor | None  # bool [N, num_parameters], the allowed choices
    state: Tensor | None  # [N, state_size], what a centralised critic sees besides

    def each(self, change: Callable[[Tensor], Tensor]) -> Samples:
        """The samples with every tensor changed alike."""
        return Samples._make(None if field is None else change(field) for field in self)

    def at(self, index: Tensor) -> Samples:
        """The samples at these places."""
        return self.each(lambda field: field.index_select(0, index))


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean of ``values`` ``[N]`` where ``weight`` is 1 and not 0; 0 if it is so nowhere."""
    return torch.where(weight > 0, values, 0.0).sum() / weight.sum().clamp(min=1)


def gather_samples(
    rollout: Rollout, groups: Sequence[str], policy: ActorCritic, discount: float, gae_lambda: float
) -> Samples:
    """The steps of all agents that a policy plays, with their advantages.

    Nothing here waits for a GPU; see :func:`keeps_dead_samples`.

    Args:
        rollout: the last one.
        groups: which of its groups the policy plays.
        policy: for the values; its statistics of returns are updated.
        discount: γ.
        gae_lambda: λ.
    """
    parts = [_of_group(rollout, name, policy, discount, gae_lambda) for name in groups]
    columns = zip(*parts, strict=True)
    samples = Samples._make(None if column[0] is None else torch.cat(column) for column in columns)
    policy.observe_returns(samples.target, samples.weight)
    return samples._replace(value=policy.in_own_units(samples.value), target=policy.in_own_units(samples.target))


def _of_group(rollout: Rollout, name: str, policy: ActorCritic, discount: float, gae_lambda: float) -> Samples:
    group = rollout.groups[name]
    advantage, value = rollout.advantages(name, discount, gae_lambda)
    samples = Samples(
        observation=group.observation[:-1],
        action=group.action,
        log_prob=group.log_prob,
        advantage=advantage,
        value=value,
        target=advantage + value,
        weight=group.live.to(value.dtype),
        mask=None if group.mask is None else group.mask[:-1],
        state=rollout.state_of_agents(name)[:-1] if policy.interface.state_size else None,
    ).each(lambda field: field.flatten(0, 2))
    if keeps_dead_samples(rollout.env.device):
        return samples
    return samples.at(samples.weight.nonzero().squeeze(-1))


def keeps_dead_samples(device: torch.device) -> bool:
    """Whether steps of agents that had left are weighed with 0 there, rather than dropped, which takes a wait."""
    return device.type != "cpu"


def normalized(samples: Samples) -> Samples:
    """The samples with advantages of mean 0 and variance 1."""
    centred = samples.advantage - weighted_mean(samples.advantage, samples.weight)
    variance = weighted_mean(centred.square(), samples.weight)
    return samples._replace(advantage=centred * (variance + VARIANCE_EPSILON).rsqrt())


def explained_variance(samples: Samples) -> Tensor:
    """The share of the targets' variance that the values before the update explained: 1 at best, 0 for a constant."""

    def variance(values: Tensor) -> Tensor:
        return weighted_mean((values - weighted_mean(values, samples.weight)).square(), samples.weight)

    return 1 - variance(samples.target - samples.value) / variance(samples.target).clamp(min=VARIANCE_EPSILON)
