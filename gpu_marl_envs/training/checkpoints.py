"""Checkpoints: plain dictionaries of numbers, strings and tensors, written so that a kill never leaves half a file."""

from __future__ import annotations

import os
import pickle
import uuid
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.errors import GpuMarlError
from gpu_marl_envs.training.algorithm import algorithm_named
from gpu_marl_envs.training.learner import Learner, PolicySpec
from gpu_marl_envs.training.networks import name_of, network_named
from gpu_marl_envs.training.policies import ActorCritic

CHECKPOINT_NAME = "checkpoint.pt"
HALF_WRITTEN = ".part"  # ends the names of files that do not count yet
FORMAT = 3  # raised whenever an older reader would misunderstand the file


class CheckpointError(GpuMarlError, ValueError):
    """A file is not a checkpoint of this package, or does not fit the environment."""


@dataclass(frozen=True)
class Checkpoint:
    """A training run at the end of one iteration: all that its policies, and its next iteration, depend on.

    Attributes:
        env_id: the environment's id.
        env_params: all its parameters by name.
        num_envs: number of copies.
        device: on which they were.
        total_steps: length of the run in agent-steps.
        seed: the seed of the run.
        iteration: number of finished iterations.
        agent_steps: number of steps taken, summed over copies and agents.
        seconds: wall-clock time so far.
        policies: by name, what :func:`learner_state` says.
        random_state: what ``RandomStream.save`` returned.
        env_state: what ``env.state.save()`` returned.
        rollout: what :meth:`Rollout.save` returned.
    """

    env_id: str
    env_params: dict[str, Any]
    num_envs: int
    device: str
    total_steps: int
    seed: int
    iteration: int
    agent_steps: int
    seconds: float
    policies: dict[str, dict[str, Any]]
    random_state: Tensor
    env_state: dict[str, Tensor]
    rollout: dict[str, Any]

    def save(self, path: Path) -> None:
        """Writes the file in one piece: whoever reads ``path`` finds the old checkpoint or the new one.

        Raises:
            OSError: the folder cannot be written.
        """
        with replacing(path) as temporary, temporary.open("wb") as file:
            torch.save({"format": FORMAT, **vars(self)}, file)
            file.flush()
            os.fsync(file.fileno())

    @classmethod
    def load(cls, path: str | Path) -> Checkpoint:
        """Reads a file that :meth:`save` wrote; tensors are on the CPU. Nothing in the file is executed.

        Args:
            path: of the file, or of the run's folder.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: the file is something else, is damaged or comes from another version.
        """
        path = Path(path)
        if (path / CHECKPOINT_NAME).is_file():
            path /= CHECKPOINT_NAME
        if not path.exists():
            raise FileNotFoundError(f"There is no checkpoint {path}; `gpu-marl train` writes them.")
        try:
            if path.is_dir() or not zipfile.is_zipfile(path):
                raise pickle.UnpicklingError("torch.save writes zip files")
            content = torch.load(path, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # there is no end to what damage raises
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
        played = {group: name for name, policy in self.policies.items() for group in policy["groups"]}
        if played.keys() != env.groups.keys():
            raise CheckpointError(
                f"The checkpoint has policies for {', '.join(played)}, but the environment's groups are "
                f"{', '.join(env.groups)}; use the environment of the checkpoint."
            )
        made = {name: self._policy(env, name, policy["groups"][0]) for name, policy in self.policies.items()}
        return {group: made[name] for group, name in played.items()}

    def policy_for(self, env: BatchedEnv, name: str, groups: Sequence[str]) -> ActorCritic:
        """The policy of that name, or else the one that plays the first of the groups.

        Raises:
            CheckpointError: there is neither, or it was trained with other spaces.
        """
        if name in self.policies:
            return self._policy(env, name, groups[0])
        for other, policy in self.policies.items():
            if groups[0] in policy["groups"]:
                return self._policy(env, other, groups[0])
        raise CheckpointError(
            f"The checkpoint has no policy {name!r} and none for group {groups[0]!r}; it has "
            f"{', '.join(map(repr, self.policies))}."
        )

    def restore_learners(self, env: BatchedEnv) -> dict[str, Learner]:
        """The policies with their optimizers, as they were.

        Raises:
            CheckpointError: they do not fit the environment.
            ParameterError: a network is one of the user's, whose module is not imported.
        """
        policies = self.restore_policies(env)
        learners = {}
        for name, saved in self.policies.items():
            algorithm = algorithm_named(saved["algorithm"]).make(**saved["settings"])
            network = None if saved["network"] is None else network_named(saved["network"])
            spec = PolicySpec(
                groups=saved["groups"],
                algorithm=algorithm,
                network=network,
                frozen=saved["frozen"],
                weights=saved["initial_weights"],
            )
            learners[name] = Learner(name, spec, policies[saved["groups"][0]], env.device)
            if saved["optimizer"] is not None:
                learners[name].restore_optimizer(saved["optimizer"])
        return learners

    def _policy(self, env: BatchedEnv, name: str, group: str) -> ActorCritic:
        policy = ActorCritic.with_options(env.groups[group], self.policies[name]["options"])
        try:
            policy.load_state_dict(self.policies[name]["weights"])
        except RuntimeError as error:
            raise CheckpointError(
                f"The checkpoint's policy {name!r} was trained with other observations or actions than those of group "
                f"{group!r}; use the environment parameters of the checkpoint."
            ) from error
        return policy.to(env.device)


def learner_state(learner: Learner) -> dict[str, Any]:
    """What a checkpoint keeps of a learner, in numbers, words and tensors."""
    spec, algorithm = learner.spec, learner.algorithm
    return {
        "groups": list(learner.groups),
        "algorithm": algorithm.name,
        "settings": algorithm.params(),
        "frozen": learner.frozen,
        "network": None if spec.network is None else name_of(spec.network),
        "initial_weights": None if spec.weights is None else str(spec.weights),
        "options": learner.policy.options,
        "weights": learner.policy.state_dict(),
        "optimizer": None if learner.frozen else learner.optimizer.state_dict(),
    }


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write, which takes the place of ``path`` if nothing went wrong, and is removed otherwise."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{HALF_WRITTEN}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
