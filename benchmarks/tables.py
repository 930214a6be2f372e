"""Writes the tables of the README and of the pages in docs/ from the committed results, so that figures cannot drift.

    python benchmarks/tables.py

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->`; NAME is one of the functions below.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from learning import KNOWN_RESULTS, episode_return

from gpu_marl_envs import registry
from gpu_marl_envs.benchmarking import with_unit
from gpu_marl_envs.training.evaluate import Estimate

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", *(ROOT / "docs" / f"{page}.md" for page in ("performance", "training", "learning")))
OBSERVED = {"partial": "partial observation", "nearest": "10 nearest observed", "full": "everything observed"}
# End to end on an NVIDIA H200, by the name of the workload in benchmarks/training.py, with as many copies, but for the
# first, with 2,000 of which WarpDrive crashes.
PEERS_IN_TRAINING = {
    "tag_continuous 10 + 100, A2C, 2 x 256": ("WarpDrive 2.7.1 with 100 copies", 4.8e6),
    "tag_gridworld 10 + 1, A2C, 2 x 32": ("WarpDrive 2.7.1", 29e6),
    "simple_spread, PPO 4 x 4, 2 x 64": ("JaxMARL 0.2", 71e6),
}
PRECISIONS = {"float32", "TF32", "bfloat16"}  # end the names of workloads
NOTHING = "–"

Row = dict[str, Any]


def simulation() -> str:
    """Every workload on a GPU in all its states, with the share of the limit."""
    rows = []
    for label, group in _workloads("simulation_gpu"):
        states = {_state(row): row for row in group}
        played = states.get("long-played", {})
        rows.append(
            [
                *label,
                f"{group[0]['bytes_per_agent_step']:.0f}" if "bytes_per_agent_step" in group[0] else NOTHING,
                *(_speed_and_share(states.get(state, {})) for state in ("fresh", "long-played", "everybody stays")),
                f"{played['microseconds_per_step']:,.1f}" if "microseconds_per_step" in played else NOTHING,
            ]
        )
    header = ["environment", "copies × agents", "bytes per agent-step", "fresh", "long-played"]
    table = _table([*header, "long-played, everybody stays", "µs per step, long-played"], rows)
    return table + _card("simulation_gpu")


def overview() -> str:
    """The long-played state of every workload on a GPU, beside WarpDrive's on an H200."""
    peers = {_key(row): row for row in _results("peers_h200") if row["system"] == "WarpDrive"}
    rows = []
    for label, group in _workloads("simulation_gpu"):
        for row in group:
            if _state(row) == "long-played" and "agent_steps_per_second" in row:
                peer = peers.get(_key(row))
                share = f"{100 * row['fraction_of_limit']:.0f} %"
                rows.append(
                    [*label, with_unit(row["agent_steps_per_second"]), share, _peer_speed(peer) if peer else ""]
                )
    table = _table(["environment", "copies × agents", "gpu_marl_envs", "of the limit", "WarpDrive 2.7.1, H200"], rows)
    return table + _card("simulation_gpu")


def cpu() -> str:
    """Every workload on the CPU in the long-played state."""
    rows = []
    for label, group in _workloads("simulation_cpu"):
        played = [row for row in group if _state(row) == "long-played" and "agent_steps_per_second" in row]
        rows += [[*label, with_unit(row["agent_steps_per_second"])] for row in played]
    return _table(["environment", "copies × agents", "agent-steps per second"], rows) + _note("simulation_cpu")


def yardstick() -> str:
    """Our CPU build against the plain C loop."""
    rows = []
    for row in _results("yardstick"):
        seen = OBSERVED["full" if row["full_observation"] else "partial"]
        speeds = with_unit(row["ours"]), with_unit(row["plain"])
        size = f"{row['num_envs']:,} × {row['num_agents']}"
        rows.append([f"tag_gridworld, {seen}", size, str(row["threads"]), *speeds, f"{row['ratio']:.2f}"])
    header = ["environment", "copies × agents", "threads", "CPU build", "plain C", "ratio"]
    return _table(header, rows)


def sweep() -> str:
    """The plot of the sweep."""
    if not (RESULTS / "sweep_gpu.png").exists():
        return "No plot is committed yet: `python benchmarks/simulation.py --sweep` draws it."
    return (
        "![Throughput against copies and against agents, and the limit of the memory]"
        "(../benchmarks/results/sweep_gpu.png)"
    )


def peers() -> str:
    """What others reach, beside ours."""
    ours = {_key(row): row for row in _results("simulation_gpu") if _state(row) == "long-played"}
    rows = []
    for row in _results("peers_h200"):
        own = ours.get(_key(row), {}).get("agent_steps_per_second")
        theirs = row["agent_steps_per_second"]
        ratio = _times(own / theirs) if own and theirs else NOTHING
        name = f"{row['system']} {row['version']}".strip()
        workload = f"{row['workload']}, {row['num_envs']:,} × {row['num_agents']:,}"
        rows.append([name, workload, _peer_speed(row), with_unit(own) if own else NOTHING, ratio])
    header = ["system", "workload, copies × agents", "agent-steps/s", "gpu_marl_envs", "ratio"]
    return _table(header, rows) + _card("simulation_gpu")


def profile() -> str:
    """What bounds each kernel."""
    rows = [
        [
            row["case"],
            f"{row['microseconds']:,.1f}",
            row["bound_by"],
            f"{row['warp_instructions_per_32_agents']:,.0f}",
            f"{row['issue_slots_percent']:.0f} %",
            f"{row['dram_bytes_per_agent']:,.0f}",
            f"{row['dram_percent']:.0f} %",
            f"{row['occupancy_percent']:.0f} %",
            f"{row['registers_per_thread']:.0f}",
            f"{row['shared_bytes_per_block']:,.0f}",
        ]
        for row in _results("profile_gpu")
    ]
    if not rows:
        return "No counters are committed yet: `python benchmarks/profile_kernels.py` reads them."
    header = [
        "workload",
        "µs",
        "bound by",
        "instructions of a warp per 32 agents",
        "issue slots",
        "DRAM bytes per agent",
    ]
    return _table([*header, "DRAM", "occupancy", "registers", "shared bytes of a block"], rows) + _card("profile_gpu")


def pettingzoo() -> str:
    """Ours against the originals in Python."""
    rows = []
    for row in _results("pettingzoo_speed"):
        ours = "one, through PettingZoo" if row["copies"] == 1 else f"{row['copies']:,}, batched"
        speeds = (with_unit(row[name]) for name in ("steps_per_second", "original_steps_per_second"))
        rows.append([row["env_id"], ours, f"`{row['original']}`", *speeds, _times(row["ratio"])])
    header = ["environment", "copies", "original, one copy", "environment steps per second", "the original's", "ratio"]
    return _table(header, rows) + _note("pettingzoo_speed")


def learning() -> str:
    """What the recipes of training come to, beside what is known."""
    rows = []
    by_recipe: dict[str, list[Row]] = {}
    for row in _results("learning"):
        by_recipe.setdefault(row["recipe"], []).append(row)
    for name, runs in by_recipe.items():
        known, link = KNOWN_RESULTS[name], f"[`{name}.yaml`](../examples/recipes/{name}.yaml)"
        needed = "more than random" if known.score is None else f"≥ {known.score:g}"
        for group in runs[0]["curve"]:
            trained, random = ([episode_return(run, group, player) for run in runs] for player in ("trained", "random"))
            least = min(trained, key=lambda estimate: estimate.mean)
            label = f"{runs[0]['env_id']}, {group}" if known.score is None else runs[0]["env_id"]
            steps, seconds = (max(run[key] for run in runs) for key in ("agent_steps", "seconds"))
            cells = [label, link, f"{steps / 1e6:.1f} M", f"{seconds:.0f} s, {runs[0]['device']}", needed]
            reached, by_chance = (f"{statistics.mean(r.mean for r in of):.3g}" for of in (trained, random))
            rows.append([*cells, reached, str(least), by_chance, known.source])
    header = ["environment", "recipe", "agent-steps", "time", "to reach", "reached", "least of all seeds", "random"]
    return _table([*header, "known"], rows) + _note("learning")


def cross_play() -> str:
    """Returns of trained and random opponents in every mix, of the first seed."""
    rows = []
    for run in _results("learning"):
        if KNOWN_RESULTS[run["recipe"]].score is not None or run["seed"] != 0:
            continue
        groups = list(run["curve"])
        for entry in run["scores"]:
            players = " against ".join(f"{entry['players'][group]} {group}" for group in groups)
            returns = "; ".join(f"{group} {Estimate(**entry['returns'][group])}" for group in groups)
            rows.append([f"`{run['recipe']}`", players, returns])
    return _table(["recipe", "who plays", "return of an episode"], rows)


def training() -> str:
    """How fast training is, and where the time of an iteration goes."""
    rows = []
    for row in _results("training_gpu"):
        cells = [row["name"], f"{row['num_envs']:,} × {row['num_agents']}", with_unit(row["agent_steps_per_second"])]
        parts = row["fractions"]
        shown = ("of it inference", "of it sampling", "of it step", "of it GAE", "values, advantages and update")
        cells += [f"{1e3 * row['seconds_per_iteration']:.1f}", *(f"{100 * parts[part]:.0f} %" for part in shown)]
        workload, _, precision = row["name"].rpartition(", ")
        peer = PEERS_IN_TRAINING.get(workload if precision in PRECISIONS else row["name"])
        rows.append([*cells, f"{peer[0]}: {with_unit(peer[1])}" if peer else NOTHING])
    header = ["workload", "copies × agents", "agent-steps/s", "ms per iteration", "inference", "sampling", "step"]
    table = _table([*header, "GAE", "values, GAE and update", "others, H200"], rows)
    drawing = _file("training_gpu").get("sampling")
    if drawing:
        ours, torchs = drawing["ours"], drawing["torch.multinomial"]
        table += (
            f"\n\nA million draws from 21 choices with their log-probabilities take {1e6 * ours:.0f} µs; with torch's "
        )
        table += f"functions they take {_times(torchs / ours)} as long."
    return table + _card("training_gpu")


def agreement() -> str:
    """How many steps of both devices were compared."""
    rows = _results("agreement_gpu")
    steps, resets = (sum(row[key] for row in rows) for key in ("environment_steps", "resets"))
    names = {row["env_id"] for row in rows}
    agents = [row["num_agents"] for row in rows]
    return (
        f"{steps:,} environment steps of {len(names)} environments, with {min(agents)} to {max(agents):,} agents and\n"
        f"{resets:,} resets, without a difference.{_card('agreement_gpu')}"
    )


_ALL = (
    simulation,
    overview,
    cpu,
    yardstick,
    sweep,
    peers,
    profile,
    pettingzoo,
    learning,
    cross_play,
    training,
    agreement,
)
TABLES: dict[str, Callable[[], str]] = {table.__name__: table for table in _ALL}


def rendered(page: str) -> str:
    """A page with all its tables written anew.

    Raises:
        KeyError: it names a table that there is not.
    """
    marks = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
    return marks.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}\n{match[3]}", page)


def _results(name: str) -> list[Row]:
    return _file(name).get("results", [])


def _file(name: str) -> dict[str, Any]:
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else {}


def _card(name: str) -> str:
    """Where results come from, as a paragraph, and what the file says about itself."""
    found = _file(name).get("provenance", {})
    if "gpu" not in found:
        return _note(name)
    bandwidth = f" ({found['copy_bandwidth'] / 1e12:.2f} TB/s)" if "copy_bandwidth" in found else ""
    versions = f"PyTorch {found['torch']}, CUDA {found['cuda']}, commit {found['commit'][:8]}"
    return f"\n\nOne {found['gpu']}{bandwidth}, {versions}.{_note(name)}"


def _note(name: str) -> str:
    """What the file of results says about itself, as a paragraph."""
    file = _file(name)
    note = file.get("note") or file.get("provenance", {}).get("note")
    return f"\n\n{note}" if note else ""


def _workloads(name: str) -> list[tuple[list[str], list[Row]]]:
    """The rows of each workload, under its name and its size; a name that repeats is left empty."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in _results(name):
        if "num_agents" in row:  # what was left out has no figures
            groups.setdefault(_key(row), []).append(row)
    labelled, before = [], ""
    for (env_id, observed, num_envs, num_agents), rows in groups.items():
        declaration = registry.get(env_id).make(**rows[0]["params"])
        floats = declaration.agent_groups[0].observation_size
        name = f"{env_id.rpartition('-')[0]}, {OBSERVED[observed]} ({floats:,} floats)"
        labelled.append((["" if name == before else name, f"{num_envs:,} × {num_agents:,}"], rows))
        before = name
    return labelled


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in ("env_id", "observed", "num_envs", "num_agents"))


def _state(row: Row) -> str:
    if row.get("everybody_stays"):
        return "everybody stays"
    return {"fresh": "fresh", "played": "long-played"}.get(row.get("state", ""), "")


def _speed_and_share(row: Row) -> str:
    if "agent_steps_per_second" not in row:
        return NOTHING
    return f"{with_unit(row['agent_steps_per_second'])} ({100 * row['fraction_of_limit']:.0f} %)"


def _peer_speed(row: Row) -> str:
    speed = row["agent_steps_per_second"]
    return with_unit(speed) if speed else row["note"]


def _times(ratio: float) -> str:
    return f"{ratio:,.0f} ×" if ratio >= 10 else f"{ratio:.1f} ×"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    """Writes the pages that change."""
    for page in PAGES:
        before = page.read_text()
        after = rendered(before)
        if after != before:
            page.write_text(after)
            print(f"{page.relative_to(ROOT)}: written")


if __name__ == "__main__":
    main()
