"""How a copy of an environment maps to hardware: lanes, blocks, and memory for one launch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from gpu_marl_envs.backends.search_memory import SearchMemory, align, cpu_search_memory, looking_bytes, search_memory
from gpu_marl_envs.spec import Environment

WARP = 32
MOST_SEQUENTIAL_AGENTS = 8  # beyond it a lane plays one agent, not a whole copy
MOST_SEQUENTIAL_BYTES = 24 * 1024  # of shared memory that the 32 copies of a warp may take then
OWN_SIZES = (0, 4, 8, 16)  # bytes that a lane loads or stores at once, and a warp as whole lines
MANY_COPIES = 16 * 1024  # from here on they suffice to keep a large GPU busy with a lane for each
MOST_PACKED_AGENTS = 32  # beyond it a copy has a block of its own
SHORTEST_IN_PIECES = 64  # bytes of a copy's observations; see ``padded_rows`` in kernels_warp.cuh
LONGEST_COLLECTED_ROW = 128  # floats; longer observations are written by a warp, or by a copy's lanes, together
LONGEST_OWN_ROW = 24  # the same with few copies, where observations are written where they belong
LONGEST_SEARCHED_ROW = 32  # the same where many agents look for neighbours: each of these lanes would do so for all
LINE_FLOATS = 32  # of 128 bytes
SECTOR_BYTES = 32
LONGEST_STAGED_ROW = 2048  # floats; even longer ones are written where they belong
MOST_SMALL_WARPS = 4  # of a block whose warps play several copies each
MOST_WARPS = 8  # of a block that plays a copy alone: each passes its barriers for more agents than many warps would
MOST_SEARCHING_WARPS = 12  # where agents look for neighbours
FEWEST_CELL_WARPS = 7  # where they are sorted into cells, and warps search for 32 at a time
IN_PLACE_CELL_WARPS = 8  # the same where state is worked on in place
MOST_BALANCED_CHUNKS = 32  # of agents; with more, it matters little that some warps search once more than others
MOST_BLOCKS = 8  # that play a copy together
MULTIPROCESSORS = 132  # of a large GPU
FEWEST_WARPS = 4  # with which it pays to keep a large copy's state in shared memory
SHARED_BYTES = 228 * 1024  # of a multiprocessor
RESERVED_BYTES = 1024  # of it, for each block
MOST_RESIDENT_BLOCKS = 32  # of a multiprocessor
RESIDENT_WARPS = 48  # of a multiprocessor, with 40 registers for each lane
COLLECTING_WARPS = 40  # of a multiprocessor that must stay where a copy's observations are collected
RESIDENT_SMALL_WARPS = 32  # where a warp plays several copies; with 64 registers
RESIDENT_SEARCHING_WARPS = 24  # where agents look for neighbours, which takes 80
RESIDENT_CELL_BLOCKS = 2  # at most, where they are sorted into cells: eight warps then have 128 registers
RESIDENT_LONE_WARPS = 24  # of a block that has a multiprocessor for itself
RESIDENT_LONE_CELL_WARPS = 16  # the same where agents are sorted into cells
PHASED_WARPS = 4  # of a block that runs one phase of a step; fewer if each takes much shared memory to search
MOST_PHASED_AGENTS = 8  # of a lane: blocks take time to start, and lanes to find out what concerns them
MOST_GROUPED_AGENTS = 10  # of a lane that runs several phases in one launch
RESIDENT_GROUPED_WARPS = 64  # of a multiprocessor, then; with 32 registers
CLUSTERED_SHARE = 0.9  # of the room for blocks on all multiprocessors, that clusters find
RESIDENT_PHASED_WARPS = 16  # of a multiprocessor, with 128 registers
PHASED_LANES = 64 * WARP * MULTIPROCESSORS  # that run at once
FEWEST_PHASED_AGENTS = 1 << 16  # of all copies, from which on a launch for each phase pays
FEWEST_OF_PHASED_COPY = 1 << 13  # agents; smaller copies play side by side, so that it takes four times as many
MOST_STATIC_BYTES = 48 * 1024 - 512  # of shared memory whose size is known when kernels are compiled, for stages
MOST_WORDS = 256  # in which a copy's reductions of one step leave their results
TARGET_SHARED_BYTES = 48 * 1024  # of a block whose warps play several copies: four fit on a multiprocessor then


@dataclass(frozen=True)
class Phases:
    """The phases of an operation from ``first`` up to ``end`` that one launch runs.

    In a single one, warps may search in all copies, ``part`` agents at a time; it is 0 where blocks play a copy each.
    The word ``left`` of a copy's results says how many agents there are to search for in it.
    """

    first: int
    end: int
    part: int = 0
    left: int = 0


@dataclass(frozen=True)
class Layout:
    """Where one launch keeps its copies' arrays, and which lanes play their agents.

    A unit is the memory of the copies that load and store together: those of a warp where it plays several, the one of
    a block, or on a CPU one copy.

    Attributes:
        offsets: byte offset of each array in the unit's memory: state fields, reward, terminated, alive, actions.
        unit_bytes: size of the unit's memory.
        own_arrays: whether each lane plays a copy and loads the state of it by itself.
        packed: whether several copies share a warp.
        lanes: lanes that play one copy.
        copies: copies of one unit.
        blocks: blocks that play one copy together, a cluster unless phased.
        warps: most warps of one block.
        staged: whether the state lives in shared memory during a launch, or is worked on in place.
        row_lanes: lanes that write one observation together.
        rows_staged: whether a copy of its own block writes its observations in shared memory first.
        rows_collected: whether all observations of a copy of its own block have room there at once.
        actions_staged: whether actions are brought to shared memory, four bytes each.
        loads_record: whether a copy's ``Record`` is read with its state, not when its episode ends: where it is a small
            part of the bytes, or a step's latency matters more than they do.
        overlaps: whether a launch may start while the kernel before is still ending.
        phased: whether phases of an operation are launches of their own, for all copies at once.
        grouped: whether all phases between two searches are one launch then.
        searching_warps: warps of a block in a phase in which warps search.
        phases: the launches that an operation takes if phased; filled in by who compiles them.
        scratch_bytes: memory for the partial results of one reduction; there is room for two, and for four unless
            staged.
        search: memory in which agents look for neighbours together.
        stage_floats: shared memory of a unit for collecting observations, in words of four bytes.
        warp_stage_floats: the part of it that each warp has for itself, if not packed.
        vicinity_at: byte offset, in this part, of positions around the agents for whom a warp searches.
    """

    offsets: dict[str, int] = field(default_factory=dict)
    unit_bytes: int = 0
    own_arrays: bool = False
    packed: bool = False
    lanes: int = 1
    copies: int = 1
    blocks: int = 1
    warps: int = 1
    staged: bool = False
    row_lanes: int = 1
    rows_staged: bool = False
    rows_collected: bool = False
    actions_staged: bool = False
    loads_record: bool = False
    overlaps: bool = False
    phased: bool = False
    grouped: bool = False
    searching_warps: int = PHASED_WARPS
    phases: dict[str, tuple[Phases, ...]] = field(default_factory=dict)
    scratch_bytes: int = 0
    search: SearchMemory = field(default_factory=SearchMemory)
    stage_floats: int = 0
    warp_stage_floats: int = 0
    vicinity_at: int = 0

    @property
    def resident_blocks(self) -> int:
        """Blocks that are to run on a multiprocessor at once; more of them leave fewer registers to each lane."""
        if self.phased:
            warps = RESIDENT_GROUPED_WARPS if self.grouped else RESIDENT_PHASED_WARPS
            return min(MOST_RESIDENT_BLOCKS, warps // self.warps)
        if self.in_warps:
            warps = RESIDENT_SMALL_WARPS
        else:
            warps = RESIDENT_SEARCHING_WARPS if self.search.candidates else RESIDENT_WARPS
        most = RESIDENT_CELL_BLOCKS if self.search.most_cells else MOST_RESIDENT_BLOCKS
        return max(1, min(SHARED_BYTES // (self.shared_bytes + RESERVED_BYTES), warps // self.warps, most))

    @property
    def threads(self) -> int:
        """Threads of one block."""
        return self.warps * WARP

    @property
    def in_warps(self) -> bool:
        """Whether a warp plays several copies, with a unit of its own."""
        return self.packed or self.lanes == 1

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block of ``warps`` warps."""
        units = self.warps if self.in_warps else 1
        return units * ((self.unit_bytes if self.staged else 0) + 4 * self.stage_floats)

    def launch_shape(
        self, num_envs: int, multiprocessors: int, shared_limit: int
    ) -> tuple[tuple[int, int], tuple[int, int, int], int]:
        """The grid of a launch, the threads of a block, and its bytes of dynamic shared memory."""
        units = -(-num_envs // self.copies)
        if not self.in_warps:
            return (units * self.blocks, 1), (self.threads, 1, 1), 0 if self.phased else self.shared_bytes
        warps = max(min(self.warps, units // multiprocessors), 1)  # few copies are spread over the whole device
        blocks, shared_bytes = -(-units // warps), self.shared_bytes // self.warps * warps
        share = -(-blocks // multiprocessors)
        if self.overlaps and share <= self.resident_blocks:
            # Blocks start where others of the last launch end: no multiprocessor is to take more than its share.
            share_bytes = (shared_limit + RESERVED_BYTES) // share - RESERVED_BYTES
            shared_bytes = max(shared_bytes, share_bytes // 128 * 128)
        return (blocks, 1), (warps * WARP, 1, 1), shared_bytes

    def turns_round(self, num_envs: int, multiprocessors: int, cache_bytes: int) -> bool:
        """Whether every other launch goes through the copies backwards, and finds in the cache what was touched last.

        That pays where not all of them run at once, while the cache could hold their state.
        """
        units = -(-num_envs // self.copies)
        at_once = self.resident_blocks * self.warps * multiprocessors
        return self.in_warps and units > at_once and units * self.unit_bytes <= cache_bytes


def cpu_layout(environment: Environment) -> Layout:
    """The layout of a CPU build: one copy at a time, its state worked on in place."""
    search = cpu_search_memory(environment)
    offsets, unit_bytes = _unit(environment, copies=1, staged=False, extra={"search": search.size})
    return Layout(offsets=offsets, unit_bytes=align(unit_bytes, 64), search=search)


def cuda_layout(
    environment: Environment,
    shared_limit: int,
    num_envs: int = MANY_COPIES,
    entry_bytes: int = 4,
    *,
    hopper: bool = True,
    may_group: bool = True,
) -> Layout:
    """The layout of a CUDA build.

    Args:
        environment: the declaration.
        shared_limit: bytes of shared memory that one block may use.
        num_envs: number of copies; few leave so much of a device idle that more lanes for each pay.
        entry_bytes: size of an entry of an observation.
        hopper: whether the GPU is of NVIDIA's Hopper or a later architecture: several blocks can work on one copy then.
        may_group: whether several phases may be one launch.
    """
    longest_row = max(group.observation_size for group in environment.agent_groups)
    agents = environment.num_agents
    few = num_envs < MANY_COPIES

    def for_warps(layout: Layout) -> Layout:
        return replace(layout, loads_record=few, overlaps=hopper)

    if agents == 1 or (agents <= MOST_SEQUENTIAL_AGENTS and not few):
        layout = _sequential(environment, shared_limit, entry_bytes)
        if layout.shared_bytes <= min(layout.warps * MOST_SEQUENTIAL_BYTES, shared_limit):
            return for_warps(layout)
    if 1 < agents <= MOST_PACKED_AGENTS:
        return for_warps(_packed(environment, longest_row, shared_limit, entry_bytes, few=few))
    most_blocks = MOST_BLOCKS if hopper else 1
    return _one_per_team(
        environment, longest_row, shared_limit, num_envs, entry_bytes, most_blocks, may_group=may_group
    )


def _sequential(environment: Environment, shared_limit: int, entry_bytes: int) -> Layout:
    offsets, unit_bytes = dict.fromkeys(("reward", "terminated", "alive", "actions"), 0), 0  # these are in registers
    sizes = {field.name: 4 * field.length(environment.num_agents) for field in environment.state_fields()}
    for name, size in sizes.items():
        offsets[name] = unit_bytes
        unit_bytes += WARP * _padded(size)
    slabs = [WARP * _padded_rows(entry_bytes * g.size * g.observation_size) for g in environment.agent_groups]
    stage_floats = sum(align(slab, 16) for slab in slabs) // 4
    layout = Layout(
        offsets=offsets,
        unit_bytes=unit_bytes,
        own_arrays=all(size in OWN_SIZES for size in sizes.values()),
        copies=WARP,
        staged=True,
        actions_staged=True,
        stage_floats=stage_floats,
    )
    return _with_warps(layout, shared_limit)


def _packed(environment: Environment, longest_row: int, shared_limit: int, entry_bytes: int, *, few: bool) -> Layout:
    lanes = environment.num_agents
    copies = WARP // lanes
    offsets, unit_bytes = _unit(environment, copies, staged=True, actions=True)
    searches = environment.neighbors() > 0 and lanes > MOST_SEQUENTIAL_AGENTS
    longest_own_row = LONGEST_SEARCHED_ROW if searches else LONGEST_OWN_ROW
    row_lanes = lanes if longest_row > (longest_own_row if few else LONGEST_COLLECTED_ROW) else 1
    slabs = [entry_bytes * copies * g.size * g.observation_size for g in environment.agent_groups]
    stage_floats = 0 if few or row_lanes > 1 else sum(align(slab, 16) for slab in slabs) // 4
    layout = Layout(
        offsets=offsets,
        unit_bytes=unit_bytes,
        packed=True,
        lanes=lanes,
        copies=copies,
        staged=True,
        row_lanes=row_lanes,
        actions_staged=True,
        stage_floats=stage_floats,
    )
    return _with_warps(layout, shared_limit)


def _with_warps(layout: Layout, shared_limit: int) -> Layout:
    """As many warps in a block as fit, each with a unit of its own."""
    for warps in (MOST_SMALL_WARPS, 2, 1):
        layout = replace(layout, warps=warps)
        if layout.shared_bytes <= min(TARGET_SHARED_BYTES, shared_limit):
            break
    return layout


def _one_per_team(
    environment: Environment,
    longest_row: int,
    shared_limit: int,
    num_envs: int,
    entry_bytes: int,
    most_blocks: int,
    *,
    may_group: bool,
) -> Layout:
    agents = environment.num_agents
    chunks = -(-agents // WARP)
    for staged in (True, False):
        search = search_memory(environment, staged=staged, observes=longest_row <= LONGEST_COLLECTED_ROW)
        team_warps = _team_warps(search, chunks)
        blocks, most_warps = 1, team_warps
        if not staged:
            most_warps = IN_PLACE_CELL_WARPS if search.most_cells else team_warps
            blocks = max(1, min(most_blocks, agents // (WARP * most_warps)))
            if blocks * num_envs <= MULTIPROCESSORS:  # each block has a multiprocessor for itself
                lone_warps = RESIDENT_LONE_CELL_WARPS if search.most_cells else RESIDENT_LONE_WARPS
                blocks = max(1, min(most_blocks, agents // (WARP * lone_warps)))
                most_warps = min(lone_warps, chunks)
        parts = chunks + len(environment.agent_groups)  # of 32 agents of a group
        scratch_bytes = align(max(4 * parts, 8 * blocks * most_warps), 16)
        results = {"words": 0 if staged else 4 * MOST_WORDS}  # of reductions, if phased
        extra = {"scratch": (2 if staged else 4) * scratch_bytes, "search": search.size, **results}
        offsets, unit_bytes = _unit(environment, copies=1, staged=staged, actions=staged, extra=extra)
        unit_bytes = align(unit_bytes, 4 * LINE_FLOATS)
        warp_bytes = (SHARED_BYTES // RESIDENT_CELL_BLOCKS - RESERVED_BYTES - unit_bytes) // team_warps
        row_lanes, stage_floats = _row_stage(agents, longest_row, entry_bytes, search, warp_bytes, staged=staged)
        vicinity_at = 4 * stage_floats
        stage_floats += align(search.vicinity_bytes // 4, LINE_FLOATS)
        left = shared_limit - (unit_bytes if staged else 0)
        warps = min(most_warps, left // (4 * stage_floats)) if stage_floats else most_warps
        if left >= 0 and warps >= min(FEWEST_WARPS, chunks):
            break
    warps = _warps_of_resident_blocks(warps, unit_bytes, 4 * stage_floats) if staged and search.most_cells else warps
    searching_warps = _searching_warps(4 * stage_floats)
    stage_bytes = 4 * searching_warps * stage_floats
    phased = not staged and _is_phased(environment, num_envs, stage_bytes, hopper=most_blocks > 1)
    grouped = False
    if phased:
        stage_bytes = 0 if search.most_cells else 4 * stage_floats  # of a warp; who searches has a launch of its own
        blocks, warps = most_blocks, _grouped_warps(agents, num_envs, most_blocks, stage_bytes)
        grouped = may_group and agents <= MOST_GROUPED_AGENTS * WARP * warps * blocks
        if not grouped:
            warps = searching_warps
            per_lane = min(MOST_PHASED_AGENTS, -(-agents * num_envs // PHASED_LANES))
            blocks = -(-agents // (WARP * warps * per_lane))
    layout = Layout(
        offsets=offsets,
        unit_bytes=unit_bytes,
        lanes=blocks * warps * WARP,
        blocks=blocks,
        warps=warps,
        staged=staged,
        overlaps=phased,
        phased=phased,
        grouped=grouped,
        searching_warps=searching_warps,
        row_lanes=row_lanes,
        rows_staged=longest_row <= LONGEST_STAGED_ROW,
        actions_staged=staged,
        loads_record=True,
        scratch_bytes=scratch_bytes,
        search=search,
        stage_floats=warps * stage_floats,
        warp_stage_floats=stage_floats,
        vicinity_at=vicinity_at,
    )
    if staged and row_lanes == 1:
        slabs = [entry_bytes * g.size * g.observation_size for g in environment.agent_groups]
        collected_floats = sum(align(slab + 4 * LINE_FLOATS, 4 * LINE_FLOATS) for slab in slabs) // 4
        collecting = replace(layout, rows_collected=True, stage_floats=collected_floats)
        if collecting.shared_bytes <= shared_limit and collecting.resident_blocks * warps >= COLLECTING_WARPS:
            return collecting
    return layout


def _is_phased(environment: Environment, num_envs: int, stage_bytes: int, *, hopper: bool) -> bool:
    agents = environment.num_agents
    fewest = FEWEST_PHASED_AGENTS * (4 if agents < FEWEST_OF_PHASED_COPY else 1)
    many = num_envs * agents >= fewest
    return hopper and many and environment.loop_by_loop and stage_bytes <= MOST_STATIC_BYTES


def _searching_warps(warp_bytes: int) -> int:
    """Warps of a block that runs one phase, with so much memory for each."""
    return next((warps for warps in (PHASED_WARPS, 2) if warps * warp_bytes <= MOST_STATIC_BYTES), 1)


def _grouped_warps(agents: int, num_envs: int, blocks: int, stage_bytes: int) -> int:
    """Warps of each of a copy's blocks: the most with which all copies run at once, or few if there are none."""
    most = min(RESIDENT_GROUPED_WARPS // 2, -(-agents // (WARP * blocks)), MOST_STATIC_BYTES // max(stage_bytes, 1))
    share = num_envs * blocks / (CLUSTERED_SHARE * MULTIPROCESSORS)
    fitting = [
        warps for warps in range(1, most + 1) if min(MOST_RESIDENT_BLOCKS, RESIDENT_GROUPED_WARPS // warps) >= share
    ]
    return max(fitting, default=min(2 * PHASED_WARPS, most))


def _row_stage(
    agents: int, longest_row: int, entry_bytes: int, search: SearchMemory, most_bytes: int, *, staged: bool
) -> tuple[int, int]:
    """Lanes that write an observation together, and the memory that a warp has for its rows, in words.

    Rows are shifted to lie as far off a line as in device memory, or off a sector where they are written one by one.
    Between observations, the memory holds what a warp has to remember as it looks for neighbours, where agents are
    sorted into cells.
    """
    for_search = 0
    if search.most_cells:
        for_search = align(looking_bytes(agents) // 4, LINE_FLOATS)

    def for_rows(rows: int) -> int:
        return align(-(-rows * longest_row * entry_bytes // 4), LINE_FLOATS) + LINE_FLOATS

    row_lanes = WARP
    if longest_row > LONGEST_COLLECTED_ROW:
        floats = 2 * for_rows(1) if longest_row <= LONGEST_STAGED_ROW else 0
    elif search.most_cells and not staged:  # rows are written one by one, beside a warp's lists
        row_lanes = 2
        row_bytes = align(longest_row * entry_bytes + SECTOR_BYTES - entry_bytes, 16)
        floats = align((WARP // row_lanes * row_bytes + WARP * search.list_bytes) // 4, LINE_FLOATS)
    else:
        row_lanes = 2 if search.candidates else 1
        if search.most_cells and 4 * for_rows(WARP // row_lanes) > most_bytes:  # of a warp, with two blocks
            row_lanes = 4
        floats = for_rows(WARP // row_lanes)
    return row_lanes, max(floats, for_search)


def _warps_of_resident_blocks(warps: int, unit_bytes: int, warp_bytes: int) -> int:
    """So many warps of a block that sorts agents into cells, or some fewer with which two fit on a multiprocessor."""
    for fewer in range(warps, FEWEST_CELL_WARPS - 1, -1):
        if RESIDENT_CELL_BLOCKS * (unit_bytes + fewer * warp_bytes + RESERVED_BYTES) <= SHARED_BYTES:
            return fewer
    return warps


def _team_warps(search: SearchMemory, chunks: int) -> int:
    """Warps of a block, with so many chunks of 32 agents to play."""
    most = min(MOST_SEARCHING_WARPS if search.candidates else MOST_WARPS, chunks)
    if not search.most_cells or chunks > MOST_BALANCED_CHUNKS:
        return most
    fewest = min(FEWEST_CELL_WARPS, most)
    return min(range(most, fewest - 1, -1), key=lambda warps: -chunks % warps)  # who are idle in the last turn


def _unit(
    environment: Environment, copies: int, *, staged: bool, actions: bool = False, extra: dict[str, int] | None = None
) -> tuple[dict[str, int], int]:
    """Offsets of the arrays in a unit's memory, and its size. State that is worked on in place takes none."""
    agents = environment.num_agents
    sizes: dict[str, int] = {}
    for state_field in environment.state_fields():
        sizes[state_field.name] = 4 * state_field.length(agents) if staged or state_field.scratch else 0
    sizes |= {"reward": 4 * agents, "terminated": agents, "alive": agents if staged else 0}
    offsets, position = {}, 0
    for name, size in (sizes | (extra or {})).items():
        offsets[name] = position
        position = align(position + copies * size, 16 if staged else SECTOR_BYTES)
    offsets["actions"] = position
    if actions:
        widths = [group.size * math.prod(group.action_shape) for group in environment.agent_groups]
        position += sum(4 * align(copies * width, 4) for width in widths)
    return offsets, position


def _padded(size: int) -> int:
    """Bytes from one copy to the next where each lane plays a copy; see ``padded`` in kernels_warp.cuh."""
    return size + 4 if size % 16 == 0 else size


def _padded_rows(size: int) -> int:
    """The same for a group's observations; see ``padded_rows`` there."""
    if size % 16 != 0 or size < SHORTEST_IN_PIECES:
        return _padded(size)
    return size + 16 if size % 32 == 0 else size
