"""The C++ side of a declaration: the translation unit that a backend compiles, and the struct that a launch takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from gpu_marl_envs.backends.layout import RESIDENT_PHASED_WARPS, SHORTEST_IN_PIECES, Layout
from gpu_marl_envs.backends.names import check_names, enum_name
from gpu_marl_envs.spec import Environment, Field, Parameter

OPERATIONS = ("step", "reset", "observe")

_C_TYPES = {"float32": "float", "int32": "int"}
_OBSERVATIONS = {torch.float32: "float", torch.bfloat16: "Bfloat16", torch.float16: "Float16"}
_C_SCALARS: dict[type, str] = {int: "int", float: "float"}
_AUTORESET = {
    AutoresetMode.NEXT_STEP: "next_step",
    AutoresetMode.SAME_STEP: "same_step",
    AutoresetMode.DISABLED: "disabled",
}


def persistent_fields(environment: Environment) -> list[Field]:
    """The declared fields that outlive a step."""
    return [field for field in environment.state_fields() if not field.scratch]


def runtime_parameters(environment: Environment) -> list[Parameter]:
    """The parameters that a launch passes; the others are compiled in."""
    return [parameter for parameter in environment.parameters() if parameter.dynamics and not parameter.static]


def arguments_dtype(environment: Environment) -> np.dtype[np.void]:
    """The struct ``Arguments`` that every launch takes: addresses first, then 4-byte values, so that it has no gaps."""
    groups = (len(environment.agent_groups),)
    pointers = ["seed", "time", "alive", "group_return", "group_steps"]
    pointers += ["truncated", "done", "record", "mask", "workspace"]
    by_group = ["action", "observation", "final_observation", "reward", "terminated"]
    by_group += ["action_mask"] * environment.masks_actions
    columns: list[tuple[Any, ...]] = [(name, np.uint64) for name in pointers]
    columns += [(name, np.uint64, groups) for name in by_group]
    columns += [(f"state_{field.name}", np.uint64) for field in persistent_fields(environment)]
    columns += [
        ("num_envs", np.int64),
        ("max_steps", np.int32),
        ("reseed", np.int32),
        ("backwards", np.int32),
        ("aligned", np.int32),
        ("action_bytes", np.int32, groups),
    ]
    types = {int: np.int32, float: np.float32}
    columns += [(f"param_{p.name}", types[p.kind]) for p in runtime_parameters(environment)]
    return np.dtype(columns, align=True)


def translation_unit(
    environment: Environment,
    layout: Layout,
    autoreset: AutoresetMode,
    obs_dtype: torch.dtype = torch.float32,
    *,
    cuda: bool,
) -> str:
    """The source that a backend compiles: constants and structs of the declaration, the engine, the dynamics.

    Where phases are launches of their own, the source only counts the phases until the layout says how many there are.
    """
    check_names(environment)
    kernel = environment.kernel()
    rules = type(environment).__name__
    together = "phased" if layout.phased else "cuda"
    team = "sequential" if layout.lanes == 1 else "packed" if layout.packed else together
    is_cluster = layout.blocks > 1 and (layout.grouped or not layout.phased)
    search = "together" if team == together else "nearby" if layout.search.most_cells else "alone"
    kernels = "cpu" if not cuda else together if team == together else "warp"
    return "\n".join(
        [
            f"// Generated from the declaration of {environment.id}.",
            '#include "engine/half.cuh"',
            '#include "engine/range.cuh"',
            f"using Observation = {_OBSERVATIONS[obs_dtype]};",
            "enum class Autoreset;",
            f"#define CLUSTER {f'__cluster_dims__({layout.blocks}, 1, 1)' if is_cluster else ''}",
            _record_struct(environment),
            _arguments_struct(environment),
            _geometry_struct(environment, layout, autoreset),
            *(['#include "engine/field.cuh"'] if layout.search.carried else []),
            _declared_struct(environment, layout),
            f'#include "engine/team_{team}.cuh"',
            f'#include "engine/search_{search}.cuh"',
            '#include "engine/environment.cuh"',
            f'#include "{kernel}"',
            f"using Rules = {rules};",
            f'#include "engine/kernels_{kernels}.cuh"',
            *(_phases(layout) if layout.phased else []),
            "",
        ]
    )


def _phases(layout: Layout) -> list[str]:
    """The kernels of all phases, or of their count as long as that is unknown."""
    if not layout.phases:
        return [f"COUNT_PHASES({operation})" for operation in OPERATIONS]
    return [
        f"SEARCHING_PHASE({operation}, {phases.first}, {phases.part}, {phases.left})"
        if phases.part
        else f"PHASES({operation}, {phases.first}, {phases.end})"
        for operation, launches in layout.phases.items()
        for phases in launches
    ]


def record_words(environment: Environment) -> int:
    """Size of a copy's ``Record``, in words of four bytes."""
    return -(-(4 + 2 * len(environment.agent_groups)) // 4) * 4


def record_views(environment: Environment, records: torch.Tensor) -> dict[str, torch.Tensor]:
    """The members of all copies' ``Record``, as views of int32 ``[E, record_words]``."""
    groups = len(environment.agent_groups)
    sums = records[:, 4 : 4 + 2 * groups].view(torch.float32)
    return {
        "key": records[:, :2].view(torch.int64).squeeze(1),
        "episode": records[:, 2],
        "episode_return": sums[:, :groups],
        "episode_length": sums[:, groups:],
    }


def _record_struct(environment: Environment) -> str:
    groups = len(environment.agent_groups)
    lines = [
        "std::int64_t key;                // of the random numbers",
        "std::int32_t episode;            // number of this episode, -1 before the first",
        "std::int32_t unused;",
        f"float episode_return[{groups}];         // of the last finished episode, by group",
        f"float episode_length[{groups}];         // of the last finished episode, by group",
    ]
    about = "// What is needed when an episode ends, side by side: device memory is slow at finding many places."
    return f"{about}\n" + _struct("alignas(16) Record", lines)


def _arguments_struct(environment: Environment) -> str:
    size = f"[{len(environment.agent_groups)}]"
    lines = [
        "const std::int64_t* seed;        // [E]",
        "std::int32_t* time;              // [E] steps taken in this episode",
        "bool* alive;                     // [E, n]",
        "float* group_return;             // [E, groups] rewards of this episode so far",
        "std::int32_t* group_steps;       // [E, groups] steps of agents in this episode so far",
        "bool* truncated;                 // [E]",
        "bool* done;                      // [E]",
        "Record* record;                  // [E]",
        "const bool* mask;                // [E] copies to reset; null resets all",
        "unsigned char* workspace;        // [E, unit_bytes] where a copy does not fit into shared memory",
        f"const void* action{size};",
        f"Observation* observation{size};",
        f"Observation* final_observation{size};",
        f"float* reward{size};",
        f"bool* terminated{size};",
        *([f"bool* action_mask{size};"] if environment.masks_actions else []),
        *(f"{_C_TYPES[field.dtype]}* state_{field.name};" for field in persistent_fields(environment)),
        "std::int64_t num_envs;",
        "std::int32_t max_steps;",
        "std::int32_t reseed;             // whether a reset restarts the random numbers",
        "std::int32_t backwards;          // whether a GPU starts with the last copies",
        "std::int32_t aligned;            // whether all tensors start at a multiple of 16 bytes",
        f"std::int32_t action_bytes{size};",
        *(f"{_C_SCALARS[p.kind]} param_{p.name};" for p in runtime_parameters(environment)),
    ]
    return _struct("Arguments", lines)


def _geometry_struct(environment: Environment, layout: Layout, autoreset: AutoresetMode) -> str:
    numbers: dict[str, int | float] = {
        "num_agents": environment.num_agents,
        "lanes": layout.lanes,
        "copies": layout.copies,
        "warps": layout.warps,
        "threads": layout.threads,
        "blocks": layout.blocks,
        "resident_blocks": layout.resident_blocks,
        "searching_warps": layout.searching_warps,
        "searching_blocks": RESIDENT_PHASED_WARPS // layout.searching_warps,
        "unit_bytes": layout.unit_bytes,
        "row_lanes": layout.row_lanes,
        "stage_floats": layout.stage_floats,
        "warp_stage_floats": layout.warp_stage_floats,
        "shortest_in_pieces": SHORTEST_IN_PIECES,
        "scratch_words": layout.scratch_bytes // 4,
        "neighbors": environment.neighbors(),
        "candidates": layout.search.candidates,
        "most_cells": layout.search.most_cells,
        "agents_per_cell": layout.search.agents_per_cell,
        "longest_list": layout.search.longest_list,
        "positions_at": layout.search.positions_at,
        "lists_at": layout.search.lists_at,
        "carried": len(layout.search.carried),
        "vicinity_at": layout.vicinity_at,
        "vicinity_bytes": layout.search.vicinity_bytes,
        **{f"{name}_at": offset for name, offset in layout.offsets.items()},
    }
    switches = {
        "own_arrays": layout.own_arrays,
        "packed": layout.packed,
        "in_warps": layout.in_warps,
        "staged": layout.staged,
        "rows_staged": layout.rows_staged,
        "rows_collected": layout.rows_collected,
        "actions_staged": layout.actions_staged,
        "loads_record": layout.loads_record,
        "overlaps": layout.overlaps,
        "phased": layout.phased,
        "grouped": layout.grouped,
    }
    lines = [
        f"static constexpr {_C_SCALARS[type(value)]} {name} = {_literal(value)};" for name, value in numbers.items()
    ]
    lines += [f"static constexpr bool {name} = {_literal(value)};" for name, value in switches.items()]
    order = list(_AUTORESET.values()).index(_AUTORESET[autoreset])
    lines += [f"static constexpr Autoreset autoreset = static_cast<Autoreset>({order});  // {_AUTORESET[autoreset]}"]
    return _struct("Geometry", lines)


def _declared_struct(environment: Environment, layout: Layout) -> str:
    groups = environment.agent_groups
    firsts = [sum(group.size for group in groups[:g]) for g in range(len(groups))]
    lines = [
        f"static constexpr int num_agents = {environment.num_agents};",
        f"static constexpr int num_groups = {len(groups)};",
        f"static constexpr bool agents_leave = {_literal(environment.agents_leave)};",
        f"static constexpr bool any_masks = {_literal(environment.masks_actions)};",
        f"static constexpr FixedRange<0, {environment.num_agents}> agents{{}};",
        *(
            f"static constexpr FixedRange<{first}, {group.size}> {group.name}{{}};"
            for group, first in zip(groups, firsts, strict=True)
        ),
    ]
    for p in environment.parameters():
        if p.dynamics:
            lines += _parameter_member(p, getattr(environment, p.name))
    carried = layout.search.carried
    for field in environment.state_fields():
        c_type = _C_TYPES[field.dtype]
        kind = f"Field<{c_type}, {carried.index(field.name)}>" if field.name in carried else f"{c_type}*"
        lines.append(f"{kind} {field.name};  // {field.doc}")
    binds = [f"{p.name} = arguments.param_{p.name};" for p in runtime_parameters(environment)]
    lines.append("METHOD void bind(const Arguments& arguments) { (void)arguments; " + " ".join(binds) + " }")
    visits = []
    for field in environment.state_fields():
        c_type = _C_TYPES[field.dtype]
        address = f"static_cast<{c_type}*>(nullptr)" if field.scratch else f"arguments.state_{field.name}"
        length, persists = field.length(environment.num_agents), _literal(not field.scratch)
        array = f"{field.name}.array" if field.name in carried else field.name
        visits.append(f"visit({array}, {address}, Geometry::{field.name}_at, {length}, {persists});")
    lines.append("template <class Visit>")
    lines.append("METHOD void visit_state(const Arguments& arguments, Visit visit) { (void)arguments; (void)visit;")
    lines += visits
    lines.append("}")
    visits = [f"visit({name}, {k});" for k, name in enumerate(carried)]
    lines.append("template <class Visit>")
    lines.append("METHOD void visit_carried(Visit visit) { (void)visit; " + " ".join(visits) + " }")
    lines.append(_table("Range group_range", [f"Range{{{f}, {g.size}}}" for f, g in zip(firsts, groups, strict=True)]))
    lines.append(_table("int observation_size", [str(group.observation_size) for group in groups]))
    lines.append(_table("int action_width", [str(int(np.prod(group.action_shape))) for group in groups]))
    counts = [_nested_table("component", [str(n) for n in group.action_counts] or ["0"]) for group in groups]
    lines.append(_table("int action_count", counts, more="int component"))
    lines.append(_table("int most_choices", [str(max(group.action_counts, default=0)) for group in groups]))
    lines.append(_table("bool masks_actions", [_literal(group.action_mask) for group in groups]))
    of_group = " : ".join(
        f"i < {first + group.size} ? {g}" for g, (first, group) in enumerate(zip(firsts, groups, strict=True))
    )
    lines.append(f"METHOD static constexpr int group_of(int i) {{ return {of_group} : {len(groups) - 1}; }}")
    return _struct("Declared", lines)


def _parameter_member(parameter: Parameter, value: Any) -> list[str]:
    if not parameter.static:
        return [f"{_C_SCALARS[parameter.kind]} {parameter.name};"]
    if parameter.choices:
        enum = enum_name(parameter)
        members = ", ".join(parameter.choices)
        return [
            f"enum class {enum} {{ {members} }};",
            f"static constexpr {enum} {parameter.name} = {enum}::{value};",
        ]
    c_type = "bool" if parameter.kind is bool else _C_SCALARS[parameter.kind]
    return [f"static constexpr {c_type} {parameter.name} = {_literal(value)};"]


def _table(name: str, values: list[str], more: str = "") -> str:
    extra = f", {more}" if more else ""
    unused = f" (void){more.rsplit(maxsplit=1)[-1]};" if more else ""
    return f"METHOD static constexpr {name}(int g{extra}) {{ (void)g;{unused} return {_nested_table('g', values)}; }}"


def _nested_table(index: str, values: list[str]) -> str:
    if len(set(values)) == 1:
        return values[0]
    return "(" + "".join(f"{index} == {k} ? {value} : " for k, value in enumerate(values[:-1])) + f"{values[-1]})"


def _struct(name: str, lines: list[str]) -> str:
    body = "\n".join(f"  {line}" for line in lines)
    return f"struct {name} {{\n{body}\n}};"


def _literal(value: Any) -> str:
    if value is None:
        return "0"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{float(value)!r}f" if isinstance(value, float) else str(value)
