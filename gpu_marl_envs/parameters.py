"""Parameters that are declared once, as fields of a frozen dataclass, with defaults, units and valid ranges.

From the declaration come the validation and its messages, the flags of the command line and the documentation.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from gpu_marl_envs.errors import DeclarationError, ParameterError, nearest


def param(
    default: Any,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    unit: str = "",
    static: bool = False,
    dynamics: bool = True,
) -> Any:
    """Declares a parameter: a field of an environment's declaration, or a hyperparameter of an algorithm.

    Args:
        default: the default value; its annotation is ``int``, ``float``, ``bool`` or ``Literal[...]``, or for one that
            is static and at least 1 ``int | None``: the dynamics see None as 0.
        doc: one line for the documentation and the command line.
        low: the smallest valid value (inclusive); none means unbounded.
        high: the largest valid value (inclusive); none means unbounded.
        unit: the unit of the value, for the documentation.
        static: whether the kernels are compiled for this value (numbers of agents, array lengths). ``bool`` and
            ``Literal`` parameters always are; other parameters may change without compiling again.
        dynamics: whether an environment's dynamics see it; not needed for what only Python uses, as in drawing.
    """
    metadata = {"doc": doc, "low": low, "high": high, "unit": unit, "static": static, "dynamics": dynamics}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Parameter:
    """A declared parameter, as the rest of the package sees it."""

    name: str
    kind: type  # int, float, bool or str (one of `choices`)
    default: Any
    doc: str
    low: float | None
    high: float | None
    unit: str
    static: bool
    dynamics: bool
    choices: tuple[str, ...] = ()
    optional: bool = False

    @property
    def valid(self) -> str:
        """What values are valid, in words."""
        return self._valid_values + " or None" * self.optional

    @property
    def _valid_values(self) -> str:
        if self.kind is bool:
            return "True or False"
        if self.choices:
            return "one of " + ", ".join(map(repr, self.choices))
        kind = "a whole number" if self.kind is int else "a number"
        if self.low is not None and self.high is not None:
            return f"{kind} from {self.low:g} to {self.high:g}"
        if self.low is not None:
            return f"{kind} of at least {self.low:g}"
        if self.high is not None:
            return f"{kind} of at most {self.high:g}"
        return kind

    def coerce(self, value: Any, owner: str) -> Any:
        """``value`` as this parameter's Python type.

        Raises:
            ParameterError: the value has the wrong type or lies outside the valid range.
        """
        if value is None and self.optional:
            return None
        if self.kind is bool:
            ok = isinstance(value, bool | np.bool_)
        elif self.choices:
            ok = isinstance(value, str) and value in self.choices
        else:
            expected = numbers.Integral if self.kind is int else numbers.Real
            ok = isinstance(value, expected) and not isinstance(value, bool | np.bool_)
            ok = ok and math.isfinite(value) and abs(value) < (2**31 if self.kind is int else 3e38)
            ok = ok and (self.low is None or value >= self.low) and (self.high is None or value <= self.high)
        if not ok:
            raise ParameterError(f"{owner}: {self.name} must be {self.valid}, but {value!r} was given.")
        return self.kind(value)


@dataclass(frozen=True, kw_only=True)
class Parametrised:
    """Base of frozen dataclasses whose fields are parameters.

    Raises:
        ParameterError: a parameter has the wrong type or lies outside its valid range.
    """

    def __post_init__(self) -> None:
        for parameter in self.parameters():
            value = parameter.coerce(getattr(self, parameter.name), self.label())
            object.__setattr__(self, parameter.name, value)

    @classmethod
    def label(cls) -> str:
        """What errors call it."""
        return cls.__name__

    @classmethod
    def parameters(cls) -> tuple[Parameter, ...]:
        """The declared parameters, in order."""
        hints = typing.get_type_hints(cls)
        return tuple(_parameter(cls, field, hints[field.name]) for field in dataclasses.fields(cls))

    @classmethod
    def make(cls, **params: Any) -> Self:
        """An instance with these parameters.

        Raises:
            ParameterError: a parameter is unknown, of the wrong type or out of range.
        """
        known = {parameter.name for parameter in cls.parameters()}
        for name in params:
            if name not in known:
                raise ParameterError(f"{cls.label()} has no parameter {name!r}; {nearest(name, known)}")
        return cls(**params)

    def params(self) -> dict[str, Any]:
        """Parameter values by name."""
        return {parameter.name: getattr(self, parameter.name) for parameter in self.parameters()}


def _parameter(cls: type[Parametrised], field: dataclasses.Field[Any], hint: Any) -> Parameter:
    if not field.metadata:
        raise DeclarationError(f"{cls.label()}: declare {field.name} with param(default, doc, …).")
    choices = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
    optional = isinstance(hint, types.UnionType) and set(typing.get_args(hint)) == {int, types.NoneType}
    kind = str if choices else int if optional else hint
    if kind not in (int, float, bool, str) or (kind is str and not choices):
        raise DeclarationError(
            f"{cls.label()}: {field.name} must be annotated int, int | None, float, bool or Literal[...]."
        )
    metadata = dict(field.metadata) | {"static": field.metadata["static"] or kind in (bool, str)}
    if optional and not (metadata["static"] and (metadata["low"] or 0) >= 1):
        raise DeclarationError(
            f"{cls.label()}: {field.name} may be None, so it must be static and have low=1 or more: "
            "the dynamics see None as 0."
        )
    return Parameter(name=field.name, kind=kind, default=field.default, choices=choices, optional=optional, **metadata)
