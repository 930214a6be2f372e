"""Parameters that are declared once, as fields of a frozen dataclass, with defaults, units and valid ranges.

From the declaration come the validation and its messages, the flags of the command line and the documentation.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Self

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
        default: the default value; its annotation is ``int``, ``float``, ``bool`` or ``Literal[...]``, for one that is
            static and at least 1 ``int | None`` (the dynamics see None as 0), or one of the owner's
            :attr:`Parametrised.rich_types` (or a union with one).
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
    kind: Any  # int, float, bool, str (one of `choices`), or a rich type
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
    def rich(self) -> bool:
        """Whether its values are more than a number or a word, see :attr:`Parametrised.rich_types`."""
        return self.kind not in (int, float, bool, str)

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
        kind = self.kind.VALID if self.rich else "a whole number" if self.kind is int else "a number"
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
        if self.rich:
            return self._coerce_rich(value, owner)
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

    def _coerce_rich(self, value: Any, owner: str) -> Any:
        try:
            read = self.kind.read(value)
            low, high = read.extremes()
            ok = (self.low is None or low >= self.low) and (self.high is None or high <= self.high)
        except ValueError:
            ok = False
        if not ok:
            raise ParameterError(f"{owner}: {self.name} must be {self.valid}, but {value!r} was given.")
        return read

    def read(self, value: Any, owner: str) -> Any:
        """Like :meth:`coerce`, for values that may be text, as in files and on command lines.

        Raises:
            ParameterError: the value has the wrong type or lies outside the valid range.
        """
        if self.optional and isinstance(value, str) and value.lower() == "none":
            return None
        if isinstance(value, str) and not self.rich and not self.choices:
            value = BOOLEANS.get(value.lower(), value) if self.kind is bool else _number(value, self.kind)
        elif self.kind is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        return self.coerce(value, owner)


BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def _number(text: str, kind: type) -> Any:
    """The number that is written there, 1e6 being a whole one; the text if it is none."""
    try:
        number = float(text)
        return int(number) if kind is int and number.is_integer() else number
    except (ValueError, OverflowError):
        return text


@dataclass(frozen=True, kw_only=True)
class Parametrised:
    """Base of frozen dataclasses whose fields are parameters.

    Class attributes that a subclass may set:
        rich_types: further types that its parameters may have. Such a type has a class method ``read(value)`` that
            raises ValueError for what is none of its values, ``plain()``, which ``read`` reads and a file can hold,
            ``extremes()``, the smallest and the largest number in it, and ``VALID``, what values are valid in words.

    Raises:
        ParameterError: a parameter has the wrong type or lies outside its valid range.
    """

    rich_types: ClassVar[tuple[type, ...]] = ()

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

    @classmethod
    def read(cls, params: Mapping[str, Any]) -> Self:
        """Like :meth:`make`, for values that may be text, as in files and on command lines.

        Raises:
            ParameterError: a parameter is unknown, of the wrong type or out of range.
        """
        known = {parameter.name: parameter for parameter in cls.parameters()}
        readable = {
            name: known[name].read(value, cls.label()) if name in known else value for name, value in params.items()
        }
        return cls.make(**readable)

    def params(self) -> dict[str, Any]:
        """Parameter values by name, as numbers, words and truth values."""
        values = {parameter.name: getattr(self, parameter.name) for parameter in self.parameters()}
        return {name: value.plain() if hasattr(value, "plain") else value for name, value in values.items()}


def _parameter(cls: type[Parametrised], field: dataclasses.Field[Any], hint: Any) -> Parameter:
    if not field.metadata:
        raise DeclarationError(f"{cls.label()}: declare {field.name} with param(default, doc, …).")
    choices = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
    members = typing.get_args(hint) if isinstance(hint, UnionType) else (hint,)
    optional = set(members) == {int, NoneType}
    rich = next((member for member in members if member in cls.rich_types), None)
    kind = str if choices else int if optional else rich or hint
    if not (choices or rich or kind in (int, float, bool)):
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
