"""Stable-Baselines3's PPO learns Tag through SuperSuit, the usual route for PettingZoo environments.

Taggers and the runner learn one policy together: their observations say which of the two they are. Because one side's
gain is the other's loss, trained taggers are scored against a runner that moves at random.

    python examples/sb3_supersuit.py [--steps 300000] [--copies 16] [--seed 0] [--gif episode.gif]

Needs the extra ``gpu-marl-envs[examples]``, and about a minute.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import supersuit
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from gpu_marl_envs import tag_gridworld_v0
from gpu_marl_envs.rendering import record_gif

Policy = Callable[[np.ndarray], np.ndarray]  # observations [agents, floats] -> actions [agents]

SETTING: dict[str, Any] = {"num_taggers": 2, "grid_length": 8, "episode_length": 40, "use_full_observation": False}


def training_environment(copies: int, seed: int) -> VecEnv:
    """All agents of all copies as the rows of one vector environment.

    Where agents leave before the episode ends, as in continuous Tag, ``supersuit.black_death_v3`` comes first; where
    groups observe or act differently, ``pad_observations_v0`` and ``pad_action_space_v0``.
    """
    env = tag_gridworld_v0.parallel_env(**SETTING)
    rows = supersuit.pettingzoo_env_to_vec_env_v1(env)
    vector = supersuit.concat_vec_envs_v1(rows, copies, num_cpus=1, base_class="stable_baselines3")
    vector.venv.reset(seed=seed)  # the outer wrapper takes no seed; its own resets go on from this one
    return vector


def train(steps: int, copies: int = 16, seed: int = 0) -> PPO:
    """Trains one policy for all agents; each agent's move counts as a step."""
    torch.set_num_threads(1)  # the network is so small that sharing its work costs more than it saves
    set_random_seed(seed)  # PPO(seed=...) would ask the vector environment, which refuses
    vector = training_environment(copies, seed)
    model = PPO(
        "MlpPolicy",
        vector,
        n_steps=128,
        batch_size=1024,
        n_epochs=6,
        gamma=0.97,
        learning_rate=1e-3,
        ent_coef=0.01,
        policy_kwargs={"net_arch": [64, 64]},
        device="cpu",
    )
    model.learn(steps)
    vector.close()
    return model


def tagger_return(policy: Policy, episodes: int, seed: int = 1_000, frames: list[np.ndarray] | None = None) -> float:
    """Mean return of a tagger that plays this policy against a random runner; collects pictures in ``frames``."""
    render_mode = None if frames is None else "rgb_array"
    env = tag_gridworld_v0.parallel_env(**SETTING, seed=seed, render_mode=render_mode)
    runner = env.action_space("runner_0")
    runner.seed(seed)
    taggers = env.possible_agents[:-1]
    total = 0.0
    for _ in range(episodes):
        observations, _ = env.reset()
        while env.agents:
            if frames is not None:
                frames.append(env.render())
            actions = dict(zip(taggers, policy(np.stack([observations[a] for a in taggers])), strict=True))
            observations, rewards, *_ = env.step(actions | {"runner_0": runner.sample()})
            total += sum(rewards[tagger] for tagger in taggers)
        if frames is not None:
            frames.append(env.render())
    env.close()
    return total / episodes / len(taggers)


def random_policy(seed: int) -> Policy:
    """Every move with the same probability."""
    generator = np.random.default_rng(seed)
    return lambda observations: generator.integers(5, size=len(observations))


def main() -> None:
    """Trains, and prints what random and trained taggers score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300_000, help="agent steps to train (default: 300000)")
    parser.add_argument("--copies", type=int, default=16, help="copies of the environment (default: 16)")
    parser.add_argument("--seed", type=int, default=0, help="of training (default: 0)")
    parser.add_argument("--gif", type=Path, help="also write three episodes of the trained taggers to this file")
    arguments = parser.parse_args()
    model = train(arguments.steps, arguments.copies, arguments.seed)

    def trained(observations: np.ndarray) -> np.ndarray:
        return model.predict(observations)[0]

    print("return of a tagger against a random runner, 300 episodes")
    print(f"  random  {tagger_return(random_policy(0), 300):6.2f}")
    print(f"  trained {tagger_return(trained, 300):6.2f}")
    if arguments.gif is not None:
        frames: list[np.ndarray] = []
        tagger_return(trained, 3, frames=frames)
        print(f"episodes: {record_gif(frames, arguments.gif, fps=6)}")


if __name__ == "__main__":
    main()
