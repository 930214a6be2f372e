"""The losses of actor-critics with categorical actions, all of which a GPU computes, with gradients, in one kernel.

As torch's formulas they are dozens of kernels, each of which loads and stores as many numbers as there are logits, or
values. The kernel, in ``kernels/loss.py``, loads logits once and stores their gradients once. The networks before it
stay as they are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gpu_marl_envs.training.distributions import CategoricalActions
from gpu_marl_envs.training.fused_mlp import has_triton
from gpu_marl_envs.training.policies import ActorCritic
from gpu_marl_envs.training.samples import Samples

TERMS = ("policy_loss", "value_loss", "entropy", "approximate_kl", "clipped_fraction")


class Launch(NamedTuple):
    """How the kernel is launched."""

    most: int  # logits of a row, in whole multiples of the lanes for each component: registers hold them all
    programs: int  # on each multiprocessor; each takes several tiles
    tile: int  # rows that a program computes at once
    lanes: int  # threads that share a row
    warps: int = 4  # of a program


LAUNCHES = (
    Launch(most=8, programs=8, tile=128, lanes=1),
    Launch(most=128, programs=8, tile=16, lanes=8),
)
FINISH_TILE, SCALE_TILE, SCALE_PROGRAMS = 1024, 1024, 8


def can_fuse_loss(policy: ActorCritic) -> bool:
    """Whether :func:`fused_loss` computes this policy's loss, here and now."""
    distribution = policy.distribution
    return (
        has_triton(next(policy.parameters()).device)
        and isinstance(distribution, CategoricalActions)
        and _launch_for(distribution.components, distribution.choices) is not None
        and all(parameter.dtype is not torch.float64 for parameter in policy.parameters())
    )


def fused_loss(
    policy: ActorCritic,
    samples: Samples,
    value_coefficient: float,
    entropy_coefficient: Tensor,
    clip_range: Tensor | None = None,
    *,
    clip_values: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO's loss and its terms, or A2C's without a clip range: what :meth:`Algorithm.loss` of theirs returns.

    The order of all sums is fixed, so equal inputs give equal losses and gradients on the same type of device.

    Args:
        policy: with categorical actions.
        samples: what its agents did.
        value_coefficient: weight of the value loss.
        entropy_coefficient: weight of the entropy bonus, on the device.
        clip_range: how far the probability ratio may leave 1, on the device.
        clip_values: whether the change of a value is limited by the clip range as well.
    """
    distribution = policy.distribution
    assert isinstance(distribution, CategoricalActions)
    logits, value = policy.outputs(samples.observation, samples.state)
    loss, terms, _, _ = _loss(
        logits,
        value,
        samples.action,
        samples.mask,
        samples.log_prob,
        samples.advantage,
        samples.value if clip_values else None,
        samples.target,
        samples.weight,
        distribution.counts,
        samples.weight.sum().clamp(min=1),
        clip_range,
        entropy_coefficient,
        value_coefficient,
    )
    names = TERMS[:3] if clip_range is None else TERMS
    return loss, dict(zip(names, terms.unbind(), strict=False))


# ---- the operators, opaque to torch.compile ----


@torch.library.custom_op("gpu_marl_envs::loss", mutates_args=())
def _loss(
    logits: Tensor,
    value: Tensor,
    action: Tensor,
    mask: Tensor | None,
    old_log_prob: Tensor,
    advantage: Tensor,
    old_value: Tensor | None,
    target: Tensor,
    weight: Tensor,
    counts: Tensor,
    total_weight: Tensor,
    clip_range: Tensor | None,
    entropy_coefficient: Tensor,
    value_coefficient: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The loss, its terms ``[5]``, and its gradients by ``logits`` ``[N, components · choices]`` and ``value``."""
    from gpu_marl_envs.training.kernels import loss as kernels

    rows, components = len(logits), len(counts)
    choices = logits.shape[1] // components
    launch = _launch_for(components, choices)
    assert launch is not None
    programs = _programs(-(-rows // launch.tile), launch.programs, logits)
    loss, terms = logits.new_empty(()), logits.new_empty(len(TERMS))
    logit_gradients, value_gradients = logits.new_empty(logits.shape), logits.new_empty(rows)
    sums = logits.new_zeros(len(TERMS), max(programs, 1))
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    with torch.cuda.device_of(logits):
        if rows:
            kernels.loss[programs,](
                logits,
                value,
                action.contiguous(),
                None if mask is None else mask.contiguous(),
                old_log_prob.contiguous(),
                advantage.contiguous(),
                None if old_value is None else old_value.contiguous(),
                target.contiguous(),
                weight.contiguous(),
                counts,
                total_weight,
                clip_range,
                entropy_coefficient,
                logit_gradients,
                value_gradients,
                sums,
                rows,
                logits.stride(0),
                value.stride(0),
                value_coefficient,
                COMPONENTS=components,
                CHOICES=choices,
                TILE=launch.tile,
                LANES=launch.lanes,
                num_warps=launch.warps,
            )
        kernels.finish[1,](
            sums, total_weight, entropy_coefficient, loss, terms, sums.shape[1], value_coefficient, TILE=FINISH_TILE
        )
    return loss, terms, logit_gradients, value_gradients


def _launch_for(components: int, choices: int) -> Launch | None:
    fitting = (launch for launch in LAUNCHES if components * -(-choices // launch.lanes) * launch.lanes <= launch.most)
    return next(fitting, None)


def _programs(tiles: int, on_each_multiprocessor: int, on: Tensor) -> int:
    if not on.is_cuda:  # Triton's interpreter
        return min(tiles, on_each_multiprocessor)
    return min(tiles, on_each_multiprocessor * torch.cuda.get_device_properties(on.device).multi_processor_count)


@_loss.register_fake
def _(logits: Tensor, value: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        logits.new_empty(()),
        logits.new_empty(len(TERMS)),
        logits.new_empty(logits.shape),
        value.new_empty(len(value)),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, *others = output
    ctx.mark_non_differentiable(*others)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*others[1:])


def _backward(ctx: Any, factor: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if factor is None:
        return (None,) * 14
    logit_gradients, value_gradients = ctx.saved_tensors
    if type(factor) is Tensor:
        _scale(logit_gradients, value_gradients, factor)
    else:  # torch.compile traces this, and wants no change in place
        logit_gradients, value_gradients = factor * logit_gradients, factor * value_gradients
    return logit_gradients, value_gradients, *(None,) * 12


def _scale(logit_gradients: Tensor, value_gradients: Tensor, factor: Tensor) -> None:
    """Multiplies both in place, so that the usual factor of 1 costs nothing."""
    from gpu_marl_envs.training.kernels import loss as kernels

    rows, width = logit_gradients.shape
    if rows:
        with torch.cuda.device_of(factor):
            kernels.scale[_programs(-(-rows * width // SCALE_TILE), SCALE_PROGRAMS, factor),](
                logit_gradients, value_gradients, factor, rows, WIDTH=width, TILE=SCALE_TILE
            )
    # So that autograd refuses to go backward a second time, where they would be scaled twice.
    torch.autograd.graph.increment_version((logit_gradients, value_gradients))


_loss.register_autograd(_backward, setup_context=_keep)
