"""How fast environments step, in agent-steps per second and as a fraction of what the card's memory allows.

python benchmarks/simulation.py --device cuda --json benchmarks/results/simulation_h200.json
python benchmarks/simulation.py --device cpu
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from gpu_marl_envs import make_batched
from gpu_marl_envs.benchmarking import copy_bandwidth, least_bytes_per_step, measure, provenance
from gpu_marl_envs.testing import check_devices_agree

PARTIAL = {"use_full_observation": False}
# The large setting of WarpDrive's tag_continuous: 10 nearest observed on a square of side 20.
CROWD: dict[str, Any] = {
    "grid_length": 20.0,
    "episode_length": 500,
    "min_acceleration": -0.1,
    "max_acceleration": 0.1,
    "min_turn": -2.356,
    "max_turn": 2.356,
    "num_acceleration_levels": 20,
    "num_turn_levels": 20,
    "tagging_distance": 0.02,
    "num_other_agents_observed": 10,
}
# (environment, copies, parameters)
GPU_CASES: list[tuple[str, int, dict[str, Any]]] = [
    ("tag_gridworld-v0", 2_000, {"num_taggers": 4, **PARTIAL}),
    ("tag_gridworld-v0", 100_000, {"num_taggers": 4, **PARTIAL}),
    ("tag_gridworld-v0", 1_000_000, {"num_taggers": 4, **PARTIAL}),
    ("tag_gridworld-v0", 1_000_000, {"num_taggers": 4}),
    ("tag_gridworld-v0", 2_000, {"num_taggers": 999, **PARTIAL}),
    ("tag_continuous-v0", 2_000, {"num_taggers": 10, "num_runners": 100, **CROWD, **PARTIAL}),
    ("tag_continuous-v0", 20_000, {"num_taggers": 10, "num_runners": 100, **CROWD, **PARTIAL}),
    ("tag_continuous-v0", 2_000, {"num_taggers": 100, "num_runners": 900, **CROWD, **PARTIAL}),
    ("tag_continuous-v0", 2_000, {"num_taggers": 10, "num_runners": 90, **CROWD}),
    ("tag_continuous-v0", 2_000, {"num_taggers": 2, "num_runners": 8, **CROWD}),
]
CPU_CASES: list[tuple[str, int, dict[str, Any]]] = [
    ("tag_gridworld-v0", 10_000, {"num_taggers": 4, **PARTIAL}),
    ("tag_gridworld-v0", 10_000, {"num_taggers": 4}),
    ("tag_continuous-v0", 200, {"num_taggers": 10, "num_runners": 100, **CROWD, **PARTIAL}),
    ("tag_continuous-v0", 2_000, {"num_taggers": 1, "num_runners": 3}),
]


def main() -> None:
    """Measures every case of a device, prints a table and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    arguments = parser.parse_args()
    on_gpu = arguments.device != "cpu"
    bandwidth = copy_bandwidth(arguments.device) if on_gpu else None
    rows = []
    for env_id, copies, params in GPU_CASES if on_gpu else CPU_CASES:
        devices = ("cpu", arguments.device)
        check_devices_agree(env_id, min(copies, 20), 20, devices=devices, **params)  # a wrong result has no speed
        row = measure(env_id, copies, arguments.device, autoreset_mode="SAME_STEP", **params).as_dict()
        env = make_batched(env_id, 1, autoreset_mode="SAME_STEP", **params)
        row["bytes_per_agent_step"] = least_bytes_per_step(env) / env.num_agents
        row["bytes_per_second"] = row["bytes_per_agent_step"] * row["agent_steps_per_second"]
        seen = "partial" if params.get("use_full_observation") is False else "full"
        line = f"{env_id:18s} {copies:9,d} x {env.num_agents:5d} agents {seen:8s}"
        line += f"{row['agent_steps_per_second'] / 1e9:8.3f} G agent-steps/s {row['microseconds_per_step']:9.2f} us"
        if bandwidth is not None:
            row["fraction_of_limit"] = row["bytes_per_second"] / bandwidth
            line += f" {row['bytes_per_second'] / 1e9:7.0f} GB/s {100 * row['fraction_of_limit']:5.1f} % of the limit"
        print(line, flush=True)
        rows.append(row)
    if arguments.json:
        found = provenance() | ({"copy_bandwidth": bandwidth} if bandwidth is not None else {})
        arguments.json.write_text(json.dumps({"provenance": found, "results": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
