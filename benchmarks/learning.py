"""Whether training reaches what is known to be reachable: runs the recipes of examples/recipes and compares.

    python benchmarks/learning.py --json benchmarks/results/learning.json --plot docs/media/learning.png
    python benchmarks/learning.py pendulum simple_tag --device cpu --seeds 0

A recipe is a file for ``gpu-marl train --config``. Each is trained once for each seed; then trained and random
policies play every mix of the two, drawing their actions, over thousands of whole episodes of other starts. A run
counts if its return is as high as is known, or, in a game with opponents, if each side does better against its trained
opponents than a random one in its place; both with a confidence of 95 %. The command exits with an error if one does
not. A file of results keeps the runs that it holds already, but for those that are run again.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gpu_marl_envs.benchmarking import provenance
from gpu_marl_envs.command_line import make_env
from gpu_marl_envs.training import train
from gpu_marl_envs.training.config import RunConfig, read_config
from gpu_marl_envs.training.evaluate import CrossPlay, Estimate, cross_play, format_table

RECIPES = Path(__file__).parents[1] / "examples" / "recipes"
EPISODES = 4_000  # of each mix of trained and random policies
JUDGING_SEED = 1_000_000  # is added to a run's seed, so that the episodes that judge it start otherwise
CURVE_POINTS = 60

Row = dict[str, Any]


@dataclass(frozen=True)
class KnownResult:
    """What a recipe has to reach.

    Attributes:
        score: the return of an episode, mean over agents; none in a game with opponents, where each side has to do
            better than a random one.
        source: where that is from.
    """

    score: float | None
    source: str


KNOWN_RESULTS = {
    "cartpole": KnownResult(475.0, "Gymnasium's reward threshold"),
    "acrobot": KnownResult(-90.0, "PPO of RL Baselines3 Zoo: −73; Gymnasium's reward threshold: −100"),
    "pendulum": KnownResult(-200.0, "PPO of RL Baselines3 Zoo: −172"),
    "mountain_car_continuous": KnownResult(90.0, "Gymnasium's reward threshold"),
    "simple_spread": KnownResult(-20.4, "IPPO of JaxMARL: −19.7 to −20.4"),
    "simple_tag": KnownResult(None, "random play against the same opponents"),
    "tag_continuous": KnownResult(None, "random play against the same opponents"),
    "tag_continuous_crowd": KnownResult(None, "random play against the same opponents"),
}


def recipe(name: str) -> RunConfig:
    """The recipe of that name."""
    return RunConfig.read(read_config(RECIPES / f"{name}.yaml"))


def learn(name: str, device: str | None = None, seed: int = 0, episodes: int = EPISODES) -> Row:
    """Trains by a recipe and judges what has been learnt.

    Args:
        name: of the recipe.
        device: where to train; None leaves it to the recipe.
        seed: of all random numbers.
        episodes: how many judge each mix of trained and random policies.

    Returns:
        A line of the results, see :func:`reached`.
    """
    config = recipe(name)
    device = device or config.device
    assert not isinstance(config.num_envs, str), "a recipe says how many copies it takes"
    params = config.declaration().params()
    env = make_env(config.environment, config.num_envs, device, seed=seed, autoreset_mode="SAME_STEP", **params)
    result = train(
        env,
        config.default_algorithm(),
        total_steps=config.total_steps,
        policies=config.specs(),
        seed=seed,
        progress=False,
    )
    referee = make_env(config.environment, episodes, str(env.device), autoreset_mode="DISABLED", **params)
    scores = cross_play(referee, result.policies, seed=JUDGING_SEED + seed)
    row = {
        "recipe": name,
        "env_id": config.environment,
        "params": params,
        "device": torch.cuda.get_device_name(env.device) if env.device.type == "cuda" else "CPU",
        "num_envs": env.num_envs,
        "seed": seed,
        "agent_steps": result.agent_steps,
        "seconds": result.seconds,
        "episodes": episodes,
        "scores": list(_mixes(scores)),
        "curve": {group: _thinned(result.history, f"{group}/episode_return") for group in scores.groups},
        "provenance": provenance(),
    }
    env.close()
    referee.close()
    return row | {"reached": reached(row)}


def reached(row: Row) -> bool:
    """Whether a run has come to what is known, with a confidence of 95 %."""
    known = KNOWN_RESULTS[row["recipe"]].score
    for group in row["curve"]:
        trained, random = episode_return(row, group, "trained"), episode_return(row, group, "random")
        if known is not None and trained.mean - trained.half_width < known:
            return False
        if trained.mean - random.mean < math.hypot(trained.half_width, random.half_width):
            return False
    return True


def episode_return(row: Row, group: str, player: str) -> Estimate:
    """The return of a group that is trained or plays at random, against trained opponents."""
    mix = {name: player if name == group else "trained" for name in row["curve"]}
    return next(Estimate(**entry["returns"][group]) for entry in row["scores"] if entry["players"] == mix)


def _mixes(scores: CrossPlay) -> Iterator[Row]:
    for mix, by_group in scores.scores.items():
        returns = {group: vars(found.episode_return) for group, found in by_group.items()}
        yield {"players": dict(zip(scores.groups, mix, strict=True)), "returns": returns}


def _thinned(history: list[dict[str, float]], key: str) -> list[tuple[int, float]]:
    """Agent-steps and means of what is known of a metric, in so many equal parts of a run."""
    known = [(row["agent_steps"], row[key]) for row in history if not math.isnan(row[key])]
    size = max(math.ceil(len(known) / CURVE_POINTS), 1)
    parts = [known[i : i + size] for i in range(0, len(known), size)]
    return [(round(part[-1][0]), sum(value for _, value in part) / len(part)) for part in parts]


# ---- what is shown ----


def table(rows: list[Row]) -> str:
    """The runs as text."""
    lines = [["recipe", "seed", "seconds", "group", "known", "trained", "random", "reached"]]
    for row in rows:
        known = KNOWN_RESULTS[row["recipe"]].score
        for group in row["curve"]:
            trained, random = (str(episode_return(row, group, player)) for player in ("trained", "random"))
            cells = [row["recipe"], str(row["seed"]), f"{row['seconds']:.0f}", group]
            cells += ["better than random" if known is None else f"{known:g}", trained, random]
            lines.append([*cells, "yes" if row["reached"] else "NO"])
    return format_table(lines)


def plot(rows: list[Row], file: Path) -> Path:
    """Draws the returns during training, of each recipe one picture, and writes them to a file, which is returned."""
    from matplotlib.figure import Figure

    names = [name for name in KNOWN_RESULTS if any(row["recipe"] == name for row in rows)]
    columns = min(len(names), 3)
    lines = math.ceil(len(names) / columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * lines), layout="constrained")
    grid = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes, name in zip(grid, names, strict=False):
        runs = [row for row in rows if row["recipe"] == name]
        for color, group in zip(("tab:blue", "tab:red"), runs[0]["curve"], strict=False):
            for run in runs:
                steps, returns = zip(*run["curve"][group], strict=True)
                label = group if run is runs[0] and len(run["curve"]) > 1 else None
                axes.plot([step / 1e6 for step in steps], returns, color=color, alpha=0.7, label=label)
            random = episode_return(runs[0], group, "random").mean
            axes.axhline(random, color=color, linestyle=":", label="random" if color == "tab:blue" else None)
        known = KNOWN_RESULTS[name].score
        if known is not None:
            axes.axhline(known, color="0.3", linestyle="--", label=f"known: {known:g}")
        axes.set(title=name, xlabel="agent-steps in millions", ylabel="return of an episode")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    for axes in grid[len(names) :]:
        axes.axis("off")
    figure.savefig(file, dpi=110)
    return file


# ---- the command ----


def _place(row: Row) -> tuple[int, int]:
    """Where a run stands among others."""
    return list(KNOWN_RESULTS).index(row["recipe"]), row["seed"]


def _one_thread() -> None:
    """A second thread gains little for networks this small, and loses much where another run wants the core."""
    torch.set_num_threads(1)


def main() -> int:
    """Runs the command line and returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=f"which, of {', '.join(KNOWN_RESULTS)}; or all")
    parser.add_argument("--device", help="cpu, cuda or cuda:1 (default: what the recipe says)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run of each recipe for each")
    parser.add_argument("--episodes", type=int, default=EPISODES, help="that judge a run (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    parser.add_argument("--plot", type=Path, help="picture to write the learning curves to")
    arguments = parser.parse_args()
    names = arguments.recipes or list(KNOWN_RESULTS)
    for name in names:
        if name not in KNOWN_RESULTS:
            parser.error(f"there is no recipe {name!r}, only {', '.join(KNOWN_RESULTS)}.")

    written: dict[str, Any] = {}
    if arguments.json and arguments.json.exists():
        written = json.loads(arguments.json.read_text())
    runs = {(row["recipe"], row["seed"]): row for row in written.get("results", [])}
    rows: list[Row] = []
    # Each run has a process of its own, since they are many small steps of one thread.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.jobs, context, initializer=_one_thread) as pool:
        # The longest first, so that none of them is alone in the end.
        by_length = sorted(names, key=lambda name: recipe(name).total_steps, reverse=True)
        wanted = [(name, arguments.device, seed, arguments.episodes) for name in by_length for seed in arguments.seeds]
        for job in as_completed([pool.submit(learn, *run) for run in wanted]):
            row = job.result()
            rows.append(row)
            runs[row["recipe"], row["seed"]] = row
            print(table([row]), flush=True)
            ordered = sorted(runs.values(), key=_place)
            # After every run, so that an interrupted command leaves what it has.
            if arguments.json:
                arguments.json.write_text(json.dumps(written | {"results": ordered}, indent=1) + "\n")
            if arguments.plot:
                plot(ordered, arguments.plot)
    print(f"\n{table(sorted(rows, key=_place))}")
    missed = [row["recipe"] for row in rows if not row["reached"]]
    if missed:
        print(f"Not reached: {', '.join(missed)}.", file=sys.stderr)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
