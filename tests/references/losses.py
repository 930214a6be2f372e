"""Losses of torch's formulas, in double precision, to compare fused ones with."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from gymnasium.spaces import Box, MultiDiscrete
from torch import Tensor, nn

from gpu_marl_envs.spec import Group
from gpu_marl_envs.training import A2C, PPO, ActorCritic, Algorithm, Interface, RandomStream
from gpu_marl_envs.training.samples import Samples

COEFFICIENTS = {"clip_range": 0.1, "entropy_coefficient": 0.03}

ALGORITHM = PPO(value_coefficient=0.7)


class Given(nn.Module):
    """A network whose outputs are its weights, next to each other as those of a shared trunk are."""

    def __init__(self, rows: int, interface: Interface, scale: float) -> None:
        super().__init__()
        self.outputs = nn.Parameter(scale * torch.randn(rows, interface.num_parameters + 1))
        with torch.no_grad():
            self.outputs[:, -1] /= scale

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.outputs
        if len(observation) != len(outputs):  # when the policy is made, it is tried with two rows
            outputs = outputs.new_zeros(len(observation), outputs.shape[1])
        return outputs[:, :-1], outputs[:, -1]


@dataclass(frozen=True)
class Case:
    """An algorithm, an action space and a number of rows."""

    algorithm: Algorithm = ALGORITHM
    choices: tuple[int, ...] = (5,)
    masked: bool = False
    dead: bool = True
    scale: float = 1.0  # of the logits
    rows: int = 150

    def inputs(self, device: str) -> tuple[ActorCritic, Samples, list[Tensor]]:
        """Arguments of a loss, far enough from the old policy that some ratios and values are clipped."""
        torch.manual_seed(0)
        group = Group("player", 1, Box(-1.0, 1.0, (1,), np.float32), MultiDiscrete(self.choices))
        policy = ActorCritic(group, lambda interface: Given(self.rows, interface, self.scale))
        observation = torch.zeros(self.rows, 1)
        logits, value = (output.detach() for output in policy.outputs(observation))
        mask = torch.rand(logits.shape) < 0.7 if self.masked else None
        action, log_prob = policy.distribution.sample(logits, RandomStream(0), mask)
        log_prob += 0.1 * torch.randn(self.rows)
        advantage, old_value, target = torch.randn(3, self.rows)
        weight = torch.ones(self.rows)
        if self.dead:
            weight[::3] = 0.0
            for field in (log_prob, advantage, old_value, target):
                field[::3] = torch.nan
        samples = Samples(observation, action, log_prob, advantage, value + 0.2 * old_value, target, weight, mask, None)
        coefficients = [torch.tensor(COEFFICIENTS[name]) for name in self.algorithm.coefficients]
        return policy.to(device), samples.each(lambda field: field.to(device)), [c.to(device) for c in coefficients]

    def check(self, device: str, tolerance: float) -> None:
        """Loss, terms and gradients are those of the formulas up to a share of the largest."""
        policy, samples, coefficients = self.inputs(device)
        exact_policy = copy.deepcopy(policy).double()
        exact_samples = samples.each(lambda field: field.double() if field.is_floating_point() else field)
        loss, terms = self.algorithm.fused_loss(policy, samples, *coefficients)
        # Formulas may make nothing of numbers without weight; gradients through a `where` are not that lenient.
        exact_samples = exact_samples.each(lambda field: field.nan_to_num() if field.is_floating_point() else field)
        exact, exact_terms = self.algorithm.loss(exact_policy, exact_samples, *[c.double() for c in coefficients])
        assert terms.keys() == exact_terms.keys()
        for key, term in {"loss": loss, **terms}.items():
            wanted = {"loss": exact, **exact_terms}[key]
            assert term.dtype is torch.float32 and (term is loss) == term.requires_grad
            torch.testing.assert_close(
                term.double(), wanted, rtol=tolerance, atol=tolerance, msg=lambda text, key=key: f"{key}: {text}"
            )
        factor = 3.0  # of what comes from behind
        (gradient,) = torch.autograd.grad(factor * loss, [*policy.parameters()])
        (wanted,) = torch.autograd.grad(factor * exact, [*exact_policy.parameters()])
        for part in (slice(None, -1), slice(-1, None)):
            # Where all is certain, gradients are differences of numbers as large as a row's share in a mean.
            scale = max(wanted[:, part].abs().max().item(), 1 / self.rows) if self.rows else 0.0
            torch.testing.assert_close(gradient[:, part].double(), wanted[:, part], rtol=0, atol=tolerance * scale)


CASES = [
    Case(),
    Case(dead=False, rows=64),
    Case(PPO(clip_values=True), masked=True),
    Case(PPO(clip_values=True, value_coefficient=0.3), choices=(21, 21), rows=65),
    Case(A2C(), choices=(21, 21)),
    Case(A2C(), choices=(3, 9, 2), masked=True),
    Case(choices=(1,), rows=1),
    Case(choices=(2, 4), scale=1e4),
    Case(A2C(), scale=1e4, masked=True),
    Case(A2C(), choices=(2,) * 9, rows=33),
    Case(rows=0),
]
