"""What every algorithm is: a frozen dataclass of hyperparameters with a method that learns, in a file of its own."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import typing
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from gpu_marl_envs.errors import GpuMarlError, ParameterError, nearest
from gpu_marl_envs.spec import Parameter
from gpu_marl_envs.spec import param as hyperparameter

if TYPE_CHECKING:
    from gpu_marl_envs.batched import BatchedEnv
    from gpu_marl_envs.training.session import Session

__all__ = ["Algorithm", "TrainingError", "algorithms", "hyperparameter"]


class TrainingError(GpuMarlError, ArithmeticError):
    """Training cannot go on, because a quantity is not finite any more."""


@dataclass(frozen=True, kw_only=True)
class Algorithm(ABC):
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
    def make(cls, **values: Any) -> Self:
        """The algorithm with these hyperparameters.

        Raises:
            ParameterError: a hyperparameter is unknown, of the wrong type or out of range.
        """
        known = {parameter.name for parameter in cls.hyperparameters()}
        for name in values:
            if name not in known:
                raise ParameterError(f"{cls.name} has no hyperparameter {name!r}; {nearest(name, known)}")
        return cls(**values)

    @classmethod
    def hyperparameters(cls) -> tuple[Parameter, ...]:
        """The declared hyperparameters, in order."""
        hints = typing.get_type_hints(cls)
        found = []
        for field in dataclasses.fields(cls):
            hint = hints[field.name]
            choices = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
            kind = str if choices else hint
            found.append(
                Parameter(name=field.name, kind=kind, default=field.default, choices=choices, **field.metadata)
            )
        return tuple(found)

    def __post_init__(self) -> None:
        for parameter in self.hyperparameters():
            value = parameter.coerce(getattr(self, parameter.name), self.name)
            object.__setattr__(self, parameter.name, value)


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
