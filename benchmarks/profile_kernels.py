"""What bounds the step kernel of each workload, by the counters of Nsight Compute.

    python benchmarks/profile_kernels.py --json benchmarks/results/profile_gpu.json
    python benchmarks/profile_kernels.py --only "tag_continuous nearest*played"

Each case plays on to its state as in simulation.py, then one step is profiled with the GPU's clocks left alone. It
takes NVIDIA's `ncu` and permission to read the counters.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from cases import GPU_CASES, Case, matching

from gpu_marl_envs import make_batched
from gpu_marl_envs.benchmarking import compile_ahead, draw_actions, play_on, provenance

COUNTERS = {
    "microseconds": "gpu__time_duration.sum",
    "warp_instructions": "smsp__inst_executed.sum",
    "threads_per_instruction": "smsp__thread_inst_executed_per_inst_executed.ratio",
    "issue_slots_percent": "smsp__issue_active.avg.pct_of_peak_sustained_active",
    "occupancy_percent": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "dram_bytes_read": "dram__bytes_read.sum",
    "dram_bytes_written": "dram__bytes_write.sum",
    "dram_percent": "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "l2_hit_percent": "lts__t_sector_hit_rate.pct",
    "l1_hit_percent": "l1tex__t_sector_hit_rate.pct",
    "bank_conflicts": "l1tex__data_bank_conflicts_pipe_lsu.sum",
    "registers_per_thread": "launch__registers_per_thread",
    "threads_per_block": "launch__block_size",
    "blocks": "launch__grid_size",
    "shared_bytes_per_block": "launch__shared_mem_per_block",
}
STALLS: tuple[str, ...] = (
    "long_scoreboard",
    "short_scoreboard",
    "barrier",
    "membar",
    "wait",
    "lg_throttle",
    "mio_throttle",
)
STALLS += ("math_pipe_throttle", "branch_resolve", "no_instruction", "not_selected", "imc_miss", "drain", "sleeping")
STALL_COUNTER = "smsp__average_warps_issue_stalled_{}_per_issue_active.ratio"
SATURATED = 60.0  # percent of its peak from which a unit is what bounds a kernel
SEED = 0
SECONDS_TO_PLAY = 5.0  # at most


def main() -> int:
    """Profiles every case that was asked for, prints a line for each and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", metavar="PATTERN", default="*played", help="cases of simulation.py (default: *played)"
    )
    parser.add_argument("--json", type=Path, help="file to write the results to")
    parser.add_argument("--step", metavar="CASE", help=argparse.SUPPRESS)  # what runs under ncu
    arguments = parser.parse_args()
    if arguments.step is not None:
        _profiled_step(next(case for case in GPU_CASES if case.name == arguments.step))
        return 0
    ncu = shutil.which("ncu")
    if ncu is None:
        sys.exit("There is no ncu on PATH; install NVIDIA Nsight Compute, or add its folder to PATH.")
    if not torch.cuda.is_available():
        sys.exit("Kernels are profiled on a GPU, and torch sees none.")
    cases = matching(GPU_CASES, arguments.only)
    if not cases:
        sys.exit(f"No case matches {arguments.only!r}; simulation.py prints the names.")
    compile_ahead([(case.env_id, case.num_envs, case.options) for case in cases], "cuda")
    rows = []
    for case in cases:
        rows.append(
            {"case": case.name, "env_id": case.env_id, "num_envs": case.num_envs, "num_agents": case.num_agents}
        )
        rows[-1] |= summary(counted(ncu, case.name), case.num_envs * case.num_agents)
        print(line(rows[-1]), flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps({"provenance": provenance(), "results": rows}, indent=2) + "\n")
    return 0


def counted(ncu: str, case: str) -> dict[str, float]:
    """The counters of one step of a case by their names; those that this version of ncu does not know are left out."""
    wanted = [*COUNTERS.values(), *(STALL_COUNTER.format(stall) for stall in STALLS)]
    while True:
        command = [ncu, "--clock-control", "none", "--profile-from-start", "off", "--print-units", "base"]
        command += ["--kernel-name", "regex:gpu_marl_step", "--metrics", ",".join(wanted)]
        command += [sys.executable, __file__, "--step", case]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"LC_ALL": "C"})
        printed = done.stdout + done.stderr
        unknown = [
            name for name in re.findall(r"(?:find|unknown) metrics? (?:regex:)?(\S+)", printed) if name in wanted
        ]
        if not unknown:
            break
        wanted = [name for name in wanted if name not in unknown]
    found = parsed(printed)
    if COUNTERS["microseconds"] not in found:
        errors = [text for text in printed.splitlines() if "==ERROR==" in text or "Error" in text]
        why = errors[0].strip() if errors else printed.strip()[-300:]
        sys.exit(f"ncu could not read the counters of {case}: {why}")
    return found


def parsed(printed: str) -> dict[str, float]:
    """The values in ncu's tables of metrics: name, unit if there is one, value.

    A step may take several kernels: sums are added up, other values are means over their time, or the largest where
    they say how a kernel is launched.
    """
    rows = re.compile(r"^\s+(\w+__[\w.]+)\s+(?:\S+\s+)?([\d,]+(?:\.\d+)?)\s*$", re.MULTILINE)
    kernels = [
        {name: float(value.replace(",", "")) for name, value in rows.findall(table)}
        for table in printed.split("Command line profiler metrics")[1:]
    ]
    time = COUNTERS["microseconds"]

    def of_step(name: str) -> float:
        known = [kernel for kernel in kernels if name in kernel]  # some are undefined where a kernel does little
        if name.endswith(".sum"):
            return sum(kernel[name] for kernel in known)
        if name.startswith("launch__"):
            return max(kernel[name] for kernel in known)
        return sum(kernel[name] * kernel[time] for kernel in known) / sum(kernel[time] for kernel in known)

    return {name: of_step(name) for name in dict.fromkeys(name for kernel in kernels for name in kernel)}


def summary(counters: Mapping[str, float], agents: int) -> dict[str, Any]:
    """The counters under plain names, with what follows from them.

    Args:
        counters: by ncu's names, in base units.
        agents: that the step moved, over all copies.
    """
    found: dict[str, Any] = {name: counters[metric] for name, metric in COUNTERS.items() if metric in counters}
    found["microseconds"] /= 1e3
    found["warp_instructions_per_32_agents"] = 32 * found["warp_instructions"] / agents
    found["dram_bytes_per_agent"] = (found["dram_bytes_read"] + found["dram_bytes_written"]) / agents
    stalls = {stall: counters[name] for stall in STALLS if (name := STALL_COUNTER.format(stall)) in counters}
    found["stalled_warps_per_issue"] = dict(sorted(stalls.items(), key=lambda item: -item[1]))
    found["bound_by"] = _bound(found)
    return found


def line(row: Mapping[str, Any]) -> str:
    """What the screen shows of one row."""
    main_stalls = ", ".join(f"{name} {value:.1f}" for name, value in list(row["stalled_warps_per_issue"].items())[:3])
    return (
        f"{row['case']}: {row['microseconds']:.1f} µs, bound by {row['bound_by']}; "
        f"{row['warp_instructions_per_32_agents']:.0f} instructions per 32 agents "
        f"({row['threads_per_instruction']:.0f} threads active), issue slots {row['issue_slots_percent']:.0f} %, "
        f"DRAM {row['dram_percent']:.0f} % ({row['dram_bytes_per_agent']:.0f} B per agent), "
        f"L2 hits {_percent(row, 'l2_hit_percent')}, L1 hits {_percent(row, 'l1_hit_percent')}, "
        f"occupancy {row['occupancy_percent']:.0f} %, {row['registers_per_thread']:.0f} registers, "
        f"{row['shared_bytes_per_block']:.0f} B shared; stalls: {main_stalls}"
    )


def _percent(row: Mapping[str, Any], name: str) -> str:
    return f"{row[name]:.0f} %" if name in row else "unknown"


def _bound(found: Mapping[str, Any]) -> str:
    """What is closest to its peak, or what warps wait for if nothing is near it."""
    busy = {"memory": found["dram_percent"], "instructions": found["issue_slots_percent"]}
    most = max(busy, key=lambda name: busy[name])
    if busy[most] >= SATURATED or not found["stalled_warps_per_issue"]:
        return most
    return f"latency ({next(iter(found['stalled_warps_per_issue'])).replace('_', ' ')})"


def _profiled_step(case: Case) -> None:
    """Plays a case on to its state, and takes one step between the profiler's marks."""
    env = make_batched(case.env_id, case.num_envs, "cuda", SEED, check_actions=False, **case.options)
    with torch.cuda.stream(env.stream):
        actions = draw_actions(env, SEED)
        play_on(env, actions, case.state, SEED, SECONDS_TO_PLAY)
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStart()
        env.step(actions[0])
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStop()


if __name__ == "__main__":
    sys.exit(main())
