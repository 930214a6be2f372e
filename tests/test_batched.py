"""The contract of a batch: autoreset, seeds, state, memory and threads, over environments of every action space."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gymnasium.vector import AutoresetMode
from references.batches import CHASE, ENVS, GRID, clone, idle, leaves, play, same

import gpu_marl_envs
from gpu_marl_envs.backends.source import persistent_fields
from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.testing import sample_actions

Make = Callable[..., BatchedEnv]

# ---- what there is ----


@ENVS
def test_groups_spaces_and_shapes_agree(make: Make, device: str, env_id: str, params: dict[str, Any]) -> None:
    env = make(env_id, 4, **params)
    assert env.num_envs == 4
    assert env.device.type == device
    assert env.num_agents == sum(group.size for group in env.groups.values()) == env.declaration.num_agents
    assert env.autoreset_mode is AutoresetMode.NEXT_STEP
    assert list(env.groups) == list(env.agent_slices) == list(env.observation_spaces) == list(env.action_spaces)
    observation, reward, terminated, truncated, info = (env.reset(), *env.step(env.actions))[1:]
    for name, group in env.groups.items():
        assert env.observation_spaces[name] is group.observation_space
        assert env.action_spaces[name] is group.action_space
        agents = range(env.num_agents)[env.agent_slices[name]]
        assert [env.declaration.agent_names[i] for i in agents] == [f"{name}_{i}" for i in range(group.size)]
        assert observation[name].shape == (4, group.size, *group.observation_space.shape)
        assert observation[name].dtype == reward[name].dtype == torch.float32
        assert reward[name].shape == terminated[name].shape == (4, group.size)
        assert terminated[name].dtype == torch.bool
        assert info["episode_return"][name].shape == info["episode_length"][name].shape == (4,)
    assert truncated.shape == info["done"].shape == (4,)
    assert truncated.dtype == info["done"].dtype == env.alive.dtype == torch.bool
    assert env.alive.shape == (4, env.num_agents)
    for field in persistent_fields(env.declaration):
        tensor = getattr(env.state, field.name)
        assert tensor.shape == (4, env.num_agents) and str(tensor.dtype) == f"torch.{field.dtype}"
    assert env.state.step.dtype == env.state.episode.dtype == torch.int32
    assert env.state.key.dtype == torch.int64
    for tensor in leaves((observation, reward, terminated, truncated, info, env.actions)):
        assert tensor.device == env.device
    for tensor in leaves((observation, reward, terminated, truncated, env.actions)):
        assert tensor.is_contiguous()


def test_an_environment_is_found_with_and_without_its_namespace(make: Make) -> None:
    assert type(make("gpu_marl/" + GRID[0], 1, **GRID[1]).declaration) is type(make(GRID[0], 1, **GRID[1]).declaration)


# ---- memory ----


@ENVS
def test_calls_return_the_same_memory(make: Make, env_id: str, params: dict[str, Any]) -> None:
    env = make(env_id, 3, autoreset_mode="SAME_STEP", **params)
    reset = env.reset()
    first = [tensor.data_ptr() for tensor in leaves(env.step(idle(env)))]
    assert first == [tensor.data_ptr() for tensor in leaves(env.step(idle(env)))]
    assert [tensor.data_ptr() for tensor in leaves(reset)] == first[: len(reset)]


def test_on_the_cpu_an_array_shares_the_memory_of_the_observation(make: Make) -> None:
    env = make(GRID[0], 2, device="cpu", **GRID[1])
    time = env.reset()["tagger"].numpy()[..., -1]
    assert (time == 0).all()
    env.step(idle(env))
    assert (time > 0).all()


@ENVS
def test_a_step_writes_into_the_tensors_it_is_given(make: Make, env_id: str, params: dict[str, Any]) -> None:
    env, plain = (make(env_id, 5, seed=3, **params) for _ in range(2))
    env.reset()
    plain.reset()
    steps = 12
    rollout = {
        "observation": {
            name: torch.full((steps, 5, group.size, *group.observation_space.shape), 9.0, device=env.device)
            for name, group in env.groups.items()
        },
        "reward": {
            name: torch.full((steps, 5, group.size), 9.0, device=env.device) for name, group in env.groups.items()
        },
        "terminated": {"tagger": torch.ones(steps, 5, 2, dtype=torch.bool, device=env.device)},  # of one group only
        "truncated": torch.ones(steps, 5, dtype=torch.bool, device=env.device),
        "done": torch.ones(steps, 5, dtype=torch.bool, device=env.device),
    }
    generator = torch.Generator().manual_seed(0)
    for t in range(steps):
        actions = sample_actions(env, generator)
        out = {
            key: {name: tensor[t] for name, tensor in value.items()} if isinstance(value, dict) else value[t]
            for key, value in rollout.items()
        }
        observation, reward, terminated, truncated, info = given = env.step(actions, out=out)
        assert same(given, clone(plain.step(actions)))
        assert observation["runner"].data_ptr() == out["observation"]["runner"].data_ptr()
        assert reward["tagger"].data_ptr() == out["reward"]["tagger"].data_ptr()
        assert terminated["tagger"].data_ptr() == out["terminated"]["tagger"].data_ptr()
        assert truncated.data_ptr() == out["truncated"].data_ptr()
        assert info["done"].data_ptr() == out["done"].data_ptr()
    # Every time step has kept what was written there: a second run gives the same.
    plain.reset(seed=3)
    for t, (observation, reward, terminated, truncated, info) in enumerate(play(plain, steps)):
        expected = observation, reward, {"tagger": terminated["tagger"]}, truncated, info["done"]
        assert all(torch.equal(kept[t].cpu(), now) for kept, now in zip(leaves(rollout), leaves(expected), strict=True))
    assert env.step(idle(env))[1]["tagger"].data_ptr() != rollout["reward"]["tagger"][-1].data_ptr()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
@pytest.mark.parametrize(("env_id", "params"), [GRID, CHASE], ids=["grid", "chase"])
def test_the_dtype_of_actions_makes_no_difference(
    make: Make, env_id: str, params: dict[str, Any], dtype: torch.dtype
) -> None:
    env, plain = (make(env_id, 4, seed=1, **params) for _ in range(2))
    assert same(env.reset(), plain.reset())
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        actions = sample_actions(env, generator)
        assert same(env.step({name: tensor.to(dtype) for name, tensor in actions.items()}), plain.step(actions))


@ENVS
def test_the_action_buffers_can_be_filled_in_place(make: Make, env_id: str, params: dict[str, Any]) -> None:
    env, plain = (make(env_id, 4, seed=1, **params) for _ in range(2))
    env.reset()
    plain.reset()
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        actions = sample_actions(env, generator)
        for name, tensor in actions.items():
            assert env.actions[name].dtype == tensor.dtype
            env.actions[name].copy_(tensor)
        assert same(env.step(env.actions), plain.step(actions))


# ---- autoreset ----


def test_next_step_resets_in_the_step_after_the_end(make: Make) -> None:
    env = make(CHASE[0], 8, **CHASE[1] | dict(tagging_distance=0.0))
    env.reset()
    for _ in range(6):
        _, _, _, truncated, info = env.step(idle(env))
        assert not truncated.any() and not info["done"].any()
    observation, reward, terminated, truncated, info = env.step(idle(env))
    assert truncated.all() and info["done"].all()
    assert (reward["runner"] == 1).all()
    assert (observation["tagger"][..., -1] == 1).all()  # the true final observation: all the time has passed
    assert (env.state.episode == 0).all()
    observation, reward, terminated, truncated, info = env.step(idle(env))
    assert not truncated.any() and not info["done"].any()
    assert all((value == 0).all() for value in leaves((reward, terminated)))
    assert (observation["tagger"][..., -1] == 0).all()
    assert (env.state.step == 0).all() and (env.state.episode == 1).all() and env.alive.all()


def test_same_step_resets_at_once_and_keeps_the_final_observation(make: Make) -> None:
    params = CHASE[1] | dict(grid_length=1.0)
    env = make(CHASE[0], 32, seed=4, autoreset_mode="SAME_STEP", **params)
    frozen = make(CHASE[0], 32, seed=4, autoreset_mode="DISABLED", **params)
    env.reset()
    frozen.reset()
    generator = torch.Generator().manual_seed(4)
    ended = torch.zeros(32, dtype=torch.bool, device=env.device)
    for _ in range(7):
        actions = sample_actions(env, generator)
        observation, reward, terminated, truncated, info = env.step(actions)
        last_observation, *last, _ = frozen.step(actions)
        fresh = info["done"] & ~ended
        for name in env.groups:
            assert torch.equal(info["final_obs"][name][fresh], last_observation[name][fresh])
            assert torch.equal(terminated[name][fresh], last[1][name][fresh])
            assert torch.equal(reward[name][fresh], last[0][name][fresh])
            assert (observation[name][info["done"]][..., -1] == 0).all()
        assert torch.equal(truncated[fresh], last[2][fresh])
        assert (env.state.step[info["done"]] == 0).all() and env.alive[info["done"]].all()
        ended |= info["done"]
    assert ended.all()


def test_disabled_freezes_a_finished_copy_until_it_is_reset(make: Make) -> None:
    env = make(CHASE[0], 32, seed=4, autoreset_mode="DISABLED", **CHASE[1] | dict(tagging_distance=0.25))
    env.reset()
    generator = torch.Generator().manual_seed(9)
    over = torch.zeros(32, dtype=torch.bool)
    while not over.any():
        *_, terminated, truncated, info = clone(env.step(sample_actions(env, generator)))
        over = info["done"].to(env.device)
    assert not over.all()
    state, observation = clone(env.state.save()), clone(env.observe())
    again, reward, terminated_again, truncated_again, info = clone(env.step(sample_actions(env, generator)))
    frozen = over.cpu()
    for name in env.groups:
        assert torch.equal(again[name][frozen], observation[name][frozen])
        assert torch.equal(terminated_again[name][frozen], terminated[name][frozen])
        assert (reward[name][frozen] == 0).all()
    assert torch.equal(truncated_again[frozen], truncated[frozen]) and info["done"][frozen].all()
    now = clone(env.state.save())
    for name in ("x", "y", "speed", "direction", "acceleration", "alive", "step", "episode"):
        assert torch.equal(now[name][frozen], state[name][frozen]), name
    fresh = env.reset(mask=over)
    assert all((fresh[name][over][..., -1] == 0).all() for name in env.groups)


# ---- reset ----


@ENVS
def test_a_mask_resets_only_its_copies(make: Make, env_id: str, params: dict[str, Any]) -> None:
    env = make(env_id, 6, seed=2, autoreset_mode="DISABLED", **params)
    env.reset()
    play(env, 3)
    before, observation = clone(env.state.save()), clone(env.observe())
    mask = torch.tensor([True, False, True, False, False, True], device=env.device)
    after_reset, after = clone(env.reset(mask=mask)), clone(env.state.save())
    chosen = mask.cpu()
    assert (after["step"][chosen] == 0).all() and (after["episode"][chosen] == before["episode"][chosen] + 1).all()
    assert after["alive"][chosen].all()
    for name, tensor in before.items():
        if tensor.dim() and tensor.shape[0] == 6:
            assert torch.equal(after[name][~chosen], tensor[~chosen]), name
    for name in env.groups:
        assert torch.equal(after_reset[name][~chosen], observation[name][~chosen])
        assert not torch.equal(after_reset[name][chosen], observation[name][chosen])


def test_an_empty_mask_changes_nothing(make: Make) -> None:
    env = make(GRID[0], 3, **GRID[1])
    env.reset()
    play(env, 2)
    before = clone(env.state.save())
    env.reset(mask=torch.zeros(3, dtype=torch.bool, device=env.device))
    assert same(env.state.save(), before)


# ---- seeds ----


@ENVS
def test_a_seed_gives_one_trajectory(make: Make, env_id: str, params: dict[str, Any]) -> None:
    env, other = make(env_id, 5, seed=7, **params), make(env_id, 5, seed=8, **params)

    def trajectory(batch: BatchedEnv) -> list[Any]:
        return [(*result, info["done"]) for *result, info in play(batch, 20)]

    start = clone(env.reset())
    steps = trajectory(env)
    assert not same(other.reset(), start)
    assert not same(env.reset(), start)  # without a seed the random streams go on
    assert same(env.reset(seed=7), start) and same(trajectory(env), steps)
    assert same(other.reset(seed=7), start) and same(trajectory(other), steps)


@ENVS
def test_copies_do_not_depend_on_how_many_there_are(make: Make, env_id: str, params: dict[str, Any]) -> None:
    few, many = make(env_id, 8, seed=7, **params), make(env_id, 64, seed=7, **params)
    assert same(few.reset(), many.reset(), slice(8))
    generator = torch.Generator().manual_seed(7)
    for _ in range(20):
        actions = sample_actions(many, generator)
        own = {name: tensor[:8].contiguous() for name, tensor in actions.items()}
        assert same(few.step(own), many.step(actions), slice(8))
    starts = many.state.x.cpu()
    assert len(starts.unique(dim=0)) > 1


@ENVS
def test_the_number_of_threads_makes_no_difference(make: Make, env_id: str, params: dict[str, Any]) -> None:
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            env = make(env_id, 67, seed=7, **params)
            results.append([clone(env.reset()), *play(env, 20)])
    finally:
        torch.set_num_threads(threads)
    assert same(results[0], results[1]) and same(results[0], results[2])


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 + 5, 2**63 - 1])
def test_large_seeds_are_kept_whole(make: Make, seed: int) -> None:
    env = make(CHASE[0], 2, seed=seed, **CHASE[1])
    start = clone(env.reset())
    assert same(env.reset(seed=seed), start)
    assert not same(env.reset(seed=seed ^ 1), start)
    assert not same(env.reset(seed=seed ^ 2**40), start)


# ---- state ----


@ENVS
def test_stepping_on_from_a_saved_state_repeats_the_same_bits(make: Make, env_id: str, params: dict[str, Any]) -> None:
    env = make(env_id, 6, seed=3, **params)
    env.reset()
    play(env, 4)
    saved = env.state.save()
    kept = clone(saved)
    results = play(env, 25)
    assert same(saved, kept)
    env.state.restore(saved)
    assert same(play(env, 25), results)
    other = make(env_id, 6, seed=99, **params)
    other.reset()
    other.state.restore(saved)
    assert same(play(other, 25), results)


@ENVS
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_duplicate_keeps_the_whole_state(
    make: Make, env_id: str, params: dict[str, Any], duplicate: Callable[[BatchedEnv], BatchedEnv]
) -> None:
    env = make(env_id, 6, seed=3, autoreset_mode="SAME_STEP", **params)
    env.reset()
    play(env, 4)
    other = duplicate(env)
    assert other.autoreset_mode is AutoresetMode.SAME_STEP and other.device == env.device
    assert other.declaration == env.declaration
    results = play(env, 25)
    assert same(play(other, 25), results)
    other.close()


def test_a_duplicate_of_a_batch_that_was_not_reset_must_be_reset(make: Make) -> None:
    env = make(GRID[0], 2, seed=3, **GRID[1])
    other = pickle.loads(pickle.dumps(env))
    assert same(other.reset(), env.reset())
    other.close()


def test_state_can_be_written(make: Make) -> None:
    env = make(GRID[0], 3, **GRID[1], autoreset_mode="DISABLED")
    env.reset()
    memory = env.state.x.data_ptr()
    positions = torch.tensor([[0, 1, 2], [3, 4, 0], [1, 2, 3]], dtype=torch.int32, device=env.device)
    env.state.x = positions
    env.state.y[...] = positions.flip(0)
    assert env.state.x.data_ptr() == memory and torch.equal(env.state.x, positions)
    positions += 1
    assert not torch.equal(env.state.x, positions)
    env.state.step[1] = 6
    observation = env.observe()["runner"]
    assert torch.equal(observation[:, 0, :3].cpu(), env.state.x.cpu() / 4)
    _, _, _, truncated, _ = env.step(idle(env))
    assert truncated.tolist() == [False, True, False]


def test_observing_changes_nothing(make: Make) -> None:
    env = make(CHASE[0], 3, **CHASE[1], autoreset_mode="DISABLED")
    env.reset()
    observation = clone(env.step(idle(env))[0])
    if env.alive.all():
        before = clone(env.state.save())
        assert same(env.observe(), observation)
        assert same(env.state.save(), before)


# ---- episode statistics ----


@ENVS
@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP"])
def test_statistics_are_sums_over_the_last_finished_episode(
    make: Make, env_id: str, params: dict[str, Any], mode: str
) -> None:
    env = make(env_id, 16, seed=6, autoreset_mode=mode, **params)
    env.reset()
    totals = {name: torch.zeros(16, group.size, dtype=torch.float64) for name, group in env.groups.items()}
    steps = {name: torch.zeros(16, group.size) for name, group in env.groups.items()}
    last: dict[str, dict[str, torch.Tensor]] = {"episode_return": {}, "episode_length": {}}
    finished = torch.zeros(16, dtype=torch.bool)
    resetting = torch.zeros(16, dtype=torch.bool)
    generator = torch.Generator().manual_seed(6)
    for _ in range(30):
        in_game = env.alive.cpu().clone() & ~resetting[:, None]
        _, reward, _, _, info = clone(env.step(sample_actions(env, generator)))
        for name, agents in env.agent_slices.items():
            totals[name] += reward[name]
            steps[name] += in_game[:, agents]
            done = info["done"]
            for key, sums in (("episode_return", totals), ("episode_length", steps)):
                mean = sums[name].double().mean(dim=1)
                last[key][name] = torch.where(done, mean, last[key].get(name, torch.zeros(16).double()))
                actual = info[key][name].double()
                assert torch.allclose(actual[finished | done], last[key][name][finished | done], rtol=1e-5, atol=1e-5)
            totals[name][done] = 0
            steps[name][done] = 0
        finished |= info["done"]
        if mode == "NEXT_STEP":
            resetting = info["done"]
    assert finished.all()


# ---- threads, processes, streams ----


def test_a_batch_can_be_stepped_from_another_thread(make: Make) -> None:
    env, plain = (make(CHASE[0], 64, seed=1, **CHASE[1]) for _ in range(2))
    results: list[Any] = []

    def work() -> None:
        env.reset()
        results.extend(play(env, 10))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    plain.reset()
    assert same(play(plain, 10), results)


def _play_in_child(env: BatchedEnv, queue: Any) -> None:
    queue.put(pickle.dumps(play(env, 10)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_batch_on_the_cpu_goes_to_another_process(method: str) -> None:
    env = gpu_marl_envs.make_batched(CHASE[0], num_envs=64, seed=1, **CHASE[1])
    env.reset()
    play(env, 3)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_play_in_child, args=(env, queue))
    child.start()
    results = pickle.loads(queue.get(timeout=60))
    child.join(timeout=60)
    assert child.exitcode == 0
    assert same(play(env, 10), results)
    env.close()


def test_closing_twice_is_harmless(make: Make) -> None:
    env = make(GRID[0], 1, **GRID[1])
    env.close()
    env.close()
