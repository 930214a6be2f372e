"""What policies are worth, and with how many copies to train them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from references.games import SMALL, FakeEnv, matching_bit

from gpu_marl_envs import make_batched
from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.errors import OutOfMemoryError as TooLittleMemory
from gpu_marl_envs.errors import ParameterError
from gpu_marl_envs.training import (
    MLP,
    PPO,
    ActorCritic,
    RandomStream,
    autoscale,
)
from gpu_marl_envs.training.evaluate import act, cross_play, evaluate, random_policies, tournament

Make = Callable[..., BatchedEnv]

pytestmark = pytest.mark.usefixtures("one_thread")

# ---- evaluation ----


def test_evaluation_plays_one_whole_episode_per_copy(make: Make) -> None:
    """In the gridworld the length of an episode and who won give the returns."""
    env = make("tag_gridworld-v0", 500, autoreset_mode="DISABLED", num_taggers=3, wall_hit_penalty=0.0)
    players = random_policies(env)
    scores = evaluate(env, players, seed=1)
    tagged = scores["runner"].terminated.mean
    assert 0 < tagged <= 1
    assert scores["tagger"].terminated.mean == pytest.approx(3 * tagged)
    length = scores["runner"].episode_length.mean
    expected = 10.0 * tagged - 0.01 * (length - tagged)
    assert scores["tagger"].episode_return.mean == pytest.approx(expected, rel=1e-4)
    assert evaluate(env, players, seed=1) == scores
    assert evaluate(env, players, seed=2) != scores


def test_cross_play_mixes_all_groups(make: Make) -> None:
    env = make("tag_gridworld-v0", 50, autoreset_mode="DISABLED", num_taggers=2, episode_length=10)
    trained = {name: ActorCritic(group, MLP(**SMALL)).to(env.device) for name, group in env.groups.items()}
    table = cross_play(env, trained)
    assert set(table.scores) == set(itertools.product(("trained", "random"), repeat=2))
    lines = str(table).splitlines()
    assert len(lines) == 2 + 4
    assert lines[2].startswith("trained  trained")
    players = {"new": trained, "old": trained, "random": random_policies(env)}
    scores = tournament(env, players).scores
    assert set(scores) == set(itertools.product(("new", "old", "random"), repeat=2))
    assert scores["new", "old"] == scores["old", "new"]
    assert scores["new", "random"] == table.scores["trained", "random"]


def test_masks_hold_while_playing() -> None:
    env = FakeEnv(matching_bit, mask=lambda context: torch.stack([context == 0, context == 1], -1))
    observation = env.reset()
    for policies in (random_policies(env), {"player": ActorCritic(env.groups["player"])}):
        assert torch.equal(act(env, policies, observation, RandomStream(0))["player"], env.context.int())


def test_evaluation_refuses_copies_that_reset_themselves(make: Make) -> None:
    with pytest.raises(ParameterError, match="DISABLED"):
        evaluate(make("tag_gridworld-v0", 2), {})


# ---- the number of copies ----


def choose(
    monkeypatch: pytest.MonkeyPatch, outcome: Callable[[int], tuple[float, float, int]]
) -> tuple[int, list[str]]:
    """What is chosen, and said, if training with so many copies goes so fast, takes so long and so much memory."""
    monkeypatch.setattr(autoscale, "_measure", lambda env, *_: outcome(env.num_envs))
    monkeypatch.setattr(autoscale, "_free_bytes", lambda device: 10**9)
    said: list[str] = []

    def make(num_envs: int) -> BatchedEnv:
        return make_batched("tag_gridworld-v0", num_envs, num_taggers=2)

    return autoscale.measured_num_envs(make, PPO(), report=said.append), said


def test_the_number_of_copies_is_the_largest_that_keeps_the_throughput(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {16: 10.0, 32: 20.0, 64: 39.0, 128: 40.0, 256: 38.0, 512: 30.0, 1024: 20.0}
    chosen, said = choose(monkeypatch, lambda count: (rates[count], 0.01, 0))
    assert chosen == 256
    assert said[-1] == "num_envs: 256 (a larger batch is slower)"
    assert said[0].startswith("16 copies: 10 agent-steps/s")


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (lambda count: (float(count), 0.01 * count, 0), "would take longer"),
        (lambda count: (float(count), 0.01, 10**6 * count), "might not fit"),
        (lambda count: (float(count), 0.01, 0) if count < 128 else throw(TooLittleMemory("full")), "does not fit"),
    ],
)
def test_the_number_of_copies_has_bounds(
    monkeypatch: pytest.MonkeyPatch, outcome: Callable[[int], tuple[float, float, int]], reason: str
) -> None:
    chosen, said = choose(monkeypatch, outcome)
    assert 16 <= chosen <= 256
    assert reason in said[-1]


def throw(error: Exception) -> Any:
    raise error


def test_the_number_of_copies_is_really_measured(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make("tag_gridworld-v0", 8, autoreset_mode="SAME_STEP", device="cpu", num_taggers=2)
    rate, seconds, memory = autoscale._measure(env, PPO(rollout_steps=4, **SMALL), None)
    assert rate * seconds == pytest.approx(8 * 3 * 4)
    assert 100 < rate < 1e8
    assert memory > 8 * 3 * 5 * 4 * env.groups["tagger"].observation_size
