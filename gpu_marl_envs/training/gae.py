"""Generalised advantage estimation (Schulman et al., 2016, arXiv:1506.02438)."""

from __future__ import annotations

import torch
from torch import Tensor


def generalized_advantages(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    ended: Tensor,
    discount: float,
    gae_lambda: float,
) -> Tensor:
    """Advantage estimates, equations 11 to 16 of the paper.

    After termination nothing is earned, so nothing is bootstrapped; after truncation the value of the final observation
    stands for what would have followed. Either way the sum over later steps stops.

    Args:
        reward: ``[T, E, n]``.
        value: ``[T, E, n]``, V(s_t).
        next_value: ``[T, E, n]``, V of the observation that truly followed.
        terminated: bool ``[T, E, n]``.
        ended: bool ``[T, E, n]``, terminated or truncated.
        discount: γ.
        gae_lambda: λ.

    Returns:
        ``[T, E, n]``.
    """
    advantage = reward + discount * next_value.masked_fill(terminated, 0.0) - value
    decay = discount * gae_lambda * (~ended).to(advantage.dtype)
    for t in range(len(advantage) - 2, -1, -1):
        advantage[t] += decay[t] * advantage[t + 1]
    return advantage


def value_after_step(value: Tensor, final_value: Tensor, truncated: Tensor) -> Tensor:
    """The value of the observation that truly followed each step, although finished copies were reset at once.

    Args:
        value: ``[T + 1, E, n]``, of the observations that the policy acted on, and of the last.
        final_value: ``[S, E, n]``, of the observations at a copy's first, second, … truncation.
        truncated: bool ``[T, E]``.

    Returns:
        ``[T, E, n]``.
    """
    slot = (truncated.cumsum(0) - 1).clamp(min=0)[..., None].expand(value[1:].shape)
    return torch.where(truncated[..., None], final_value.gather(0, slot), value[1:])
