"""The kernels of training: draws against NumPy and statistics, advantages, outcomes, orders, and CPU ≡ GPU."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from references.philox import philox
from scipy import stats
from torch import Tensor

from gpu_marl_envs.errors import ParameterError
from gpu_marl_envs.training import RandomStream
from gpu_marl_envs.training.gae import generalized_advantages
from gpu_marl_envs.training.outcomes import keep_outcomes
from gpu_marl_envs.training.randomness import permutation, uniform
from gpu_marl_envs.training.sampling import sample_categorical, sample_gaussian

SIGNIFICANCE = 1e-4  # seeds are fixed, so that a correct sampler either always passes or was unlucky once for all

pytestmark = pytest.mark.usefixtures("one_thread")


def words(seed: int, rows: int, block: int, draw: int) -> np.ndarray:
    """The random words ``[rows, 4]`` of a draw."""
    counter = np.zeros((rows, 4), np.uint64)
    counter[:, 0], counter[:, 1] = np.arange(rows), block
    counter[:, 2], counter[:, 3] = draw % 2**32, draw >> 32
    key = np.array([seed % 2**32, seed >> 32], np.uint64)
    return philox(counter, np.broadcast_to(key, (rows, 2)))


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def choices_of(*counts: int) -> Tensor:
    return torch.tensor(counts, dtype=torch.int32)


# ---- streams of random numbers ----


@pytest.mark.parametrize("seed", [0, 2**63 + 5])
def test_numbers_are_those_of_philox(device: str, seed: int) -> None:
    random = RandomStream(seed, device)
    random.restore(torch.tensor(2**32 - 1))
    for draw in (2**32 - 1, 2**32):
        expected = (words(seed, 1000, 0, draw)[:, 0] >> np.uint64(8)) * 2.0**-24
        np.testing.assert_array_equal(uniform((10, 100), random).cpu(), expected.reshape(10, 100).astype(np.float32))


def test_advancing_changes_no_number(device: str) -> None:
    """Draws that a CUDA graph holds have fixed offsets, and a position that is moved at the end of each replay."""
    plain, advanced = RandomStream(3, device), RandomStream(3, device)
    for i in range(5):
        assert torch.equal(uniform((7,), plain), uniform((7,), advanced))
        if i % 2:
            advanced.advance()
    assert int(plain.save()) == int(advanced.save()) == 5
    again = RandomStream(3, "cpu")
    again.restore(plain.save().cpu())
    assert torch.equal(uniform((7,), again), uniform((7,), plain).cpu())


def test_a_stream_serves_its_own_device_only() -> None:
    with pytest.raises(ParameterError, match="cannot be drawn for tensors on meta"):
        RandomStream(0).next(torch.device("meta"))
    with pytest.raises(ParameterError, match="seed"):
        RandomStream(-1)


# ---- categorical draws ----


def categories() -> tuple[Tensor, np.ndarray]:
    """Logits of 21 choices, some of them impossible, first and last included, and the probabilities."""
    logits = 2 * randn(21).double()
    logits[[0, 7, 20]] = -1e9
    return logits.float(), logits.softmax(0).numpy()


def test_categorical_samples_pass_chi_square(device: str) -> None:
    logits, probabilities = categories()
    draws, choices = 400_000, choices_of(21).to(device)
    index, log_prob = sample_categorical(logits.expand(draws, 1, 21).to(device), choices, RandomStream(0, device))
    drawn = index.flatten().cpu().numpy()
    counts = np.bincount(drawn, minlength=21)
    possible = probabilities > 0
    assert counts[~possible].sum() == 0
    assert stats.chisquare(counts[possible], draws * probabilities[possible]).pvalue > SIGNIFICANCE
    # What two neighbouring rows draw does not depend on each other.
    pairs = np.bincount(drawn[::2] * 21 + drawn[1::2], minlength=441).reshape(21, 21)[np.ix_(possible, possible)]
    often = np.argsort(probabilities[possible])[-8:]
    assert stats.chi2_contingency(pairs[np.ix_(often, often)]).pvalue > SIGNIFICANCE
    np.testing.assert_allclose(log_prob.cpu(), np.log(probabilities[drawn]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("counts", [(1,), (2,), (5,), (8,), (32,), (100,), (3, 5, 2), (4, 4), (1,) * 6, (700, 3)])
@pytest.mark.parametrize("masked", [False, True])
def test_categorical_samples_are_those_of_numpy(device: str, counts: tuple[int, ...], masked: bool) -> None:
    """The cumulative distribution of each component is inverted at its random number."""
    rows, components, most = 333, len(counts), max(counts)
    logits = 3 * randn(rows, components, most)
    mask = torch.rand(logits.shape, generator=torch.Generator().manual_seed(1)) < 0.7
    mask[..., 0] = True
    allowed = (np.arange(most) < np.array(counts)[:, None]) & (mask.numpy() | (not masked))
    action, log_prob = sample_categorical(
        logits.to(device), choices_of(*counts).to(device), RandomStream(9, device), mask.to(device) if masked else None
    )
    weights = np.where(allowed, np.exp(logits.numpy().astype(np.float64)), 0.0)
    cumulative = weights.cumsum(-1) / weights.sum(-1, keepdims=True)
    numbers = [(words(9, rows, c // 4, 0)[:, c % 4] >> np.uint64(9)) * 2.0**-23 + 2.0**-24 for c in range(components)]
    chosen = action.cpu().numpy()
    expected_log_prob = np.zeros(rows)
    for c, number in enumerate(numbers):
        below, drawn = np.pad(cumulative[:, c], ((0, 0), (1, 0))), chosen[:, c]
        at = np.arange(rows)
        assert (below[at, drawn] <= number + 1e-6).all() and (below[at, drawn + 1] >= number - 1e-6).all()
        assert allowed[at, c, drawn].all()
        expected_log_prob += np.log(weights[at, c, drawn] / weights[:, c].sum(-1))
    np.testing.assert_allclose(log_prob.cpu(), expected_log_prob, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([1e4, -1e4, 0.0], {0}),
        ([-1e4, 1e4, 9998.0], {1, 2}),
        ([-np.inf, 5.0, -np.inf], {1}),
        ([-np.inf, -1e4, -1e4], {1, 2}),
        ([-3e38, 3e38, -np.inf], {1}),
        ([np.nan, 0.0, 0.0], {1, 2}),
        ([0.0, 0.0, np.inf], {2}),
        ([-np.inf, -np.inf, -np.inf], {0, 1, 2}),
    ],
    ids=str,
)
def test_extreme_logits(device: str, row: list[float], expected: set[int]) -> None:
    logits = torch.tensor(row).expand(20_000, 1, 3)
    action, log_prob = sample_categorical(logits.to(device), choices_of(3).to(device), RandomStream(0, device))
    assert set(action.unique().tolist()) == expected
    if np.isfinite(row).all():
        exact = logits.double().log_softmax(-1).squeeze(1).gather(-1, action.cpu().long()).squeeze(-1)
        torch.testing.assert_close(log_prob.cpu().double(), exact, rtol=1e-6, atol=1e-6)


def test_impossible_choices_are_never_drawn(device: str) -> None:
    """Whatever their logits are, and those of the choices that are possible."""
    logits = torch.tensor([[5.0, -np.inf, 1e30], [0.0, -1e4, 3.0], [np.nan, np.inf, 1.0]]).repeat(5000, 1).unsqueeze(1)
    mask = torch.tensor([[False, True, False], [True, True, False], [False, False, True]]).repeat(5000, 1).unsqueeze(1)
    action, _ = sample_categorical(
        logits.to(device), choices_of(3).to(device), RandomStream(0, device), mask.to(device)
    )
    assert mask.squeeze(1).gather(-1, action.cpu().long()).all()


def test_if_nothing_is_allowed_something_that_exists_is_drawn(device: str) -> None:
    logits, mask = randn(5000, 2, 4).to(device), torch.zeros(5000, 2, 4, dtype=torch.bool, device=device)
    action, log_prob = sample_categorical(logits, choices_of(4, 2).to(device), RandomStream(0, device), mask)
    for component, count in zip(action.T, (4, 2), strict=True):
        frequencies = np.bincount(component.cpu().numpy(), minlength=count)
        assert stats.chisquare(frequencies).pvalue > SIGNIFICANCE
    np.testing.assert_allclose(log_prob.cpu(), np.log(1 / 8), rtol=1e-6)


def test_samples_are_written_where_they_belong(device: str) -> None:
    """Into a step of a rollout, from parameters of any layout, also where there is nobody to act."""
    choices = choices_of(6, 6).to(device)
    action = torch.zeros(3, 10, 4, 2, dtype=torch.int32, device=device)
    log_prob = torch.zeros(3, 10, 4, device=device)
    logits = randn(6, 2, 4, 10).permute(3, 2, 1, 0).to(device)
    out = sample_categorical(logits, choices, RandomStream(0, device), out=(action[1], log_prob[1]))
    assert out[0].data_ptr() == action[1].data_ptr()
    expected = sample_categorical(logits.contiguous(), choices, RandomStream(0, device))
    assert torch.equal(action[1], expected[0]) and torch.equal(log_prob[1], expected[1])
    assert not action[[0, 2]].any() and not log_prob[[0, 2]].any()
    nobody, nothing = sample_categorical(logits[:0], choices, RandomStream(0, device))
    assert (nobody.shape, nothing.shape) == ((0, 4, 2), (0, 4))


# ---- normal draws ----


def test_gaussian_samples_pass_kolmogorov_smirnov(device: str) -> None:
    mean, log_std = torch.tensor([0.3, -2.0, 9.0], device=device), torch.tensor([-0.7, 0.4, 2.0], device=device)
    draws, log_density = sample_gaussian(mean.expand(100_000, 3), log_std, RandomStream(0, device))
    std = log_std.exp().cpu().numpy()
    expected = np.zeros(100_000)
    for k in range(3):
        normal = stats.norm(mean[k].item(), std[k])
        assert stats.kstest(draws[:, k].cpu().numpy(), normal.cdf).pvalue > SIGNIFICANCE
        expected += normal.logpdf(draws[:, k].cpu().numpy())
    correlation = np.corrcoef(draws.cpu().numpy().T)
    assert np.abs(correlation - np.eye(3)).max() < 4 / np.sqrt(100_000)
    np.testing.assert_allclose(log_density.cpu(), expected, rtol=1e-5, atol=1e-5)


# ---- advantages ----


def steps_of(
    steps: int, copies: int, agents: int, device: str = "cpu"
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Rewards, values, final values and flags of a rollout whose episodes last at most four steps."""
    random = np.random.default_rng(0)
    reward = random.normal(size=(steps, copies, agents)).astype(np.float32)
    value = random.normal(size=(steps + 1, copies, agents)).astype(np.float32)
    final_value = random.normal(size=(-(-steps // 4), copies, agents)).astype(np.float32)
    terminated = random.random(reward.shape) < 0.1
    truncated = (np.arange(steps)[:, None] + np.arange(copies)) % 4 == 3
    done = truncated | (random.random(truncated.shape) < 0.2)
    arrays = (reward, value, final_value, terminated, truncated, done)
    return tuple(torch.as_tensor(array).to(device) for array in arrays)  # type: ignore[return-value]


@pytest.mark.parametrize("shape", [(20, 5, 3), (1, 3, 2), (7, 1, 1)])
def test_advantages_are_those_of_the_paper(device: str, shape: tuple[int, int, int]) -> None:
    data = steps_of(*shape)
    reward, value, final_value, terminated, truncated, done = (tensor.numpy() for tensor in data)
    next_value = value[1:].copy()
    for t, e in zip(*truncated.nonzero(), strict=True):
        next_value[t, e] = final_value[truncated[:t, e].sum(), e]
    next_value = np.where(terminated, 0.0, next_value).astype(np.float64)
    discount, gae_lambda = 0.9, 0.8
    expected = np.zeros(shape)
    for t, e, i in np.ndindex(*shape):
        weight = 1.0
        for later in range(t, shape[0]):
            expected[t, e, i] += weight * (
                reward[later, e, i] + discount * next_value[later, e, i] - value[later, e, i]
            )
            if terminated[later, e, i] or done[later, e]:
                break
            weight *= discount * gae_lambda
    actual = generalized_advantages(*(tensor.to(device) for tensor in data), discount, gae_lambda)
    np.testing.assert_allclose(actual.cpu(), expected, rtol=1e-5, atol=1e-5)


def test_each_truncation_bootstraps_from_its_own_final_observation(device: str) -> None:
    value = torch.arange(6.0, device=device).reshape(6, 1, 1).expand(6, 2, 3).contiguous()  # V(s_t) = t
    finals = torch.tensor([[10.0, 20.0], [11.0, 21.0], [12.0, 22.0]], device=device)
    final_value = finals[..., None].expand(3, 2, 3).contiguous()
    truncated = torch.tensor([[0, 1], [1, 0], [0, 0], [1, 1], [0, 0]], dtype=torch.bool, device=device)
    nothing = torch.zeros(5, 2, 3, device=device)
    next_value = value[:-1] + generalized_advantages(
        nothing, value, final_value, nothing.bool(), truncated, truncated, 1.0, 0.0
    )
    expected = np.array([[1, 20], [10, 2], [3, 3], [11, 21], [5, 5]], dtype=np.float32)
    for agent in range(3):
        np.testing.assert_array_equal(next_value[..., agent].cpu(), expected)


# ---- outcomes ----


@pytest.mark.parametrize("copies", [1, 33, 700])
@pytest.mark.parametrize(
    ("dtype", "size"), [(torch.float32, 5), (torch.bfloat16, 3), (torch.float32, 3000)], ids=["words", "halves", "long"]
)
def test_outcomes_of_finished_episodes_are_kept(device: str, copies: int, dtype: torch.dtype, size: int) -> None:
    steps, groups = 6, 10  # more than one launch takes
    random = torch.Generator().manual_seed(0)
    truncated = torch.rand(steps, copies, generator=random) < 0.3
    done = truncated | (torch.rand(steps, copies, generator=random) < 0.3)
    statistics = torch.randn(steps, copies, groups, 2, generator=random)
    seen = torch.randn(steps, groups, copies, size, generator=random).to(dtype)
    sums = torch.zeros(groups, 2, copies, device=device)
    kept = torch.zeros(groups, steps, copies, size, dtype=dtype, device=device)
    truncated_there = truncated.to(device)
    for t in range(steps):
        numbers, rows = statistics[t].to(device), seen[t].to(device)
        pairs = [(numbers[:, g, i], sums[g, i]) for g, i in itertools.product(range(groups), range(2))]
        keep_outcomes(t, done[t].to(device), truncated_there, pairs, list(zip(rows, kept, strict=True)))
    expected = torch.where(done[..., None, None], statistics, 0.0)
    torch.testing.assert_close(sums.cpu(), sum(expected).permute(1, 2, 0))
    expected_kept = torch.zeros_like(kept, device="cpu")
    slots = truncated.cumsum(0) - 1
    for t, copy in truncated.nonzero().tolist():
        expected_kept[:, slots[t, copy], copy] = seen[t, :, copy]
    assert torch.equal(kept.cpu(), expected_kept)


# ---- orders ----


@pytest.mark.parametrize("count", [0, 1, 2, 3, 100, 256, 257, 1000, 65_537, 300_000])
def test_orders_hold_every_index_once(device: str, count: int) -> None:
    random = RandomStream(5, device)
    order, another = permutation(count, random), permutation(count, random)
    assert torch.equal(order.sort().values.cpu(), torch.arange(count))
    assert torch.equal(another.sort().values.cpu(), torch.arange(count))
    assert count < 10 or not torch.equal(order, another)


def test_all_orders_are_equally_likely() -> None:
    random, number = RandomStream(0), 12_000
    orders = np.stack([permutation(4, random).numpy() for _ in range(number)])
    counts = np.bincount(orders @ 4 ** np.arange(4), minlength=256)
    assert (counts > 0).sum() == 24
    assert stats.chisquare(counts[counts > 0]).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("count", [1000, 100_000])
def test_an_order_has_no_structure(count: int) -> None:
    """Where an index goes depends neither on the index nor on where its neighbours go; few stay in their place."""
    random, fixed = RandomStream(0), 0
    table, distances = np.zeros((10, 10)), np.zeros(10)
    for _ in range(20):
        order = permutation(count, random).numpy()
        fixed += int((order == np.arange(count)).sum())
        np.add.at(table, (np.arange(count) * 10 // count, order * 10 // count), 1)
        distances += np.bincount((np.diff(order) % count) * 10 // count, minlength=10)
    # Places are drawn without replacement, which makes this table more even than independent draws: both tails count.
    expected = 20 * count / 100
    spread = ((table - expected) ** 2).sum() / expected / (1 - 1 / 10) ** 2 / (1 + 1 / count)
    assert min(stats.chi2(81).cdf(spread * 0.81), stats.chi2(81).sf(spread * 0.81)) > SIGNIFICANCE
    assert stats.chisquare(distances).pvalue > SIGNIFICANCE
    assert stats.poisson(20).sf(fixed - 1) > SIGNIFICANCE and stats.poisson(20).cdf(fixed) > SIGNIFICANCE


# ---- devices ----


def everything(device: str) -> list[Tensor]:
    """What all kernels give for the same numbers."""
    random = RandomStream(7, device)
    results = [uniform((1000,), random), permutation(100_000, random)]
    for counts in ((21,), (4,), (3, 5, 2), (40, 39), (1000, 7)):
        logits = 5 * randn(2000, len(counts), max(counts), seed=3)
        logits[::7, :, 0] = -np.inf
        logits[::11, :, -1] = 1e4
        logits[::1999] = np.nan
        mask = torch.rand(logits.shape, generator=torch.Generator().manual_seed(1)) < 0.6
        for allowed in (None, mask.to(device)):
            results += sample_categorical(logits.to(device), choices_of(*counts).to(device), random, allowed)
    for components in (1, 2, 5, 64):
        results += sample_gaussian(randn(3001, components).to(device), randn(components).to(device), random)
    results.append(generalized_advantages(*steps_of(50, 77, 3, device), 0.99, 0.95))
    return results


@pytest.mark.gpu
def test_gpu_and_cpu_agree_bit_for_bit() -> None:
    for on_cpu, on_gpu in zip(everything("cpu"), everything("cuda"), strict=True):
        assert on_cpu.numpy().tobytes() == on_gpu.cpu().numpy().tobytes()


@pytest.mark.gpu
@pytest.mark.parametrize("stream", ["a graph's", "another", "the default"])
def test_work_runs_on_the_callers_stream(stream: str) -> None:
    expected = everything("cpu")[0]
    side: Callable[[], torch.cuda.Stream] = {
        "a graph's": torch.cuda.Stream,
        "another": torch.cuda.Stream,
        "the default": torch.cuda.default_stream,
    }[stream]
    random = RandomStream(7, "cuda")
    uniform((1,), random)  # compiles
    random.restore(torch.tensor(0))
    with torch.cuda.stream(side()):
        torch.cuda._sleep(20_000_000)
        random.position.fill_(0)
        assert torch.equal(uniform((1000,), random).cpu(), expected)


@pytest.mark.gpu
def test_a_captured_iteration_goes_on_with_the_sequence() -> None:
    random, plain = RandomStream(1, "cuda"), RandomStream(1)
    logits, choices = randn(1000, 1, 6).cuda(), choices_of(6).cuda()

    def iteration() -> list[Tensor]:
        drawn = [*sample_categorical(logits, choices, random), uniform((100,), random), permutation(500, random)]
        random.advance()
        return drawn

    iteration()  # whatever a first call prepares cannot be captured
    random.restore(torch.tensor(0))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = iteration()
    for _ in range(3):
        graph.replay()
        expected = [*sample_categorical(logits.cpu(), choices.cpu(), plain), uniform((100,), plain)]
        expected.append(permutation(500, plain))
        for actual, wanted in zip(results, expected, strict=True):
            assert torch.equal(actual.cpu(), wanted)
