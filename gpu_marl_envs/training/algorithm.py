"""What every algorithm is: a frozen dataclass of hyperparameters with a method that learns, in a file of its own."""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from gpu_marl_envs.errors import GpuMarlError, ParameterError, nearest
from gpu_marl_envs.parameters import Parametrised
from gpu_marl_envs.parameters import param as hyperparameter
from gpu_marl_envs.training.networks import MLP, Activation
from gpu_marl_envs.training.schedule import Schedule

if TYPE_CHECKING:
    from gpu_marl_envs.training.learner import Learner
    from gpu_marl_envs.training.policies import ActorCritic
    from gpu_marl_envs.training.randomness import RandomStream
    from gpu_marl_envs.training.samples import Samples

__all__ = ["Algorithm", "TrainingError", "adam", "algorithm_named", "algorithms", "gradient_step", "hyperparameter"]


class TrainingError(GpuMarlError, ArithmeticError):
    """Training cannot go on, because a quantity is not finite any more."""


@dataclass(frozen=True, kw_only=True)
class Algorithm(Parametrised, ABC):
    """Base of the algorithms, which learn by advantage actor-critic; see ``a2c.py`` and ``ppo.py``.

    The dataclass fields are the hyperparameters. Those that are scheduled take a number or a :class:`Schedule` over the
    run, in any form that :meth:`Schedule.read` reads.

    Class attributes that an algorithm sets:
        name: what ``gpu-marl train --algo`` calls it.
        coefficients: the scheduled hyperparameters that its loss takes, in this order.

    Raises:
        ParameterError: a hyperparameter has the wrong type or lies outside its valid range.
    """

    name: ClassVar[str]
    coefficients: ClassVar[tuple[str, ...]]
    rich_types: ClassVar[tuple[type, ...]] = (Schedule,)

    rollout_steps: int = hyperparameter(32, "steps of every copy between two updates (T)", low=1)
    learning_rate: Schedule | float | str = hyperparameter("0:3e-4,1:0", "step size of the optimizer; scheduled", low=0)
    discount: float = hyperparameter(0.99, "weight of a reward one step later (γ)", low=0, high=1)
    gae_lambda: float = hyperparameter(
        0.95, "bias against variance of the advantages (λ); 1 is unbiased", low=0, high=1
    )
    value_coefficient: float = hyperparameter(0.5, "weight of the value loss", low=0)
    entropy_coefficient: Schedule | float | str = hyperparameter(0.01, "weight of the entropy bonus; scheduled", low=0)
    max_gradient_norm: float = hyperparameter(0.5, "longest gradient; longer ones are scaled down", low=0)
    normalize_advantages: bool = hyperparameter(True, "shift and scale the advantages of a rollout to unit size")
    normalize_observations: bool = hyperparameter(False, "shift and scale observations by running statistics")
    normalize_returns: bool = hyperparameter(False, "let the critic learn returns scaled by running statistics")
    hidden_size: int = hyperparameter(64, "units of each hidden layer of actor and critic", low=1)
    hidden_layers: int = hyperparameter(2, "hidden layers of actor and critic", low=0)
    activation: Activation = hyperparameter("tanh", "nonlinearity after each hidden layer")
    shared_trunk: bool = hyperparameter(False, "let actor and critic share their hidden layers")
    orthogonal: bool = hyperparameter(True, "start with orthogonal weights, rather than torch's default")
    central_critic: bool = hyperparameter(False, "let the critic see the environment's state (MAPPO)")
    fused: bool = hyperparameter(True, "compute all layers of a network in one GPU kernel where there is one")
    fused_losses: bool = hyperparameter(True, "compute the loss and its gradients in one GPU kernel where there is one")
    bfloat16: bool = hyperparameter(False, "compute networks in bfloat16 where that is safe")
    tf32: bool = hyperparameter(False, "let a GPU round factors of float32 products to TF32, in all of the run")
    compile_loss: bool = hyperparameter(False, "compile the loss with torch.compile")
    cuda_graphs: bool = hyperparameter(True, "on a GPU, record iterations as CUDA graphs and replay them")

    @property
    def waits_for_device(self) -> bool:
        """Whether :meth:`update` decides by what it computed, so that it cannot be recorded as a CUDA graph."""
        return False

    @abstractmethod
    def update(self, learner: Learner, samples: Samples, random: RandomStream) -> dict[str, Tensor]:
        """Improves a policy.

        Args:
            learner: the policy, its optimizer and the present coefficients of the loss.
            samples: what its agents did in the last rollout.
            random: numbers on the device.

        Returns:
            Scalars to report, which must be finite, such as losses.
        """

    @abstractmethod
    def optimizer(self, policy: ActorCritic, learning_rate: float | Tensor) -> torch.optim.Optimizer:
        """The optimizer of a policy's weights; with a learning rate on the device, it must run in a CUDA graph."""

    @abstractmethod
    def loss(self, policy: ActorCritic, samples: Samples, *coefficients: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What is minimised, and its terms; the coefficients are those that the algorithm names."""

    def fused_loss(
        self, policy: ActorCritic, samples: Samples, *coefficients: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """:meth:`loss` as one GPU kernel, of policies with categorical actions; itself where there is none."""
        return self.loss(policy, samples, *coefficients)

    @classmethod
    def has_fused_loss(cls) -> bool:
        """Whether :meth:`fused_loss` is of this :meth:`loss`, which a derived class may have changed."""
        owners = {name: next(kind for kind in cls.__mro__ if name in vars(kind)) for name in ("loss", "fused_loss")}
        return issubclass(owners["fused_loss"], owners["loss"])

    def network(self) -> MLP:
        """What makes the networks, where they are not the user's own."""
        return MLP(
            self.hidden_size, self.hidden_layers, self.activation, self.shared_trunk, self.orthogonal, self.fused
        )

    def at(self, hyperparameter_name: str, fraction: float) -> float:
        """The value of a scheduled hyperparameter when ``fraction`` of the run is done."""
        return Schedule.read(getattr(self, hyperparameter_name)).at(fraction)

    @classmethod
    def label(cls) -> str:
        """The name."""
        return cls.name


def gradient_step(learner: Learner, loss: Tensor) -> Tensor:
    """One step of the optimizer down the gradient of ``loss``, clipped; returns the gradient's norm before."""
    learner.optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(learner.policy.parameters(), learner.algorithm.max_gradient_norm)
    learner.optimizer.step()
    return norm


def adam(policy: ActorCritic, learning_rate: float | Tensor, epsilon: float) -> torch.optim.Optimizer:
    """Adam over a policy's weights, as one kernel for all of them."""
    on_device = isinstance(learning_rate, Tensor)
    return torch.optim.Adam(policy.parameters(), lr=learning_rate, eps=epsilon, fused=True, capturable=on_device)


def algorithms() -> dict[str, type[Algorithm]]:
    """The algorithms by name: every class that derives from :class:`Algorithm` in a file of this folder."""
    from gpu_marl_envs import training

    found = {}
    for module_info in pkgutil.iter_modules(training.__path__):
        module = importlib.import_module(f"{training.__name__}.{module_info.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Algorithm) and value.__module__ == module.__name__:
                if "name" in vars(value):
                    found[value.name] = value
    return dict(sorted(found.items()))


def algorithm_named(name: str) -> type[Algorithm]:
    """The algorithm of that name.

    Raises:
        ParameterError: there is none.
    """
    known = algorithms()
    if name not in known:
        raise ParameterError(f"There is no algorithm {name!r}; {nearest(name, known)}")
    return known[name]
