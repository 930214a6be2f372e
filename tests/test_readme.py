"""What the documentation shows is run: Python as it stands there, shell commands as far as their names and options."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from gpu_marl_envs import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TIME_LIMIT = 120  # seconds for one example, most of it spent on importing and compiling

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    """A block of code in a page.

    A block whose first line is a comment that names a file (``# meeting.py``) is that file, for the blocks after it.
    """

    page: Path
    line: int
    code: str

    @property
    def file_name(self) -> str | None:
        match = re.match(r"(?:#|//) (\w+\.(?:py|cuh))\n", self.code)
        return match and match[1]

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def _examples(page: Path, *languages: str) -> list[Example]:
    text = page.read_text()
    return [
        Example(page, text[: match.start()].count("\n") + 1, match[2])
        for match in _FENCE.finditer(text)
        if match[1] in languages
    ]


def python_examples(page: Path) -> list[Example]:
    """The blocks of Python in a page, in order."""
    return [example for example in _examples(page, "python") if example.file_name is None]


def _commands(page: Path) -> list[tuple[str, list[str]]]:
    """Every shell command of a page, with where it stands, and split into words."""
    found = []
    for example in _examples(page, "bash", "console", "sh"):
        for number, line in enumerate(example.code.replace("\\\n", "").splitlines()):
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words:
                found.append((f"{page.name}:{example.line + 1 + number}", words))
    return found


@pytest.mark.parametrize("example", [example for page in PAGES for example in python_examples(page)], ids=str)
def test_python_examples_run(example: Example, tmp_path: Path) -> None:
    for file in _examples(example.page, "python", "cpp"):
        if file.file_name and file.line < example.line:
            (tmp_path / file.file_name).write_text(file.code)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"SDL_VIDEODRIVER": "dummy", "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", example.code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_shell_commands_exist(page: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"].keys()
    for where, (program, *arguments) in _commands(page):
        if program == "make":
            assert set(arguments) <= targets, where
        elif program == "pip":
            for listed in re.findall(r"\[([\w,]+)\]", " ".join(arguments)):
                assert set(listed.split(",")) <= extras, where
        elif program == "python":
            script = arguments[0]
            assert script == "-m" or (ROOT / script).exists(), where
        elif program == "gpu-marl":
            cli._parse(arguments)  # raises for what does not exist
        else:
            assert program in {"git", "cd", "pytest", "nvidia-smi", "torchrun", "tensorboard"}, where


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", page.read_text()))
    for target in re.findall(r"\]\(([^)#]+)", prose):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_pages_of_the_environments_are_up_to_date() -> None:
    pages = runpy.run_path(str(ROOT / "docs" / "build_environments.py"))["pages"]()
    stale = [path.name for path, text in pages.items() if not path.exists() or path.read_text() != text]
    assert not stale, "run: python docs/build_environments.py"
    assert set((ROOT / "docs" / "environments").glob("*.md")) <= pages.keys()
