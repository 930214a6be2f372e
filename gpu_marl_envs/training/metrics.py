"""Where training shows how it goes: TensorBoard events, a CSV file and a progress bar."""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path
from typing import Self

from tqdm import tqdm


class Metrics:
    """Writes one row of metrics per iteration.

    Args:
        folder: gets ``metrics.csv`` and TensorBoard's events; none writes no files.
        total_steps: agent-steps that the progress bar calls complete.
        progress: whether to show a progress bar on stderr.

    Attributes:
        history: all rows so far.
    """

    def __init__(self, folder: Path | None, total_steps: int, progress: bool) -> None:
        self.history: list[dict[str, float]] = []
        self._writers: list[_Csv | _TensorBoard] = [] if folder is None else [_Csv(folder), _TensorBoard(folder)]
        self._returns: dict[str, str] = {}
        self._bar = tqdm(
            total=total_steps,
            unit=" agent-steps",
            unit_scale=True,
            dynamic_ncols=True,
            disable=not progress,
            mininterval=0.5 if sys.stderr.isatty() else 10.0,  # a log would keep every state of the bar
        )

    def write(self, row: dict[str, float]) -> None:
        """Adds a row, which has ``iteration`` and ``agent_steps`` among its keys; NaN stands for "not known"."""
        self.history.append(row)
        known = {key: value for key, value in row.items() if not math.isnan(value)}
        for writer in self._writers:
            writer.write(row, known)
        for key, value in known.items():
            group, _, quantity = key.partition("/")
            if quantity == "episode_return":
                self._returns[f"{group} return"] = f"{value:.3g}"
        self._bar.set_postfix(self._returns, refresh=False)
        steps = int(row["agent_steps"])
        self._bar.total = max(self._bar.total, steps)
        self._bar.update(steps - self._bar.n)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
        for writer in self._writers:
            writer.close()


class _Csv:
    """``metrics.csv``, with the columns of the first row."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / "metrics.csv").open("w", newline="")
        self._rows: csv.DictWriter[str] | None = None

    def write(self, row: dict[str, float], known: dict[str, float]) -> None:
        if self._rows is None:
            self._rows = csv.DictWriter(self._file, fieldnames=list(row), extrasaction="ignore")
            self._rows.writeheader()
        self._rows.writerow({key: f"{value:.9g}" for key, value in known.items()})
        self._file.flush()  # so that a run that is killed leaves its metrics

    def close(self) -> None:
        self._file.close()


class _TensorBoard:
    """TensorBoard's event files, over agent-steps."""

    def __init__(self, folder: Path) -> None:
        # Importing TensorBoard takes a second, which a run without files need not wait for.
        from torch.utils.tensorboard import SummaryWriter

        self._events = SummaryWriter(str(folder))

    def write(self, row: dict[str, float], known: dict[str, float]) -> None:
        for key, value in known.items():
            self._events.add_scalar(key, value, int(row["agent_steps"]))

    def close(self) -> None:
        self._events.close()
