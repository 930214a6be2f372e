"""One training run: its length, its random numbers, its metrics, its checkpoints, and what happens on Ctrl-C."""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.errors import ParameterError
from gpu_marl_envs.training.algorithm import Algorithm, TrainingError
from gpu_marl_envs.training.checkpoints import Checkpoint, policy_states
from gpu_marl_envs.training.metrics import Metrics
from gpu_marl_envs.training.policies import ActorCritic

CHECKPOINT_NAME = "checkpoint.pt"
CHECKPOINT_SECONDS = 60.0  # between two checkpoints of a run


@dataclass(frozen=True)
class TrainingResult:
    """What a run leaves behind.

    Attributes:
        policies: the trained policies by group.
        history: one row of metrics per iteration.
        agent_steps: steps taken, summed over copies and agents.
        seconds: wall-clock time.
        interrupted: whether Ctrl-C ended it early.
        checkpoint: the last checkpoint, if the run has a folder.
    """

    policies: dict[str, ActorCritic]
    history: list[dict[str, float]]
    agent_steps: int
    seconds: float
    interrupted: bool
    checkpoint: Path | None


class Session:
    """What an algorithm runs in; :func:`train` makes it.

    Attributes:
        seed: of the run.
        generator: random numbers on the environment's device.
        iteration: number of finished iterations.
        agent_steps: steps taken, summed over copies and agents.
        interrupted: whether the run is to stop after this iteration.
    """

    def __init__(
        self,
        env: BatchedEnv,
        algorithm: Algorithm,
        metrics: Metrics,
        *,
        total_steps: int,
        max_seconds: float,
        seed: int,
        folder: Path | None,
        after_iteration: Callable[[Session], None] | None,
    ) -> None:
        self.seed = seed
        self.generator = torch.Generator(env.device).manual_seed(seed)
        self.iteration = self.agent_steps = 0
        self.interrupted = False
        self.policies: dict[str, ActorCritic] = {}
        self._optimizers: Mapping[str, torch.optim.Optimizer] = {}
        self._env, self._algorithm, self._metrics = env, algorithm, metrics
        self._total_steps, self._max_seconds, self._folder = total_steps, max_seconds, folder
        self._after_iteration = after_iteration
        self._started = self._reported = self._saved = time.monotonic()

    @property
    def running(self) -> bool:
        """Whether there is another iteration to do: there are steps and time left, and nobody pressed Ctrl-C."""
        return self.agent_steps < self._total_steps and self.seconds < self._max_seconds and not self.interrupted

    @property
    def fraction(self) -> float:
        """How much of the run's steps are taken, from 0 to 1."""
        return min(self.agent_steps / self._total_steps, 1.0)

    @property
    def seconds(self) -> float:
        """Wall-clock time since the start."""
        return time.monotonic() - self._started

    def track(self, policies: Mapping[str, ActorCritic], optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
        """Says what checkpoints contain; an algorithm calls it once, before its first iteration."""
        self.policies, self._optimizers = dict(policies), optimizers

    def finish_iteration(
        self, steps_per_copy: int, losses: Mapping[str, Mapping[str, Tensor]], others: Mapping[str, Tensor]
    ) -> None:
        """Counts, reports and now and then saves. Here, once per iteration, the host waits for the device.

        Args:
            steps_per_copy: steps that every copy took in this iteration.
            losses: scalars by policy and quantity, which must be finite.
            others: further scalars, by ``<policy>/<quantity>``; NaN where not known.

        Raises:
            TrainingError: a loss is not finite; the last checkpoint is older than that and stays.
        """
        self.iteration += 1
        steps = steps_per_copy * self._env.num_envs * self._env.num_agents
        self.agent_steps += steps
        scalars = {f"{policy}/{key}": value for policy, group in losses.items() for key, value in group.items()}
        names = [*others, *scalars]
        values = torch.stack([*others.values(), *scalars.values()]).tolist()  # one copy from the device
        for name, value in list(zip(names, values, strict=True))[len(others) :]:
            if not math.isfinite(value):
                policy, _, quantity = name.partition("/")
                raise TrainingError(
                    f"Training stopped in iteration {self.iteration}: the {quantity} of policy {policy!r} is {value}; "
                    "lower the learning rate, or look for observations or rewards that are not finite."
                )
        now = time.monotonic()
        row = {
            "iteration": float(self.iteration),
            "agent_steps": float(self.agent_steps),
            "seconds": now - self._started,
            "agent_steps_per_second": steps / (now - self._reported),
        }
        self._reported = now
        self._metrics.write(row | dict(zip(names, values, strict=True)))
        if now - self._saved > CHECKPOINT_SECONDS:
            self.save()
        if self._after_iteration is not None:
            self._after_iteration(self)

    def save(self) -> Path | None:
        """Writes a checkpoint and returns its path; does nothing in a run without a folder."""
        if self._folder is None:
            return None
        declaration, algorithm = self._env.declaration, self._algorithm
        path = self._folder / CHECKPOINT_NAME
        Checkpoint(
            env_id=declaration.id,
            env_params=declaration.params(),
            algorithm=algorithm.name,
            hyperparameters=algorithm.params(),
            iteration=self.iteration,
            agent_steps=self.agent_steps,
            seed=self.seed,
            policies=policy_states(self.policies),
            optimizers={name: optimizer.state_dict() for name, optimizer in self._optimizers.items()},
        ).save(path)
        self._saved = time.monotonic()
        return path


def train(
    env: BatchedEnv,
    algorithm: Algorithm,
    *,
    total_steps: int,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool = True,
    max_seconds: float = math.inf,
    after_iteration: Callable[[Session], None] | None = None,
) -> TrainingResult:
    """Trains one policy per agent group.

    Ctrl-C ends the run after the present iteration, with a checkpoint; a second Ctrl-C ends it at once.

    Args:
        env: made with ``autoreset_mode="SAME_STEP"``.
        algorithm: with its hyperparameters, as in ``PPO(learning_rate=1e-3)``.
        total_steps: length of the run in agent-steps: steps summed over copies and agents.
        seed: of the initial weights, the sampled actions and the minibatches; the environment has its own.
        folder: gets the checkpoint ``checkpoint.pt``, ``metrics.csv`` and TensorBoard's events; none writes nothing.
        progress: whether to show a progress bar.
        max_seconds: ends the run early.
        after_iteration: called with the session after every iteration, for instance to evaluate its policies.

    Raises:
        ParameterError: the environment has another autoreset mode, or ``total_steps`` is not positive.
        TrainingError: a loss is not finite.
    """
    if env.autoreset_mode is not AutoresetMode.SAME_STEP:
        raise ParameterError("Training needs an environment made with autoreset_mode='SAME_STEP'.")
    if total_steps < 1:
        raise ParameterError(f"total_steps must be at least 1, but {total_steps} was given.")
    folder = None if folder is None else Path(folder)
    with Metrics(folder, total_steps, progress) as metrics:
        session = Session(
            env,
            algorithm,
            metrics,
            total_steps=total_steps,
            max_seconds=max_seconds,
            seed=seed,
            folder=folder,
            after_iteration=after_iteration,
        )
        with _stop_on_interrupt(session), _on_stream_of(env):
            algorithm.learn(env, session)
        return TrainingResult(
            policies=session.policies,
            history=metrics.history,
            agent_steps=session.agent_steps,
            seconds=session.seconds,
            interrupted=session.interrupted,
            checkpoint=session.save(),
        )


@contextmanager
def _stop_on_interrupt(session: Session) -> Iterator[None]:
    """Turns the first Ctrl-C into a request to stop. Only the main thread receives signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def request_stop(number: int, frame: FrameType | None) -> None:
        session.interrupted = True
        signal.signal(signal.SIGINT, previous)
        print("\nStopping after this iteration; press Ctrl-C again to stop at once.", file=sys.stderr)

    previous = signal.signal(signal.SIGINT, request_stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def _on_stream_of(env: BatchedEnv) -> Iterator[None]:
    """On a GPU, puts the work on the stream where the environment's launches cost least."""
    if env.device.type != "cuda":
        yield
        return
    present = torch.cuda.current_stream(env.device)
    env.stream.wait_stream(present)
    with torch.cuda.stream(env.stream):
        yield
    present.wait_stream(env.stream)
