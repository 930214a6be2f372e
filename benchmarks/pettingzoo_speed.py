"""Environment steps per second against the Python originals, mpe2's simple_tag and PettingZoo's pursuit.

One copy through PettingZoo's parallel API, and thousands of copies in a batch, each against one copy of the original,
which is all that it has. All run on the CPU, in rounds that take turns, with random actions drawn beforehand and resets
included. Speeds of single rounds depend on what else the machine does; the median of the rounds' ratios is the figure
to quote. The command exits with an error if one is lower than it should be.

    python benchmarks/pettingzoo_speed.py [--rounds 7] [--seconds 1.0] [--json benchmarks/results/pettingzoo_speed.json]

The originals come with the extra ``gpu-marl-envs[dev]``.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

# Read when torch loads OpenMP. Threads that spin while they wait would hinder whatever takes turns with them.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
from pettingzoo import ParallelEnv

from gpu_marl_envs import make_batched
from gpu_marl_envs.adapters.pettingzoo import parallel_env
from gpu_marl_envs.benchmarking import draw_actions, provenance, with_unit

ACTION_SETS = 1_000  # drawn beforehand; then they come again


class Player(Protocol):
    """Something that can be timed."""

    copies: int

    def reset(self) -> None:
        """Starts anew."""

    def step(self) -> None:
        """Takes a step of all copies."""


class OneCopy:
    """Plays an environment through PettingZoo's parallel API."""

    copies = 1

    def __init__(self, env: ParallelEnv) -> None:
        _check(env)
        for i, agent in enumerate(env.possible_agents):
            env.action_space(agent).seed(i)
        drawn = [{agent: env.action_space(agent).sample() for agent in env.possible_agents} for _ in range(ACTION_SETS)]
        self._env, self._actions = env, itertools.cycle(drawn)

    def reset(self) -> None:
        self._env.reset(seed=0)

    def step(self) -> None:
        everyone = next(self._actions)
        self._env.step({agent: everyone[agent] for agent in self._env.agents})
        if not self._env.agents:
            self._env.reset()


class Batch:
    """Plays many copies at once."""

    def __init__(self, env_id: str, copies: int) -> None:
        self.copies = copies
        self._env = make_batched(env_id, copies, "cpu", check_actions=False)
        self._actions = itertools.cycle(draw_actions(self._env, seed=0))

    def reset(self) -> None:
        self._env.reset(seed=0)

    def step(self) -> None:
        self._env.step(next(self._actions))


@dataclass(frozen=True)
class Case:
    """One of ours against an original.

    Attributes:
        env_id: ours, with the parameters ``params``.
        copies: how many of ours are played; one is played through PettingZoo.
        original: the module that has it, called with ``original_params``.
        least: how many times as fast ours should be at least.
    """

    env_id: str
    copies: int
    original: str
    least: float
    params: dict[str, Any] = field(default_factory=dict)
    original_params: dict[str, Any] = field(default_factory=dict)

    def ours(self) -> Player:
        """Ours, ready to play."""
        if self.copies > 1:
            return Batch(self.env_id, self.copies)
        return OneCopy(parallel_env(self.env_id, **self.params))

    def theirs(self) -> Player:
        """The original, ready to play."""
        return OneCopy(importlib.import_module(self.original).parallel_env(**self.original_params))


CASES = [
    Case("simple_tag-v3", 1, "mpe2.simple_tag_v3", 15),
    # The same number of agents, and episodes of the same length.
    Case("tag_continuous-v0", 1, "mpe2.simple_tag_v3", 15, {"num_taggers": 1, "num_runners": 3}, {"max_cycles": 100}),
    Case("simple_tag-v3", 10_000, "mpe2.simple_tag_v3", 1_000),
    Case("pursuit-v5", 1_000, "pettingzoo.sisl.pursuit_v5", 1_000),
]


def compare(case: Case, rounds: int, seconds: float) -> dict[str, Any]:
    """Both take turns; returns a line of the results."""
    players = case.ours(), case.theirs()
    for player in players:
        _round(player, 0.2 * seconds)  # warm-up
    speeds = [[_round(player, seconds) for player in players] for _ in range(rounds)]
    ratios = [ours / theirs for ours, theirs in speeds]
    return {
        "env_id": case.env_id,
        "copies": case.copies,
        "original": case.original,
        "steps_per_second": statistics.median(ours for ours, _ in speeds),
        "original_steps_per_second": statistics.median(theirs for _, theirs in speeds),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "least_ratio": case.least,
    }


def _round(player: Player, seconds: float) -> float:
    """Environment steps per second; looking at the clock takes a hundredth of what the quickest step takes."""
    player.reset()
    steps, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        player.step()
        steps += player.copies
    return steps / spent


def _check(env: ParallelEnv) -> None:
    """Plays an episode and raises AssertionError unless it looks like one: finite values, spaces kept, an end."""
    observations, _ = env.reset(seed=0)
    steps = 0
    while env.agents:
        actions = {agent: env.action_space(agent).sample() for agent in env.agents}
        observations, rewards, *_ = env.step(actions)
        assert set(observations) == set(actions), "observations are not those of the agents that acted"
        assert all(env.observation_space(a).contains(o) for a, o in observations.items()), "an observation is outside"
        assert np.isfinite(list(rewards.values())).all(), "a reward is not finite"
        steps += 1
    assert steps > 1, "the episode ended before it began"


def main() -> int:
    """Runs the command line and returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each environment (default: 7)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a round (default: 1.0)")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args()
    rows = []
    for case in CASES:
        row = compare(case, arguments.rounds, arguments.seconds)
        rows.append(row)
        speeds = (with_unit(row[name]) for name in ("steps_per_second", "original_steps_per_second"))
        low, high = row["ratio_range"]
        print(
            f"{case.env_id}, copies: {case.copies}: {next(speeds)}/s, original {next(speeds)}/s, "
            f"ratio {row['ratio']:,.1f} ({low:,.1f} to {high:,.1f}; at least {case.least:,})",
            flush=True,
        )
    if arguments.json:
        machine = {"cores": os.cpu_count(), "architecture": platform.machine(), "numpy": np.__version__}
        found = {"provenance": provenance() | machine, "results": rows}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    return int(any(row["ratio"] < row["least_ratio"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
