"""Which environments there are: every file in ``envs/`` that declares one, and those that a user registers."""

from __future__ import annotations

import importlib
import pkgutil
import re
from functools import cache

from gpu_marl_envs.errors import DeclarationError, UnknownEnvironmentError, nearest
from gpu_marl_envs.spec import Environment

NAMESPACE = "gpu_marl"

_registered: dict[str, type[Environment]] = {}


def register(declaration: type[Environment]) -> type[Environment]:
    """Makes an environment known by its id, also to PettingZoo as ``gpu_marl/<id>``; usable as a decorator.

    Args:
        declaration: the class that declares it; its ``.cuh`` file lies beside the module.

    Returns:
        The declaration.

    Raises:
        DeclarationError: another class has this id already, or the id has no version.
    """
    if not re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_]*-v[0-9]+", str(getattr(declaration, "id", ""))):
        raise DeclarationError(f"{declaration.__name__}.id must be a name and a version, as in 'my_game-v0'.")
    known = _registered.setdefault(declaration.id, declaration)
    if (known.__module__, known.__qualname__) != (declaration.__module__, declaration.__qualname__):
        raise DeclarationError(f"{declaration.id} is already registered by {known.__module__}; choose another id.")
    _registered[declaration.id] = declaration
    from gpu_marl_envs.adapters import pettingzoo_registry

    pettingzoo_registry.register(declaration)
    return declaration


@cache
def _load_packaged() -> None:
    from gpu_marl_envs import envs

    for module_info in pkgutil.iter_modules(envs.__path__):
        module = importlib.import_module(f"{envs.__name__}.{module_info.name}")
        for value in list(vars(module).values()):
            if isinstance(value, type) and issubclass(value, Environment) and value.__module__ == module.__name__:
                if "id" in vars(value):
                    register(value)


def ids() -> list[str]:
    """The ids of all environments, sorted."""
    _load_packaged()
    return sorted(_registered)


def get(env_id: str) -> type[Environment]:
    """The declaration of an environment, by its id with or without the namespace ``gpu_marl/``.

    Raises:
        UnknownEnvironmentError: there is none of that id; names the nearest.
    """
    _load_packaged()
    name = str(env_id).removeprefix(f"{NAMESPACE}/")
    if name not in _registered:
        raise UnknownEnvironmentError(f"There is no environment {env_id!r}; {nearest(name, _registered)}")
    return _registered[name]
