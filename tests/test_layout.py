"""What a layout promises to the kernels, without a GPU."""

from __future__ import annotations

import pytest

from gpu_marl_envs import registry
from gpu_marl_envs.backends import layout as layouts
from gpu_marl_envs.backends.layout import (
    FEWEST_PHASED_AGENTS,
    LINE_FLOATS,
    MOST_GROUPED_AGENTS,
    MOST_PHASED_AGENTS,
    MOST_STATIC_BYTES,
    SECTOR_BYTES,
    WARP,
    Layout,
    cuda_layout,
)
from gpu_marl_envs.backends.search_memory import candidates_bytes

SHARED_LIMITS = [99 * 1024, 163 * 1024, 227 * 1024]
AGENTS = [33, 110, 176, 177, 250, 294, 370, 1000, 1536, 3840, 6144, 20_000, 100_000]

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
    layout = _layout(agents, SHARED_LIMITS[-1], neighbors)
    search = layout.search
    assert search.lists_at >= candidates_bytes(search.candidates, agents) + 2 * agents + 64
    if search.most_cells:
        number_bytes, position_bytes = (2, 8) if layout.staged else (0, 32)  # or with all that is known of an agent
        assert search.positions_at >= 4 * (8 + search.most_cells + 4) + number_bytes * agents
        assert (layout.offsets["search"] + search.positions_at) % position_bytes == 0
        assert search.lists_at >= search.positions_at + position_bytes * (agents + 15)  # 16 are looked at together
        assert 4 * search.most_cells <= search.lists_at - search.positions_at  # counts, where agents go
        assert search.size >= search.lists_at + 8 * agents  # who is in cells, and as which of them
    entries = min(neighbors, search.longest_list) + 1
    assert search.size >= search.lists_at + (2 if agents < 0xFFFF else 4) * agents * entries


@every_size
@pytest.mark.parametrize("full", [False, True])
def test_a_warp_has_room_for_its_rows_and_to_look_around(agents: int, full: bool) -> None:
    layout = _layout(agents, SHARED_LIMITS[-1], full=full)
    row = 7 * (agents - 1 if full else 10) + 1
    if layout.rows_staged and layout.row_lanes == WARP:
        assert layout.warp_stage_floats >= 2 * (row + LINE_FLOATS)
    elif layout.rows_staged:
        assert layout.warp_stage_floats >= WARP // layout.row_lanes * row + LINE_FLOATS - 1
    if layout.rows_staged and layout.row_lanes < WARP and layout.search.most_cells and not layout.staged:
        room = -(-(row + SECTOR_BYTES // 4 - 1) // 4) * 4  # wherever it starts in a sector
        lists = WARP * layout.search.list_bytes // 4
        assert layout.vicinity_at >= 4 * (WARP // layout.row_lanes * room + lists)
    if layout.search.most_cells:
        place_bytes = 2 if agents < 0xFFFF else 4
        assert layout.vicinity_at >= WARP * (3 * 4 + (2 * 8 + 32) * place_bytes)
        assert 4 * layout.warp_stage_floats >= layout.vicinity_at + layout.search.vicinity_bytes
        assert layout.search.vicinity_bytes >= (0 if layout.staged else 3 * (32 + 16) * 8)
    assert layout.warp_stage_floats % LINE_FLOATS == 0 and layout.unit_bytes % (4 * LINE_FLOATS) == 0


@pytest.mark.parametrize(("agents", "warps"), [(110, 4), (193, 7), (300, 10), (500, 8), (1000, 8), (2000, 12)])
def test_warps_that_search_in_cells_share_the_agents_evenly(agents: int, warps: int) -> None:
    assert _layout(agents, SHARED_LIMITS[-1]).warps == warps


@pytest.mark.parametrize("agents", [193, 500, 930, 960, 1000, 1024])
def test_two_blocks_that_search_in_cells_fit_on_a_multiprocessor(agents: int) -> None:
    assert _layout(agents, SHARED_LIMITS[-1]).resident_blocks == 2


@pytest.mark.parametrize(("agents", "lanes"), [(300, 2), (500, 2), (1000, 2), (1024, 4), (2000, 4)])
def test_two_lanes_share_a_row_where_that_leaves_room_for_two_blocks(agents: int, lanes: int) -> None:
    assert _layout(agents, SHARED_LIMITS[-1]).row_lanes == lanes


@pytest.mark.parametrize(("agents", "neighbors", "warps"), [(20_000, 18, 4), (100_000, 10, 4), (100_000, 18, 2)])
def test_fewer_warps_of_a_block_search_where_each_needs_much_memory(agents: int, neighbors: int, warps: int) -> None:
    layout = _layout(agents, SHARED_LIMITS[-1], neighbors)
    assert layout.phased and layout.searching_warps == warps
    assert 4 * warps * layout.warp_stage_floats <= MOST_STATIC_BYTES


def test_fields_of_agents_are_sorted_with_them_where_they_lie_in_device_memory() -> None:
    in_place, staged = (_layout(agents, SHARED_LIMITS[-1]).search for agents in (20_000, 1000))
    assert in_place.carried == ("x", "y", "speed", "direction", "acceleration") and staged.carried == ()
    assert _layout(20_000, SHARED_LIMITS[-1], 30).search.carried == ()  # warps that search do not write such long rows


@pytest.mark.parametrize("agents", [33, 100, 300, 1000, 1500])
@pytest.mark.parametrize("entry_bytes", [2, 4])
def test_all_rows_of_a_copy_have_room_where_they_are_collected(agents: int, entry_bytes: int) -> None:
    environment = registry.get("tag_gridworld-v0").make(num_taggers=agents - 1, use_full_observation=False)
    layout = cuda_layout(environment, SHARED_LIMITS[-1], entry_bytes=entry_bytes)
    assert layout.rows_collected == (agents <= 1000)  # of which enough blocks are resident
    rows = [6 * entry_bytes * group.size for group in environment.agent_groups]
    if layout.rows_collected:  # each group's shifted by up to a line, and lines never shared
        assert 4 * layout.stage_floats >= sum(-(-(size + 124) // 128) * 128 for size in rows)
        assert layout.shared_bytes == layout.unit_bytes + 4 * layout.stage_floats <= SHARED_LIMITS[-1]


@pytest.mark.parametrize("num_envs", [1, 2_000, 1_000_000])
def test_launches_of_small_copies_overlap_where_the_card_can(num_envs: int) -> None:
    environment = registry.get("tag_gridworld-v0").make(num_taggers=4)
    assert cuda_layout(environment, SHARED_LIMITS[-1], num_envs).overlaps
    assert not cuda_layout(environment, SHARED_LIMITS[-1], num_envs, hopper=False).overlaps


def test_few_large_copies_have_more_warps_in_each_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of their blocks has a multiprocessor for itself; blocks of many copies share one, and wait in turns."""
    environment = registry.get("tag_continuous-v0").make(
        num_taggers=10_000, num_runners=90_000, use_full_observation=False, num_other_agents_observed=10
    )
    monkeypatch.setattr(layouts, "FEWEST_PHASED_AGENTS", 1 << 60)
    few, many = (cuda_layout(environment, SHARED_LIMITS[-1], copies) for copies in (16, 100))
    assert (few.blocks, few.resident_blocks) == (8, 1) and (many.blocks, many.resident_blocks) == (8, 2)
    assert few.warps == 2 * many.warps


@pytest.mark.parametrize(("num_envs", "agents"), [(2, 40_000), (16, 100_000), (100, 20_000), (16_384, 6144)])
def test_many_large_copies_are_played_phase_by_phase(num_envs: int, agents: int) -> None:
    environment = registry.get("tag_continuous-v0").make(
        num_taggers=agents // 10, num_runners=agents - agents // 10, use_full_observation=False
    )
    layout = cuda_layout(environment, SHARED_LIMITS[-1], num_envs)
    assert layout.phased and layout.overlaps and not layout.staged and layout.grouped == (agents < 100_000)
    shape = (num_envs * layout.blocks, 1), (layout.threads, 1, 1), 0
    assert layout.launch_shape(num_envs, 132, SHARED_LIMITS[-1]) == shape
    most = MOST_GROUPED_AGENTS if layout.grouped else MOST_PHASED_AGENTS
    assert agents / most <= layout.lanes < agents + layout.blocks * layout.threads
    assert layout.blocks == 8 if layout.grouped else layout.threads == 128
    assert 4 * layout.searching_warps * layout.warp_stage_floats <= MOST_STATIC_BYTES
    assert layout.scratch_bytes >= 4 * (-(-agents // WARP) + 2)  # the sums of two groups lie side by side
    assert not cuda_layout(environment, SHARED_LIMITS[-1], num_envs, hopper=False).phased
    assert cuda_layout(environment, SHARED_LIMITS[-1], 1).phased == (agents >= FEWEST_PHASED_AGENTS)


@pytest.mark.parametrize(("num_envs", "warps"), [(7, 32), (100, 9), (200, 4), (20_000, 8)])
def test_grouped_copies_run_at_once_if_they_can(num_envs: int, warps: int) -> None:
    environment = registry.get("tag_continuous-v0").make(
        num_taggers=1000, num_runners=9000, use_full_observation=False, num_other_agents_observed=10
    )
    layout = cuda_layout(environment, SHARED_LIMITS[-1], num_envs)
    assert layout.grouped and layout.warps == warps


def test_others_than_those_that_say_so_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = registry.get("tag_continuous-v0").make(num_taggers=4000, num_runners=36_000)
    assert cuda_layout(environment, SHARED_LIMITS[-1]).phased
    monkeypatch.setattr(type(environment), "loop_by_loop", False)
    assert not cuda_layout(environment, SHARED_LIMITS[-1]).phased


@pytest.mark.parametrize(
    ("env_id", "own"), [("simple_tag-v3", True), ("cartpole-v1", True), ("simple_spread-v3", False)]
)
def test_lanes_load_arrays_that_make_whole_lines(env_id: str, own: bool) -> None:
    assert cuda_layout(registry.get(env_id).make(), SHARED_LIMITS[-1]).own_arrays == own


def test_few_copies_write_observations_where_they_belong() -> None:
    environment = registry.get("tag_continuous-v0").make(num_taggers=2, num_runners=8)
    many, few = (cuda_layout(environment, SHARED_LIMITS[-1], num_envs) for num_envs in (1_000_000, 2_000))
    assert many.stage_floats > 0 and many.row_lanes == 1
    assert few.stage_floats == 0 and few.row_lanes == few.lanes == 10
