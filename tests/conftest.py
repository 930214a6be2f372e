"""What all tests share: the devices, the profile of hypothesis, and an environment that is closed after its test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from environments.lessons import Lessons
from environments.probe import Probe
from environments.seekers import Seekers
from hypothesis import HealthCheck, settings

import gpu_marl_envs
from gpu_marl_envs import registry
from gpu_marl_envs.backends.compilation import STRICT_VARIABLE
from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.spec import Environment

os.environ[STRICT_VARIABLE] = "1"

settings.register_profile(
    "repository",
    deadline=None,  # the first example of a setting compiles its kernel
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("repository")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Every device on which environments run."""
    return request.param


@pytest.fixture
def make(device: str) -> Iterator[Callable[..., BatchedEnv]]:
    """``make_batched`` on the test's device; what it made is closed after the test."""
    made: list[BatchedEnv] = []

    def make_batched(env_id: str, num_envs: int, **options: Any) -> BatchedEnv:
        made.append(gpu_marl_envs.make_batched(env_id, num_envs=num_envs, **{"device": device, **options}))
        return made[-1]

    yield make_batched
    for env in made:
        env.close()


@pytest.fixture
def probe() -> Iterator[type[Environment]]:
    """An environment that uses all of the engine, known to the registry during a test."""
    yield from _known(Probe)


@pytest.fixture
def lessons() -> Iterator[type[Environment]]:
    """Games with known optima, known to the registry during a test."""
    yield from _known(Lessons)


@pytest.fixture
def seekers() -> Iterator[type[Environment]]:
    """An environment in which everybody looks, known to the registry during a test."""
    yield from _known(Seekers)


def _known(declaration: type[Environment]) -> Iterator[type[Environment]]:
    registry._registered[declaration.id] = declaration
    yield declaration
    del registry._registered[declaration.id]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tests run side by side, and threads of small networks that wait for a busy core take many times longer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
