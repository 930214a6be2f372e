"""Multi-agent reinforcement-learning environments that live on the GPU, and run bit-identically on a CPU.

``make_batched`` steps many copies over torch tensors; ``parallel_env`` and ``env`` of the modules named after the
environments (``from gpu_marl_envs import tag_continuous_v0``) speak PettingZoo, whose registry knows all environments
as ``gpu_marl/<id>`` once this package is imported.
"""

from __future__ import annotations

from types import ModuleType

from gpu_marl_envs import errors, registry
from gpu_marl_envs.batched import BatchedEnv, make_batched
from gpu_marl_envs.errors import GpuMarlError
from gpu_marl_envs.registry import ids, register

__version__ = "0.1.0"

__all__ = ["BatchedEnv", "GpuMarlError", "errors", "ids", "make_batched", "register"]

ids()  # registers the packaged environments, here and with PettingZoo


def __getattr__(name: str) -> ModuleType:
    """The PettingZoo module of an environment: ``tag_continuous_v0`` for ``tag_continuous-v0``."""
    base, _, version = name.rpartition("_v")
    env_id = f"{base}-v{version}"
    if not version.isdigit() or env_id not in registry.ids():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gpu_marl_envs.adapters import pettingzoo_registry

    return pettingzoo_registry.module_for(registry.get(env_id))


def __dir__() -> list[str]:
    return sorted([*globals(), *(env_id.replace("-", "_") for env_id in registry.ids())])
