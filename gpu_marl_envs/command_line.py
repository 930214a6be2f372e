"""What the commands share, also with the examples: devices, flags of declared parameters, and errors in one line."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from gpu_marl_envs import registry
from gpu_marl_envs.batched import BatchedEnv, make_batched
from gpu_marl_envs.errors import BackendUnavailableError, GpuMarlError
from gpu_marl_envs.parameters import BOOLEANS, Parameter
from gpu_marl_envs.spec import Environment

USER_ERROR, INTERRUPTED, UNREAD = 2, 130, 141  # exit codes, as shells use them
NUM_ENVS = {"cpu": 256, "cuda": 4096}  # copies to train on, by type of device
COPIES = f"copies stepped at once (default: {NUM_ENVS['cpu']} on a CPU, {NUM_ENVS['cuda']} on a GPU)"


FLAGS_ALONE = {"--overwrite", "--help"}  # options without a value


class CommandError(GpuMarlError, ValueError):
    """The command line makes no sense."""


class Parser(argparse.ArgumentParser):
    """Reports errors as exceptions, so that they leave as one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message} (`{self.prog} --help` explains)")


def make_env(
    env_id: str, num_envs: int | None, device: str, *, seed: int = 0, autoreset_mode: str = "NEXT_STEP", **params: Any
) -> BatchedEnv:
    """Like ``make_batched``, with ``device="auto"``: a GPU if everything that it takes is there, else the CPU.

    Says on stdout which device it took, and why, if that was left open. ``num_envs`` may be None for a number that
    suits the device.
    """
    options = {"seed": seed, "autoreset_mode": autoreset_mode, **params}
    if device != "auto":
        kind = device.partition(":")[0]
        return make_batched(env_id, num_envs or NUM_ENVS.get(kind, 1), device, **options)
    try:
        env = make_batched(env_id, num_envs or NUM_ENVS["cuda"], "cuda", **options)
    except BackendUnavailableError as error:
        print(f"device: cpu ({str(error).partition(';')[0]})")
        return make_batched(env_id, num_envs or NUM_ENVS["cpu"], "cpu", **options)
    print(f"device: {env.device}")
    return env


def add_flags(group: argparse._ArgumentGroup, prefix: str, parameters: Sequence[Parameter]) -> None:
    """Adds a flag ``--<prefix>.<parameter>`` for every parameter; see :func:`with_prefix`."""
    for parameter in parameters:
        unit = f" [{parameter.unit}]" if parameter.unit else ""
        group.add_argument(
            f"--{prefix}.{flag(parameter.name)}",
            dest=f"{prefix}.{parameter.name}",
            default=argparse.SUPPRESS,
            type=_reader(parameter),
            choices=parameter.choices or None,
            metavar=None if parameter.choices else parameter.kind.__name__.upper(),
            help=f"{parameter.doc}{unit} (default: {parameter.default})".replace("%", "%%"),
        )


def _reader(parameter: Parameter) -> Callable[[str], Any]:
    """Reads a parameter's value from the command line."""
    if parameter.rich:
        return str
    if parameter.optional:
        return _optional_count
    kind: Callable[[str], Any] = boolean if parameter.kind is bool else parameter.kind
    return kind


def _optional_count(text: str) -> int | None:
    """A whole number, or none."""
    try:
        return None if text.lower() == "none" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number or none, not {text!r}") from None


def with_prefix(options: argparse.Namespace, prefix: str) -> dict[str, Any]:
    """Values of the flags ``--<prefix>.…`` that were given, by parameter name."""
    given = vars(options).items()
    return {key.removeprefix(f"{prefix}."): value for key, value in given if key.startswith(f"{prefix}.")}


def flag(name: str) -> str:
    """A parameter's name as command lines write it."""
    return name.replace("_", "-")


def boolean(text: str) -> bool:
    """A truth value."""
    if text.lower() not in BOOLEANS:
        raise argparse.ArgumentTypeError(f"expected true or false, not {text!r}")
    return BOOLEANS[text.lower()]


def count(text: str) -> int:
    """A positive whole number, also as in 5e6."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not number.is_integer() or number < 1:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, not {text!r}")
    return int(number)


def seconds(text: str) -> float:
    """A positive duration."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number of seconds, not {text!r}")
    return number


def named_environment(words: Sequence[str]) -> type[Environment] | None:
    """The environment that the command line is about, wherever among its options it stands."""
    for before, word in itertools.pairwise(["", *words]):
        if before.startswith("--") and "=" not in before and before not in FLAGS_ALONE:
            continue  # the value of an option, such as a folder
        if word.removeprefix(f"{registry.NAMESPACE}/") in registry.ids():
            return registry.get(word)
    if words and not words[0].startswith("-"):
        return registry.get(words[0])  # raises, naming the nearest
    return None
