"""How a copy of an environment maps to hardware: lanes, blocks, and memory for one launch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from gpu_marl_envs.spec import Environment

WARP = 32
MOST_PACKED_AGENTS = 32  # beyond it a copy has a block of its own
LONGEST_COLLECTED_ROW = 128  # floats; longer observations are written by several lanes together
LONGEST_STAGED_ROW = 2048  # floats; even longer ones are written where they belong
MOST_CANDIDATES = 192  # agents that are searched for neighbours without sorting them into cells
CANDIDATE_BYTES = 16
MOST_WARPS = 16  # of a block; more for very many agents
FEWEST_WARPS = 4  # with which it pays to keep a large copy's state in shared memory
SHARED_BYTES = 228 * 1024  # of a multiprocessor, of which each block needs 1 KiB for itself
RESIDENT_WARPS = 32  # with 64 registers for each lane
TARGET_SHARED_BYTES = 48 * 1024  # of a block: four blocks then fit on a multiprocessor of 227 KiB and more


@dataclass(frozen=True)
class SearchMemory:
    """Memory of a unit for searches of nearest agents; see cuda_src/engine/search_cuda.cuh.

    Attributes:
        candidates: most agents that are brought together in shared memory; 0 if everyone looks at each instead.
        most_cells: most cells into which agents are sorted, where there are more of them than that.
        agents_per_cell: how many agents a cell is to hold.
        lists_at: byte offset of the lists of whom each has found.
        size: bytes.
    """

    candidates: int = 0
    most_cells: int = 0
    agents_per_cell: float = 1.0
    lists_at: int = 0
    size: int = 0


@dataclass(frozen=True)
class Layout:
    """Where one launch keeps its copies' arrays, and which lanes play their agents.

    A unit is the memory of the copies that load and store together: those of a block, or on a CPU one copy.

    Attributes:
        offsets: byte offset of each array in the unit's memory: state fields, reward, terminated, alive, actions.
        unit_bytes: size of the unit's memory.
        packed: whether several copies share a warp.
        lanes: lanes that play one copy.
        copies: copies of one block.
        copies_per_warp: copies that share a warp, if packed.
        warps: warps of one block.
        staged: whether the state lives in shared memory during a launch, or is worked on in place.
        row_lanes: lanes that write one observation together; 1 collects observations in shared memory first.
        search: memory in which agents look for neighbours together.
        stage_floats: shared memory for collecting observations.
        warp_stage_floats: the part of it that each warp has for itself, if not packed.
        scratch_bytes: shared memory per block for reductions.
    """

    offsets: dict[str, int] = field(default_factory=dict)
    unit_bytes: int = 0
    packed: bool = False
    lanes: int = 1
    copies: int = 1
    copies_per_warp: int = 1
    warps: int = 1
    staged: bool = False
    row_lanes: int = 1
    search: SearchMemory = field(default_factory=lambda: SearchMemory())
    stage_floats: int = 0
    warp_stage_floats: int = 0
    scratch_bytes: int = 0

    @property
    def resident_blocks(self) -> int:
        """Blocks that are to run on a multiprocessor at once: as many as shared memory allows, up to 32 warps."""
        return max(1, min(SHARED_BYTES // (self.shared_bytes + 1024), RESIDENT_WARPS // self.warps))

    @property
    def threads(self) -> int:
        """Threads of one block."""
        return self.warps * WARP

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of one block."""
        return self.scratch_bytes + (self.unit_bytes if self.staged else 0) + 4 * self.stage_floats


def cpu_layout(environment: Environment) -> Layout:
    """The layout of a CPU build: one copy at a time, its state worked on in place."""
    offsets, unit_bytes = _unit(environment, copies=1, staged=False)
    return Layout(offsets=offsets, unit_bytes=_align(unit_bytes, 64))


def cuda_layout(environment: Environment, shared_limit: int) -> Layout:
    """The layout of a CUDA build.

    Args:
        environment: the declaration.
        shared_limit: bytes of shared memory that one block may use.
    """
    longest_row = max(group.observation_size for group in environment.agent_groups)
    if environment.num_agents <= MOST_PACKED_AGENTS:
        return _packed(environment, longest_row, shared_limit)
    return _one_per_block(environment, longest_row, shared_limit)


def _packed(environment: Environment, longest_row: int, shared_limit: int) -> Layout:
    lanes = environment.num_agents
    row_lanes = lanes if longest_row > LONGEST_COLLECTED_ROW else 1
    for warps in (4, 2, 1):
        copies = warps * (WARP // lanes)
        offsets, unit_bytes = _unit(environment, copies, staged=True, packed=True)
        stage = sum(_align(copies * g.size * g.observation_size, 4) for g in environment.agent_groups)
        layout = Layout(
            offsets=offsets,
            unit_bytes=unit_bytes,
            packed=True,
            lanes=lanes,
            copies=copies,
            copies_per_warp=WARP // lanes,
            warps=warps,
            staged=True,
            row_lanes=row_lanes,
            stage_floats=stage if row_lanes == 1 else 0,
        )
        if layout.shared_bytes <= min(TARGET_SHARED_BYTES, shared_limit):
            break
    return layout


def _one_per_block(environment: Environment, longest_row: int, shared_limit: int) -> Layout:
    agents = environment.num_agents
    chunks = -(-agents // WARP)
    scratch_bytes = max(256, _align(4 * chunks, 16))
    search = _search_memory(environment)
    if longest_row > LONGEST_COLLECTED_ROW:
        row_lanes = WARP
    else:
        row_lanes = 4 if search.most_cells else 2 if search.candidates else 1
    # A row may be shifted by up to three floats, to lie as far off a line as in device memory.
    if row_lanes == WARP:
        stage_floats = 2 * _align(longest_row + 3, 4) if longest_row <= LONGEST_STAGED_ROW else 0
    else:
        stage_floats = _align(WARP // row_lanes * longest_row + 8 * len(environment.agent_groups), 4)
    if search.most_cells:  # between observations it holds a warp's candidates
        stage_floats = max(stage_floats, CANDIDATE_BYTES * search.candidates // 4)
    most_warps = MOST_WARPS if agents <= 4096 else 2 * MOST_WARPS
    for staged in (True, False):
        offsets, unit_bytes = _unit(environment, copies=1, staged=staged, search_bytes=search.size)
        left = shared_limit - scratch_bytes - (unit_bytes if staged else 0)
        fitting = left // (4 * stage_floats) if stage_floats else most_warps
        warps = min(most_warps, chunks, fitting)
        if left >= 0 and warps >= min(FEWEST_WARPS, chunks):
            break
    return Layout(
        offsets=offsets,
        unit_bytes=unit_bytes,
        lanes=warps * WARP,
        warps=warps,
        staged=staged,
        row_lanes=row_lanes,
        search=search,
        stage_floats=warps * stage_floats,
        warp_stage_floats=stage_floats,
        scratch_bytes=scratch_bytes,
    )


def _search_memory(environment: Environment) -> SearchMemory:
    agents, neighbors = environment.num_agents, environment.neighbors()
    if neighbors == 0:
        return SearchMemory()
    gathered = min(_align(agents, 8), MOST_CANDIDATES)
    gathered_bytes = CANDIDATE_BYTES * gathered + 4 * (agents + -(-agents // WARP) + 2 * MOST_WARPS)
    lists_bytes = (2 if agents < 0xFFFF else 4) * agents * (neighbors + 1)
    if agents <= MOST_CANDIDATES:
        lists_at = _align(gathered_bytes, 16)
        return SearchMemory(candidates=gathered, lists_at=lists_at, size=_align(lists_at + lists_bytes, 16))
    # A circle of two cell widths then holds about twice as many agents as are looked for.
    agents_per_cell = max(neighbors, 3) / 3
    most_cells = math.ceil(agents / agents_per_cell) + 1
    lists_at = _align(4 * (8 + most_cells + 4) + 12 * agents, 16)
    return SearchMemory(
        candidates=gathered,
        most_cells=most_cells,
        agents_per_cell=agents_per_cell,
        lists_at=lists_at,
        size=_align(max(lists_at + lists_bytes, gathered_bytes), 16),
    )


def _unit(environment: Environment, copies: int, *, staged: bool, packed: bool = False, search_bytes: int = 0) -> tuple[dict[str, int], int]:
    """Offsets of the arrays in a unit's memory, and its size. State that is worked on in place takes none."""
    agents = environment.num_agents
    sizes: dict[str, int] = {}
    for state_field in environment.state_fields():
        sizes[state_field.name] = 4 * state_field.length(agents) if staged or state_field.scratch else 0
    sizes |= {"reward": 4 * agents, "terminated": agents, "alive": agents if staged else 0}
    offsets, position = {}, 0
    for name, size in sizes.items():
        offsets[name] = position
        position = _align(position + copies * size, 16)
    offsets["search"] = position
    position += search_bytes
    offsets["actions"] = position
    if packed:
        widths = [group.size * math.prod(group.action_shape) for group in environment.agent_groups]
        position += sum(4 * _align(copies * width, 4) for width in widths)
    return offsets, position


def _align(size: int, to: int) -> int:
    return -(-size // to) * to
