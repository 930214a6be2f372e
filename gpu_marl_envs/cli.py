"""The command ``gpu-marl``: list, describe, train, evaluate, watch and time environments."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from gpu_marl_envs import registry
from gpu_marl_envs.batched import BatchedEnv, make_batched
from gpu_marl_envs.checks import OBS_DTYPES, dtype_name
from gpu_marl_envs.errors import BackendUnavailableError, GpuMarlError, nearest
from gpu_marl_envs.spec import Environment, Parameter

if TYPE_CHECKING:
    import numpy as np

    from gpu_marl_envs.training import Policy

USER_ERROR, INTERRUPTED = 2, 130  # exit codes, as shells use them
NUM_ENVS = {"cpu": 256, "cuda": 4096}  # copies to train on, by type of device
FRAMES_PER_SECOND = 12.0


class CommandError(GpuMarlError, ValueError):
    """The command line makes no sense."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: its arguments; by default those of the process.

    Returns:
        The exit code: 0; 2 after an error of the user's, which is one line on stderr; 130 after Ctrl-C.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        options = _parse(_import_modules(argv))
        code: int = options.run(options)
    except (GpuMarlError, OSError) as error:
        print(f"gpu-marl: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("gpu-marl: interrupted.", file=sys.stderr)
        return INTERRUPTED
    return code


# ---- the commands ----


def _list(options: argparse.Namespace) -> int:
    del options
    names = registry.ids()
    width = max(map(len, names))
    for name in names:
        print(f"{name:{width}}  {(inspect.getdoc(registry.get(name)) or '').partition(chr(10))[0]}")
    return 0


def _info(options: argparse.Namespace) -> int:
    declaration = registry.get(options.env)
    print(f"{declaration.id}\n\n{inspect.getdoc(declaration)}\n\n## Parameters")
    for parameter in declaration.parameters():
        unit = f" [{parameter.unit}]" if parameter.unit else ""
        print(f"{parameter.name} = {parameter.default!r}{unit}: {parameter.doc}; {parameter.valid}")
    print("\n## Groups, with default parameters")
    for group in declaration.make().agent_groups:
        print(f"{group.name}: {group.size} {'agent' if group.size == 1 else 'agents'}")
        print(f"    observation of one agent: {group.observation_space}")
        print(f"    action of one agent: {group.action_space}")
    return 0


def _train(options: argparse.Namespace) -> int:
    from gpu_marl_envs.training import algorithms, train

    known = algorithms()
    if options.algo not in known:
        raise CommandError(f"There is no algorithm {options.algo!r}; {nearest(options.algo, known)}")
    for other in known.keys() - {options.algo}:
        if given := _with_prefix(options, other):
            raise CommandError(f"--{other}.{_flag(next(iter(given)))} has no effect with --algo {options.algo}.")
    algorithm = known[options.algo].make(**_with_prefix(options, options.algo))
    env = make_env(
        options.env,
        options.num_envs,
        options.device,
        seed=options.seed,
        autoreset_mode="SAME_STEP",
        **_with_prefix(options, "env"),
    )
    folder = options.out or Path("runs") / env.declaration.id / time.strftime("%Y-%m-%d_%H-%M-%S")
    print(f"{env.num_envs} copies of {env.declaration.id} on {env.device}; writing to {folder}")
    result = train(env, algorithm, total_steps=options.total_steps, seed=options.seed, folder=folder)
    print(f"{result.agent_steps} agent-steps in {result.seconds:.0f} s; checkpoint: {result.checkpoint}")
    return INTERRUPTED if result.interrupted else 0


def _eval(options: argparse.Namespace) -> int:
    from gpu_marl_envs.training import Checkpoint
    from gpu_marl_envs.training.evaluate import cross_play

    checkpoint = Checkpoint.load(options.checkpoint)
    env = make_env(
        checkpoint.env_id, options.episodes, options.device, autoreset_mode="DISABLED", **checkpoint.env_params
    )
    print(f"Mean and standard error over {options.episodes} episodes each:")
    print(cross_play(env, checkpoint.restore_policies(env), seed=options.seed))
    return 0


def _play(options: argparse.Namespace) -> int:
    from gpu_marl_envs.rendering import record_gif
    from gpu_marl_envs.training import Checkpoint, RandomPolicy

    checkpoint = Checkpoint.load(options.checkpoint)
    env = make_env(checkpoint.env_id, 1, options.device, **checkpoint.env_params)
    policies: dict[str, Policy] = dict(checkpoint.restore_policies(env))
    for name in options.random:
        if name not in env.groups:
            raise CommandError(
                f"{checkpoint.env_id} has no group {name!r} to play randomly; {nearest(name, env.groups)}"
            )
        policies[name] = RandomPolicy(env.groups[name].action_space)
    if not options.gif.parent.is_dir():
        raise CommandError(f"There is no folder {options.gif.parent} to write {options.gif.name} to; make it first.")
    if options.gif.is_dir():
        raise CommandError(f"{options.gif} is a folder; name the file to write.")
    frames = play_frames(env, policies, steps=options.steps, seed=options.seed)
    print(record_gif(frames, options.gif, fps=FRAMES_PER_SECOND))
    return 0


def _bench(options: argparse.Namespace) -> int:
    from gpu_marl_envs.benchmarking import copy_bandwidth, measure, provenance

    params = _with_prefix(options, "env")
    if options.json is not None and not options.json.parent.is_dir():
        raise CommandError(f"There is no folder {options.json.parent} to write {options.json.name} to; make it first.")
    # Made once beforehand, to learn which device "auto" is; what it compiles is cached.
    device = make_env(options.env, 1, options.device, **params).device
    bandwidth = copy_bandwidth(device) if device.type == "cuda" else None
    results = []
    for num_envs in options.num_envs or [NUM_ENVS[device.type]]:
        for state in options.state:
            result = measure(
                options.env,
                num_envs,
                device,
                state=state,
                seconds=options.seconds,
                obs_dtype=options.obs_dtype,
                **params,
            )
            results.append(result.as_dict(bandwidth))
            print(
                f"{result.env_id}, {num_envs} copies of {result.num_agents} agents on {result.device}, {state}: "
                f"{result.describe(bandwidth)}"
            )
    if options.json is not None:
        found = provenance() | ({} if bandwidth is None else {"copy_bandwidth": bandwidth})
        options.json.write_text(json.dumps({"provenance": found, "results": results}, indent=2) + "\n")
    return 0


# ---- what the commands share, also with the examples ----


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


def play_frames(
    env: BatchedEnv, policies: Mapping[str, Policy], *, steps: int | None = None, seed: int = 0
) -> list[np.ndarray]:
    """Pictures of a game in the first copy, one before every step and one at the end.

    Args:
        env: is reset first.
        policies: one per group.
        steps: number of steps; by default until the episode is over.
        seed: of the start and the actions.

    Returns:
        uint8 ``[height, width, 3]`` each.

    Raises:
        BackendUnavailableError: pygame is not installed.
    """
    import torch

    from gpu_marl_envs.rendering import render_state

    def picture() -> np.ndarray:
        state = {name: tensor[0].cpu().numpy() for name, tensor in env.state.fields().items()}
        state["alive"] = env.alive[0].cpu().numpy()
        return render_state(env.declaration, state | {"step": int(env.state.step[0])})

    generator = torch.Generator(env.device).manual_seed(seed)
    observation = env.reset(seed=seed)
    frames = [picture()]
    while len(frames) <= (env.declaration.max_steps if steps is None else steps):
        actions = {name: policies[name].act(observation[name], generator) for name in env.groups}
        observation, *_, info = env.step(actions)
        frames.append(picture())
        if steps is None and bool(info["done"][0]):
            break
    return frames


# ---- the command line ----


class _Parser(argparse.ArgumentParser):
    """Reports errors as exceptions, so that they leave as one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message} (`{self.prog} --help` explains)")


def _import_modules(argv: list[str]) -> list[str]:
    """Imports the modules that ``--import MODULE`` names, and returns the rest of the command line."""
    rest, words = [], iter(argv)
    for word in words:
        if word != "--import":
            rest.append(word)
            continue
        name = next(words, "")
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        try:
            importlib.import_module(name)
        except (ImportError, ValueError) as error:
            raise CommandError(
                f"--import takes a module that Python finds from here, not {name!r} ({error})."
            ) from None
    return rest


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="gpu-marl",
        description="Multi-agent environments on the GPU and the CPU.",
        epilog="--import MODULE, anywhere, first imports a Python module, which may register environments of yours.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> _Parser:
        added: _Parser = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run, parser=added)
        return added

    command("list", _list, "List the environments.")
    info = command("info", _info, "Describe an environment: rules, parameters, groups and spaces.")
    train = command("train", _train, "Train one policy per agent group.")
    play = command("play", _play, "Play a checkpoint's policies and write an animated GIF.")
    evaluate = command(
        "eval", _eval, "Play every mix of a checkpoint's policies and random ones, and print the scores."
    )
    bench = command("bench", _bench, "Time steps with random actions.")

    for with_env in (info, train, bench):
        with_env.add_argument("env", metavar="ENV", help="an environment's id; `gpu-marl list` lists them")
    for with_checkpoint in (play, evaluate):
        with_checkpoint.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="written by `gpu-marl train`")
    for with_device in (train, play, evaluate, bench):
        with_device.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: %(default)s)")
    for with_seed in (train, play, evaluate):
        with_seed.add_argument("--seed", type=int, default=0, help="of all random numbers (default: %(default)s)")

    copies = f"copies stepped at once (default: {NUM_ENVS['cpu']} on a CPU, {NUM_ENVS['cuda']} on a GPU)"
    train.add_argument("--algo", default="ppo", help="the algorithm (default: %(default)s)")
    train.add_argument("--num-envs", type=_count, help=copies)
    train.add_argument(
        "--total-steps",
        type=_count,
        default=10_000_000,
        help="steps, summed over copies and agents (default: %(default)s)",
    )
    train.add_argument("--out", type=Path, help="folder for metrics and checkpoint (default: runs/ENV/<time>)")
    play.add_argument("--gif", type=Path, required=True, help="the file to write")
    play.add_argument("--steps", type=_count, help="number of steps (default: one episode)")
    play.add_argument("--random", nargs="+", default=[], metavar="GROUP", help="groups that act randomly instead")
    evaluate.add_argument("--episodes", type=_count, default=1000, help="episodes of each mix (default: %(default)s)")
    bench.add_argument("--num-envs", type=_count, nargs="+", help=copies)
    bench.add_argument(
        "--state",
        nargs="+",
        choices=("fresh", "played"),
        default=["played"],
        help="where the timed steps start: at a reset of all copies, or after 300 random steps (default: played)",
    )
    bench.add_argument(
        "--seconds", type=_seconds, default=1.0, help="timed for each result, about (default: %(default)s)"
    )
    dtypes = [dtype_name(dtype) for dtype in OBS_DTYPES]
    bench.add_argument("--obs-dtype", choices=dtypes, default=dtypes[0], help="of observations (default: %(default)s)")
    bench.add_argument("--json", type=Path, help="also write the results to this file")

    if argv and argv[0] in ("train", "bench"):
        declaration = _named_environment(argv[1:])
        if declaration is not None:
            flags = (train if argv[0] == "train" else bench).add_argument_group(f"parameters of {declaration.id}")
            _add_flags(flags, "env", declaration.parameters())
    if argv and argv[0] == "train":
        from gpu_marl_envs.training import algorithms

        for name, algorithm in algorithms().items():
            _add_flags(train.add_argument_group(f"hyperparameters of {name}"), name, algorithm.parameters())

    options, unknown = parser.parse_known_args(argv)
    if unknown:
        flag = unknown[0].partition("=")[0]
        raise CommandError(
            f"{options.command} has no option {flag}; {nearest(flag, options.parser._option_string_actions)}"
        )
    return options


def _named_environment(words: list[str]) -> type[Environment] | None:
    """The environment that the command line is about, wherever among its options it stands."""
    for word in words:
        if word.removeprefix(f"{registry.NAMESPACE}/") in registry.ids():
            return registry.get(word)
    if words and not words[0].startswith("-"):
        return registry.get(words[0])  # raises, naming the nearest
    return None


def _add_flags(group: argparse._ArgumentGroup, prefix: str, parameters: Sequence[Parameter]) -> None:
    for parameter in parameters:
        unit = f" [{parameter.unit}]" if parameter.unit else ""
        group.add_argument(
            f"--{prefix}.{_flag(parameter.name)}",
            dest=f"{prefix}.{parameter.name}",
            default=argparse.SUPPRESS,
            type=_reader(parameter),
            choices=parameter.choices or None,
            metavar=None if parameter.choices else parameter.kind.__name__.upper(),
            help=f"{parameter.doc}{unit} (default: {parameter.default})".replace("%", "%%"),
        )


def _reader(parameter: Parameter) -> Callable[[str], Any]:
    """Reads a parameter's value from the command line."""
    if parameter.optional:
        return _optional_count
    return _boolean if parameter.kind is bool else parameter.kind


def _optional_count(text: str) -> int | None:
    """A whole number, or none."""
    try:
        return None if text.lower() == "none" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number or none, not {text!r}") from None


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _with_prefix(options: argparse.Namespace, prefix: str) -> dict[str, Any]:
    """Values of the flags ``--<prefix>.…`` that were given, by parameter name."""
    found = {}
    for key, value in vars(options).items():
        before, dot, name = key.partition(".")
        if dot and before == prefix:
            found[name] = value
    return found


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "yes", "on", "1"):
        return True
    if text.lower() in ("false", "no", "off", "0"):
        return False
    raise argparse.ArgumentTypeError(f"expected true or false, not {text!r}")


def _count(text: str) -> int:
    """A positive whole number, also as in 5e6."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not number.is_integer() or number < 1:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, not {text!r}")
    return int(number)


def _seconds(text: str) -> float:
    """A positive duration."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number of seconds, not {text!r}")
    return number


if __name__ == "__main__":
    sys.exit(main())
