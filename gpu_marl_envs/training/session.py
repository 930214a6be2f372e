"""One training run: its length, its random numbers, its metrics, its checkpoints, and what happens on Ctrl-C."""

from __future__ import annotations

import fcntl
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from gpu_marl_envs.batched import BatchedEnv, make_batched
from gpu_marl_envs.errors import OutOfMemoryError, ParameterError
from gpu_marl_envs.training.algorithm import Algorithm, TrainingError
from gpu_marl_envs.training.checkpoints import CHECKPOINT_NAME, HALF_WRITTEN, Checkpoint, learner_state
from gpu_marl_envs.training.config import CONFIG_NAME, checked_seconds, read_config, resolved, write_config
from gpu_marl_envs.training.learner import Learner, PolicySpec
from gpu_marl_envs.training.metrics import WANDB_ID_NAME, Metrics, Readback
from gpu_marl_envs.training.policies import ActorCritic
from gpu_marl_envs.training.policy_mapping import make_learners, policies_by_group, resolve_policies, rollout_steps
from gpu_marl_envs.training.randomness import RandomStream
from gpu_marl_envs.training.recording import Recorded, Result
from gpu_marl_envs.training.rollout import Rollout, autoreset_mode_for, check_autoreset_mode

CHECKPOINT_SECONDS = 60.0  # between two checkpoints of a run


@dataclass(frozen=True)
class TrainingResult:
    """What a run leaves behind.

    Attributes:
        policies: the policies by the group that they play.
        history: one row of metrics per iteration of this process.
        agent_steps: steps taken, summed over copies and agents.
        seconds: wall-clock time.
        interrupted: whether Ctrl-C, or a request to terminate, ended it early.
        checkpoint: the last checkpoint, if the run has a folder.
    """

    policies: dict[str, ActorCritic]
    history: list[dict[str, float]]
    agent_steps: int
    seconds: float
    interrupted: bool
    checkpoint: Path | None


class Session:
    """A run in progress; :func:`train` and :func:`resume` make it.

    Attributes:
        seed: of the run.
        random: numbers on the environment's device.
        learners: by the name of their policies.
        policies: by the group that they play.
        rollout: the steps of the last iteration.
        iteration: number of finished iterations.
        agent_steps: steps taken, summed over copies and agents.
        interrupted: whether the run is to stop after this iteration.
    """

    def __init__(
        self,
        env: BatchedEnv,
        learners: Mapping[str, Learner],
        metrics: Metrics,
        *,
        total_steps: int,
        max_seconds: float,
        seed: int,
        folder: Path | None,
        checkpoint_seconds: float,
        after_iteration: Callable[[Session], None] | None,
    ) -> None:
        self.seed, self._env = seed, env
        self.random = RandomStream(seed, env.device)
        self.learners = dict(learners)
        self.policies = policies_by_group(learners)
        self.iteration = self.agent_steps = 0
        self.interrupted = False
        steps = rollout_steps({name: learner.spec for name, learner in learners.items()})
        self.rollout = _rollout(env, self.policies, steps)
        graphs = all(learner.algorithm.cuda_graphs for learner in learners.values())
        self._collect = self._recorded(partial(self.rollout.collect, self.random), "collecting a rollout", graphs)
        self._learn = {name: self._learning_of(learner) for name, learner in learners.items() if not learner.frozen}
        self._metrics, self._readback = metrics, Readback(env.device)
        self._total_steps, self._max_seconds, self._folder = total_steps, max_seconds, folder
        self._checkpoint_seconds, self._after_iteration = checkpoint_seconds, after_iteration
        self._seconds_before = 0.0
        self._started = self._reported = self._saved = time.monotonic()

    @property
    def running(self) -> bool:
        """Whether there is another iteration to do: there are steps and time left, and nobody pressed Ctrl-C."""
        in_time = time.monotonic() - self._started < self._max_seconds
        return self.agent_steps < self._total_steps and in_time and not self.interrupted

    @property
    def fraction(self) -> float:
        """How much of the run's steps are taken, from 0 to 1."""
        return min(self.agent_steps / self._total_steps, 1.0)

    @property
    def seconds(self) -> float:
        """Wall-clock time that the run has taken, those before it was resumed included."""
        return self._seconds_before + time.monotonic() - self._started

    def run(self) -> None:
        """Trains to the end of the run."""
        while self.running:
            self.random.advance()  # what was drawn between iterations is not drawn again by a graph
            self._collect()
            for name in self._learn:
                self.learners[name].schedule(self.fraction)
            self._finish_iteration({name: learn() for name, learn in self._learn.items()})
        self._readback.finish()

    def _learning_of(self, learner: Learner) -> Callable[[], dict[str, Tensor]]:
        """One policy's part of an iteration."""
        graphs = learner.algorithm.cuda_graphs and not learner.algorithm.waits_for_device
        learn = partial(learner.learn, self.rollout, self.random)
        return self._recorded(learn, f"the update of policy {learner.name!r}", graphs)

    def _recorded(self, work: Callable[[], Result], what: str, graphs: bool) -> Callable[[], Result]:
        return Recorded(work, what, self._env.device) if graphs and self._env.device.type == "cuda" else work

    def _finish_iteration(self, terms: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Counts, reports and now and then saves.

        Args:
            terms: scalars by policy and quantity, which must be finite.
        """
        self.iteration += 1
        steps = self.rollout.steps * self._env.num_envs * self._env.num_agents
        self.agent_steps += steps
        counted = {"iteration": float(self.iteration), "agent_steps": float(self.agent_steps)}
        finite = {f"{policy}/{key}": value for policy, group in terms.items() for key, value in group.items()}
        others = self.rollout.episode_means()

        def report(values: list[float]) -> None:
            named = dict(zip([*finite, *others], values, strict=True))
            self._check_finite({name: named[name] for name in finite}, int(counted["iteration"]))
            now = time.monotonic()
            timing = {"seconds": self.seconds, "agent_steps_per_second": steps / (now - self._reported)}
            self._reported = now
            # Returns first: they are what everybody looks for.
            self._metrics.write(counted | timing | {name: named[name] for name in (*others, *finite)})

        self._readback.submit(torch.stack([*finite.values(), *others.values()]), report)
        if time.monotonic() - self._saved > self._checkpoint_seconds:
            self.save()
        if self._after_iteration is not None:
            self._after_iteration(self)

    def _check_finite(self, values: Mapping[str, float], iteration: int) -> None:
        for name, value in values.items():
            if math.isfinite(value):
                continue
            policy, _, quantity = name.partition("/")
            kept = "" if self._folder is None else f" (the checkpoint in {self._folder} is from before)"
            raise TrainingError(
                f"Training stopped in iteration {iteration}: the {quantity} of policy {policy!r} is {value}{kept}; "
                "lower the learning rate, or look for observations or rewards that are not finite."
            )

    def save(self) -> Path | None:
        """Writes a checkpoint and returns its path; does nothing in a run without a folder.

        Raises:
            TrainingError: what would be saved comes of a quantity that is not finite; the old checkpoint stays.
            OSError: the folder cannot be written.
        """
        if self._folder is None:
            return None
        self._readback.finish()
        declaration = self._env.declaration
        path = self._folder / CHECKPOINT_NAME
        Checkpoint(
            env_id=declaration.id,
            env_params=declaration.params(),
            num_envs=self._env.num_envs,
            device=str(self._env.device),
            total_steps=self._total_steps,
            seed=self.seed,
            iteration=self.iteration,
            agent_steps=self.agent_steps,
            seconds=self.seconds,
            policies={name: learner_state(learner) for name, learner in self.learners.items()},
            random_state=self.random.save(),
            env_state=self._env.state.save(),
            rollout=self.rollout.save(),
        ).save(path)
        self._saved = time.monotonic()
        return path

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes to where a checkpoint was taken; the learners are those that it restored."""
        self.iteration, self.agent_steps = checkpoint.iteration, checkpoint.agent_steps
        self._seconds_before = checkpoint.seconds
        self.random.restore(checkpoint.random_state)
        self._env.state.restore(checkpoint.env_state)
        self.rollout.restore(checkpoint.rollout)


def _rollout(env: BatchedEnv, policies: Mapping[str, ActorCritic], steps: int) -> Rollout:
    with _explaining_lack_of_memory(
        f"{steps} steps of {env.num_envs} copies do not fit the memory of {env.device}; use fewer copies (num_envs) or "
        "fewer rollout_steps."
    ):
        return Rollout(env, policies, steps)


@contextmanager
def _explaining_lack_of_memory(what: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # which torch's own error is as well, and on a CPU there is no other
        if not isinstance(error, torch.OutOfMemoryError) and "alloc" not in str(error):
            raise
        raise OutOfMemoryError(what) from None


def train(
    env: BatchedEnv,
    algorithm: Algorithm,
    *,
    total_steps: int,
    policies: Mapping[str, PolicySpec] | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
    wandb: str | None = None,
    max_seconds: float = math.inf,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    after_iteration: Callable[[Session], None] | None = None,
) -> TrainingResult:
    """Trains policies.

    Ctrl-C ends the run after the present iteration, with a checkpoint; a second Ctrl-C ends it at once.

    Args:
        env: made with ``autoreset_mode="SAME_STEP"``, or ``"DISABLED"`` for a centralised critic; it is reset first.
        algorithm: with its hyperparameters, as in ``PPO(learning_rate=1e-3)``.
        total_steps: length of the run in agent-steps: steps summed over copies and agents.
        policies: policies by name; groups that none of them plays get one of their own. By default one per group.
        seed: of the initial weights, the sampled actions and the minibatches; the environment has its own.
        folder: gets the checkpoint ``checkpoint.pt``, the configuration ``config.yaml``, ``metrics.csv`` and
            TensorBoard's events; none writes nothing.
        overwrite: whether a run that is in the folder already may be replaced.
        progress: whether to show a progress bar.
        wandb: the Weights & Biases project to log to as well.
        max_seconds: ends the run early.
        checkpoint_seconds: time between two checkpoints.
        after_iteration: called with the session after every iteration, for instance to evaluate its policies.

    Raises:
        ParameterError: the environment has another autoreset mode, ``total_steps`` is not positive, the policies do not
            fit, or the folder holds a run or another run writes to it.
        CheckpointError: a policy's initial weights do not fit.
        TrainingError: a loss is not finite; a checkpoint from before stays.
    """
    if total_steps < 1:
        raise ParameterError(f"total_steps must be at least 1, but {total_steps} was given.")
    specs = resolve_policies(env, algorithm, policies)
    central = any(spec.algorithm is not None and spec.algorithm.central_critic for spec in specs.values())
    folder = None if folder is None else Path(folder)
    check_autoreset_mode(env, central)
    with _explaining_lack_of_memory(f"The networks do not fit the memory of {env.device}; use smaller ones."):
        learners = make_learners(env, specs, seed)
    settings: dict[str, Any] = {
        "seed": seed,
        "total_steps": total_steps,
        "max_seconds": max_seconds,
        "checkpoint_seconds": checkpoint_seconds,
    }
    config = {}
    if folder is not None or wandb is not None:  # a network without a name can be trained, but not written down
        config = resolved(env, learners, **settings, wandb=wandb)
    with _owning(folder):
        if folder is not None and (folder / CHECKPOINT_NAME).exists() and not overwrite:
            raise ParameterError(
                f"{folder} holds a run already; resume it (`gpu-marl train --resume {folder}`), choose another folder, "
                "or say overwrite."
            )
        stale = _left_behind(folder, wandb)
        metrics = Metrics(folder, total_steps, progress, wandb=wandb, config=config)

        def begin(session: Session) -> None:
            for path in stale:
                path.unlink()
            if folder is not None:
                write_config(config, folder / CONFIG_NAME)
            session.save()

        return _run(env, learners, metrics, begin, folder=folder, after_iteration=after_iteration, **settings)


@contextmanager
def _owning(folder: Path | None) -> Iterator[None]:
    """Keeps other processes from writing a run to this folder, and removes what a killed one left half-written.

    Raises:
        ParameterError: another run writes to it.
    """
    if folder is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until it is closed, or the process ends
        except BlockingIOError:
            raise ParameterError(
                f"Another run is writing to {folder}; choose another folder, or wait for it."
            ) from None
        except OSError:
            pass  # some file systems of networks lock no folders
        for path in folder.glob(f".*{HALF_WRITTEN}"):
            path.unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)


def _left_behind(folder: Path | None, wandb: str | None) -> list[Path]:
    """What a run in this folder wrote and a new one does not replace; to be removed once nothing more can go wrong."""
    if folder is None or not (folder / CHECKPOINT_NAME).exists():
        return []
    patterns = ["events.out.tfevents.*", *([WANDB_ID_NAME] if wandb is None else [])]
    return [path for pattern in patterns for path in folder.glob(pattern)]


def resume(
    folder: str | Path,
    *,
    total_steps: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
    wandb: str | None = None,
    max_seconds: float = math.inf,
    checkpoint_seconds: float | None = None,
    after_iteration: Callable[[Session], None] | None = None,
) -> TrainingResult:
    """Continues a run from its checkpoint; on the same device to the bits that it would have come to without a stop.

    Args:
        folder: of the run, or its checkpoint.
        total_steps: a new length of the run in agent-steps, those that are done included; schedules follow it.
        device: another device.
        progress: as in :func:`train`.
        wandb: as in :func:`train`; the same project as before if none is given, where the run that was logged there is
            continued; nowhere any more if it is empty.
        max_seconds: as in :func:`train`; the time before is not counted.
        checkpoint_seconds: as in :func:`train`; as before if none is given.
        after_iteration: as in :func:`train`.

    Raises:
        FileNotFoundError: there is no checkpoint.
        CheckpointError: the checkpoint is damaged.
        ParameterError: a network is one of yours, whose module is not imported, another run writes to the folder, or
            the configuration there is damaged.
        TrainingError: a loss is not finite; a checkpoint from before stays.
    """
    folder = Path(folder)
    folder = folder.parent if folder.name == CHECKPOINT_NAME else folder
    with _owning(folder if folder.is_dir() else None):
        checkpoint = Checkpoint.load(folder / CHECKPOINT_NAME)
        total_steps = checkpoint.total_steps if total_steps is None else total_steps
        central = any(policy["settings"]["central_critic"] for policy in checkpoint.policies.values())
        env = make_batched(
            checkpoint.env_id,
            checkpoint.num_envs,
            device or checkpoint.device,
            autoreset_mode=autoreset_mode_for(central),
            obs_dtype=next(iter(checkpoint.rollout["observation"].values())).dtype,
            **checkpoint.env_params,
        )
        learners = checkpoint.restore_learners(env)
        written = folder / CONFIG_NAME
        before = read_config(written) if written.is_file() else {}
        wandb = before.get("wandb") if wandb is None else wandb or None
        if checkpoint_seconds is None:
            checkpoint_seconds = checked_seconds(
                before.get("checkpoint_seconds", CHECKPOINT_SECONDS), "checkpoint_seconds"
            )
        settings: dict[str, Any] = {
            "seed": checkpoint.seed,
            "total_steps": total_steps,
            "max_seconds": max_seconds,
            "checkpoint_seconds": checkpoint_seconds,
        }
        config = resolved(env, learners, **settings, wandb=wandb)
        metrics = Metrics(folder, total_steps, progress, wandb=wandb, config=config, agent_steps=checkpoint.agent_steps)

        def begin(session: Session) -> None:
            session.restore(checkpoint)
            write_config(config, written)

        return _run(env, learners, metrics, begin, folder=folder, after_iteration=after_iteration, **settings)


def _run(
    env: BatchedEnv,
    learners: Mapping[str, Learner],
    metrics: Metrics,
    begin: Callable[[Session], None],
    **options: Any,
) -> TrainingResult:
    """Makes a session with these options, has it begin, and trains to its end."""
    with metrics, _computing_for(env, learners):
        session = Session(env, learners, metrics, **options)
        begin(session)
        with _stop_on_signal(session):
            session.run()
        return TrainingResult(
            policies=session.policies,
            checkpoint=session.save(),
            history=metrics.history,
            agent_steps=session.agent_steps,
            seconds=session.seconds,
            interrupted=session.interrupted,
        )


@contextmanager
def _stop_on_signal(session: Session) -> Iterator[None]:
    """Turns the first Ctrl-C, or request to terminate, into a request to stop. Only the main thread gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    previous = {number: handler for number, handler in handlers.items() if handler is not None}  # None: not Python's

    def request_stop(number: int, frame: FrameType | None) -> None:
        session.interrupted = True
        restore()
        print("\nStopping after this iteration; press Ctrl-C again to stop at once.", file=sys.stderr)

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    for number in previous:
        signal.signal(number, request_stop)
    try:
        yield
    finally:
        restore()


@contextmanager
def _computing_for(env: BatchedEnv, learners: Mapping[str, Learner]) -> Iterator[None]:
    """On a GPU, puts the work on the stream where launches cost least, and lets products be as precise as asked."""
    if env.device.type != "cuda":
        yield
        return
    present, precision = torch.cuda.current_stream(env.device), torch.get_float32_matmul_precision()
    env.stream.wait_stream(present)
    if any(learner.algorithm.tf32 for learner in learners.values()):
        torch.set_float32_matmul_precision("high")
    try:
        with torch.cuda.stream(env.stream):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        present.wait_stream(env.stream)
