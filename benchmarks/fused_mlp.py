"""How fast small networks are, forward and backward: one kernel against torch's layers, eager and compiled.

python benchmarks/fused_mlp.py --json benchmarks/results/fused_mlp_gpu.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpu_marl_envs.benchmarking import provenance
from gpu_marl_envs.training import MLP, Interface
from gpu_marl_envs.training.fused_mlp import can_fuse, fused_mlp

# What rounding the operands of products leaves of outputs and gradients, of the largest of each.
TOLERANCES = {"float32": 1e-4, "tf32": 2e-2, "bfloat16": 5e-2}


@dataclass(frozen=True)
class Shape:
    """A network with two hidden layers, of tanh."""

    inputs: int
    hidden: int
    outputs: int

    @property
    def multiplications(self) -> int:
        """Of one row, forward; backward has twice as many, less those of a gradient of the inputs."""
        return self.hidden * (self.inputs + self.hidden + self.outputs)

    def flops(self, *, backward: bool) -> int:
        return 2 * (3 * self.multiplications - self.inputs * self.hidden if backward else self.multiplications)


SHAPES = [Shape(18, 64, 5), Shape(18, 64, 1), Shape(6, 32, 4)]


def main() -> None:
    """Checks and times every shape in every precision, prints a table and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1 << 20)
    parser.add_argument("--json", type=Path, help="file to write the results to")
    arguments = parser.parse_args()
    results: dict[str, Any] = {"provenance": provenance(), "rows": arguments.rows, "timings": []}
    for shape in SHAPES:
        for precision in TOLERANCES:
            torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
            with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bfloat16"):
                results["timings"] += measure(shape, precision, arguments.rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def measure(shape: Shape, precision: str, count: int) -> list[dict[str, Any]]:
    """Times of the three ways, with and without backward."""
    torch.manual_seed(0)
    options = MLP(shape.hidden, orthogonal=False)
    network = options(Interface(shape.inputs, shape.outputs)).cuda()
    rows = torch.randn(count, shape.inputs, device="cuda")
    output_gradient = torch.randn(count, shape.outputs, device="cuda")
    trunk, head = network.actor_trunk, network.actor_head
    assert can_fuse(rows, trunk, [head])

    def layers(x: Tensor) -> Tensor:
        output: Tensor = head(trunk(x))
        return output

    def fused(x: Tensor) -> Tensor:
        return fused_mlp(x, trunk, [head])[0]

    parameters = [*trunk.parameters(), *head.parameters()]
    errors = _errors(fused, nn.Sequential(trunk, head), parameters, rows, output_gradient)
    assert max(errors) < TOLERANCES[precision], f"A wrong result has no speed, but {max(errors)} of the largest is off."
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "eager": layers,
        "compiled": torch.compile(layers, dynamic=False),
        "fused": fused,
    }
    timings = []
    for name, run in ways.items():

        def forward(run: Callable[[Tensor], Tensor] = run) -> None:
            with torch.no_grad():
                run(rows)

        def both(run: Callable[[Tensor], Tensor] = run) -> None:
            output = run(rows)
            torch.autograd.grad(output, parameters, output_gradient.to(output.dtype))

        row: dict[str, Any] = {"shape": vars(shape), "precision": precision, "way": name}
        if name == "fused":
            row["output_error"], row["gradient_error"] = errors[0], max(errors[1:])
        for part, call in (("forward", forward), ("forward and backward", both)):
            seconds = _seconds(call)
            flops = shape.flops(backward=part != "forward") * count / seconds
            row[part] = {"samples_per_second": count / seconds, "flops": flops}
        timings.append(row)
        figures = ", ".join(
            f"{part} {row[part]['samples_per_second'] / 1e6:.0f} M samples/s = {row[part]['flops'] / 1e12:.1f} TFLOP/s"
            for part in ("forward", "forward and backward")
        )
        print(f"{shape.inputs} - {shape.hidden} - {shape.hidden} - {shape.outputs}, {precision}, {name}: {figures}")
    print(
        f"    off by {errors[0]:.1e} of the largest output, {max(errors[1:]):.1e} of the largest gradients", flush=True
    )
    return timings


def _errors(
    fused: Callable[[Tensor], Tensor],
    layers: nn.Module,
    parameters: list[nn.Parameter],
    rows: Tensor,
    output_gradient: Tensor,
) -> list[float]:
    """Largest errors of outputs and of each gradient, as shares of the largest number."""
    output = fused(rows)
    got = [output, *torch.autograd.grad(output, parameters, output_gradient)]
    with torch.autocast("cuda", enabled=False):
        weights = {name: parameter.double() for name, parameter in layers.named_parameters()}
        exact = torch.func.functional_call(layers, weights, rows.double())
        wanted = [exact, *torch.autograd.grad(exact, parameters, output_gradient.double())]
    return [((a - b).abs().max() / b.abs().max()).item() for a, b in zip(got, wanted, strict=True)]


def _seconds(call: Callable[[], None], repetitions: int = 20) -> float:
    """The mean time of a call on the device, after some that warm up."""
    for _ in range(3):
        call()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repetitions):
        call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3 / repetitions


if __name__ == "__main__":
    main()
