"""What the benchmarks measure: the arithmetic, the check that comes first, and the tables' cases."""

from __future__ import annotations

import importlib
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import gpu_marl_envs
from gpu_marl_envs import benchmarking, registry
from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.benchmark_checks import CHECKED_COPIES, BenchmarkError, check_against_cpu
from gpu_marl_envs.benchmarking import least_bytes_per_step, measure, with_unit
from gpu_marl_envs.errors import OutOfMemoryError, ParameterError

ROOT = Path(__file__).parents[1]
GRID: dict[str, Any] = {"num_taggers": 4, "use_full_observation": False, "autoreset_mode": "SAME_STEP"}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """The modules of the folder ``benchmarks`` by name, as a script there sees them."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    names = ("cases", "sweep_plot", "simulation")
    yield {name: importlib.import_module(name) for name in names}
    for name in names:
        del sys.modules[name]


# ---- one measurement ----


@pytest.mark.parametrize(("state", "before"), [("fresh", 0), ("played", 300)])
def test_a_measurement_is_consistent(state: str, before: int) -> None:
    found = measure("tag_gridworld-v0", 50, seconds=0.02, state=state, **GRID)
    assert found.num_agents == 5
    assert found.params["num_taggers"] == 4
    assert (found.state, found.steps_before) == (state, before)
    assert found.steps_per_window <= benchmarking.WINDOW_STEPS[state]
    per_step = statistics.median(found.window_seconds) / found.steps_per_window
    assert found.microseconds_per_step == pytest.approx(1e6 * per_step)
    assert found.env_steps_per_second == pytest.approx(50 / per_step)
    assert found.agent_steps_per_second == pytest.approx(250 / per_step)
    assert found.bytes_per_second == pytest.approx(found.bytes_per_agent_step * found.agent_steps_per_second)
    limited = found.as_dict(bandwidth=1e12)
    assert limited["fraction_of_limit"] == pytest.approx(found.bytes_per_second / 1e12)
    assert "of the limit" in found.describe(1e12)
    assert "of the limit" not in found.describe()


def test_slow_steps_are_fewer() -> None:
    params = {"num_taggers": 100, "num_runners": 900, "use_full_observation": False, "num_other_agents_observed": 10}
    found = measure("tag_continuous-v0", 40, seconds=0.01, **params)
    assert found.steps_before < 300
    assert found.steps_per_window < 100
    assert len(found.window_seconds) == benchmarking.FEWEST_WINDOWS


def test_an_unknown_state_is_refused() -> None:
    with pytest.raises(ParameterError, match="one of fresh, played; 'old' was given"):
        measure("tag_gridworld-v0", 1, state="old")


def test_the_least_bytes_of_the_gridworld() -> None:
    env = gpu_marl_envs.make_batched("tag_gridworld-v0", 3, **GRID)
    # Read and written: two coordinates of five agents, steps taken, returns of two groups. Written: flags of the copy
    # and of five agents, five rewards, five rows of six. Read: who is alive, five actions.
    expected = 8 * (2 * 5 + 1 + 2) + 2 + 5 + 4 * 5 + 4 * 5 * 6 + 5 + 4 * 5
    assert least_bytes_per_step(env, env.reset(), env.actions) == expected
    halved = {name: tensor.half() for name, tensor in env.observe().items()}
    assert least_bytes_per_step(env, halved, env.actions) == expected - 2 * 5 * 6


@pytest.mark.parametrize(
    ("value", "text"), [(2.104e9, "2.10 G"), (32.64e6, "32.6 M"), (712e3, "712 k"), (9.5, "9.5"), (0, "0")]
)
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert with_unit(value) == text


# ---- the checks before it ----


def _started(num_envs: int) -> tuple[BatchedEnv, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    env = gpu_marl_envs.make_batched("tag_gridworld-v0", num_envs, seed=3, **GRID)
    env.reset()
    actions = benchmarking.draw_actions(env, 0)
    benchmarking.take_steps(env, actions, 40)
    return env, env.state.save(), actions[0]


def test_the_timed_state_is_compared_with_the_cpu_build() -> None:
    env, start, action = _started(2000)
    checked = check_against_cpu(env, start, action, "tag_gridworld-v0", GRID)
    assert checked == CHECKED_COPIES
    assert bool((env.state.episode > start["episode"]).any())  # resets were among what was compared


@pytest.mark.parametrize(
    ("changed", "difference"),
    [({"wall_hit_penalty": 0.3}, "the reward of "), ({"grid_length": 11}, "the observation of ")],
)
def test_a_difference_from_the_cpu_build_has_no_speed(changed: dict[str, Any], difference: str) -> None:
    env, start, action = _started(100)
    with pytest.raises(BenchmarkError, match=f"tag_gridworld-v0: {difference}.* of copy .* nothing was timed"):
        check_against_cpu(env, start, action, "tag_gridworld-v0", GRID | changed)


def test_one_wrong_bit_of_the_last_copy_is_found() -> None:
    env, start, action = _started(5000)
    start = {name: tensor.clone() for name, tensor in start.items()}
    start["key"][-1] ^= 1  # the next reset of the copy draws other cells
    start["step"][-1] = env.declaration.max_steps - 1
    env.state.step[-1] = env.declaration.max_steps - 1
    with pytest.raises(BenchmarkError, match="copy 4999"):
        check_against_cpu(env, start, action, "tag_gridworld-v0", GRID)


def test_steps_that_are_not_counted_have_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    step = BatchedEnv.step

    def forgetful(self: BatchedEnv, actions: Any) -> Any:
        result = step(self, actions)
        self.state.step.zero_()
        return result

    monkeypatch.setattr(BatchedEnv, "step", forgetful)
    with pytest.raises(BenchmarkError, match="a step was not counted"):
        measure("tag_gridworld-v0", 5, seconds=0.01, **GRID)


def test_each_kernel_is_compiled_once_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, int, str, dict[str, Any]]] = []

    class Closed:
        def close(self) -> None:
            """Nothing to free."""

    def make(env_id: str, num_envs: int, device: str, **params: Any) -> Closed:
        made.append((env_id, num_envs, device, params))
        if params == {"num_taggers": 2}:
            raise OutOfMemoryError("raised again where it is used.")
        if params == {"num_taggers": 3}:
            raise RuntimeError("not an error of the user's")
        return Closed()

    monkeypatch.setattr(benchmarking, "make_batched", make)
    wanted = [("a-v0", copies, {"num_taggers": n}) for n, copies in ((1, 7), (2, 10**6), (1, 7), (2, 10**5))]
    benchmarking.compile_ahead(wanted, "cuda")
    expected = [("a-v0", 1, "cpu", {"num_taggers": n}) for n in (1, 2)]
    expected += [("a-v0", 7, "cuda", {"num_taggers": 1}), ("a-v0", 16_384, "cuda", {"num_taggers": 2})]
    assert sorted(made, key=repr) == sorted(expected, key=repr)
    with pytest.raises(RuntimeError, match="not an error of the user's"):
        benchmarking.compile_ahead([("a-v0", 1, {"num_taggers": 3})], "cpu")


# ---- the table and the sweep ----


def test_the_cases_can_be_made_and_have_names(scripts: dict[str, ModuleType]) -> None:
    cases = scripts["cases"]
    every = [*cases.GPU_CASES, *cases.CPU_CASES]
    for case in every:
        assert registry.get(case.env_id).make(**case.params).num_agents == case.num_agents
    names = [case.name for case in cases.GPU_CASES]
    assert len(set(names)) == len(names)
    assert "tag_continuous nearest 16x100000 played, all stay" in names
    only = cases.matching(every, "tag_gridworld*1000000x5 fresh")
    assert [case.name for case in only] == [
        "tag_gridworld partial 1000000x5 fresh",
        "tag_gridworld full 1000000x5 fresh",
    ]


def test_the_table(scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "table.json"
    words = ["simulation.py", "--device", "cpu", "--only", "tag_gridworld partial", "--seconds", "0.01"]
    monkeypatch.setattr(sys, "argv", [*words, "--json", str(out)])
    assert scripts["simulation"].main() == 0
    rows = json.loads(out.read_text())["results"]
    assert [row["state"] for row in rows] == ["fresh", "played"]
    assert all(row["agent_steps_per_second"] > 1e5 for row in rows)


def test_what_fails_is_said_and_the_rest_is_measured(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation = scripts["simulation"]
    errors: dict[int, Exception] = {
        1: OutOfMemoryError("1 copies do not fit."),
        3: BenchmarkError("the reward differs."),
        10: torch.OutOfMemoryError("CUDA out of memory."),
    }

    def sometimes(env_id: str, num_envs: int, *args: Any, **options: Any) -> benchmarking.Measurement:
        if num_envs in errors:
            raise errors[num_envs]
        return measure(env_id, num_envs, *args, **options)

    monkeypatch.setattr(simulation, "measure", sometimes)
    monkeypatch.setattr(simulation, "SWEPT_COPIES", [1, 3, 10, 30])
    monkeypatch.setattr(simulation, "SWEPT_AGENTS", [2, 20])
    monkeypatch.setitem(simulation.TOTAL_AGENTS, "cpu", 200)
    out = tmp_path / "sweep.json"
    words = ["simulation.py", "--device", "cpu", "--sweep", "--only", "tag_gridworld", "--seconds", "0.01"]
    monkeypatch.setattr(sys, "argv", [*words, "--json", str(out)])
    assert simulation.main() == 1
    printed = capsys.readouterr().out
    assert "left out: 1 copies do not fit." in printed
    assert "FAILED: the reward differs." in printed
    rows = json.loads(out.read_text())["results"]
    assert [row["sweep"] for row in rows] == ["copies"] * 4 + ["agents"] * 2
    assert ["agent_steps_per_second" in row for row in rows] == [False, False, False, True, True, False]
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


# ---- on a GPU ----


@pytest.mark.gpu
@pytest.mark.parametrize("state", benchmarking.STATES)
@pytest.mark.parametrize("cuda_graph", [True, False])
def test_a_gpu_is_checked_and_timed(state: str, cuda_graph: bool) -> None:
    found = measure("tag_gridworld-v0", 2000, "cuda", seconds=0.05, state=state, cuda_graph=cuda_graph, **GRID)
    assert found.checked_copies == CHECKED_COPIES
    assert found.cuda_graph == cuda_graph
    assert found.steps_per_window == benchmarking.WINDOW_STEPS[state]
    assert found.agent_steps_per_second > 1e8


@pytest.mark.gpu
def test_the_bandwidth_of_a_gpu_is_plausible() -> None:
    assert 1e11 < benchmarking.copy_bandwidth() < 2e13
