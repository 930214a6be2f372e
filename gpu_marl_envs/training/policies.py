"""Policies: actor-critic networks with all that they need to act alone, and the uniformly random policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gpu_marl_envs.errors import ParameterError
from gpu_marl_envs.spec import ActionSpace, Group
from gpu_marl_envs.training.distributions import GaussianActions, action_distribution
from gpu_marl_envs.training.networks import (
    MLP,
    Interface,
    NetworkFactory,
    SeparableNetwork,
    name_of,
    network_named,
)
from gpu_marl_envs.training.normalization import RunningNormalizer
from gpu_marl_envs.training.randomness import RandomStream, uniform


class Policy(Protocol):
    """What evaluation needs of a policy: actions for observations ``[num_envs, n, ...]`` of one group."""

    def act(
        self,
        observation: Tensor,
        random: RandomStream,
        *,
        deterministic: bool = False,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Actions that ``BatchedEnv.step`` takes: ``[num_envs, n, *action_shape]``.

        Args:
            observation: of one group's agents.
            random: numbers on its device.
            deterministic: the most probable actions instead of drawn ones.
            mask: bool ``[num_envs, n, num_parameters]``, the allowed choices of discrete actions; none allows all.
        """
        ...


class ActorCritic(nn.Module):
    """A network, the distribution of its actions, and the statistics that normalise what it sees and learns.

    It is a torch module like any other: it can be saved, exported and loaded alone. Called with observations
    ``[..., size]`` (and states, with a centralised critic) it returns the parameters of the action distribution and the
    value.

    Args:
        group: the agents it plays; gives the size of the input and the action space.
        network: makes the network: an :class:`MLP`, or a module class or function of yours at the top level of a
            module, which takes an :class:`Interface`.
        normalize_observations: whether inputs are shifted and scaled by running statistics.
        normalize_returns: whether the network's value is in standard deviations of the returns.
        state_size: number of floats in the state that a centralised critic sees besides; 0 for none.
        bfloat16: whether the network computes in bfloat16 where torch deems that safe; its weights stay float32.

    Raises:
        ParameterError: the network cannot do what is asked.
    """

    def __init__(
        self,
        group: Group,
        network: NetworkFactory | None = None,
        *,
        normalize_observations: bool = False,
        normalize_returns: bool = False,
        state_size: int = 0,
        bfloat16: bool = False,
    ) -> None:
        super().__init__()
        self.factory = MLP() if network is None else network
        self.in_bfloat16 = bfloat16
        self.distribution = action_distribution(group.action_space)
        self.interface = Interface(group.observation_size, self.distribution.num_parameters, state_size)
        self.network = self.factory(self.interface)
        if state_size and not isinstance(self.network, SeparableNetwork):
            raise ParameterError("A network with a centralised critic must derive from SeparableNetwork.")
        self.observation_normalizer = RunningNormalizer(group.observation_size) if normalize_observations else None
        self.value_normalizer = RunningNormalizer(1) if normalize_returns else None
        # State fields are in the environment's own units.
        self.state_normalizer = RunningNormalizer(state_size) if state_size else None
        _check_network(self.network, self.interface)

    @property
    def options(self) -> dict[str, Any]:
        """What :meth:`with_options` makes this policy of again, in numbers and words."""
        return {
            "network": asdict(self.factory) if isinstance(self.factory, MLP) else name_of(self.factory),
            "normalize_observations": self.observation_normalizer is not None,
            "normalize_returns": self.value_normalizer is not None,
            "state_size": self.interface.state_size,
            "bfloat16": self.in_bfloat16,
        }

    @classmethod
    def with_options(cls, group: Group, options: dict[str, Any]) -> ActorCritic:
        """A policy with what :attr:`options` said of another.

        Raises:
            ParameterError: its network is one of yours, whose module is not imported.
        """
        network = options["network"]
        factory = network_named(network) if isinstance(network, str) else MLP(**network)
        return cls(group, factory, **{key: value for key, value in options.items() if key != "network"})

    def forward(self, observation: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Parameters of the action distribution ``[..., num_parameters]`` and value in units of reward ``[...]``."""
        parameters, value = self.outputs(observation, state)
        return parameters, self._in_rewards(value)

    def sample(
        self,
        observation: Tensor,
        random: RandomStream,
        mask: Tensor | None = None,
        out: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Actions ``[..., *action_shape]`` and their log-probabilities ``[...]`` for observations ``[..., size]``.

        Args:
            observation: of agents.
            random: numbers on its device.
            mask: bool ``[..., num_parameters]``, the allowed choices of discrete actions; none allows all.
            out: contiguous tensors for the results.
        """
        return self.distribution.sample(self.action_parameters(observation), random, mask, out)

    def action_parameters(self, observation: Tensor) -> Tensor:
        """Parameters of the action distribution ``[..., num_parameters]`` for observations ``[..., size]``."""
        if not isinstance(self.network, SeparableNetwork):
            return self.outputs(observation)[0]
        observation = self._normalized_observation(observation)
        with self._precision(observation):
            return _at_least_single(self.network.actor(observation))

    def value(self, observation: Tensor, state: Tensor | None = None) -> Tensor:
        """Estimated return ``[...]`` of observations ``[..., size]``, and of states with a centralised critic."""
        if not isinstance(self.network, SeparableNetwork):
            return self(observation)[1]
        observation, state = self._normalized(observation, state)
        with self._precision(observation):
            value = self.network.critic(observation, state)
        return self._in_rewards(_at_least_single(value))

    def outputs(self, observation: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Parameters of the action distribution ``[..., num_parameters]``, and the value in the network's own units.

        The value is ``[...]``; see :meth:`in_own_units` for the units.
        """
        observation, state = self._normalized(observation, state)
        with self._precision(observation):
            parameters, value = self.network(observation) if state is None else self.network(observation, state)
        return _at_least_single(parameters), _at_least_single(value)

    def evaluate(
        self, observation: Tensor, action: Tensor, mask: Tensor | None = None, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What a loss needs: log-probability of ``action``, entropy, and the value in the network's own units.

        The three are ``[...]``; see :meth:`in_own_units` for the units.
        """
        parameters, value = self.outputs(observation, state)
        return *self.distribution.log_prob_and_entropy(parameters, action, mask), value

    @torch.no_grad()
    def act(
        self,
        observation: Tensor,
        random: RandomStream,
        *,
        deterministic: bool = False,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Actions for the environment; see :class:`Policy`."""
        parameters = self.action_parameters(observation.flatten(2))
        if deterministic:
            action = self.distribution.mode(parameters, mask)
        else:
            action, _ = self.distribution.sample(parameters, random, mask)
        return self.distribution.to_environment(action)

    # ---- units and statistics ----

    def in_own_units(self, value: Tensor) -> Tensor:
        """Values in units of reward as the network sees them, where returns are normalised."""
        normalizer = self.value_normalizer
        return value if normalizer is None else (value - normalizer.mean) / normalizer.deviation

    @torch.no_grad()
    def observe_returns(self, returns: Tensor, weight: Tensor) -> None:
        """Takes returns ``[N]`` into the statistics; values in units of reward stay what they are.

        The last layer is rescaled for that (PopArt: van Hasselt et al., 2016, arXiv:1602.07714), where the network has
        a method ``rescale_value``.
        """
        normalizer = self.value_normalizer
        if normalizer is None:
            return
        mean, deviation = normalizer.mean.clone(), normalizer.deviation
        normalizer.update(returns.unsqueeze(-1), weight)
        rescale: Callable[[Tensor, Tensor], None] | None = getattr(self.network, "rescale_value", None)
        if rescale is not None:
            new = normalizer.deviation
            rescale(deviation / new, (mean - normalizer.mean) / new)

    def observe_inputs(self, observation: Tensor, state: Tensor | None, weight: Tensor) -> None:
        """Takes observations ``[N, size]`` and states into the statistics."""
        if self.observation_normalizer is not None:
            self.observation_normalizer.update(_at_least_single(observation), weight)
        if self.state_normalizer is not None and state is not None:
            self.state_normalizer.update(state, weight)

    def _in_rewards(self, value: Tensor) -> Tensor:
        normalizer = self.value_normalizer
        return value if normalizer is None else value * normalizer.deviation + normalizer.mean

    def _normalized_observation(self, observation: Tensor) -> Tensor:
        observation = _at_least_single(observation)
        return observation if self.observation_normalizer is None else self.observation_normalizer(observation)

    def _normalized(self, observation: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        observation = self._normalized_observation(observation)
        if self.state_normalizer is None:
            return observation, None
        if state is None:
            raise ParameterError("This policy has a centralised critic, whose values need the state as well.")
        return observation, self.state_normalizer(state)

    def _precision(self, observation: Tensor) -> torch.autocast:
        return torch.autocast(observation.device.type, torch.bfloat16, enabled=self.in_bfloat16)


def _check_network(network: nn.Module, interface: Interface) -> None:
    """Has a network compute two rows, as it is when nobody trains it.

    Raises:
        ParameterError: it does not return what :class:`Interface` says.
    """
    device = next((weight.device for weight in network.parameters()), torch.device("cpu"))
    sizes = [size for size in (interface.observation_size, interface.state_size) if size]
    training = {module: module.training for module in network.modules()}
    try:
        with torch.no_grad():
            outputs = network.eval()(*(torch.zeros(2, size, device=device) for size in sizes))
        found = [(tuple(output.shape), output.dtype) for output in outputs]
    except Exception as error:
        raise ParameterError(
            f"The network {type(network).__name__} must take float32 observations [..., {interface.observation_size}] "
            f"and return action parameters and values, but it fails: {error}"
        ) from error
    finally:
        for module, mode in training.items():
            module.training = mode
    wanted = [(2, interface.num_parameters), (2,)]
    if [shape for shape, _ in found] != wanted or any(dtype.itemsize > 4 for _, dtype in found):
        named = ", ".join(f"{str(dtype).removeprefix('torch.')} {list(shape)}" for shape, dtype in found)
        raise ParameterError(
            f"The network {type(network).__name__} must return action parameters {list(wanted[0])} and values [2] for "
            f"two observations, in float32 or less; it returned {named}."
        )


def _at_least_single(numbers: Tensor) -> Tensor:
    """Statistics, distributions and losses are not for the precision of bfloat16."""
    return numbers.to(torch.promote_types(numbers.dtype, torch.float32))


class RandomPolicy:
    """Draws uniformly from the action space; from a standard normal distribution where it has no bounds."""

    def __init__(self, space: ActionSpace) -> None:
        self.distribution = action_distribution(space)

    def act(
        self,
        observation: Tensor,
        random: RandomStream,
        *,
        deterministic: bool = False,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Actions for the environment; see :class:`Policy`. ``deterministic`` has no meaning here."""
        distribution = self.distribution.to(observation.device)
        parameters = torch.zeros(*observation.shape[:2], distribution.num_parameters, device=observation.device)
        action, _ = distribution.sample(parameters, random, mask)
        if isinstance(distribution, GaussianActions):
            bounded = (distribution.low.isfinite() & distribution.high.isfinite()).view(distribution.action_shape)
            action = torch.where(bounded, uniform(tuple(action.shape), random) * 2 - 1, action)
        return distribution.to_environment(action)
