"""The same bits however copies are mapped to the hardware."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gpu_marl_envs.backends import layout
from gpu_marl_envs.testing import check_devices_agree

pytestmark = pytest.mark.usefixtures("probe")

SMALL: list[tuple[str, dict[str, Any]]] = [
    ("tag_gridworld-v0", {"num_taggers": 4, "grid_length": 4}),
    ("tag_gridworld-v0", {"num_taggers": 12, "grid_length": 6, "use_full_observation": False}),
    ("tag_continuous-v0", {"num_taggers": 2, "num_runners": 5, "tagging_distance": 0.2, "episode_length": 20}),
    ("probe-v0", {"num_many": 9}),
]


@pytest.mark.gpu
@pytest.mark.parametrize(("env_id", "params"), SMALL)
@pytest.mark.parametrize(
    ("setting", "value"),
    [("MOST_PACKED_AGENTS", 0), ("LONGEST_COLLECTED_ROW", 0), ("TARGET_SHARED_BYTES", 1), ("MOST_WARPS", 1)],
)
def test_every_mapping_agrees_with_the_cpu(
    monkeypatch: pytest.MonkeyPatch, env_id: str, params: dict[str, Any], setting: str, value: int
) -> None:
    monkeypatch.setattr(layout, setting, value)
    check_devices_agree(env_id, num_envs=67, steps=50, **params)


@pytest.mark.gpu
@pytest.mark.parametrize("num_many", [1, 29, 30, 61, 500, 3000])
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
