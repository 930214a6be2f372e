"""The errors a user can cause: each is one sentence that says what is wrong and what to do.

All derive from :class:`GpuMarlError` and from the built-in exception that a caller would expect,
so both ``except GpuMarlError`` and ``except ValueError`` work.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GpuMarlError(Exception):
    """Base of every error that this package raises on purpose."""


class UnknownEnvironmentError(GpuMarlError, LookupError):
    """No environment has the requested id."""


class DeclarationError(GpuMarlError, TypeError):
    """An environment's declaration contradicts itself."""


class ParameterError(GpuMarlError, ValueError):
    """An environment parameter or an option is unknown, of the wrong type or out of range."""


class ActionError(GpuMarlError, ValueError):
    """Actions have the wrong group, shape, dtype, device or value."""


class StateError(GpuMarlError, ValueError):
    """A value written to ``env.state``, or an ``out`` tensor, does not fit."""


class UsageError(GpuMarlError, RuntimeError):
    """A call came out of order: stepping before reset, after close or after a fork."""


class BackendUnavailableError(GpuMarlError, RuntimeError):
    """A compiler, driver or device that was asked for is not there."""


class KernelCompileError(GpuMarlError, RuntimeError):
    """An environment's kernel does not compile."""


class OutOfMemoryError(GpuMarlError, MemoryError):
    """The requested number of copies does not fit into the device's memory."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the entries of ``known`` closest to ``name``, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else f"known: {', '.join(known)}."
