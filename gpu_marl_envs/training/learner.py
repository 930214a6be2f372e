"""A policy in training: its specification, and what its algorithm keeps of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpu_marl_envs.errors import ParameterError
from gpu_marl_envs.training.algorithm import Algorithm
from gpu_marl_envs.training.fused_loss import can_fuse_loss
from gpu_marl_envs.training.networks import NetworkFactory
from gpu_marl_envs.training.policies import ActorCritic
from gpu_marl_envs.training.randomness import RandomStream
from gpu_marl_envs.training.rollout import Rollout
from gpu_marl_envs.training.samples import gather_samples


@dataclass(frozen=True, kw_only=True)
class PolicySpec:
    """How one policy is made, and trained.

    Attributes:
        groups: names of the groups that it plays, which must observe and act alike; by default the group of its name.
        algorithm: what trains it, with its own settings; by default the run's.
        network: makes its network, a module class or function of yours; by default the algorithm's settings do.
        frozen: whether it plays without learning.
        weights: a checkpoint from which it starts: the policy of its name there, or the one that plays its groups.
            Network and normalisation then come from there too.
    """

    groups: Sequence[str] = ()
    algorithm: Algorithm | None = None
    network: NetworkFactory | None = None
    frozen: bool = False
    weights: str | Path | None = None


class Learner:
    """A policy in training.

    Args:
        name: of the policy.
        spec: what :func:`policy_mapping.resolve_policies` made of its specification.
        policy: on the environment's device.
        device: the environment's.

    Raises:
        ParameterError: the policy has nothing to train.

    Attributes:
        algorithm: what trains it.
        groups: that it plays.
        optimizer: of its weights, if it is not frozen.
        coefficients: what the algorithm schedules beside the learning rate, by name, on the device.
        loss: of samples and scheduled coefficients; see :meth:`Algorithm.loss`.
    """

    optimizer: torch.optim.Optimizer
    loss: Callable[..., tuple[Tensor, dict[str, Tensor]]]

    def __init__(self, name: str, spec: PolicySpec, policy: ActorCritic, device: torch.device) -> None:
        assert spec.algorithm is not None
        self.name, self.spec, self.policy = name, spec, policy
        self.algorithm, self.groups, self.frozen = spec.algorithm, tuple(spec.groups), spec.frozen
        self.coefficients = {name: torch.zeros((), device=device) for name in self.algorithm.coefficients}
        if not self.frozen:
            if next(policy.parameters(), None) is None:
                raise ParameterError(f"The network of policy {name!r} has no weights to train; make the policy frozen.")
            rate = self.algorithm.at("learning_rate", 0.0)
            # What a CUDA graph is to see change lies on the device.
            self.optimizer = self.algorithm.optimizer(
                policy, torch.tensor(rate, device=device) if device.type == "cuda" else rate
            )
            fused = self.algorithm.fused_losses and self.algorithm.has_fused_loss() and can_fuse_loss(policy)
            self.loss = partial(self.algorithm.fused_loss if fused else self.algorithm.loss, policy)
            if self.algorithm.compile_loss:
                self.loss = torch.compile(self.loss)

    def schedule(self, fraction: float) -> None:
        """Sets the learning rate and the coefficients to what they are when ``fraction`` of the run is done."""
        for name, coefficient in self.coefficients.items():
            coefficient.fill_(self.algorithm.at(name, fraction))
        rate = self.algorithm.at("learning_rate", fraction)
        for parameters in self.optimizer.param_groups:
            if isinstance(parameters["lr"], Tensor):
                parameters["lr"].fill_(rate)
            else:
                parameters["lr"] = rate

    def learn(self, rollout: Rollout, random: RandomStream) -> dict[str, Tensor]:
        """Improves the policy by what its agents did; returns scalars to report.

        On a CPU there are none if no agent was in the game; a GPU cannot ask without a wait, and learns from no step.
        A CUDA graph can hold it, unless the algorithm waits for the device.
        """
        algorithm = self.algorithm
        samples = gather_samples(rollout, self.groups, self.policy, algorithm.discount, algorithm.gae_lambda)
        if not len(samples.weight):
            return {}
        terms = algorithm.update(self, samples, random)
        # Only now, so that the update saw the inputs as the policy that acted did.
        self.policy.observe_inputs(samples.observation, samples.state, samples.weight)
        random.advance()
        return terms

    def restore_optimizer(self, saved: dict[str, Any]) -> None:
        """Takes over the state of an optimizer, but not its options, which are this device's."""
        groups = [
            {**theirs, **own, "params": theirs["params"]}
            for theirs, own in zip(saved["param_groups"], self.optimizer.param_groups, strict=True)
        ]
        # Where the state belongs is decided by the options that come with it.
        self.optimizer.load_state_dict({**saved, "param_groups": groups})
