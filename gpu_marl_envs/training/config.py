"""The configuration of a run: read from a YAML file and the command line, written in full beside the run's results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from gpu_marl_envs import registry
from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.errors import ParameterError, nearest
from gpu_marl_envs.parameters import BOOLEANS
from gpu_marl_envs.spec import Environment
from gpu_marl_envs.training.algorithm import Algorithm, algorithm_named, algorithms
from gpu_marl_envs.training.checkpoints import replacing
from gpu_marl_envs.training.learner import Learner, PolicySpec
from gpu_marl_envs.training.networks import MLP, name_of, network_named

CONFIG_NAME = "config.yaml"
AUTO = "auto"
POLICY_FIELDS = {
    "groups": "groups that the policy plays, with commas between them (default: the group of its name)",
    "algorithm": "what trains it (default: the run's)",
    "network": "its network, a module class or function of yours as module:name (default: by the settings)",
    "frozen": "play without learning (default: False)",
    "weights": "checkpoint from which it starts, with the network that it has there",
}


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What ``gpu-marl train`` does; the fields are the keys of its YAML file.

    Beside the fields the file may have a key per algorithm, with settings that hold for all policies.

    Attributes:
        environment: the environment's id.
        env: its parameters by name.
        algorithm: name of the algorithm that trains the policies.
        settings: by algorithm, what holds for all policies that it trains; keys of the algorithms' names in a file.
        policies: by name, what the policies have of their own: ``groups``, ``algorithm``, ``network``, ``frozen``,
            ``weights`` and settings of the algorithm.
        num_envs: number of copies; ``"auto"`` measures; none leaves it to the device.
        total_steps: length of the run in agent-steps.
        seed: of all random numbers.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
        out: the run's folder; none names one after the time.
        overwrite: whether a run in this folder may be replaced.
        wandb: the Weights & Biases project.
        max_seconds: ends the run early.
        checkpoint_seconds: time between two checkpoints.
    """

    environment: str
    env: Mapping[str, Any] = field(default_factory=dict)
    algorithm: str = "ppo"
    settings: Mapping[str, Any] = field(default_factory=dict)
    policies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    num_envs: int | str | None = None
    total_steps: int = 10_000_000
    seed: int = 0
    device: str = AUTO
    out: str | None = None
    overwrite: bool = False
    wandb: str | None = None
    max_seconds: float = math.inf
    checkpoint_seconds: float = 60.0

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> RunConfig:
        """The configuration that a file, or a command line, means.

        Raises:
            ParameterError: a key is unknown or a value impossible.
        """
        values = dict(values)
        known = {one.name for one in fields(cls)} - {"settings"}
        if "environment" not in values:
            raise ParameterError("Say which environment to train on: ENV on the command line, or environment: in YAML.")
        for name in ("environment", "algorithm", "device", "out", "wandb"):
            if name in values and not (values[name] is None and name in ("out", "wandb")):
                _check_text(values[name], name)
        algorithm = values.get("algorithm", cls.algorithm)
        algorithm_named(algorithm)
        settings = {name: _mapping(values.pop(name), name) for name in algorithms() if name in values}
        for name in values:
            if name not in known:
                raise ParameterError(f"A run has no setting {name!r}; {nearest(name, known | set(algorithms()))}")
        if "overwrite" in values:
            values["overwrite"] = _truth(values["overwrite"], "overwrite")
        values["policies"] = _policies(values)
        used = {algorithm, *(entry.get("algorithm") for entry in values["policies"].values())}
        for name in settings.keys() - used:
            raise ParameterError(f"Settings of {name} have no effect, since nothing is trained by it.")
        for name in ("num_envs", "total_steps", "seed"):
            open_to = (None, AUTO) if name == "num_envs" else ()
            if name in values and values[name] not in open_to:
                values[name] = _whole(values[name], name, least=0 if name == "seed" else 1)
        for name in ("max_seconds", "checkpoint_seconds"):
            if name in values:
                values[name] = checked_seconds(values[name], name)
        values["env"] = _mapping(values.get("env"), "env")
        return cls(**values, settings=settings)

    def declaration(self) -> Environment:
        """The environment with its parameters.

        Raises:
            UnknownEnvironmentError: there is none of that id.
            ParameterError: a parameter is unknown or out of range.
        """
        return registry.get(self.environment).read(self.env)

    def default_algorithm(self) -> Algorithm:
        """What trains the policies that name nothing else."""
        return self._algorithm(self.algorithm, {})

    def specs(self) -> dict[str, PolicySpec]:
        """The policies, by name.

        Raises:
            ParameterError: a key is unknown or a value impossible.
        """
        specs = {}
        for name, entry in self.policies.items():
            own = {key: value for key, value in entry.items() if key not in POLICY_FIELDS}
            network = entry.get("network")
            specs[name] = PolicySpec(
                groups=_texts(entry.get("groups"), f"policies.{name}.groups"),
                algorithm=self._algorithm(entry.get("algorithm", self.algorithm), own),
                network=None if network is None else network_named(network),
                frozen=_truth(entry.get("frozen", False), f"policies.{name}.frozen"),
                weights=entry.get("weights"),
            )
        return specs

    def _algorithm(self, name: str, own: Mapping[str, Any]) -> Algorithm:
        return algorithm_named(name).read({**self.settings.get(name, {}), **own})


def read_config(path: Path) -> dict[str, Any]:
    """The content of a YAML file.

    Raises:
        FileNotFoundError: there is no such file.
        ParameterError: it is not YAML, or no mapping.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}; name the YAML file of a run.")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ParameterError(f"{path} must hold keys and values, as in 'environment: tag_continuous-v0'.")
    return content


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both, mappings within them included; ``above`` counts where both say something."""
    both = dict(below)
    for key, value in above.items():
        known = both.get(key)
        both[key] = merged(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return both


def resolved(env: BatchedEnv, learners: Mapping[str, Learner], **run: Any) -> dict[str, Any]:
    """A configuration that says everything but the folder, defaults included; :meth:`RunConfig.read` reads it.

    Args:
        env: the environment.
        learners: what is trained, and how.
        **run: the run's other settings.
    """
    policies = {}
    for name, learner in learners.items():
        spec = learner.spec
        policies[name] = {
            "groups": list(learner.groups),
            "frozen": learner.frozen,
            "algorithm": learner.algorithm.name,
            **learner.algorithm.params(),
        }
        if not isinstance(learner.policy.factory, MLP):
            policies[name]["network"] = name_of(learner.policy.factory)
        if spec.weights is not None:
            policies[name]["weights"] = str(spec.weights)
    return {
        "environment": env.declaration.id,
        "num_envs": env.num_envs,
        "device": str(env.device),
        **run,
        "env": env.declaration.params(),
        "policies": policies,
    }


def write_config(config: Mapping[str, Any], path: Path) -> None:
    """Writes YAML in one piece."""
    with replacing(path) as temporary:
        temporary.write_text(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))


def _policies(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    policies = _mapping(values.get("policies"), "policies")
    entries = {name: _mapping(entry, f"policies.{name}") for name, entry in policies.items()}
    for name, entry in entries.items():
        for key in ("algorithm", "network", "weights"):
            if key in entry and (key == "algorithm" or entry[key] is not None):
                _check_text(entry[key], f"policies.{name}.{key}")
    return entries


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ParameterError(f"{name} must hold keys and values, but {value!r} was given.")
    return dict(value)


def _check_text(value: Any, name: str) -> None:
    if not isinstance(value, str):
        raise ParameterError(f"{name} must be a text, but {value!r} was given.")


def _texts(value: Any, name: str) -> tuple[str, ...]:
    """A list, or what stands between commas."""
    texts = value.split(",") if isinstance(value, str) else () if value is None else value
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise ParameterError(f"{name} must be texts, in a list or with commas between them, but {value!r} was given.")
    return tuple(texts)


def _whole(value: Any, name: str, *, least: int) -> int:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not number.is_integer() or number < least:
        raise ParameterError(f"{name} must be a whole number of at least {least}, but {value!r} was given.")
    return int(value) if isinstance(value, int) else int(number)


def checked_seconds(value: Any, name: str) -> float:
    """A number of seconds, at least 0.

    Raises:
        ParameterError: it is none.
    """
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not number >= 0:
        raise ParameterError(f"{name} must be a number of seconds, but {value!r} was given.")
    return number


def _truth(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in BOOLEANS:
        return BOOLEANS[value.lower()]
    raise ParameterError(f"{name} must be true or false, but {value!r} was given.")
