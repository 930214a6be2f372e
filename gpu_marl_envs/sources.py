"""Where the kernel sources are."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from gpu_marl_envs.errors import DeclarationError


@cache
def sources_folder() -> Path:
    """The folder with the kernel sources: inside an installed package, or beside the package in a checkout."""
    package = Path(__file__).parent
    for folder in (package / "cuda_src", package.parent / "cuda_src"):
        if (folder / "engine").is_dir():
            return folder
    raise DeclarationError(f"The kernel sources are missing from {package}; install gpu-marl-envs again.")
