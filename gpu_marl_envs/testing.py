"""The conformance suite: what every environment must do, for authors to run on their own.

    from gpu_marl_envs.testing import check_devices_agree, check_environment

    check_environment("my_game-v0")                                   # on the CPU build
    check_devices_agree("my_game-v0", num_envs=64, steps=1000)        # CPU and GPU, bit for bit

Every check raises ``AssertionError`` with one sentence that names the environment, the field, the copy, the agent and
the step of the first fault. Extra keyword arguments are the environment's parameters.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import spaces

from gpu_marl_envs.backends.source import persistent_fields
from gpu_marl_envs.batched import BatchedEnv, StepResult, make_batched
from gpu_marl_envs.registry import NAMESPACE
from gpu_marl_envs.spec import Group

COPIES = 6  # in one batch; enough to tell copies apart
UNBOUNDED = 10.0  # actions without limits are drawn between minus and plus this, or in an interval of that length


@dataclass(frozen=True)
class Agreement:
    """What :func:`check_devices_agree` compared.

    Attributes:
        env_id: the environment.
        devices: the devices that agree.
        num_envs: copies in each batch.
        num_agents: agents in one copy.
        environment_steps: steps compared, over all copies.
        resets: episodes that began again in between, over all copies.
    """

    env_id: str
    devices: tuple[str, ...]
    num_envs: int
    num_agents: int
    environment_steps: int
    resets: int


def check_environment(env_id: str, device: str = "cpu", **params: Any) -> None:
    """Runs every check of this module that needs one device.

    Args:
        env_id: the environment, registered.
        device: ``"cpu"`` or ``"cuda"``.
        **params: its parameters, and ``obs_dtype``.

    Raises:
        AssertionError: the environment breaks a promise; the message says which.
    """
    for check in CHECKS:
        check(env_id, device, **params)


def check_devices_agree(
    env_id: str,
    num_envs: int,
    steps: int,
    seed: int = 0,
    devices: Sequence[str] = ("cpu", "cuda"),
    **params: Any,
) -> Agreement:
    """Steps one batch on each device with the same random actions and compares everything, bit for bit.

    Compared after every step: every state field, the agents in the game, observations, action masks, rewards, flags,
    statistics and final observations; a NaN equals the same NaN, and 0 differs from −0.

    Args:
        env_id: the environment, registered.
        num_envs: copies in each batch.
        steps: steps of each batch.
        seed: of the batches and of the actions.
        devices: two or more; each is compared with the first.
        **params: the environment's parameters, and options of ``make_batched``; autoreset mode SAME_STEP by default.

    Returns:
        What was compared.

    Raises:
        AssertionError: two devices differ; names the field, copy, agent and step of the first difference.
    """
    options = {"autoreset_mode": "SAME_STEP"} | params
    envs = [make_batched(env_id, num_envs=num_envs, device=device, seed=seed, **options) for device in devices]
    try:
        resets = _assert_lockstep(envs, devices, steps, seed)
        num_agents = envs[0].num_agents
    finally:
        for env in envs:
            env.close()
    return Agreement(env_id, tuple(devices), num_envs, num_agents, steps * num_envs, resets)


def sample_actions(env: BatchedEnv, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Random actions for every agent, drawn on the CPU so that every device gets the same; masked ones are left out.

    Args:
        env: the batch that they are for.
        generator: a CPU generator.

    Returns:
        A tensor on ``env.device`` for each group: int32 ``[E, n_g]`` or ``[E, n_g, k]``, or float32 ``[E, n_g, k]``.
    """
    actions = {}
    for name, group in env.groups.items():
        mask = env.action_masks.get(name)
        action = _sample(group, env.num_envs, generator) if mask is None else _sample_allowed(mask.cpu(), generator)
        actions[name] = action.to(env.device)
    return actions


def check_outputs(env_id: str, device: str = "cpu", **params: Any) -> None:
    """Spaces, dtypes, shapes and values of all that ``reset`` and ``step`` return, over three episodes."""
    env = make_batched(env_id, num_envs=COPIES, device=device, seed=1, autoreset_mode="DISABLED", **params)
    _assert_observations(env, env.reset(), 0)
    generator = torch.Generator().manual_seed(1)
    totals = {
        what: {name: torch.zeros(COPIES, group.size, dtype=torch.float64) for name, group in env.groups.items()}
        for what in ("episode_return", "episode_length")
    }
    for step in range(1, 3 * _longest(env) + 1):
        in_game = env.alive.cpu().clone()
        result = observation, reward, *_, info = env.step(sample_actions(env, generator))
        _assert_observations(env, observation, step)
        _assert_outcome(env, in_game, result, step)
        _assert_state_fields(env, step)
        for name, agents in env.agent_slices.items():
            totals["episode_return"][name] += reward[name].cpu()
            totals["episode_length"][name] += in_game[:, agents]
        _assert_statistics(env, totals, info, step)
        done = info["done"].clone()
        if done.any():
            _assert_observations(env, env.reset(mask=done), step)
            assert env.alive[done].all(), _fault(env, step, "agents of a copy that was reset are not in the game")
    env.close()


def check_determinism(env_id: str, device: str = "cpu", **params: Any) -> None:
    """Two batches of one seed do the same, bit for bit, over two full episodes; so does one that is seeded again."""
    envs = [make_batched(env_id, num_envs=COPIES, device=device, seed=2, **params) for _ in range(2)]
    steps = 2 * _longest(envs[0])
    _assert_lockstep(envs, ["the first batch", "a second of the same seed"], steps, seed=2)
    fresh = make_batched(env_id, num_envs=COPIES, device=device, seed=9, **params)
    _assert_lockstep([envs[0], fresh], ["a batch seeded again", "a new one"], steps, seed=2, reset_seed=3)
    _close(*envs, fresh)


def check_batch_size(env_id: str, device: str = "cpu", **params: Any) -> None:
    """A copy does the same, bit for bit, in batches of any size."""
    sizes = (1, COPIES, 5 * COPIES + 3)
    envs = [make_batched(env_id, num_envs=size, device=device, seed=4, **params) for size in sizes]
    _assert_lockstep(envs, [f"a batch of {size}" for size in sizes], 2 * _longest(envs[0]), seed=4)
    _close(*envs)


def check_save_and_restore(env_id: str, device: str = "cpu", **params: Any) -> None:
    """A batch steps on from a saved state just as the one that was saved, resets included."""
    env, other = (make_batched(env_id, num_envs=COPIES, device=device, seed=seed, **params) for seed in (5, 6))
    generator = torch.Generator().manual_seed(5)
    for batch in (env, other):
        batch.reset()
    for _ in range(_longest(env) // 2):
        env.step(sample_actions(env, generator))
        other.step(sample_actions(other, generator))
    other.state.restore(env.state.save())
    _assert_lockstep([env, other], ["the saved batch", "the restored one"], 2 * _longest(env), seed=5, reset=False)
    _close(env, other)


def check_pickling(env_id: str, device: str = "cpu", **params: Any) -> None:
    """A batch that was pickled in mid-episode steps on as the original."""
    env = make_batched(env_id, num_envs=COPIES, device=device, seed=7, **params)
    generator = torch.Generator().manual_seed(7)
    env.reset()
    for _ in range(_longest(env) // 2):
        env.step(sample_actions(env, generator))
    copy = pickle.loads(pickle.dumps(env))
    _assert_lockstep([env, copy], ["the batch", "its pickled copy"], 2 * _longest(env), seed=7, reset=False)
    _close(env, copy)


def check_autoreset_modes(env_id: str, device: str = "cpu", **params: Any) -> None:
    """NEXT_STEP and SAME_STEP do just what a caller of DISABLED would do with a reset mask."""
    for mode in ("NEXT_STEP", "SAME_STEP"):
        auto, manual = (
            make_batched(env_id, num_envs=COPIES, device=device, seed=8, autoreset_mode=autoreset_mode, **params)
            for autoreset_mode in (mode, "DISABLED")
        )
        names = [mode, "DISABLED with a reset mask"]
        _assert_same(auto, names, 0, _observations(auto, auto.reset()), _observations(manual, manual.reset()))
        generator = torch.Generator().manual_seed(8)
        due = torch.zeros(COPIES, dtype=torch.bool, device=auto.device)  # copies to reset in this step
        for step in range(1, 3 * _longest(auto) + 1):
            actions = sample_actions(auto, generator)
            automatic = auto.step(actions)
            *_, info = by_hand = manual.step(actions)
            done = info["done"].clone()
            if mode == "SAME_STEP":
                finals = automatic[4]["final_obs"], by_hand[0]
                _assert_same(auto, names, step, *(_final(auto, final, done) for final in finals))
                due = done
            outcomes = [_outcomes(batch, result) for batch, result in ((auto, automatic), (manual, by_hand))]
            if mode == "NEXT_STEP":  # a frozen copy shows its flags on, a copy that is being reset shows none
                outcomes[1] = [entry.cleared(due) for entry in outcomes[1]]
            _assert_same(auto, names, step, *outcomes)
            observation = manual.reset(mask=due)
            _assert_same(auto, names, step, _observations(auto, automatic[0]), _observations(manual, observation))
            _assert_same(auto, names, step, _state(auto), _state(manual))
            due = done & ~due if mode == "NEXT_STEP" else due
        _close(auto, manual)


def check_pettingzoo(env_id: str, device: str = "cpu", **params: Any) -> None:
    """PettingZoo's own tests pass, through the parallel and the turn-based adapter, whose observations are float32."""
    import pettingzoo

    params.pop("obs_dtype", None)
    name = f"{NAMESPACE}/{env_id.removeprefix(f'{NAMESPACE}/')}"
    with warnings.catch_warnings():
        # The tests import environments in a deprecated way, and pass a reset option that no environment has.
        warnings.simplefilter("ignore")
        from pettingzoo.test import api_test, parallel_api_test

        parallel = pettingzoo.make("parallel", name, device=device, **params)
        parallel_api_test(parallel, num_cycles=200)
        parallel.close()
        turn_based = pettingzoo.make("aec", name, device=device, **params)
        api_test(turn_based, num_cycles=200)
        turn_based.close()


CHECKS: tuple[Callable[..., None], ...] = (
    check_outputs,
    check_determinism,
    check_batch_size,
    check_save_and_restore,
    check_pickling,
    check_autoreset_modes,
    check_pettingzoo,
)


@dataclass(frozen=True)
class _Entry:
    """A tensor to compare: ``[E, …]``, or ``[E, len(agents), …]`` where ``agents`` names its second dimension."""

    name: str
    tensor: torch.Tensor
    agents: tuple[str, ...] = ()

    def cleared(self, copies: torch.Tensor) -> _Entry:
        """The same with zeros in ``copies``, a bool ``[E]``."""
        mask = copies.view(-1, *[1] * (self.tensor.dim() - 1))
        return _Entry(self.name, self.tensor.masked_fill(mask, 0), self.agents)


def _grouped(env: BatchedEnv, name: str, groups: Mapping[str, torch.Tensor]) -> Iterator[_Entry]:
    for group, tensor in groups.items():
        yield _Entry(f"{name} of {group}", tensor, env.declaration.agent_names[env.agent_slices[group]])


def _observations(env: BatchedEnv, observation: dict[str, torch.Tensor]) -> list[_Entry]:
    return list(_grouped(env, "the observation", observation))


def _final(env: BatchedEnv, observation: dict[str, torch.Tensor], done: torch.Tensor) -> list[_Entry]:
    return [entry.cleared(~done) for entry in _grouped(env, "the final observation", observation)]


def _outcomes(env: BatchedEnv, result: StepResult) -> list[_Entry]:
    _, reward, terminated, truncated, info = result
    entries = [*_grouped(env, "the reward", reward), *_grouped(env, "terminated", terminated)]
    return [*entries, _Entry("truncated", truncated), _Entry("done", info["done"])]


def _state(env: BatchedEnv) -> list[_Entry]:
    agents = env.declaration.agent_names
    dimensions = {field.name: agents * (field.per == "agent") for field in persistent_fields(env.declaration)}
    dimensions |= dict.fromkeys(("step", "episode", "key"), ())
    fields = [_Entry(f"state.{name}", getattr(env.state, name), dimension) for name, dimension in dimensions.items()]
    return [_Entry("alive", env.alive, agents), *fields, *_grouped(env, "the action mask", env.action_masks)]


def _everything(env: BatchedEnv, result: StepResult, with_statistics: torch.Tensor) -> list[_Entry]:
    """All that a step gave, and the state; statistics of the copies ``with_statistics``, a bool ``[E]``."""
    info = result[4]
    entries = [*_observations(env, result[0]), *_outcomes(env, result), *_state(env)]
    for name in ("episode_return", "episode_length"):
        for group, tensor in info[name].items():
            entries.append(_Entry(f"{name} of {group}", tensor).cleared(~with_statistics))
    if "final_obs" in info:
        entries += _final(env, info["final_obs"], info["done"])
    return entries


def _assert_lockstep(
    envs: Sequence[BatchedEnv],
    names: Sequence[str],
    steps: int,
    seed: int,
    *,
    reset: bool = True,
    reset_seed: int | None = None,
) -> int:
    """Steps batches with the same actions and compares each with the first; the copies that both have count.

    Returns:
        Episodes of the largest batch that ended.
    """
    largest = max(envs, key=lambda env: env.num_envs)
    generator = torch.Generator().manual_seed(seed)
    if reset:
        first, *others = [[*_observations(env, env.reset(seed=reset_seed)), *_state(env)] for env in envs]
        for name, other in zip(names[1:], others, strict=True):
            _assert_same(envs[0], [names[0], name], 0, first, other)
    # Until an episode ends after a reset, the statistics are those of an episode before it.
    finished = [torch.full((env.num_envs,), not reset, device=env.device) for env in envs]
    ended = 0
    for step in range(1, steps + 1):
        actions = sample_actions(largest, generator)
        results = []
        for index, env in enumerate(envs):
            own = {group: tensor[: env.num_envs].to(env.device) for group, tensor in actions.items()}
            result = env.step(own)
            finished[index] |= result[4]["done"]
            results.append(_everything(env, result, with_statistics=finished[index]))
            if env is largest:
                ended += int(result[4]["done"].sum())
        for name, other in zip(names[1:], results[1:], strict=True):
            _assert_same(envs[0], [names[0], name], step, results[0], other)
    return ended


def _assert_same(
    env: BatchedEnv, names: Sequence[str], step: int, first: Sequence[_Entry], second: Sequence[_Entry]
) -> None:
    """Asserts that two lists of tensors have the same bits in the copies that both have."""
    for one, two in zip(first, second, strict=True):
        copies = min(len(one.tensor), len(two.tensor))
        left, right = one.tensor[:copies].cpu(), two.tensor[:copies].cpu()
        if not torch.equal(_bits(left), _bits(right)):
            copy, *index = torch.nonzero(_bits(left) != _bits(right))[0].tolist()
            who = f" of {one.agents[index[0]]}" if one.agents else ""
            part = index[bool(one.agents) :]
            pairs = zip((left, right), names, strict=True)
            values = [f"{tensor[copy, *index].item()!r} in {name}" for tensor, name in pairs]
            fault = f"{one.name}{part or ''}{who} in copy {copy} is {' but '.join(values)}"
            raise AssertionError(_fault(env, step, fault))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.dtype.is_floating_point:
        return tensor
    return tensor.view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)


def _fault(env: BatchedEnv, step: int, fault: str) -> str:
    return f"{env.declaration.id}: at step {step}, {fault}."


def _longest(env: BatchedEnv) -> int:
    return env.declaration.max_steps + 2


def _close(*envs: BatchedEnv) -> None:
    for env in envs:
        env.close()


def _sample(group: Group, copies: int, generator: torch.Generator) -> torch.Tensor:
    shape = (copies, group.size)
    if isinstance(group.action_space, spaces.Box):
        low, high = (torch.from_numpy(limit) for limit in (group.action_space.low, group.action_space.high))
        low = torch.where(low.isfinite(), low, torch.where(high.isfinite(), high, UNBOUNDED) - 2 * UNBOUNDED)
        high = torch.where(high.isfinite(), high, low + 2 * UNBOUNDED)
        return low + (high - low) * torch.rand(*shape, *group.action_shape, generator=generator)
    columns = [torch.randint(0, count, shape, generator=generator, dtype=torch.int32) for count in group.action_counts]
    return torch.stack(columns, dim=-1) if group.action_shape else columns[0]


def _sample_allowed(mask: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.where(mask, torch.rand(mask.shape, generator=generator), -1.0).argmax(-1).int()


def _assert_masks(env: BatchedEnv, step: int) -> None:
    for name, mask in env.action_masks.items():
        group = env.groups[name]
        expected = (env.num_envs, group.size, *group.mask_shape)
        fault = f"the action mask of {name} is {mask.dtype} {list(mask.shape)}, not bool {list(expected)}"
        assert mask.dtype == torch.bool and mask.shape == expected, _fault(env, step, fault)
        stuck = torch.nonzero(~mask.cpu().any(-1))
        if len(stuck):
            copy, agent, *component = stuck[0].tolist()
            where = f" of component {component[0]}" if component else ""
            fault = f"{name}_{agent} in copy {copy} is allowed no choice{where}"
            raise AssertionError(_fault(env, step, fault))


def _assert_observations(env: BatchedEnv, observation: dict[str, torch.Tensor], step: int) -> None:
    assert list(observation) == list(env.groups), _fault(env, step, "observations are not one for each group, in order")
    _assert_masks(env, step)
    for name, group in env.groups.items():
        tensor = observation[name].cpu()
        expected = (env.num_envs, group.size, *group.observation_space.shape)
        dtype = env.obs_dtype
        fault = f"the observation of {name} is {tensor.dtype} {list(tensor.shape)}, not {dtype} {list(expected)}"
        assert tensor.dtype == dtype and tensor.shape == expected, _fault(env, step, fault)
        limits = (group.observation_space.low, group.observation_space.high)
        low, high = (torch.from_numpy(limit).to(dtype) for limit in limits)  # rounded as observations are
        outside = torch.nonzero(~((tensor >= low) & (tensor <= high)))  # NaN is outside too
        if len(outside):
            copy, agent, *part = outside[0].tolist()
            value = tensor[tuple(outside[0].tolist())].item()
            fault = f"the observation{part} of {name}_{agent} in copy {copy} is {value!r}, outside its space"
            raise AssertionError(_fault(env, step, fault))


def _assert_outcome(env: BatchedEnv, in_game: torch.Tensor, result: StepResult, step: int) -> None:
    """Dtypes, shapes and agreement of rewards and flags with who was ``in_game [E, n]`` before the step."""
    _, reward, terminated, truncated, info = result
    over = torch.ones(env.num_envs, dtype=torch.bool)
    for name, agents in env.agent_slices.items():
        expected = (env.num_envs, env.groups[name].size)
        rewards, left = reward[name].cpu(), terminated[name].cpu()
        for what, tensor, dtype in (("reward", rewards, torch.float32), ("terminated", left, torch.bool)):
            fault = f"{what} of {name} is {tensor.dtype} {list(tensor.shape)}, not {dtype} {list(expected)}"
            assert tensor.dtype == dtype and tensor.shape == expected, _fault(env, step, fault)
        assert rewards.isfinite().all(), _fault(env, step, f"a reward of {name} is not finite")
        gone = ~in_game[:, agents]
        assert (rewards[gone] == 0).all(), _fault(env, step, f"a {name} that had left the episode has a reward")
        assert left[gone].all(), _fault(env, step, f"a {name} that had left the episode is not marked as terminated")
        alive = env.alive.cpu()[:, agents]
        assert torch.equal(alive, ~left), _fault(env, step, f"alive and terminated of {name} contradict each other")
        over &= left.all(dim=1)
    for what, tensor in (("truncated", truncated), ("done", info["done"])):
        fault = f"{what} is {tensor.dtype} {list(tensor.shape)}, not bool [{env.num_envs}]"
        assert tensor.dtype == torch.bool and tensor.shape == (env.num_envs,), _fault(env, step, fault)
    late = env.state.step.cpu() >= env.declaration.max_steps
    assert torch.equal(truncated.cpu(), late), _fault(env, step, "truncated contradicts the number of steps")
    assert torch.equal(info["done"].cpu(), late | over), _fault(env, step, "done contradicts truncated and terminated")


def _assert_state_fields(env: BatchedEnv, step: int) -> None:
    for field in persistent_fields(env.declaration):
        values = getattr(env.state, field.name).cpu()
        inside = (values >= field.low) & (values <= field.high)
        fault = f"state.{field.name} leaves [{field.low:g}, {field.high:g}]"
        assert inside.all() and str(values.dtype) == f"torch.{field.dtype}", _fault(env, step, fault)


def _assert_statistics(
    env: BatchedEnv, totals: dict[str, dict[str, torch.Tensor]], info: dict[str, Any], step: int
) -> None:
    """Asserts that the statistics of finished copies are means of ``totals[what][group] [E, n_g]``; zeroes these."""
    done = info["done"].cpu()
    for what, groups in totals.items():
        for name, total in groups.items():
            actual, expected = info[what][name].cpu()[done], total.mean(dim=1)[done]
            fault = f"{what} of {name} is {actual.tolist()}, but the steps give {expected.tolist()}"
            same = torch.allclose(actual.double(), expected, rtol=1e-4, atol=1e-4)
            assert same, _fault(env, step, fault)
            total[done] = 0
