"""Fused losses give what the formulas give: through Triton's interpreter everywhere, and on GPUs for real."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Space
from references.losses import CASES, Case

from gpu_marl_envs.spec import Group
from gpu_marl_envs.training import A2C, PPO, ActorCritic, fused_loss


def test_kernels_give_what_formulas_give_without_a_gpu() -> None:
    """In a process of its own: Triton reads once whether it interprets."""
    pytest.importorskip("triton", "3.6")
    script = Path(__file__).with_name("interpret_loss.py")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("unused", [("mask", "old_value"), ("mask", "old_value", "clip_range"), ()], ids=str)
def test_the_kernel_compiles_for_hopper_without_one(unused: tuple[str, ...]) -> None:
    """In the shared memory that every GPU has."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from gpu_marl_envs.training.kernels import loss

    launch = fused_loss.LAUNCHES[1]
    constants = dict(COMPONENTS=2, CHOICES=21, TILE=launch.tile, LANES=launch.lanes) | dict.fromkeys(unused)
    kinds = dict(action="*i32", counts="*i32", mask="*i1", value_coefficient="fp32")
    kinds |= dict.fromkeys(("rows", "row_stride", "value_stride"), "i32")
    signature = {argument: kinds.get(argument, "*fp32") for argument in loss.loss.arg_names}
    signature |= dict.fromkeys(constants, "constexpr")
    places = {(loss.loss.arg_names.index(argument),): value for argument, value in constants.items()}
    source = ASTSource(loss.loss, signature, places)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": launch.warps})
    assert compiled.metadata.shared <= 48 * 1024


@pytest.mark.gpu
@pytest.mark.parametrize("case", [*CASES, Case(rows=100_003), Case(A2C(), (21, 21), rows=100_003)], ids=str)
def test_kernels_give_what_formulas_give(case: Case) -> None:
    case.check("cuda", 1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("algorithm", [PPO(clip_values=True), A2C()], ids=lambda algorithm: algorithm.name)
def test_a_cuda_graph_holds_the_kernels_and_gives_the_same_bits(algorithm: PPO | A2C) -> None:
    policy, samples, coefficients = Case(algorithm, dead=False, rows=100_003).inputs("cuda")

    def results() -> list[torch.Tensor]:
        loss, terms = algorithm.fused_loss(policy, samples, *coefficients)
        return [loss, *terms.values(), *torch.autograd.grad(loss, [*policy.parameters()])]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):  # all of it on one, as gradients go where parameters were used first
        results()  # compiles, which a capture must not
        with torch.cuda.graph(graph, stream=stream):
            captured = results()
        samples.advantage.normal_()
        for coefficient in coefficients:
            coefficient.mul_(2)
        graph.replay()
        assert all(torch.equal(a, b) for a, b in zip(captured, results(), strict=True))


def test_losses_that_no_kernel_knows_stay_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_loss, "has_triton", lambda device: True)

    def policy(space: Space) -> ActorCritic:
        return ActorCritic(Group("player", 1, Box(-1.0, 1.0, (3,)), space))

    assert fused_loss.can_fuse_loss(policy(Discrete(5)))
    assert fused_loss.can_fuse_loss(policy(MultiDiscrete([21, 21])))
    assert fused_loss.can_fuse_loss(policy(MultiDiscrete([5] * 16)))
    assert not fused_loss.can_fuse_loss(policy(MultiDiscrete([5] * 17)))
    assert not fused_loss.can_fuse_loss(policy(MultiDiscrete([2, 65])))
    assert not fused_loss.can_fuse_loss(policy(Box(-1.0, 1.0, (2,))))
    assert not fused_loss.can_fuse_loss(policy(Discrete(5)).double())
