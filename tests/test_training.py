"""Training against formulas in plain NumPy, and by learning: small games whose best play is known, then Tag."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import math
import os
import runpy
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Space
from gymnasium.vector import AutoresetMode
from torch import Tensor

from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.errors import ParameterError
from gpu_marl_envs.spec import Group
from gpu_marl_envs.training import (
    PPO,
    ActorCritic,
    Checkpoint,
    CheckpointError,
    RandomPolicy,
    Session,
    TrainingError,
    algorithms,
    train,
)
from gpu_marl_envs.training.evaluate import Estimate, cross_play, evaluate
from gpu_marl_envs.training.policies import action_distribution
from gpu_marl_envs.training.ppo import Samples, clipped_objective
from gpu_marl_envs.training.rollout import Rollout, generalized_advantages, value_after_step

Make = Callable[..., BatchedEnv]
TAG = {"num_taggers": 2, "num_runners": 3, "episode_length": 12, "tagging_distance": 0.1}
SMALL = {"hidden_size": 16, "hidden_layers": 1}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tests run side by side, and threads of small networks that wait for a busy core take many times longer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ---- small games ----


@dataclasses.dataclass(frozen=True)
class FakeDeclaration:
    """What training asks of a declaration."""

    max_steps: int
    id: str = "fake-v0"

    def params(self) -> dict[str, Any]:
        return {}


class FakeEnv:
    """A batch of copies whose agents observe one of two contexts; a game says what is paid, and what ends.

    It resets finished copies in the same step, as ``BatchedEnv`` does. Observations are one-hot contexts.
    """

    autoreset_mode = AutoresetMode.SAME_STEP

    def __init__(
        self,
        reward: Callable[[Tensor, Tensor], Tensor],
        action_space: Space = Discrete(2),  # noqa: B008
        *,
        copies: int = 16,
        agents: int = 2,
        max_steps: int = 4,
        terminates: bool = False,
        leaves: bool = False,
    ) -> None:
        self.device = torch.device("cpu")
        self.declaration = FakeDeclaration(max_steps)
        self.num_envs, self.num_agents = copies, agents
        group = Group("player", agents, Box(0.0, 1.0, (2,), np.float32), action_space)
        self.groups, self.agent_slices = {"player": group}, {"player": slice(0, agents)}
        self.alive = torch.ones(copies, agents, dtype=torch.bool)
        self._reward, self._terminates, self._leaves = reward, terminates, leaves
        self._random = torch.Generator().manual_seed(0)
        self._time = 0

    def reset(self) -> dict[str, Tensor]:
        self._time = 0
        self.alive.fill_(True)
        return {"player": self._draw()}

    def _draw(self) -> Tensor:
        self.context = torch.randint(2, (self.num_envs, self.num_agents), generator=self._random)
        return torch.nn.functional.one_hot(self.context, 2).float()

    def step(self, actions: Mapping[str, Tensor], out: Mapping[str, Any]) -> tuple[Any, ...]:
        action = actions["player"]
        assert action.shape == (self.num_envs, self.num_agents, *self.groups["player"].action_shape)
        self._time += 1
        out["reward"]["player"].copy_(self._reward(self.context, action))
        if self._leaves:  # the second agent is gone after its first step
            self.alive[:, 1] = False
        last = self._time == self.declaration.max_steps
        out["terminated"]["player"].copy_(~self.alive | (last and self._terminates))
        out["truncated"].fill_(last and not self._terminates)
        out["done"].fill_(last)
        final = self._draw()
        out["observation"]["player"].copy_(self.reset()["player"] if last else self._draw())
        statistics = torch.ones(self.num_envs)
        info = {name: {"player": statistics} for name in ("episode_return", "episode_length")}
        return None, None, None, None, info | {"final_obs": {"player": final}}


def play(env: FakeEnv, result: Any) -> Tensor:
    """Mean reward of the most probable actions, in a fresh observation."""
    observation = env.reset()["player"]
    action = result.policies["player"].act(observation, torch.Generator(), deterministic=True)
    return env._reward(env.context, action).mean()


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


FAST = PPO(rollout_steps=8, learning_rate=1e-2, discount=0.5, anneal_learning_rate=False, **SMALL)


def matching_bit(context: Tensor, action: Tensor) -> Tensor:
    return (action == context).float()


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


# ---- hyperparameters ----


def test_algorithms_are_found() -> None:
    assert algorithms()["ppo"] is PPO


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rates": 1.0}, "did you mean 'learning_rate'"),
        ({"discount": 1.5}, "discount must be a number from 0 to 1, but 1.5"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1"),
        ({"activation": "sine"}, "activation must be one of 'tanh', 'relu'"),
    ],
)
def test_hyperparameters_are_checked(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        PPO.make(**values)


def test_every_hyperparameter_is_documented() -> None:
    for parameter in PPO.parameters():
        assert len(parameter.doc) > 10, parameter.name


# ---- metrics and checkpoints ----


def test_a_run_leaves_metrics_and_a_checkpoint(tmp_path: Path) -> None:
    env = FakeEnv(matching_bit)
    folder = tmp_path / "runs" / "one"
    result = train(env, FAST, total_steps=2_000, folder=folder, progress=False)
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(result.history) == math.ceil(2_000 / (8 * 16 * 2))
    assert float(rows[-1]["agent_steps"]) == result.agent_steps
    assert {"player/episode_return", "player/entropy", "agent_steps_per_second"} <= rows[0].keys()
    assert list(folder.glob("events.out.tfevents.*"))
    assert result.checkpoint == folder / "checkpoint.pt"

    checkpoint = Checkpoint.load(result.checkpoint)
    assert (checkpoint.env_id, checkpoint.algorithm, checkpoint.iteration) == ("fake-v0", "ppo", len(rows))
    assert PPO.make(**checkpoint.hyperparameters) == FAST
    policy = checkpoint.restore_policies(env)["player"]
    observation = torch.eye(2)[None]
    for deterministic in (True, False):
        actions = [
            p.act(observation, torch.Generator().manual_seed(0), deterministic=deterministic)
            for p in (policy, result.policies["player"])
        ]
        assert torch.equal(*actions)


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint = Checkpoint("fake-v0", {}, "ppo", {}, 1, 10, 0, {}, {})
    checkpoint.save(path)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        dataclasses.replace(checkpoint, iteration=2).save(path)
    assert Checkpoint.load(path) == checkpoint
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_are_not_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        Checkpoint.load(tmp_path / "missing.pt")
    text = tmp_path / "text.pt"
    text.write_text("hello")
    other = tmp_path / "other.pt"
    torch.save({"weights": torch.zeros(1)}, other)
    newer = tmp_path / "newer.pt"
    torch.save({"format": 99}, newer)
    for path, message in ((text, "not a readable"), (other, "not a checkpoint"), (newer, "another version")):
        with pytest.raises(CheckpointError, match=message):
            Checkpoint.load(path)


def test_a_checkpoint_says_what_does_not_fit(tmp_path: Path) -> None:
    result = train(FakeEnv(matching_bit), FAST, total_steps=1, folder=tmp_path, progress=False)
    checkpoint = Checkpoint.load(result.checkpoint)
    with pytest.raises(CheckpointError, match="'player' was trained with other"):
        checkpoint.restore_policies(FakeEnv(matching_bit, Discrete(3)))
    env = FakeEnv(matching_bit)
    env.groups = {"other": env.groups["player"]}
    with pytest.raises(CheckpointError, match="policies for player"):
        checkpoint.restore_policies(env)


def test_interrupt_ends_a_run_with_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)

    def interrupt(session: Session) -> None:
        if session.iteration == 3:
            signal.raise_signal(signal.SIGINT)

    env = FakeEnv(matching_bit)
    result = train(env, FAST, total_steps=10**6, folder=tmp_path, progress=False, after_iteration=interrupt)
    assert result.interrupted
    assert Checkpoint.load(result.checkpoint).iteration == 3
    assert signal.getsignal(signal.SIGINT) is before
    assert "press Ctrl-C again" in capsys.readouterr().err


def test_a_second_interrupt_ends_a_run_at_once(tmp_path: Path) -> None:
    def interrupt(_: Session) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(FakeEnv(matching_bit), FAST, total_steps=10**6, progress=False, after_iteration=interrupt)


def test_a_run_can_be_limited_in_time() -> None:
    result = train(FakeEnv(matching_bit), FAST, total_steps=10**9, max_seconds=0.2, progress=False)
    assert 0 < result.agent_steps < 10**9


# ---- evaluation ----


def test_estimate() -> None:
    samples = torch.tensor([1.0, 2.0, 4.0])
    estimate = Estimate.of(samples)
    assert estimate.mean == pytest.approx(7 / 3)
    assert estimate.standard_error == pytest.approx(np.std(samples.numpy(), ddof=1) / math.sqrt(3))
    assert math.isnan(Estimate.of(samples[:1]).standard_error)


def test_evaluation_plays_one_whole_episode_per_copy(make: Make) -> None:
    """In the gridworld the length of an episode and who won give the returns."""
    env = make("tag_gridworld-v0", 500, autoreset_mode="DISABLED", num_taggers=3, wall_hit_penalty=0.0)
    random = {name: RandomPolicy(group.action_space) for name, group in env.groups.items()}
    scores = evaluate(env, random, seed=1)
    tagged = scores["runner"].terminated.mean
    assert 0 < tagged <= 1
    assert scores["tagger"].terminated.mean == pytest.approx(3 * tagged)
    length = scores["runner"].episode_length.mean
    expected = 10.0 * tagged - 0.01 * (length - tagged)
    assert scores["tagger"].episode_return.mean == pytest.approx(expected, rel=1e-4)
    assert evaluate(env, random, seed=1) == scores
    assert evaluate(env, random, seed=2) != scores


def test_cross_play_mixes_all_groups(make: Make) -> None:
    env = make("tag_gridworld-v0", 50, autoreset_mode="DISABLED", num_taggers=2, episode_length=10)
    device = env.device
    trained = {name: ActorCritic(group, **SMALL).to(device) for name, group in env.groups.items()}
    table = cross_play(env, trained)
    assert set(table.scores) == set(itertools.product(("trained", "random"), repeat=2))
    lines = str(table).splitlines()
    assert len(lines) == 2 + 4
    assert lines[2].startswith("trained  trained")


def test_evaluation_refuses_copies_that_reset_themselves(make: Make) -> None:
    with pytest.raises(ParameterError, match="DISABLED"):
        evaluate(make("tag_gridworld-v0", 2), {})


@pytest.mark.slow
def test_the_demo_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its exit code says whether trained agents beat random ones by the margins that it states."""
    demo = Path(__file__).parents[1] / "examples" / "demo.py"
    monkeypatch.setattr("sys.argv", [str(demo), "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as exit_code:
        runpy.run_path(str(demo), run_name="__main__")
    output = capsys.readouterr()
    assert exit_code.value.code == 0, output
    for name in ("learning_curve.png", "episode.gif", "checkpoint.pt"):
        assert (tmp_path / name).stat().st_size > 10_000, name
        assert str(tmp_path / name) in output.out
