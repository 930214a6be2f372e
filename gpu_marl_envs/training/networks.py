"""Networks: what maps an agent's observation to the parameters of its action distribution and to a value."""

from __future__ import annotations

import itertools
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from gpu_marl_envs.errors import ParameterError
from gpu_marl_envs.training.fused_mlp import can_fuse, fused_mlp

Activation = Literal["tanh", "relu", "elu", "gelu", "silu"]
_ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


@dataclass(frozen=True)
class Interface:
    """What a network takes and returns.

    A network is a module whose ``forward(observation)`` takes float32 ``[..., observation_size]`` and returns the
    parameters of the action distribution ``[..., num_parameters]`` and the value ``[...]``. With a centralised critic
    it derives from :class:`SeparableNetwork`, since it acts without the state.

    Attributes:
        observation_size: number of floats that an agent observes.
        num_parameters: for discrete actions the number of components times the choices of the largest one; for a
            ``Box`` the number of components.
        state_size: number of floats in the environment's state, 0 without a centralised critic.
    """

    observation_size: int
    num_parameters: int
    state_size: int = 0


NetworkFactory = Callable[[Interface], nn.Module]


class SeparableNetwork(nn.Module, ABC):
    """A network whose outputs can be computed one without the other, which spares work while acting."""

    @abstractmethod
    def actor(self, observation: Tensor) -> Tensor:
        """Action parameters ``[..., num_parameters]`` alone."""

    @abstractmethod
    def critic(self, observation: Tensor, state: Tensor | None = None) -> Tensor:
        """The value ``[...]`` alone; ``state`` is ``[..., state_size]`` with a centralised critic."""

    def forward(self, observation: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Both."""
        return self.actor(observation), self.critic(observation, state)


@dataclass(frozen=True)
class MLP:
    """Makes networks of fully connected layers; see :class:`MLPNetwork`.

    Attributes:
        hidden_size: units of each hidden layer.
        hidden_layers: number of hidden layers.
        activation: after each hidden layer.
        shared_trunk: whether actor and critic share their hidden layers.
        orthogonal: whether weights start orthogonal with gain √2, 0.01 for the actor's last layer and 1 for the
            critic's (Andrychowicz et al., 2021, arXiv:2006.05990), rather than by torch's default.
        fused: whether a GPU computes all layers in one kernel where it can; see ``fused_mlp.py``.
    """

    hidden_size: int = 64
    hidden_layers: int = 2
    activation: Activation = "tanh"
    shared_trunk: bool = False
    orthogonal: bool = True
    fused: bool = True

    def __call__(self, interface: Interface) -> MLPNetwork:
        if self.shared_trunk and interface.state_size:
            raise ParameterError("A centralised critic has a trunk of its own; set shared_trunk=False.")
        return MLPNetwork(interface, self)


class MLPNetwork(SeparableNetwork):
    """Actor and critic, on trunks of their own or on one."""

    def __init__(self, interface: Interface, options: MLP) -> None:
        super().__init__()
        self.fused = options.fused
        actor_inputs, critic_inputs = interface.observation_size, interface.observation_size + interface.state_size
        hidden = options.hidden_size if options.hidden_layers else None
        self.actor_trunk = _trunk(actor_inputs, options)
        self.actor_head = _linear(hidden or actor_inputs, interface.num_parameters, 0.01, options)
        self.critic_trunk = None if options.shared_trunk else _trunk(critic_inputs, options)
        self.critic_head = _linear(hidden or critic_inputs, 1, 1.0, options)

    def forward(self, observation: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.critic_trunk is not None:
            return super().forward(observation, state)
        parameters, value = self._outputs(observation, self.actor_trunk, self.actor_head, self.critic_head)
        return parameters, value.squeeze(-1)

    def actor(self, observation: Tensor) -> Tensor:
        (parameters,) = self._outputs(observation, self.actor_trunk, self.actor_head)
        return parameters

    def critic(self, observation: Tensor, state: Tensor | None = None) -> Tensor:
        inputs = observation if state is None else torch.cat([observation, state], -1)
        trunk = self.actor_trunk if self.critic_trunk is None else self.critic_trunk
        (value,) = self._outputs(inputs, trunk, self.critic_head)
        return value.squeeze(-1)

    def _outputs(self, inputs: Tensor, trunk: nn.Sequential, *heads: nn.Linear) -> tuple[Tensor, ...]:
        if self.fused and can_fuse(inputs, trunk, heads):
            return fused_mlp(inputs, trunk, heads)
        features = trunk(inputs)
        return tuple(head(features) for head in heads)

    @torch.no_grad()
    def rescale_value(self, factor: Tensor, offset: Tensor) -> None:
        """Makes the critic return ``factor`` · value + ``offset`` from now on."""
        self.critic_head.weight.mul_(factor)
        self.critic_head.bias.mul_(factor).add_(offset)


def name_of(factory: NetworkFactory) -> str:
    """Where a user's network is defined, ``"module:name"``, for files."""
    name = f"{getattr(factory, '__module__', '')}:{getattr(factory, '__qualname__', '')}"
    if _found(name) is not factory:
        raise ParameterError(
            "A network of yours must be a class or a function at the top level of a module, so that a checkpoint can "
            f"name it, but {factory!r} was given."
        )
    return name


def network_named(name: str) -> NetworkFactory:
    """The network that :func:`name_of` named. Its module must be imported already: a file must not run code.

    Raises:
        ParameterError: there is none.
    """
    found = _found(name)
    if not callable(found):
        module = name.partition(":")[0]
        raise ParameterError(
            f"There is no network {name!r}, or its module is not imported yet; give module:name, and import "
            f"{module!r} first (--import {module})."
        )
    factory: NetworkFactory = found
    return factory


def _found(name: str) -> object:
    module, _, path = name.partition(":")
    found: object = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    return found


def _trunk(inputs: int, options: MLP) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise([inputs, *[options.hidden_size] * options.hidden_layers]):
        layers += [_linear(fan_in, fan_out, math.sqrt(2), options), _ACTIVATIONS[options.activation]()]
    return nn.Sequential(*layers)


def _linear(fan_in: int, fan_out: int, gain: float, options: MLP) -> nn.Linear:
    layer = nn.Linear(fan_in, fan_out)
    if options.orthogonal:
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
    return layer
