"""Steps CPU and GPU side by side and compares every state field, observation, reward and flag, bit for bit.

python benchmarks/agreement.py --json benchmarks/results/agreement_gpu.json
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpu_marl_envs import registry
from gpu_marl_envs.benchmarking import compile_ahead, provenance
from gpu_marl_envs.testing import check_devices_agree

NEAREST: dict[str, Any] = {"use_full_observation": False, "num_other_agents_observed": 10, "tagging_distance": 0.02}
NEAR: dict[str, Any] = {"use_full_observation": False, "grid_length": 30}
FEW, MANY = 100, 20_000  # copies, which a GPU plays in different ways
STEPS_OF_MANY = 60
Run = tuple[str, int, int, dict[str, Any]]  # environment, copies, steps, parameters
TAG: list[Run] = [  # of 2 to 100,000 agents
    ("tag_gridworld-v0", 6000, 100, {"num_taggers": 1, "episode_length": 40}),
    ("tag_gridworld-v0", 6000, 100, {"num_taggers": 4, "use_full_observation": False}),
    ("tag_gridworld-v0", 20_000, 50, {"num_taggers": 4}),
    ("tag_gridworld-v0", 500, 60, {"num_taggers": 109}),
    ("tag_gridworld-v0", 50, 60, {"num_taggers": 999, **NEAR}),
    ("tag_gridworld-v0", 5, 20, {"num_taggers": 19_999, **NEAR, "grid_length": 1000}),
    ("tag_continuous-v0", 6000, 100, {"num_taggers": 1, "num_runners": 1, "tagging_distance": 0.1}),
    ("tag_continuous-v0", 6000, 100, {"num_taggers": 1, "num_runners": 4, "episode_length": 40}),
    ("tag_continuous-v0", 20_000, 50, {"num_taggers": 2, "num_runners": 3, "tagging_distance": 0.1}),
    ("tag_continuous-v0", 500, 60, {"num_taggers": 10, "num_runners": 100, "episode_length": 50, **NEAREST}),
    ("tag_continuous-v0", 50, 40, {"num_taggers": 100, "num_runners": 900, "episode_length": 30, **NEAREST}),
    ("tag_continuous-v0", 2, 6, {"num_taggers": 1000, "num_runners": 19_000, "episode_length": 4, **NEAREST}),
    ("tag_continuous-v0", 1, 3, {"num_taggers": 10_000, "num_runners": 90_000, "episode_length": 2, **NEAREST}),
]


def every_environment() -> list[Run]:
    """All environments as they are by default, few copies of each for a whole episode and more."""
    found: list[Run] = []
    for env_id in registry.ids():
        found += [(env_id, FEW, registry.get(env_id).make().max_steps + 1, {}), (env_id, MANY, STEPS_OF_MANY, {})]
    return found


def main() -> None:
    """Runs all comparisons, prints a line for each and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file to write the results to")
    arguments = parser.parse_args()
    runs = [*TAG, *every_environment()]
    options = {"autoreset_mode": "SAME_STEP"}  # as check_devices_agree has it
    compile_ahead([(env_id, copies, options | params) for env_id, copies, _, params in runs], "cuda")
    rows = []
    for env_id, copies, steps, params in runs:
        start = time.perf_counter()
        agreement = check_devices_agree(env_id, copies, steps, **params)
        row = asdict(agreement) | {"params": params, "seconds": round(time.perf_counter() - start, 1)}
        rows.append(row)
        print(
            f"{env_id:28s} {agreement.num_agents:6d} agents {agreement.environment_steps:9,d} environment steps, "
            f"{agreement.resets:8,d} resets: equal ({row['seconds']} s)",
            flush=True,
        )
    for env_id in dict.fromkeys(row["env_id"] for row in rows):
        total = sum(row["environment_steps"] for row in rows if row["env_id"] == env_id)
        print(f"{env_id:28s} {total:,d} environment steps in all")
    if arguments.json:
        arguments.json.write_text(json.dumps({"provenance": provenance(), "results": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
