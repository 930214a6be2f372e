"""The state of a batch, as typed attributes that can be read, written, saved and restored."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from gpu_marl_envs.errors import StateError, nearest

_DTYPES = {"float32": torch.float32, "int32": torch.int32}


class State:
    """Tensors that hold a batch's state; the kernels read and write them in place.

    Attributes are the declared fields (``[num_envs, num_agents, …]``, or ``[num_envs, …]`` for fields of the
    environment), and of every environment:

    - ``step`` (int32 ``[num_envs]``): steps taken in this episode;
    - ``episode`` (int32 ``[num_envs]``): number of this episode since the copy was seeded;
    - ``key`` (int64 ``[num_envs]``): key of the copy's random numbers.

    Assigning to an attribute copies the values in; assigning to a part of one (``state.x[0] = 3``) works as well.
    """

    _public: dict[str, Tensor]
    _hidden: dict[str, Tensor]
    _changed: Callable[[], None]

    def __init__(self, public: dict[str, Tensor], hidden: dict[str, Tensor], changed: Callable[[], None]) -> None:
        """Wraps tensors.

        Args:
            public: what users see as attributes.
            hidden: what ``save`` includes besides.
            changed: called after ``restore``.
        """
        object.__setattr__(self, "_public", public)
        object.__setattr__(self, "_hidden", hidden)
        object.__setattr__(self, "_changed", changed)

    def __getattr__(self, name: str) -> Tensor:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._public[name]
        except KeyError:
            raise AttributeError(f"The state has no field {name!r}; {nearest(name, self._public)}") from None

    def __setattr__(self, name: str, value: Tensor) -> None:
        copy_into(self.__getattr__(name), value, f"state.{name}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._public]

    def __repr__(self) -> str:
        fields = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in self._public.items())
        return f"State({fields})"

    def fields(self) -> dict[str, Tensor]:
        """The tensors behind the attributes, by name."""
        return dict(self._public)

    def save(self) -> dict[str, Tensor]:
        """A copy of everything that the next steps depend on: fields, who is in the game, counters, random keys."""
        return {name: tensor.clone() for name, tensor in (self._public | self._hidden).items()}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Goes back to what :meth:`save` returned, here or on another device; stepping on repeats the same bits.

        Raises:
            StateError: the saved state is of another environment or another number of copies.
        """
        own = self._public | self._hidden
        if not isinstance(saved, Mapping):
            raise StateError(f"restore() takes what save() returned, but {type(saved).__name__} was given.")
        if saved.keys() != own.keys():
            raise StateError(f"The saved state has the fields {sorted(saved)}, but this one has {sorted(own)}.")
        for name, tensor in own.items():
            if not isinstance(saved[name], Tensor):
                raise StateError(f"The saved state.{name} is no tensor; give what save() returned.")
            _check(tensor, saved[name], f"saved state.{name}")
        for name, tensor in own.items():
            tensor.copy_(saved[name])
        self._changed()


def field_dtype(name: str) -> torch.dtype:
    """The torch dtype of a declared field's dtype."""
    return _DTYPES[name]


def copy_into(target: Tensor, value: Tensor, where: str) -> None:
    """Copies a value into a tensor of the state.

    Raises:
        StateError: it has another shape, or a dtype that does not convert without loss.
    """
    if not isinstance(value, Tensor):
        try:
            value = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError):
            raise StateError(f"{where} takes a tensor, but {type(value).__name__} was given.") from None
    if value.dim() == 0:
        value = value.expand(target.shape)
    _check(target, value, where)
    target.copy_(value)


def _check(target: Tensor, value: Tensor, where: str) -> None:
    if value.shape != target.shape:
        raise StateError(f"{where} has shape {list(target.shape)}, but {list(value.shape)} was given.")
    loses = value.dtype.is_floating_point and not target.dtype.is_floating_point
    if loses or value.dtype.is_complex or (target.dtype == torch.bool != value.dtype):
        raise StateError(f"{where} has dtype {target.dtype}, but {value.dtype} was given; convert it first.")
    if value.device.type == "cpu" and value.dtype == torch.int64 and target.dtype == torch.int32 and value.numel():
        if int(value.max()) >= 2**31 or int(value.min()) < -(2**31):
            raise StateError(f"{where} has dtype int32, but a value outside its range was given.")
