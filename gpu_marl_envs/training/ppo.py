"""Proximal policy optimization with the clipped objective (Schulman et al., 2017, arXiv:1707.06347).

One policy per agent group by default, each with its own networks and optimizer, all learning at the same time: to each
of them the others are part of the environment (independent PPO, de Witt et al., 2020, arXiv:2011.09533). With a critic
that sees the state it is MAPPO (Yu et al., 2022, arXiv:2103.01955).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gpu_marl_envs.training.algorithm import Algorithm, adam, gradient_step, hyperparameter
from gpu_marl_envs.training.fused_loss import fused_loss
from gpu_marl_envs.training.learner import Learner
from gpu_marl_envs.training.policies import ActorCritic
from gpu_marl_envs.training.randomness import RandomStream, permutation
from gpu_marl_envs.training.samples import Samples, explained_variance, normalized, weighted_mean
from gpu_marl_envs.training.schedule import Schedule

KL_SLACK = 1.5  # an update stops once it is this many times as far from the old policy as it should be


@dataclass(frozen=True, kw_only=True)
class PPO(Algorithm):
    """Proximal policy optimization; the fields are its hyperparameters."""

    name: ClassVar[str] = "ppo"
    coefficients: ClassVar[tuple[str, ...]] = ("clip_range", "entropy_coefficient")

    epochs: int = hyperparameter(4, "passes over each rollout (K)", low=1)
    minibatches: int = hyperparameter(4, "parts that each pass is split into, one gradient step each", low=1)
    clip_range: Schedule | float | str = hyperparameter(
        0.2, "how far the probability ratio may leave 1 (ε); scheduled", low=0
    )
    clip_values: bool = hyperparameter(False, "limit the change of a value by the clip range as well")
    target_kl: float = hyperparameter(
        0.0, "end an update after the epoch that moved the policy 1.5 times this far in KL divergence; 0 never", low=0
    )
    adam_epsilon: float = hyperparameter(1e-5, "term in Adam's denominator", low=0)

    @property
    def waits_for_device(self) -> bool:
        return self.target_kl > 0

    def update(self, learner: Learner, samples: Samples, random: RandomStream) -> dict[str, Tensor]:
        """Algorithm 1 of the paper: K epochs of minibatch steps on L^CLIP+VF+S; returns means of what was seen."""
        if self.normalize_advantages:
            samples = normalized(samples)
        seen: list[dict[str, Tensor]] = []
        for _ in range(self.epochs):
            before = len(seen)
            for minibatch in self.shuffled_minibatches(samples, random):
                loss, terms = learner.loss(minibatch, *learner.coefficients.values())
                norm = gradient_step(learner, loss)
                seen.append({key: term.detach() for key, term in terms.items()} | {"gradient_norm": norm})
            # The only place where an update waits for the device, and only where it is asked for.
            if self.target_kl and _mean_of(seen[before:], "approximate_kl") > KL_SLACK * self.target_kl:
                break
        return {key: _mean_of(seen, key) for key in seen[0]} | {"explained_variance": explained_variance(samples)}

    def shuffled_minibatches(self, samples: Samples, random: RandomStream) -> Iterator[Samples]:
        """Every sample once, in ``minibatches`` parts of nearly equal size."""
        for chosen in permutation(len(samples.target), random).chunk(self.minibatches):
            yield samples.at(chosen)

    def loss(self, policy: ActorCritic, samples: Samples, *coefficients: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Equation 9 of the paper, negated, and its terms; the coefficients are ε and c₂."""
        clip_range, entropy_coefficient = coefficients
        log_prob, entropy, value = policy.evaluate(samples.observation, samples.action, samples.mask, samples.state)
        log_ratio = log_prob - samples.log_prob
        objective = clipped_objective(log_ratio, samples.advantage, clip_range)
        policy_loss = -weighted_mean(objective, samples.weight)
        value_error = (value - samples.target).square()
        if self.clip_values:
            value_error = torch.maximum(value_error, clipped_value_error(value, samples, clip_range))
        value_loss = 0.5 * weighted_mean(value_error, samples.weight)
        mean_entropy = weighted_mean(entropy, samples.weight)
        loss = policy_loss + self.value_coefficient * value_loss - entropy_coefficient * mean_entropy
        with torch.no_grad():
            ratio = log_ratio.exp()
            terms = {
                "policy_loss": policy_loss,
                "value_loss": value_loss,
                "entropy": mean_entropy,
                # A low-variance, never negative estimate of KL(old, new): http://joschu.net/blog/kl-approx.html
                "approximate_kl": weighted_mean(ratio - 1 - log_ratio, samples.weight),
                "clipped_fraction": weighted_mean(((ratio - 1).abs() > clip_range).float(), samples.weight),
            }
        return loss, terms

    def fused_loss(
        self, policy: ActorCritic, samples: Samples, *coefficients: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The same as one GPU kernel."""
        clip_range, entropy_coefficient = coefficients
        return fused_loss(
            policy, samples, self.value_coefficient, entropy_coefficient, clip_range, clip_values=self.clip_values
        )

    def optimizer(self, policy: ActorCritic, learning_rate: float | Tensor) -> torch.optim.Optimizer:
        """Adam, as in the paper."""
        return adam(policy, learning_rate, self.adam_epsilon)


def clipped_objective(log_ratio: Tensor, advantage: Tensor, clip_range: Tensor) -> Tensor:
    """min(r A, clip(r, 1 - ε, 1 + ε) A), equation 7 of the paper, for r = exp(``log_ratio``)."""
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip_range, 1 + clip_range) * advantage)


def clipped_value_error(value: Tensor, samples: Samples, clip_range: Tensor) -> Tensor:
    """The squared error of a value that may leave the old one by the clip range only, as in the authors' code."""
    clipped = samples.value + (value - samples.value).clamp(-clip_range, clip_range)
    return (clipped - samples.target).square()


def _mean_of(seen: list[dict[str, Tensor]], key: str) -> Tensor:
    return torch.stack([terms[key] for terms in seen]).mean()
