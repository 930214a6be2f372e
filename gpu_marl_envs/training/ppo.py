"""Proximal Policy Optimization with the clipped objective (Schulman et al., 2017, arXiv:1707.06347).

One policy per agent group, each with its own networks and optimizer, all learning at the same time: to each of them
the others are part of the environment (independent PPO, de Witt et al., 2020, arXiv:2011.09533). The agents of a group
share their policy and learn from one batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.training.algorithm import Algorithm, hyperparameter
from gpu_marl_envs.training.policies import ActorCritic
from gpu_marl_envs.training.rollout import Rollout
from gpu_marl_envs.training.session import Session

VARIANCE_EPSILON = 1e-8  # keeps equal advantages, or equal returns, from dividing by zero


class Samples(NamedTuple):
    """Live steps of one group, in one dimension ``[N, …]``."""

    observation: Tensor  # [N, size]
    action: Tensor  # [N, *action_shape]
    log_prob: Tensor  # [N], under the policy that acted
    advantage: Tensor  # [N]
    value: Tensor  # [N], the estimate before the update
    target: Tensor  # [N], the λ-return that the value is fitted to


@dataclass(frozen=True, kw_only=True)
class PPO(Algorithm):
    """Proximal Policy Optimization; the fields are its hyperparameters."""

    name: ClassVar[str] = "ppo"

    rollout_steps: int = hyperparameter(32, "steps of every copy between two updates (T)", low=1)
    epochs: int = hyperparameter(4, "passes over each rollout (K)", low=1)
    minibatches: int = hyperparameter(4, "parts that each pass is split into, one gradient step each", low=1)
    learning_rate: float = hyperparameter(3e-4, "step size of Adam", low=0)
    anneal_learning_rate: bool = hyperparameter(True, "let the learning rate fall linearly to 0 over the run")
    adam_epsilon: float = hyperparameter(1e-5, "term in Adam's denominator", low=0)
    discount: float = hyperparameter(0.99, "weight of a reward one step later (γ)", low=0, high=1)
    gae_lambda: float = hyperparameter(
        0.95, "bias against variance of the advantages (λ); 1 is unbiased", low=0, high=1
    )
    clip_range: float = hyperparameter(0.2, "how far the probability ratio may leave 1 (ε)", low=0)
    value_coefficient: float = hyperparameter(0.5, "weight of the value loss (c₁)", low=0)
    entropy_coefficient: float = hyperparameter(0.01, "weight of the entropy bonus (c₂)", low=0)
    max_gradient_norm: float = hyperparameter(0.5, "longest gradient; longer ones are scaled down", low=0)
    hidden_size: int = hyperparameter(64, "units of each hidden layer of actor and critic", low=1)
    hidden_layers: int = hyperparameter(2, "hidden layers of actor and critic", low=0)
    activation: Literal["tanh", "relu"] = hyperparameter("tanh", "nonlinearity after each hidden layer")

    def learn(self, env: BatchedEnv, session: Session) -> None:
        """Algorithm 1 of the paper; see :meth:`Algorithm.learn`."""
        weights = torch.Generator().manual_seed(session.seed)
        network = {key: getattr(self, key) for key in ("hidden_size", "hidden_layers", "activation")}
        policies, optimizers = {}, {}
        for name, group in env.groups.items():
            policy = ActorCritic(group, **network, generator=weights).to(env.device)
            policies[name] = policy
            optimizers[name] = torch.optim.Adam(
                policy.parameters(), lr=self.learning_rate, eps=self.adam_epsilon, fused=True
            )
        session.track(policies, optimizers)
        rollout = Rollout(env, policies, self.rollout_steps)

        while session.running:
            rollout.collect(session.generator)
            losses = {}
            for name, policy in policies.items():
                if self.anneal_learning_rate:
                    optimizers[name].param_groups[0]["lr"] = self.learning_rate * (1 - session.fraction)
                samples = self.live_samples(rollout, name)
                if len(samples.target):
                    losses[name] = self.update(policy, optimizers[name], samples, session.generator)
            session.finish_iteration(self.rollout_steps, losses, rollout.episode_means())

    def live_samples(self, rollout: Rollout, name: str) -> Samples:
        """The steps of one group's agents that were in the game, with their advantages normalised."""
        group = rollout.groups[name]
        advantage, value = rollout.advantages(name, self.discount, self.gae_lambda)
        target = advantage + value
        # Steps of agents that had left are dropped here, so that no mean, loss or gradient below can see them.
        live = group.live.flatten().nonzero().squeeze(-1)
        fields = (group.observation[:-1], group.action, group.log_prob, advantage, value, target)
        samples = Samples(*(field.flatten(0, 2).index_select(0, live) for field in fields))
        centred = samples.advantage - samples.advantage.mean()
        variance = centred.square().mean()
        return samples._replace(advantage=centred * (variance + VARIANCE_EPSILON).rsqrt())

    def update(
        self, policy: ActorCritic, optimizer: torch.optim.Optimizer, samples: Samples, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """K epochs of minibatch gradient steps on L^CLIP+VF+S; returns the means of what was seen on the way."""
        seen = defaultdict(list)
        for minibatch in self.shuffled_minibatches(samples, generator):
            loss, terms = self.loss(policy, minibatch)
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(policy.parameters(), self.max_gradient_norm)
            optimizer.step()
            for key, value in {**terms, "gradient_norm": norm}.items():
                seen[key].append(value.detach())
        unexplained = (samples.target - samples.value).var(correction=0)
        explained = 1 - unexplained / samples.target.var(correction=0).clamp(min=VARIANCE_EPSILON)
        return {key: torch.stack(values).mean() for key, values in seen.items()} | {"explained_variance": explained}

    def shuffled_minibatches(self, samples: Samples, generator: torch.Generator) -> Iterator[Samples]:
        """Every sample once per epoch, in ``minibatches`` parts of nearly equal size."""
        for _ in range(self.epochs):
            order = torch.randperm(len(samples.target), generator=generator, device=samples.target.device)
            for chosen in order.chunk(self.minibatches):
                yield Samples(*(field.index_select(0, chosen) for field in samples))

    def loss(self, policy: ActorCritic, samples: Samples) -> tuple[Tensor, dict[str, Tensor]]:
        """Equation 9 of the paper, negated, and its terms."""
        log_prob, entropy = policy.log_prob_and_entropy(samples.observation, samples.action)
        log_ratio = log_prob - samples.log_prob
        policy_loss = -clipped_objective(log_ratio, samples.advantage, self.clip_range).mean()
        value_loss = 0.5 * (policy.value(samples.observation) - samples.target).square().mean()
        entropy = entropy.mean()
        loss = policy_loss + self.value_coefficient * value_loss - self.entropy_coefficient * entropy
        with torch.no_grad():
            ratio = log_ratio.exp()
            terms = {
                "policy_loss": policy_loss,
                "value_loss": value_loss,
                "entropy": entropy,
                # A low-variance, never negative estimate of KL(old, new): http://joschu.net/blog/kl-approx.html
                "approximate_kl": (ratio - 1 - log_ratio).mean(),
                "clipped_fraction": ((ratio - 1).abs() > self.clip_range).float().mean(),
            }
        return loss, terms


def clipped_objective(log_ratio: Tensor, advantage: Tensor, clip_range: float) -> Tensor:
    """min(r A, clip(r, 1 - ε, 1 + ε) A), equation 7 of the paper, for r = exp(``log_ratio``)."""
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip_range, 1 + clip_range) * advantage)
