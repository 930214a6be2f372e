"""Where training shows how it goes: a CSV file, TensorBoard, Weights & Biases and a progress bar."""

from __future__ import annotations

import csv
import importlib
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, Self, TextIO

import torch
from torch import Tensor
from tqdm import tqdm

from gpu_marl_envs.errors import BackendUnavailableError
from gpu_marl_envs.training.checkpoints import replacing

CSV_NAME = "metrics.csv"
WANDB_ID_NAME = "wandb_id.txt"


class Metrics:
    """Writes one row of metrics per iteration.

    Args:
        folder: gets ``metrics.csv`` and TensorBoard's events; none writes no files.
        total_steps: agent-steps that the progress bar calls complete.
        progress: whether to show a progress bar on stderr.
        wandb: the Weights & Biases project to log to; none logs nowhere.
        config: what Weights & Biases shows as the run's configuration.
        agent_steps: steps of the run that were taken already; files are continued from there.

    Attributes:
        history: all rows so far.

    Raises:
        BackendUnavailableError: ``wandb`` is not installed.
    """

    def __init__(
        self,
        folder: Path | None,
        total_steps: int,
        progress: bool,
        *,
        wandb: str | None = None,
        config: dict[str, Any] | None = None,
        agent_steps: int = 0,
    ) -> None:
        self.history: list[dict[str, float]] = []
        self._writers: list[_Writer] = []
        if wandb is not None:
            self._writers.append(_WeightsAndBiases(wandb, folder, config or {}, agent_steps))
        if folder is not None:
            self._writers += [_Csv(folder, agent_steps), _TensorBoard(folder, agent_steps)]
        self._returns: dict[str, str] = {}
        self._bar = tqdm(
            total=total_steps,
            initial=agent_steps,
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


class _Writer(Protocol):
    def write(self, row: dict[str, float], known: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class _Csv:
    """``metrics.csv``, with a column for every key so far; a run that continues drops the rows after its checkpoint."""

    def __init__(self, folder: Path, agent_steps: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / CSV_NAME
        self._columns: list[str] = []
        self._file: TextIO | None = None  # none before the first row, so that a run that cannot start changes nothing
        if agent_steps and self._path.exists():
            with self._path.open(newline="") as file:
                reader = csv.DictReader(file)
                # A kill may have cut the last row short; it is newer than the checkpoint, like all rows in doubt.
                rows = [row for row in reader if None not in row.values() and _steps(row) <= agent_steps]
                columns = list(reader.fieldnames or ())
            self._start(columns, rows)

    def _start(self, columns: list[str], rows: list[dict[str, str]]) -> None:
        with replacing(self._path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            if columns:
                writer.writeheader()
                writer.writerows(rows)
        self._columns = columns
        self._file = self._path.open("a", newline="")

    def write(self, row: dict[str, float], known: dict[str, float]) -> None:
        if new := [key for key in row if key not in self._columns]:
            rows: list[dict[str, str]] = []
            if self._file is not None:
                self._file.close()
                with self._path.open(newline="") as file:
                    rows = list(csv.DictReader(file))
            self._start(self._columns + new, rows)
        assert self._file is not None
        writer = csv.DictWriter(self._file, self._columns)
        writer.writerow({key: f"{value:.9g}" for key, value in known.items()})
        self._file.flush()  # so that a run that is killed leaves its metrics

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _steps(row: dict[str, str]) -> float:
    try:
        return float(row["agent_steps"])
    except (KeyError, ValueError):
        return math.inf


class _TensorBoard:
    """TensorBoard's event files, over agent-steps."""

    def __init__(self, folder: Path, agent_steps: int) -> None:
        # Importing TensorBoard takes a second, which a run without files need not wait for.
        from torch.utils.tensorboard import SummaryWriter

        self._events = SummaryWriter(str(folder), purge_step=agent_steps + 1 if agent_steps else None)

    def write(self, row: dict[str, float], known: dict[str, float]) -> None:
        for key, value in known.items():
            self._events.add_scalar(key, value, int(row["agent_steps"]))

    def close(self) -> None:
        self._events.close()


class _WeightsAndBiases:
    """A run of https://wandb.ai, over agent-steps."""

    def __init__(self, project: str, folder: Path | None, config: dict[str, Any], agent_steps: int) -> None:
        try:
            wandb = importlib.import_module("wandb")
        except ImportError as error:
            raise BackendUnavailableError(
                f"Logging to Weights & Biases needs wandb, which cannot be imported ({error}); "
                "install it with: pip install 'gpu-marl-envs[wandb]'"
            ) from None
        if folder is None:
            self._run = wandb.init(project=project, config=config)
            return
        folder.mkdir(parents=True, exist_ok=True)
        # A resumed run finds itself by the id that it was given when it began.
        note = folder / WANDB_ID_NAME
        known = note.read_text() if agent_steps and note.exists() else None
        self._run = wandb.init(project=project, name=folder.name, dir=folder, config=config, id=known, resume="allow")
        note.write_text(self._run.id)

    def write(self, row: dict[str, float], known: dict[str, float]) -> None:
        self._run.log(known, step=int(row["agent_steps"]))

    def close(self) -> None:
        self._run.finish()


class Readback:
    """Hands numbers from the device to the host without keeping the device waiting.

    On a GPU the numbers of one iteration are read while the next one runs, and the host never runs further ahead. On a
    CPU they are there at once.

    Args:
        device: where the numbers come from.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pending: tuple[Tensor, torch.cuda.Event, Callable[[list[float]], None]] | None = None

    def submit(self, numbers: Tensor, use: Callable[[list[float]], None]) -> None:
        """Calls ``use`` with the numbers: now, or during one of the next calls here.

        Args:
            numbers: float32 of one dimension.
            use: may raise, which then leaves through that call.
        """
        if self._device.type != "cuda":
            use(numbers.tolist())
            return
        host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
        host.copy_(numbers, non_blocking=True)
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        self.finish()
        self._pending = host, event, use

    def finish(self) -> None:
        """Waits for what was submitted last."""
        if self._pending is not None:
            (host, event, use), self._pending = self._pending, None
            event.synchronize()
            use(host.tolist())
