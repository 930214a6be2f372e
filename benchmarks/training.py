"""How fast training is, end to end, where an iteration's time goes, and how fast actions are drawn.

python benchmarks/training.py --device cuda --json benchmarks/results/training_gpu.json
python benchmarks/training.py --device cpu
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from cases import NEAREST

from gpu_marl_envs import ids, make_batched
from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.benchmarking import provenance
from gpu_marl_envs.testing import check_devices_agree
from gpu_marl_envs.training import A2C, PPO, Algorithm, RandomStream, Session, train
from gpu_marl_envs.training.gae import generalized_advantages
from gpu_marl_envs.training.policy_mapping import make_learners, policies_by_group, resolve_policies
from gpu_marl_envs.training.recording import Recorded
from gpu_marl_envs.training.rollout import Rollout, autoreset_mode_for
from gpu_marl_envs.training.sampling import sample_categorical

# The large setting of WarpDrive's tag_continuous, with its numbers of agents.
CROWD: dict[str, Any] = {**NEAREST, "num_taggers": 10, "num_runners": 100}


@dataclass(frozen=True)
class Case:
    """Something to train, on one type of device."""

    name: str
    env_id: str
    num_envs: int
    algorithm: Algorithm
    params: dict[str, Any] = field(default_factory=dict)


# WarpDrive's policies share their hidden layers between actions and value; JaxMARL's do not.
GPU_CASES = [
    Case(
        "tag_continuous 10 + 100, A2C, 2 x 256, TF32",
        "tag_continuous-v0",
        2_000,
        A2C(rollout_steps=20, hidden_size=256, activation="relu", shared_trunk=True, optimizer_name="adam", tf32=True),
        CROWD,
    ),
    Case(
        "tag_continuous 10 + 100, A2C, 2 x 256, bfloat16",
        "tag_continuous-v0",
        2_000,
        A2C(
            rollout_steps=20,
            hidden_size=256,
            activation="relu",
            shared_trunk=True,
            optimizer_name="adam",
            bfloat16=True,
        ),
        CROWD,
    ),
    Case(
        "tag_gridworld 10 + 1, A2C, 2 x 32, TF32",
        "tag_gridworld-v0",
        2_000,
        A2C(
            rollout_steps=100,
            hidden_size=32,
            activation="relu",
            shared_trunk=True,
            optimizer_name="adam",
            tf32=True,
        ),
        {"num_taggers": 10, "use_full_observation": False},
    ),
    Case(
        "simple_spread, PPO 4 x 4, 2 x 64, TF32",
        "simple_spread-v3",
        16_384,
        PPO(rollout_steps=128, epochs=4, minibatches=4, hidden_size=64, tf32=True),
    ),
    Case(
        "simple_spread, PPO 4 x 4, 2 x 64, float32",
        "simple_spread-v3",
        16_384,
        PPO(rollout_steps=128, epochs=4, minibatches=4, hidden_size=64),
    ),
    Case(
        "simple_spread, PPO 4 x 4, 2 x 64, bfloat16",
        "simple_spread-v3",
        16_384,
        PPO(rollout_steps=128, epochs=4, minibatches=4, hidden_size=64, bfloat16=True),
    ),
]
CPU_CASES = [
    Case(
        "tag_continuous 2 + 6, PPO, 2 x 64",
        "tag_continuous-v0",
        128,
        PPO(rollout_steps=32, activation="relu"),
        {"num_taggers": 2, "num_runners": 6},
    ),
    Case(
        "tag_gridworld 10 + 1, A2C, 2 x 32",
        "tag_gridworld-v0",
        256,
        A2C(rollout_steps=20, hidden_size=32, activation="relu", optimizer_name="adam"),
        {"num_taggers": 10, "use_full_observation": False},
    ),
]
SAMPLES, CHOICES = 1_000_000, 21
MOST_WARM_UP = 2  # iterations: the first compiles, and on a GPU the second one is recorded


def main() -> None:
    """Measures every case of a device, prints tables and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=20.0, help="of training for each case")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    results: dict[str, Any] = {"provenance": provenance(), "results": []}
    for case in GPU_CASES if device.type == "cuda" else CPU_CASES:
        if arguments.only not in case.name:
            continue
        if case.env_id not in ids():
            print(f"{case.name}: there is no {case.env_id}; left out")
            continue
        row = measure(case, device, arguments.seconds)
        results["results"].append(row)
        print(f"{case.name}, {case.num_envs} copies: {row['agent_steps_per_second'] / 1e6:.3f} M agent-steps/s")
        parts = ", ".join(f"{part} {share:.0%}" for part, share in row["fractions"].items())
        print(f"    one iteration, {1e3 * row['seconds_per_iteration']:.1f} ms: {parts}", flush=True)
    results["sampling"] = measure_sampling(device)
    rates = {name: f"{SAMPLES / seconds / 1e6:.0f} M/s" for name, seconds in results["sampling"].items()}
    print(f"{SAMPLES} draws from {CHOICES} choices: " + ", ".join(f"{name} {rate}" for name, rate in rates.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def measure(case: Case, device: torch.device, seconds: float) -> dict[str, Any]:
    """Trains for a while; then times the parts of an iteration one by one."""
    if device.type == "cuda":  # a wrong result has no speed
        check_devices_agree(case.env_id, min(case.num_envs, 20), 20, devices=("cpu", str(device)), **case.params)
    mode = autoreset_mode_for(case.algorithm.central_critic)

    def make() -> BatchedEnv:
        return make_batched(case.env_id, case.num_envs, device, autoreset_mode=mode, **case.params)

    env = make()
    result = train(env, case.algorithm, total_steps=10**15, max_seconds=seconds, progress=False)
    if len(result.history) < MOST_WARM_UP + 2:
        result = train(make(), case.algorithm, total_steps=10**15, progress=False, after_iteration=_stop_early)
    rates = [row["agent_steps_per_second"] for row in result.history[MOST_WARM_UP:]]
    rate = statistics.median(rates)
    per_iteration = env.num_envs * env.num_agents * case.algorithm.rollout_steps
    return {
        "name": case.name,
        "env_id": case.env_id,
        "params": case.params,
        "num_envs": case.num_envs,
        "num_agents": env.num_agents,
        "algorithm": case.algorithm.name,
        "settings": case.algorithm.params(),
        "iterations": len(rates),
        "agent_steps_per_second": rate,
        "seconds_per_iteration": per_iteration / rate,
        "fractions": fractions(make(), case.algorithm, per_iteration / rate),
    }


def _stop_early(session: Session) -> None:
    session.interrupted = session.iteration == MOST_WARM_UP + 2


def fractions(env: BatchedEnv, algorithm: Algorithm, seconds_per_iteration: float) -> dict[str, float]:
    """The parts of an iteration, timed alone on the same tensors, as shares of an iteration that was timed whole."""
    parts = Parts(env, algorithm)
    timed = {
        "rollout": parts.collect,
        "of it inference": parts.infer,
        "of it sampling": parts.sample,
        "of it step": parts.step,
        "values, advantages and update": parts.learn,
        "of it GAE": parts.estimate,
    }
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if algorithm.tf32 else precision)
    try:
        return {part: _seconds(run, env.device) / seconds_per_iteration for part, run in timed.items()}
    finally:
        torch.set_float32_matmul_precision(precision)


class Parts:
    """The parts of one iteration, each to be run alone."""

    def __init__(self, env: BatchedEnv, algorithm: Algorithm) -> None:
        self.env = env
        self.learners = make_learners(env, resolve_policies(env, algorithm, None), 0)
        self.policies = policies_by_group(self.learners)
        self.rollout = Rollout(env, self.policies, algorithm.rollout_steps)
        self.random = RandomStream(0, env.device)
        self.collect()
        with torch.no_grad():
            self.parameters = {
                name: policy.action_parameters(self.rollout.groups[name].observation[0])
                for name, policy in self.policies.items()
            }

    def collect(self) -> None:
        self.rollout.collect(self.random)

    @torch.no_grad()
    def infer(self) -> None:
        for t in range(self.rollout.steps):
            for name, policy in self.policies.items():
                policy.action_parameters(self.rollout.groups[name].observation[t])

    @torch.no_grad()
    def sample(self) -> None:
        for _ in range(self.rollout.steps):
            for name, policy in self.policies.items():
                policy.distribution.sample(self.parameters[name], self.random)

    def step(self) -> None:
        for t in range(self.rollout.steps):
            actions = {
                name: policy.distribution.to_environment(self.rollout.groups[name].action[t])
                for name, policy in self.policies.items()
            }
            self.env.step(actions)

    def learn(self) -> None:
        for learner in self.learners.values():
            learner.schedule(0.5)
            learner.learn(self.rollout, self.random)

    def estimate(self) -> None:
        for group in self.rollout.groups.values():
            value = torch.cat([group.log_prob, group.log_prob[:1]])
            flags = group.terminated, self.rollout.truncated, self.rollout.done
            generalized_advantages(group.reward, value, group.log_prob, *flags, 0.99, 0.95)


def measure_sampling(device: torch.device) -> dict[str, float]:
    """Seconds for a million draws with their log-probabilities, by our sampler and by torch's."""
    generator = torch.Generator(device).manual_seed(0)
    logits = torch.randn(SAMPLES, CHOICES, generator=generator, device=device)

    def torchs() -> None:
        log_probs = logits.log_softmax(-1)
        index = torch.multinomial(log_probs.exp(), 1)
        log_probs.gather(-1, index)

    random, choices = RandomStream(0, device), torch.tensor([CHOICES], dtype=torch.int32, device=device)
    ours = _seconds(lambda: sample_categorical(logits.unsqueeze(1), choices, random), device)
    return {"ours": ours, "torch.multinomial": _seconds(torchs, device)}


def _seconds(run: Callable[[], object], device: torch.device, repetitions: int = 5) -> float:
    """The median time of a call, on a GPU of the replay of its CUDA graph, after those that warm up."""
    if device.type != "cuda":
        return statistics.median(_timed_on_host(run) for _ in range(repetitions + 1))
    torch.cuda.synchronize(device)
    with torch.cuda.stream(torch.cuda.Stream(device)):
        recorded = Recorded(run, "a part of an iteration", device)
        times = []
        for _ in range(MOST_WARM_UP + repetitions):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            recorded()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times[MOST_WARM_UP:])


def _timed_on_host(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
