"""What every algorithm is: a frozen dataclass of hyperparameters with a method that learns, in a file of its own."""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gpu_marl_envs.errors import GpuMarlError
from gpu_marl_envs.parameters import Parametrised
from gpu_marl_envs.parameters import param as hyperparameter

if TYPE_CHECKING:
    from gpu_marl_envs.batched import BatchedEnv
    from gpu_marl_envs.training.session import Session

__all__ = ["Algorithm", "TrainingError", "algorithms", "hyperparameter"]


class TrainingError(GpuMarlError, ArithmeticError):
    """Training cannot go on, because a quantity is not finite any more."""


@dataclass(frozen=True, kw_only=True)
class Algorithm(Parametrised, ABC):
    """Base of the algorithms; see ``ppo.py``. The dataclass fields are the hyperparameters.

    Class attributes that an algorithm sets:
        name: what ``gpu-marl train --algo`` calls it.

    Raises:
        ParameterError: a hyperparameter has the wrong type or lies outside its valid range.
    """

    name: ClassVar[str]

    @abstractmethod
    def learn(self, env: BatchedEnv, session: Session) -> None:
        """Trains until ``session`` says that it is over.

        Args:
            env: resets finished copies in the same step.
            session: keeps the count of steps, the metrics and the checkpoints.
        """

    @classmethod
    def label(cls) -> str:
        """The name."""
        return cls.name


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
