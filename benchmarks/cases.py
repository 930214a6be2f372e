"""The fixed workloads that the benchmarks of simulation and of the kernels share."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from gpu_marl_envs import registry
from gpu_marl_envs.benchmarking import STATES

# The large setting of WarpDrive's tag_continuous: a square of side 20, fine actions, a short reach.
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
}
NEAREST: dict[str, Any] = {**CROWD, "use_full_observation": False, "num_other_agents_observed": 10}


@dataclass(frozen=True)
class Case:
    """One row of a table.

    Attributes:
        env_id: the environment.
        observed: what its agents see, in words.
        num_envs: copies.
        params: parameters of the environment.
        state: the state that is timed, see ``gpu_marl_envs.benchmarking.measure``.
        everybody_stays: whether tagged runners stay in the game.
        sweep: what varies in the sweep that the case is a point of, if any: ``"copies"`` or ``"agents"``.
    """

    env_id: str
    observed: str
    num_envs: int
    params: dict[str, Any] = field(hash=False)
    state: str = "played"
    everybody_stays: bool = False
    sweep: str = ""

    @property
    def num_agents(self) -> int:
        """Agents of one copy."""
        return registry.get(self.env_id).make(**self.params).num_agents

    @property
    def options(self) -> dict[str, Any]:
        """Everything that the environment is made with."""
        return {"autoreset_mode": "SAME_STEP", **self.params}

    @property
    def name(self) -> str:
        """What ``--only`` looks at, as in ``tag_continuous nearest 2000x110 played, all stay``."""
        short = self.env_id.rpartition("-")[0]
        stay = ", all stay" if self.everybody_stays else ""
        return f"{short} {self.observed} {self.num_envs}x{self.num_agents} {self.state}{stay}"


def gridworld(num_envs: int, agents: int, *, full: bool = False) -> list[Case]:
    """Tag on a grid, in both states."""
    params = {"num_taggers": agents - 1, "use_full_observation": full}
    return [Case("tag_gridworld-v0", "full" if full else "partial", num_envs, params, state) for state in STATES]


def continuous(num_envs: int, agents: int, *, full: bool = False) -> list[Case]:
    """Tag in the plane with one tagger to nine or ten runners, in both states, and played while all agents stay."""
    taggers = {10: 2, 110: 10}.get(agents, max(agents // 10, 1))
    params = {"num_taggers": taggers, "num_runners": agents - taggers, **(CROWD if full else NEAREST)}
    observed = "full" if full else "nearest"
    rows = [Case("tag_continuous-v0", observed, num_envs, params, state) for state in STATES]
    staying = {**params, "runner_exits_game_after_tagged": False}
    return [*rows, Case("tag_continuous-v0", observed, num_envs, staying, "played", everybody_stays=True)]


def packaged(env_id: str, num_envs: int) -> list[Case]:
    """An environment as it is by default."""
    return [Case(env_id, "full", num_envs, {}, "played")]


GPU_CASES = [
    *gridworld(2_000, 5),
    *gridworld(100_000, 5),
    *gridworld(1_000_000, 5),
    *gridworld(1_000_000, 5, full=True),
    *gridworld(2_000, 1_000),
    *continuous(2_000, 110),
    *continuous(20_000, 110),
    *continuous(2_000, 500),
    *continuous(2_000, 1_000),
    *continuous(100, 20_000),
    *continuous(16, 100_000),
    *continuous(2_000, 100, full=True),
    *continuous(2_000, 10, full=True),
    *packaged("simple_tag-v3", 1_000_000),
    *packaged("simple_spread-v3", 1_000_000),
    *packaged("simple_tag-v3", 300_000),
    *packaged("simple_spread-v3", 300_000),
    *packaged("cartpole-v1", 1_000_000),
]
CPU_CASES = [
    *gridworld(10_000, 5),
    *gridworld(10_000, 5, full=True),
    *continuous(200, 110),
    *(Case("tag_continuous-v0", "full", 2_000, {"num_taggers": 1, "num_runners": 3}, state) for state in STATES),
]


def matching(cases: Iterable[Case], pattern: str | None) -> list[Case]:
    """The cases whose name contains a pattern, with the wildcards of a shell; all without one."""
    return [case for case in cases if pattern is None or fnmatch.fnmatch(case.name, f"*{pattern}*")]
