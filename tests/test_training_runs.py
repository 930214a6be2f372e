"""Runs of training: hyperparameters, metrics and checkpoints."""

from __future__ import annotations

import math
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from gymnasium.spaces import Discrete
from references.games import FAST, SMALL, TAG, FakeEnv, matching_bit
from references.runs import assert_same_policies, rows_of

from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.errors import BackendUnavailableError, ParameterError
from gpu_marl_envs.training import (
    A2C,
    PPO,
    Algorithm,
    Checkpoint,
    CheckpointError,
    PolicySpec,
    RandomStream,
    Session,
    algorithms,
    resume,
    train,
)
from gpu_marl_envs.training.config import RunConfig
from gpu_marl_envs.training.metrics import Metrics, Readback

Make = Callable[..., BatchedEnv]

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
