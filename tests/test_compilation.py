"""Compilers, their errors, and the cache of compiled code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from gymnasium.vector import AutoresetMode

from gpu_marl_envs import registry
from gpu_marl_envs.backends import compilation, cpu, cuda
from gpu_marl_envs.envs.tag_gridworld import TagGridworld
from gpu_marl_envs.errors import BackendUnavailableError, KernelCompileError

CPU = torch.device("cpu")
STEP = """
import gpu_marl_envs
env = gpu_marl_envs.make_batched("tag_gridworld-v0", 2, num_taggers=3)
env.reset()
env.step(env.actions)
print("stepped")
"""


@pytest.fixture
def compilers() -> Iterator[None]:
    """Forgets which compilers were found, before and after a test."""
    for found in (cpu._compiler, cpu._identity, cuda._nvcc):
        found.cache_clear()
    yield
    for found in (cpu._compiler, cpu._identity, cuda._nvcc):
        found.cache_clear()


@pytest.fixture
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder."""
    folder = tmp_path / "cache"
    monkeypatch.setenv(compilation.CACHE_VARIABLE, str(folder))
    compilation.cache_folder.cache_clear()
    yield folder
    compilation.cache_folder.cache_clear()


def _compiled(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.so"))


def _compile_for(backend: str) -> None:
    if backend == "cpu":
        cpu.CpuBackend(TagGridworld(), CPU, AutoresetMode.DISABLED, 1)
    else:
        cuda.compile_kernels(TagGridworld(), AutoresetMode.DISABLED, "sm_90", 227 * 1024)


@pytest.mark.usefixtures("compilers")
def test_without_a_compiler_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(cpu.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BackendUnavailableError, match=re.escape("gpu-marl-envs[compiler]")):
        cpu.CpuBackend(TagGridworld(), CPU, AutoresetMode.DISABLED, 1)


@pytest.mark.usefixtures("compilers")
def test_the_compiler_of_the_extra_serves_where_there_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(cpu.importlib.util, "find_spec", lambda _: object())
    assert cpu._compiler() == (sys.executable, "-m", "ziglang", "c++")


@pytest.mark.usefixtures("compilers")
def test_a_compiler_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O1")
    with pytest.raises(BackendUnavailableError, match="'no-such-compiler'"):
        cpu.CpuBackend(TagGridworld(), CPU, AutoresetMode.DISABLED, 1)


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_an_error_in_the_dynamics_names_file_and_line(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_folder: Path
) -> None:
    dynamics = registry.get("tag_gridworld-v0").kernel().read_text().splitlines()
    line = next(number for number, text in enumerate(dynamics, start=1) if "wall_hit_penalty" in text)
    dynamics[line - 1] = dynamics[line - 1].replace("wall_hit_penalty", "wall_hit_penality")
    broken = tmp_path / "broken.cuh"
    broken.write_text("\n".join(dynamics))
    monkeypatch.setattr(TagGridworld, "kernel", classmethod(lambda cls: broken))
    if backend == "cuda" and shutil.which("nvcc") is None:
        pytest.skip("there is no nvcc on this machine")
    with pytest.raises(KernelCompileError, match=rf"^{re.escape(str(broken))}:{line}: .*wall_hit_penality"):
        _compile_for(backend)
    assert not _compiled(cache_folder)


def test_what_was_compiled_is_found_again(cache_folder: Path) -> None:
    cpu.CpuBackend(TagGridworld(num_taggers=2), CPU, AutoresetMode.DISABLED, 1)
    (first,) = _compiled(cache_folder)
    before = first.stat()
    cpu.CpuBackend(TagGridworld(num_taggers=2, step_cost_for_tagger=0.5), CPU, AutoresetMode.DISABLED, 1)
    assert _compiled(cache_folder) == [first] and first.stat() == before
    cpu.CpuBackend(TagGridworld(num_taggers=3), CPU, AutoresetMode.DISABLED, 1)
    assert len(_compiled(cache_folder)) == 2


def test_several_processes_may_compile_at_once(tmp_path: Path) -> None:
    environment = os.environ | {compilation.CACHE_VARIABLE: str(tmp_path / "cache")}
    command = [sys.executable, "-c", STEP]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [process.communicate(timeout=120)[0] for process in running] == ["stepped\n"] * 4
    assert len(_compiled(tmp_path / "cache")) == 1
    assert not list((tmp_path / "cache").glob("compile-*"))


def test_a_process_that_is_killed_leaves_nothing_broken(tmp_path: Path) -> None:
    environment = os.environ | {compilation.CACHE_VARIABLE: str(tmp_path / "cache")}
    command = [sys.executable, "-c", STEP]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    while not list((tmp_path / "cache").glob("compile-*")) and process.poll() is None:
        pass  # it starts to compile
    process.kill()
    process.wait()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "stepped\n"


def test_a_cache_folder_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    environment = os.environ | {compilation.CACHE_VARIABLE: str(tmp_path / "file" / "cache"), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", STEP], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "stepped\n"
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "the process's own folder is gone with it"


def test_a_changed_header_beside_the_dynamics_compiles_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_folder: Path
) -> None:
    kernel, header = tmp_path / "with_header.cuh", tmp_path / "rules.h"
    (tmp_path / "more.h").write_text('#pragma once\n#include "rules.h"\n')  # headers may include each other
    start = '#pragma once\n#include "more.h"\n'
    header.write_text(start + "constexpr int widest = 1;\n")
    kernel.write_text('#include "rules.h"\n' + registry.get("tag_gridworld-v0").kernel().read_text())
    monkeypatch.setattr(TagGridworld, "kernel", classmethod(lambda cls: kernel))
    cpu.CpuBackend(TagGridworld(), CPU, AutoresetMode.DISABLED, 1)
    header.write_text(start + "constexpr int widest = 2;\n")
    cpu.CpuBackend(TagGridworld(), CPU, AutoresetMode.DISABLED, 1)
    assert len(_compiled(cache_folder)) == 2
