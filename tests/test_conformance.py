"""The shipped conformance suite over every registered environment, and what the suite itself finds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import gpu_marl_envs
from gpu_marl_envs import registry, testing
from gpu_marl_envs.testing import check_devices_agree


@pytest.mark.parametrize("check", testing.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("env_id", registry.ids())
def test_every_environment_conforms(env_id: str, check: Any) -> None:
    check(env_id)


# Every environment with each of its switches in each position but the default one.
VARIANTS = [
    pytest.param(env_id, {parameter.name: value}, id=f"{env_id}-{parameter.name}={value}")
    for env_id in registry.ids()
    for parameter in registry.get(env_id).parameters()
    for value in ((False, True) if parameter.kind is bool else parameter.choices)
    if value != parameter.default
]


@pytest.mark.parametrize(("env_id", "params"), VARIANTS)
def test_every_switch_gives_valid_outputs(env_id: str, params: dict[str, Any]) -> None:
    testing.check_outputs(env_id, **params)


@pytest.mark.slow
@pytest.mark.parametrize(("env_id", "params"), VARIANTS)
def test_every_switch_conforms(env_id: str, params: dict[str, Any]) -> None:
    testing.check_environment(env_id, **params)


@pytest.mark.gpu
@pytest.mark.parametrize("check", testing.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("env_id", registry.ids())
def test_every_environment_conforms_on_the_gpu(env_id: str, check: Any) -> None:
    check(env_id, device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP"])
@pytest.mark.parametrize("env_id", registry.ids())
def test_devices_agree_on_every_environment(env_id: str, mode: str) -> None:
    steps = max(300, registry.get(env_id).make().max_steps + 1)  # every copy ends an episode
    agreement = check_devices_agree(env_id, num_envs=100, steps=steps, autoreset_mode=mode)
    assert agreement.resets > 0


@pytest.mark.gpu
@pytest.mark.parametrize(("env_id", "params"), VARIANTS)
def test_devices_agree_in_every_position_of_a_switch(env_id: str, params: dict[str, Any]) -> None:
    check_devices_agree(env_id, num_envs=100, steps=150, **params)


SMALL = dict(num_taggers=2, num_runners=3, use_full_observation=False, episode_length=7)


def test_a_batch_agrees_with_itself_and_the_work_is_counted() -> None:
    agreement = check_devices_agree("tag_continuous-v0", num_envs=4, steps=21, devices=("cpu", "cpu"), **SMALL)
    assert agreement == testing.Agreement("tag_continuous-v0", ("cpu", "cpu"), 4, 5, 84, 12)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("speed", 0.25, "state.speed of runner_1 in copy 2"),
        ("speed", -0.0, "state.speed of runner_1 in copy 2"),  # −0 is not 0
        ("acceleration", float("nan"), "state.acceleration of runner_1 in copy 2"),
    ],
)
def test_a_difference_is_named(monkeypatch: pytest.MonkeyPatch, field: str, value: float, named: str) -> None:
    """One of two equal batches is changed after its third step."""
    made = []
    make_batched = testing.make_batched

    def make_and_keep(*args: Any, **options: Any) -> Any:
        made.append(make_batched(*args, **options))
        return made[-1]

    def step(actions: Any) -> Any:
        result = gpu_marl_envs.BatchedEnv.step(made[1], {name: torch.zeros_like(a) for name, a in actions.items()})
        if made[1].state.step[2] == 3:
            getattr(made[1].state, field)[2, 3] = value
        return result

    def sample_nothing(env: Any, _: torch.Generator) -> dict[str, torch.Tensor]:
        if len(made) == 2:
            monkeypatch.setattr(made[1], "step", step, raising=False)
        return {name: torch.zeros_like(actions) for name, actions in env.actions.items()}

    monkeypatch.setattr(testing, "make_batched", make_and_keep)
    monkeypatch.setattr(testing, "sample_actions", sample_nothing)
    params = SMALL | dict(tagging_distance=0.0)
    with pytest.raises(AssertionError, match=r"^tag_continuous-v0: at step 3, .*\.$") as caught:
        check_devices_agree("tag_continuous-v0", num_envs=4, steps=5, devices=("cpu", "cpu"), **params)
    assert named in str(caught.value)
