"""Fused networks give what torch's layers give: through Triton's interpreter everywhere, and on GPUs for real."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from references.games import TAG
from references.mlp import CASES, Case
from torch import nn

from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.training import MLP, PPO, Interface, fused_mlp, train

Make = Callable[..., BatchedEnv]
# What rounding the operands of products leaves of outputs and gradients.
PRECISIONS = {"float32": 2e-5, "tf32": 1e-2, "bfloat16": 1e-1}


@pytest.fixture(params=PRECISIONS)
def precision(request: pytest.FixtureRequest) -> Any:
    """torch, set to it during a test."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if request.param == "tf32" else "highest")
    with torch.autocast("cuda", torch.bfloat16, enabled=request.param == "bfloat16"):
        yield request.param
    torch.set_float32_matmul_precision(before)


def test_kernels_give_what_layers_give_without_a_gpu() -> None:
    """In a process of its own: Triton reads once whether it interprets."""
    pytest.importorskip("triton", "3.6")
    script = Path(__file__).with_name("interpret_mlp.py")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", PRECISIONS)
def test_kernels_compile_for_hopper_without_one(name: str) -> None:
    """With its asynchronous matrix products, and within its shared memory."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from gpu_marl_envs.training.kernels import mlp

    kernel, launch = mlp.backward, fused_mlp.BACKWARD[name]
    constants: dict[str, Any] = dict(column_stride=1, INPUTS=18, HIDDEN=64, OUTPUTS=5, LAYERS=2)
    constants |= dict(ACTIVATION="tanh", PRECISION=name, TILE=launch.tile)
    kinds = dict(weights=("*fp32",) * 3, biases=("*fp32",) * 3, rows="i32", row_stride="i32")
    signature = {argument: kinds.get(argument, "*fp32") for argument in kernel.arg_names}
    signature |= dict.fromkeys(constants, "constexpr")
    places = {(kernel.arg_names.index(argument),): value for argument, value in constants.items()}
    options = {"num_warps": launch.warps, "num_stages": launch.stages}
    compiled = triton.compile(ASTSource(kernel, signature, places), target=GPUTarget("cuda", 90, 32), options=options)
    assert "wgmma.mma_async" in compiled.asm["ptx"]
    assert compiled.metadata.shared <= fused_mlp.SHARED_MEMORY


@pytest.mark.gpu
@pytest.mark.parametrize("case", [*CASES, Case(rows=100_003), Case(32, 64, 2, (64,), rows=1_000)], ids=str)
def test_kernels_give_what_layers_give(case: Case, precision: str) -> None:
    case.check("cuda", PRECISIONS[precision])


@pytest.mark.gpu
def test_half_precision_of_another_kind_stays_torchs() -> None:
    trunk, heads = Case().network("cuda")
    with torch.autocast("cuda", torch.float16):
        assert not fused_mlp.can_fuse(torch.randn(2, 18, device="cuda"), trunk, heads)


@pytest.mark.gpu
def test_gradients_are_the_same_every_time(precision: str) -> None:
    trunk, heads = Case().network("cuda")
    rows = torch.randn(100_000, 18, device="cuda")
    first, second = (
        torch.autograd.grad(fused_mlp.fused_mlp(rows, trunk, heads)[0].square().mean(), [*trunk.parameters()])
        for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.gpu
def test_a_cuda_graph_holds_the_kernels(precision: str) -> None:
    trunk, heads = Case().network("cuda")
    rows = torch.randn(10_000, 18, device="cuda")

    def gradients() -> list[torch.Tensor]:
        (output,) = fused_mlp.fused_mlp(rows, trunk, heads)
        return [output, *torch.autograd.grad(output.square().mean(), [*trunk.parameters()])]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):  # all of it on one, as gradients go where parameters were used first
        gradients()  # compiles, which a capture must not
        with torch.cuda.graph(graph, stream=stream):
            captured = gradients()
        rows.normal_()
        graph.replay()
        assert all(torch.equal(a, b) for a, b in zip(captured, gradients(), strict=True))


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")  # torch.compile's advice
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's compiler uses them itself
@pytest.mark.parametrize("device", ["cuda"])
@pytest.mark.parametrize("options", [{}, {"bfloat16": True}, {"shared_trunk": True}, {"compile_loss": True}], ids=str)
def test_training_is_the_same_with_and_without_fusion(make: Make, options: dict[str, Any]) -> None:
    histories = []
    for fused in (False, True):
        env = make("tag_continuous-v0", 64, autoreset_mode="SAME_STEP", **TAG)
        algorithm = PPO(fused=fused, fused_losses=fused, rollout_steps=16, epochs=2, **options)
        steps = 3 * env.num_envs * env.num_agents * algorithm.rollout_steps  # as written, recorded, replayed
        history = train(env, algorithm, total_steps=steps, progress=False).history
        assert len(history) == 3
        assert all(math.isfinite(row[f"{group}/value_loss"]) for row in history for group in ("tagger", "runner"))
        histories.append(history[0])  # later ones differ by more: rounding changes which actions are drawn
    tolerance = 2e-2 if "bfloat16" in options else 1e-3
    for key in ("policy_loss", "value_loss", "entropy", "gradient_norm"):
        for group in ("tagger", "runner"):
            name = f"{group}/{key}"
            assert histories[1][name] == pytest.approx(histories[0][name], rel=tolerance, abs=tolerance), name


def test_layers_that_no_kernel_knows_stay_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_mlp, "_runs_on", lambda device: True)
    rows = torch.randn(2, 18)

    def fits(size: int = 18, rows: torch.Tensor = rows, **options: Any) -> bool:
        network = MLP(**options)(Interface(size, 5))
        return fused_mlp.can_fuse(rows, network.actor_trunk, [network.actor_head])

    assert fits() and fits(activation="relu", hidden_layers=3, hidden_size=32)
    assert not fits(activation="gelu")
    assert not fits(hidden_layers=0) and not fits(hidden_layers=4)
    assert not fits(hidden_size=65) and not fits(65, torch.randn(2, 65))
    assert not fits(hidden_layers=3)  # in single precision; half of it has room for them
    assert not fits(rows=rows.clone().requires_grad_())
    trunk, heads = Case().network("cpu")
    assert fused_mlp.can_fuse(rows, trunk, heads)
    assert not fused_mlp.can_fuse(rows, trunk, [nn.Linear(64, 5, bias=False)])
    assert not fused_mlp.can_fuse(rows, trunk.double(), heads)
