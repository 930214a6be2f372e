"""Draws actions: from categorical and from normal distributions, with the logarithm of their probability.

Each draw is one launch of a kernel that reads its parameters once; the CPU gives the same bits as a GPU.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gpu_marl_envs.training.functions import launch
from gpu_marl_envs.training.randomness import RandomStream

HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


def sample_categorical(
    logits: Tensor,
    choices: Tensor,
    random: RandomStream,
    mask: Tensor | None = None,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Draws one choice for each of several independent components.

    Choices that do not exist, are masked, or have a probability below 2^-24 of the others', are never drawn. If all
    are masked, one of those that exist is drawn.

    Args:
        logits: float32 ``[..., components, most choices]``.
        choices: int32 ``[components]``, how many choices a component has; further ones are ignored.
        random: numbers on the device of ``logits``.
        mask: bool as ``logits``, the allowed choices; none allows all.
        out: contiguous tensors for the results.

    Returns:
        The choices, int32 ``[..., components]``, and their joint log-probability, float32 ``[...]``.
    """
    *batch, components, most_choices = logits.shape
    if out is None:
        out = logits.new_empty((*batch, components), dtype=torch.int32), logits.new_empty(batch)
    action, log_prob = out
    launch(
        "SampleCategorical",
        logits.device,
        log_prob.numel(),
        row_floats=components * most_choices,
        draw=random.next(logits.device),
        input=logits.contiguous(),
        mask=None if mask is None else mask.expand(logits.shape).contiguous(),
        choices=choices,
        output=action,
        log_probability=log_prob,
        rows=log_prob.numel(),
        components=components,
        most_choices=most_choices,
    )
    return action, log_prob


def sample_gaussian(
    mean: Tensor,
    log_std: Tensor,
    random: RandomStream,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Draws from a normal distribution with independent components.

    Args:
        mean: float32 ``[..., components]``.
        log_std: float32 ``[components]``, logarithms of the standard deviations.
        random: numbers on the device of ``mean``.
        out: contiguous tensors for the results.

    Returns:
        The draws, float32 ``[..., components]``, and the logarithm of their joint density, float32 ``[...]``.
    """
    *batch, components = mean.shape
    action, log_density = (mean.new_empty(mean.shape), mean.new_empty(batch)) if out is None else out
    launch(
        "SampleGaussian",
        mean.device,
        log_density.numel(),
        row_floats=components,
        draw=random.next(mean.device),
        input=mean.contiguous(),
        log_std=log_std.contiguous(),
        output=action,
        log_density=log_density,
        rows=log_density.numel(),
        components=components,
    )
    return action, log_density


def gaussian_log_density(noise: Tensor, log_std: Tensor) -> Tensor:
    """Logarithm of the joint density ``[...]`` at mean + exp(``log_std``) · ``noise``, noise ``[..., components]``."""
    return (-0.5 * noise.square() - log_std - HALF_LOG_TWO_PI).sum(-1)
