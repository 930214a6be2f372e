"""Runs the kernels of networks with Triton's interpreter, which needs no GPU, and compares them with torch's layers.

TRITON_INTERPRET=1 python tests/interpret_mlp.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from references.mlp import CASES, Case

from gpu_marl_envs.training import fused_mlp


def main() -> None:
    fused_mlp._runs_on = lambda device: True
    for case in CASES:
        case.check("cpu", 1e-6)
    _check_finite_differences()
    _check_operators()


def _check_finite_differences() -> None:
    """In single precision, so the steps are large and the tolerance is that of their curvature."""
    trunk, heads = Case(inputs=3, hidden=5, layers=2, outputs=(2,)).network("cpu")
    inputs = torch.randn(7, 3)
    (gradient,) = torch.autograd.grad(fused_mlp.fused_mlp(inputs, trunk, heads)[0].sum(), trunk[0].weight)
    differences, step = torch.zeros_like(gradient), 1e-2
    with torch.no_grad():
        for place in range(gradient.numel()):
            sums = []
            for sign in (1, -1):
                trunk[0].weight.view(-1)[place] += sign * step
                sums.append(fused_mlp.fused_mlp(inputs, trunk, heads)[0].sum())
                trunk[0].weight.view(-1)[place] -= sign * step
            differences.view(-1)[place] = (sums[0] - sums[1]) / (2 * step)
    torch.testing.assert_close(gradient, differences, rtol=1e-2, atol=1e-3)


def _check_operators() -> None:
    """Their schemas, shapes and gradients are what torch.compile takes them for."""
    weights = [nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(2, 4))]
    biases = [nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(2))]
    rest = (torch.randn(5, 3), weights, biases, "tanh", "float32")
    torch.library.opcheck(fused_mlp._mlp, rest)
    detached = [[parameter.detach() for parameter in group] for group in (weights, biases)]
    torch.library.opcheck(fused_mlp._gradients, (torch.randn(5, 2), rest[0], *detached, "tanh", "float32"))


if __name__ == "__main__":
    main()
