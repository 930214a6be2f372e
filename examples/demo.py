"""Trains taggers and runners, compares them with random ones, and shows how they learnt and what they do.

This is `make demo`. It takes a little over a minute on a CPU, and exits with an error if the trained agents are not
clearly better than random ones.

    python examples/demo.py [--device auto] [--out runs/demo] [--seed 0] [--runners 4] [--algo ppo]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

import gpu_marl_envs
from gpu_marl_envs.cli_training import FRAMES_PER_SECOND
from gpu_marl_envs.command_line import INTERRUPTED, make_env
from gpu_marl_envs.errors import GpuMarlError
from gpu_marl_envs.rendering import group_colour, record_gif
from gpu_marl_envs.training import A2C, PPO, Algorithm, Policy, Schedule, Session, train
from gpu_marl_envs.training.evaluate import CrossPlay, cross_play, evaluate, format_table, random_policies
from gpu_marl_envs.training.play import play_frames

ENV = "tag_continuous-v0"
# Two slow taggers against a few nimbler runners. Everyone sees the five nearest others. Braking is easier than
# accelerating, so random agents dawdle, and there is something to learn.
PARAMS: dict[str, Any] = {
    "num_taggers": 2,
    "max_speed": 0.5,
    "skill_level_tagger": 0.7,
    "min_acceleration": -0.2,
    "max_acceleration": 0.1,
    "num_acceleration_levels": 2,
    "num_turn_levels": 8,
    "tagging_distance": 0.04,
    "use_full_observation": False,
    "num_other_agents_observed": 5,
    "step_reward_for_runner": 0.01,
    "end_of_game_reward_for_runner": 0.0,
}
COMMON: dict[str, Any] = {"discount": 0.97, "gae_lambda": 0.9, "entropy_coefficient": 0.001, "activation": "relu"}
ALGORITHMS: dict[str, Algorithm] = {
    "ppo": PPO(rollout_steps=32, epochs=6, minibatches=8, learning_rate=Schedule.linear(3e-3, 0.0), **COMMON),
    "a2c": A2C(
        rollout_steps=8,
        optimizer_name="adam",
        learning_rate=Schedule.linear(3e-3, 0.0),
        normalize_advantages=True,
        **COMMON,
    ),
}
NUM_ENVS = 128
TOTAL_STEPS = 5_000_000  # agent-steps
MAX_SECONDS = 120.0  # on a slow machine less training must do
CURVE_POINTS = 12
CURVE_EPISODES = 250  # per point of the learning curve
SCORE_EPISODES = 2000  # per entry of the table
# What "clearly better" means. A2C takes one gradient step where PPO takes many, and learns less from as many steps.
LEAST_TAGS_RATIO = {"ppo": 2.5, "a2c": 1.4}  # trained taggers against random taggers, both hunting random runners
MOST_TAGGED_RATIO = {"ppo": 0.7, "a2c": 0.8}  # trained runners against random runners, both hunted by random taggers


class LearningCurve:
    """Plays trained against random policies now and then during training."""

    def __init__(self, device: str, params: dict[str, Any]) -> None:
        self.num_runners = params["num_runners"]
        self.env = gpu_marl_envs.make_batched(ENV, CURVE_EPISODES, device, autoreset_mode="DISABLED", **params)
        self.random = random_policies(self.env)
        self.steps = [0]
        self.tagged_by_trained = [self.runners_tagged()]
        self.tagged_of_trained = self.tagged_by_trained.copy()

    def runners_tagged(self, **trained: Policy) -> float:
        """Mean number per episode; groups that are not given play randomly."""
        return evaluate(self.env, self.random | trained)["runner"].terminated.mean

    def __call__(self, session: Session) -> None:
        """Adds a point, if it is time."""
        if session.fraction >= len(self.steps) / CURVE_POINTS:
            self.steps.append(session.agent_steps)
            self.tagged_by_trained.append(self.runners_tagged(tagger=session.policies["tagger"]))
            self.tagged_of_trained.append(self.runners_tagged(runner=session.policies["runner"]))

    def draw(self, path: Path) -> Path:
        """Writes a PNG."""
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt

        figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
        millions = [steps / 1e6 for steps in self.steps]
        lines = (
            (self.tagged_by_trained, "trained taggers, random runners"),
            (self.tagged_of_trained, "random taggers, trained runners"),
        )
        for index, (tagged, label) in enumerate(lines):
            colour = [channel / 255 for channel in group_colour(index)]
            axes.plot(millions, tagged, "o-", color=colour, label=label, markersize=4)
        axes.axhline(self.tagged_by_trained[0], color="0.5", linestyle="--", label="random taggers, random runners")
        axes.set(xlabel="agent-steps in millions", ylabel=f"runners tagged per episode, of {self.num_runners}")
        axes.set(ylim=(0, self.num_runners), title=f"Learning {ENV}")
        axes.grid(alpha=0.3)
        axes.legend(loc="upper left")
        figure.savefig(path, dpi=150)
        return path


def cross_play_table(scores: CrossPlay) -> str:
    """The scores in the terms of the game."""
    rows = [["taggers", "runners", "tagger return", "runners tagged", "steps survived by a runner"]]
    for (taggers, runners), score in scores.scores.items():
        tagger, runner = score["tagger"], score["runner"]
        rows.append([taggers, runners, *map(str, (tagger.episode_return, runner.terminated, runner.episode_length))])
    return format_table(rows)


def verdict(scores: CrossPlay, algorithm: str) -> bool:
    """Prints how trained agents compare with random ones, and returns whether they are clearly better."""
    tagged = {mix: score["runner"].terminated.mean for mix, score in scores.scores.items()}
    tags_ratio = tagged["trained", "random"] / tagged["random", "random"]
    tagged_ratio = tagged["random", "trained"] / tagged["random", "random"]
    print(f"Trained taggers tag {tags_ratio:.1f} times as many random runners as random taggers do.")
    print(f"Trained runners are tagged by random taggers {1 - tagged_ratio:.0%} less often than random runners are.")
    return tags_ratio >= LEAST_TAGS_RATIO[algorithm] and tagged_ratio <= MOST_TAGGED_RATIO[algorithm]


def main() -> int:
    """Runs the demo and returns its exit code."""
    parser = argparse.ArgumentParser(description="Train taggers and runners, and compare them with random ones.")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="output folder (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers (default: %(default)s)")
    parser.add_argument("--runners", type=int, default=4, help="number of runners (default: %(default)s)")
    parser.add_argument("--algo", choices=ALGORITHMS, default="ppo", help="the algorithm (default: %(default)s)")
    options = parser.parse_args()

    # A second thread gains little for networks this small, and loses much where another program wants the core.
    torch.set_num_threads(1)
    params = PARAMS | {"num_runners": options.runners}
    env = make_env(ENV, NUM_ENVS, options.device, seed=options.seed, autoreset_mode="SAME_STEP", **params)
    curve = LearningCurve(str(env.device), params)
    print(f"Training {PARAMS['num_taggers']} taggers and {options.runners} runners in {NUM_ENVS} copies of {ENV}:")
    result = train(
        env,
        ALGORITHMS[options.algo],
        total_steps=TOTAL_STEPS,
        seed=options.seed,
        folder=options.out,
        overwrite=True,
        max_seconds=MAX_SECONDS,
        after_iteration=curve,
    )
    if result.interrupted:
        print(f"Interrupted; checkpoint: {result.checkpoint}")
        return INTERRUPTED

    print(f"\nCross-play: mean over {SCORE_EPISODES} episodes, and how far the true mean may be with 95 % confidence")
    referee = gpu_marl_envs.make_batched(ENV, SCORE_EPISODES, env.device, autoreset_mode="DISABLED", **params)
    scores = cross_play(referee, result.policies, seed=options.seed + 1)
    print(cross_play_table(scores), end="\n\n")
    learnt = verdict(scores, options.algo)

    episode = gpu_marl_envs.make_batched(ENV, 1, env.device, **params)
    frames = play_frames(episode, result.policies, seed=options.seed)
    print(f"\nLearning curve: {curve.draw(options.out / 'learning_curve.png')}")
    print(f"An episode:     {record_gif(frames, options.out / 'episode.gif', fps=FRAMES_PER_SECOND)}")
    print(f"Checkpoint:     {result.checkpoint}")
    if not learnt:
        print("The trained agents are not clearly better than random ones.", file=sys.stderr)
    return 0 if learnt else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except GpuMarlError as error:
        sys.exit(f"demo: {error}")
