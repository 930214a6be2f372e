"""Runs of training that end early, and go on."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from references.games import FAST, SMALL, TAG, FakeEnv, matching_bit
from references.runs import assert_same_policies, rows_of
from torch import Tensor

from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.training import (
    A2C,
    PPO,
    Algorithm,
    Checkpoint,
    PolicySpec,
    Session,
    TrainingResult,
    resume,
    train,
)

Make = Callable[..., BatchedEnv]
# All that has a state of its own, in both algorithms.
STATEFUL = {"rollout_steps": 7, "normalize_observations": True, "normalize_returns": True, **SMALL}

pytestmark = pytest.mark.usefixtures("one_thread")

# ---- resuming ----


def stop_after(iterations: int) -> Callable[[Session], None]:
    def stop(session: Session) -> None:
        session.interrupted = session.iteration == iterations

    return stop


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        (PPO(epochs=2, clip_range="0:0.2,1:0", **STATEFUL), {}),
        (A2C(**STATEFUL), {}),
        (A2C(optimizer_name="adam", **STATEFUL), {"all": PolicySpec(groups=("tagger", "runner"))}),
        (PPO(central_critic=True, **STATEFUL), {"runner": PolicySpec(frozen=True)}),
    ],
    ids=["ppo", "a2c", "shared", "central, frozen"],
)
@pytest.mark.parametrize("continuous_actions", [False, True])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    make: Make, tmp_path: Path, algorithm: Algorithm, options: dict[str, PolicySpec], continuous_actions: bool
) -> None:
    def start(folder: Path, stop: int) -> TrainingResult:
        mode = "DISABLED" if algorithm.central_critic else "SAME_STEP"
        env = make("tag_continuous-v0", 6, autoreset_mode=mode, seed=3, continuous_actions=continuous_actions, **TAG)
        return train(
            env, algorithm, total_steps=2_000, policies=options, seed=1, folder=folder, progress=False,
            after_iteration=stop_after(stop),
        )  # fmt: skip

    whole = start(tmp_path / "whole", 0)
    assert start(tmp_path / "parts", 2).interrupted
    assert resume(tmp_path / "parts", progress=False, after_iteration=stop_after(5)).interrupted
    parts = resume(tmp_path / "parts", progress=False)
    assert not parts.interrupted
    assert_same_policies(whole, parts)
    timing = ("seconds", "agent_steps_per_second")
    rows = [[{k: v for k, v in row.items() if k not in timing} for row in rows_of(tmp_path / name)] for name in
            ("whole", "parts")]  # fmt: skip
    assert rows[0] == rows[1]
    ends = [Checkpoint.load(tmp_path / name) for name in ("whole", "parts")]
    assert_same(dataclasses.asdict(ends[0]) | {"seconds": 0}, dataclasses.asdict(ends[1]) | {"seconds": 0})


def assert_same(one: Any, other: Any) -> None:
    """Equality of nested dictionaries and lists with tensors."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
    if isinstance(one, Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict | list):
        for key in one if isinstance(one, dict) else range(len(one)):
            assert_same(one[key], other[key])
    else:
        assert one == other


def test_a_resumed_run_keeps_the_dtype_of_observations(tmp_path: Path, make: Make) -> None:
    results = []
    for name, stop in (("whole", 0), ("parts", 2)):
        env = make("tag_gridworld-v0", 4, autoreset_mode="SAME_STEP", obs_dtype=torch.bfloat16)
        options = {"folder": tmp_path / name, "progress": False, "after_iteration": stop_after(stop)}
        results.append(train(env, PPO(**STATEFUL), total_steps=1_500, **options))
    assert_same_policies(results[0], resume(tmp_path / "parts", progress=False))


def test_a_run_can_be_prolonged(tmp_path: Path, make: Make) -> None:
    env = make("tag_gridworld-v0", 4, autoreset_mode="SAME_STEP", device="cpu", num_taggers=2)
    first = train(env, PPO(rollout_steps=8, **SMALL), total_steps=200, folder=tmp_path, progress=False)
    second = resume(tmp_path, total_steps=500, progress=False)
    assert first.agent_steps < 500 <= second.agent_steps
    steps = [float(row["agent_steps"]) for row in rows_of(tmp_path)]
    assert steps == sorted(set(steps)) and steps[-1] == second.agent_steps
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["total_steps"] == 500
    assert Checkpoint.load(tmp_path).total_steps == 500


def test_a_run_can_change_to_another_type_of_device(tmp_path: Path, make: Make) -> None:
    """Its random numbers go on there, since they are the same on every device."""
    env = make("tag_gridworld-v0", 4, autoreset_mode="SAME_STEP", device="cpu", num_taggers=2)
    train(env, PPO(rollout_steps=8, **SMALL), total_steps=200, folder=tmp_path, progress=False)
    checkpoint = Checkpoint.load(tmp_path)
    assert checkpoint.random_state > 0
    dataclasses.replace(checkpoint, device="cuda").save(tmp_path / "checkpoint.pt")
    drawn: list[Tensor] = []

    def note(session: Session) -> None:
        drawn.append(session.random.save())
        session.interrupted = True

    result = resume(tmp_path / "checkpoint.pt", total_steps=500, device="cpu", progress=False, after_iteration=note)
    assert result.agent_steps > checkpoint.agent_steps
    per_iteration = checkpoint.random_state // checkpoint.iteration
    assert drawn == [checkpoint.random_state + per_iteration]


def test_rows_that_are_newer_than_the_checkpoint_are_dropped(tmp_path: Path, make: Make) -> None:
    env = make("tag_gridworld-v0", 4, autoreset_mode="SAME_STEP", device="cpu", num_taggers=2)
    train(env, PPO(rollout_steps=8, **SMALL), total_steps=300, folder=tmp_path, progress=False)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("99,999999,1.0\n100,10")  # whole but newer, and cut short
    resume(tmp_path, total_steps=600, progress=False)
    iterations = [float(row["iteration"]) for row in rows_of(tmp_path)]
    assert iterations == list(range(1, len(iterations) + 1))


TRAINEE = """
import sys, torch
torch.set_num_threads(1)
from gpu_marl_envs.cli import main
sys.exit(main(sys.argv[1:]))
"""


def command(*words: str) -> list[str]:
    return [sys.executable, "-c", TRAINEE, *words]


def kill_at_random_moments(folder: Path, kills: int, iterations: int, seed: int) -> None:
    """A run that is killed again and again loses no checkpoint, and ends where one that was left alone ends."""
    moments = random.Random(seed)
    # A checkpoint after every iteration.
    words = ["train", "tag_gridworld-v0", "--env.num-taggers", "2", "--num-envs", "8", "--device", "cpu"]
    words += ["--ppo.rollout-steps", "8", "--ppo.hidden-size", "8", "--total-steps", str(8 * 8 * 3 * iterations)]
    words += ["--checkpoint-seconds", "0", "--policies.tagger.normalize-observations", "true", "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command(*words, str(folder / "whole")), check=True, env=environment, capture_output=True)
    checkpoint = folder / "killed" / "checkpoint.pt"

    def next_words() -> list[str]:
        resumed = ["train", "--checkpoint-seconds", "0", "--resume", str(folder / "killed")]
        return resumed if checkpoint.exists() else [*words, str(folder / "killed")]

    reached = []
    while len(reached) < kills:
        process = subprocess.Popen(
            command(*next_words()), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        wait_for_progress(checkpoint, process)
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors.decode()  # it must not have come to its end
        reached.append(Checkpoint.load(checkpoint).iteration)
    assert reached == sorted(reached)
    subprocess.run(command(*next_words()), check=True, env=environment, capture_output=True)
    ends = [Checkpoint.load(folder / name) for name in ("whole", "killed")]
    assert_same(dataclasses.asdict(ends[0]) | {"seconds": 0}, dataclasses.asdict(ends[1]) | {"seconds": 0})
    assert [row["iteration"] for row in rows_of(folder / "whole")] == [
        row["iteration"] for row in rows_of(folder / "killed")
    ]


def wait_for_progress(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Until the process has written a new checkpoint, since most of its life is imports."""
    before = path.stat().st_mtime_ns if path.exists() else None
    while process.poll() is None:
        if path.exists() and path.stat().st_mtime_ns != before:
            return
        time.sleep(0.005)


def test_a_killed_run_is_resumed(tmp_path: Path) -> None:
    kill_at_random_moments(tmp_path, kills=2, iterations=40, seed=0)


@pytest.mark.slow
def test_a_run_is_killed_a_hundred_times(tmp_path: Path) -> None:
    kill_at_random_moments(tmp_path, kills=100, iterations=1500, seed=1)


# ---- stopping ----


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_with_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    before = signal.getsignal(number)

    def interrupt(session: Session) -> None:
        if session.iteration == 3:
            signal.raise_signal(number)

    env = FakeEnv(matching_bit)
    result = train(env, FAST, total_steps=10**6, folder=tmp_path, progress=False, after_iteration=interrupt)
    assert result.interrupted
    assert Checkpoint.load(tmp_path).iteration == 3
    assert signal.getsignal(number) is before
    assert "press Ctrl-C again" in capsys.readouterr().err


def test_a_second_interrupt_ends_a_run_at_once(request: pytest.FixtureRequest) -> None:
    # A shell has its background jobs ignore Ctrl-C, and those tests that run in one.
    request.addfinalizer(
        partial(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler))
    )

    def interrupt(_: Session) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(FakeEnv(matching_bit), FAST, total_steps=10**6, progress=False, after_iteration=interrupt)


def test_a_run_can_be_limited_in_time() -> None:
    result = train(FakeEnv(matching_bit), FAST, total_steps=10**9, max_seconds=0.2, progress=False)
    assert 0 < result.agent_steps < 10**9
