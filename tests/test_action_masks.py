"""Action masks: what the dynamics allow is what everybody sees, in every mapping to the hardware."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from environments.corridor import Corridor
from gymnasium.spaces import Box, Dict, Tuple
from pettingzoo.env_registry import registration

import gpu_marl_envs
from gpu_marl_envs import registry, testing
from gpu_marl_envs.adapters import pettingzoo
from gpu_marl_envs.backends import layout
from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.errors import DeclarationError, ParameterError
from gpu_marl_envs.spec import Group
from gpu_marl_envs.testing import sample_actions
from gpu_marl_envs.training import PPO, PolicySpec, Session, train
from gpu_marl_envs.training.policy_mapping import resolve_policies

# Few copies of few agents are packed, many are played by a lane each, and many agents take a block.
MAPPINGS = [
    pytest.param(37, {}, id="packed"),
    pytest.param(layout.MANY_COPIES + 5, {}, id="a lane each"),
    pytest.param(5, {"num_walkers": 60}, id="a block each"),
]
MODES = ("NEXT_STEP", "SAME_STEP", "DISABLED")

pytestmark = pytest.mark.usefixtures("corridor", "one_thread")


@pytest.fixture
def corridor() -> Iterator[None]:
    registry.register(Corridor)
    yield
    del registry._registered[Corridor.id]
    for known in (registration.aec_registry, registration.parallel_registry):
        del known[f"{registry.NAMESPACE}/{Corridor.id}"]


def expected_masks(env: BatchedEnv) -> dict[str, np.ndarray]:
    """By the rules of the corridor, from the state."""
    place, parcel = env.state.place.cpu().numpy(), env.state.parcel.cpu().numpy()
    gone = ~env.alive.cpu().numpy()[..., None]
    last = env.declaration.params()["length"] - 1
    moves = np.stack([np.ones_like(place, bool), place > 0, place < last], -1) | gone
    lifts = np.stack([np.ones_like(place, bool), place == parcel[:, None], np.zeros_like(place, bool)], -1)
    lifts[..., :2] |= gone
    masks = {"walker": moves[:, env.agent_slices["walker"]]}
    porters = env.agent_slices["porter"]
    return masks | {"porter": np.stack([moves[:, porters], lifts[:, porters]], 2)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("num_envs", "params"), MAPPINGS)
def test_masks_are_what_the_dynamics_allow(make: Any, mode: str, num_envs: int, params: dict[str, Any]) -> None:
    env = make(Corridor.id, num_envs, autoreset_mode=mode, **params)

    def check() -> None:
        for name, mask in expected_masks(env).items():
            np.testing.assert_array_equal(env.action_masks[name].cpu(), mask)

    env.reset()
    check()
    generator = torch.Generator().manual_seed(0)
    for step in range(1, 21):
        *_, info = env.step(sample_actions(env, generator))
        check()
        assert not env.state.faults.any()
        if step % 5 == 0:
            env.reset(mask=info["done"])
            check()
    env.state.place.fill_(0)
    env.observe()
    check()


def test_masks_are_an_environments_own_matter(make: Any) -> None:
    """Who takes an action that is not allowed meets the environment's rules; who masks nothing has no masks."""
    env = make(Corridor.id, 3, length=2, autoreset_mode="DISABLED")
    env.reset()
    env.state.place.fill_(0)
    env.observe()
    assert env.action_masks.keys() == {"walker", "porter"}
    left = {"walker": torch.ones(3, 2), "porter": torch.zeros(3, 2, 2)}
    actions = {name: tensor.int().to(env.device) for name, tensor in left.items()}
    env.step(actions | {"guest": torch.zeros(3, 1, 1, device=env.device)})
    assert (env.state.faults[:, :2] == 1).all() and not env.state.faults[:, 2:].any()
    assert not make("tag_gridworld-v0", 2).action_masks


@pytest.mark.parametrize("check", testing.CHECKS, ids=lambda check: check.__name__)
def test_the_corridor_conforms(device: str, check: Any) -> None:
    check(Corridor.id, device=device)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("num_envs", "params"), MAPPINGS)
def test_devices_agree(mode: str, num_envs: int, params: dict[str, Any]) -> None:
    testing.check_devices_agree(Corridor.id, num_envs, 25, autoreset_mode=mode, **params)


def test_an_agent_that_can_do_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    step = BatchedEnv.step

    def step_into_a_dead_end(self: BatchedEnv, *arguments: Any, **options: Any) -> Any:
        result = step(self, *arguments, **options)
        self.action_masks["porter"][3, 1, 1] = False
        return result

    monkeypatch.setattr(BatchedEnv, "step", step_into_a_dead_end)
    with pytest.raises(AssertionError, match="porter_1 in copy 3 is allowed no choice of component 1"):
        testing.check_outputs(Corridor.id)


def test_pettingzoo_shows_masks_beside_observations(device: str) -> None:
    env = pettingzoo.parallel_env(Corridor.id, seed=3, device=device)
    space = env.observation_space("walker_0")
    assert space == Dict({"observation": Box(0.0, np.inf, (3,)), "action_mask": Box(0, 1, (3,), np.int8)})
    assert isinstance(env.observation_space("porter_0")["action_mask"], Tuple)
    assert isinstance(env.observation_space("guest_0"), Box)
    observations, _ = env.reset()
    for _ in range(8):
        actions = {}
        for agent, observation in observations.items():
            assert env.observation_space(agent).contains(observation)
            mask = None if agent == "guest_0" else observation["action_mask"]
            actions[agent] = env.action_space(agent).sample(mask)
        observations, _, terminations, _, _ = env.step(actions)
        assert not env.batched.state.faults.any()
        observations = {agent: seen for agent, seen in observations.items() if not terminations[agent]}
    env.close()


def test_what_is_masked_is_not_done_in_training(make: Any) -> None:
    env = make(Corridor.id, 32, autoreset_mode="SAME_STEP")
    faults = []

    def look(session: Session) -> None:
        faults.append(int(env.state.faults.sum()))
        for name in ("walker", "porter"):
            group = session.rollout.groups[name]
            action = group.action.long().view(*group.action.shape[:3], -1, 1)
            mask = group.mask[:-1].unflatten(-1, (-1, 3))
            assert mask.gather(-1, action).all()

    algorithm = PPO(rollout_steps=8, hidden_size=16, hidden_layers=1)
    steps = 6 * 8 * 32 * env.num_agents
    train(env, algorithm, total_steps=steps, progress=False, after_iteration=look)
    assert faults == [0] * 6


def test_declarations_that_cannot_be_are_refused() -> None:
    class Masked(Corridor):
        id = "masked-v0"

        def groups(self) -> tuple[Group, ...]:
            return (Group("guest", 1, Box(0.0, 1.0, (1,)), Box(0.0, 1.0, (1,)), action_mask=True),)

    with pytest.raises(DeclarationError, match="cannot mask the actions of a Box"):
        _ = Masked().agent_groups


def test_a_policy_plays_groups_with_masks_or_without() -> None:
    walker, _, porter = Corridor().agent_groups
    other = Group("other", 1, walker.observation_space, walker.action_space)
    env = gpu_marl_envs.make_batched(Corridor.id, 2)
    env.groups = {"walker": walker, "other": other, "porter": porter}
    with pytest.raises(ParameterError, match="only one of them masks"):
        resolve_policies(env, PPO(), {"both": PolicySpec(groups=["walker", "other"])})
    env.close()
