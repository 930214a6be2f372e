"""Runs the kernels of losses with Triton's interpreter, which needs no GPU, and compares them with torch's formulas.

TRITON_INTERPRET=1 python tests/interpret_loss.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from references.losses import CASES, Case

from gpu_marl_envs.training import PPO
from gpu_marl_envs.training.fused_loss import _loss


def main() -> None:
    for case in CASES:
        case.check("cpu", 1e-6)
    _check_that_gradients_are_given_once()
    _check_operator()


def _check_that_gradients_are_given_once() -> None:
    """They are scaled in place."""
    policy, samples, coefficients = Case().inputs("cpu")
    loss, _ = PPO().fused_loss(policy, samples, *coefficients)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def _check_operator() -> None:
    """Its schema, shapes and gradients are what torch.compile takes them for."""
    policy, samples, (clip_range, entropy_coefficient) = Case(PPO(), rows=5).inputs("cpu")
    logits, value = (output.detach().requires_grad_() for output in policy.outputs(samples.observation))
    rest = samples.action, None, torch.full((5,), -1.5), *torch.randn(3, 5), torch.ones(5)
    numbers = policy.distribution.counts, torch.tensor(5.0), clip_range, entropy_coefficient, 0.5
    torch.library.opcheck(_loss, (logits, value, *rest, *numbers))


if __name__ == "__main__":
    main()
