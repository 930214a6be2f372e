"""Networks of torch's own layers, in double precision, to compare fused ones with."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gpu_marl_envs.training.fused_mlp import can_fuse, fused_mlp


@dataclass(frozen=True)
class Case:
    """A network and a number of rows."""

    inputs: int = 18
    hidden: int = 64
    layers: int = 2
    outputs: tuple[int, ...] = (5,)
    activation: type[nn.Module] = nn.Tanh
    rows: int = 70

    def network(self, device: str) -> tuple[nn.Sequential, list[nn.Linear]]:
        torch.manual_seed(0)
        modules: list[nn.Module] = []
        for layer in range(self.layers):
            modules += [nn.Linear(self.hidden if layer else self.inputs, self.hidden), self.activation()]
        heads = [nn.Linear(self.hidden, outputs) for outputs in self.outputs]
        return nn.Sequential(*modules).to(device), [head.to(device) for head in heads]

    def check(self, device: str, tolerance: float) -> None:
        """Outputs and gradients are those of torch up to a share of their size.

        The share is of the norm: where an input of a ReLU is near zero, rounding decides for one row whether a unit
        is active.
        """
        torch.manual_seed(0)
        trunk, heads = self.network(device)
        rows = torch.randn(self.rows, self.inputs + 3, device=device)[:, 1:-2]  # not contiguous
        assert can_fuse(rows, trunk, heads)
        outputs = fused_mlp(rows, trunk, heads)
        output_gradients = [torch.randn_like(output) for output in outputs]
        exact_trunk, *exact_heads = (copy.deepcopy(module).double() for module in (trunk, *heads))
        features = exact_trunk(rows.double())
        exact = [head(features) for head in exact_heads]
        pairs = [*zip(outputs, exact, strict=True)]
        pairs += zip(
            _gradients(outputs, (trunk, *heads), output_gradients),
            _gradients(exact, (exact_trunk, *exact_heads), [gradient.double() for gradient in output_gradients]),
            strict=True,
        )
        for got, wanted in pairs:
            assert got.shape == wanted.shape and got.dtype is torch.float32
            assert bool((got.double() - wanted).norm() <= tolerance * wanted.norm())


def _gradients(outputs, modules, output_gradients) -> tuple[Tensor, ...]:
    parameters = [parameter for module in modules for parameter in module.parameters()]
    return torch.autograd.grad(outputs, parameters, output_gradients)


CASES = [
    Case(),
    Case(inputs=6, hidden=32, outputs=(2, 1), activation=nn.ReLU, rows=64),
    Case(inputs=21, hidden=24, layers=3, outputs=(1,), rows=1),
    Case(inputs=1, hidden=64, layers=1, outputs=(17,), rows=65),
    Case(rows=0),
]
