"""How fast environments step, in agent-steps per second and as a fraction of what the card's memory allows.

    python benchmarks/simulation.py --device cuda --json benchmarks/results/simulation_gpu.json
    python benchmarks/simulation.py --device cuda --sweep --json benchmarks/results/sweep_gpu.json
    python benchmarks/simulation.py --device cpu
    python benchmarks/simulation.py --only "tag_gridworld*1000000x5"

The table times fixed workloads. With --sweep, the number of copies varies at five agents each, then the number of
agents at a fixed total, and a plot is written beside the JSON. On a GPU the next step from every state that is timed is
compared with the CPU build first, bit for bit; a case that differs or does not compile is reported, has no speed, and
makes the exit code 1. A case that does not fit into memory is reported and left out.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

# Read when torch loads OpenMP, whose threads would otherwise spin on into the timed windows of the CPU build.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from cases import CPU_CASES, GPU_CASES, Case, continuous, gridworld, matching
from sweep_plot import plot

from gpu_marl_envs import make_batched
from gpu_marl_envs.benchmarking import compile_ahead, copy_bandwidth, measure, provenance
from gpu_marl_envs.errors import BackendUnavailableError, GpuMarlError, OutOfMemoryError

TABLE_SECONDS, SWEEP_SECONDS = 0.5, 0.25  # of timed windows for each case
SWEPT_COPIES = [1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000]
SWEPT_AGENTS = [2, 5, 10, 32, 100, 316, 1_000, 10_000, 100_000]
TOTAL_AGENTS = {"cuda": 1_000_000, "cpu": 20_000}  # of all copies, while the number of agents varies
MOST_AGENTS = {"cuda": 100_000, "cpu": 1_000}
FIVE_AGENTS = 5


def main() -> int:
    """Measures the table or the sweep of a device, prints a line for each case and writes the results."""
    arguments = _arguments()
    kind = arguments.device.partition(":")[0]
    cases = _swept(kind) if arguments.sweep else GPU_CASES if kind == "cuda" else CPU_CASES
    cases = matching(cases, arguments.only)
    if not cases:
        sys.exit(f"No case matches {arguments.only!r}; run without --only to see the names.")
    try:  # in this thread, before the others: it starts CUDA
        make_batched(cases[0].env_id, 1, arguments.device, **cases[0].options).close()
    except BackendUnavailableError as error:
        sys.exit(str(error))
    seconds = arguments.seconds or (SWEEP_SECONDS if arguments.sweep else TABLE_SECONDS)
    bandwidth = copy_bandwidth(arguments.device) if kind == "cuda" else None
    found = provenance() | ({} if bandwidth is None else {"copy_bandwidth": bandwidth})
    start = time.perf_counter()
    compile_ahead([(case.env_id, case.num_envs, case.options) for case in cases], arguments.device)
    print(f"compiled in {time.perf_counter() - start:.0f} s", flush=True)
    rows = []
    for case in cases:
        rows.append(_row(case, arguments.device, seconds, bandwidth))
        if arguments.json:  # after every case, so that an interrupted run leaves what it has
            arguments.json.write_text(json.dumps({"provenance": found, "results": rows}, indent=2) + "\n")
    print(f"{len(rows)} cases in {time.perf_counter() - start:.0f} s")
    if arguments.sweep:
        try:
            print(plot({"provenance": found, "results": rows}, arguments.plot or arguments.json.with_suffix(".png")))
        except BackendUnavailableError as error:
            print(error)
    return int(any("failed" in row for row in rows))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda or cuda:1")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    parser.add_argument("--only", metavar="PATTERN", help="only cases whose name contains this; * and ? stand for any")
    parser.add_argument("--seconds", type=float, help="of timed windows for each case")
    parser.add_argument("--sweep", action="store_true", help="vary the numbers of copies and of agents, and plot")
    parser.add_argument("--plot", type=Path, help="file for the plot of --sweep (default: beside the JSON)")
    arguments = parser.parse_args()
    if arguments.device.partition(":")[0] not in TOTAL_AGENTS:
        parser.error(f"--device is cpu, cuda or cuda:1, not {arguments.device}.")
    if arguments.sweep and not (arguments.json or arguments.plot):
        parser.error("--sweep needs --json FILE or --plot FILE to write to.")
    for file in filter(None, (arguments.json, arguments.plot)):
        if not file.parent.is_dir():
            parser.error(f"There is no folder {file.parent} to write {file.name} to; make it first.")
    return arguments


def _swept(kind: str) -> list[Case]:
    """The cases of the sweep, each in the long-played state."""
    copies = [n for n in SWEPT_COPIES if n * FIVE_AGENTS <= 5 * TOTAL_AGENTS[kind]]
    agents = [n for n in SWEPT_AGENTS if n <= MOST_AGENTS[kind]]
    cases = [replace(gridworld(n, FIVE_AGENTS)[1], sweep="copies") for n in copies]
    cases += [replace(continuous(n, FIVE_AGENTS, full=True)[1], sweep="copies") for n in copies]
    cases += [replace(gridworld(TOTAL_AGENTS[kind] // n, n)[1], sweep="agents") for n in agents]
    return cases + [replace(continuous(TOTAL_AGENTS[kind] // n, n)[1], sweep="agents") for n in agents]


def _row(case: Case, device: str, seconds: float, bandwidth: float | None) -> dict[str, Any]:
    """One line of the table; measures and prints it."""
    row: dict[str, Any] = {"case": case.name, "observed": case.observed, "everybody_stays": case.everybody_stays}
    row["sweep"] = case.sweep
    start = time.perf_counter()
    try:
        measured = measure(case.env_id, case.num_envs, device, state=case.state, seconds=seconds, **case.options)
    except (OutOfMemoryError, torch.OutOfMemoryError) as error:
        row["left_out"] = " ".join(str(error).split())
        said = f"left out: {row['left_out']}"
    except GpuMarlError as error:
        row["failed"] = str(error)
        said = f"FAILED: {error}"
    else:
        row |= measured.as_dict(bandwidth)
        said = measured.describe(bandwidth)
    print(f"{case.name:58s} {said} [{time.perf_counter() - start:.1f} s]", flush=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return row


if __name__ == "__main__":
    sys.exit(main())
