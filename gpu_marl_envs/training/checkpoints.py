"""Checkpoints: plain dictionaries of numbers, strings and tensors, written so that a kill never leaves half a file."""

from __future__ import annotations

import os
import pickle
import uuid
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.errors import GpuMarlError
from gpu_marl_envs.training.policies import ActorCritic

FORMAT = 1  # raised whenever an older reader would misunderstand the file


class CheckpointError(GpuMarlError, ValueError):
    """A file is not a checkpoint of this package, or does not fit the environment."""


@dataclass(frozen=True)
class Checkpoint:
    """A training run at the end of one iteration.

    Attributes:
        env_id: the environment's id.
        env_params: all its parameters by name.
        algorithm: the algorithm's name.
        hyperparameters: all its hyperparameters by name.
        iteration: number of finished iterations.
        agent_steps: number of steps taken, summed over copies and agents.
        seed: the seed of the run.
        policies: by group, the keyword arguments and the weights (``{"network": {...}, "weights": {...}}``).
        optimizers: by group, the optimizer's ``state_dict``.
    """

    env_id: str
    env_params: dict[str, Any]
    algorithm: str
    hyperparameters: dict[str, Any]
    iteration: int
    agent_steps: int
    seed: int
    policies: dict[str, dict[str, Any]]
    optimizers: dict[str, dict[str, Any]]

    def save(self, path: Path) -> None:
        """Writes the file in one piece: whoever reads ``path`` finds the old checkpoint or the new one.

        Raises:
            OSError: the folder cannot be written.
        """
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        try:
            with temporary.open("wb") as file:
                torch.save({"format": FORMAT, **vars(self)}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: str | Path) -> Checkpoint:
        """Reads a file that :meth:`save` wrote; tensors are on the CPU. Nothing in the file is executed.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: the file is something else, is damaged or comes from a newer version.
        """
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"There is no checkpoint {path}; `gpu-marl train` writes them.")
        try:
            if path.is_dir() or not zipfile.is_zipfile(path):
                raise pickle.UnpicklingError("torch.save writes zip files")
            content = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{path} is not a readable checkpoint; `gpu-marl train` writes them.") from error
        if not isinstance(content, dict) or "format" not in content:
            raise CheckpointError(f"{path} is not a checkpoint of this package; `gpu-marl train` writes them.")
        if content.pop("format") != FORMAT:
            raise CheckpointError(f"{path} was written by another version of this package; train again or upgrade.")
        if content.keys() != {field.name for field in fields(cls)}:
            raise CheckpointError(f"{path} is not a checkpoint of this package; `gpu-marl train` writes them.")
        return cls(**content)

    def restore_policies(self, env: BatchedEnv) -> dict[str, ActorCritic]:
        """The policies by group, on the environment's device.

        Raises:
            CheckpointError: the environment's groups or spaces are not those that the policies were trained with.
        """
        if self.policies.keys() != env.groups.keys():
            raise CheckpointError(
                f"The checkpoint has policies for {', '.join(self.policies)}, but the environment's groups are "
                f"{', '.join(env.groups)}; use the environment of the checkpoint."
            )
        policies = {}
        for name, group in env.groups.items():
            policy = ActorCritic(group, **self.policies[name]["network"])
            try:
                policy.load_state_dict(self.policies[name]["weights"])
            except RuntimeError as error:
                raise CheckpointError(
                    f"The checkpoint's policy of group {name!r} was trained with other observations or actions; "
                    "use the environment parameters of the checkpoint."
                ) from error
            policies[name] = policy.to(env.device)
        return policies


def policy_states(policies: Mapping[str, ActorCritic]) -> dict[str, dict[str, Any]]:
    """What :class:`Checkpoint` keeps of policies."""
    return {name: {"network": policy.network, "weights": policy.state_dict()} for name, policy in policies.items()}
