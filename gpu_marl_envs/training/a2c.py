"""Advantage actor-critic (Mnih et al., 2016, arXiv:1602.01783), in its synchronous form.

Every rollout gives one gradient step. One policy per agent group by default, all learning at the same time: to each of
them the others are part of the environment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from gpu_marl_envs.training.algorithm import Algorithm, adam, gradient_step, hyperparameter
from gpu_marl_envs.training.fused_loss import fused_loss
from gpu_marl_envs.training.learner import Learner
from gpu_marl_envs.training.policies import ActorCritic
from gpu_marl_envs.training.randomness import RandomStream
from gpu_marl_envs.training.samples import Samples, explained_variance, normalized, weighted_mean
from gpu_marl_envs.training.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class A2C(Algorithm):
    """Advantage actor-critic; the fields are its hyperparameters."""

    name: ClassVar[str] = "a2c"
    coefficients: ClassVar[tuple[str, ...]] = ("entropy_coefficient",)

    rollout_steps: int = hyperparameter(5, "steps of every copy between two updates (t_max)", low=1)
    learning_rate: Schedule | float | str = hyperparameter("0:7e-4,1:0", "step size of the optimizer; scheduled", low=0)
    gae_lambda: float = hyperparameter(
        1.0, "bias against variance of the advantages (λ); 1 gives the paper's n-step returns", low=0, high=1
    )
    normalize_advantages: bool = hyperparameter(False, "shift and scale the advantages of a rollout to unit size")
    optimizer_name: Literal["rmsprop", "adam"] = hyperparameter("rmsprop", "what takes the gradient steps")
    rmsprop_decay: float = hyperparameter(0.99, "weight of the past in RMSProp's average (α)", low=0, high=1)
    optimizer_epsilon: float = hyperparameter(1e-5, "term in the optimizer's denominator", low=0)

    def update(self, learner: Learner, samples: Samples, random: RandomStream) -> dict[str, Tensor]:
        """The body of algorithm S3's loop, from all copies at once."""
        if self.normalize_advantages:
            samples = normalized(samples)
        loss, terms = learner.loss(samples, *learner.coefficients.values())
        norm = gradient_step(learner, loss)
        return {key: term.detach() for key, term in terms.items()} | {
            "gradient_norm": norm,
            "explained_variance": explained_variance(samples),
        }

    def loss(self, policy: ActorCritic, samples: Samples, *coefficients: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The accumulated gradients dθ and dθ_v of the paper are those of this loss; its one coefficient is β."""
        (entropy_coefficient,) = coefficients
        log_prob, entropy, value = policy.evaluate(samples.observation, samples.action, samples.mask, samples.state)
        policy_loss = -weighted_mean(log_prob * samples.advantage, samples.weight)
        value_loss = 0.5 * weighted_mean((value - samples.target).square(), samples.weight)
        mean_entropy = weighted_mean(entropy, samples.weight)
        loss = policy_loss + self.value_coefficient * value_loss - entropy_coefficient * mean_entropy
        return loss, {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": mean_entropy}

    def fused_loss(
        self, policy: ActorCritic, samples: Samples, *coefficients: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The same as one GPU kernel."""
        (entropy_coefficient,) = coefficients
        return fused_loss(policy, samples, self.value_coefficient, entropy_coefficient)

    def optimizer(self, policy: ActorCritic, learning_rate: float | Tensor) -> torch.optim.Optimizer:
        """RMSProp with statistics shared by all copies, as in the paper; or Adam."""
        if self.optimizer_name == "adam":
            return adam(policy, learning_rate, self.optimizer_epsilon)
        return torch.optim.RMSprop(
            policy.parameters(),
            lr=learning_rate,
            alpha=self.rmsprop_decay,
            eps=self.optimizer_epsilon,
            foreach=True,
            capturable=isinstance(learning_rate, Tensor),
        )
