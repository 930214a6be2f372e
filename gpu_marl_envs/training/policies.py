"""Policies: actor-critic networks over Discrete, MultiDiscrete and Box actions, and the uniformly random policy."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, Protocol

import torch
from gymnasium import spaces
from torch import Tensor, nn

from gpu_marl_envs.spec import ActionSpace, Group

# Added to the logits of actions that do not exist: finite, so that 0 * log(0) in the entropy is 0 and not NaN.
_IMPOSSIBLE = -1e9

Activation = Literal["tanh", "relu"]
_ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


class Policy(Protocol):
    """What evaluation needs of a policy: actions for observations ``[num_envs, n, ...]`` of one group."""

    def act(self, observation: Tensor, generator: torch.Generator, *, deterministic: bool = False) -> Tensor:
        """Actions that ``BatchedEnv.step`` takes: ``[num_envs, n, *action_shape]``."""
        ...


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
    def sample(self, parameters: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Sampled actions ``[..., *action_shape]`` and the logarithm of their probability ``[...]``."""

    @abstractmethod
    def mode(self, parameters: Tensor) -> Tensor:
        """The most probable actions ``[..., *action_shape]``."""

    @abstractmethod
    def log_prob_and_entropy(self, parameters: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithm of the probability (density) of ``action``, and the entropy in nats, both ``[...]``."""

    def to_environment(self, action: Tensor) -> Tensor:
        """What the environment is given for a sampled action."""
        return action


class CategoricalActions(ActionDistribution):
    """Independent categorical components: one for ``Discrete``, several for ``MultiDiscrete``."""

    padding: Tensor  # [components, choices], 0 for actions that exist
    last_choice: Tensor  # [components]

    def __init__(self, space: spaces.Discrete | spaces.MultiDiscrete) -> None:
        super().__init__()
        counts = torch.as_tensor([space.n] if isinstance(space, spaces.Discrete) else space.nvec.tolist())
        self.components, self.choices = len(counts), int(counts.max())
        self.num_parameters = self.components * self.choices
        self.action_shape = tuple(space.shape or ())
        self.action_dtype = torch.int32
        padding = torch.where(torch.arange(self.choices) < counts[:, None], 0.0, _IMPOSSIBLE)
        self.register_buffer("padding", padding, persistent=False)
        self.register_buffer("last_choice", counts - 1, persistent=False)

    def _log_probs(self, parameters: Tensor) -> Tensor:
        return (parameters.unflatten(-1, (self.components, self.choices)) + self.padding).log_softmax(-1)

    def sample(self, parameters: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        log_probs = self._log_probs(parameters)
        # Inverse of the cumulative distribution: one random number per component, a third of the cost of multinomial().
        cumulative = log_probs.exp().cumsum(-1)
        draw = torch.rand(*cumulative.shape[:-1], 1, generator=generator, device=cumulative.device)
        index = (cumulative <= draw * cumulative[..., -1:]).sum(-1).minimum(self.last_choice)
        log_prob = log_probs.gather(-1, index.unsqueeze(-1)).squeeze(-1).sum(-1)
        return self._to_shape(index), log_prob

    def mode(self, parameters: Tensor) -> Tensor:
        return self._to_shape(self._log_probs(parameters).argmax(-1))

    def log_prob_and_entropy(self, parameters: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        log_probs = self._log_probs(parameters)
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

    def sample(self, parameters: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        noise = torch.randn(parameters.shape, generator=generator, device=parameters.device)
        action = parameters + self.log_std.exp() * noise
        return self.mode(action), self._log_density(noise)

    def mode(self, parameters: Tensor) -> Tensor:
        return parameters.reshape(*parameters.shape[:-1], *self.action_shape)

    def log_prob_and_entropy(self, parameters: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        log_prob = self._log_density((action.reshape(parameters.shape) - parameters) / self.log_std.exp())
        entropy = (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum()
        return log_prob, entropy.expand(log_prob.shape)

    def to_environment(self, action: Tensor) -> Tensor:
        flat = action.reshape(*action.shape[: action.dim() - len(self.action_shape)], self.num_parameters)
        return torch.clamp(self.centre + self.scale * flat, self.low, self.high).reshape(action.shape)

    def _log_density(self, noise: Tensor) -> Tensor:
        """Logarithm of the density at ``mean + std * noise``."""
        return (-0.5 * noise.square() - self.log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


def action_distribution(space: ActionSpace) -> ActionDistribution:
    """The distribution over the actions of ``space``."""
    return GaussianActions(space) if isinstance(space, spaces.Box) else CategoricalActions(space)


class ActorCritic(nn.Module):
    """Separate networks for the policy and for the state value.

    Args:
        group: the agents it plays; gives the size of the input and the action space.
        hidden_size: units of each hidden layer.
        hidden_layers: number of hidden layers.
        activation: ``"tanh"`` or ``"relu"``, after each hidden layer.
        generator: source of the initial weights; none leaves the default one in charge.

    Attributes:
        network: the keyword arguments that make this network again for the same group.
    """

    def __init__(
        self,
        group: Group,
        *,
        hidden_size: int,
        hidden_layers: int,
        activation: Activation = "tanh",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.network = {"hidden_size": hidden_size, "hidden_layers": hidden_layers, "activation": activation}
        self.distribution = action_distribution(group.action_space)
        widths = [group.observation_size, *[hidden_size] * hidden_layers]
        # A small last layer of the actor makes the first policy nearly uniform (Andrychowicz et al., 2021).
        self.actor = _network([*widths, self.distribution.num_parameters], activation, 0.01, generator)
        self.critic = _network([*widths, 1], activation, 1.0, generator)

    def sample(self, observation: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Actions ``[..., *action_shape]`` and their log-probabilities ``[...]`` for observations ``[..., size]``."""
        return self.distribution.sample(self.actor(observation.float()), generator)

    def value(self, observation: Tensor) -> Tensor:
        """Estimated return ``[...]`` of observations ``[..., size]``."""
        return self.critic(observation.float()).squeeze(-1)

    def log_prob_and_entropy(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of ``action`` and entropy of the policy, both ``[...]``, for observations ``[..., size]``."""
        return self.distribution.log_prob_and_entropy(self.actor(observation.float()), action)

    @torch.no_grad()
    def act(self, observation: Tensor, generator: torch.Generator, *, deterministic: bool = False) -> Tensor:
        """Actions for the environment; see :class:`Policy`."""
        parameters = self.actor(observation.flatten(2).float())
        if deterministic:
            action = self.distribution.mode(parameters)
        else:
            action, _ = self.distribution.sample(parameters, generator)
        return self.distribution.to_environment(action)


class RandomPolicy:
    """Draws uniformly from the action space; from a standard normal distribution where it has no bounds."""

    def __init__(self, space: ActionSpace) -> None:
        self.distribution = action_distribution(space)

    def act(self, observation: Tensor, generator: torch.Generator, *, deterministic: bool = False) -> Tensor:
        """Actions for the environment; see :class:`Policy`. ``deterministic`` has no meaning here."""
        distribution, batch, device = self.distribution.to(observation.device), observation.shape[:2], generator.device
        if isinstance(distribution, CategoricalActions):
            return distribution.sample(torch.zeros(*batch, distribution.num_parameters, device=device), generator)[0]
        assert isinstance(distribution, GaussianActions)
        shape = (*batch, distribution.num_parameters)
        uniform = torch.rand(shape, generator=generator, device=device) * 2 - 1
        bounded = distribution.low.isfinite() & distribution.high.isfinite()
        action = torch.where(bounded, uniform, torch.randn(shape, generator=generator, device=device))
        return distribution.to_environment(distribution.mode(action))


def _network(
    widths: list[int], activation: Activation, last_gain: float, generator: torch.Generator | None
) -> nn.Sequential:
    """Linear layers with orthogonal weights, and an activation after each but the last."""
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        last = i == len(widths) - 2
        linear = nn.Linear(fan_in, fan_out)
        nn.init.orthogonal_(linear.weight, last_gain if last else math.sqrt(2), generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear] if last else [linear, _ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)
