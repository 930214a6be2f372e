"""What training does on a GPU only: CUDA graphs, and the same run as on a CPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from references.games import SMALL, TAG
from torch import Tensor

from gpu_marl_envs import make_batched
from gpu_marl_envs.errors import UsageError
from gpu_marl_envs.training import A2C, PPO, Algorithm, Checkpoint, Interface, PolicySpec, Session, resume, train
from gpu_marl_envs.training.networks import MLPNetwork

pytestmark = pytest.mark.gpu

# All that has a state of its own.
STATEFUL = {"rollout_steps": 7, "normalize_observations": True, "normalize_returns": True, **SMALL}
ALGORITHMS = [
    pytest.param(PPO(**STATEFUL), id="ppo"),
    pytest.param(A2C(**STATEFUL), id="a2c"),
    pytest.param(A2C(optimizer_name="adam", **STATEFUL), id="a2c-adam"),
    pytest.param(PPO(central_critic=True, **STATEFUL), id="central-critic"),
    pytest.param(PPO(target_kl=1e-3, **STATEFUL), id="target-kl"),
    pytest.param(PPO(bfloat16=True, **STATEFUL), id="bfloat16"),
]
ITERATIONS = 5


def run(
    algorithm: Algorithm,
    device: str = "cuda",
    folder: Path | None = None,
    iterations: int = ITERATIONS,
    after_iteration: Callable[[Session], None] | None = None,
    env_id: str = "tag_continuous-v0",
) -> dict[str, Tensor]:
    """Trains for some iterations; returns all weights and statistics."""
    mode = "DISABLED" if algorithm.central_critic else "SAME_STEP"
    params = TAG if env_id == "tag_continuous-v0" else {}
    env = make_batched(env_id, 33, device, seed=3, autoreset_mode=mode, **params)
    steps = iterations * algorithm.rollout_steps * env.num_envs * env.num_agents
    result = train(
        env, algorithm, total_steps=steps, folder=folder, seed=1, progress=False, after_iteration=after_iteration
    )
    return weights(result.policies)


def weights(policies: dict[str, torch.nn.Module]) -> dict[str, Tensor]:
    return {f"{group}.{name}": w.cpu() for group, p in policies.items() for name, w in p.state_dict().items()}


def assert_same(ones: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    assert ones.keys() == others.keys()
    for name, one in ones.items():
        assert torch.equal(one, others[name]), name


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_recorded_run_learns_the_same_bits_as_one_that_is_not(algorithm: Algorithm) -> None:
    assert_same(run(algorithm), run(dataclasses.replace(algorithm, cuda_graphs=False)))


def test_continuous_actions_are_recorded_as_well() -> None:
    algorithm = PPO(**STATEFUL)
    written = run(dataclasses.replace(algorithm, cuda_graphs=False), env_id="pendulum-v1")
    assert_same(run(algorithm, env_id="pendulum-v1"), written)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_resumed_run_goes_on_to_the_same_bits(algorithm: Algorithm, tmp_path: Path) -> None:
    def stop_after_two(session: Session) -> None:
        session.interrupted = session.iteration == 2

    run(algorithm, folder=tmp_path, after_iteration=stop_after_two)
    assert_same(weights(resume(tmp_path, progress=False).policies), run(algorithm))


@pytest.mark.parametrize(("first", "then"), [("cpu", "cuda"), ("cuda", "cpu")])
@pytest.mark.parametrize("algorithm", ALGORITHMS[:3])
def test_a_run_goes_on_on_another_device(algorithm: Algorithm, first: str, then: str, tmp_path: Path) -> None:
    """With an update as written, one that is recorded and one that is replayed."""

    def stop_after_two(session: Session) -> None:
        session.interrupted = session.iteration == 2

    run(algorithm, first, folder=tmp_path, after_iteration=stop_after_two)
    before = Checkpoint.load(tmp_path).iteration
    result = resume(tmp_path, device=then, progress=False)
    assert before == 2 and not result.interrupted
    assert Checkpoint.load(tmp_path).iteration == ITERATIONS
    assert all(weight.isfinite().all() for weight in weights(result.policies).values())


@pytest.mark.parametrize("env_id", ["tag_continuous-v0", "pendulum-v1"])
def test_the_first_rollout_is_that_of_a_cpu(env_id: str) -> None:
    """Networks round otherwise on a GPU, so the actions are equal, and what else is computed nearly so."""
    rollouts = {}
    for device in ("cpu", "cuda"):

        def keep(session: Session, device: str = device) -> None:
            rollouts[device] = session.rollout.groups

        run(PPO(**STATEFUL), device, iterations=1, after_iteration=keep, env_id=env_id)
    for name, group in rollouts["cpu"].items():
        other = rollouts["cuda"][name]
        if group.action.dtype == torch.int32:
            assert torch.equal(group.action, other.action.cpu())
            assert torch.equal(group.observation, other.observation.cpu())
        else:
            torch.testing.assert_close(group.action, other.action.cpu(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(group.log_prob, other.log_prob.cpu(), rtol=1e-5, atol=1e-5)


def test_a_schedule_reaches_a_recorded_run() -> None:
    """What is scheduled lies on the device; a graph with numbers of its own would go on with the first ones."""
    falling = PPO(learning_rate="0:1e-2,0.5:0,1:0", **STATEFUL)
    seen: list[dict[str, Tensor]] = []

    def keep(session: Session) -> None:
        seen.append({name: p.detach().clone() for name, p in session.policies["runner"].named_parameters()})

    run(dataclasses.replace(falling, normalize_returns=False), iterations=6, after_iteration=keep)
    assert any(not torch.equal(seen[0][name], seen[1][name]) for name in seen[0])
    for name in seen[0]:
        assert torch.equal(seen[4][name], seen[5][name]), name


class Waiting(MLPNetwork):
    """A network that reads a number of the device in Python."""

    def __init__(self, interface: Interface) -> None:
        from gpu_marl_envs.training import MLP

        super().__init__(interface, MLP(**SMALL))

    def actor(self, observation: Tensor) -> Tensor:
        scale = 1.0 if observation.abs().max().item() < 1e9 else 0.0
        return scale * super().actor(observation)


def test_a_network_that_waits_for_the_device_is_told_how_to_go_on() -> None:
    env = make_batched("tag_continuous-v0", 8, "cuda", autoreset_mode="SAME_STEP", **TAG)
    spec = {"tagger": PolicySpec(network=Waiting)}
    options = {"total_steps": 10_000, "progress": False, "policies": spec}
    with pytest.raises(UsageError, match="cuda_graphs=False"):
        train(env, PPO(**STATEFUL), **options)
    torch.cuda.synchronize()
    train(env, PPO(cuda_graphs=False, **STATEFUL), **options)
