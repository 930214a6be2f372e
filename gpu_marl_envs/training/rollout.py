"""Storage for the steps that policies learn from, filled by the environment itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.errors import ParameterError
from gpu_marl_envs.training.gae import generalized_advantages
from gpu_marl_envs.training.outcomes import keep_outcomes
from gpu_marl_envs.training.policies import ActorCritic
from gpu_marl_envs.training.randomness import RandomStream

MOST_ROWS = 2**18  # of observations whose values are computed at once


class GroupRollout:
    """The steps of one agent group; T steps of E copies with n agents each.

    Attributes:
        observation: ``[T + 1, E, n, size]``, of the environment's dtype; the last one follows the last step.
        action: ``[T, E, n, *action_shape]``, as the policy sampled them.
        log_prob: float32 ``[T, E, n]``, of these actions under the policy that sampled them.
        reward: float32 ``[T, E, n]``.
        terminated: bool ``[T, E, n]``, whether the agent has left the episode by the end of the step.
        live: bool ``[T, E, n]``, whether the agent was in the game before the step; only these steps are learnt from.
        mask: bool ``[T + 1, E, n, num_parameters]``, the allowed choices; none where the environment masks nothing.
        final_observation: ``[S, E, n, size]``; row s is the observation that followed the s-th step of this rollout in
            which the copy was truncated, where it was, and arbitrary otherwise.
        episode_sums: float32 ``[2, E]``, return and length of the episodes that ended in this rollout, added up.

    Args:
        first: the observation to begin with, which becomes the last one of the storage.
        policy: that plays the group.
        steps: T.
        slots: S.
        mask: whether the environment masks actions of this group.
    """

    def __init__(self, first: Tensor, policy: ActorCritic, steps: int, slots: int, mask: bool) -> None:
        agents, distribution, device = first.shape[:2], policy.distribution, first.device
        # The environment writes its own shape; policies see one flat dimension of the same memory.
        self.shaped_observation = first.new_zeros(steps + 1, *first.shape)
        self.shaped_observation[steps].copy_(first)
        self.shaped_final_observation = first.new_zeros(slots, *first.shape)
        self.observation = self.shaped_observation.flatten(3)
        self.final_observation = self.shaped_final_observation.flatten(3)
        self.action = torch.zeros(
            steps, *agents, *distribution.action_shape, dtype=distribution.action_dtype, device=device
        )
        self.log_prob = torch.zeros(steps, *agents, device=device)
        self.reward = torch.zeros(steps, *agents, device=device)
        self.terminated = torch.zeros(steps, *agents, dtype=torch.bool, device=device)
        self.live = torch.zeros(steps, *agents, dtype=torch.bool, device=device)
        self.episode_sums = torch.zeros(2, len(first), device=device)
        self.mask: Tensor | None = None
        if mask:
            self.mask = torch.ones(steps + 1, *agents, distribution.num_parameters, dtype=torch.bool, device=device)


class Rollout:
    """T consecutive steps of every copy of an environment, for every group.

    Observations, rewards and flags are written here by the environment, so nothing is copied but what is seen at
    truncations. :meth:`collect` never waits for the device and has no shape that depends on data, so a CUDA graph can
    hold it.

    Args:
        env: an environment whose finished copies are reset in the same step: by itself (``"SAME_STEP"``), or, since a
            centralised critic needs the state at the end of an episode, by the rollout (``"DISABLED"``).
        policies: the policy of each group.
        steps: T.

    Attributes:
        groups: storage by group name.
        truncated: bool ``[T, E]``, whether the copy's episode was cut off at this step.
        done: bool ``[T, E]``, whether the copy's episode ended at this step.
        state: float32 ``[T + 1, E, state_size]``, what :func:`global_state` gave; none without a centralised critic.
        final_state: float32 ``[S, E, state_size]``, as ``GroupRollout.final_observation``.

    """

    def __init__(self, env: BatchedEnv, policies: Mapping[str, ActorCritic], steps: int) -> None:
        self.env, self.policies, self.steps = env, policies, steps
        central = any(policy.interface.state_size for policy in policies.values())
        device, copies = env.device, env.num_envs
        slots = -(-steps // env.declaration.max_steps)  # truncations of a copy lie max_steps apart
        first = env.reset()
        masks = env.action_masks
        self.groups = {
            name: GroupRollout(observation, policies[name], steps, slots, name in masks)
            for name, observation in first.items()
        }
        self.truncated = torch.zeros(steps, copies, dtype=torch.bool, device=device)
        self.done = torch.zeros(steps, copies, dtype=torch.bool, device=device)
        self.state: Tensor | None = None
        self.final_state: Tensor | None = None
        self._out = [self._destination(t) for t in range(steps)]
        if central:
            size = global_state(env).shape[1]
            self.state = torch.zeros(steps + 1, copies, size, device=device)
            self.final_state = torch.zeros(slots, copies, size, device=device)
        self._observe_besides(steps)

    def _destination(self, t: int) -> dict[str, Any]:
        return {
            "observation": {name: group.shaped_observation[t + 1] for name, group in self.groups.items()},
            "reward": {name: group.reward[t] for name, group in self.groups.items()},
            "terminated": {name: group.terminated[t] for name, group in self.groups.items()},
            "truncated": self.truncated[t],
            "done": self.done[t],
        }

    @torch.no_grad()
    def collect(self, random: RandomStream) -> None:
        """Takes T steps with the present policies, starting where the last call stopped."""
        self._start_over()
        for t in range(self.steps):
            actions = {}
            for name, group in self.groups.items():
                policy, mask = self.policies[name], None if group.mask is None else group.mask[t]
                policy.sample(group.observation[t], random, mask, out=(group.action[t], group.log_prob[t]))
                actions[name] = policy.distribution.to_environment(group.action[t])
            *_, info = self.env.step(actions, out=self._out[t])
            self._keep_outcomes(t, info)
            if self.env.autoreset_mode is AutoresetMode.DISABLED:
                self._reset_finished(t)
            self._observe_besides(t + 1)
        for group in self.groups.values():
            # Who has not left stays, and all come back with the next episode.
            torch.logical_or(~group.terminated[:-1], self.done[:-1, :, None], out=group.live[1:])
        random.advance()

    def _start_over(self) -> None:
        """The last observation of the last rollout is the first one of this."""
        for name, group in self.groups.items():
            group.observation[0].copy_(group.observation[self.steps])
            if group.mask is not None:
                group.mask[0].copy_(group.mask[self.steps])
            group.live[0].copy_(self.env.alive[:, self.env.agent_slices[name]])
            group.episode_sums.zero_()
        if self.state is not None:
            self.state[0].copy_(self.state[self.steps])

    def _keep_outcomes(self, t: int, info: Mapping[str, Any]) -> None:
        """Adds up what finished episodes came to, and keeps what was seen at truncations."""
        statistics, rows = [], []
        for name, group in self.groups.items():
            for i, statistic in enumerate(("episode_return", "episode_length")):
                statistics.append((info[statistic][name], group.episode_sums[i]))
            seen = info["final_obs"][name] if "final_obs" in info else group.shaped_observation[t + 1]
            rows.append((seen, group.shaped_final_observation))
        if self.final_state is not None:
            rows.append((global_state(self.env), self.final_state))
        keep_outcomes(t, self.done[t], self.truncated, statistics, rows)

    def _reset_finished(self, t: int) -> None:
        done = self.done[t]
        for name, observation in self.env.reset(mask=done).items():
            kept = self.groups[name].shaped_observation[t + 1]
            kept.copy_(torch.where(done.view(-1, *[1] * (kept.dim() - 1)), observation, kept))

    def _observe_besides(self, t: int) -> None:
        """What belongs to observation t and is not written here by the environment."""
        for name, mask in self.env.action_masks.items():
            group = self.groups[name]
            assert group.mask is not None
            group.mask[t].copy_(mask.flatten(2))
        if self.state is not None:
            self.state[t].copy_(global_state(self.env))

    # ---- what was collected ----

    def episode_means(self) -> dict[str, Tensor]:
        """Mean return and length of the episodes that ended in this rollout, per group; NaN if none ended."""
        episodes = self.done.sum()
        means = {}
        for name, group in self.groups.items():
            sums = group.episode_sums.sum(1)
            means[f"{name}/episode_return"], means[f"{name}/episode_length"] = (sums / episodes).unbind()
        return means

    @torch.no_grad()
    def advantages(self, name: str, discount: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
        """Advantages and value estimates ``[T, E, n]`` of one group's steps; meaningful where ``live``."""
        group = self.groups[name]
        value = self._values(name, group.observation, self.state)
        final_value = self._values(name, group.final_observation, self.final_state)
        advantage = generalized_advantages(
            group.reward, value, final_value, group.terminated, self.truncated, self.done, discount, gae_lambda
        )
        return advantage, value[:-1]

    def _values(self, name: str, observations: Tensor, states: Tensor | None) -> Tensor:
        """Values ``[steps, E, n]``, of some steps at a time: the layers of all at once would take much memory."""
        policy = self.policies[name]
        at_once = max(1, MOST_ROWS // observations[0, ..., 0].numel())
        if states is None or not policy.interface.state_size:
            return torch.cat([policy.value(part) for part in observations.split(at_once)])
        of_agents = self._of_agents(name, states).split(at_once)
        return torch.cat([policy.value(o, s) for o, s in zip(observations.split(at_once), of_agents, strict=True)])

    def state_of_agents(self, name: str) -> Tensor:
        """The states as each agent of a group sees them, ``[T + 1, E, n, state_size]``, a view."""
        assert self.state is not None
        return self._of_agents(name, self.state)

    def _of_agents(self, name: str, states: Tensor) -> Tensor:
        return states.unsqueeze(2).expand(-1, -1, self.env.groups[name].size, -1)

    @property
    def nbytes(self) -> int:
        """Memory that the storage takes."""
        attributes = [value for owner in (*self.groups.values(), self) for value in vars(owner).values()]
        return sum({t.data_ptr(): t.nbytes for t in attributes if isinstance(t, Tensor)}.values())

    # ---- for checkpoints ----

    def save(self) -> dict[str, Any]:
        """A copy of what the next :meth:`collect` starts from, beside the environment's state."""
        last = self.steps
        return {
            "observation": {name: group.observation[last].clone() for name, group in self.groups.items()},
            "mask": {name: group.mask[last].clone() for name, group in self.groups.items() if group.mask is not None},
            "state": None if self.state is None else self.state[last].clone(),
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Goes back to what :meth:`save` returned."""
        for name, group in self.groups.items():
            group.observation[self.steps].copy_(saved["observation"][name])
            if group.mask is not None:
                group.mask[self.steps].copy_(saved["mask"][name])
        if self.state is not None:
            self.state[self.steps].copy_(saved["state"])


def autoreset_mode_for(central_critic: bool) -> AutoresetMode:
    """The autoreset mode that training needs."""
    return AutoresetMode.DISABLED if central_critic else AutoresetMode.SAME_STEP


def check_autoreset_mode(env: BatchedEnv, central_critic: bool) -> None:
    """Raises ParameterError if the environment has another autoreset mode than training needs."""
    needed = autoreset_mode_for(central_critic)
    if env.autoreset_mode is not needed:
        why = "with a centralised critic " if central_critic else ""
        raise ParameterError(f"Training {why}needs an environment made with autoreset_mode='{needed.name}'.")


def global_state(env: BatchedEnv) -> Tensor:
    """All that a centralised critic may see of each copy: the state fields, the step count and who is in the game.

    It is what PettingZoo's ``state()`` returns, for a whole batch: float32 ``[E, state_size]``.
    """
    fields = {name: field for name, field in env.state.fields().items() if name not in ("episode", "key", "step")}
    columns = [*fields.values(), env.state.step, env.alive]
    return torch.cat([column.reshape(env.num_envs, -1).to(torch.float32) for column in columns], 1)


def global_state_size(env: BatchedEnv) -> int:
    """Length of the last dimension of :func:`global_state`."""
    return global_state(env).shape[1]
