"""Small networks of fully connected layers, all of whose layers a GPU computes in one kernel, and again in backward.

Layer by layer, such networks are bound by memory: every activation is stored and loaded several times. The kernels, in
``kernels/mlp.py``, keep activations on chip, so nothing but inputs, outputs and the gradients of outputs is moved.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_TRITON = importlib.util.find_spec("triton") is not None
_ACTIVATIONS: dict[type[nn.Module], str] = {nn.Tanh: "tanh", nn.ReLU: "relu"}


SHARED_MEMORY = 227 * 1024  # bytes that the kernels may need of a multiprocessor: what Hopper gives, and few others


WIDEST = 64  # inputs, units of a hidden layer or outputs
DEEPEST = 3  # hidden layers
# As padded, for shared memory; float32 takes two of the numbers that are multiplied.
MOST_WEIGHTS = {"bfloat16": 16_384, "tf32": 16_384, "float32": 10_240}


class Launch(NamedTuple):
    """How a kernel is launched."""

    programs: int  # on each multiprocessor; each takes several tiles
    stages: int  # tiles of inputs in shared memory, all but one on their way
    tile: int = 64  # rows that a program computes at once, as Hopper's matrix products want for each four warps
    warps: int = 4  # of a program


# By precision, the fastest of what registers and shared memory allow, as measured on an H100.
FORWARD = {"bfloat16": Launch(4, 1), "tf32": Launch(8, 3), "float32": Launch(8, 3)}
BACKWARD = {"bfloat16": Launch(2, 1), "tf32": Launch(2, 2), "float32": Launch(2, 1)}


def can_fuse(inputs: Tensor, trunk: nn.Sequential, heads: Sequence[nn.Linear]) -> bool:
    """Whether :func:`fused_mlp` computes this, here and now."""
    return (
        _runs_on(inputs.device)
        and not (inputs.requires_grad and torch.is_grad_enabled())
        and not torch.compiler.is_exporting()
        and _has_known_layers(trunk, heads)
        and _fits(trunk, heads, precision())
    )


def fused_mlp(inputs: Tensor, trunk: nn.Sequential, heads: Sequence[nn.Linear]) -> tuple[Tensor, ...]:
    """What linear layers make of what a trunk makes of ``inputs`` ``[..., size]``: float32 ``[..., outputs]`` each.

    It is differentiable with respect to the parameters, not to the inputs. The order of all sums is fixed, so equal
    inputs give equal outputs and gradients on the same type of device.
    """
    layers = _linear_layers(trunk)
    sizes = [head.out_features for head in heads]
    weights = [layer.weight for layer in layers] + [_joined(head.weight for head in heads)]
    biases = [layer.bias for layer in layers] + [_joined(head.bias for head in heads)]
    products = precision()
    assert products is not None
    outputs = _mlp(inputs.reshape(-1, inputs.shape[-1]), weights, biases, _ACTIVATIONS[type(trunk[1])], products)
    return outputs.view(*inputs.shape[:-1], sum(sizes)).split(sizes, -1)


def precision() -> str | None:
    """What matrix products shall be computed in, as torch is set: none that the kernels know is none.

    With ``torch.set_float32_matmul_precision`` at ``"highest"``, its default, products are those of float32 but for the
    last bits; at ``"high"`` and ``"medium"`` their operands have TF32's 10 bits. Sums are in float32 always.
    """
    if torch.is_autocast_enabled("cuda"):
        return "bfloat16" if torch.get_autocast_dtype("cuda") is torch.bfloat16 else None
    # torch.compile knows this flag, which follows that function.
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "float32"


def has_triton(device: torch.device) -> bool:
    """Whether Triton's kernels run there."""
    return _TRITON and device.type == "cuda" and torch.cuda.get_device_properties(device).major >= 8


def _runs_on(device: torch.device) -> bool:
    if not has_triton(device):
        return False
    properties = torch.cuda.get_device_properties(device)
    return getattr(properties, "shared_memory_per_block_optin", 0) >= SHARED_MEMORY  # only NVIDIA's have it


def _has_known_layers(trunk: nn.Sequential, heads: Sequence[nn.Linear]) -> bool:
    layers, activations = list(trunk)[::2], {type(layer) for layer in list(trunk)[1::2]}
    if not layers or len(trunk) % 2 or len(activations) != 1 or not activations <= _ACTIVATIONS.keys():
        return False
    if any(type(layer) is not nn.Linear or layer.bias is None for layer in (*layers, *heads)):
        return False
    if any(parameter.dtype is not torch.float32 for layer in (*layers, *heads) for parameter in layer.parameters()):
        return False
    return all(layer.out_features == layers[0].out_features for layer in layers)


def _fits(trunk: nn.Sequential, heads: Sequence[nn.Linear], precision: str | None) -> bool:
    """Whether registers and shared memory have room."""
    if precision is None:
        return False
    linear = _linear_layers(trunk)
    inputs, hidden = linear[0].in_features, linear[0].out_features
    outputs = sum(head.out_features for head in heads)
    padded_inputs, padded_hidden, padded_outputs = (
        max(16, 1 << (size - 1).bit_length()) for size in (inputs, hidden, outputs)
    )
    weights = padded_hidden * (padded_inputs + (len(linear) - 1) * padded_hidden + padded_outputs)
    return len(linear) <= DEEPEST and max(inputs, hidden, outputs) <= WIDEST and weights <= MOST_WEIGHTS[precision]


def _linear_layers(trunk: nn.Sequential) -> list[nn.Linear]:
    return [layer for layer in trunk if isinstance(layer, nn.Linear)]


def _joined(parameters: Iterable[Tensor]) -> Tensor:
    first, *others = parameters
    return torch.cat([first, *others]) if others else first


# ---- the operators, opaque to torch.compile ----


@torch.library.custom_op("gpu_marl_envs::mlp", mutates_args=())
def _mlp(inputs: Tensor, weights: list[Tensor], biases: list[Tensor], activation: str, precision: str) -> Tensor:
    """The outputs ``[rows, outputs]`` for inputs ``[rows, size]``."""
    from gpu_marl_envs.training.kernels import mlp as kernels

    outputs = torch.empty(len(inputs), len(biases[-1]), device=inputs.device)
    if outputs.numel():
        _launch(kernels.forward, FORWARD[precision], inputs, weights, biases, [outputs], activation, precision)
    return outputs


@torch.library.custom_op("gpu_marl_envs::mlp_gradients", mutates_args=())
def _gradients(
    output_gradients: Tensor,
    inputs: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    activation: str,
    precision: str,
) -> Tensor:
    """The gradients of all weights and then of all biases, one behind the other."""
    from gpu_marl_envs.training.kernels import mlp as kernels

    launch, parameters = BACKWARD[precision], sum(tensor.numel() for tensor in (*weights, *biases))
    if not len(inputs):
        return torch.zeros(parameters, device=inputs.device)
    programs = _programs(launch, inputs)
    parts = torch.empty(programs, parameters, device=inputs.device)
    output_gradients = output_gradients.contiguous()
    _launch(kernels.backward, launch, inputs, weights, biases, [output_gradients, parts], activation, precision)
    sums = torch.empty(parameters, device=inputs.device)
    with torch.cuda.device_of(inputs):
        kernels.sum_parts[-(-parameters // 32),](parts, sums, programs, parameters, TILE=32, COLUMNS=32)
    return sums


def _launch(
    kernel: Any,
    launch: Launch,
    inputs: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    others: Sequence[Tensor],
    activation: str,
    precision: str,
) -> None:
    with torch.cuda.device_of(inputs):
        kernel[_programs(launch, inputs),](
            inputs,
            tuple(weights),
            tuple(biases),
            *others,
            len(inputs),
            *inputs.stride(),
            INPUTS=inputs.shape[1],
            HIDDEN=len(biases[0]),
            OUTPUTS=len(biases[-1]),
            LAYERS=len(weights) - 1,
            ACTIVATION=activation,
            PRECISION=precision,
            TILE=launch.tile,
            num_warps=launch.warps,
            num_stages=launch.stages,
        )


def _programs(launch: Launch, inputs: Tensor) -> int:
    tiles = -(-len(inputs) // launch.tile)
    if not inputs.is_cuda:  # Triton's interpreter
        return min(tiles, launch.programs)
    return min(tiles, launch.programs * torch.cuda.get_device_properties(inputs.device).multi_processor_count)


@_mlp.register_fake
def _(inputs: Tensor, weights: list[Tensor], biases: list[Tensor], activation: str, precision: str) -> Tensor:
    return torch.empty(inputs.shape[0], biases[-1].shape[0], device=inputs.device)


@_gradients.register_fake
def _(
    output_gradients: Tensor,
    inputs: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    activation: str,
    precision: str,
) -> Tensor:
    return torch.empty(sum(tensor.numel() for tensor in (*weights, *biases)), device=inputs.device)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    rows, weights, biases, ctx.activation, ctx.precision = inputs
    ctx.save_for_backward(rows, *weights, *biases)


def _backward(ctx: Any, output_gradients: Tensor) -> tuple[None, list[Tensor], list[Tensor], None, None]:
    inputs, *parameters = ctx.saved_tensors
    layers = len(parameters) // 2
    flat = _gradients(output_gradients, inputs, parameters[:layers], parameters[layers:], ctx.activation, ctx.precision)
    parts = flat.split([parameter.numel() for parameter in parameters])
    gradients = [part.view(parameter.shape) for part, parameter in zip(parts, parameters, strict=True)]
    return None, gradients[:layers], gradients[layers:], None, None


_mlp.register_autograd(_backward, setup_context=_keep)
