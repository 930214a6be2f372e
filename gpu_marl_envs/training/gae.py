"""Generalised advantage estimation (Schulman et al., 2016, arXiv:1506.02438)."""

from __future__ import annotations

import torch
from torch import Tensor

from gpu_marl_envs.training.functions import launch


def generalized_advantages(
    reward: Tensor,
    value: Tensor,
    final_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    done: Tensor,
    discount: float,
    gae_lambda: float,
) -> Tensor:
    """Advantage estimates, equations 11 to 16 of the paper.

    After termination nothing is earned, so nothing is bootstrapped; after truncation the value of the final observation
    stands for what would have followed. Either way the sum over later steps stops. All tensors are contiguous.

    Args:
        reward: float32 ``[T, E, n]``.
        value: float32 ``[T + 1, E, n]``, of the observations that the policy acted on, and of the last.
        final_value: float32 ``[S, E, n]``, of the observations at a copy's first, second, … truncation.
        terminated: bool ``[T, E, n]``, whether an agent left the game by the end of the step.
        truncated: bool ``[T, E]``, whether a copy's episode was cut off at the end of the step.
        done: bool ``[T, E]``, whether it ended there for either reason.
        discount: γ.
        gae_lambda: λ.

    Returns:
        float32 ``[T, E, n]``.
    """
    advantage = torch.empty_like(reward)
    steps, copies, agents = reward.shape
    launch(
        "Advantages",
        reward.device,
        copies * agents,
        reward=reward,
        value=value,
        final_value=final_value,
        terminated=terminated,
        truncated=truncated,
        done=done,
        advantage=advantage,
        steps=steps,
        copies=copies,
        agents=agents,
        discount=discount,
        decay=discount * gae_lambda,
    )
    return advantage
