"""How many copies to train on, found by measuring."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping
from contextlib import closing

import torch

from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.errors import OutOfMemoryError
from gpu_marl_envs.training.algorithm import Algorithm
from gpu_marl_envs.training.learner import PolicySpec
from gpu_marl_envs.training.policy_mapping import resolve_policies, rollout_steps
from gpu_marl_envs.training.session import Session, train

FIRST = {"cpu": 16, "cuda": 256}  # copies to begin with, by type of device
KEPT = 0.9  # share of the best throughput that a larger batch must keep
ITERATIONS = 3  # measured with each number of copies, after those that warm up
WARM_UP = 2  # the first one, and on a GPU the second, which is recorded as a graph
LONGEST_ITERATION = 2.0  # seconds; a batch that takes longer learns too seldom
MEMORY_FACTOR = 4  # memory of an iteration in sizes of its rollout, by experience: the update keeps activations


def measured_num_envs(
    make: Callable[[int], BatchedEnv],
    algorithm: Algorithm,
    policies: Mapping[str, PolicySpec] | None = None,
    *,
    report: Callable[[str], None] = print,
) -> int:
    """The largest batch that fits the memory and keeps the throughput of training.

    Trains for a moment with more and more copies, twice as many each time, until they do not fit, the throughput falls
    off twice in a row, or an iteration takes too long.

    Args:
        make: makes an environment for training, with so many copies.
        algorithm: as in :func:`train`.
        policies: as in :func:`train`.
        report: is given each measurement, and the choice, in words.

    Raises:
        OutOfMemoryError: not even the smallest batch fits.
    """
    probe = make(1)
    device = probe.device
    probe.close()
    rates: dict[int, float] = {}
    num_envs = FIRST[device.type]
    while True:
        try:
            with closing(make(num_envs)) as env:
                rate, seconds, memory = _measure(env, algorithm, policies)
        except (OutOfMemoryError, torch.OutOfMemoryError):
            if not rates:
                raise
            why = "does not fit the memory"
            break
        rates[num_envs] = rate
        report(f"{num_envs} copies: {rate:.3g} agent-steps/s, {seconds:.2g} s per iteration")
        if len(rates) > 1 and max([*rates.values()][-2:]) < KEPT * max(rates.values()):
            why = "is slower"
            break
        if 2 * seconds > LONGEST_ITERATION:
            why = f"would take longer than {LONGEST_ITERATION:g} s for an iteration"
            break
        if 2 * MEMORY_FACTOR * memory > _free_bytes(device):
            why = "might not fit the memory"
            break
        num_envs *= 2
    chosen = max(count for count, rate in rates.items() if rate >= KEPT * max(rates.values()))
    report(f"num_envs: {chosen} (a larger batch {why})")
    return chosen


def _measure(
    env: BatchedEnv, algorithm: Algorithm, policies: Mapping[str, PolicySpec] | None
) -> tuple[float, float, int]:
    """Agent-steps per second, seconds per iteration, and bytes of a rollout."""
    memory = 0

    def stop_after_some(session: Session) -> None:
        nonlocal memory
        memory = session.rollout.nbytes
        session.interrupted |= session.iteration >= WARM_UP + ITERATIONS

    steps = env.num_envs * env.num_agents * rollout_steps(resolve_policies(env, algorithm, policies))
    result = train(
        env, algorithm, policies=policies, total_steps=10**15, progress=False, after_iteration=stop_after_some
    )
    if len(result.history) < WARM_UP + ITERATIONS:  # somebody else has interrupted it
        raise KeyboardInterrupt
    rate = statistics.median(row["agent_steps_per_second"] for row in result.history[WARM_UP:])
    return rate, steps / rate, memory


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what earlier measurements have left behind is free
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
