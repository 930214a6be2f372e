"""Where training shows how it goes: TensorBoard events, a CSV file and a progress bar."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from types import TracebackType
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
        self._file = self._rows = self._events = None
        if folder is not None:
            # Importing TensorBoard takes a second, which a run without files need not wait for.
            from torch.utils.tensorboard import SummaryWriter

            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / "metrics.csv").open("w", newline="")
            self._events = SummaryWriter(str(folder))
        self._bar = tqdm(
            total=total_steps, unit=" agent-steps", unit_scale=True, disable=not progress, dynamic_ncols=True
        )

    def write(self, row: dict[str, float]) -> None:
        """Adds a row; every row has the same keys, among them ``agent_steps``. NaN stands for "not known"."""
        self.history.append(row)
        if self._file is not None and self._events is not None:
            if self._rows is None:
                self._rows = csv.DictWriter(self._file, fieldnames=list(row))
                self._rows.writeheader()
            self._rows.writerow({key: "" if math.isnan(value) else f"{value:.7g}" for key, value in row.items()})
            self._file.flush()
            for key, value in row.items():
                if not math.isnan(value):
                    self._events.add_scalar(key, value, int(row["agent_steps"]))
            if key.endswith("/episode_return") and not math.isnan(value):
                self._returns[key.partition("/")[0]] = f"{value:.3g}"
        self._bar.set_postfix(self._returns, refresh=False)
        self._bar.update(int(row["agent_steps"]) - self._bar.n)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._file is not None and self._events is not None:
            self._file.close()
            self._events.close()
