"""The plot of a sweep: throughput against copies and against agents, with the limit of the memory.

python benchmarks/sweep_plot.py benchmarks/results/sweep_gpu.json benchmarks/results/sweep_gpu.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from gpu_marl_envs.errors import BackendUnavailableError

PANELS = {
    "copies": ("num_envs", "copies of five agents"),
    "agents": ("num_agents", "agents of a copy, {total:,} in all"),
}
COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:red")


def plot(results: dict[str, Any], file: Path) -> Path:
    """Draws the rows of a sweep.

    Args:
        results: what ``simulation.py --sweep`` writes to JSON.
        file: the picture to write; its ending says the format.

    Returns:
        The file.

    Raises:
        BackendUnavailableError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendUnavailableError(
            f"A plot needs matplotlib ({error}); run `pip install 'gpu-marl-envs[examples]'`, then sweep_plot.py."
        ) from None
    rows = [row for row in results["results"] if "agent_steps_per_second" in row]
    bandwidth = results["provenance"].get("copy_bandwidth")
    figure = Figure(figsize=(11, 5), layout="constrained")
    for axes, (sweep, (column, label)) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
        of_panel = [row for row in rows if row["sweep"] == sweep]
        for color, (name, series) in zip(COLORS, _series(of_panel, column).items(), strict=False):
            x = [row[column] for row in series]
            axes.plot(x, [row["agent_steps_per_second"] for row in series], "o-", color=color, label=name)
            if bandwidth is not None:
                limit = [bandwidth / row["bytes_per_agent_step"] for row in series]
                axes.plot(x, limit, "--", color=color, label="limit of the memory")
        total = max((row["num_envs"] * row["num_agents"] for row in of_panel), default=0)
        axes.set(xscale="log", yscale="log", xlabel=label.format(total=total), ylabel="agent-steps per second")
        axes.grid(which="both", alpha=0.2)
        if of_panel:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, frameon=False)
    device = rows[0]["device"] if rows else "no device"
    figure.suptitle(f"{device}, random play with resets, commit {results['provenance']['commit'][:8]}")
    figure.savefig(file, dpi=150)
    return file


def _series(rows: list[dict[str, Any]], column: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row[column]):
        found.setdefault(f"{row['env_id']}, {row['observed']}", []).append(row)
    return found


def main() -> None:
    """Draws the plot of a JSON again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path, help="written by simulation.py --sweep")
    parser.add_argument("picture", type=Path, help="file to write")
    arguments = parser.parse_args()
    print(plot(json.loads(arguments.json.read_text()), arguments.picture))


if __name__ == "__main__":
    main()
