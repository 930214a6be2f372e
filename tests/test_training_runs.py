"""Runs of training: hyperparameters, metrics, checkpoints, interruptions and evaluation."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import math
import os
import runpy
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete
from references.games import FAST, SMALL, FakeEnv, matching_bit

from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.errors import ParameterError
from gpu_marl_envs.training import (
    PPO,
    ActorCritic,
    Checkpoint,
    CheckpointError,
    RandomPolicy,
    Session,
    algorithms,
    train,
)
from gpu_marl_envs.training.evaluate import Estimate, cross_play, evaluate

Make = Callable[..., BatchedEnv]
TAG = {"num_taggers": 2, "num_runners": 3, "episode_length": 12, "tagging_distance": 0.1}


pytestmark = pytest.mark.usefixtures("one_thread")

# ---- hyperparameters ----


def test_algorithms_are_found() -> None:
    assert algorithms()["ppo"] is PPO


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rates": 1.0}, "did you mean 'learning_rate'"),
        ({"discount": 1.5}, "discount must be a number from 0 to 1, but 1.5"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1"),
        ({"activation": "sine"}, "activation must be one of 'tanh', 'relu'"),
    ],
)
def test_hyperparameters_are_checked(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        PPO.make(**values)


def test_every_hyperparameter_is_documented() -> None:
    for parameter in PPO.parameters():
        assert len(parameter.doc) > 10, parameter.name


# ---- metrics and checkpoints ----


def test_a_run_leaves_metrics_and_a_checkpoint(tmp_path: Path) -> None:
    env = FakeEnv(matching_bit)
    folder = tmp_path / "runs" / "one"
    result = train(env, FAST, total_steps=2_000, folder=folder, progress=False)
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(result.history) == math.ceil(2_000 / (8 * 16 * 2))
    assert float(rows[-1]["agent_steps"]) == result.agent_steps
    assert {"player/episode_return", "player/entropy", "agent_steps_per_second"} <= rows[0].keys()
    assert list(folder.glob("events.out.tfevents.*"))
    assert result.checkpoint == folder / "checkpoint.pt"

    checkpoint = Checkpoint.load(result.checkpoint)
    assert (checkpoint.env_id, checkpoint.algorithm, checkpoint.iteration) == ("fake-v0", "ppo", len(rows))
    assert PPO.make(**checkpoint.hyperparameters) == FAST
    policy = checkpoint.restore_policies(env)["player"]
    observation = torch.eye(2)[None]
    for deterministic in (True, False):
        actions = [
            p.act(observation, torch.Generator().manual_seed(0), deterministic=deterministic)
            for p in (policy, result.policies["player"])
        ]
        assert torch.equal(*actions)


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint = Checkpoint("fake-v0", {}, "ppo", {}, 1, 10, 0, {}, {})
    checkpoint.save(path)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        dataclasses.replace(checkpoint, iteration=2).save(path)
    assert Checkpoint.load(path) == checkpoint
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_are_not_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        Checkpoint.load(tmp_path / "missing.pt")
    text = tmp_path / "text.pt"
    text.write_text("hello")
    other = tmp_path / "other.pt"
    torch.save({"weights": torch.zeros(1)}, other)
    newer = tmp_path / "newer.pt"
    torch.save({"format": 99}, newer)
    for path, message in ((text, "not a readable"), (other, "not a checkpoint"), (newer, "another version")):
        with pytest.raises(CheckpointError, match=message):
            Checkpoint.load(path)


def test_a_checkpoint_says_what_does_not_fit(tmp_path: Path) -> None:
    result = train(FakeEnv(matching_bit), FAST, total_steps=1, folder=tmp_path, progress=False)
    checkpoint = Checkpoint.load(result.checkpoint)
    with pytest.raises(CheckpointError, match="'player' was trained with other"):
        checkpoint.restore_policies(FakeEnv(matching_bit, Discrete(3)))
    env = FakeEnv(matching_bit)
    env.groups = {"other": env.groups["player"]}
    with pytest.raises(CheckpointError, match="policies for player"):
        checkpoint.restore_policies(env)


def test_interrupt_ends_a_run_with_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)

    def interrupt(session: Session) -> None:
        if session.iteration == 3:
            signal.raise_signal(signal.SIGINT)

    env = FakeEnv(matching_bit)
    result = train(env, FAST, total_steps=10**6, folder=tmp_path, progress=False, after_iteration=interrupt)
    assert result.interrupted
    assert Checkpoint.load(result.checkpoint).iteration == 3
    assert signal.getsignal(signal.SIGINT) is before
    assert "press Ctrl-C again" in capsys.readouterr().err


def test_a_second_interrupt_ends_a_run_at_once(tmp_path: Path) -> None:
    def interrupt(_: Session) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(FakeEnv(matching_bit), FAST, total_steps=10**6, progress=False, after_iteration=interrupt)


def test_a_run_can_be_limited_in_time() -> None:
    result = train(FakeEnv(matching_bit), FAST, total_steps=10**9, max_seconds=0.2, progress=False)
    assert 0 < result.agent_steps < 10**9


# ---- evaluation ----


def test_estimate() -> None:
    samples = torch.tensor([1.0, 2.0, 4.0])
    estimate = Estimate.of(samples)
    assert estimate.mean == pytest.approx(7 / 3)
    assert estimate.standard_error == pytest.approx(np.std(samples.numpy(), ddof=1) / math.sqrt(3))
    assert math.isnan(Estimate.of(samples[:1]).standard_error)


def test_evaluation_plays_one_whole_episode_per_copy(make: Make) -> None:
    """In the gridworld the length of an episode and who won give the returns."""
    env = make("tag_gridworld-v0", 500, autoreset_mode="DISABLED", num_taggers=3, wall_hit_penalty=0.0)
    random = {name: RandomPolicy(group.action_space) for name, group in env.groups.items()}
    scores = evaluate(env, random, seed=1)
    tagged = scores["runner"].terminated.mean
    assert 0 < tagged <= 1
    assert scores["tagger"].terminated.mean == pytest.approx(3 * tagged)
    length = scores["runner"].episode_length.mean
    expected = 10.0 * tagged - 0.01 * (length - tagged)
    assert scores["tagger"].episode_return.mean == pytest.approx(expected, rel=1e-4)
    assert evaluate(env, random, seed=1) == scores
    assert evaluate(env, random, seed=2) != scores


def test_cross_play_mixes_all_groups(make: Make) -> None:
    env = make("tag_gridworld-v0", 50, autoreset_mode="DISABLED", num_taggers=2, episode_length=10)
    device = env.device
    trained = {name: ActorCritic(group, **SMALL).to(device) for name, group in env.groups.items()}
    table = cross_play(env, trained)
    assert set(table.scores) == set(itertools.product(("trained", "random"), repeat=2))
    lines = str(table).splitlines()
    assert len(lines) == 2 + 4
    assert lines[2].startswith("trained  trained")


def test_evaluation_refuses_copies_that_reset_themselves(make: Make) -> None:
    with pytest.raises(ParameterError, match="DISABLED"):
        evaluate(make("tag_gridworld-v0", 2), {})


@pytest.mark.slow
def test_the_demo_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its exit code says whether trained agents beat random ones by the margins that it states."""
    demo = Path(__file__).parents[1] / "examples" / "demo.py"
    monkeypatch.setattr("sys.argv", [str(demo), "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as exit_code:
        runpy.run_path(str(demo), run_name="__main__")
    output = capsys.readouterr()
    assert exit_code.value.code == 0, output
    for name in ("learning_curve.png", "episode.gif", "checkpoint.pt"):
        assert (tmp_path / name).stat().st_size > 10_000, name
        assert str(tmp_path / name) in output.out
