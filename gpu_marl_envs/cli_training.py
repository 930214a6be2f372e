"""The commands ``gpu-marl train``, ``eval`` and ``play``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpu_marl_envs import registry
from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.command_line import (
    COPIES,
    INTERRUPTED,
    CommandError,
    Parser,
    add_flags,
    count,
    flag,
    make_env,
    named_environment,
    with_prefix,
)
from gpu_marl_envs.errors import nearest

if TYPE_CHECKING:
    from gpu_marl_envs.training import Checkpoint, Policy, TrainingResult
    from gpu_marl_envs.training.config import RunConfig

FRAMES_PER_SECOND = 12.0
_POLICY_FLAG = re.compile(r"--policies\.([A-Za-z0-9_-]+)\.")


# ---- train ----


def add_train_flags(parser: Parser, words: Sequence[str]) -> None:
    """Adds the flags of ``gpu-marl train``, some of which depend on the words of the command line."""
    from gpu_marl_envs.training.config import read_config

    given = argparse.SUPPRESS  # a flag that is not given leaves the matter to the file of --config
    config = _value_of("--config", words)
    parser.add_argument("--config", metavar="FILE", type=Path, help="YAML file of settings, which flags override")
    parser.add_argument("--resume", metavar="FOLDER", type=Path, help="continue the run in this folder")
    parser.add_argument("--algo", dest="algorithm", default=given, help="the algorithm, ppo or a2c (default: ppo)")
    parser.add_argument("--num-envs", type=_count_or_auto, default=given, help=f"{COPIES}; auto measures")
    parser.add_argument(
        "--total-steps",
        type=count,
        default=given,
        help="length of the run: steps, summed over copies and agents (default: 10000000)",
    )
    parser.add_argument("--device", default=given, help="auto, cpu, cuda or cuda:1 (default: auto)")
    parser.add_argument("--seed", type=int, default=given, help="of all random numbers (default: 0)")
    parser.add_argument("--out", default=given, help="folder for metrics and checkpoint (default: runs/ENV/<time>)")
    parser.add_argument("--overwrite", action="store_true", default=given, help="replace a run in this folder")
    parser.add_argument("--wandb", metavar="PROJECT", default=given, help="log to this Weights & Biases project too")
    parser.add_argument("--max-seconds", type=float, default=given, help="end the run after this time")
    parser.add_argument(
        "--checkpoint-seconds", type=float, default=given, help="time between checkpoints (default: 60)"
    )
    declaration = named_environment(words)
    if declaration is None and config is not None:
        if Path(config).is_file() and (named := read_config(Path(config)).get("environment")) is not None:
            declaration = registry.get(str(named))
    elif _value_of("--resume", words) is None or declaration is not None:
        parser.add_argument("environment", metavar="ENV", help="an environment's id; `gpu-marl list` lists them")
    if declaration is not None:
        add_flags(parser.add_argument_group(f"parameters of {declaration.id}"), "env", declaration.parameters())
    _add_algorithm_flags(parser, words)


def _add_algorithm_flags(parser: Parser, words: Sequence[str]) -> None:
    from gpu_marl_envs.training import algorithms
    from gpu_marl_envs.training.config import POLICY_FIELDS

    known = algorithms()
    for name, algorithm in known.items():
        add_flags(parser.add_argument_group(f"hyperparameters of {name}"), name, algorithm.parameters())
    text = "what one policy has of its own, as in --policies.tagger.learning-rate 1e-3: a hyperparameter, or one of "
    text += "; ".join(f"{name}: {doc}" for name, doc in POLICY_FIELDS.items())
    group = parser.add_argument_group("policies: --policies.NAME.FIELD VALUE", text.replace("%", "%%"))
    hyperparameters = {parameter.name for algorithm in known.values() for parameter in algorithm.parameters()}
    for policy in dict.fromkeys(match[1] for word in words if (match := _POLICY_FLAG.match(word))):
        for field in (*POLICY_FIELDS, *sorted(hyperparameters)):
            group.add_argument(
                f"--policies.{policy}.{flag(field)}",
                dest=f"policies.{policy}.{field}",
                default=argparse.SUPPRESS,
                help=argparse.SUPPRESS,
            )


def train(options: argparse.Namespace) -> int:
    """Runs ``gpu-marl train``."""
    result = _resumed(options) if options.resume is not None else _trained(_run_config(options))
    print(f"{result.agent_steps} agent-steps in {result.seconds:.0f} s; checkpoint: {result.checkpoint}")
    return INTERRUPTED if result.interrupted else 0


def _run_config(options: argparse.Namespace) -> RunConfig:
    from gpu_marl_envs.training import algorithms
    from gpu_marl_envs.training.config import RunConfig, merged, read_config

    given: dict[str, Any] = {
        key: value
        for key, value in vars(options).items()
        if "." not in key and key not in ("command", "run", "parser", "config", "resume")
    }
    for prefix in ("env", *algorithms()):
        if values := with_prefix(options, prefix):
            given[prefix] = values
    for key, value in with_prefix(options, "policies").items():
        name, _, field = key.partition(".")
        given.setdefault("policies", {}).setdefault(name, {})[field] = value
    return RunConfig.read(merged(read_config(options.config) if options.config else {}, given))


def _trained(config: RunConfig) -> TrainingResult:
    from gpu_marl_envs.training.autoscale import measured_num_envs
    from gpu_marl_envs.training.config import AUTO
    from gpu_marl_envs.training.rollout import autoreset_mode_for
    from gpu_marl_envs.training.session import train

    algorithm, specs, declaration = config.default_algorithm(), config.specs(), config.declaration()
    trainers = [algorithm, *(spec.algorithm for spec in specs.values() if spec.algorithm is not None)]
    mode = autoreset_mode_for(any(trainer.central_critic for trainer in trainers)).name

    def make(num_envs: int | None) -> BatchedEnv:
        params = declaration.params()
        return make_env(declaration.id, num_envs, config.device, seed=config.seed, autoreset_mode=mode, **params)

    num_envs = measured_num_envs(make, algorithm, specs) if config.num_envs == AUTO else config.num_envs
    assert not isinstance(num_envs, str)
    env = make(num_envs)
    started = datetime.now().strftime("%Y-%m-%d_%H-%M-%S.%f")  # runs that start in one second have folders of their own
    folder = Path(config.out or Path("runs") / declaration.id / started)
    print(f"{env.num_envs} copies of {declaration.id} on {env.device}; writing to {folder}")
    return train(
        env,
        algorithm,
        total_steps=config.total_steps,
        policies=specs,
        seed=config.seed,
        folder=folder,
        overwrite=config.overwrite,
        wandb=config.wandb,
        max_seconds=config.max_seconds,
        checkpoint_seconds=config.checkpoint_seconds,
    )


def _resumed(options: argparse.Namespace) -> TrainingResult:
    from gpu_marl_envs.training.config import checked_seconds
    from gpu_marl_envs.training.session import resume

    allowed = ("total_steps", "device", "wandb", "max_seconds", "checkpoint_seconds")
    given = {key: value for key, value in vars(options).items() if key not in ("command", "run", "parser", "resume")}
    for key, value in given.items():
        if key not in allowed and value is not None:
            raise CommandError(f"{flag(key)} cannot change when a run is resumed; start a new run for it.")
    chosen = {key: given[key] for key in allowed if key in given}
    for key in ("max_seconds", "checkpoint_seconds"):
        if key in chosen:
            chosen[key] = checked_seconds(chosen[key], key)
    if chosen.get("device") == "auto":
        del chosen["device"]
    print(f"Resuming {options.resume}")
    return resume(options.resume, **chosen)


# ---- eval ----


def add_eval_flags(parser: Parser) -> None:
    """Adds the flags of ``gpu-marl eval``."""
    _add_checkpoint_flags(parser, nargs="+")
    parser.add_argument("--episodes", type=count, default=1000, help="episodes of each mix (default: %(default)s)")


def evaluate(options: argparse.Namespace) -> int:
    """Runs ``gpu-marl eval``."""
    from gpu_marl_envs.training import Checkpoint
    from gpu_marl_envs.training.evaluate import random_policies, tournament

    checkpoints = [Checkpoint.load(path) for path in options.checkpoint]
    for path, checkpoint in zip(options.checkpoint[1:], checkpoints[1:], strict=True):
        if checkpoint.env_id != checkpoints[0].env_id:
            raise CommandError(
                f"{path} was trained on {checkpoint.env_id} and {options.checkpoint[0]} on {checkpoints[0].env_id}; "
                "compare checkpoints of one environment."
            )
        params, first = checkpoint.env_params, checkpoints[0].env_params
        for name in first | params:  # a parameter may be newer than a checkpoint
            value, other = params.get(name, "its default"), first.get(name, "its default")
            if value != other:
                raise CommandError(
                    f"{path} was trained with {name}={value} and {options.checkpoint[0]} with {name}={other}; "
                    "compare checkpoints of one environment."
                )
    env = _env_of(checkpoints[0], options.episodes, options.device, "DISABLED")
    names = ["trained"] if len(checkpoints) == 1 else _short_names(options.checkpoint)
    players: dict[str, Any] = {
        name: checkpoint.restore_policies(env) for name, checkpoint in zip(names, checkpoints, strict=True)
    }
    print(f"Mean over {options.episodes} episodes each, and how far the true mean may be with 95 % confidence:")
    print(tournament(env, players | {"random": random_policies(env)}, seed=options.seed))
    return 0


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The ends of the paths, as long as it takes to tell them apart."""
    parts = [[part for part in path.parts if part != "checkpoint.pt"] for path in map(Path.resolve, paths)]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names) and "random" not in names:
            return names
    raise CommandError("The same checkpoint was given twice; give different ones.")


# ---- play ----


def add_play_flags(parser: Parser) -> None:
    """Adds the flags of ``gpu-marl play``."""
    _add_checkpoint_flags(parser)
    parser.add_argument("--gif", type=Path, help="the file to write")
    parser.add_argument("--mp4", type=Path, help="the file to write")
    parser.add_argument("--steps", type=count, help="number of steps (default: one episode)")
    parser.add_argument("--random", nargs="+", default=[], metavar="GROUP", help="groups that act randomly instead")


def play(options: argparse.Namespace) -> int:
    """Runs ``gpu-marl play``."""
    from gpu_marl_envs.rendering import record_gif
    from gpu_marl_envs.training import Checkpoint
    from gpu_marl_envs.training.evaluate import random_policies
    from gpu_marl_envs.training.play import play_frames
    from gpu_marl_envs.video import record_mp4

    files = [path for path in (options.gif, options.mp4) if path is not None]
    if not files:
        raise CommandError("Say what to write: --gif FILE, --mp4 FILE, or both.")
    checkpoint = Checkpoint.load(options.checkpoint)
    env = _env_of(checkpoint, 1, options.device, "NEXT_STEP")
    policies: dict[str, Policy] = dict(checkpoint.restore_policies(env))
    random = random_policies(env)
    for name in options.random:
        if name not in env.groups:
            raise CommandError(
                f"{checkpoint.env_id} has no group {name!r} to play randomly; {nearest(name, env.groups)}"
            )
        policies[name] = random[name]
    for path in files:
        if not path.parent.is_dir():
            raise CommandError(f"There is no folder {path.parent} to write {path.name} to; make it first.")
        if path.is_dir():
            raise CommandError(f"{path} is a folder; name the file to write.")
    frames = play_frames(env, policies, steps=options.steps, seed=options.seed)
    if options.gif is not None:
        print(record_gif(frames, options.gif, fps=FRAMES_PER_SECOND))
    if options.mp4 is not None:
        print(record_mp4(frames, options.mp4, fps=FRAMES_PER_SECOND))
    return 0


# ---- what they share ----


def _add_checkpoint_flags(parser: Parser, nargs: str | None = None) -> None:
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        type=Path,
        nargs=nargs,
        help="a run's folder, or its checkpoint, written by `gpu-marl train`",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers (default: %(default)s)")


def _env_of(checkpoint: Checkpoint, num_envs: int, device: str, autoreset_mode: str) -> BatchedEnv:
    return make_env(checkpoint.env_id, num_envs, device, autoreset_mode=autoreset_mode, **checkpoint.env_params)


def _count_or_auto(text: str) -> int | str:
    return text if text == "auto" else count(text)


def _value_of(option: str, words: Sequence[str]) -> str | None:
    """What follows an option on the command line, before it is parsed."""
    for i, word in enumerate(words):
        if word == option:
            return words[i + 1] if i + 1 < len(words) else None
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None
