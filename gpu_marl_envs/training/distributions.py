"""Distributions over Discrete, MultiDiscrete and Box actions, whose parameters are what an actor network returns."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from gymnasium import spaces
from torch import Tensor, nn

from gpu_marl_envs.spec import ActionSpace
from gpu_marl_envs.training.randomness import RandomStream
from gpu_marl_envs.training.sampling import gaussian_log_density, sample_categorical, sample_gaussian

# Takes the place of the logits of impossible actions: finite, so that 0 * log(0) in the entropy is 0 and not NaN.
IMPOSSIBLE = -1e9


class ActionDistribution(nn.Module, ABC):
    """A distribution over one agent's actions, whose parameters are the output of an actor network.

    Attributes:
        num_parameters: length of the last dimension of ``parameters`` in the methods below.
        action_shape: shape of one agent's action.
        action_dtype: dtype of sampled actions.
    """

    num_parameters: int
    action_shape: tuple[int, ...]
    action_dtype: torch.dtype

    @abstractmethod
    def sample(
        self,
        parameters: Tensor,
        random: RandomStream,
        mask: Tensor | None = None,
        out: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Sampled actions and the logarithm of their probability (density).

        Args:
            parameters: ``[..., num_parameters]``.
            random: numbers on their device.
            mask: bool ``[..., num_parameters]``, which choices of discrete actions are allowed; none allows all.
            out: contiguous tensors for the results.

        Returns:
            ``[..., *action_shape]`` and ``[...]``.
        """

    @abstractmethod
    def mode(self, parameters: Tensor, mask: Tensor | None = None) -> Tensor:
        """The most probable actions ``[..., *action_shape]``; arguments as in :meth:`sample`."""

    @abstractmethod
    def log_prob_and_entropy(
        self, parameters: Tensor, action: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logarithm of the probability (density) of ``action``, and the entropy in nats, both ``[...]``."""

    def to_environment(self, action: Tensor) -> Tensor:
        """What the environment is given for a sampled action."""
        return action


class CategoricalActions(ActionDistribution):
    """Independent categorical components: one for ``Discrete``, several for ``MultiDiscrete``.

    The parameters are logits, as many for each component as the largest component has choices; those in excess are
    ignored.
    """

    counts: Tensor  # int32 [components], of choices
    exists: Tensor  # bool [components, choices]

    def __init__(self, space: spaces.Discrete | spaces.MultiDiscrete) -> None:
        super().__init__()
        counts = torch.as_tensor([space.n] if isinstance(space, spaces.Discrete) else space.nvec.tolist())
        self.components, self.choices = len(counts), int(counts.max())
        self.num_parameters = self.components * self.choices
        self.action_shape = tuple(space.shape or ())
        self.action_dtype = torch.int32
        self._all_exist = bool((counts == self.choices).all())
        self.register_buffer("counts", counts.int(), persistent=False)
        self.register_buffer("exists", torch.arange(self.choices) < counts[:, None], persistent=False)

    def logits(self, parameters: Tensor, mask: Tensor | None) -> Tensor:
        """Logits ``[..., components, choices]``, of impossible choices so low that their probability is 0."""
        logits = parameters.unflatten(-1, (self.components, self.choices))
        if not self._all_exist:
            logits = torch.where(self.exists, logits, IMPOSSIBLE)
        if mask is not None:
            logits = torch.where(mask.unflatten(-1, (self.components, self.choices)), logits, IMPOSSIBLE)
        return logits

    def sample(
        self,
        parameters: Tensor,
        random: RandomStream,
        mask: Tensor | None = None,
        out: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        logits = parameters.float().unflatten(-1, (self.components, self.choices))
        mask = None if mask is None else mask.unflatten(-1, (self.components, self.choices))
        action, log_prob = sample_categorical(logits, self.counts, random, mask, out)
        return action.view(*parameters.shape[:-1], *self.action_shape), log_prob

    def mode(self, parameters: Tensor, mask: Tensor | None = None) -> Tensor:
        return self._to_shape(self.logits(parameters, mask).argmax(-1))

    def log_prob_and_entropy(
        self, parameters: Tensor, action: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        log_probs = self.logits(parameters, mask).log_softmax(-1)
        index = action.long().reshape(*log_probs.shape[:-1], 1)
        log_prob = log_probs.gather(-1, index).squeeze(-1).sum(-1)
        return log_prob, -(log_probs.exp() * log_probs).sum((-1, -2))

    def _to_shape(self, index: Tensor) -> Tensor:
        return index.reshape((*index.shape[:-1], *self.action_shape)).to(self.action_dtype)


class GaussianActions(ActionDistribution):
    """A diagonal Gaussian with a learned, observation-independent standard deviation, for ``Box``.

    Actions are in units of the space: -1 and 1 are the bounds of a bounded component. What lies outside the bounds is
    clipped for the environment only, so that the density of what was sampled stays exact.
    """

    low: Tensor  # [components], like all below
    high: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(self, space: spaces.Box) -> None:
        super().__init__()
        self.action_shape = tuple(space.shape)
        self.action_dtype = torch.float32
        self.num_parameters = math.prod(self.action_shape)
        low, high = torch.as_tensor(space.low).flatten(), torch.as_tensor(space.high).flatten()
        bounded = low.isfinite() & high.isfinite()
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)
        self.register_buffer("centre", torch.where(bounded, (low + high) / 2, 0.0), persistent=False)
        self.register_buffer("scale", torch.where(bounded, (high - low) / 2, 1.0), persistent=False)
        self.log_std = nn.Parameter(torch.zeros(self.num_parameters))

    def sample(
        self,
        parameters: Tensor,
        random: RandomStream,
        mask: Tensor | None = None,
        out: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        action, log_density = sample_gaussian(parameters.float(), self.log_std.detach().float(), random, out)
        return action.view(*parameters.shape[:-1], *self.action_shape), log_density

    def mode(self, parameters: Tensor, mask: Tensor | None = None) -> Tensor:
        return parameters.reshape(*parameters.shape[:-1], *self.action_shape)

    def log_prob_and_entropy(
        self, parameters: Tensor, action: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        noise = (action.reshape(parameters.shape) - parameters) / self.log_std.exp()
        log_prob = gaussian_log_density(noise, self.log_std)
        entropy = (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum()
        return log_prob, entropy.expand(log_prob.shape)

    def to_environment(self, action: Tensor) -> Tensor:
        flat = action.reshape(*action.shape[: action.dim() - len(self.action_shape)], self.num_parameters)
        return torch.clamp(self.centre + self.scale * flat, self.low, self.high).reshape(action.shape)


def action_distribution(space: ActionSpace) -> ActionDistribution:
    """The distribution over the actions of ``space``."""
    return GaussianActions(space) if isinstance(space, spaces.Box) else CategoricalActions(space)
