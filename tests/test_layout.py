"""What a layout promises to the kernels, without a GPU."""

from __future__ import annotations

import pytest

from gpu_marl_envs import registry
from gpu_marl_envs.backends.layout import CANDIDATE_BYTES, LINE_FLOATS, WARP, Layout, cuda_layout

SHARED_LIMITS = [99 * 1024, 163 * 1024, 227 * 1024]
AGENTS = [33, 110, 192, 193, 250, 294, 370, 1000, 1536, 3840, 6144, 20_000, 100_000]

every_size = pytest.mark.parametrize("agents", AGENTS)
every_limit = pytest.mark.parametrize("shared_limit", SHARED_LIMITS)


def _layout(agents: int, shared_limit: int, neighbors: int = 10, *, full: bool = False) -> Layout:
    environment = registry.get("tag_continuous-v0").make(
        num_taggers=agents // 10,
        num_runners=agents - agents // 10,
        use_full_observation=full,
        num_other_agents_observed=neighbors,
    )
    return cuda_layout(environment, shared_limit)


@every_size
@every_limit
@pytest.mark.parametrize("full", [False, True])
def test_a_block_fits(agents: int, shared_limit: int, full: bool) -> None:
    layout = _layout(agents, shared_limit, full=full)
    assert layout.shared_bytes <= shared_limit
    assert layout.lanes == layout.blocks * layout.warps * WARP and layout.threads <= 1024


@every_size
@pytest.mark.parametrize("neighbors", [1, 3, 10, 30, 31, 100])
def test_lists_lie_behind_candidates_and_cells(agents: int, neighbors: int) -> None:
    search = _layout(agents, SHARED_LIMITS[-1], neighbors).search
    assert search.lists_at >= CANDIDATE_BYTES * search.candidates + 4 * agents + 64
    if search.most_cells:
        assert search.lists_at >= 4 * (8 + search.most_cells + 4) + 12 * agents
    entries = min(neighbors, search.longest_list) + 1
    assert search.size >= search.lists_at + (2 if agents < 0xFFFF else 4) * agents * entries


@every_size
@pytest.mark.parametrize("full", [False, True])
def test_a_warp_has_room_for_its_rows_and_candidates(agents: int, full: bool) -> None:
    layout = _layout(agents, SHARED_LIMITS[-1], full=full)
    row = 7 * (agents - 1 if full else 10) + 1
    if layout.rows_staged and layout.row_lanes == WARP:
        assert layout.warp_stage_floats >= 2 * (row + LINE_FLOATS)
    elif layout.rows_staged:
        assert layout.warp_stage_floats >= WARP // layout.row_lanes * row + 2 * 2 * (LINE_FLOATS - 1)
    if layout.search.most_cells:
        assert 4 * layout.warp_stage_floats >= CANDIDATE_BYTES * layout.search.candidates
    assert layout.warp_stage_floats % LINE_FLOATS == 0 and layout.unit_bytes % (4 * LINE_FLOATS) == 0
