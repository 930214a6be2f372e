"""How good policies are: mean returns over whole episodes, for any mix of trained and random policies."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

from gymnasium.vector import AutoresetMode
from torch import Tensor

from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.errors import ParameterError
from gpu_marl_envs.training.policies import Policy, RandomPolicy
from gpu_marl_envs.training.randomness import RandomStream

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over independent episodes and how sure it is.

    Attributes:
        mean: of the samples.
        standard_error: of the mean.
        half_width: the true mean lies this close to ``mean`` with a confidence of 95 % (Student's t, which takes the
            sum of the samples for normally distributed); NaN for fewer than four samples.
    """

    mean: float
    standard_error: float
    half_width: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.half_width:.2f}"

    @classmethod
    def of(cls, samples: Tensor) -> Estimate:
        """Of one number per episode ``[E]``; the error of a single episode is not known (NaN)."""
        count = len(samples)
        error = float(samples.double().std() / math.sqrt(count)) if count > 1 else math.nan
        return cls(float(samples.double().mean()), error, error * _t_quantile(count - 1))


def _t_quantile(degrees: int) -> float:
    """How many standard errors the interval reaches to either side: Fisher's expansion of Student's t around z."""
    if degrees < 3:
        return math.nan
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / degrees**power for power, term in enumerate(terms, 1))


@dataclass(frozen=True)
class GroupScore:
    """What one group achieved, per episode.

    Attributes:
        episode_return: sum of rewards, mean over the group's agents.
        episode_length: steps in the game, mean over the group's agents.
        terminated: number of the group's agents that terminated (a tagged runner), rather than reaching truncation.
    """

    episode_return: Estimate
    episode_length: Estimate
    terminated: Estimate


def evaluate(
    env: BatchedEnv, policies: Mapping[str, Policy], *, seed: int = 0, deterministic: bool = False
) -> dict[str, GroupScore]:
    """Plays one whole episode in every copy.

    Every copy counts exactly once: counting whatever ends first would favour short episodes.

    Args:
        env: made with ``autoreset_mode="DISABLED"``; it is reset first.
        policies: one per group.
        seed: of the environment's and the policies' random numbers.
        deterministic: take the most probable actions instead of sampling.

    Returns:
        The score of each group.

    Raises:
        ParameterError: the environment resets finished copies itself.
    """
    if env.autoreset_mode is not AutoresetMode.DISABLED:
        raise ParameterError("Evaluation needs an environment made with autoreset_mode='DISABLED'.")
    random = RandomStream(seed, env.device)
    observation = env.reset(seed=seed)
    for _ in range(env.declaration.max_steps):
        actions = act(env, policies, observation, random, deterministic=deterministic)
        observation, _, terminated, _, info = env.step(actions)
    return {
        name: GroupScore(
            episode_return=Estimate.of(info["episode_return"][name]),
            episode_length=Estimate.of(info["episode_length"][name]),
            terminated=Estimate.of(terminated[name].sum(1)),
        )
        for name in env.groups
    }


def act(
    env: BatchedEnv,
    policies: Mapping[str, Policy],
    observation: Mapping[str, Tensor],
    random: RandomStream,
    *,
    deterministic: bool = False,
) -> dict[str, Tensor]:
    """Actions of all groups, by group, for their observations ``[num_envs, n, ...]``."""
    masks = env.action_masks
    return {
        name: policies[name].act(
            observation[name],
            random,
            deterministic=deterministic,
            mask=masks[name].flatten(2) if name in masks else None,
        )
        for name in env.groups
    }


@dataclass(frozen=True)
class CrossPlay:
    """Scores of every mix of players.

    Attributes:
        groups: names of the groups.
        scores: by mix, which names the player of each group in order.
    """

    groups: tuple[str, ...]
    scores: dict[tuple[str, ...], dict[str, GroupScore]]

    def __str__(self) -> str:
        header = [*self.groups]
        for name in self.groups:
            header += [f"{name} return", f"{name} length", f"{name} terminated"]
        rows = [header]
        for mix, scores in self.scores.items():
            row = [*mix]
            for name in self.groups:
                score = scores[name]
                row += [str(score.episode_return), str(score.episode_length), str(score.terminated)]
            rows.append(row)
        return format_table(rows)


def cross_play(env: BatchedEnv, trained: Mapping[str, Policy], *, seed: int = 0) -> CrossPlay:
    """Evaluates every mix of trained and random policies, over as many episodes each as there are copies.

    A group's return against opponents that learnt with it says little: both may be good or both bad. Against random
    opponents, and with random policies in its place, it does.

    Args:
        env: made with ``autoreset_mode="DISABLED"``.
        trained: one policy per group.
        seed: as in :func:`evaluate`; all mixes start from the same states.
    """
    return tournament(env, {"trained": trained, "random": random_policies(env)}, seed=seed)


def tournament(env: BatchedEnv, players: Mapping[str, Mapping[str, Policy]], *, seed: int = 0) -> CrossPlay:
    """Evaluates every mix of players, over as many episodes each as there are copies.

    Args:
        env: made with ``autoreset_mode="DISABLED"``.
        players: by name, one policy per group, as from two checkpoints and :func:`random_policies`.
        seed: as in :func:`evaluate`; all mixes start from the same states.
    """
    scores = {}
    for mix in itertools.product(players, repeat=len(env.groups)):
        policies = {group: players[player][group] for group, player in zip(env.groups, mix, strict=True)}
        scores[mix] = evaluate(env, policies, seed=seed)
    return CrossPlay(tuple(env.groups), scores)


def random_policies(env: BatchedEnv) -> dict[str, Policy]:
    """A policy for every group that acts uniformly at random."""
    return {name: RandomPolicy(group.action_space) for name, group in env.groups.items()}


def format_table(rows: list[list[str]]) -> str:
    """Rows of text as columns of equal width, the first row above a rule."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]])
