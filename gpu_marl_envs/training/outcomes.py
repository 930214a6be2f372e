"""What a rollout keeps of the episodes that end while it is collected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import TypeVar

from torch import Tensor

from gpu_marl_envs.training.functions import launch

STATISTICS, ROWS = 16, 8  # that one launch takes, as in cuda_src/training/outcomes.cuh
WARPS = 2048  # keep a large GPU busy
PART_BYTES = 4096  # that a warp should copy at least

T = TypeVar("T")


def keep_outcomes(
    step: int,
    done: Tensor,
    truncated: Tensor,
    statistics: Sequence[tuple[Tensor, Tensor]],
    rows: Sequence[tuple[Tensor, Tensor]],
) -> None:
    """Adds up the statistics of the episodes that ended in a step, and keeps what followed those that were cut off.

    Args:
        step: t.
        done: bool ``[E]``, whose episode ended.
        truncated: bool ``[T, E]``, whose episode was cut off in step t and earlier ones.
        statistics: pairs of float32 ``[E]``, numbers about the last episode of each copy, perhaps not contiguous, and
            the sums to which they are added.
        rows: pairs of ``[E, ...]``, observations after the step, and ``[S, E, ...]``, where they go if the copy was cut
            off: slot s belongs to its s-th truncation. Contiguous.
    """
    copies = len(done)
    for numbers, kept in zip_longest(_parts(statistics, STATISTICS), _parts(rows, ROWS), fillvalue=()):
        sizes = tuple(seen.nbytes // copies for seen, _ in kept)
        warps = -(-copies // 32)
        parts = max(1, min(WARPS // warps, max(sizes, default=0) // PART_BYTES))
        launch(
            "Outcomes",
            done.device,
            32 * warps * parts,
            done=done,
            truncated=truncated,
            statistic=tuple(number.data_ptr() for number, _ in numbers),
            stride=tuple(number.stride(0) for number, _ in numbers),
            sum=tuple(total.data_ptr() for _, total in numbers),
            seen=tuple(seen.data_ptr() for seen, _ in kept),
            kept=tuple(slots.data_ptr() for _, slots in kept),
            bytes=sizes,
            copies=copies,
            step=step,
            statistics=len(numbers),
            rows=len(kept),
            parts=parts,
        )


def _parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[first : first + size] for first in range(0, len(items), size))
