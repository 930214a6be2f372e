"""The random numbers of a run: the same on every device, and as well in a CUDA graph as outside."""

from __future__ import annotations

import torch
from torch import Tensor

from gpu_marl_envs.checks import seed_bits
from gpu_marl_envs.errors import ParameterError
from gpu_marl_envs.training.functions import launch


class RandomStream:
    """A sequence of draws, each of which gives as many random numbers as are asked for.

    A number is a function of the seed, the number of the draw and the row it is for (Philox4x32-10). The number of the
    next draw is the sum of ``position``, which is on the device, and ``offset``, which is not. A CUDA graph holds the
    offsets of its draws; if it ends with :meth:`advance`, its replays continue the sequence that calls without a graph
    would give.

    Args:
        seed: of the sequence, from 0 to 2**64 - 1.
        device: where numbers are drawn.

    Attributes:
        position: int64 ``[]``, number of draws before those since the last call of :meth:`advance`.
        offset: number of draws since.

    Raises:
        ParameterError: the seed is no such number.
    """

    def __init__(self, seed: int, device: str | torch.device = "cpu") -> None:
        self._seed = seed_bits(seed)
        self.position = torch.zeros((), dtype=torch.int64, device=device)
        self.offset = 0

    def next(self, device: torch.device) -> tuple[int, int, int]:
        """The members of ``Draw`` in ``cuda_src/training/draw.cuh`` for the next draw.

        Raises:
            ParameterError: the tensors to draw for are on another device.
        """
        if device != self.position.device:
            raise ParameterError(f"Random numbers of {self.position.device} cannot be drawn for tensors on {device}.")
        self.offset += 1
        return self._seed, self.position.data_ptr(), self.offset - 1

    def advance(self) -> None:
        """Brings the position on the device up to the present."""
        self.position += self.offset
        self.offset = 0

    def save(self) -> Tensor:
        """The number of draws so far, int64 ``[]``; with the seed it is all that later draws depend on."""
        return self.position + self.offset

    def restore(self, saved: Tensor) -> None:
        """Goes to where :meth:`save` was called, perhaps on another device."""
        self.position.copy_(saved)
        self.offset = 0


def uniform(shape: tuple[int, ...], random: RandomStream) -> Tensor:
    """Numbers that are uniform on [0, 1), float32 of that shape."""
    number = torch.empty(shape, device=random.position.device)
    draw, count = random.next(number.device), number.numel()
    launch("Uniform", number.device, count, draw=draw, number=number, count=count)
    return number


def permutation(count: int, random: RandomStream) -> Tensor:
    """The numbers 0, 1, …, ``count`` - 1 in a random order, int64 ``[count]``."""
    order = torch.empty(count, dtype=torch.int64, device=random.position.device)
    launch("Permutation", order.device, count, draw=random.next(order.device), order=order, count=count)
    return order
