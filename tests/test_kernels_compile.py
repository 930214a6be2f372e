"""Every kernel compiles for CUDA, without a GPU, and spills nothing where that was promised."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from environments.corridor import Corridor
from environments.probe import Probe
from environments.seekers import Seekers
from gymnasium.vector import AutoresetMode

from gpu_marl_envs import registry
from gpu_marl_envs.backends import cuda
from gpu_marl_envs.backends import layout as layouts
from gpu_marl_envs.backends.functions import functions_for
from gpu_marl_envs.backends.source import translation_unit
from gpu_marl_envs.errors import BackendUnavailableError, DeclarationError
from gpu_marl_envs.sources import sources_folder
from gpu_marl_envs.spec import Environment

SHARED_LIMITS = {"sm_80": 163 * 1024, "sm_90": 227 * 1024}
CROWDS: dict[str, list[dict[str, Any]]] = {
    "tag_gridworld-v0": [{"num_taggers": 200}, {"num_taggers": 20_000, "use_full_observation": False}],
    "tag_continuous-v0": [
        {"num_taggers": 10, "num_runners": 100, "use_full_observation": False, "num_other_agents_observed": 10},
        {"num_taggers": 1000, "num_runners": 19_000, "use_full_observation": False},
    ],
    "pursuit-v5": [
        {"n_pursuers": 40, "n_evaders": 70},
        {"n_pursuers": 60, "n_evaders": 90, "x_size": 200, "y_size": 170},
    ],
    "simple_formation-v1": [{"N": 60}],
    "simple_spread-v3": [{"N": 60}],
    "corridor-v0": [{"num_walkers": 60}],
    "probe-v0": [{"num_many": 60}, {"num_many": 200, "neighbors_observed": 70}],
    "seekers-v0": [{"num_hiders": 5000}],
}


def _has_nvcc() -> bool:
    try:
        cuda._nvcc()
    except BackendUnavailableError:
        return False
    return True


needs_nvcc = pytest.mark.skipif(not _has_nvcc(), reason="there is no nvcc on this machine")


# Older cards differ in the engine alone, every part of which those with crowds use.
@needs_nvcc
@pytest.mark.parametrize(
    ("declaration", "architecture"),
    [
        pytest.param(declaration, architecture, id=f"{declaration.id}-{architecture}")
        for declaration in [*map(registry.get, registry.ids()), Probe, Corridor, Seekers]
        for architecture in SHARED_LIMITS
        if architecture == "sm_90" or declaration.id in CROWDS
    ],
)
def test_kernels_compile(declaration: type[Environment], architecture: str) -> None:
    for params in [{}, *CROWDS.get(declaration.id, [])]:
        environment = declaration.make(**params)
        # How episodes begin again is the engine's part, all of which the probe uses.
        for mode in AutoresetMode if declaration is Probe and not params else [AutoresetMode.SAME_STEP]:
            for num_envs in (1, 1_000_000) if not params else [1]:
                limit = SHARED_LIMITS[architecture]
                layout, binary = cuda.compile_kernels(environment, mode, architecture, limit, num_envs)
                assert binary.read_bytes()[:4] == b"\x7fELF"
                assert layout.shared_bytes <= limit


@needs_nvcc
@pytest.mark.parametrize("architecture", SHARED_LIMITS)
def test_kernels_of_training_compile(architecture: str) -> None:
    assert cuda.compile_functions(sources_folder() / "training", architecture).read_bytes()[:4] == b"\x7fELF"


@needs_nvcc
def test_python_knows_how_cuda_lays_out_the_arguments_of_training(tmp_path: Path) -> None:
    checks = [
        f'static_assert({measured} == {expected}, "");'
        for name, struct in functions_for("training", torch.device("cpu")).structs.items()
        for measured, expected in [(f"sizeof({name})", ctypes.sizeof(struct))]
        + [(f"offsetof({name}, {field})", getattr(struct, field).offset) for field, _ in struct._fields_]
    ]
    source = tmp_path / "checks.cu"
    source.write_text("\n".join(['#include "training/functions_cuda.cuh"', *checks]))
    command = [cuda._nvcc(), *cuda._FLAGS, "-arch=sm_90", f"-I{sources_folder()}", str(source)]
    done = subprocess.run([*command, "-o", str(tmp_path / "checks.cubin")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(checks) > 50


@needs_nvcc
def test_kernels_of_training_keep_everything_in_registers(tmp_path: Path) -> None:
    file = sources_folder() / "training" / "functions_cuda.cuh"
    command = [cuda._nvcc(), "-x", "cu", *cuda._FLAGS, "-arch=sm_90", "-Xptxas", "-v", f"-I{sources_folder()}"]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "functions.cubin"), str(file)], capture_output=True, text=True, check=True
    )
    frames = [line for line in (done.stdout + done.stderr).splitlines() if "stack frame" in line]
    assert len(frames) == 6
    assert all("0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in line for line in frames)


@needs_nvcc
@pytest.mark.parametrize("params", [{"num_taggers": 4}, {"num_taggers": 12, "use_full_observation": False}])
def test_a_block_of_one_warp_compiles(monkeypatch: pytest.MonkeyPatch, params: dict[str, Any]) -> None:
    monkeypatch.setattr(layouts, "MOST_PACKED_AGENTS", 0)
    environment = registry.get("tag_gridworld-v0").make(**params)
    layout, _ = cuda.compile_kernels(environment, AutoresetMode.SAME_STEP, "sm_90", SHARED_LIMITS["sm_90"], num_envs=1)
    assert layout.warps == 1


@needs_nvcc
@pytest.mark.parametrize(
    ("obs_dtype", "params", "num_envs"),
    [
        (torch.float16, {}, 1),
        (torch.bfloat16, {}, 1_000_000),
        *((torch.bfloat16, crowd, 1) for crowd in CROWDS[Probe.id]),
    ],
)
def test_kernels_with_rounded_observations_compile(
    obs_dtype: torch.dtype, params: dict[str, Any], num_envs: int
) -> None:
    environment, mode = Probe.make(**params), AutoresetMode.SAME_STEP
    cuda.compile_kernels(environment, mode, "sm_90", SHARED_LIMITS["sm_90"], num_envs, obs_dtype)


@needs_nvcc
def test_the_step_of_a_crowd_spills_nothing(tmp_path: Path) -> None:
    environment = registry.get("tag_continuous-v0").make(**CROWDS["tag_continuous-v0"][0])
    _assert_step_spills_nothing(environment, 20_000, tmp_path)


@needs_nvcc
@pytest.mark.parametrize("grouped", [False, True])
def test_large_copies_have_a_kernel_for_each_phase_or_some(monkeypatch: pytest.MonkeyPatch, grouped: bool) -> None:
    if not grouped:
        monkeypatch.setattr(layouts, "MOST_GROUPED_AGENTS", 0)
    environment = registry.get("tag_gridworld-v0").make(num_taggers=30_000, use_full_observation=False)
    layout, binary = cuda.compile_kernels(environment, AutoresetMode.SAME_STEP, "sm_90", SHARED_LIMITS["sm_90"], 20)
    assert layout.phased and layout.grouped == grouped
    ends = {operation: launches[-1].end for operation, launches in layout.phases.items()}
    assert ends["step"] > ends["reset"] > ends["observe"] > 1
    for operation, launches in layout.phases.items():
        assert len(launches) == (1 if grouped else ends[operation])
        names = [name for name, _ in cuda._kernels(operation, layout)]
        assert len(names) == len(launches) and all(name.encode() in binary.read_bytes() for name in names)
        assert f"gpu_marl_{operation}_{ends[operation]}".encode() not in binary.read_bytes()


@needs_nvcc
def test_a_kernel_for_a_phase_leaves_nothing_as_a_call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(layouts, "FEWEST_PHASED_AGENTS", 0)
    environment = Probe.make(num_many=4000, neighbors_observed=12)
    layout = cuda.cuda_layout(environment, SHARED_LIMITS["sm_90"], 2)
    assert layout.phased
    phases = dict.fromkeys(("step", "reset", "observe"), (layouts.Phases(1, 2),))
    phases["step"] += (layouts.Phases(7, 8, 64, 6),)
    source, target = tmp_path / "kernels.cu", tmp_path / "kernels.ptx"
    source.write_text(translation_unit(environment, replace(layout, phases=phases), AutoresetMode.SAME_STEP, cuda=True))
    command = [*cuda._command("sm_90", ".ptx"), f"-I{sources_folder()}", "-o", str(target), str(source)]
    subprocess.run(command, capture_output=True, check=True)
    assembler = target.read_text()
    assert len(re.findall(r"^\.visible \.entry\b", assembler, re.MULTILINE)) == 4
    assert re.search(r"^\s*(\.func|call)\b", assembler, re.MULTILINE) is None
    assert assembler.count("\n") < 20_000  # one that holds the whole step takes more


@needs_nvcc
@pytest.mark.parametrize(("taggers", "parts"), [(24, [0, 32, 0, 32, 0]), (100, [0, 128, 0, 32, 0, 32, 0])])
def test_runners_look_at_few_taggers_alone_and_for_many_in_parts(
    monkeypatch: pytest.MonkeyPatch, taggers: int, parts: list[int]
) -> None:
    monkeypatch.setattr(layouts, "FEWEST_PHASED_AGENTS", 0)
    environment = registry.get("tag_continuous-v0").make(
        num_taggers=taggers, num_runners=3400, use_full_observation=False, num_other_agents_observed=10
    )
    layout, _ = cuda.compile_kernels(environment, AutoresetMode.SAME_STEP, "sm_90", SHARED_LIMITS["sm_90"], 3)
    assert layout.grouped and [phases.part for phases in layout.phases["step"]] == parts


def test_searches_stand_between_groups_of_phases() -> None:
    phases = tuple(layouts.Phases(p, p + 1, part) for p, part in enumerate((0, 0, 32, 0, 64, 32, 0)))
    expected = [(0, 2, 0), (2, 3, 32), (3, 4, 0), (4, 5, 64), (5, 6, 32), (6, 7, 0)]
    assert cuda._grouped({"step": phases}) == {"step": tuple(layouts.Phases(*numbers) for numbers in expected)}


@needs_nvcc
def test_loops_whose_number_is_not_known_cannot_be_launches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment = registry.get("tag_gridworld-v0").make(num_taggers=30_000, use_full_observation=False)
    kernel = tmp_path / "tag_gridworld.cuh"
    text = environment.kernel().read_text()
    kernel.write_text(
        text.replace("const int prey", "for (int k = 0; k < time; ++k) each(agents, [](int) {});\n const int prey", 1)
    )
    monkeypatch.setattr(type(environment), "kernel", classmethod(lambda cls: kernel))
    with pytest.raises(DeclarationError, match="static parameters"):
        cuda.compile_kernels(environment, AutoresetMode.SAME_STEP, "sm_90", SHARED_LIMITS["sm_90"], 100)


def test_phases_are_counted_where_they_are_constants() -> None:
    entry = ".entry gpu_marl_{0}(\n mov.u32 %r1, {1};\n mov.u32 %r2, {2};\n // {0} has %r1 phases, %r2 words\n"
    code = "".join(entry.format(operation, 5, 9) for operation in ("step", "reset", "observe"))
    single = tuple(layouts.Phases(phase, phase + 1) for phase in range(5))
    assert cuda._find_phases(code, "some-v0") == dict.fromkeys(("step", "reset", "observe"), single)
    searching = code.replace(
        "mov.u32 %r2", "mov.u32 %r3, 3;\n mov.u32 %r4, 6;\n // searches in %r3, parts of 32, left in %r4\n mov.u32 %r2"
    )
    found = cuda._find_phases(searching, "some-v0")["step"]
    assert found == (*single[:3], layouts.Phases(3, 4, 32, 6), single[4])
    other = "mov.u32 %r5, 14;\n // searches in %r3, parts of 32, left in %r5\n mov.u32 %r2"
    assert cuda._find_phases(searching.replace("mov.u32 %r2", other), "some-v0")["step"] == single  # not in one word
    playing_too = searching.replace(" mov.u32 %r2", " // plays in %r3\n mov.u32 %r2")
    assert cuda._find_phases(playing_too, "some-v0")["step"] == single
    assert cuda._searches_while_playing(playing_too) and not cuda._searches_while_playing(searching)
    used_again = playing_too.replace(" mov.u32 %r2", " ld.global.u32 %r3, [%rd1];\n mov.u32 %r2")
    assert cuda._find_phases(used_again, "some-v0")["step"] == single
    with pytest.raises(DeclarationError, match="some-v0 declares loop_by_loop, but how many"):
        cuda._find_phases(searching.replace("mov.u32 %r3, 3", "add.s32 %r3, %r3, 3"), "some-v0")
    with pytest.raises(DeclarationError, match="some-v0 declares loop_by_loop, but how many"):
        cuda._find_phases(searching.replace("mov.u32 %r4, 6", "add.s32 %r4, %r4, 6"), "some-v0")
    for changed in ("add.s32 %r1, %r1, 4;", "@%p1 mov.u32 %r1, 6;"):
        with pytest.raises(DeclarationError, match="some-v0 declares loop_by_loop, but how many"):
            cuda._find_phases(code.replace("mov.u32 %r2", f"{changed}\n mov.u32 %r2"), "some-v0")
    with pytest.raises(DeclarationError, match="leave 900 words"):
        cuda._find_phases(code.replace(", 9;", ", 900;"), "some-v0")


@needs_nvcc
@pytest.mark.parametrize("num_envs", [2_000, 1_000_000])
@pytest.mark.parametrize("full", [False, True])
def test_the_gridworld_step_spills_nothing(tmp_path: Path, full: bool, num_envs: int) -> None:
    environment = registry.get("tag_gridworld-v0").make(num_taggers=4, use_full_observation=full)
    _assert_step_spills_nothing(environment, num_envs, tmp_path)


def _assert_step_spills_nothing(environment: Environment, num_envs: int, tmp_path: Path) -> None:
    layout = cuda.cuda_layout(environment, SHARED_LIMITS["sm_90"], num_envs)
    source = tmp_path / "kernels.cu"
    source.write_text(translation_unit(environment, layout, AutoresetMode.SAME_STEP, cuda=True))
    command = [cuda._nvcc(), *cuda._FLAGS, "-arch=sm_90", "-Xptxas", "-v", f"-I{sources_folder()}"]
    done = subprocess.run([*command, "-o", "/dev/null", str(source)], capture_output=True, text=True, check=True)
    report = done.stdout + done.stderr
    resources = report.split("gpu_marl_step")[1].split("ptxas info")[1]
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in report.split("gpu_marl_step")[-1], (
        resources
    )


def test_without_nvcc_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda._nvcc.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    try:
        with pytest.raises(BackendUnavailableError, match="install the CUDA toolkit"):
            cuda._nvcc()
    finally:
        cuda._nvcc.cache_clear()
