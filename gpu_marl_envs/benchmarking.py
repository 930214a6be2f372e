"""How fast environments step: random actions drawn beforehand, resets included, on either device."""

from __future__ import annotations

import dataclasses
import math
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from gpu_marl_envs.backends.source import persistent_fields
from gpu_marl_envs.batched import BatchedEnv, make_batched
from gpu_marl_envs.checks import dtype_name
from gpu_marl_envs.errors import GpuMarlError
from gpu_marl_envs.spec import Group

ACTION_SETS = 8  # different actions that the steps take in turn
ACTION_BYTES = 2**30  # but no more memory than this for them
WARM_TOLERANCE = 0.1  # two windows in a row may differ by this much once everything is warm
MAX_WARM_UP_WINDOWS = 20


class BenchmarkError(GpuMarlError, AssertionError):
    """What was to be timed computes something wrong, so its speed means nothing."""


@dataclass(frozen=True)
class Measurement:
    """The speed of one environment.

    Attributes:
        env_id: the environment.
        params: its parameters by name.
        obs_dtype: of its observations.
        device: where it ran, in words.
        num_envs: number of copies.
        num_agents: number of agents of a copy.
        threads: CPU threads; 1 on a GPU.
        cuda_graph: whether the steps were replayed from a CUDA graph.
        steps_per_window: steps between two looks at the clock.
        window_seconds: duration of each window; speeds are those of the median.
        warm: whether two windows in a row had agreed before the first of these.
        env_steps_per_second: steps of copies.
        agent_steps_per_second: steps of agents, those included that have left their episode.
        microseconds_per_step: duration of a step of all copies.
    """

    env_id: str
    params: dict[str, Any]
    obs_dtype: str
    device: str
    num_envs: int
    num_agents: int
    threads: int
    cuda_graph: bool
    steps_per_window: int
    window_seconds: list[float]
    warm: bool
    env_steps_per_second: float
    agent_steps_per_second: float
    microseconds_per_step: float

    def as_dict(self) -> dict[str, Any]:
        """Everything as a dictionary that JSON takes."""
        return dataclasses.asdict(self)


def measure(
    env_id: str,
    num_envs: int,
    device: str | torch.device = "cpu",
    *,
    windows: int = 7,
    window_seconds: float = 0.2,
    cuda_graph: bool = True,
    seed: int = 0,
    **params: Any,
) -> Measurement:
    """Times steps of random actions, after checking that they do what steps should.

    Args:
        env_id: the environment.
        num_envs: number of copies.
        device: as in :func:`gpu_marl_envs.make_batched`.
        windows: number of timed windows.
        window_seconds: shortest duration of a window.
        cuda_graph: on a GPU, replay the steps from a CUDA graph, as a trainer would.
        seed: of starts and actions.
        **params: the environment's parameters, and options of ``make_batched``.

    Raises:
        BenchmarkError: the environment does not count its steps, or observes or rewards something that is not finite.
        GpuMarlError: the environment cannot be made; see :func:`gpu_marl_envs.make_batched`.
    """
    env = make_batched(env_id, num_envs, device, seed, check_actions=False, **params)
    on_gpu = env.device.type == "cuda"
    with torch.cuda.stream(env.stream) if on_gpu else nullcontext():
        actions = _draw_actions(env, seed)
        _check(env, actions)
        run, steps_per_run = _runner(env, actions, graph=on_gpu and cuda_graph)
        clock = _gpu_seconds if on_gpu else _cpu_seconds
        runs = max(math.ceil(window_seconds / max(clock(run, 1), 1e-9)), 1)
        warm = _warm_up(lambda: clock(run, runs))
        durations = [clock(run, runs) for _ in range(windows)]
    steps = runs * steps_per_run
    seconds_per_step = statistics.median(durations) / steps
    return Measurement(
        env_id=env.declaration.id,
        params=env.declaration.params(),
        obs_dtype=dtype_name(env.obs_dtype),
        device=torch.cuda.get_device_name(env.device) if on_gpu else f"CPU ({platform.machine()})",
        num_envs=num_envs,
        num_agents=env.num_agents,
        threads=1 if on_gpu else torch.get_num_threads(),
        cuda_graph=on_gpu and cuda_graph,
        steps_per_window=steps,
        window_seconds=durations,
        warm=warm,
        env_steps_per_second=num_envs / seconds_per_step,
        agent_steps_per_second=num_envs * env.num_agents / seconds_per_step,
        microseconds_per_step=seconds_per_step * 1e6,
    )


def provenance() -> dict[str, str]:
    """What a result depends on besides the code that was timed: commit, hardware, versions."""
    found = {
        "commit": _commit(),
        "gpu_marl_envs": version("gpu-marl-envs") if _is_installed() else "from a checkout",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu_threads": str(torch.get_num_threads()),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = str(torch.version.cuda)
        found["pycuda"] = version("pycuda")
    return found


def copy_bandwidth(device: str | torch.device = "cuda") -> float:
    """Bytes per second, read and written, of a large copy on a GPU: what no kernel can exceed by much."""
    source = torch.ones(2**30, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    target.copy_(source)

    def copy() -> None:
        target.copy_(source)

    durations = [_gpu_seconds(copy, 5) / 5 for _ in range(5)]
    return 2 * source.nbytes / statistics.median(durations)


def least_bytes_per_step(env: BatchedEnv) -> int:
    """Fewest bytes that a step of one copy must move.

    State, counters and sums are read and written once, actions read, observations, rewards and flags written.
    """
    state = sum(field.length(env.num_agents) for field in persistent_fields(env.declaration))
    sums = (2 if env.declaration.agents_leave else 1) * len(env.groups)
    counters = 1 + sums  # steps taken; return, and steps of agents, of each group
    flags = 2 + 2 * env.num_agents  # truncated and done; terminated written, alive read
    actions = sum(group.size * math.prod(group.action_shape) for group in env.groups.values())
    rewards = env.num_agents
    observations = env.obs_dtype.itemsize * sum(g.size * g.observation_size for g in env.groups.values())
    return 8 * (state + counters) + flags + 4 * (actions + rewards) + observations


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("GPU_MARL_ENVS_COMMIT", "unknown")


def _is_installed() -> bool:
    try:
        version("gpu-marl-envs")
    except PackageNotFoundError:
        return False
    return True


def _draw_actions(env: BatchedEnv, seed: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator(env.device).manual_seed(seed)
    bytes_per_set = sum(action.nbytes for action in env.actions.values())
    sets = max(min(ACTION_SETS, ACTION_BYTES // bytes_per_set), 1)
    return [{name: _draw(env, group, generator) for name, group in env.groups.items()} for _ in range(sets)]


def _draw(env: BatchedEnv, group: Group, generator: torch.Generator) -> Tensor:
    shape = (env.num_envs, group.size, *group.action_shape)
    uniform = torch.rand(shape, generator=generator, device=env.device)
    if not isinstance(group.action_space, spaces.Box):
        counts = torch.tensor(group.action_counts, device=env.device).reshape(group.action_shape)
        return (uniform * counts).to(torch.int32)
    low, high = (
        torch.as_tensor(bound, device=env.device) for bound in (group.action_space.low, group.action_space.high)
    )
    bounded = low.isfinite() & high.isfinite()
    return torch.where(bounded, low + uniform * (high - low), uniform * 2 - 1)


def _check(env: BatchedEnv, actions: list[dict[str, Tensor]]) -> None:
    """Steps a little, and looks at the result."""
    env.reset()
    for i in range(3):
        before, fresh = env.state.step.clone(), i == 0
        observation, reward, _, _, info = env.step(actions[i % len(actions)])
        counted = (env.state.step == before + 1) | info["done"]
        if not bool(counted.all() if fresh else counted.any()):
            raise BenchmarkError(f"{env.declaration.id}: a step was not counted; nothing was timed.")
        for what, tensors in (("observation", observation), ("reward", reward)):
            for name, tensor in tensors.items():
                if not bool(tensor.isfinite().all()):
                    raise BenchmarkError(
                        f"{env.declaration.id}: a {what} of group {name!r} is not finite; nothing was timed."
                    )


def _runner(env: BatchedEnv, actions: list[dict[str, Tensor]], graph: bool) -> tuple[Callable[[], None], int]:
    """A function that takes some steps, and how many."""

    def steps() -> None:
        for action in actions:
            env.step(action)

    if not graph:
        return steps, len(actions)
    steps()
    torch.cuda.synchronize(env.device)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured, stream=env.stream):
        steps()
    return captured.replay, len(actions)


def _warm_up(window: Callable[[], float]) -> bool:
    """Repeats a window until its duration no longer changes: clocks have settled and caches and pages are filled."""
    previous = window()
    for _ in range(MAX_WARM_UP_WINDOWS):
        present = window()
        if abs(present - previous) <= WARM_TOLERANCE * previous:
            return True
        previous = present
    return False


def _cpu_seconds(run: Callable[[], None], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        run()
    return time.perf_counter() - start


def _gpu_seconds(run: Callable[[], None], times: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(times):
        run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3
