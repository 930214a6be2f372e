"""Runs a compiler once per content: results are kept in the user's cache folder, safe with many processes at once."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import filelock
import platformdirs

from gpu_marl_envs.errors import BackendUnavailableError, KernelCompileError
from gpu_marl_envs.sources import sources_folder

CACHE_VARIABLE = "GPU_MARL_ENVS_CACHE"
STRICT_VARIABLE = "GPU_MARL_ENVS_STRICT"  # warnings are errors; a user's newer compiler may warn of what ours does not


def compile_cached(source: str, kernel: Path, command: Sequence[str], suffix: str, identity: str) -> Path:
    """The compiled form of a source, from the cache if it was compiled before.

    Args:
        source: a translation unit that includes the engine and the dynamics file.
        kernel: the dynamics file; errors name it.
        command: the compiler and its flags; input and output are appended.
        suffix: of the compiled file.
        identity: what else the result depends on: version of the compiler, the processor.

    Raises:
        KernelCompileError: the compiler rejects the source.
        BackendUnavailableError: the compiler does not run.
    """
    digest = hashlib.sha256()
    for part in (source, _text_with_includes(kernel), _engine_text(), " ".join(command), identity):
        digest.update(part.encode())
        digest.update(b"\0")
    name = f"{kernel.stem}-{digest.hexdigest()[:32]}{suffix}"
    folder = cache_folder()
    target = folder / name
    if target.exists():
        return target
    with filelock.FileLock(folder / f"{name}.lock"):
        if not target.exists():
            _compile(source, kernel, command, target)
    return target


def is_strict() -> bool:
    """Whether compilers' warnings are errors."""
    return bool(os.environ.get(STRICT_VARIABLE))


@cache
def cache_folder() -> Path:
    """Where compiled code is kept: ``$GPU_MARL_ENVS_CACHE``, the user's cache folder, or a folder of this process."""
    named = os.environ.get(CACHE_VARIABLE)
    wanted = Path(named) if named else Path(platformdirs.user_cache_dir("gpu_marl_envs", appauthor=False))
    try:
        wanted.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=wanted):
            return wanted
    except OSError:
        return Path(_folder_of_this_process().name)


@cache
def _folder_of_this_process() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="gpu_marl_envs-")  # removed when the process ends


def _text_with_includes(path: Path) -> str:
    """The text of a file and of the files beside it that it includes, each once."""
    texts: dict[Path, str] = {}
    waiting = [path.resolve()]
    while waiting:
        file = waiting.pop()
        if file in texts or not file.is_file():
            continue
        texts[file] = file.read_text()
        names = re.findall(r'^\s*#\s*include\s+"([^"]+)"', texts[file], re.MULTILINE)
        waiting += [(file.parent / name).resolve() for name in names]
    return "".join(texts.values())


@cache
def _engine_text() -> str:
    return "".join(path.read_text() for path in sorted((sources_folder() / "engine").iterdir()))


def _compile(source: str, kernel: Path, command: Sequence[str], target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="compile-") as folder:
        input_file = Path(folder) / f"{kernel.stem}.cu"
        output_file = Path(folder) / target.name
        input_file.write_text(source)
        arguments = [*command, f"-I{sources_folder()}", "-o", str(output_file), str(input_file)]
        try:
            done = subprocess.run(arguments, capture_output=True, text=True, errors="replace", check=False)
        except OSError as error:
            raise BackendUnavailableError(
                f"The compiler {command[0]} does not run ({error}); install it again."
            ) from None
        if done.returncode != 0:
            raise KernelCompileError(_explain(done.stderr + done.stdout, kernel, command[0]))
        os.replace(output_file, target)  # atomic: another process sees all of it or nothing


def _explain(output: str, kernel: Path, compiler: str) -> str:
    """The first error, in the author's file if one is there: ``file:line: message``."""
    patterns = (
        r"^(?P<file>[^:\n]+?):(?P<line>\d+)(?::\d+)?: (?:fatal )?error: (?P<message>.+)$",  # g++, clang
        r"^(?P<file>[^\n]+?)\((?P<line>\d+)\): (?:catastrophic )?error(?: #\S+)?: (?P<message>.+)$",  # nvcc
    )
    errors = [match for pattern in patterns for match in re.finditer(pattern, output, re.MULTILINE)]
    errors.sort(key=lambda match: (Path(match["file"]).name != kernel.name, match.start()))
    if not errors:
        return f"{kernel} does not compile with {compiler}; it printed: {output.strip()[-2000:]}"
    return f"{errors[0]['file']}:{errors[0]['line']}: the kernel does not compile: {errors[0]['message']}."
