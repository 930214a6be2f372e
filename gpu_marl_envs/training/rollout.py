"""Storage for the steps that a policy learns from, filled by the environment itself, and generalised advantages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.spec import Group
from gpu_marl_envs.training.policies import ActorCritic


class GroupRollout:
    """The steps of one agent group; T steps of E copies with n agents each.

    Attributes:
        observation: the environment's ``obs_dtype`` ``[T + 1, E, n, size]``; the last one follows the last step.
        action: ``[T, E, n, *action_shape]``, as the policy sampled them.
        log_prob: float32 ``[T, E, n]``, of these actions under the policy that sampled them.
        reward: float32 ``[T, E, n]``.
        terminated: bool ``[T, E, n]``, whether the agent has left the episode by the end of the step.
        live: bool ``[T, E, n]``, whether the agent was in the game before the step; only these steps are learnt from.
        final_observation: of the same dtype ``[S, E, n, size]``; row s is the observation that followed the s-th step
            of this rollout in which the copy was truncated, where it was, and arbitrary otherwise.
    """

    def __init__(self, group: Group, policy: ActorCritic, steps: int, copies: int, slots: int, env: BatchedEnv):
        agents, distribution, device = (copies, group.size), policy.distribution, env.device
        shape = group.observation_space.shape
        # The environment writes its own shape; policies see one flat dimension of the same memory.
        self.shaped_observation = torch.zeros(steps + 1, *agents, *shape, dtype=env.obs_dtype, device=device)
        self.shaped_final_observation = torch.zeros(slots, *agents, *shape, dtype=env.obs_dtype, device=device)
        self.observation = self.shaped_observation.flatten(3)
        self.final_observation = self.shaped_final_observation.flatten(3)
        self.action = torch.zeros(
            steps, *agents, *distribution.action_shape, dtype=distribution.action_dtype, device=device
        )
        self.log_prob = torch.zeros(steps, *agents, device=device)
        self.reward = torch.zeros(steps, *agents, device=device)
        self.terminated = torch.zeros(steps, *agents, dtype=torch.bool, device=device)
        self.live = torch.zeros(steps, *agents, dtype=torch.bool, device=device)


class Rollout:
    """T consecutive steps of every copy of an environment, for every group.

    Observations, rewards and flags are written here by the environment, so nothing is copied but who is alive.
    Nothing waits for the device.

    Args:
        env: an environment that resets finished copies in the same step (``autoreset_mode="SAME_STEP"``).
        policies: the policy of each group.
        steps: T.

    Attributes:
        groups: storage by group name.
        truncated: bool ``[T, E]``, whether the copy's episode was cut off at this step.
        done: bool ``[T, E]``, whether the copy's episode ended at this step.
    """

    def __init__(self, env: BatchedEnv, policies: Mapping[str, ActorCritic], steps: int) -> None:
        self.env, self.policies, self.steps = env, policies, steps
        device, copies = env.device, env.num_envs
        # Truncations of a copy lie max_steps apart, so this many final observations fit, and one that is being written.
        slots = -(-steps // env.declaration.max_steps) + 1
        self.groups = {
            name: GroupRollout(group, policies[name], steps, copies, slots, env) for name, group in env.groups.items()
        }
        self.truncated = torch.zeros(steps, copies, dtype=torch.bool, device=device)
        self.done = torch.zeros(steps, copies, dtype=torch.bool, device=device)
        self._slot = torch.zeros(copies, dtype=torch.long, device=device)
        self._copies = torch.arange(copies, device=device)
        self._episode_sums = {name: torch.zeros(2, device=device) for name in self.groups}
        self._out = [self._destination(t) for t in range(steps)]
        for name, observation in env.reset().items():
            self.groups[name].shaped_observation[steps].copy_(observation)

    def _destination(self, t: int) -> dict[str, Any]:
        return {
            "observation": {name: group.shaped_observation[t + 1] for name, group in self.groups.items()},
            "reward": {name: group.reward[t] for name, group in self.groups.items()},
            "terminated": {name: group.terminated[t] for name, group in self.groups.items()},
            "truncated": self.truncated[t],
            "done": self.done[t],
        }

    @torch.no_grad()
    def collect(self, generator: torch.Generator) -> None:
        """Takes T steps with the present policies, starting where the last call stopped."""
        for name, group in self.groups.items():
            group.observation[0].copy_(group.observation[self.steps])
            self._episode_sums[name].zero_()
        self._slot.zero_()
        for t in range(self.steps):
            actions = {}
            for name, group in self.groups.items():
                policy = self.policies[name]
                group.live[t].copy_(self.env.alive[:, self.env.agent_slices[name]])
                group.action[t], group.log_prob[t] = policy.sample(group.observation[t], generator)
                actions[name] = policy.distribution.to_environment(group.action[t])
            *_, info = self.env.step(actions, out=self._out[t])
            done = self.done[t]
            for name, group in self.groups.items():
                group.shaped_final_observation[self._slot, self._copies] = info["final_obs"][name]
                for i, statistic in enumerate(("episode_return", "episode_length")):
                    self._episode_sums[name][i] += torch.where(done, info[statistic][name], 0.0).sum()
            self._slot += self.truncated[t]

    def episode_means(self) -> dict[str, Tensor]:
        """Mean return and length of the episodes that ended in this rollout, per group; NaN if none ended."""
        episodes = self.done.sum()
        means = {}
        for name, sums in self._episode_sums.items():
            means[f"{name}/episode_return"], means[f"{name}/episode_length"] = (sums / episodes).unbind()
        return means

    @torch.no_grad()
    def advantages(self, name: str, discount: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
        """Advantages and value estimates ``[T, E, n]`` of one group's steps; meaningful where ``live``."""
        group, policy = self.groups[name], self.policies[name]
        value = torch.stack([policy.value(observation) for observation in group.observation])
        final_value = torch.stack([policy.value(observation) for observation in group.final_observation])
        next_value = value_after_step(value, final_value, self.truncated)
        ended = group.terminated | self.done[..., None]
        advantage = generalized_advantages(
            group.reward, value[:-1], next_value, group.terminated, ended, discount, gae_lambda
        )
        return advantage, value[:-1]


def value_after_step(value: Tensor, final_value: Tensor, truncated: Tensor) -> Tensor:
    """The value of the observation that truly followed each step, although finished copies were reset at once.

    Args:
        value: ``[T + 1, E, n]``, of the observations that the policy acted on, and of the last.
        final_value: ``[S, E, n]``, of the observations at a copy's first, second, … truncation.
        truncated: bool ``[T, E]``.

    Returns:
        ``[T, E, n]``.
    """
    slot = (truncated.cumsum(0) - 1).clamp(min=0)[..., None].expand(value[1:].shape)
    return torch.where(truncated[..., None], final_value.gather(0, slot), value[1:])


def generalized_advantages(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    ended: Tensor,
    discount: float,
    gae_lambda: float,
) -> Tensor:
    """Generalised advantage estimates (Schulman et al., 2016, arXiv:1506.02438, equations 11 to 16).

    After termination nothing is earned, so nothing is bootstrapped; after truncation the value of the final observation
    stands for what would have followed. Either way the sum over later steps stops.

    Args:
        reward: ``[T, E, n]``.
        value: ``[T, E, n]``, V(s_t).
        next_value: ``[T, E, n]``, V of the observation that truly followed.
        terminated: bool ``[T, E, n]``.
        ended: bool ``[T, E, n]``, terminated or truncated.
        discount: γ.
        gae_lambda: λ.

    Returns:
        ``[T, E, n]``.
    """
    advantage = reward + discount * next_value.masked_fill(terminated, 0.0) - value
    decay = discount * gae_lambda * (~ended).to(advantage.dtype)
    for t in range(len(advantage) - 2, -1, -1):
        advantage[t] += decay[t] * advantage[t + 1]
    return advantage
