"""Memory in which the agents of a copy look for their nearest together."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gpu_marl_envs.spec import Environment

MOST_CANDIDATES = 176  # agents that are searched for neighbours without sorting them into cells
MOST_CPU_CANDIDATES = 64  # the same on a CPU
LOOKED_AT_ONCE = 16  # agents in cells, some of them behind the last that counts
LONGEST_LIST = 30  # nearest agents that are sorted in registers
RECORD_WORDS = 8  # of an agent in cells in device memory: a sector of 32 bytes
MOST_CARRIED = RECORD_WORDS - 3  # fields, beside its position and number


@dataclass(frozen=True)
class SearchMemory:
    """Memory of a unit for searches of nearest agents; see cuda_src/engine/search_together.cuh and search_nearby.cuh.

    Attributes:
        candidates: most agents who are not sorted into cells: a GPU brings them together in shared memory, or everyone
            looks at each if it is 0; on a CPU everyone looks at each of them.
        most_cells: most cells into which agents are sorted, where there are more of them than that.
        agents_per_cell: how many agents a cell is to hold, but where lanes look for few and each for itself.
        longest_list: most agents of a list of whom one has found; who looks for more looks at each.
        positions_at: byte offset of the positions in the order of the cells.
        lists_at: byte offset of the lists.
        list_bytes: size of such a list.
        carried: state fields that are sorted with the agents, since they may be observed of the nearest.
        vicinity_bytes: shared memory of a warp for positions around its agents.
        size: bytes.
    """

    candidates: int = 0
    most_cells: int = 0
    agents_per_cell: float = 1.0
    longest_list: int = 0
    positions_at: int = 0
    lists_at: int = 0
    list_bytes: int = 0
    carried: tuple[str, ...] = ()
    vicinity_bytes: int = 0
    size: int = 0


def search_memory(environment: Environment, *, staged: bool, observes: bool = False) -> SearchMemory:
    """What the lanes of a team need on a GPU, in shared memory if staged.

    Warps that search write the observations of their agents as well where state is not staged, if ``observes``.
    """
    agents, neighbors = environment.num_agents, environment.neighbors()
    if neighbors == 0:
        return SearchMemory()
    candidates = min(align(agents, 16), MOST_CANDIDATES)
    gathered_bytes = candidates_bytes(candidates, agents) + 2 * align(agents, 2) + 64
    entries = min(neighbors, LONGEST_LIST) + 1
    list_bytes = align(_index_bytes(agents) * entries, 4)
    most_cells, agents_per_cell, positions_at, cells_bytes = 0, 1.0, 0, 0
    carried: tuple[str, ...] = ()
    vicinity = 0
    if agents > MOST_CANDIDATES:
        most_cells, agents_per_cell = _cells(agents, max(neighbors, 5) / 10)
        positions_at = align(4 * (8 + most_cells + 4) + (2 * agents if staged else 0), 4 * RECORD_WORDS)
        cells_bytes = positions_at + (8 if staged else 4 * RECORD_WORDS) * (agents + LOOKED_AT_ONCE - 1)
        if not staged:
            fields = [field for field in environment.state_fields() if field.per == "agent" and not field.scratch]
            carried = tuple(field.name for field in fields if field.shape == ())[: MOST_CARRIED if observes else 0]
            vicinity = vicinity_bytes(min(neighbors, LONGEST_LIST))
    lists_at = align(max(gathered_bytes, cells_bytes), 16)
    return SearchMemory(
        candidates=candidates,
        most_cells=most_cells,
        agents_per_cell=agents_per_cell,
        longest_list=LONGEST_LIST,
        positions_at=positions_at,
        lists_at=lists_at,
        list_bytes=list_bytes,
        carried=carried,
        vicinity_bytes=vicinity,
        size=align(lists_at + agents * max(list_bytes, 8 if most_cells else 0), 16),  # those in cells, and their ranks
    )


def cpu_search_memory(environment: Environment) -> SearchMemory:
    """What a thread needs."""
    agents, neighbors = environment.num_agents, environment.neighbors()
    if neighbors == 0 or agents <= MOST_CPU_CANDIDATES:
        return SearchMemory()
    most_cells, agents_per_cell = _cells(agents, max(neighbors, 3) / 2.5)  # five around one hold twice as many
    room = agents + align(neighbors + 4, 16) + 16  # as in cuda_src/engine/search_nearby.cuh
    return SearchMemory(
        candidates=MOST_CPU_CANDIDATES,
        most_cells=most_cells,
        agents_per_cell=agents_per_cell,
        size=4 * (most_cells + 1 + 5 * room),
    )


def _cells(agents: int, agents_per_cell: float) -> tuple[int, float]:
    """Most cells for so many agents, and how many a cell is to hold."""
    return math.ceil(agents / agents_per_cell) + 1, agents_per_cell


def candidates_bytes(candidates: int, agents: int) -> int:
    """Shared memory for some candidates of so many agents; see ``bytes`` in cuda_src/engine/candidates_cuda.cuh."""
    places = 4 * 32 + 1 if candidates <= 112 else 6 * 33 + 1
    return align(16 * candidates + (8 + _index_bytes(agents)) * places, 16)


def looking_bytes(agents: int) -> int:
    """Shared memory of a warp that looks for neighbours in cells; see ``bytes`` in search_in_rows_cuda.cuh."""
    return 32 * (4 * 3 + _index_bytes(agents) * (2 * 8 + 32))


def vicinity_bytes(neighbors: int) -> int:
    """Shared memory of a warp for positions around its agents; see ``bytes`` in vicinity_cuda.cuh."""
    of_row = LOOKED_AT_ONCE * -(-neighbors // 10)
    return 8 * (3 * of_row + 128 + of_row)


def _index_bytes(agents: int) -> int:
    return 2 if agents < 0xFFFF else 4


def align(size: int, to: int) -> int:
    """The size up to the next multiple."""
    return -(-size // to) * to
