"""The same bits however copies are mapped to the hardware."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gpu_marl_envs import make_batched, registry
from gpu_marl_envs.backends import layout
from gpu_marl_envs.testing import check_devices_agree

pytestmark = pytest.mark.usefixtures("probe")

SMALL: list[tuple[str, dict[str, Any]]] = [
    ("tag_gridworld-v0", {"num_taggers": 4, "grid_length": 4}),
    ("tag_gridworld-v0", {"num_taggers": 12, "grid_length": 6, "use_full_observation": False}),
    ("tag_continuous-v0", {"num_taggers": 2, "num_runners": 5, "tagging_distance": 0.2, "episode_length": 20}),
    ("probe-v0", {"num_many": 9}),
]

CROWD: dict[str, Any] = {
    "num_taggers": 1200,
    "num_runners": 2300,
    "use_full_observation": False,
    "num_other_agents_observed": 10,
    "tagging_distance": 0.01,
    "episode_length": 9,
}


@pytest.mark.gpu
@pytest.mark.parametrize(("env_id", "params"), SMALL)
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("MANY_COPIES", 0),
        ("MOST_PACKED_AGENTS", 0),
        ("LONGEST_COLLECTED_ROW", 0),
        ("LONGEST_OWN_ROW", 0),
        ("TARGET_SHARED_BYTES", 1),
        ("MOST_WARPS", 1),
    ],
)
def test_every_mapping_agrees_with_the_cpu(
    monkeypatch: pytest.MonkeyPatch, env_id: str, params: dict[str, Any], setting: str, value: int
) -> None:
    monkeypatch.setattr(layout, setting, value)
    check_devices_agree(env_id, num_envs=67, steps=50, **params)


@pytest.mark.gpu
@pytest.mark.parametrize("autoreset_mode", ["NEXT_STEP", "SAME_STEP", "DISABLED"])
@pytest.mark.parametrize("num_many", [1, 2, 5])
def test_a_lane_for_a_whole_copy_agrees_with_the_cpu(
    monkeypatch: pytest.MonkeyPatch, num_many: int, autoreset_mode: str
) -> None:
    monkeypatch.setattr(layout, "MANY_COPIES", 0)
    check_devices_agree("probe-v0", num_envs=101, steps=60, num_many=num_many, autoreset_mode=autoreset_mode)


@pytest.mark.gpu
@pytest.mark.parametrize("autoreset_mode", ["NEXT_STEP", "SAME_STEP", "DISABLED"])
@pytest.mark.parametrize("env_id", ["cartpole-v1", "simple_push-v3", "simple_tag-v3"])
def test_lanes_that_load_their_own_copies_agree_with_the_cpu(
    monkeypatch: pytest.MonkeyPatch, env_id: str, autoreset_mode: str
) -> None:
    monkeypatch.setattr(layout, "MANY_COPIES", 0)
    check_devices_agree(env_id, num_envs=101, steps=60, autoreset_mode=autoreset_mode)


@pytest.mark.gpu
@pytest.mark.parametrize("obs_dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("setting", ["MANY_COPIES", "MOST_PACKED_AGENTS", "LONGEST_COLLECTED_ROW"])
@pytest.mark.parametrize(("env_id", "params"), SMALL)
def test_rounded_observations_agree_with_the_cpu_in_every_mapping(
    monkeypatch: pytest.MonkeyPatch, env_id: str, params: dict[str, Any], setting: str, obs_dtype: torch.dtype
) -> None:
    monkeypatch.setattr(layout, setting, 0)
    check_devices_agree(env_id, num_envs=67, steps=30, obs_dtype=obs_dtype, **params)


def test_few_agents_are_mapped_by_the_number_of_copies() -> None:
    environment = registry.get("tag_gridworld-v0").make(num_taggers=4)
    limit = 227 * 1024
    many, few = (layout.cuda_layout(environment, limit, num_envs) for num_envs in (1_000_000, 2_000))
    assert (many.lanes, many.copies) == (1, 32) and (few.lanes, few.copies) == (5, 6)
    for mapping, num_envs in ((many, 1_000_000), (few, 2_000), (many, 1)):
        (blocks, _), (threads, _, _), shared_bytes = mapping.launch_shape(num_envs, 132, limit)
        copies = blocks * threads // 32 * mapping.copies
        assert num_envs <= copies < num_envs + mapping.warps * mapping.copies
        assert limit >= shared_bytes >= mapping.shared_bytes * (threads // 32) // mapping.warps
    assert few.launch_shape(2_000, 132, limit)[1][0] < few.threads  # few copies are spread over the device


@pytest.mark.parametrize("num_envs", [17_000, 30_000, 50_000, 100_000, 135_000])
@pytest.mark.parametrize("limit", [99 * 1024, 227 * 1024])
def test_no_multiprocessor_has_room_for_more_blocks_than_its_share(num_envs: int, limit: int) -> None:
    environment = registry.get("tag_gridworld-v0").make(num_taggers=4, use_full_observation=False)
    mapping = layout.cuda_layout(environment, limit, num_envs)
    (blocks, _), _, shared_bytes = mapping.launch_shape(num_envs, 132, limit)
    share = -(-blocks // 132)
    room = (limit + 1024) // (shared_bytes + 1024)
    assert room == share or (room < share and shared_bytes == mapping.shared_bytes)
    alone = layout.cuda_layout(environment, limit, num_envs, hopper=False)
    assert alone.launch_shape(num_envs, 132, limit)[2] == alone.shared_bytes


@pytest.mark.parametrize(
    ("env_id", "num_envs", "turns"),
    [
        ("cartpole-v1", 1_000_000, True),
        ("cartpole-v1", 100_000, False),  # all run at once
        ("simple_tag-v3", 1_000_000, False),  # no cache holds their state
        ("simple_tag-v3", 300_000, True),
        ("tag_gridworld-v0", 2_000, False),
    ],
)
def test_launches_go_to_and_fro_where_the_cache_holds_the_state(env_id: str, num_envs: int, turns: bool) -> None:
    mapping = layout.cuda_layout(registry.get(env_id).make(), 227 * 1024, num_envs)
    assert mapping.turns_round(num_envs, 132, 60 * 2**20) == turns


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("env_id", "params"),
    [
        ("probe-v0", {"num_many": 40_000}),  # sums have one more level
        ("probe-v0", {"num_many": 5000, "neighbors_observed": 12, "autoreset_mode": "DISABLED"}),
        ("tag_continuous-v0", CROWD),
        ("tag_continuous-v0", {**CROWD, "autoreset_mode": "NEXT_STEP"}),
        ("tag_continuous-v0", {**CROWD, "num_taggers": 100, "num_runners": 3400}),  # few taggers, in cells of their own
        ("tag_continuous-v0", {**CROWD, "obs_dtype": torch.bfloat16}),
        ("tag_gridworld-v0", {"num_taggers": 30_000, "use_full_observation": False}),
        ("seekers-v0", {"num_hiders": 5000, "neighbors_observed": 5, "within": 0.02}),
    ],
)
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.usefixtures("seekers")
def test_copies_played_phase_by_phase_agree_with_the_cpu(
    monkeypatch: pytest.MonkeyPatch, env_id: str, params: dict[str, Any], grouped: bool
) -> None:
    monkeypatch.setattr(layout, "FEWEST_PHASED_AGENTS", 0)
    if not grouped:
        monkeypatch.setattr(layout, "MOST_GROUPED_AGENTS", 0)
    env = make_batched(env_id, 3, device="cuda", **params)
    assert env._backend.layout.phased and env._backend.layout.grouped == grouped
    env.close()
    check_devices_agree(env_id, num_envs=3, steps=24, **params)


@pytest.mark.gpu
@pytest.mark.parametrize("num_many", [1, 29, 30, 61, 191, 500, 3000])
def test_the_whole_engine_agrees_with_the_cpu(num_many: int) -> None:
    check_devices_agree("probe-v0", num_envs=20, steps=30, num_many=num_many)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_changes_nothing(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check_devices_agree("probe-v0", num_envs=200, steps=15, devices=("cpu", "cpu"))
    finally:
        torch.set_num_threads(before)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_compute_sanitizer_finds_nothing(tool: str) -> None:
    sanitizer = shutil.which("compute-sanitizer")
    assert sanitizer is not None, "compute-sanitizer comes with the CUDA toolkit; put it on PATH"
    script = Path(__file__).with_name("exercise_kernels.py")
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, str(script), "cuda"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "SUMMARY: 0 " in done.stdout, done.stdout[-4000:]
