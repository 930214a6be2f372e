"""Values that change over a run, such as a learning rate that falls to zero."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True)
class Schedule:
    """A value that is a piecewise linear function of how much of the run is done.

    Attributes:
        points: pairs of a fraction of the run, from 0 to 1 and never falling, and the value there. Between two points
            the value lies on their line; before the first and after the last it is theirs. Two points of one fraction
            make a jump.
    """

    points: tuple[tuple[float, float], ...]

    VALID = "a number, or fractions of the run and values there, as in '0:3e-4,1:0'"

    def __post_init__(self) -> None:
        fractions = [fraction for fraction, _ in self.points]
        in_order = all(before <= after for before, after in pairwise(fractions))
        in_range = all(0.0 <= fraction <= 1.0 for fraction in fractions)
        if not self.points or not in_order or not in_range or not all(math.isfinite(v) for _, v in self.points):
            raise ValueError(f"A schedule must be {self.VALID}, but {self.points!r} was given.")

    @classmethod
    def read(cls, value: Any) -> Schedule:
        """The schedule that is meant.

        Args:
            value: a schedule; a number, which is constant; text, ``"3e-4"`` or ``"0:3e-4,0.5:1e-4,1:0"``; or a mapping
                or pairs of fractions and values.

        Raises:
            ValueError: it is none of these.
        """
        if isinstance(value, Schedule):
            return value
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            return cls(((0.0, float(value)),))
        if isinstance(value, str):
            if ":" not in value:
                return cls(((0.0, float(value)),))
            return cls.read([part.split(":") for part in value.split(",")])
        pairs = value.items() if isinstance(value, Mapping) else value
        if not isinstance(pairs, Sequence) and not isinstance(value, Mapping):
            raise ValueError(f"A schedule must be {cls.VALID}, but {value!r} was given.")
        try:
            return cls(tuple((float(fraction), float(at)) for fraction, at in pairs))
        except TypeError:
            raise ValueError(f"A schedule must be {cls.VALID}, but {value!r} was given.") from None

    @classmethod
    def linear(cls, start: float, end: float) -> Schedule:
        """From ``start`` to ``end`` over the whole run."""
        return cls(((0.0, start), (1.0, end)))

    def at(self, fraction: float) -> float:
        """The value when ``fraction`` of the run, from 0 to 1, is done."""
        value = self.points[0][1]
        for (x0, y0), (x1, y1) in pairwise(self.points):
            if fraction >= x1:
                value = y1
            elif fraction > x0:
                return y0 + (y1 - y0) * (fraction - x0) / (x1 - x0)
        return value

    def plain(self) -> float | str:
        """What :meth:`read` reads, for files: a number if it is constant, else text."""
        if len(self.points) == 1:
            return self.points[0][1]
        return ",".join(f"{fraction!r}:{value!r}" for fraction, value in self.points)

    def extremes(self) -> tuple[float, float]:
        """The smallest and the largest value."""
        values = [value for _, value in self.points]
        return min(values), max(values)

    def __str__(self) -> str:
        return str(self.plain())
