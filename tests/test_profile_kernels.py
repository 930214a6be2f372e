"""Reading Nsight Compute's counters: from what it prints to what a table shows."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parents[1]
PRINTED = """\
==PROF== Connected to process 812
==PROF== Profiling "gpu_marl_step": 0%....50%....100% - 3 passes
[812] python3@127.0.0.1
  gpu_marl_step(Arguments) (41667, 1, 1)x(128, 1, 1), Context 1, Stream 13, Device 0, CC 9.0
    Section: Command line profiler metrics
    ---------------------------------------------------------------- ----------- ------------
    Metric Name                                                      Metric Unit Metric Value
    ---------------------------------------------------------------- ----------- ------------
    dram__bytes_read.sum                                                    byte  120,000,000
    dram__bytes_write.sum                                                   byte  155,000,000
    dram__throughput.avg.pct_of_peak_sustained_elapsed                         %        35.20
    gpu__time_duration.sum                                                    ns      129,024
    l1tex__data_bank_conflicts_pipe_lsu.sum                                             1,234
    l1tex__t_sector_hit_rate.pct                                               %        12.50
    launch__block_size                                                                    128
    launch__grid_size                                                                  41,667
    launch__registers_per_thread                                 register/thread           32
    launch__shared_mem_per_block                                      byte/block        6,784
    lts__t_sector_hit_rate.pct                                                 %        51.00
    sm__warps_active.avg.pct_of_peak_sustained_active                          %        80.12
    smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio        inst         0.75
    smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio inst        4.50
    smsp__inst_executed.sum                                                 inst   87,500,000
    smsp__issue_active.avg.pct_of_peak_sustained_active                        %        59.00
    smsp__thread_inst_executed_per_inst_executed.ratio                                  27.30
    ---------------------------------------------------------------- ----------- ------------
"""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("profile_kernels")
    for name in ("profile_kernels", "cases"):
        del sys.modules[name]


def test_kernels_of_a_step_are_taken_together(script: ModuleType) -> None:
    shorter = PRINTED.replace("129,024", "43,008").replace("35.20", "75.20").replace("41,667", "100")
    found = script.parsed(PRINTED + shorter)
    assert found["gpu__time_duration.sum"] == pytest.approx(172_032)
    assert found["smsp__inst_executed.sum"] == pytest.approx(175_000_000)
    assert found["dram__throughput.avg.pct_of_peak_sustained_elapsed"] == pytest.approx(45.2)  # by time
    assert found["launch__grid_size"] == 41_667


def test_counters_are_read_and_summed_up(script: ModuleType) -> None:
    found = script.summary(script.parsed(PRINTED), agents=5_000_000)
    assert found["microseconds"] == pytest.approx(129.024)
    assert found["warp_instructions_per_32_agents"] == pytest.approx(560)
    assert found["dram_bytes_per_agent"] == pytest.approx(55)
    assert (found["blocks"], found["threads_per_block"], found["registers_per_thread"]) == (41_667, 128, 32)
    assert found["shared_bytes_per_block"] == 6784
    assert list(found["stalled_warps_per_issue"].items()) == [("long_scoreboard", 4.5), ("barrier", 0.75)]
    assert found["bound_by"] == "latency (long scoreboard)"
    assert "560 instructions per 32 agents" in script.line({"case": "one", **found})


@pytest.mark.parametrize(("dram", "issue", "bound"), [("91.0", "59.0", "memory"), ("35.2", "71.0", "instructions")])
def test_what_is_saturated_bounds_a_kernel(script: ModuleType, dram: str, issue: str, bound: str) -> None:
    printed = PRINTED.replace("  35.20", f"  {dram}").replace("  59.00", f"  {issue}")
    assert script.summary(script.parsed(printed), agents=1)["bound_by"] == bound


def test_counters_that_ncu_does_not_know_are_left_out(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ncu(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command[command.index("--metrics") + 1])
        gone = "l1tex__t_sector_hit_rate.pct"
        refusal = f"==ERROR== Failed to find metric {gone}\n"
        return subprocess.CompletedProcess(command, 0, refusal if gone in asked[-1] else PRINTED, "")

    monkeypatch.setattr(subprocess, "run", ncu)
    found = script.counted("ncu", "any")
    assert found["gpu__time_duration.sum"] == 129_024
    del found["l1tex__t_sector_hit_rate.pct"]
    assert "L1 hits unknown" in script.line({"case": "one", **script.summary(found, agents=5)})
    assert [len(metrics.split(",")) for metrics in asked] == [29, 28]


def test_what_ncu_complains_about_is_one_sentence(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access the counters.\nmore\n"
    done = subprocess.CompletedProcess([], 1, refusal, "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    with pytest.raises(SystemExit, match=r"^ncu could not read the counters of any: .*ERR_NVGPUCTRPERM[^\n]*$"):
        script.counted("ncu", "any")


@pytest.mark.parametrize(("path", "sentence"), [(None, "There is no ncu on PATH"), ("/bin/ncu", "torch sees none")])
def test_without_ncu_or_gpu_it_says_so(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, path: str | None, sentence: str
) -> None:
    monkeypatch.setattr(script.shutil, "which", lambda _: path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["profile_kernels.py"])
    with pytest.raises(SystemExit, match=sentence):
        script.main()
