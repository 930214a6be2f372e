"""Our CPU build of tag_gridworld against a plain C loop of the same rules, on the same cores in the same run.

    python benchmarks/yardstick.py --json benchmarks/results/yardstick.json

The C source is in benchmarks/yardstick/. It is compiled with -O3 -march=native -fopenmp, and must first play the same
game: from each of our states both take the same step, whose rewards, flags, observations and next states must agree,
over several episodes. Then windows of both take turns; the median of their ratios is the figure to quote.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Read when torch loads OpenMP. Threads that spin while they wait would hinder whatever takes turns with them.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from torch import Tensor

from gpu_marl_envs import make_batched
from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.benchmarking import ACTION_SETS, draw_actions, provenance, with_unit

SOURCE = Path(__file__).parent / "yardstick" / "tag_gridworld.c"
FLAGS = ["-std=c11", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
TAGGERS = 4
CHECKED_STEPS = 400  # of which some hundred end an episode
FEWEST_FOR_THREADS = 1_000  # copies; with fewer, waking threads is what would be timed
CASES = [(10_000, False), (10_000, True), (100, False)]  # copies, and whether everything is observed
TENSORS: tuple[str, ...] = ("x", "y", "time", "random", "returns", "episode_return", "episode_length", "observation")
TENSORS += ("final_observation", "reward", "terminated", "truncated", "done")
REWARDS = ("wall_hit_penalty", "tag_reward_for_tagger", "tag_penalty_for_runner", "step_cost_for_tagger")


class Game(ctypes.Structure):
    """The struct of the C source."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in TENSORS),
        ("copies", ctypes.c_int64),
        ("threads", ctypes.c_int32),
        ("grid_length", ctypes.c_int32),
        ("episode_length_limit", ctypes.c_int32),
        *((name, ctypes.c_float) for name in REWARDS),
    ]


class PlainLoop:
    """The C loop over a batch of copies, its arrays being torch tensors.

    Attributes:
        tensors: by name, as the C source describes them.
    """

    def __init__(self, env: BatchedEnv, folder: Path) -> None:
        """Compiles it for the parameters of a batch of ours, and seeds it."""
        declaration: Any = env.declaration
        copies, agents = env.num_envs, env.num_agents
        row = env.groups["tagger"].observation_size
        shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "x": ((agents,), torch.int32),
            "y": ((agents,), torch.int32),
            "time": ((), torch.int32),
            "random": ((), torch.int64),
            "returns": ((2,), torch.float32),
            "episode_return": ((2,), torch.float32),
            "episode_length": ((), torch.float32),
            "observation": ((agents, row), torch.float32),
            "final_observation": ((agents, row), torch.float32),
            "reward": ((agents,), torch.float32),
            "terminated": ((agents,), torch.bool),
            "truncated": ((), torch.bool),
            "done": ((), torch.bool),
        }
        self.tensors = {name: torch.zeros((copies, *shape), dtype=dtype) for name, (shape, dtype) in shapes.items()}
        self.tensors["random"].copy_(torch.randint(1, 2**62, (copies,), generator=torch.Generator().manual_seed(0)))
        library = folder / f"tag_gridworld_{agents}_{row}.so"
        defines = [f"-DTAGGERS={agents - 1}", f"-DFULL={int(declaration.use_full_observation)}"]
        subprocess.run([_compiler(), *FLAGS, *defines, "-o", str(library), str(SOURCE)], check=True)
        self._library = ctypes.CDLL(str(library))
        self._game = Game(
            **{name: tensor.data_ptr() for name, tensor in self.tensors.items()},
            copies=copies,
            threads=torch.get_num_threads(),
            grid_length=declaration.grid_length,
            episode_length_limit=declaration.episode_length,
            **{name: getattr(declaration, name) for name in REWARDS},
        )

    def reset(self) -> None:
        """Starts all episodes."""
        self._library.reset(ctypes.byref(self._game))

    def step(self, actions: dict[str, Tensor]) -> None:
        """Advances all copies: int32 ``[E, taggers]`` and ``[E, 1]``."""
        addresses = (ctypes.c_void_p(actions[name].data_ptr()) for name in ("tagger", "runner"))
        self._library.step(ctypes.byref(self._game), *addresses)


@dataclass(frozen=True)
class Comparison:
    """Both speeds on one workload.

    Attributes:
        num_envs: copies.
        num_agents: agents of a copy.
        full_observation: whether agents observe everything.
        threads: of each.
        ours: agent-steps per second, median over the windows.
        plain: likewise of the C loop.
        ratio: how many times faster the C loop is, median over pairs of windows.
        ratio_range: of the pairs.
        compared_steps: steps of copies that agreed beforehand, and ``compared_ends`` of them ended an episode.
    """

    num_envs: int
    num_agents: int
    full_observation: bool
    threads: int
    ours: float
    plain: float
    ratio: float
    ratio_range: tuple[float, float]
    compared_steps: int
    compared_ends: int


def make_ours(num_envs: int, full: bool) -> BatchedEnv:
    """The same workload as a batch of ours."""
    options: dict[str, Any] = {"num_taggers": TAGGERS, "use_full_observation": full, "autoreset_mode": "SAME_STEP"}
    return make_batched("tag_gridworld-v0", num_envs, check_actions=False, **options)


def check_same_game(env: BatchedEnv, plain: PlainLoop, steps: int) -> tuple[int, int]:
    """Takes every step of ours with the C loop too, from the same state; returns steps of copies, and ends of episodes.

    Raises:
        AssertionError: they differ; says in what.
    """
    env.reset()
    plain.reset()
    theirs, returns, ended = plain.tensors, torch.zeros(env.num_envs, 2), 0
    actions = draw_actions(env, seed=1)
    for number in range(steps):
        for name, tensor in (("x", env.state.x), ("y", env.state.y), ("time", env.state.step), ("returns", returns)):
            theirs[name].copy_(tensor)
        observation, reward, terminated, truncated, info = env.step(actions[number % ACTION_SETS])
        plain.step(actions[number % ACTION_SETS])
        done = info["done"]
        returns += torch.stack([reward["tagger"].sum(1), reward["runner"].sum(1)], dim=1)
        pairs = {
            "done": (done, theirs["done"]),
            "truncated": (truncated, theirs["truncated"]),
            "terminated": (_joined(terminated), theirs["terminated"]),
            "reward": (_joined(reward), theirs["reward"]),
            "x": (env.state.x[~done], theirs["x"][~done]),
            "y": (env.state.y[~done], theirs["y"][~done]),
            "time": (env.state.step, theirs["time"]),
            "observation": (_joined(observation)[~done], theirs["observation"][~done]),
            "last observation": (_joined(info["final_obs"])[done], theirs["final_observation"][done]),
            "episode's length": (info["episode_length"]["tagger"][done], theirs["episode_length"][done]),
            "episode's return": (_stacked(info["episode_return"])[done], theirs["episode_return"][done]),
        }
        for name, (one, other) in pairs.items():
            same = torch.allclose(one, other, rtol=1e-4, atol=1e-4) if name.endswith("return") else one.equal(other)
            assert same, f"step {number}: the {name} is not the same"
        cells = torch.stack([theirs["x"][done], theirs["y"][done]])
        assert ((cells >= 0) & (cells <= env.declaration.params()["grid_length"])).all(), "a start is off the grid"
        returns[done] = 0.0
        ended += int(done.sum())
    return steps * env.num_envs, ended


def compare(num_envs: int, full: bool, *, rounds: int, seconds: float) -> Comparison:
    """Checks that both play the same game and times them in turns."""
    env = make_ours(num_envs, full)
    actions = draw_actions(env, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        plain = PlainLoop(env, Path(folder))
    compared, ended = check_same_game(env, plain, CHECKED_STEPS if num_envs <= 1000 else CHECKED_STEPS // 10)
    env.reset()
    plain.reset()

    def steps_per_second(step: Any) -> float:
        count, start = 0, time.perf_counter()
        while (passed := time.perf_counter() - start) < seconds:
            for action in actions:
                step(action)
            count += ACTION_SETS
        return count / passed

    pairs = [(steps_per_second(env.step), steps_per_second(plain.step)) for _ in range(rounds + 1)][1:]
    ratios = [theirs / ours for ours, theirs in pairs]
    ours, theirs = (statistics.median(speeds) * num_envs * env.num_agents for speeds in zip(*pairs, strict=True))
    return Comparison(
        num_envs=num_envs,
        num_agents=env.num_agents,
        full_observation=full,
        threads=torch.get_num_threads(),
        ours=ours,
        plain=theirs,
        ratio=statistics.median(ratios),
        ratio_range=(min(ratios), max(ratios)),
        compared_steps=compared,
        compared_ends=ended,
    )


def _joined(groups: dict[str, Tensor]) -> Tensor:
    """Taggers, then the runner: ``[E, n, …]``."""
    return torch.cat([groups["tagger"], groups["runner"]], dim=1)


def _stacked(groups: dict[str, Tensor]) -> Tensor:
    return torch.stack([groups["tagger"], groups["runner"]], dim=1)


def _compiler() -> str:
    for name in (os.environ.get("CC"), "gcc", "cc"):
        if name and shutil.which(name):
            return name
    sys.exit("The yardstick needs a C compiler with OpenMP; install gcc, or name one in CC.")


def main() -> None:
    """Compares every workload, prints a line for each and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="windows of each (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.2, help="length of a window (default: %(default)s)")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, torch.get_num_threads()], help="of both (default: 1 and all)"
    )
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args()
    rows = []
    for threads, (num_envs, full) in itertools.product(dict.fromkeys(arguments.threads), CASES):
        if threads > 1 and num_envs < FEWEST_FOR_THREADS:
            continue
        torch.set_num_threads(threads)
        found = compare(num_envs, full, rounds=arguments.rounds, seconds=arguments.seconds)
        rows.append(vars(found))
        workload = f"tag_gridworld {'full' if full else 'partial':8s} {num_envs:6,d} x {found.num_agents}"
        print(
            f"{workload}, CPU threads: {threads}; "
            f"ours {with_unit(found.ours)}, plain C {with_unit(found.plain)} agent-steps/s, "
            f"ratio {found.ratio:.2f} ({found.ratio_range[0]:.2f} to {found.ratio_range[1]:.2f}); "
            f"{found.compared_steps:,d} steps and {found.compared_ends:,d} ends of episodes agree",
            flush=True,
        )
    if arguments.json:
        machine = {"architecture": platform.machine(), "compiler": _compiler_version()}
        result = {"provenance": provenance() | machine, "results": rows}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


def _compiler_version() -> str:
    done = subprocess.run([_compiler(), "--version"], capture_output=True, text=True, check=True)
    return done.stdout.partition("\n")[0]


if __name__ == "__main__":
    main()
