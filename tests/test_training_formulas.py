"""The formulas of training against plain NumPy: distributions, losses, schedules, statistics."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Space
from hypothesis import given
from hypothesis import strategies as st
from references.games import SMALL
from scipy import stats
from torch import Tensor

from gpu_marl_envs.errors import ParameterError
from gpu_marl_envs.spec import Group
from gpu_marl_envs.training import A2C, MLP, PPO, ActorCritic, Algorithm, RandomPolicy, RandomStream, Schedule
from gpu_marl_envs.training.distributions import action_distribution
from gpu_marl_envs.training.evaluate import Estimate
from gpu_marl_envs.training.normalization import RunningNormalizer
from gpu_marl_envs.training.ppo import clipped_objective
from gpu_marl_envs.training.samples import Samples, explained_variance, normalized, weighted_mean

PLAYER = Group("player", 1, Box(-1.0, 1.0, (3,), np.float32), Discrete(4))
SIGNIFICANCE = 1e-4  # seeds are fixed, so that a correct sampler either always passes or was unlucky once for all

pytestmark = pytest.mark.usefixtures("one_thread")

# ---- distributions ----


@pytest.mark.parametrize("space", [Discrete(4), MultiDiscrete([4]), MultiDiscrete([3, 5, 2])], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_categorical_actions(space: Space, masked: bool) -> None:
    counts = [space.n] if isinstance(space, Discrete) else space.nvec.tolist()
    distribution = action_distribution(space)
    width = distribution.num_parameters // len(counts)
    parameters = torch.randn(distribution.num_parameters, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(distribution.num_parameters, dtype=torch.bool)
    if masked:
        mask[[i * width for i in range(len(counts))]] = False  # the first choice of each component
    probabilities = []
    for i, count in enumerate(counts):
        part = slice(i * width, i * width + count)
        exponentials = np.exp(parameters[part].double().numpy()) * mask[part].numpy()
        probabilities.append(exponentials / exponentials.sum())

    samples = 20_000
    given_mask = mask.expand(samples, -1) if masked else None
    arguments = parameters.expand(samples, -1), RandomStream(1), given_mask
    action, log_prob = distribution.sample(*arguments)
    assert action.shape == (samples, *(space.shape or ()))
    components = action.reshape(samples, len(counts)).numpy()
    expected_log_prob = np.zeros(samples)
    for component, p in zip(components.T, probabilities, strict=True):
        frequency = np.bincount(component, minlength=len(p)) / samples
        np.testing.assert_allclose(frequency, p, atol=5 * math.sqrt(0.25 / samples))  # five standard errors
        assert (p[component] > 0).all()
        expected_log_prob += np.log(p[component])
    np.testing.assert_allclose(log_prob, expected_log_prob, rtol=1e-5, atol=1e-6)

    again, entropy = distribution.log_prob_and_entropy(parameters.expand(samples, -1), action, given_mask)
    np.testing.assert_allclose(again, expected_log_prob, rtol=1e-5, atol=1e-6)
    expected_entropy = -sum((p[p > 0] * np.log(p[p > 0])).sum() for p in probabilities)
    np.testing.assert_allclose(entropy, expected_entropy, rtol=1e-5)
    mode = distribution.mode(parameters, mask if masked else None).reshape(len(counts))
    assert mode.tolist() == [int(p.argmax()) for p in probabilities]


def test_impossible_actions_have_no_gradient() -> None:
    distribution = action_distribution(MultiDiscrete([2, 4]))
    parameters = torch.zeros(8, requires_grad=True)
    mask = torch.tensor([True, True, True, True, False, True, True, True])
    log_prob, entropy = distribution.log_prob_and_entropy(parameters, torch.tensor([1, 3]), mask)
    (log_prob + entropy).backward()
    assert parameters.grad is not None
    assert parameters.grad.isfinite().all()
    assert parameters.grad[2:5].tolist() == [0.0, 0.0, 0.0]
    assert (parameters.grad[5:] != 0).any()


def test_a_mask_that_allows_nothing_is_no_disaster() -> None:
    """Environments may mask all actions of agents that have left."""
    distribution = action_distribution(Discrete(3))
    parameters, mask = torch.tensor([[0.0, 1.0, 5.0]], requires_grad=True), torch.zeros(1, 3, dtype=torch.bool)
    action, _ = distribution.sample(parameters, RandomStream(0), mask)
    assert 0 <= action.item() < 3
    log_prob, entropy = distribution.log_prob_and_entropy(parameters, action, mask)
    (log_prob + entropy).sum().backward()
    assert log_prob.isfinite().all() and entropy.isfinite().all()
    assert parameters.grad is not None and parameters.grad.isfinite().all()


def test_gaussian_actions() -> None:
    low, high = np.array([-2.0, 0.0, -np.inf], np.float32), np.array([4.0, 1.0, np.inf], np.float32)
    distribution = action_distribution(Box(low, high))
    log_std = torch.tensor([-0.5, 0.0, 0.3])
    with torch.no_grad():
        distribution.log_std.copy_(log_std)
    mean = torch.tensor([0.1, -0.2, 0.3]).expand(20_000, 3)
    with torch.no_grad():
        action, log_prob = distribution.sample(mean, RandomStream(0))
    std = log_std.exp().numpy()
    np.testing.assert_allclose(action.mean(0), mean[0], atol=0.05)
    np.testing.assert_allclose(action.std(0), std, rtol=0.03)
    expected = stats.norm(mean.numpy(), std).logpdf(action.numpy()).sum(-1)
    again, entropy = distribution.log_prob_and_entropy(mean, action)
    for actual in (log_prob, again):
        np.testing.assert_allclose(actual.detach(), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(entropy[0].item(), stats.norm(0, std).entropy().sum(), rtol=1e-5)

    in_units = torch.tensor([[-1.0, -1.0, 7.0], [0.0, 0.0, -7.0], [3.0, 3.0, 0.0]])
    np.testing.assert_allclose(distribution.to_environment(in_units), [[-2, 0, 7], [1, 0.5, -7], [4, 1, 0]])


@pytest.mark.parametrize("space", [Discrete(3), MultiDiscrete([2, 5]), Box(-3.0, 1.0, (2,))], ids=str)
def test_random_policy_is_uniform(space: Space) -> None:
    action = RandomPolicy(space).act(torch.zeros(200, 50, 4), RandomStream(0))
    assert action.shape == (200, 50, *(space.shape or ()))
    columns = action.reshape(10_000, -1).numpy().T
    if isinstance(space, Box):
        for column in columns:
            assert stats.kstest(column, stats.uniform(-3, 4).cdf).pvalue > SIGNIFICANCE
    else:
        counts = [space.n] if isinstance(space, Discrete) else space.nvec
        for column, count in zip(columns, counts, strict=True):
            assert stats.chisquare(np.bincount(column, minlength=count)).pvalue > SIGNIFICANCE


def test_random_policy_respects_masks() -> None:
    mask = torch.tensor([False, True, True]).expand(200, 50, 3)
    action = RandomPolicy(Discrete(3)).act(torch.zeros(200, 50, 4), RandomStream(0), mask=mask)
    assert sorted(action.unique().tolist()) == [1, 2]


# ---- losses ----


def random_samples(n: int = 50, *, dead: bool = True, dtype: torch.dtype = torch.float32) -> Samples:
    """Samples of a player with four actions; some, if ``dead``, are of no weight and hold nonsense."""
    random = torch.Generator().manual_seed(0)
    observation = torch.randn(n, 3, generator=random, dtype=dtype)
    old, advantage, value, target = torch.randn(4, n, generator=random, dtype=dtype)
    weight = torch.ones(n, dtype=dtype)
    mask = torch.rand(n, 4, generator=random) < 0.8
    action = torch.randint(4, (n,), generator=random)
    mask[torch.arange(n), action] = True
    if dead:
        weight[::3] = 0.0
        for field in (old, advantage, value, target):
            field[::3] = 1e3
    return Samples(observation, action, old * 0.3 - 1.4, advantage, value, target, weight, mask, None)


def in_numpy(policy: ActorCritic, samples: Samples) -> dict[str, np.ndarray]:
    """Arrays of the samples that count, the policy's probabilities among them."""
    live = samples.weight.numpy() > 0
    parameters, value = policy(samples.observation)
    logits = np.where(samples.mask.numpy(), parameters.double().detach().numpy(), -np.inf)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    arrays = {
        "log_prob": np.log(probabilities[np.arange(len(live)), samples.action]),
        "entropy": -(probabilities * np.log(np.where(probabilities > 0, probabilities, 1.0))).sum(-1),
        "value": value.detach().numpy(),
        "old_log_prob": samples.log_prob.numpy(),
        "advantage": samples.advantage.numpy(),
        "old_value": samples.value.numpy(),
        "target": samples.target.numpy(),
    }
    return {name: array[live].astype(np.float64) for name, array in arrays.items()}


@pytest.mark.parametrize("clip_values", [False, True])
def test_the_loss_of_ppo_is_the_sum_of_its_terms(clip_values: bool) -> None:
    policy, samples = ActorCritic(PLAYER, MLP(**SMALL)), random_samples()
    algorithm = PPO(value_coefficient=0.7, clip_values=clip_values)
    loss, terms = algorithm.loss(policy, samples, torch.tensor(0.1), torch.tensor(0.03))

    x = in_numpy(policy, samples)
    log_ratio = x["log_prob"] - x["old_log_prob"]
    ratio = np.exp(log_ratio)
    policy_loss = -np.minimum(ratio * x["advantage"], np.clip(ratio, 0.9, 1.1) * x["advantage"]).mean()
    error = (x["value"] - x["target"]) ** 2
    if clip_values:
        clipped = x["old_value"] + np.clip(x["value"] - x["old_value"], -0.1, 0.1)
        assert (error < (clipped - x["target"]) ** 2).any()
        error = np.maximum(error, (clipped - x["target"]) ** 2)
    expected = {
        "policy_loss": policy_loss,
        "value_loss": 0.5 * error.mean(),
        "entropy": x["entropy"].mean(),
        "approximate_kl": (ratio - 1 - log_ratio).mean(),
        "clipped_fraction": (np.abs(ratio - 1) > 0.1).mean(),
    }
    assert terms.keys() == expected.keys()
    for key, term in terms.items():
        np.testing.assert_allclose(term.item(), expected[key], rtol=1e-4, atol=1e-6, err_msg=key)
    total = policy_loss + 0.7 * expected["value_loss"] - 0.03 * expected["entropy"]
    np.testing.assert_allclose(loss.item(), total, rtol=1e-4)


def test_the_loss_of_a2c_is_the_sum_of_its_terms() -> None:
    policy, samples = ActorCritic(PLAYER, MLP(**SMALL)), random_samples()
    loss, terms = A2C(value_coefficient=0.7).loss(policy, samples, torch.tensor(0.03))
    x = in_numpy(policy, samples)
    expected = {
        "policy_loss": -(x["log_prob"] * x["advantage"]).mean(),
        "value_loss": 0.5 * ((x["value"] - x["target"]) ** 2).mean(),
        "entropy": x["entropy"].mean(),
    }
    assert terms.keys() == expected.keys()
    for key, term in terms.items():
        np.testing.assert_allclose(term.item(), expected[key], rtol=1e-4, atol=1e-6, err_msg=key)
    total = expected["policy_loss"] + 0.7 * expected["value_loss"] - 0.03 * expected["entropy"]
    np.testing.assert_allclose(loss.item(), total, rtol=1e-4)


@pytest.mark.parametrize("algorithm", [PPO(clip_values=True), A2C()], ids=lambda a: a.name)
@pytest.mark.parametrize("space", [Discrete(4), MultiDiscrete([2, 4]), Box(-1.0, 1.0, (2,))], ids=str)
@pytest.mark.parametrize("shared_trunk", [False, True])
def test_gradients_are_those_of_finite_differences(algorithm: Algorithm, space: Space, shared_trunk: bool) -> None:
    torch.manual_seed(0)
    group = Group("player", 1, PLAYER.observation_space, space)
    policy = ActorCritic(group, MLP(3, 1, shared_trunk=shared_trunk)).double()
    samples = random_samples(12, dtype=torch.float64)
    with torch.no_grad():
        action, log_prob = policy.sample(samples.observation, RandomStream(1))
        noise = torch.randn(12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        samples = samples._replace(action=action, log_prob=log_prob + 0.05 * noise, mask=None)
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, dtype=torch.float64))
    coefficients = [torch.tensor(0.2, dtype=torch.float64), torch.tensor(0.02, dtype=torch.float64)]
    coefficients = coefficients if isinstance(algorithm, PPO) else coefficients[1:]

    def loss() -> Tensor:
        return algorithm.loss(policy, samples, *coefficients)[0]

    loss().backward()
    step = 1e-6
    for name, parameter in policy.named_parameters():
        assert parameter.grad is not None, name
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        for k in range(flat.numel()):
            before = flat[k].item()
            flat[k] = before + step
            above = loss().item()
            flat[k] = before - step
            below = loss().item()
            flat[k] = before
            assert gradient[k].item() == pytest.approx((above - below) / (2 * step), rel=1e-4, abs=1e-7), (name, k)


def test_clipped_objective() -> None:
    ratio = np.array([0.5, 0.5, 0.9, 1.1, 1.5, 1.5])
    advantage = np.array([1.0, -1.0, 2.0, -2.0, 1.0, -1.0])
    expected = [0.5, -0.8, 1.8, -2.2, 1.2, -1.5]
    actual = clipped_objective(torch.as_tensor(np.log(ratio)), torch.as_tensor(advantage), torch.tensor(0.2).double())
    np.testing.assert_allclose(actual, expected, rtol=1e-7)


def test_dead_samples_are_in_no_mean() -> None:
    samples = random_samples()
    live = samples.weight.numpy() > 0
    advantage = samples.advantage.numpy()[live]
    np.testing.assert_allclose(weighted_mean(samples.advantage, samples.weight), advantage.mean(), rtol=1e-5)
    assert weighted_mean(samples.advantage, torch.zeros_like(samples.weight)) == 0.0
    standard = normalized(samples).advantage.numpy()[live]
    np.testing.assert_allclose(standard, (advantage - advantage.mean()) / advantage.std(), rtol=1e-4, atol=1e-5)
    target, value = samples.target.numpy()[live], samples.value.numpy()[live]
    expected = 1 - (target - value).var() / target.var()
    np.testing.assert_allclose(explained_variance(samples), expected, rtol=1e-4)


def test_every_sample_is_in_one_minibatch_of_every_epoch() -> None:
    samples = Samples(*(torch.arange(10.0) for _ in range(7)), None, None)
    algorithm, random = PPO(minibatches=4), RandomStream(0)
    orders = []
    for _ in range(3):
        batches = list(algorithm.shuffled_minibatches(samples, random))
        assert [len(batch.target) for batch in batches] == [3, 3, 3, 1]
        orders.append(torch.cat([batch.target for batch in batches]).tolist())
        assert sorted(orders[-1]) == list(range(10))
    assert orders[0] != orders[1]


# ---- schedules ----


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(-1e3, 1e3)), min_size=1, max_size=6).map(sorted),
    st.floats(0, 1),
)
def test_schedules_interpolate(points: list[tuple[float, float]], fraction: float) -> None:
    schedule = Schedule.read(points)
    assert Schedule.read(schedule.plain()) == (schedule if len(points) > 1 else Schedule.read(points[0][1]))
    xs, ys = zip(*points, strict=True)
    if len(set(xs)) == len(xs):
        steps = np.diff(xs)
        if not len(steps) or steps.min() > 1e-9:
            assert schedule.at(fraction) == pytest.approx(np.interp(fraction, xs, ys), rel=1e-6, abs=1e-6)
    low, high = schedule.extremes()
    assert low - 1e-9 <= schedule.at(fraction) <= high + 1e-9


def test_schedules_read_what_people_write() -> None:
    falling = Schedule(((0.0, 3e-4), (1.0, 0.0)))
    for text in ("0:3e-4,1:0", " 0 : 3e-4 , 1 : 0 ", {0: 3e-4, 1: 0}, {0.0: "3e-4", 1.0: "0"}, [(0, 3e-4), (1, 0)]):
        assert Schedule.read(text) == falling == Schedule.linear(3e-4, 0.0)
    assert Schedule.read("1e-3").at(0.7) == Schedule.read(1e-3).at(0.0) == 1e-3
    jump = Schedule.read("0:1,0.5:1,0.5:2")
    assert [jump.at(fraction) for fraction in (0.0, 0.49, 0.5, 1.0)] == [1.0, 1.0, 2.0, 2.0]


@pytest.mark.parametrize("value", ["", "fast", "0:1,2:0", "1:1,0:0", "0:1:2", "0:nan", True, None, [], [1, 2], {}, 1j])
def test_schedules_refuse_the_rest(value: Any) -> None:
    with pytest.raises(ParameterError, match=r"learning_rate must be a number, or fractions .* but .* was given"):
        PPO(learning_rate=value)
    with pytest.raises(ParameterError, match="at least 0"):
        PPO(clip_range="0:1,1:-1")


# ---- statistics ----


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(0, 2**31))
def test_running_statistics_are_those_of_all_rows(sizes: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    normalizer, seen = RunningNormalizer(3), []
    for size in sizes:
        rows = random.normal(5.0, [0.1, 1.0, 100.0], size=(size, 3)).astype(np.float32)
        weight = (random.random(size) < 0.7).astype(np.float32)
        seen.append(rows[weight > 0])
        rows[weight == 0] = np.nan
        normalizer.update(torch.as_tensor(rows), torch.as_tensor(weight))
    rows = np.concatenate(seen).astype(np.float64)
    assert normalizer.count == len(rows)
    if len(rows):
        np.testing.assert_allclose(normalizer.mean, rows.mean(0), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(normalizer.variance, rows.var(0), rtol=1e-3, atol=1e-5)
    else:
        assert torch.equal(normalizer(torch.ones(3)), torch.ones(3))


def test_values_in_rewards_do_not_change_when_the_statistics_of_returns_do() -> None:
    policy = ActorCritic(PLAYER, MLP(**SMALL), normalize_returns=True)
    observation = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    before = policy.value(observation)
    for mean in (100.0, -3.0):
        returns = mean + 10 * torch.randn(1000, generator=torch.Generator().manual_seed(1))
        policy.observe_returns(returns, torch.ones(1000))
        torch.testing.assert_close(policy.value(observation), before, rtol=1e-3, atol=1e-3)
    assert policy.value_normalizer is not None
    own = policy.in_own_units(returns)
    torch.testing.assert_close(own * policy.value_normalizer.deviation + policy.value_normalizer.mean, returns)


@pytest.mark.parametrize(("orthogonal", "shared_trunk"), [(True, False), (True, True), (False, False)])
def test_networks_start_orthogonal_where_asked(orthogonal: bool, shared_trunk: bool) -> None:
    network = ActorCritic(PLAYER, MLP(32, 2, "relu", shared_trunk, orthogonal)).network
    weight = network.actor_trunk[2].weight
    gram = weight @ weight.T
    assert torch.allclose(gram, 2 * torch.eye(32), atol=1e-4) is orthogonal
    head = network.actor_head.weight
    assert torch.allclose(head @ head.T, 1e-4 * torch.eye(4), atol=1e-7) is orthogonal
    names = [name for name, _ in network.named_parameters()]
    assert any("critic_trunk" in name for name in names) is not shared_trunk


@pytest.mark.parametrize("shared_trunk", [False, True])
def test_actor_and_critic_alone_give_what_both_give(shared_trunk: bool) -> None:
    network = ActorCritic(PLAYER, MLP(16, 1, shared_trunk=shared_trunk)).network
    observation = torch.randn(5, 3)
    parameters, value = network(observation)
    assert torch.equal(parameters, network.actor(observation))
    assert torch.equal(value, network.critic(observation))


def test_estimates() -> None:
    samples = torch.tensor([1.0, 2.0, 4.0, 4.0, 9.0])
    estimate = Estimate.of(samples)
    assert estimate.mean == pytest.approx(4.0)
    assert estimate.standard_error == pytest.approx(stats.sem(samples.numpy()))
    for count in (4, 5, 10, 100, 1000):
        numbers = np.random.default_rng(count).normal(size=count)
        low, high = stats.t.interval(0.95, count - 1, numbers.mean(), stats.sem(numbers))
        assert Estimate.of(torch.as_tensor(numbers)).half_width == pytest.approx((high - low) / 2, rel=0.01)
    assert math.isnan(Estimate.of(samples[:1]).standard_error)
    assert math.isnan(Estimate.of(samples[:3]).half_width)


def test_confidence_intervals_hold_what_they_promise() -> None:
    random = torch.Generator().manual_seed(0)
    hits: Callable[[Estimate], bool] = lambda estimate: abs(estimate.mean) <= estimate.half_width  # noqa: E731
    inside = sum(hits(Estimate.of(torch.randn(10, generator=random))) for _ in range(2000))
    assert stats.binomtest(inside, 2000, 0.95).pvalue > SIGNIFICANCE
