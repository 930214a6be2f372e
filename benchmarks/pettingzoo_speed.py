"""Steps per second of PettingZoo's parallel API: tag_continuous against mpe2's simple_tag, 4 agents each.

Both are driven by the same loop on the CPU, in rounds that take turns, with actions drawn beforehand. Speeds of
single rounds depend on what else the machine does; the median of the rounds' ratios is the figure to quote.

    python benchmarks/pettingzoo_speed.py [--rounds 7] [--seconds 1.0] [--json result.json]

mpe2 comes with the extra ``gpu-marl-envs[dev]``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pettingzoo import ParallelEnv

import gpu_marl_envs

NUM_AGENTS = 4  # 1 tagger and 3 runners here; 3 adversaries and 1 agent there
STEPS_PER_CHECK = 200  # steps between two looks at the clock


def make_ours() -> ParallelEnv:
    """One tagger and three runners, default parameters."""
    from gpu_marl_envs.adapters.pettingzoo import parallel_env

    return parallel_env("tag_continuous-v0", num_taggers=1, num_runners=NUM_AGENTS - 1)


def make_reference() -> ParallelEnv:
    """mpe2's simple_tag with default arguments but episodes as long as ours."""
    from mpe2 import simple_tag_v3

    return simple_tag_v3.parallel_env(max_cycles=100)


def drawn_actions(env: ParallelEnv, count: int) -> list[dict[str, Any]]:
    """Random actions of all agents for ``count`` steps."""
    for i, agent in enumerate(env.possible_agents):
        env.action_space(agent).seed(i)
    return [{agent: env.action_space(agent).sample() for agent in env.possible_agents} for _ in range(count)]


def measured_round(env: ParallelEnv, actions: Iterator[dict[str, Any]], seconds: float) -> float:
    """Environment steps per second, resets included."""
    env.reset(seed=0)
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for _ in range(STEPS_PER_CHECK):
            everyone = next(actions)
            env.step({agent: everyone[agent] for agent in env.agents})
            if not env.agents:
                env.reset()
        steps += STEPS_PER_CHECK
    return steps / (time.perf_counter() - start)


def cycled(items: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The items over and over."""
    while True:
        yield from items


def checked(env: ParallelEnv) -> None:
    """Plays an episode and raises AssertionError unless it looks like one: finite values, spaces kept, an end."""
    observations, _ = env.reset(seed=0)
    rewards_seen = 0
    while env.agents:
        actions = {agent: env.action_space(agent).sample() for agent in env.agents}
        observations, rewards, *_ = env.step(actions)
        assert set(observations) == set(actions), "observations are not those of the agents that acted"
        assert all(env.observation_space(a).contains(o) for a, o in observations.items()), "an observation is outside"
        assert np.isfinite(list(rewards.values())).all(), "a reward is not finite"
        rewards_seen += len(rewards)
    assert rewards_seen >= NUM_AGENTS, "the episode ended before it began"


def main() -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each environment (default: 7)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a round (default: 1.0)")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    arguments = parser.parse_args()

    environments = {"tag_continuous": make_ours(), "simple_tag": make_reference()}
    actions = {}
    speeds: dict[str, list[float]] = {}
    for name, env in environments.items():
        assert len(env.possible_agents) == NUM_AGENTS
        checked(env)
        actions[name] = cycled(drawn_actions(env, 1000))
        measured_round(env, actions[name], 0.2)  # warm-up
        speeds[name] = []
    for _ in range(arguments.rounds):
        for name, env in environments.items():
            speeds[name].append(measured_round(env, actions[name], arguments.seconds))

    ratios = [ours / theirs for ours, theirs in zip(speeds["tag_continuous"], speeds["simple_tag"], strict=True)]
    result = {
        "agents": NUM_AGENTS,
        "steps_per_second": {name: statistics.median(values) for name, values in speeds.items()},
        "ratio_median": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "rounds": arguments.rounds,
        "seconds_per_round": arguments.seconds,
        "machine": {
            "cores": os.cpu_count(),
            "architecture": platform.machine(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "gpu_marl_envs": gpu_marl_envs.__version__,
        },
    }
    for name, speed in result["steps_per_second"].items():
        print(f"{name:>15}: {speed:10,.0f} environment steps/s")
    print(f"{'ratio':>15}: {result['ratio_median']:10.1f} (rounds from {min(ratios):.1f} to {max(ratios):.1f})")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
