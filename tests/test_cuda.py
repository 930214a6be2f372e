"""What only a GPU can show: streams, graphs, several devices, forks and agreement with the CPU build."""

from __future__ import annotations

import multiprocessing
import threading
import warnings
from typing import Any

import pytest
import torch
from references.batches import CHASE, ENVS, GRID, clone, play, same

import gpu_marl_envs
from gpu_marl_envs.errors import BackendUnavailableError, UsageError
from gpu_marl_envs.testing import check_devices_agree, sample_actions

pytestmark = pytest.mark.gpu


@ENVS
def test_a_captured_step_replays_as_it_ran(env_id: str, params: dict[str, Any]) -> None:
    env, plain = (gpu_marl_envs.make_batched(env_id, num_envs=100, device="cuda", seed=1, **params) for _ in range(2))
    env.reset()
    plain.reset()
    generator = torch.Generator().manual_seed(1)
    env.step(env.actions)  # whatever a first call prepares cannot be captured
    plain.step(plain.actions)
    graph = torch.cuda.CUDAGraph()
    before = env.state.save()
    with torch.cuda.graph(graph):
        result = env.step(env.actions)
    env.state.restore(before)
    for _ in range(30):
        for name, tensor in sample_actions(env, generator).items():
            env.actions[name].copy_(tensor)
            plain.actions[name].copy_(tensor)
        graph.replay()
        assert same(result, plain.step(plain.actions))
    env.close()
    plain.close()


def test_environments_of_one_kernel_step_in_turns() -> None:
    """Their launches take different amounts of shared memory."""
    sizes = (20_000, 300_000, 100)
    envs = [gpu_marl_envs.make_batched("cartpole-v1", size, device="cuda", seed=1) for size in sizes]
    for env in envs:
        env.reset()
    generator = torch.Generator().manual_seed(1)
    for env in (*envs, *envs):
        result = env.step(sample_actions(env, generator))
        assert all(reward.shape[0] == env.num_envs and bool((reward == 1.0).all()) for reward in result[1].values())
    for env in envs:
        env.close()


def test_work_runs_on_the_callers_stream() -> None:
    env, plain = (
        gpu_marl_envs.make_batched(CHASE[0], num_envs=2000, device="cuda", seed=1, **CHASE[1]) for _ in range(2)
    )
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        # The stream is kept busy: a step that ran elsewhere would read the actions before they are there.
        env.reset()
        for name, tensor in sample_actions(env, torch.Generator().manual_seed(1)).items():
            later = tensor.clone()
            torch.cuda._sleep(20_000_000)
            env.actions[name].copy_(later)
        result = clone(env.step(env.actions))
    plain.reset()
    assert same(result, plain.step(sample_actions(plain, torch.Generator().manual_seed(1))))
    env.close()
    plain.close()


@pytest.mark.parametrize("stream", ["the default stream", "env.stream", "a stream of torch's"])
def test_a_thread_may_step_while_another_one_captures_a_graph(stream: str) -> None:
    captured, stepped, plain = (
        gpu_marl_envs.make_batched(CHASE[0], num_envs=64, device="cuda", seed=1, **CHASE[1]) for _ in range(3)
    )
    for env in (captured, stepped, plain):
        env.reset()
    results: list[Any] = []

    def work() -> None:
        streams = {
            "the default stream": torch.cuda.default_stream,
            "env.stream": lambda: stepped.stream,
            "a stream of torch's": torch.cuda.Stream,
        }
        with torch.cuda.stream(streams[stream]()):
            results.extend(play(stepped, 10))
            torch.cuda.current_stream().synchronize()

    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=captured.stream, capture_error_mode="thread_local"):
        captured.step(captured.actions)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        captured.step(captured.actions)
    expected = play(plain, 10)
    assert same(expected, results)
    plain.reset(seed=1)
    for _ in range(2):
        graph.replay()
        for _ in range(2):
            plain.step(plain.actions)
        assert same(captured.observe(), plain.observe())
    for env in (captured, stepped, plain):
        env.close()


def test_a_step_does_not_wait_for_the_device() -> None:
    env = gpu_marl_envs.make_batched(GRID[0], num_envs=100, device="cuda", **GRID[1])
    env.reset()
    env.step(env.actions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the mode is new in torch
        torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(2_000_000_000)
        done = torch.cuda.Event()
        for _ in range(10):
            env.step(env.actions)
        done.record()
        assert not done.query()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    env.close()


def test_every_device_gives_the_same() -> None:
    results = []
    for index in range(torch.cuda.device_count()):
        env = gpu_marl_envs.make_batched(CHASE[0], num_envs=50, device=f"cuda:{index}", seed=1, **CHASE[1])
        assert env.device == torch.device("cuda", index)
        results.append([clone(env.reset()), *play(env, 20)])
        assert torch.cuda.current_device() == 0
        env.close()
    assert all(same(results[0], result) for result in results)


def test_a_device_that_is_not_there_is_named() -> None:
    missing = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(BackendUnavailableError, match=missing):
        gpu_marl_envs.make_batched(GRID[0], num_envs=1, device=missing, **GRID[1])


def _step_in_child(env: Any, queue: Any) -> None:
    try:
        env.step(env.actions)
    except UsageError as error:
        queue.put(str(error))


def test_a_fork_after_cuda_was_initialised_is_refused() -> None:
    env = gpu_marl_envs.make_batched(GRID[0], num_envs=2, device="cuda", **GRID[1])
    env.reset()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_step_in_child, args=(env, queue))
    child.start()
    message = queue.get(timeout=60)
    child.join(timeout=60)
    assert "fork" in message and "spawn" in message
    env.close()


@pytest.mark.parametrize("num_envs", [1, 31, 257, 1000])
@ENVS
def test_gpu_and_cpu_agree_bit_for_bit(env_id: str, params: dict[str, Any], num_envs: int) -> None:
    agreement = check_devices_agree(env_id, num_envs=num_envs, steps=60, **params)
    assert agreement.environment_steps == 60 * num_envs
    assert agreement.resets >= 5 * num_envs
