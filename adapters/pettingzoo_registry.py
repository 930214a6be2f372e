"""Makes environments known to PettingZoo: in its two registries, and as modules like ``tag_continuous_v0``."""

from __future__ import annotations

import inspect
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from pettingzoo.env_registry import registration

from gpu_marl_envs.registry import NAMESPACE
from gpu_marl_envs.spec import Environment

if TYPE_CHECKING:
    import pettingzoo

    from gpu_marl_envs.adapters.pettingzoo import ParallelEnvironment

_PACKAGE = "gpu_marl_envs"
_CONSTRUCTORS = f"{_PACKAGE}.adapters.pettingzoo"  # named, not imported: only making an environment needs it


def register(declaration: type[Environment]) -> None:
    """Registers an environment with PettingZoo as ``gpu_marl/<id>``, for ``pettingzoo.make("aec" | "parallel", …)``.

    Also creates its module (:func:`module_for`). Registering again changes nothing.
    """
    name, default_arguments = f"{NAMESPACE}/{declaration.id}", {"env_id": declaration.id}
    if name not in registration.aec_registry:
        registration.register("aec", name, f"{_CONSTRUCTORS}:env", kwargs=default_arguments)
    if name not in registration.parallel_registry:
        registration.register("parallel", name, f"{_CONSTRUCTORS}:parallel_env", kwargs=default_arguments)
    module_for(declaration)


def module_name(env_id: str) -> str:
    """The module of an environment: ``tag_continuous_v0`` for ``tag_continuous-v0``."""
    name, _, version = env_id.rpartition("-v")
    return f"{name}_v{version}"


def module_for(declaration: type[Environment]) -> ModuleType:
    """The environment as a PettingZoo module, importable as ``gpu_marl_envs.<name>_v<version>``.

    It has the functions ``parallel_env``, ``env`` and ``raw_env``, which take ``render_mode``, ``seed``, ``device``,
    ``max_cycles`` and the environment's parameters, and the declaration's docstring. A second call returns the same.
    """
    name = f"{_PACKAGE}.{module_name(declaration.id)}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name, declaration.__doc__)
    env_id = declaration.id

    def parallel_env(**arguments: Any) -> ParallelEnvironment:
        """The environment with PettingZoo's parallel API; see ``gpu_marl_envs.adapters.pettingzoo.parallel_env``."""
        from gpu_marl_envs.adapters import pettingzoo

        return pettingzoo.parallel_env(env_id, **arguments)

    def env(**arguments: Any) -> pettingzoo.AECEnv:
        """The environment with PettingZoo's AEC API; see ``gpu_marl_envs.adapters.pettingzoo.env``."""
        from gpu_marl_envs.adapters import pettingzoo

        return pettingzoo.env(env_id, **arguments)

    def raw_env(**arguments: Any) -> pettingzoo.AECEnv:
        """The AEC environment without order checks; see ``gpu_marl_envs.adapters.pettingzoo.raw_env``."""
        from gpu_marl_envs.adapters import pettingzoo

        return pettingzoo.raw_env(env_id, **arguments)

    signature = _signature(declaration)
    functions: tuple[Any, ...] = (parallel_env, env, raw_env)
    for function in functions:
        # Functions are pickled by module and name: a worker process finds them after importing the package.
        function.__module__, function.__qualname__ = name, function.__name__
        function.__signature__ = signature
        setattr(module, function.__name__, function)
    module.__dict__["__all__"] = ["env", "parallel_env", "raw_env"]
    sys.modules[name] = module
    return module


def _signature(declaration: type[Environment]) -> inspect.Signature:
    """What the constructors of this environment take, for ``help`` and editors."""
    common: dict[str, tuple[Any, Any]] = {
        "render_mode": (Literal["human", "rgb_array"] | None, None),
        "seed": (int | None, None),
        "device": (str, "cpu"),
        "max_cycles": (int | None, None),
    }
    own: dict[str, tuple[Any, Any]] = {
        parameter.name: (parameter.kind | None if parameter.optional else parameter.kind, parameter.default)
        for parameter in declaration.parameters()
    }
    return inspect.Signature(
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)
            for name, (kind, default) in {**common, **own}.items()
        ]
    )
