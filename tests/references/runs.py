"""What tests of training look at when runs are over."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from gpu_marl_envs.training import TrainingResult


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def assert_same_policies(first: TrainingResult, second: TrainingResult) -> None:
    for group, policy in first.policies.items():
        for name, tensor in policy.state_dict().items():
            assert torch.equal(tensor, second.policies[group].state_dict()[name]), (group, name)
