"""Training against formulas in plain NumPy, and by learning: small games whose best play is known, then Tag."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Space
from references.games import FAST, SMALL, FakeEnv, matching_bit, play
from torch import Tensor

from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.errors import ParameterError
from gpu_marl_envs.spec import Group
from gpu_marl_envs.training import (
    PPO,
    ActorCritic,
    RandomPolicy,
    TrainingError,
    train,
)
from gpu_marl_envs.training.policies import action_distribution
from gpu_marl_envs.training.ppo import Samples, clipped_objective
from gpu_marl_envs.training.rollout import Rollout, generalized_advantages, value_after_step

Make = Callable[..., BatchedEnv]
TAG = {"num_taggers": 2, "num_runners": 3, "episode_length": 12, "tagging_distance": 0.1}


pytestmark = pytest.mark.usefixtures("one_thread")

# ---- advantages ----


def test_advantages_are_those_of_the_paper() -> None:
    random = np.random.default_rng(0)
    shape = (20, 5, 3)
    reward, value, next_value = random.normal(size=(3, *shape))
    terminated = random.random(shape) < 0.1
    ended = terminated | (random.random(shape) < 0.1)
    discount, gae_lambda = 0.9, 0.8

    expected = np.zeros(shape)
    for t, e, i in np.ndindex(*shape):
        weight = 1.0
        for later in range(t, shape[0]):
            bootstrap = 0.0 if terminated[later, e, i] else next_value[later, e, i]
            expected[t, e, i] += weight * (reward[later, e, i] + discount * bootstrap - value[later, e, i])
            if ended[later, e, i]:
                break
            weight *= discount * gae_lambda

    arguments = (torch.as_tensor(array) for array in (reward, value, next_value, terminated, ended))
    actual = generalized_advantages(*arguments, discount, gae_lambda)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-10, atol=1e-12)


def test_each_truncation_bootstraps_from_its_own_final_observation() -> None:
    value = torch.arange(6.0).reshape(6, 1, 1).expand(6, 2, 3)  # V(s_t) = t
    final_value = torch.tensor([[10.0, 20.0], [11.0, 21.0], [12.0, 22.0]])[..., None].expand(3, 2, 3)
    truncated = torch.tensor([[0, 1], [1, 0], [0, 0], [1, 1], [0, 0]], dtype=torch.bool)
    expected = np.array([[1, 20], [10, 2], [3, 3], [11, 21], [5, 5]], dtype=np.float32)
    actual = value_after_step(value, final_value, truncated)
    for agent in range(3):
        np.testing.assert_array_equal(actual[..., agent], expected)


def test_a_rollout_holds_what_the_environment_did(make: Make, device: str) -> None:
    env = make("tag_continuous-v0", 7, autoreset_mode="SAME_STEP", **TAG)
    steps = 30  # more than two episodes
    policies = {name: ActorCritic(group, **SMALL).to(device) for name, group in env.groups.items()}
    rollout = Rollout(env, policies, steps)
    generator = torch.Generator(device).manual_seed(0)
    rollout.collect(generator)
    last = {name: group.observation[-1].clone() for name, group in rollout.groups.items()}
    saved = env.state.save()
    rollout.collect(generator)  # starts where the first one stopped

    again = make("tag_continuous-v0", 7, autoreset_mode="SAME_STEP", **TAG)
    again.state.restore(saved)
    finals: list[list[Tensor]] = [[] for _ in range(7)]
    for name, group in rollout.groups.items():
        assert torch.equal(group.observation[0], last[name])
    for t in range(steps):
        alive = again.alive.clone()
        actions = {name: group.action[t] for name, group in rollout.groups.items()}
        observation, reward, terminated, truncated, info = again.step(actions)
        assert torch.equal(rollout.truncated[t], truncated)
        assert torch.equal(rollout.done[t], info["done"])
        for copy in truncated.nonzero().flatten().tolist():
            finals[copy].append(info["final_obs"]["tagger"][copy].clone())
        for name, group in rollout.groups.items():
            assert torch.equal(group.live[t], alive[:, again.agent_slices[name]])
            assert torch.equal(group.observation[t + 1], observation[name])
            assert torch.equal(group.reward[t], reward[name])
            assert torch.equal(group.terminated[t], terminated[name])
    assert sum(map(len, finals)) > 7
    for copy, expected in enumerate(finals):
        for slot, final in enumerate(expected):
            assert torch.equal(rollout.groups["tagger"].final_observation[slot, copy], final)
    for name, group in rollout.groups.items():
        log_prob, _ = policies[name].log_prob_and_entropy(group.observation[:-1], group.action)
        torch.testing.assert_close(group.log_prob, log_prob)


# ---- distributions ----


@pytest.mark.parametrize("space", [Discrete(4), MultiDiscrete([4]), MultiDiscrete([3, 5, 2])], ids=str)
def test_categorical_actions(space: Space) -> None:
    counts = [space.n] if isinstance(space, Discrete) else space.nvec.tolist()
    distribution = action_distribution(space)
    width = distribution.num_parameters // len(counts)
    parameters = torch.randn(distribution.num_parameters, generator=torch.Generator().manual_seed(0))
    probabilities = []
    for i, count in enumerate(counts):
        exponentials = np.exp(parameters[i * width : i * width + count].double().numpy())
        probabilities.append(exponentials / exponentials.sum())

    samples = 20_000
    action, log_prob = distribution.sample(parameters.expand(samples, -1), torch.Generator().manual_seed(1))
    assert action.shape == (samples, *(space.shape or ()))
    components = action.reshape(samples, len(counts)).numpy()
    expected_log_prob = np.zeros(samples)
    for component, p in zip(components.T, probabilities, strict=True):
        frequency = np.bincount(component, minlength=len(p)) / samples
        np.testing.assert_allclose(frequency, p, atol=5 * math.sqrt(0.25 / samples))  # five standard errors
        expected_log_prob += np.log(p)[component]
    np.testing.assert_allclose(log_prob, expected_log_prob, rtol=1e-5)

    again, entropy = distribution.log_prob_and_entropy(parameters.expand(samples, -1), action)
    np.testing.assert_allclose(again, expected_log_prob, rtol=1e-5)
    np.testing.assert_allclose(entropy, -sum((p * np.log(p)).sum() for p in probabilities), rtol=1e-5)
    mode = distribution.mode(parameters).reshape(len(counts))
    assert mode.tolist() == [int(p.argmax()) for p in probabilities]


def test_actions_that_do_not_exist_have_no_gradient() -> None:
    distribution = action_distribution(MultiDiscrete([2, 4]))
    parameters = torch.zeros(8, requires_grad=True)
    log_prob, entropy = distribution.log_prob_and_entropy(parameters, torch.tensor([1, 3]))
    (log_prob + entropy).backward()
    assert parameters.grad is not None
    assert parameters.grad.isfinite().all()
    assert parameters.grad[2:4].tolist() == [0.0, 0.0]


def test_gaussian_actions() -> None:
    low, high = np.array([-2.0, 0.0, -np.inf], np.float32), np.array([4.0, 1.0, np.inf], np.float32)
    distribution = action_distribution(Box(low, high))
    log_std = torch.tensor([-0.5, 0.0, 0.3])
    with torch.no_grad():
        distribution.log_std.copy_(log_std)
    mean = torch.tensor([0.1, -0.2, 0.3]).expand(20_000, 3)
    with torch.no_grad():
        action, log_prob = distribution.sample(mean, torch.Generator().manual_seed(0))
    std = log_std.exp().numpy()
    np.testing.assert_allclose(action.mean(0), mean[0], atol=0.05)
    np.testing.assert_allclose(action.std(0), std, rtol=0.03)
    z = (action - mean).numpy() / std
    expected = (-0.5 * z**2 - np.log(std) - 0.5 * np.log(2 * np.pi)).sum(-1)
    again, entropy = distribution.log_prob_and_entropy(mean, action)
    for actual in (log_prob, again):
        np.testing.assert_allclose(actual.detach(), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(entropy[0].item(), (0.5 * np.log(2 * np.pi * np.e * std**2)).sum(), rtol=1e-5)

    in_units = torch.tensor([[-1.0, -1.0, 7.0], [0.0, 0.0, -7.0], [3.0, 3.0, 0.0]])
    np.testing.assert_allclose(distribution.to_environment(in_units), [[-2, 0, 7], [1, 0.5, -7], [4, 1, 0]])


@pytest.mark.parametrize("space", [Discrete(3), MultiDiscrete([2, 5]), Box(-3.0, 1.0, (2,))], ids=str)
def test_random_policy_is_uniform(space: Space) -> None:
    action = RandomPolicy(space).act(torch.zeros(200, 50, 4), torch.Generator().manual_seed(0))
    assert action.shape == (200, 50, *(space.shape or ()))
    columns = action.reshape(10_000, -1).double().T
    if isinstance(space, Box):
        for column in columns:
            assert abs(column.mean() + 1.0) < 0.06
            assert abs(column.std() - 4 / math.sqrt(12)) < 0.05
    else:
        counts = [space.n] if isinstance(space, Discrete) else space.nvec
        for column, count in zip(columns, counts, strict=True):
            frequency = np.bincount(column.int().numpy(), minlength=count) / 10_000
            np.testing.assert_allclose(frequency, 1 / count, atol=0.025)


# ---- the loss ----


def test_clipped_objective() -> None:
    ratio = np.array([0.5, 0.5, 0.9, 1.1, 1.5, 1.5])
    advantage = np.array([1.0, -1.0, 2.0, -2.0, 1.0, -1.0])
    expected = [0.5, -0.8, 1.8, -2.2, 1.2, -1.5]
    actual = clipped_objective(torch.as_tensor(np.log(ratio)), torch.as_tensor(advantage), 0.2)
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_loss_is_the_sum_of_its_terms() -> None:
    group = Group("player", 1, Box(-1.0, 1.0, (3,), np.float32), Discrete(4))
    policy = ActorCritic(group, **SMALL)
    random = torch.Generator().manual_seed(0)
    n = 50
    observation, old, advantage, value, target = (torch.randn(n, k, generator=random) for k in (3, 1, 1, 1, 1))
    samples = Samples(
        observation,
        torch.randint(4, (n,), generator=random),
        old[:, 0] * 0.3 - 1.4,
        advantage[:, 0],
        value[:, 0],
        target[:, 0],
    )
    algorithm = PPO(value_coefficient=0.7, entropy_coefficient=0.03, clip_range=0.1)
    loss, terms = algorithm.loss(policy, samples)

    logits = policy.actor(observation).double().detach().numpy()
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    log_ratio = np.log(p[np.arange(n), samples.action]) - samples.log_prob.numpy()
    ratio, a = np.exp(log_ratio), samples.advantage.numpy()
    policy_loss = -np.minimum(ratio * a, np.clip(ratio, 0.9, 1.1) * a).mean()
    value_loss = 0.5 * ((policy.critic(observation)[:, 0].detach().numpy() - samples.target.numpy()) ** 2).mean()
    entropy = -(p * np.log(p)).sum(-1).mean()
    expected = {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        "approximate_kl": (ratio - 1 - log_ratio).mean(),
        "clipped_fraction": (np.abs(ratio - 1) > 0.1).mean(),
    }
    assert terms.keys() == expected.keys()
    for key, term in terms.items():
        np.testing.assert_allclose(term.item(), expected[key], rtol=1e-4, atol=1e-6, err_msg=key)
    np.testing.assert_allclose(loss.item(), policy_loss + 0.7 * value_loss - 0.03 * entropy, rtol=1e-4)


def test_steps_of_agents_that_left_are_in_no_mean(make: Make, device: str) -> None:
    env = make("tag_continuous-v0", 16, autoreset_mode="SAME_STEP", **TAG)
    policies = {name: ActorCritic(group, **SMALL).to(device) for name, group in env.groups.items()}
    rollout = Rollout(env, policies, 24)
    rollout.collect(torch.Generator(device).manual_seed(0))
    runner = rollout.groups["runner"]
    assert 0 < (~runner.live).sum() < runner.live.numel()
    poison = torch.full_like(runner.reward, 1e6)
    runner.reward.copy_(torch.where(runner.live, runner.reward, poison))
    runner.log_prob.copy_(torch.where(runner.live, runner.log_prob, poison))
    samples = PPO().live_samples(rollout, "runner")
    assert len(samples.target) == runner.live.sum()
    assert all(field.abs().max() < 100 for field in samples)
    assert abs(samples.advantage.mean().item()) < 1e-5
    assert abs(samples.advantage.std(correction=0).item() - 1) < 1e-3


def test_every_sample_is_in_one_minibatch_of_every_epoch() -> None:
    samples = Samples(*(torch.arange(10.0) for _ in range(6)))
    batches = list(PPO(epochs=3, minibatches=4).shuffled_minibatches(samples, torch.Generator()))
    sizes = [len(batch.target) for batch in batches]
    assert sizes == [3, 3, 3, 1] * 3
    for epoch in (batches[:4], batches[4:8], batches[8:]):
        assert sorted(torch.cat([batch.target for batch in epoch]).tolist()) == list(range(10))


# ---- learning ----


def matching_bits(context: Tensor, action: Tensor) -> Tensor:
    return ((action[..., 0] == context).float() + (action[..., 1] == 2 * (1 - context)).float()) / 2


def nearness(context: Tensor, action: Tensor) -> Tensor:
    """1 - |a - target| for targets that lie off the middle of the space."""
    return 1 - (action[..., 0] - (3.5 - 3 * context)).abs()


@pytest.mark.parametrize(
    ("reward", "space", "good"),
    [
        (matching_bit, Discrete(2), 1.0),
        (matching_bits, MultiDiscrete([2, 3]), 1.0),
        (nearness, Box(0.0, 4.0, (1,)), 0.8),
    ],
    ids=["Discrete", "MultiDiscrete", "Box"],
)
def test_ppo_learns_a_contextual_bandit(reward: Callable[[Tensor, Tensor], Tensor], space: Space, good: float) -> None:
    env = FakeEnv(reward, space, copies=32, max_steps=1, terminates=True)
    algorithm = dataclasses.replace(FAST, entropy_coefficient=0.0)
    result = train(env, algorithm, total_steps=40_000, progress=False)
    assert play(env, result) >= good


@pytest.mark.parametrize(("terminates", "expected"), [(False, 2.0), (True, 1.0)], ids=["truncation", "termination"])
def test_values_tell_truncation_from_termination(terminates: bool, expected: float) -> None:
    """Every step pays 1, so with γ = 1/2 a game without an end is worth 2, even if it is cut after every step."""
    env = FakeEnv(lambda context, _: torch.ones(context.shape), max_steps=1, terminates=terminates)
    algorithm = dataclasses.replace(FAST, learning_rate=3e-3, value_coefficient=1.0)
    result = train(env, algorithm, total_steps=30_000, progress=False)
    assert result.policies["player"].value(torch.eye(2)).mean().item() == pytest.approx(expected, abs=0.05)


def test_rewards_after_leaving_are_not_learnt_from() -> None:
    """The second agent leaves after its first step; what it would be paid later favours the wrong action."""
    env: FakeEnv

    def reward(context: Tensor, action: Tensor) -> Tensor:
        right = (action == context).float()
        return torch.where(env.alive, right, 10 * (1 - right))

    env = FakeEnv(reward, leaves=True, max_steps=8)
    result = train(env, FAST, total_steps=20_000, progress=False)
    env.alive.fill_(True)
    assert play(env, result) == 1.0


def test_training_is_reproducible(make: Make) -> None:
    weights = []
    for _ in range(2):
        env = make("tag_gridworld-v0", 8, autoreset_mode="SAME_STEP", seed=3, num_taggers=2)
        result = train(env, PPO(**SMALL), total_steps=1_500, seed=5, progress=False)
        assert result.agent_steps == 2 * 8 * 3 * 32
        weights.append(result.policies["runner"].state_dict())
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


def test_ppo_trains_continuous_actions_on_every_device(make: Make) -> None:
    env = make("tag_continuous-v0", 8, autoreset_mode="SAME_STEP", continuous_actions=True, **TAG)
    result = train(env, PPO(rollout_steps=16, **SMALL), total_steps=1_000, progress=False)
    assert math.isfinite(result.history[-1]["tagger/policy_loss"])
    assert result.history[-1]["runner/episode_length"] > 0


def test_a_loss_that_is_not_finite_stops_training(tmp_path: Path) -> None:
    env = FakeEnv(lambda context, _: torch.full(context.shape, math.nan))
    with pytest.raises(TrainingError, match=r"iteration 1: the \w+ of policy 'player' is nan"):
        train(env, FAST, total_steps=1_000, folder=tmp_path, progress=False)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_training_refuses_what_it_cannot_train_on(make: Make) -> None:
    env = make("tag_gridworld-v0", 2)
    with pytest.raises(ParameterError, match="SAME_STEP"):
        train(env, PPO(), total_steps=10)
    with pytest.raises(ParameterError, match="total_steps"):
        train(make("tag_gridworld-v0", 2, autoreset_mode="SAME_STEP"), PPO(), total_steps=0)
