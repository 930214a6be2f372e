"""How fast environments step: random actions drawn beforehand, resets included, on either device."""

from __future__ import annotations

import dataclasses
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from gpu_marl_envs.backends.layout import MANY_COPIES
from gpu_marl_envs.backends.source import persistent_fields
from gpu_marl_envs.batched import BatchedEnv, make_batched
from gpu_marl_envs.benchmark_checks import check_against_cpu, check_steps
from gpu_marl_envs.checks import dtype_name
from gpu_marl_envs.errors import GpuMarlError, ParameterError
from gpu_marl_envs.spec import Group

# Steps of a timed window, and steps from the last reset of all copies to its start, by the state that is timed.
WINDOW_STEPS = {"fresh": 20, "played": 100}
STEPS_BEFORE = {"fresh": 0, "played": 300}
STATES = tuple(WINDOW_STEPS)

ACTION_SETS = 100  # different actions that timed steps take in turn
ACTION_BYTES = 2**30  # but no more memory than this for them
FEWEST_WINDOWS, MOST_WINDOWS = 5, 101
WARM_TOLERANCE = 0.1  # two windows in a row may differ by this much once everything is warm
PLAYING_SHARE = 4.0  # playing on to the state that is timed may take this many times the seconds of the measurement
HEAD_START_CYCLES = 10**6  # for which a GPU idles before a window, so that the launch is queued when it starts


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
        state: ``"fresh"`` if every window starts right after a reset of all copies, ``"played"`` if random play of
            ``steps_before`` steps precedes it.
        steps_before: steps from the reset of all copies to the start of each window.
        steps_per_window: steps between two looks at the clock.
        cuda_graph: whether these steps are one CUDA graph.
        window_seconds: duration of each window; speeds are those of the median.
        warm: whether two windows in a row had agreed before the first of these.
        checked_copies: copies whose next step from the timed state was compared with the CPU build, bit for bit.
        bytes_per_agent_step: the fewest that must move, see :func:`least_bytes_per_step`.
        env_steps_per_second: steps of copies.
        agent_steps_per_second: steps of agents, those included that have left their episode.
        microseconds_per_step: duration of a step of all copies.
        bytes_per_second: as if a step moved ``bytes_per_agent_step`` for every agent and no more.
    """

    env_id: str
    params: dict[str, Any]
    obs_dtype: str
    device: str
    num_envs: int
    num_agents: int
    threads: int
    state: str
    steps_before: int
    steps_per_window: int
    cuda_graph: bool
    window_seconds: list[float]
    warm: bool
    checked_copies: int
    bytes_per_agent_step: float
    env_steps_per_second: float
    agent_steps_per_second: float
    microseconds_per_step: float
    bytes_per_second: float

    def as_dict(self, bandwidth: float | None = None) -> dict[str, Any]:
        """Everything as a dictionary that JSON takes.

        Args:
            bandwidth: bytes per second of a large copy; with it, the result has ``fraction_of_limit``.
        """
        limit = {} if bandwidth is None else {"fraction_of_limit": self.bytes_per_second / bandwidth}
        return dataclasses.asdict(self) | limit

    def describe(self, bandwidth: float | None = None) -> str:
        """The figures in one line.

        Args:
            bandwidth: bytes per second of a large copy, which is the limit; None leaves the limit out.
        """
        text = (
            f"{with_unit(self.agent_steps_per_second):>8s} agent-steps/s {self.microseconds_per_step:10.2f} µs per step"
        )
        text += f" {self.bytes_per_second / 1e9:8.4g} GB/s at {self.bytes_per_agent_step:.1f} B per agent-step"
        if bandwidth is not None:
            text += f" {100 * self.bytes_per_second / bandwidth:5.1f} % of the limit"
        graph = " in a graph" if self.cuda_graph else ""
        return f"{text} ({self.steps_per_window} steps{graph}, {self.steps_before} before)"


def measure(
    env_id: str,
    num_envs: int,
    device: str | torch.device = "cpu",
    *,
    state: str = "played",
    seconds: float = 1.0,
    cuda_graph: bool = True,
    seed: int = 0,
    **params: Any,
) -> Measurement:
    """Times steps of random actions, after checking that they do what steps should.

    Every window starts from the same state of all copies. On a GPU the next step from it is compared with that of the
    CPU build first, bit for bit.

    Args:
        env_id: the environment.
        num_envs: number of copies.
        device: as in :func:`gpu_marl_envs.make_batched`.
        state: ``"fresh"`` times the 20 steps that follow a reset of all copies, ``"played"`` the 100 steps that follow
            300 steps of random play; fewer steps where they would take too long.
        seconds: duration of all timed windows, about; a step that is very slow takes longer.
        cuda_graph: on a GPU, replay the steps of a window from a CUDA graph, as a trainer would.
        seed: of starts and actions.
        **params: the environment's parameters, and options of :func:`gpu_marl_envs.make_batched`.

    Raises:
        BenchmarkError: the environment does not count its steps, observes or rewards something that is not finite, or
            does not do what the CPU build does.
        GpuMarlError: the environment cannot be made; see :func:`gpu_marl_envs.make_batched`.
    """
    if state not in STATES:
        raise ParameterError(f"state must be one of {', '.join(STATES)}; {state!r} was given.")
    env = make_batched(env_id, num_envs, device, seed, check_actions=False, **params)
    on_gpu = env.device.type == "cuda"
    cuda_graph = on_gpu and cuda_graph
    with torch.cuda.stream(env.stream) if on_gpu else nullcontext():
        actions = draw_actions(env, seed)
        check_steps(env, actions)
        before, step_seconds = play_on(env, actions, state, seed, PLAYING_SHARE * seconds)
        start = env.state.save()
        checked = check_against_cpu(env, start, actions[0], env_id, params) if on_gpu else 0
        steps = min(WINDOW_STEPS[state], max(int(seconds / FEWEST_WINDOWS / step_seconds), 1))
        run = _captured(env, actions, steps) if cuda_graph else lambda: take_steps(env, actions, steps)

        def window() -> float:
            env.state.restore(start)
            return _gpu_seconds(run, HEAD_START_CYCLES if cuda_graph else 0) if on_gpu else _cpu_seconds(run)

        warm = _warm_up(window, seconds)
        durations: list[float] = []
        while len(durations) < FEWEST_WINDOWS or (sum(durations) < seconds and len(durations) < MOST_WINDOWS):
            durations.append(window())
        bytes_per_step = least_bytes_per_step(env, env.observe(), actions[0])
        if on_gpu:
            torch.cuda.current_stream(env.device).synchronize()  # before another stream gets the memory
    seconds_per_step = statistics.median(durations) / steps
    result = Measurement(
        env_id=env.declaration.id,
        params=env.declaration.params(),
        obs_dtype=dtype_name(env.obs_dtype),
        device=torch.cuda.get_device_name(env.device) if on_gpu else f"CPU ({platform.machine()})",
        num_envs=num_envs,
        num_agents=env.num_agents,
        threads=1 if on_gpu else torch.get_num_threads(),
        state=state,
        steps_before=before,
        steps_per_window=steps,
        cuda_graph=cuda_graph,
        window_seconds=durations,
        warm=warm,
        checked_copies=checked,
        bytes_per_agent_step=bytes_per_step / env.num_agents,
        env_steps_per_second=num_envs / seconds_per_step,
        agent_steps_per_second=num_envs * env.num_agents / seconds_per_step,
        microseconds_per_step=seconds_per_step * 1e6,
        bytes_per_second=bytes_per_step * num_envs / seconds_per_step,
    )
    env.close()
    return result


def compile_ahead(wanted: Iterable[tuple[str, int, Mapping[str, Any]]], device: str | torch.device) -> None:
    """Compiles environments for a device and for the CPU that checks it, several at once, into the cache.

    What does not compile raises where it is used.

    Args:
        wanted: environments, numbers of copies, and parameters and options, all as of
            :func:`gpu_marl_envs.make_batched`.
        device: where they are going to be timed.
    """
    distinct: dict[str, tuple[str, int, str, Mapping[str, Any]]] = {}
    for env_id, num_envs, params in wanted:
        # Kernels of a GPU are made for few copies or many, the CPU's for any number.
        for where, copies in ((str(device), min(num_envs, MANY_COPIES)), ("cpu", 1)):
            distinct[repr((env_id, where, copies, sorted(params.items())))] = env_id, copies, where, params

    def compile_one(env_id: str, copies: int, where: str, params: Mapping[str, Any]) -> None:
        make_batched(env_id, copies, where, **params).close()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for job in [pool.submit(compile_one, *one) for one in distinct.values()]:
            error = job.exception()
            if error is not None and not isinstance(error, GpuMarlError):
                raise error


def with_unit(value: float) -> str:
    """A number in three digits with its thousands as a letter: ``"2.10 G"``."""
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            scaled = value / factor
            return f"{scaled:.{2 if scaled < 10 else 1 if scaled < 100 else 0}f} {letter}"
    return f"{value:.3g}"


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

    def copy() -> None:
        for _ in range(5):
            target.copy_(source)

    with torch.cuda.device(device):
        size = min(2**32, torch.cuda.mem_get_info()[0] // 4)
        source = torch.zeros(size, dtype=torch.uint8, device="cuda")
        target = torch.empty_like(source)
        copy()
        durations = [_gpu_seconds(copy) / 5 for _ in range(5)]
    return 2 * size / statistics.median(durations)


def least_bytes_per_step(env: BatchedEnv, observation: Mapping[str, Tensor], actions: Mapping[str, Tensor]) -> int:
    """Fewest bytes that a step of one copy must move.

    State, counters and sums are read and written once, actions read, observations, rewards and flags written.

    Args:
        env: the batch.
        observation: what it returns, by group; their dtype counts.
        actions: what it takes, by group; likewise.
    """
    state = sum(field.length(env.num_agents) for field in persistent_fields(env.declaration))
    sums = (2 if env.declaration.agents_leave else 1) * len(env.groups)
    counters = 1 + sums  # steps taken; return, and steps of agents, of each group
    flags = 2 + 2 * env.num_agents  # truncated and done; terminated written, alive read
    tensors = (*observation.values(), *actions.values())
    return 8 * (state + counters) + flags + 4 * env.num_agents + sum(t.nbytes for t in tensors) // env.num_envs


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


# ---- steps ----


def draw_actions(env: BatchedEnv, seed: int) -> list[dict[str, Tensor]]:
    """Sets of random actions for all agents, as :meth:`gpu_marl_envs.batched.BatchedEnv.step` takes them.

    Components without bounds are drawn from -1 to 1.
    """
    generator = torch.Generator(env.device).manual_seed(seed)
    bytes_per_set = sum(action.nbytes for action in env.actions.values())
    return [_draw_set(env, generator) for _ in range(max(min(ACTION_SETS, ACTION_BYTES // bytes_per_set), 1))]


def _draw_set(env: BatchedEnv, generator: torch.Generator) -> dict[str, Tensor]:
    return {name: _draw(env, group, generator) for name, group in env.groups.items()}


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


def take_steps(env: BatchedEnv, actions: list[dict[str, Tensor]], steps: int) -> None:
    """Takes so many steps; the sets of actions take turns."""
    for i in range(steps):
        env.step(actions[i % len(actions)])


def play_on(
    env: BatchedEnv, actions: list[dict[str, Tensor]], state: str, seed: int, seconds: float
) -> tuple[int, float]:
    """Brings all copies from a reset to a state that is worth timing, each step by new random actions.

    Args:
        env: the batch.
        actions: sets of actions, to see how long a step takes.
        state: one of ``STATES``.
        seed: of the starts and the actions.
        seconds: that this may take, about; fewer steps are taken where they are slow.

    Returns:
        The steps since the reset, and the seconds that one step takes, roughly.
    """
    env.reset(seed=seed)
    step_seconds = _step_seconds(env, actions)
    env.reset(seed=seed)
    steps = min(STEPS_BEFORE[state], max(int(seconds / step_seconds), 1))
    generator = torch.Generator(env.device).manual_seed(seed + 1)
    for _ in range(steps):  # actions that took turns would lead each agent round and round
        env.step(_draw_set(env, generator))
    return steps, step_seconds


def _captured(env: BatchedEnv, actions: list[dict[str, Tensor]], steps: int) -> Callable[[], None]:
    """Replays so many steps as one CUDA graph."""
    torch.cuda.synchronize(env.device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=env.stream):
        take_steps(env, actions, steps)
    return graph.replay


# ---- the clock ----


def _step_seconds(env: BatchedEnv, actions: list[dict[str, Tensor]]) -> float:
    """Duration of one step, roughly."""
    clock = _gpu_seconds if env.device.type == "cuda" else _cpu_seconds
    return max(statistics.median(clock(lambda: take_steps(env, actions, 1)) for _ in range(3)), 1e-9)


def _warm_up(window: Callable[[], float], seconds: float) -> bool:
    """Repeats a window until its duration no longer changes: clocks have settled and caches and pages are filled."""
    previous = spent = window()
    while spent < 2 * seconds:
        present = window()
        if abs(present - previous) <= WARM_TOLERANCE * previous:
            return True
        previous, spent = present, spent + present
    return False


def _cpu_seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _gpu_seconds(run: Callable[[], None], head_start: int = 0) -> float:
    """Seconds on the GPU; it idles for so many cycles first, while what it runs is being queued."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    if head_start:
        torch.cuda._sleep(head_start)
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3
