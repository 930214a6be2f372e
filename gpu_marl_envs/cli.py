"""The command ``gpu-marl``: list, describe, train, evaluate, watch and time environments."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from gpu_marl_envs import cli_training, registry
from gpu_marl_envs.checks import OBS_DTYPES, dtype_name
from gpu_marl_envs.command_line import (
    COPIES,
    INTERRUPTED,
    NUM_ENVS,
    UNREAD,
    USER_ERROR,
    CommandError,
    Parser,
    add_flags,
    count,
    make_env,
    named_environment,
    seconds,
    with_prefix,
)
from gpu_marl_envs.errors import GpuMarlError, nearest


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: its arguments; by default those of the process.

    Returns:
        The exit code: 0; 2 after an error of the user's, which is one line on stderr; 130 after Ctrl-C; 141 if whoever
        read the output has gone.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        options = _parse(_import_modules(argv))
        code: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at exit
        return UNREAD
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


def _bench(options: argparse.Namespace) -> int:
    from gpu_marl_envs.benchmarking import copy_bandwidth, measure, provenance

    params = with_prefix(options, "env")
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


# ---- the command line ----


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
    parser = Parser(
        prog="gpu-marl",
        description="Multi-agent environments on the GPU and the CPU.",
        epilog="--import MODULE, anywhere, first imports a Python module, which may register environments of yours.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> Parser:
        added: Parser = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run, parser=added)
        return added

    command("list", _list, "List the environments.")
    info = command("info", _info, "Describe an environment: rules, parameters, groups and spaces.")
    train = command("train", cli_training.train, "Train policies.")
    play = command("play", cli_training.play, "Play a checkpoint's policies and write an animated GIF or an MP4 film.")
    evaluate = command(
        "eval",
        cli_training.evaluate,
        "Play every mix of the policies of checkpoints and random ones; print the scores.",
    )
    bench = command("bench", _bench, "Time steps with random actions.")

    for with_env in (info, bench):
        with_env.add_argument("env", metavar="ENV", help="an environment's id; `gpu-marl list` lists them")
    cli_training.add_play_flags(play)
    cli_training.add_eval_flags(evaluate)
    bench.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: %(default)s)")
    bench.add_argument("--num-envs", type=count, nargs="+", help=COPIES)
    bench.add_argument(
        "--state",
        nargs="+",
        choices=("fresh", "played"),
        default=["played"],
        help="where the timed steps start: at a reset of all copies, or after 300 random steps (default: played)",
    )
    bench.add_argument(
        "--seconds", type=seconds, default=1.0, help="timed for each result, about (default: %(default)s)"
    )
    dtypes = [dtype_name(dtype) for dtype in OBS_DTYPES]
    bench.add_argument("--obs-dtype", choices=dtypes, default=dtypes[0], help="of observations (default: %(default)s)")
    bench.add_argument("--json", type=Path, help="also write the results to this file")

    if argv and argv[0] == "bench":
        declaration = named_environment(argv[1:])
        if declaration is not None:
            add_flags(bench.add_argument_group(f"parameters of {declaration.id}"), "env", declaration.parameters())
    if argv and argv[0] == "train":
        cli_training.add_train_flags(train, argv[1:])

    options, unknown = parser.parse_known_args(argv)
    if unknown:
        flag = unknown[0].partition("=")[0]
        raise CommandError(
            f"{options.command} has no option {flag}; {nearest(flag, options.parser._option_string_actions)}"
        )
    return options


if __name__ == "__main__":
    sys.exit(main())
