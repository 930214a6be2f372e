"""Names that a declaration may give, seen from C++ and from the Python interfaces that take or show them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from gpu_marl_envs.errors import DeclarationError
from gpu_marl_envs.spec import Environment, Parameter

# What the engine or C++ has taken: an environment's own would hide it, or be hidden.
_ENGINE = frozenset(
    """
    agents agents_leave num_agents num_groups alive reward terminated time each any count sum argmin add action
    continuous_action random common_random nearest each_observation reset step observe min max clip square abs sqrt
    floor round to_int wrap sin cos exp log tanh atan2 pi infinity bind visit_state group_of group_range
    observation_size observation_row observation_offset action_width action_count action_size action_slab action_index
    within_space episode seed is_over leave account forget_sums load_counters store_counters only_if any_active
    is_leader synchronize join each_staged_observation prepare neighbors gather load add_up tally those plays found_by
    rows_of_part is_candidate is_somewhere write_list sum_tree sum_parts least_of_warp
    search_in_cells searches_in_cells sort_into_cells list_nearest list_nearest_together list_in_cells
    use_memory most_of observe_in_cells longest_row arguments visit in_parts in_phase
    in_helped_phase is_own_phase counting each_chosen each_in_cells parts_of others_at_once
    wait_for_cluster loaded_at_once prefetch_ends is_task_of_warps has_stage
    side_by_side zeroed_words raise_to sum_up_to sum_of_warps is_current_phase clear_words each_own each_of_mine
    allowed masks_actions any_masks most_choices write_masks lost for_each_of
    fresh_words fresh_scratch for_warps sum_of_warp
    """.split()
)
# What layouts keep beside the state fields, by name as well.
_MEMORY = frozenset({"actions", "lists", "positions", "scratch", "search", "words"})
_CPP = frozenset(
    """
    alignas alignof and asm auto bool break case catch char class const constexpr continue default delete do double
    else enum explicit export extern false float for friend goto if inline int long mutable namespace new not operator
    or private protected public register return short signed sizeof static struct switch template this throw true try
    typedef typeid typename union unsigned using virtual void volatile while xor
    """.split()
)
_TYPES = frozenset(
    """
    Arguments Autoreset Bfloat16 ByGroup Candidates CellGrid CellLayout CellShape CellSorter Cells Declared
    DeviceCopy Environment Episode FixedRange Float16 Geometry HostCopy Math MostOf Nearest NeighborIndex
    Observation ObservationRow Pair PhiloxBlock Pool Random Range Record Rows Rules Search SearchAlone SearchDone
    SearchInCells SearchInRows SearchLoaded SearchMemory SearchNearby Searcher Team TeamCopy TeamLanes
    """.split()
)
# Arguments of make_batched and of the PettingZoo constructors, which take parameters by name beside them.
_OPTIONS = frozenset("env_id num_envs device seed autoreset_mode check_actions max_cycles render_mode".split())
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_]*")
_STATE = frozenset("key step episode save restore fields".split())  # attributes of env.state


def enum_name(parameter: Parameter) -> str:
    """The C++ type of a parameter with choices: ``Start`` for ``start``."""
    return "".join(part.capitalize() for part in parameter.name.split("_"))


def check_names(environment: Environment) -> None:
    """Refuses names that cannot work.

    Raises:
        DeclarationError: a parameter, group, state field or choice needs another name.
    """
    owner = environment.id
    parameters, fields = environment.parameters(), environment.state_fields()
    names = [p.name for p in parameters] + [f.name for f in fields] + [g.name for g in environment.agent_groups]
    for name in names:
        _refuse(owner, name, _ENGINE | _CPP, "a name of the engine or of C++")
        if names.count(name) > 1:
            raise DeclarationError(f"{owner}: {name!r} is used twice; rename it in the declaration.")
        if not _NAME.fullmatch(name):
            raise DeclarationError(f"{owner}: {name!r} must be letters, digits and underscores, a letter first.")
    for parameter in parameters:
        options = _OPTIONS - {environment.truncate_after}  # PettingZoo's max_cycles is this parameter
        _refuse(owner, parameter.name, options, "an argument of the functions that make environments")
        _refuse(owner, parameter.name, vars(Environment), "an attribute of every declaration")
        if parameter.choices:
            _check_choices(environment, parameter)
    for field in fields:
        _refuse(owner, field.name, _STATE, "an attribute of every state")
        _refuse(owner, field.name, _MEMORY, "a part of a copy's memory")


def _check_choices(environment: Environment, parameter: Parameter) -> None:
    if enum_name(parameter) in _TYPES | {type(environment).__name__}:
        raise DeclarationError(f"{environment.id}: {parameter.name!r} is a name of the engine; rename it.")
    for choice in parameter.choices:
        if not _NAME.fullmatch(choice) or choice in _CPP:
            raise DeclarationError(
                f"{environment.id}: the choice {choice!r} of {parameter.name} cannot be a name in C++; "
                "use letters, digits and underscores, and no word of C++."
            )


def _refuse(owner: str, name: str, taken: Iterable[str], why: str) -> None:
    if name in taken:
        raise DeclarationError(f"{owner}: {name!r} is {why}; rename it in the declaration.")
