"""Runs that cannot be as they are asked for, and those with parts of the user's own: what is told, and what is left."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from references.games import FAST, SMALL, FakeEnv, matching_bit
from torch import Tensor

from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.errors import OutOfMemoryError as TooLittleMemory
from gpu_marl_envs.errors import ParameterError
from gpu_marl_envs.training import (
    A2C,
    PPO,
    Algorithm,
    Checkpoint,
    CheckpointError,
    PolicySpec,
    Session,
    TrainingResult,
    autoscale,
    resume,
    train,
)
from gpu_marl_envs.training.config import RunConfig

Make = Callable[..., BatchedEnv]

pytestmark = pytest.mark.usefixtures("one_thread")


def test_one_run_at_a_time_writes_to_a_folder(tmp_path: Path) -> None:
    env = FakeEnv(matching_bit)
    run = train(env, FAST, total_steps=1, folder=tmp_path, progress=False)
    other = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    for again in (
        lambda: train(env, FAST, total_steps=1, folder=tmp_path, progress=False, overwrite=True),
        lambda: resume(tmp_path, progress=False),
    ):
        with pytest.raises(ParameterError, match=f"Another run is writing to {tmp_path}"):
            again()
    os.close(other)
    left_by_a_kill = tmp_path / ".checkpoint.pt.0123.part"
    left_by_a_kill.touch()
    train(env, FAST, total_steps=1, folder=tmp_path, progress=False, overwrite=True)
    assert not left_by_a_kill.exists() and run.checkpoint is not None and run.checkpoint.exists()


def test_a_run_that_cannot_start_leaves_the_old_one_as_it_was(make: Make, tmp_path: Path) -> None:
    env = make("tag_gridworld-v0", 2, num_taggers=100, autoreset_mode="SAME_STEP", device="cpu")
    train(env, PPO(rollout_steps=4, **SMALL), total_steps=1, folder=tmp_path, progress=False)
    before = {path.name: path.read_bytes() for path in (tmp_path / "metrics.csv", tmp_path / "checkpoint.pt")}
    with pytest.raises(TooLittleMemory):
        # More than a process can address, so that it fails too where the system promises memory that it does not have.
        train(env, PPO(rollout_steps=2**31 - 1), total_steps=1, folder=tmp_path, progress=False, overwrite=True)
    assert before == {name: (tmp_path / name).read_bytes() for name in before}


class Answer(torch.nn.Module):
    """Answers with tensors of these shapes and this type after the leading dimensions."""

    def __init__(self, parameters: tuple[int, ...], value: tuple[int, ...], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.shapes, self.dtype = (parameters, value), dtype

    def forward(self, observation: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.zeros(*observation.shape[:-1], *shape, dtype=self.dtype) for shape in self.shapes)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Answer((2,), (1,)), r"values \[2\] for two observations.*returned float32 \[2, 2\], float32 \[2, 1\]"),
        (Answer((3,), ()), r"action parameters \[2, 2\].*returned float32 \[2, 3\]"),
        (Answer((2,), (), torch.float64), "in float32 or less; it returned float64"),
        (torch.nn.Linear(9, 2), r"must take float32 observations \[..., 2\].*but it fails"),
    ],
    ids=["value", "parameters", "dtype", "input"],
)
def test_a_network_that_does_not_fit_is_told_so(network: torch.nn.Module, message: str) -> None:
    specs = {"player": PolicySpec(network=lambda interface: network)}
    with pytest.raises(ParameterError, match=message):
        train(FakeEnv(matching_bit), FAST, total_steps=1, policies=specs, progress=False)


def test_a_policy_without_weights_plays_but_does_not_learn(make: Make) -> None:
    env = make("tag_gridworld-v0", 2, autoreset_mode="SAME_STEP", device="cpu")
    scripted = PolicySpec(network=lambda interface: Answer((interface.num_parameters,), ()))
    with pytest.raises(ParameterError, match="'runner' has no weights to train; make the policy frozen"):
        train(env, PPO(rollout_steps=4), total_steps=1, policies={"runner": scripted}, progress=False)
    frozen = dataclasses.replace(scripted, frozen=True)
    result = train(env, PPO(rollout_steps=4), total_steps=1, policies={"runner": frozen}, progress=False)
    assert result.agent_steps == 2 * env.num_agents * 4


def test_a_loss_of_ones_own_is_the_one_that_is_minimised() -> None:
    class Own(PPO):
        loss = A2C.loss

    class Faster(Own):
        fused_loss = PPO.fused_loss

    assert PPO.has_fused_loss() and A2C.has_fused_loss() and Faster.has_fused_loss()
    assert not Own.has_fused_loss()


def test_settings_hold_for_weights_from_elsewhere(make: Make, tmp_path: Path) -> None:
    env = make("tag_gridworld-v0", 2, autoreset_mode="SAME_STEP", device="cpu")
    small = PPO(rollout_steps=4, **SMALL)
    train(env, small, total_steps=1, folder=tmp_path, progress=False)
    specs = {"tagger": PolicySpec(weights=tmp_path, algorithm=dataclasses.replace(small, bfloat16=True))}
    assert train(env, small, total_steps=1, policies=specs, progress=False).policies["tagger"].in_bfloat16
    central = {"tagger": PolicySpec(weights=tmp_path, algorithm=dataclasses.replace(small, central_critic=True))}
    disabled = make("tag_gridworld-v0", 2, autoreset_mode="DISABLED", device="cpu")
    with pytest.raises(ParameterError, match="have no centralised critic; set central_critic=False"):
        train(disabled, small, total_steps=1, policies=central, progress=False)


def test_ctrl_c_ends_the_measuring_of_a_number_of_copies(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(env: BatchedEnv, algorithm: Algorithm, **options: Any) -> TrainingResult:
        after = options.pop("after_iteration")

        def stop(session: Session) -> None:
            session.interrupted = True
            after(session)

        return train(env, algorithm, after_iteration=stop, **options)

    monkeypatch.setattr(autoscale, "train", press)
    with pytest.raises(KeyboardInterrupt):
        autoscale.measured_num_envs(
            lambda num_envs: make("tag_gridworld-v0", num_envs, autoreset_mode="SAME_STEP", device="cpu"),
            PPO(rollout_steps=4, **SMALL),
            report=lambda line: None,
        )


def test_networks_that_do_not_fit_the_memory_are_told_so() -> None:
    with pytest.raises(TooLittleMemory, match="The networks do not fit the memory of cpu; use smaller ones"):
        train(FakeEnv(matching_bit), PPO(hidden_size=2**22), total_steps=1, progress=False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"total_steps": None}, "total_steps must be a whole number of at least 1, but None"),
        ({"total_steps": "auto"}, "total_steps must be a whole number of at least 1, but 'auto'"),
        ({"device": 5}, "device must be a text, but 5"),
        ({"out": 5}, "out must be a text, but 5"),
        ({"overwrite": "perhaps"}, "overwrite must be true or false, but 'perhaps'"),
        ({"policies": {"tagger": {"groups": 5}}}, "policies.tagger.groups must be texts"),
        ({"policies": {"tagger": {"groups": [["tagger"]]}}}, "policies.tagger.groups must be texts"),
        ({"policies": {"tagger": {"network": 5}}}, "policies.tagger.network must be a text, but 5"),
        ({"policies": {"tagger": {"weights": ["a"]}}}, "policies.tagger.weights must be a text"),
        ({"policies": {"tagger": {"algorithm": ["ppo"]}}}, "policies.tagger.algorithm must be a text"),
        ({"policies": {"tagger": {"algorithm": None}}}, "policies.tagger.algorithm must be a text, but None"),
        ({"max_seconds": "nan"}, "max_seconds must be a number of seconds"),
        ({"max_seconds": 10**400}, "max_seconds must be a number of seconds"),
    ],
)
def test_a_file_of_impossible_values_is_told_which(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        RunConfig.read({"environment": "tag_gridworld-v0", **values}).specs()


def test_words_of_a_file_are_truth_values() -> None:
    assert not RunConfig.read({"environment": "tag_gridworld-v0", "overwrite": "no", "num_envs": "auto"}).overwrite


def test_whatever_damages_a_checkpoint_it_is_called_damaged(tmp_path: Path) -> None:
    train(FakeEnv(matching_bit), FAST, total_steps=1, folder=tmp_path, progress=False)
    content = (tmp_path / "checkpoint.pt").read_bytes()
    draw = random.Random(0)
    for number in range(60):
        damaged = bytearray(content)
        for _ in range(draw.randint(1, 40)):
            damaged[draw.randrange(min(2000, len(damaged)))] = draw.randrange(256)
        path = tmp_path / f"{number}.pt"
        path.write_bytes(damaged)
        with contextlib.suppress(CheckpointError):  # some bytes make no difference
            Checkpoint.load(path)
