"""Runs every kernel in every mapping to the hardware for a few steps: what the sanitizers watch.

compute-sanitizer --tool memcheck  python tests/exercise_kernels.py cuda
compute-sanitizer --tool racecheck python tests/exercise_kernels.py cuda
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import torch

import gpu_marl_envs
from gpu_marl_envs import registry
from gpu_marl_envs.backends import layout
from gpu_marl_envs.testing import sample_actions

sys.path.insert(0, str(Path(__file__).parent))

from environments.corridor import Corridor
from environments.probe import Probe

NEAREST = {"use_full_observation": False, "num_other_agents_observed": 10, "tagging_distance": 0.1}
# (environment, copies, parameters): packed copies with a last warp that is not full, rows that lanes share, a block
# for each copy, agents in cells of shared memory, and copies too large for it.
CASES = [
    ("tag_gridworld-v0", 131, {"num_taggers": 4, "grid_length": 3}),
    ("tag_gridworld-v0", 131, {"num_taggers": 4, "grid_length": 3, "use_full_observation": False}),
    ("tag_gridworld-v0", 5, {"num_taggers": 31}),
    ("tag_gridworld-v0", 3, {"num_taggers": 200}),
    ("tag_gridworld-v0", 3, {"num_taggers": 200, "use_full_observation": False}),
    ("tag_gridworld-v0", 2, {"num_taggers": 30_000, "use_full_observation": False}),
    ("tag_continuous-v0", 70, {"num_taggers": 1, "num_runners": 3, "tagging_distance": 0.3}),
    ("tag_continuous-v0", 3, {"num_taggers": 5, "num_runners": 20, **NEAREST, "num_other_agents_observed": 30}),
    ("tag_continuous-v0", 3, {"num_taggers": 10, "num_runners": 100, **NEAREST}),
    ("tag_continuous-v0", 2, {"num_taggers": 10, "num_runners": 60}),
    ("tag_continuous-v0", 3, {"num_taggers": 50, "num_runners": 450, **NEAREST}),
    ("tag_continuous-v0", 1, {"num_taggers": 100, "num_runners": 7000, **NEAREST}),
    ("cartpole-v1", 131, {}),
    ("pursuit-v5", 21, {}),
    ("pursuit-v5", 3, {"n_pursuers": 40, "n_evaders": 70, "obs_range": 3, "surround": False}),
    ("pursuit-v5", 2, {"n_pursuers": 9, "n_evaders": 200, "constraint_window": 0.2}),
    ("pursuit-v5", 2, {"n_pursuers": 60, "n_evaders": 90, "x_size": 200, "y_size": 170}),
    ("collect_treasure-v1", 67, {}),
    ("simple_formation-v1", 67, {"N": 7}),
    ("simple_formation-v1", 2, {"N": 50}),
    ("simple_reference-v3", 67, {"continuous_actions": True}),
    ("simple_tag-v3", 67, {"num_agent_neighbors": 2, "curriculum": True, "num_obstacles": 0}),
    ("simple_tag-v3", 2, {"num_adversaries": 30, "num_good": 20}),
    ("simple_world_comm-v3", 67, {}),
    ("corridor-v0", 67, {}),
    ("corridor-v0", 2, {"num_walkers": 60}),
    ("probe-v0", 37, {}),
    ("probe-v0", 3, {"num_many": 60}),
    ("probe-v0", 2, {"num_many": 400}),
    ("probe-v0", 2, {"num_many": 100, "neighbors_observed": 70}),
]
# What a lane plays alone where there are many copies.
CASES_FOR_A_LANE = [
    ("tag_gridworld-v0", 131, {"num_taggers": 4, "grid_length": 3}),
    ("tag_gridworld-v0", 131, {"num_taggers": 3, "grid_length": 3, "use_full_observation": False}),
    ("tag_continuous-v0", 70, {"num_taggers": 1, "num_runners": 3, "tagging_distance": 0.3}),
    ("corridor-v0", 67, {}),
    ("probe-v0", 37, {"num_many": 3}),
]
# Large copies of which each phase is a launch, or all between two searches are.
CASES_IN_PHASES = [
    ("tag_continuous-v0", 2, {"num_taggers": 1200, "num_runners": 2300, **NEAREST}),
    ("tag_continuous-v0", 2, {"num_taggers": 100, "num_runners": 3400, **NEAREST}),
    ("tag_gridworld-v0", 2, {"num_taggers": 30_000, "use_full_observation": False}),
    ("probe-v0", 2, {"num_many": 4000, "neighbors_observed": 12}),
]
MODES = ("NEXT_STEP", "SAME_STEP", "DISABLED")


def main(device: str, steps: int = 4) -> None:
    """Resets, steps through resets, resets some copies and observes, in every autoreset mode."""
    gpu_marl_envs.register(Probe)
    gpu_marl_envs.register(Corridor)
    generator = torch.Generator().manual_seed(0)
    many, large, grouped = layout.MANY_COPIES, layout.FEWEST_PHASED_AGENTS, layout.MOST_GROUPED_AGENTS
    cases = [(*case, many, large, 0) for case in CASES] + [(*case, 0, large, 0) for case in CASES_FOR_A_LANE]
    cases += [(*case, many, 0, most) for case in CASES_IN_PHASES for most in (0, grouped)]
    for (env_id, copies, params, *settings), mode in itertools.product(cases, MODES):
        layout.MANY_COPIES, layout.FEWEST_PHASED_AGENTS, layout.MOST_GROUPED_AGENTS = settings
        params = {registry.get(env_id).truncate_after: 2, **params}
        env = gpu_marl_envs.make_batched(env_id, copies, device=device, autoreset_mode=mode, **params)
        env.reset()
        for _ in range(steps):
            env.step(sample_actions(env, generator))
        env.reset(mask=torch.arange(copies, device=env.device) % 3 == 0, seed=1)
        env.observe()
        if device != "cpu":
            torch.cuda.synchronize()
        env.close()
    print(f"{len(cases) * len(MODES)} cases ran")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "cpu")
