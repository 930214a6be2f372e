"""Draws actions: from categorical and from normal distributions, with the logarithm of their probability.

Nothing here waits for the device or has a shape that depends on data, so a CUDA graph can hold it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


def sample_categorical(logits: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws one choice from each distribution.

    Args:
        logits: ``[..., choices]``; choices whose probability rounds to zero are never drawn.
        generator: random numbers on the device of ``logits``.

    Returns:
        The choices, int64 ``[...]``, and their log-probabilities ``[...]``.
    """
    # The inverse of the cumulative distribution takes one random number: a third of the cost of multinomial(). A
    # uniform number is below 1, so its product with the total is below the total, and the first sum above it ends with
    # a choice that has added to it.
    log_probs = logits.log_softmax(-1)
    cumulative = log_probs.exp().cumsum(-1)
    uniform = torch.rand(*cumulative.shape[:-1], 1, generator=generator, device=cumulative.device)
    index = (cumulative <= uniform * cumulative[..., -1:]).sum(-1)
    return index, log_probs.gather(-1, index.unsqueeze(-1)).squeeze(-1)


def sample_gaussian(mean: Tensor, log_std: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws from a normal distribution with independent components.

    Args:
        mean: ``[..., components]``.
        log_std: logarithm of the standard deviation, ``[components]`` or as ``mean``.
        generator: random numbers on the device of ``mean``.

    Returns:
        The draws ``[..., components]`` and the logarithm of their joint density ``[...]``.
    """
    noise = torch.randn(mean.shape, generator=generator, device=mean.device)
    return mean + log_std.exp() * noise, gaussian_log_density(noise, log_std)


def gaussian_log_density(noise: Tensor, log_std: Tensor) -> Tensor:
    """Logarithm of the joint density ``[...]`` at mean + exp(``log_std``) · ``noise``, noise ``[..., components]``."""
    return (-0.5 * noise.square() - log_std - HALF_LOG_TWO_PI).sum(-1)
