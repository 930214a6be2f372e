"""Runs of training: hyperparameters, metrics, checkpoints, resuming, interruptions and evaluation."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import math
import os
import random
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from gymnasium.spaces import Discrete
from references.games import FAST, SMALL, TAG, FakeEnv, matching_bit
from torch import Tensor

from gpu_marl_envs import make_batched
from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.errors import BackendUnavailableError, ParameterError
from gpu_marl_envs.errors import OutOfMemoryError as TooLittleMemory
from gpu_marl_envs.training import (
    A2C,
    MLP,
    PPO,
    ActorCritic,
    Algorithm,
    Checkpoint,
    CheckpointError,
    PolicySpec,
    RandomStream,
    Session,
    TrainingResult,
    algorithms,
    autoscale,
    resume,
    train,
)
from gpu_marl_envs.training.config import RunConfig
from gpu_marl_envs.training.evaluate import act, cross_play, evaluate, random_policies, tournament
from gpu_marl_envs.training.metrics import Metrics, Readback

Make = Callable[..., BatchedEnv]
# All that has a state of its own, in both algorithms.
STATEFUL = {"rollout_steps": 7, "normalize_observations": True, "normalize_returns": True, **SMALL}

pytestmark = pytest.mark.usefixtures("one_thread")

# ---- hyperparameters ----


def test_algorithms_are_found() -> None:
    assert algorithms() == {"a2c": A2C, "ppo": PPO}


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


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_every_hyperparameter_is_documented(algorithm: type[Algorithm]) -> None:
    for parameter in algorithm.parameters():
        assert len(parameter.doc) > 10, parameter.name


# ---- metrics and checkpoints ----


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_metrics_and_a_checkpoint(tmp_path: Path) -> None:
    env = FakeEnv(matching_bit)
    folder = tmp_path / "runs" / "one"
    result = train(env, FAST, total_steps=2_000, folder=folder, progress=False)
    rows = rows_of(folder)
    assert len(rows) == len(result.history) == math.ceil(2_000 / (8 * 16 * 2))
    assert float(rows[-1]["agent_steps"]) == result.agent_steps
    assert {"player/episode_return", "player/entropy", "agent_steps_per_second"} <= rows[0].keys()
    assert list(folder.glob("events.out.tfevents.*"))
    assert result.checkpoint == folder / "checkpoint.pt"

    checkpoint = Checkpoint.load(folder)
    assert (checkpoint.env_id, checkpoint.iteration) == ("fake-v0", len(rows))
    assert PPO.make(**checkpoint.policies["player"]["settings"]) == FAST
    policy = checkpoint.restore_policies(env)["player"]
    observation = torch.eye(2)[None]
    for deterministic in (True, False):
        actions = [
            p.act(observation, RandomStream(0), deterministic=deterministic)
            for p in (policy, result.policies["player"])
        ]
        assert torch.equal(*actions)


def test_a_run_is_not_replaced_by_accident(tmp_path: Path) -> None:
    train(FakeEnv(matching_bit), FAST, total_steps=2_000, folder=tmp_path, progress=False)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ParameterError, match="holds a run already; resume it"):
        train(FakeEnv(matching_bit), FAST, total_steps=1, folder=tmp_path, progress=False)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    train(FakeEnv(matching_bit), FAST, total_steps=1, folder=tmp_path, progress=False, overwrite=True)
    assert len(rows_of(tmp_path)) == 1
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1


def test_the_resolved_configuration_makes_the_same_run(tmp_path: Path, make: Make) -> None:
    env = make("tag_gridworld-v0", 4, autoreset_mode="SAME_STEP", seed=5, device="cpu", num_taggers=2, start="fixed")
    specs = {"tagger": PolicySpec(algorithm=A2C(rollout_steps=8, **SMALL))}
    algorithm = PPO(rollout_steps=8, clip_range="0:0.3,1:0.1", **SMALL)
    options: dict[str, Any] = {"policies": specs, "seed": 5, "checkpoint_seconds": 7.0}
    first = train(env, algorithm, total_steps=500, folder=tmp_path, progress=False, **options)

    config = RunConfig.read(yaml.safe_load((tmp_path / "config.yaml").read_text()))
    declaration = config.declaration()
    assert declaration == env.declaration
    assert (config.checkpoint_seconds, config.max_seconds, config.wandb) == (7.0, math.inf, None)
    again = make(
        config.environment,
        config.num_envs,
        device="cpu",
        autoreset_mode="SAME_STEP",
        seed=config.seed,
        **declaration.params(),
    )
    algorithm = config.default_algorithm()
    second = train(
        again, algorithm, total_steps=config.total_steps, policies=config.specs(), seed=config.seed, progress=False
    )
    assert_same_policies(first, second)


def assert_same_policies(first: TrainingResult, second: TrainingResult) -> None:
    for group, policy in first.policies.items():
        for name, tensor in policy.state_dict().items():
            assert torch.equal(tensor, second.policies[group].state_dict()[name]), (group, name)


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(FakeEnv(matching_bit), FAST, total_steps=1, folder=tmp_path, progress=False)
    path = tmp_path / "checkpoint.pt"
    before, names = path.read_bytes(), sorted(tmp_path.iterdir())
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        Checkpoint.load(path).save(path)
    assert path.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == names


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
    assert result.checkpoint is not None
    checkpoint = Checkpoint.load(result.checkpoint)
    with pytest.raises(CheckpointError, match="'player' was trained with other"):
        checkpoint.restore_policies(FakeEnv(matching_bit, Discrete(3)))
    env = FakeEnv(matching_bit)
    env.groups = {"other": env.groups["player"]}
    with pytest.raises(CheckpointError, match="policies for player"):
        checkpoint.restore_policies(env)
    with pytest.raises(CheckpointError, match="no policy 'other' and none for group 'other'; it has 'player'"):
        checkpoint.policy_for(env, "other", ["other"])


class FakeWandb(SimpleNamespace):
    """Stands for the module wandb, and notes what it is told."""

    def __init__(self) -> None:
        super().__init__(rows=[], finished=False, options={}, id="abc")

    def init(self, **options: Any) -> FakeWandb:
        self.options = options
        return self

    def log(self, row: dict[str, float], step: int) -> None:
        self.rows.append((step, row))

    def finish(self) -> None:
        self.finished = True


def test_weights_and_biases_gets_every_row(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    folder = tmp_path / "one"
    result = train(FakeEnv(matching_bit), FAST, total_steps=600, folder=folder, progress=False, wandb="tag")
    assert (wandb.options["project"], wandb.options["name"]) == ("tag", "one")
    assert wandb.options["config"]["policies"]["player"]["rollout_steps"] == 8
    assert [step for step, _ in wandb.rows] == [row["agent_steps"] for row in result.history]
    assert wandb.rows[-1][1]["player/entropy"] == result.history[-1]["player/entropy"]
    assert wandb.finished and wandb.options["id"] is None

    env = make("tag_gridworld-v0", 2, autoreset_mode="SAME_STEP", device="cpu")
    train(env, PPO(**SMALL), total_steps=1, folder=tmp_path / "two", progress=False, wandb="tag")
    resume(tmp_path / "two", total_steps=1_000, progress=False, wandb="tag")
    assert wandb.options["id"] == "abc"


def test_a_resumed_run_logs_and_saves_as_before(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    env = make("tag_gridworld-v0", 2, autoreset_mode="SAME_STEP", device="cpu")
    train(env, PPO(**SMALL), total_steps=1, folder=tmp_path, progress=False, wandb="tag", checkpoint_seconds=7.0)
    rows = len(wandb.rows)
    resume(tmp_path, total_steps=1_000, progress=False)
    assert wandb.options["project"] == "tag" and len(wandb.rows) > rows
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert (config["wandb"], config["checkpoint_seconds"]) == ("tag", 7.0)

    rows = len(wandb.rows)
    resume(tmp_path, total_steps=2_000, progress=False, wandb="", checkpoint_seconds=9.0)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert (len(wandb.rows), config["wandb"], config["checkpoint_seconds"]) == (rows, None, 9.0)

    (tmp_path / "config.yaml").write_text("policies: [")
    with pytest.raises(ParameterError, match=r"config\.yaml"):
        resume(tmp_path, progress=False)


def test_weights_and_biases_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'gpu-marl-envs\[wandb\]'"):
        train(FakeEnv(matching_bit), FAST, total_steps=1, progress=False, wandb="tag")


def test_rows_may_get_more_columns(tmp_path: Path) -> None:
    rows = [{"iteration": 1.0, "agent_steps": 5.0}, {"iteration": 2.0, "agent_steps": 10.0, "a/loss": 0.5}]
    rows.append({"iteration": 3.0, "agent_steps": 15.0, "a/loss": math.nan})
    with Metrics(tmp_path, 15, progress=False) as metrics:
        for row in rows:
            metrics.write(row)
    assert [row["a/loss"] for row in rows_of(tmp_path)] == ["", "0.5", ""]
    assert [row["agent_steps"] for row in rows_of(tmp_path)] == ["5", "10", "15"]


def test_an_iteration_without_anybody_in_the_game_is_survived(tmp_path: Path, make: Make) -> None:
    env = make("tag_continuous-v0", 1, autoreset_mode="SAME_STEP", device="cpu", **TAG)

    def everybody_leaves(session: Session) -> None:
        env.alive = env.alive & (session.iteration != 1)

    algorithm = PPO(rollout_steps=1, **SMALL)
    train(env, algorithm, total_steps=15, folder=tmp_path, progress=False, after_iteration=everybody_leaves)
    rows = rows_of(tmp_path)
    assert [bool(row["tagger/entropy"]) for row in rows] == [True, False, True]


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


# ---- asynchronous reading ----


@pytest.mark.gpu
def test_numbers_of_a_gpu_are_read_one_iteration_late() -> None:
    readback, seen = Readback(torch.device("cuda")), []
    for i in range(3):
        readback.submit(torch.full((2,), float(i), device="cuda"), seen.append)
        assert len(seen) == i
    readback.finish()
    assert seen == [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]


def test_numbers_of_a_cpu_are_there_at_once() -> None:
    readback, seen = Readback(torch.device("cpu")), []
    readback.submit(torch.tensor([1.0, 2.0]), seen.append)
    readback.finish()
    assert seen == [[1.0, 2.0]]


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--runners", "6"], ["--runners", "6", "--algo", "a2c"]], ids=" ".join)
def test_the_demo_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    """Its exit code says whether trained agents beat random ones by the margins that it states."""
    demo = Path(__file__).parents[1] / "examples" / "demo.py"
    monkeypatch.setattr("sys.argv", [str(demo), "--out", str(tmp_path), *options])
    with pytest.raises(SystemExit) as exit_code:
        runpy.run_path(str(demo), run_name="__main__")
    output = capsys.readouterr()
    assert exit_code.value.code == 0, output
    for name in ("learning_curve.png", "episode.gif", "checkpoint.pt"):
        assert (tmp_path / name).stat().st_size > 10_000, name
        assert str(tmp_path / name) in output.out
