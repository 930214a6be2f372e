"""Training by what it does: rollouts hold what happened, games whose best play is known are learnt, nothing leaks."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gymnasium.spaces import Box, Discrete
from references.games import FAST, FAST_A2C, SMALL, TAG, FakeEnv, matching_bit, play
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.errors import ParameterError
from gpu_marl_envs.training import (
    A2C,
    MLP,
    PPO,
    ActorCritic,
    Algorithm,
    Checkpoint,
    Interface,
    PolicySpec,
    RandomStream,
    SeparableNetwork,
    Session,
    TrainingError,
    TrainingResult,
    samples,
    train,
)
from gpu_marl_envs.training.policy_mapping import make_learners, policies_by_group, resolve_policies
from gpu_marl_envs.training.rollout import Rollout, global_state
from gpu_marl_envs.training.samples import gather_samples, normalized

Make = Callable[..., BatchedEnv]
BOTH = [pytest.param(FAST, id="ppo"), pytest.param(FAST_A2C, id="a2c")]

pytestmark = pytest.mark.usefixtures("one_thread")


def run(env: Any, algorithm: Algorithm, total_steps: int, **options: Any) -> TrainingResult:
    return train(env, algorithm, total_steps=total_steps, progress=False, **options)


# ---- rollouts ----


@pytest.mark.parametrize("mode", ["SAME_STEP", "DISABLED"])
def test_a_rollout_holds_what_the_environment_did(make: Make, device: str, mode: str) -> None:
    """The environment is replayed, resetting itself in the same step; rollouts that reset it hold the same."""
    env = make("tag_continuous-v0", 7, autoreset_mode=mode, **TAG)
    central = mode == "DISABLED"
    steps = 30  # more than two episodes
    size = global_state(env).shape[1] if central else 0
    policies = {name: ActorCritic(g, MLP(**SMALL), state_size=size).to(device) for name, g in env.groups.items()}
    rollout = Rollout(env, policies, steps)
    random = RandomStream(0, env.device)
    rollout.collect(random)
    last = {name: group.observation[-1].clone() for name, group in rollout.groups.items()}
    saved = env.state.save()
    rollout.collect(random)  # starts where the first one stopped

    again = make("tag_continuous-v0", 7, autoreset_mode="SAME_STEP", **TAG)
    by_hand = make("tag_continuous-v0", 7, autoreset_mode="DISABLED", **TAG)
    for other in (again, by_hand):
        other.state.restore(saved)
    finals: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(7)]
    for name, group in rollout.groups.items():
        assert torch.equal(group.observation[0], last[name])
    for t in range(steps):
        alive = again.alive.clone()
        if rollout.state is not None:
            assert torch.equal(rollout.state[t], global_state(again))
        actions = {name: group.action[t] for name, group in rollout.groups.items()}
        observation, reward, terminated, truncated, info = again.step(actions)
        by_hand.step(actions)
        assert torch.equal(rollout.truncated[t], truncated)
        assert torch.equal(rollout.done[t], info["done"])
        for copy in truncated.nonzero().flatten().tolist():
            finals[copy].append((info["final_obs"]["tagger"][copy].clone(), global_state(by_hand)[copy]))
        by_hand.reset(mask=info["done"])
        for name, group in rollout.groups.items():
            assert torch.equal(group.live[t], alive[:, again.agent_slices[name]])
            assert torch.equal(group.observation[t + 1], observation[name])
            assert torch.equal(group.reward[t], reward[name])
            assert torch.equal(group.terminated[t], terminated[name])
    assert sum(map(len, finals)) > 7
    for copy, expected in enumerate(finals):
        for slot, (final, state) in enumerate(expected):
            assert torch.equal(rollout.groups["tagger"].final_observation[slot, copy], final)
            if rollout.final_state is not None:
                assert torch.equal(rollout.final_state[slot, copy], state)
    for name, group in rollout.groups.items():
        log_prob, _, _ = policies[name].evaluate(
            group.observation[:-1], group.action, state=rollout.state_of_agents(name)[:-1] if central else None
        )
        torch.testing.assert_close(group.log_prob, log_prob)


def test_samples_of_a_shared_policy_are_those_of_all_its_groups(make: Make) -> None:
    env = make("tag_continuous-v0", 5, autoreset_mode="SAME_STEP", device="cpu", **TAG)
    policy = ActorCritic(env.groups["tagger"], MLP(**SMALL))
    rollout = Rollout(env, {"tagger": policy, "runner": policy}, 20)
    rollout.collect(RandomStream(0))
    shared = gather_samples(rollout, ["tagger", "runner"], policy, 0.9, 0.8)
    alone = [gather_samples(rollout, [name], policy, 0.9, 0.8) for name in ("tagger", "runner")]
    for both, *parts in zip(shared, *alone, strict=True):
        assert both is None or torch.equal(both, torch.cat(parts))
    assert len(shared.weight) == sum(int(group.live.sum()) for group in rollout.groups.values())


class WhatDependsOnData(TorchDispatchMode):
    """Notes every operation that reads a number back to the host, or whose result's shape depends on data."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero", "item", "_unique2")

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        indexes = args[1] if name in ("index", "index_put", "index_put_") else ()
        if name in self.FORBIDDEN or any(i is not None and i.dtype == torch.bool for i in indexes):
            self.found.add(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("algorithm", [PPO(minibatches=2), A2C(optimizer_name="adam"), PPO(central_critic=True)])
def test_an_iteration_neither_waits_for_the_device_nor_depends_on_data(
    make: Make, algorithm: Algorithm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a CUDA graph can hold a rollout, and a host runs ahead of a GPU. Here on a CPU, as if it were one."""
    mode = "DISABLED" if algorithm.central_critic else "SAME_STEP"
    env = make("tag_continuous-v0", 6, autoreset_mode=mode, device="cpu", check_actions=False, **TAG)
    algorithm = dataclasses.replace(
        algorithm, rollout_steps=16, normalize_observations=True, normalize_returns=True, **SMALL
    )
    learners = make_learners(env, resolve_policies(env, algorithm, None), 0)
    rollout = Rollout(env, policies_by_group(learners), 16)
    random = RandomStream(0)
    monkeypatch.setattr(samples, "keeps_dead_samples", lambda device: True)
    with WhatDependsOnData() as watch:
        rollout.collect(random)
        for learner in learners.values():
            learner.schedule(0.5)
        terms = [learner.learn(rollout, random) for learner in learners.values()]
        rollout.episode_means()
    # Clipping and optimizers of the CPU read numbers that they leave on a GPU; see the next test for them.
    assert watch.found <= {"_local_scalar_dense"} and all(terms)

    with WhatDependsOnData() as watch:
        rollout.collect(random)
        gathered = gather_samples(rollout, ["runner"], learners["runner"].policy, 0.9, 0.8)
        for learner in learners.values():
            coefficients = [torch.tensor(0.1), torch.tensor(0.1)][: 2 if isinstance(algorithm, PPO) else 1]
            learner.loss(gathered if learner.name == "runner" else gathered._replace(mask=None), *coefficients)
    assert watch.found == set()


def test_dead_samples_change_no_gradient(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU they are dropped, on a GPU weighed with 0; loss and gradient are the same, whatever they hold."""
    gradients: list[dict[str, Tensor]] = []
    for keep in (False, True):
        monkeypatch.setattr(samples, "keeps_dead_samples", lambda device, keep=keep: keep)
        env = make("tag_continuous-v0", 16, autoreset_mode="SAME_STEP", device="cpu", seed=1, **TAG)
        algorithm = PPO(normalize_returns=True, **SMALL)
        learners = make_learners(env, resolve_policies(env, algorithm, None), 0)
        learner, rollout = learners["runner"], Rollout(env, policies_by_group(learners), 24)
        rollout.collect(RandomStream(0))
        runner = rollout.groups["runner"]
        assert 0 < (~runner.live).sum() < runner.live.numel()
        runner.reward.masked_fill_(~runner.live, 1e6 if keep else -1e6)
        runner.log_prob.masked_fill_(~runner.live, -30.0)
        gathered = normalized(gather_samples(rollout, ["runner"], learner.policy, 0.9, 0.8))
        assert len(gathered.weight) == (runner.live.numel() if keep else runner.live.sum())
        loss, _ = learner.loss(gathered, torch.tensor(0.2), torch.tensor(0.01))
        loss.backward()
        gradients.append({name: parameter.grad for name, parameter in learner.policy.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-5, msg=name)


# ---- learning ----


@pytest.mark.usefixtures("lessons")
@pytest.mark.parametrize("algorithm", BOTH)
@pytest.mark.parametrize(("actions", "good"), [("discrete", 1.0), ("multi_discrete", 1.0), ("box", 0.95)])
def test_a_bandit_is_learnt(make: Make, algorithm: Algorithm, actions: str, good: float) -> None:
    env = make("lessons-v0", 32, autoreset_mode="SAME_STEP", actions=actions)
    # Exact actions need small steps in the end, and advantages that become small as well.
    exact = {"entropy_coefficient": 0.0, "learning_rate": "0:1e-2,1:0", "normalize_advantages": False}
    algorithm = dataclasses.replace(algorithm, **exact)
    result = run(env, algorithm, 60_000 if isinstance(algorithm, PPO) else 150_000)
    observation = env.reset()
    action = result.policies["player"].act(observation["player"], RandomStream(0, env.device), deterministic=True)
    _, reward, *_ = env.step({"player": action})
    assert reward["player"].mean().item() >= good


@pytest.mark.usefixtures("lessons")
@pytest.mark.parametrize("algorithm", BOTH)
def test_a_delayed_reward_is_learnt(make: Make, algorithm: Algorithm) -> None:
    """The context is seen in the first step only, and paid for in the fourth: 1 at best, 0.5 by chance."""
    env = make("lessons-v0", 64, autoreset_mode="SAME_STEP", rule="delayed", episode_length=4)
    algorithm = dataclasses.replace(algorithm, discount=0.9, gae_lambda=1.0, entropy_coefficient=0.0)
    result = run(env, algorithm, 120_000 if isinstance(algorithm, PPO) else 500_000)
    assert result.history[-1]["player/episode_return"] > 0.97
    start = torch.eye(3, device=env.device)[:2]
    values = result.policies["player"].value(start).tolist()
    assert values == pytest.approx([0.9**3, 0.9**3], abs=0.05)


@pytest.mark.usefixtures("lessons")
@pytest.mark.parametrize("algorithm", BOTH)
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("terminates", "expected"), [(False, 2.0), (True, 1.0)], ids=["truncation", "termination"])
def test_values_tell_truncation_from_termination(
    make: Make, algorithm: Algorithm, normalize: bool, terminates: bool, expected: float
) -> None:
    """Every step pays 1, so with γ = 1/2 a game without an end is worth 2, even if it is cut after every step."""
    env = make("lessons-v0", 16, autoreset_mode="SAME_STEP", rule="endless", terminates=terminates)
    algorithm = dataclasses.replace(
        algorithm,
        learning_rate=3e-3,
        value_coefficient=1.0,
        normalize_returns=normalize,
        normalize_observations=normalize,
    )
    result = run(env, algorithm, 30_000 if isinstance(algorithm, PPO) else 120_000)
    start = torch.eye(3, device=env.device)[:2]
    assert result.policies["player"].value(start).mean().item() == pytest.approx(expected, abs=0.05)


@pytest.mark.usefixtures("lessons")
def test_a_centralised_critic_knows_what_nobody_observes(make: Make) -> None:
    """Half of the players are paid 1 and half −1 in every step, by a bit that only the state holds; γ = 0.5."""
    explained = {}
    for central in (False, True):
        mode = "DISABLED" if central else "SAME_STEP"
        env = make(
            "lessons-v0", 32, autoreset_mode=mode, rule="secret", episode_length=6, terminates=False, num_players=1
        )
        algorithm = dataclasses.replace(FAST, value_coefficient=1.0, central_critic=central)
        result = run(env, algorithm, 40_000)
        explained[central] = result.history[-1]["player/explained_variance"]
        if central:
            observation = torch.eye(3, device=env.device)[:2]
            state = torch.tensor(
                [[secret, 0, secret, 3, 1] for secret in (0, 1)], dtype=torch.float32, device=env.device
            )
            values = result.policies["player"].value(observation, state).tolist()
            # Cut, not ended: in truth the next step would pay the same again.
            assert values == pytest.approx([-2.0, 2.0], abs=0.3)
    assert explained[True] > 0.95
    assert explained[False] < 0.5


@pytest.mark.parametrize("algorithm", BOTH)
def test_rewards_after_leaving_are_not_learnt_from(algorithm: Algorithm) -> None:
    """The second agent leaves after its first step; what it would be paid later favours the wrong action."""
    env: FakeEnv

    def reward(context: Tensor, action: Tensor) -> Tensor:
        right = (action == context).float()
        return torch.where(env.alive, right, 10 * (1 - right))

    env = FakeEnv(reward, leaves=True, max_steps=8)
    result = run(env, algorithm, 20_000 if isinstance(algorithm, PPO) else 60_000)
    env.alive.fill_(True)
    assert play(env, result) == 1.0


@pytest.mark.parametrize("algorithm", BOTH)
def test_masked_actions_are_neither_taken_nor_learnt(algorithm: Algorithm) -> None:
    """The best action is masked in one of the contexts; there the second best is to be found."""
    worth = torch.tensor([0.0, 0.5, 1.0])

    def mask(context: Tensor) -> Tensor:
        allowed = torch.ones(*context.shape, 3, dtype=torch.bool)
        allowed[..., 2] = context == 0
        return allowed

    def reward(context: Tensor, action: Tensor) -> Tensor:
        assert mask(context).gather(-1, action.long().unsqueeze(-1)).all()
        return worth[action.long()]

    env = FakeEnv(reward, Discrete(3), max_steps=1, terminates=True, mask=mask)
    result = run(env, dataclasses.replace(algorithm, entropy_coefficient=0.0), 30_000)
    contexts = torch.tensor([[0, 1]])
    observation = nn.functional.one_hot(contexts, 2).float()
    policy = result.policies["player"]
    action = policy.act(observation, RandomStream(0), deterministic=True, mask=mask(contexts))
    assert action.tolist() == [[2, 1]]


def test_observations_of_any_size_are_learnt_from_when_normalised() -> None:
    """Contexts far from 0 and close together, in units of ten thousands."""

    class Shifted(FakeEnv):
        def _draw(self) -> Tensor:
            return 3e4 + 5e2 * super()._draw()

    learnt = {}
    for normalize in (False, True):
        env = Shifted(matching_bit, max_steps=1, terminates=True)
        result = run(env, dataclasses.replace(FAST, normalize_observations=normalize), 12_000)
        learnt[normalize] = play(env, result).item()
    assert learnt[True] == 1.0
    assert learnt[False] < 0.9


# ---- hyperparameters at work ----


def test_schedules_are_followed() -> None:
    rates: list[float] = []

    def note(session: Session) -> None:
        rates.append(session.learners["player"].optimizer.param_groups[0]["lr"])

    algorithm = dataclasses.replace(FAST, learning_rate="0:1e-2,0.5:1e-3,1:0")
    result = run(FakeEnv(matching_bit), algorithm, 8 * 256, after_iteration=note)
    assert result.agent_steps == 8 * 256
    expected = [1e-2, 0.775e-2, 0.55e-2, 0.325e-2, 1e-3, 0.75e-3, 0.5e-3, 0.25e-3]
    assert rates == pytest.approx(expected)


def test_the_entropy_bonus_is_scheduled() -> None:
    algorithm = dataclasses.replace(FAST, entropy_coefficient="0:10,0.6:10,0.6:0")
    entropy = [row["player/entropy"] for row in run(FakeEnv(matching_bit), algorithm, 12_000).history]
    assert entropy[len(entropy) // 2] > 0.68
    assert entropy[-1] < 0.4


def test_the_clip_range_is_scheduled() -> None:
    """Ratios leave a clip range of 0 at once, and never one of 10."""
    history = run(FakeEnv(matching_bit), dataclasses.replace(FAST, clip_range="0:0,0.5:0,0.5:10"), 4_000).history
    clipped = [row["player/clipped_fraction"] for row in history]
    assert min(clipped[: len(clipped) // 2]) > 0.3
    assert max(clipped[len(clipped) // 2 + 1 :]) == 0.0


def test_an_update_stops_where_it_has_moved_far_enough() -> None:
    steps: dict[float, int] = {}

    def count(session: Session) -> None:
        optimizer = session.learners["player"].optimizer
        steps[session.learners["player"].algorithm.target_kl] = int(next(iter(optimizer.state.values()))["step"])

    for target_kl in (0.0, 0.01):
        algorithm = dataclasses.replace(FAST, epochs=50, learning_rate=3e-2, target_kl=target_kl)
        run(FakeEnv(matching_bit), algorithm, 256, after_iteration=count)
    assert steps[0.0] == 50 * 4
    assert steps[0.01] % 4 == 0
    assert 4 <= steps[0.01] <= 40


# ---- policies ----


class Linear(nn.Module):
    """A user's network without anything that the package knows."""

    def __init__(self, interface: Interface) -> None:
        super().__init__()
        self.layer = nn.Linear(interface.observation_size, interface.num_parameters + 1)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        output = self.layer(observation)
        return output[..., :-1], output[..., -1]


@pytest.mark.parametrize("algorithm", BOTH)
def test_a_users_network_learns(algorithm: Algorithm) -> None:
    env = FakeEnv(matching_bit)
    specs = {"player": PolicySpec(network=Linear)}
    result = run(env, dataclasses.replace(algorithm, normalize_returns=True), 20_000, policies=specs)
    assert play(env, result) == 1.0
    assert isinstance(result.policies["player"].network, Linear)


def test_a_users_network_with_a_centralised_critic_must_act_without_it(make: Make) -> None:
    env = make("tag_gridworld-v0", 2, autoreset_mode="DISABLED", device="cpu")
    with pytest.raises(ParameterError, match="derive from SeparableNetwork"):
        run(env, PPO(central_critic=True), 1, policies={"tagger": PolicySpec(network=Linear)})
    assert issubclass(SeparableNetwork, nn.Module)


def test_policies_may_share_differ_and_stay(make: Make) -> None:
    env = make("tag_continuous-v0", 4, autoreset_mode="SAME_STEP", **TAG)
    shared = run(env, PPO(**SMALL), 500, policies={"all": PolicySpec(groups=("runner", "tagger"))})
    assert shared.policies["tagger"] is shared.policies["runner"]
    assert "all/policy_loss" in shared.history[0]

    before: dict[str, Tensor] = {}
    rates: dict[str, float] = {}

    def look(session: Session) -> None:
        for name, learner in session.learners.items():
            if name not in before:
                before[name] = learner.policy.network.actor_head.weight.clone()
            if not learner.frozen:
                rates[name] = learner.optimizer.param_groups[0]["lr"]

    specs = {
        "hunters": PolicySpec(groups=("tagger",), algorithm=A2C(rollout_steps=8, learning_rate=1e-2, **SMALL)),
        "runner": PolicySpec(frozen=True),
    }
    result = run(env, PPO(rollout_steps=8, **SMALL), 2_000, policies=specs, after_iteration=look)
    assert rates == {"hunters": 1e-2}
    assert not torch.equal(result.policies["tagger"].network.actor_head.weight, before["hunters"])
    assert torch.equal(result.policies["runner"].network.actor_head.weight, before["runner"])
    assert "hunters/entropy" in result.history[-1] and "runner/entropy" not in result.history[-1]
    assert "runner/episode_length" in result.history[-1]


def test_policies_start_from_checkpoints(make: Make, tmp_path: Path) -> None:
    env = make("tag_continuous-v0", 4, autoreset_mode="SAME_STEP", **TAG)
    algorithm = PPO(rollout_steps=8, normalize_observations=True, **SMALL)
    first = run(env, algorithm, 2_000, folder=tmp_path / "first")
    specs = {"runner": PolicySpec(frozen=True, weights=tmp_path / "first")}
    second = run(env, PPO(rollout_steps=8), 500, policies=specs)
    for name, tensor in first.policies["runner"].state_dict().items():
        assert torch.equal(second.policies["runner"].state_dict()[name], tensor), name
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        run(env, algorithm, 1, policies={"runner": PolicySpec(weights=tmp_path / "nowhere")})


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ({"runners": PolicySpec()}, "no group 'runners' for policy 'runners' to play; did you mean 'runner'"),
        ({"a": PolicySpec(groups=("runner",)), "runner": PolicySpec()}, "'runner' has two policies, 'a' and 'runner'"),
        ({"tagger": PolicySpec(groups=("runner",))}, "Nobody plays group 'tagger'"),
        ({"tagger": PolicySpec(algorithm=PPO(rollout_steps=7))}, "the same rollout_steps, but 'tagger' has 7"),
        ({"all": PolicySpec(groups=("tagger", "runner"), frozen=True)}, "All policies are frozen; train at least one"),
    ],
)
def test_policies_that_cannot_be(make: Make, specs: dict[str, PolicySpec], message: str) -> None:
    env = make("tag_gridworld-v0", 2, autoreset_mode="SAME_STEP", device="cpu")
    with pytest.raises(ParameterError, match=message):
        run(env, PPO(), 10, policies=specs)


@pytest.mark.usefixtures("probe")
def test_groups_that_differ_cannot_share_a_policy(make: Make) -> None:
    env = make("probe-v0", 2, autoreset_mode="SAME_STEP", device="cpu")
    with pytest.raises(ParameterError, match="cannot play both 'few' and 'many', whose observation spaces differ"):
        run(env, PPO(), 10, policies={"all": PolicySpec(groups=("few", "many"))})


def test_groups_whose_actions_have_other_bounds_cannot_share_a_policy(make: Make) -> None:
    env = make("tag_continuous-v0", 2, autoreset_mode="SAME_STEP", device="cpu", continuous_actions=True, **TAG)
    runner = env.groups["runner"]
    env.groups["runner"] = dataclasses.replace(runner, action_space=Box(-9.0, 9.0, (2,)))
    with pytest.raises(ParameterError, match="whose action spaces differ"):
        run(env, PPO(), 10, policies={"all": PolicySpec(groups=("tagger", "runner"))})


def test_weights_with_a_centralised_critic_need_one(make: Make, tmp_path: Path) -> None:
    env = make("tag_gridworld-v0", 2, autoreset_mode="DISABLED", device="cpu")
    run(env, PPO(central_critic=True, rollout_steps=8, **SMALL), 1, folder=tmp_path)
    env = make("tag_gridworld-v0", 2, autoreset_mode="SAME_STEP", device="cpu")
    with pytest.raises(ParameterError, match="have a centralised critic; set central_critic=True"):
        run(env, PPO(), 1, policies={"tagger": PolicySpec(weights=tmp_path)})
    run(env, PPO(rollout_steps=8), 1, policies={"tagger": PolicySpec(weights=tmp_path, frozen=True)})


def test_a_network_without_a_name_is_trained_but_not_written(make: Make, tmp_path: Path) -> None:
    env = make("tag_gridworld-v0", 2, autoreset_mode="SAME_STEP", device="cpu")
    specs = {"tagger": PolicySpec(network=functools.partial(Linear))}
    run(env, PPO(rollout_steps=4), 1, policies=specs)
    with pytest.raises(ParameterError, match="at the top level of a module"):
        run(env, PPO(rollout_steps=4), 1, policies=specs, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")  # torch's own, in some versions
def test_a_policy_is_a_plain_module(make: Make, tmp_path: Path) -> None:
    """It can be exported, written and loaded by torch alone."""
    env = make("tag_gridworld-v0", 4, autoreset_mode="SAME_STEP", device="cpu")
    algorithm = PPO(rollout_steps=8, normalize_observations=True, normalize_returns=True, **SMALL)
    policy = run(env, algorithm, 1_000).policies["tagger"]
    observation = env.reset()["tagger"].clone()
    exported = torch.export.export(policy, (observation,))
    torch.export.save(exported, tmp_path / "policy.pt2")
    loaded = torch.export.load(tmp_path / "policy.pt2").module()
    for mine, theirs in zip(policy(observation), loaded(observation), strict=True):
        torch.testing.assert_close(mine, theirs)


# ---- runs ----


@pytest.mark.parametrize("algorithm", [PPO(**SMALL), A2C(rollout_steps=32, **SMALL)], ids=lambda a: a.name)
def test_training_is_reproducible(make: Make, algorithm: Algorithm) -> None:
    weights = []
    for global_seed in (1, 2):  # which has no say
        torch.manual_seed(global_seed)
        env = make("tag_gridworld-v0", 8, autoreset_mode="SAME_STEP", seed=3, num_taggers=2)
        result = run(env, algorithm, 1_500, seed=5)
        assert result.agent_steps == 2 * 8 * 3 * 32
        weights.append(result.policies["runner"].state_dict())
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


@pytest.mark.parametrize("algorithm", [PPO(rollout_steps=16, **SMALL), A2C(**SMALL)], ids=lambda a: a.name)
def test_continuous_actions_are_trained_on_every_device(make: Make, algorithm: Algorithm) -> None:
    env = make("tag_continuous-v0", 8, autoreset_mode="SAME_STEP", continuous_actions=True, **TAG)
    result = run(env, algorithm, 1_000)
    assert math.isfinite(result.history[-1]["tagger/policy_loss"])
    assert result.history[-1]["runner/episode_length"] > 0


def test_bfloat16_changes_little(make: Make) -> None:
    values = []
    for bfloat16 in (False, True):
        env = make("tag_gridworld-v0", 8, autoreset_mode="SAME_STEP", seed=3, num_taggers=2)
        result = run(env, PPO(bfloat16=bfloat16, **SMALL), 1_500)
        policy = result.policies["tagger"]
        assert policy.network.actor_head.weight.dtype == torch.float32
        values.append(policy.value(env.reset(seed=1)["tagger"]))
    assert not torch.equal(*values)
    torch.testing.assert_close(*values, rtol=0.1, atol=0.1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")  # torch.compile's advice
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's compiler uses them itself
def test_a_compiled_loss_gives_the_same_update(make: Make) -> None:
    weights = []
    for compile_loss in (False, True):
        env = make("tag_gridworld-v0", 8, autoreset_mode="SAME_STEP", seed=3, num_taggers=2)
        result = run(env, PPO(compile_loss=compile_loss, **SMALL), 1_500)
        weights.append(result.policies["tagger"].network.actor_head.weight)
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)


def test_a_loss_that_is_not_finite_stops_training(tmp_path: Path) -> None:
    """And leaves a checkpoint from before, although none was due."""
    iterations = 0

    def count(_: Session) -> None:
        nonlocal iterations
        iterations += 1

    def broken(context: Tensor, action: Tensor) -> Tensor:
        return torch.full(context.shape, math.nan) if iterations == 3 else matching_bit(context, action)

    env = FakeEnv(broken)
    with pytest.raises(TrainingError, match=r"iteration 4: the \w+ of policy 'player' is nan \(the checkpoint in"):
        run(env, FAST, 10_000, folder=tmp_path, after_iteration=count)
    checkpoint = Checkpoint.load(tmp_path)
    assert checkpoint.iteration == 0
    assert all(tensor.isfinite().all() for tensor in checkpoint.policies["player"]["weights"].values())


def test_training_refuses_what_it_cannot_train_on(make: Make, tmp_path: Path) -> None:
    env = make("tag_gridworld-v0", 2)
    with pytest.raises(ParameterError, match="SAME_STEP"):
        train(env, PPO(), total_steps=10, folder=tmp_path / "run")
    env = make("tag_gridworld-v0", 2, autoreset_mode="SAME_STEP")
    with pytest.raises(ParameterError, match="total_steps"):
        train(env, PPO(), total_steps=0, folder=tmp_path / "run")
    with pytest.raises(ParameterError, match=r"centralised critic needs an environment made with .*DISABLED"):
        train(env, PPO(central_critic=True), total_steps=10, folder=tmp_path / "run")
    env = make("tag_gridworld-v0", 2, autoreset_mode="DISABLED")
    with pytest.raises(ParameterError, match="has a trunk of its own"):
        train(env, PPO(central_critic=True, shared_trunk=True), total_steps=10, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
