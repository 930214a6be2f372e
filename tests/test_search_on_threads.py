"""The GPU's search for nearest agents finds on a CPU, lane by lane, what everyone finds who looks at each.

Its reductions give what one thread computes.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from gpu_marl_envs import registry
from gpu_marl_envs.backends.layout import cuda_layout
from gpu_marl_envs.sources import sources_folder

SOURCE = Path(__file__).with_name("search_on_threads.cpp")
FLAGS = ["-std=c++20", "-O1", "-g", "-ffp-contract=off"]
FLAGS += ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-function", "-pthread"]
MEMORY_IS_WATCHED = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
RACES_ARE_WATCHED = ["-fsanitize=thread", "-Wno-tsan"]  # libstdc++ has fences, of which the sanitizer knows nothing


@pytest.mark.parametrize(
    ("agents", "among", "neighbors", "way"),
    [
        (40, 40, 14, "listed"),
        (110, 110, 10, "listed"),
        (150, 100, 5, "alone"),
        pytest.param(176, 176, 30, "listed", marks=pytest.mark.slow),
        (250, 120, 5, "listed"),
        (250, 100, 1, "alone"),
        (320, 320, 1, "alone"),  # with less cells than it wants
        pytest.param(320, 320, 4, "alone", marks=pytest.mark.slow),
        (300, 300, 10, "visited"),
        (300, 290, 15, "visited"),
        (300, 300, 10, "visited in phases"),
        (250, 100, 1, "listed in phases"),
        (320, 320, 4, "alone in phases"),
        (320, 318, 2, "alone in phases"),
        pytest.param(500, 500, 10, "listed", marks=pytest.mark.slow),
        pytest.param(1000, 700, 25, "visited", marks=pytest.mark.slow),
    ],
)
def test_lanes_find_together_what_each_finds_alone(
    tmp_path: Path, agents: int, among: int, neighbors: int, way: str
) -> None:
    """Whatever the positions; the search's memory is as large as the layout says, and watched by the sanitizers.

    What is found is listed for other lanes, looked up by each lane, or visited by the warp that has found it. In
    phases, each part of the search between two barriers is a launch.
    """
    _search(tmp_path, agents, among, neighbors, way, MEMORY_IS_WATCHED)


@pytest.mark.parametrize(
    ("agents", "among", "neighbors", "way"),
    [
        (110, 110, 10, "listed"),
        (250, 120, 5, "listed"),
        (250, 100, 1, "alone"),
        (300, 300, 10, "visited"),
        pytest.param(500, 500, 10, "listed", marks=pytest.mark.slow),
    ],
)
def test_lanes_wait_for_each_other(tmp_path: Path, agents: int, among: int, neighbors: int, way: str) -> None:
    """No lane reads what others may be writing, as far as threads show it (cuda_on_threads.cuh).

    Not in phases: there, code that a launch passes over reads what others may be writing, and uses nothing of it.
    """
    _search(tmp_path, agents, among, neighbors, way, RACES_ARE_WATCHED)


def _search(tmp_path: Path, agents: int, among: int, neighbors: int, way: str, watched: list[str]) -> None:
    environment = registry.get("tag_continuous-v0").make(
        num_taggers=1, num_runners=agents - 1, use_full_observation=False, num_other_agents_observed=neighbors
    )
    visited, phased = way.startswith("visited"), way.endswith("in phases")
    layout = cuda_layout(environment, 0 if visited or phased else 227 * 1024)  # as where state does not fit
    search = layout.search
    macros = {
        "NUM_AGENTS": agents,
        "AMONG": among,
        "NEIGHBORS": neighbors,
        "LISTED": str(way.startswith("listed")).lower(),
        "VISITED": str(visited).lower(),
        "PHASED": int(phased),
        "LONGEST_LIST": search.longest_list,
        "CANDIDATES": search.candidates,
        "MOST_CELLS": search.most_cells,
        "AGENTS_PER_CELL": f"{search.agents_per_cell!r}f",
        "POSITIONS_AT": search.positions_at,
        "LISTS_AT": search.lists_at,
        "CARRIED": len(search.carried),
        "VICINITY_AT": layout.vicinity_at,
        "VICINITY_BYTES": search.vicinity_bytes,
        "WARP_STAGE_FLOATS": layout.warp_stage_floats,
        "SEARCH_BYTES": search.size,
    }
    program = tmp_path / "search"
    defined = [f"-D{name}={value}" for name, value in macros.items()]
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("the lanes need g++ with C++20's barriers")
    command = [compiler, *FLAGS, *watched, f"-I{sources_folder()}", *defined, "-o", str(program), str(SOURCE)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    done = _ran(str(program))
    if "unexpected memory mapping" in done.stderr and shutil.which("setarch"):
        done = _ran("setarch", "-R", str(program))  # older sanitizers of races want addresses that are less random
    assert done.returncode == 0, done.stdout + done.stderr


def _ran(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
