"""Plays an episode of Tag through PettingZoo's parallel API: taggers chase the nearest runner, which runs away.

    python examples/pettingzoo_play.py [--seed 0] [--gif episode.gif | --window]

Needs the extra ``gpu-marl-envs[render]`` for ``--gif`` and ``--window``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pettingzoo

import gpu_marl_envs  # noqa: F401  (registers the environments with PettingZoo)
from gpu_marl_envs.rendering import record_gif

STAY, RIGHT, LEFT, UP, DOWN = range(5)


def step_along(difference: np.ndarray) -> int:
    """The move that shortens the larger part of (x, y)."""
    x, y = difference
    if abs(x) >= abs(y):
        return (RIGHT if x > 0 else LEFT) if x else STAY
    return UP if y > 0 else DOWN


def choose(agent: str, observation: np.ndarray, generator: np.random.Generator) -> int:
    """Taggers go for the runner; the runner leaves the nearest tagger, and sometimes hesitates.

    The partial observation holds one's own cell, the opponent's cell, one's type and the time.
    """
    towards = observation[2:4] - observation[:2]
    if agent.startswith("tagger"):
        return step_along(towards)
    return STAY if generator.random() < 0.3 else step_along(-towards)


def main() -> None:
    """Plays one episode and prints its returns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the start and of the runner (default: 0)")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--gif", type=Path, help="write the episode to this file")
    output.add_argument("--window", action="store_true", help="show the episode in a window")
    arguments = parser.parse_args()

    render_mode = "human" if arguments.window else "rgb_array" if arguments.gif else None
    env = pettingzoo.make(
        "parallel",
        "gpu_marl/tag_gridworld-v0",
        num_taggers=3,
        grid_length=15,
        use_full_observation=False,
        render_mode=render_mode,
    )
    generator = np.random.default_rng(arguments.seed)
    observations, _ = env.reset(seed=arguments.seed)
    returns, steps = dict.fromkeys(env.agents, 0.0), 0
    frames = [env.render()] if arguments.gif else []
    while env.agents:
        actions = {agent: choose(agent, observations[agent], generator) for agent in env.agents}
        observations, rewards, _, truncations, _ = env.step(actions)
        for agent, reward in rewards.items():
            returns[agent] += reward
        steps += 1
        if arguments.gif:
            frames.append(env.render())
    env.close()

    print("the runner got away" if any(truncations.values()) else f"the runner was caught after {steps} steps")
    for agent, total in returns.items():
        print(f"{agent:>10} {total:6.2f}")
    if arguments.gif:
        print(f"episode: {record_gif(frames, arguments.gif, fps=6)}")


if __name__ == "__main__":
    main()
