"""Many copies of an environment, stepped at once over torch tensors that the kernels read and write in place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from torch import Tensor

from gpu_marl_envs import registry
from gpu_marl_envs.backends.base import backend_for
from gpu_marl_envs.backends.source import (
    arguments_dtype,
    persistent_fields,
    record_views,
    record_words,
    runtime_parameters,
)
from gpu_marl_envs.checks import autoreset_mode_of, device_of, given, obs_dtype_of, positive, seed_bits
from gpu_marl_envs.errors import (
    ActionError,
    OutOfMemoryError,
    ParameterError,
    StateError,
    UsageError,
    nearest,
)
from gpu_marl_envs.spec import Environment, Group
from gpu_marl_envs.state import State, copy_into, field_dtype

TensorDict = dict[str, Tensor]
StepResult = tuple[TensorDict, TensorDict, TensorDict, Tensor, dict[str, Any]]

_INTEGERS = (torch.uint8, torch.int32, torch.int64)
ALIGNMENT = 16  # bytes
_BY_GROUP = ("observation", "reward", "terminated")
_PER_COPY = ("truncated", "done")


def make_batched(
    env_id: str,
    num_envs: int,
    device: str | torch.device = "cpu",
    seed: int = 0,
    *,
    autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    check_actions: bool | None = None,
    obs_dtype: str | torch.dtype = torch.float32,
    **params: Any,
) -> BatchedEnv:
    """Makes ``num_envs`` copies of an environment.

    Args:
        env_id: as in ``"tag_continuous-v0"``; ``gpu_marl_envs.ids()`` lists all.
        num_envs: number of copies.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
        seed: of the random numbers; a seed gives the same episodes on every device and for every number of copies.
        autoreset_mode: what happens to a copy whose episode is over, by Gymnasium's names: ``"NEXT_STEP"`` resets it
            in the next call of ``step``, ``"SAME_STEP"`` at once, ``"DISABLED"`` leaves that to ``reset(mask=…)``.
        check_actions: whether ``step`` checks that discrete actions lie in their space and continuous ones are finite;
            by default on CPUs only, since on a GPU it would wait for the result. Unchecked discrete actions are clipped
            into their space by the kernels; continuous ones are clipped by the environments.
        obs_dtype: of observations: ``torch.float32``, or ``torch.bfloat16`` or ``torch.float16``, to which the kernels
            round them as they are written; takes half the memory and its bandwidth.
        **params: the environment's parameters; ``gpu-marl info ENV`` lists them.

    Raises:
        UnknownEnvironmentError: there is no such environment.
        ParameterError: a parameter or an option is unknown, of the wrong type or out of range.
        BackendUnavailableError: the device, or the compiler for it, is missing.
        OutOfMemoryError: so many copies do not fit; says how many would.
    """
    declaration = registry.get(env_id).make(**params)
    return BatchedEnv(
        declaration,
        num_envs,
        device=device,
        seed=seed,
        autoreset_mode=autoreset_mode,
        check_actions=check_actions,
        obs_dtype=obs_dtype,
    )


class BatchedEnv:
    """A batch of copies of one environment.

    All tensors that calls return are the kernels' own memory: the next call overwrites them, so clone what must last.

    Attributes:
        declaration: the environment with its parameters.
        num_envs: number of copies, E.
        num_agents: number of agents in a copy, n.
        device: where the tensors live.
        autoreset_mode: what happens to a copy whose episode is over.
        obs_dtype: of observations; the spaces stay float32.
        groups: agent groups by name, in the order of their agents.
        agent_slices: which of a copy's agents belong to a group, by its name.
        observation_spaces: of one agent, by group.
        action_spaces: of one agent, by group.
    """

    def __init__(
        self,
        declaration: Environment,
        num_envs: int,
        *,
        device: str | torch.device = "cpu",
        seed: int = 0,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        check_actions: bool | None = None,
        obs_dtype: str | torch.dtype = torch.float32,
    ) -> None:
        """Makes the batch; see :func:`make_batched`."""
        self.declaration = declaration
        self.num_envs = positive(num_envs, "num_envs")
        self.num_agents = declaration.num_agents
        self.autoreset_mode = autoreset_mode_of(autoreset_mode)
        self.obs_dtype = obs_dtype_of(obs_dtype)
        self.groups: dict[str, Group] = {group.name: group for group in declaration.agent_groups}
        ends = np.cumsum([group.size for group in self.groups.values()]).tolist()
        self.agent_slices = {
            g.name: slice(end - g.size, end) for g, end in zip(self.groups.values(), ends, strict=True)
        }
        self.observation_spaces: dict[str, spaces.Box] = {g.name: g.observation_space for g in self.groups.values()}
        self.action_spaces: dict[str, spaces.Space[Any]] = {g.name: g.action_space for g in self.groups.values()}
        self._pending_seed: int | None = seed_bits(seed)
        self._backend = backend_for(declaration, device_of(device), self.autoreset_mode, self.num_envs, self.obs_dtype)
        self.device = self._backend.device
        self._checks_actions = self._backend.checks_actions if check_actions is None else bool(check_actions)
        self._action_counts = {
            g.name: torch.tensor(g.action_counts, device=self.device).reshape(g.action_shape)
            if g.action_counts
            else None
            for g in self.groups.values()
        }
        self._allocate()
        self._bind()
        self._started = False
        self._closed = False

    # ---- state ----

    @property
    def state(self) -> State:
        """The state's tensors, see :class:`gpu_marl_envs.state.State`."""
        self._check_usable()
        return self._state

    @property
    def alive(self) -> Tensor:
        """Bool ``[E, n]``: which agents are in the game at the next step. Assigning copies the values in."""
        self._check_usable()
        return self._tensors["alive"]

    @alive.setter
    def alive(self, value: Tensor) -> None:
        copy_into(self.alive, value, "alive")

    @property
    def actions(self) -> Mapping[str, Tensor]:
        """A tensor per group, ``[E, agents of the group, …]``, int32 or float32.

        They may be filled in place and passed to :meth:`step`, which then has nothing to check or bind.
        """
        self._check_usable()
        return self._actions

    @property
    def action_masks(self) -> Mapping[str, Tensor]:
        """What agents may choose at the next step, by group, for the groups that declare masks.

        Bool ``[E, agents of the group, choices]``; for ``MultiDiscrete`` ``[E, agents of the group, components, choices
        of the largest component]``, where false stands for choices that a component does not have. All choices of
        agents out of the game are allowed. Written with the observations; what an action that is not allowed does is
        the environment's matter.
        """
        self._check_usable()
        return self._action_masks

    # ---- stepping ----

    def reset(self, *, seed: int | None = None, mask: Tensor | None = None) -> TensorDict:
        """Starts new episodes.

        Args:
            seed: restarts the random numbers of the copies that are reset.
            mask: bool ``[E]``, the copies to reset; the others stay as they are. None resets all.

        Returns:
            Observations, ``obs_dtype`` ``[E, agents of the group, …]`` by group; those of copies that are not reset
            stay as they were last written here.

        Raises:
            UsageError: the environment is closed, or a mask was given before the first reset.
            ParameterError: the seed or the mask does not fit.
        """
        self._check_usable()
        if mask is not None and not self._started:
            raise UsageError("The first reset must be of all copies; call reset() without a mask once.")
        mask = self._checked_mask(mask)
        new_seed = self._pending_seed if seed is None else seed_bits(seed)
        if new_seed is not None:
            seeds = self._tensors["seed"]
            seeds.fill_(new_seed) if mask is None else seeds.masked_fill_(mask, new_seed)
        self._arguments["reseed"] = new_seed is not None
        self._arguments["mask"] = 0 if mask is None else mask.data_ptr()
        self._backend.launch("reset")
        self._pending_seed = None
        self._started = True
        return dict(self._observation)

    def step(self, actions: Mapping[str, Tensor], out: Mapping[str, Any] | None = None) -> StepResult:
        """Advances all copies by one step.

        Args:
            actions: a tensor per group on this device. ``Discrete``: ``[E, agents of the group]``; ``MultiDiscrete``:
                ``[E, agents of the group, components]``; both of dtype uint8, int32 or int64. ``Box``: float32
                ``[E, agents of the group, components]``. Actions of agents that left the game have no effect.
            out: tensors to write instead of the environment's own, contiguous and on this device: ``"observation"``,
                ``"reward"`` and ``"terminated"`` by group, ``"truncated"`` and ``"done"``; any subset of them.

        Returns:
            ``(observation, reward, terminated, truncated, info)``: by group ``obs_dtype`` ``[E, agents, …]``, float32
            ``[E, agents]`` and bool ``[E, agents]``; bool ``[E]``; and a dict. ``terminated`` is true from the step in
            which an agent left the game until its copy is reset. ``info["done"]`` (bool ``[E]``) says which episodes
            are over; ``info["episode_return"]`` (reward of an agent over the episode, mean over the group) and
            ``info["episode_length"]`` (steps that an agent was in the game, mean over the group), float32 ``[E]`` by
            group, describe each copy's last finished episode; with SAME_STEP, ``info["final_obs"]`` holds by group the
            last observation of the episodes that are done.

        Raises:
            ActionError: an action has the wrong group, shape, dtype, device or value; nothing was stepped.
            StateError: an ``out`` tensor does not fit; nothing was stepped.
            UsageError: the environment was not reset, is closed, or its process was forked after CUDA started.
        """
        self._check_usable()
        if not self._started:
            raise UsageError("The environment must be reset before it is stepped; call reset() first.")
        bound = actions if actions is self._actions else self._checked_actions(actions)
        self._point_at_actions(bound)
        if self._checks_actions:
            self._check_values(bound)
        if out is None:
            self._backend.launch("step")
            return (
                dict(self._observation),
                dict(self._reward),
                dict(self._terminated),
                self._truncated,
                dict(self._info),
            )
        return self._step_into(out)

    def observe(self) -> TensorDict:
        """The observations of the present state, as after it was written to; by group like those of :meth:`reset`."""
        self._check_usable()
        if not self._started:
            raise UsageError("The environment must be reset before it is observed; call reset() first.")
        self._backend.launch("observe")
        return dict(self._observation)

    def close(self) -> None:
        """Frees the memory; later calls raise UsageError."""
        if self._closed:
            return
        self._closed = True
        for name in (
            "_state",
            "_actions",
            "_action_masks",
            "_observation",
            "_reward",
            "_terminated",
            "_truncated",
            "_info",
            "_tensors",
        ):
            delattr(self, name)
        del self._bound

    @property
    def stream(self) -> torch.cuda.Stream:
        """On a GPU, this thread's stream on which launches cost least; make it current for rollouts and graph captures.

        As with all of torch's streams, wait where you change between it and another: ``env.stream.wait_stream(other)``.
        """
        stream: torch.cuda.Stream | None = getattr(self._backend, "stream", None)
        if stream is None:
            raise UsageError(f"An environment on {self.device} has no CUDA stream.")
        return stream

    def __repr__(self) -> str:
        return f"BatchedEnv({self.declaration.id!r}, num_envs={self.num_envs}, device='{self.device}')"

    def __getstate__(self) -> dict[str, Any]:
        self._check_usable()
        return {
            "declaration": self.declaration,
            "num_envs": self.num_envs,
            "device": str(self.device),
            "autoreset_mode": self.autoreset_mode,
            "check_actions": self._checks_actions,
            "obs_dtype": self.obs_dtype,
            "pending_seed": self._pending_seed,
            "started": self._started,
            # Arrays, since torch would hand tensors to a new process through shared memory that ends with this one.
            "state": {name: tensor.cpu().numpy() for name, tensor in self.state.save().items()},
            "actions": {name: tensor.cpu().numpy().copy() for name, tensor in self.actions.items()},
        }

    def __setstate__(self, saved: dict[str, Any]) -> None:
        options = {key: saved[key] for key in ("device", "autoreset_mode", "check_actions", "obs_dtype")}
        self.__init__(saved["declaration"], saved["num_envs"], **options)  # type: ignore[misc]
        for name, action in saved["actions"].items():
            self.actions[name].copy_(torch.from_numpy(action))
        self.state.restore({name: torch.from_numpy(array) for name, array in saved["state"].items()})
        self._pending_seed = saved["pending_seed"]
        self._started = saved["started"]
        if self._started:
            self.observe()

    # ---- memory ----

    def _allocate(self) -> None:
        shapes = self._shapes()
        bytes_per_copy = sum(math.prod(shape) * dtype.itemsize for shape, dtype in shapes.values())
        self._check_memory(bytes_per_copy)
        try:
            tensors = {
                name: torch.zeros((self.num_envs, *shape), dtype=dtype, device=self.device)
                for name, (shape, dtype) in shapes.items()
            }
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not isinstance(error, torch.OutOfMemoryError) and "alloc" not in str(error):
                raise
            raise self._too_little_memory(bytes_per_copy) from None
        self._tensors = tensors
        records = record_views(self.declaration, tensors["record"])
        records["episode"].fill_(-1)
        self._actions = MappingProxyType({name: tensors[f"action/{name}"] for name in self.groups})
        self._observation = {name: tensors[f"observation/{name}"] for name in self.groups}
        masked = [name for name, group in self.groups.items() if group.action_mask]
        self._action_masks = MappingProxyType({name: tensors[f"action_mask/{name}"] for name in masked})
        self._reward = {name: tensors[f"reward/{name}"] for name in self.groups}
        self._terminated = {name: tensors[f"terminated/{name}"] for name in self.groups}
        self._truncated = tensors["truncated"]
        self._info: dict[str, Any] = {"done": tensors["done"]}
        for statistic in ("episode_return", "episode_length"):
            self._info[statistic] = {name: records[statistic][:, g] for g, name in enumerate(self.groups)}
        if self.autoreset_mode == AutoresetMode.SAME_STEP:
            self._info["final_obs"] = {name: tensors[f"final_observation/{name}"] for name in self.groups}
        fields = {field.name: tensors[f"state/{field.name}"] for field in persistent_fields(self.declaration)}
        public = fields | {"step": tensors["time"], "episode": records["episode"], "key": records["key"]}
        hidden = {name: tensors[name] for name in ("seed", "alive", "group_return", "group_steps")}
        hidden |= {name: records[name] for name in ("episode_return", "episode_length")}
        self._state = State(public, hidden, self._restored)

    def _shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape of one copy's part, and dtype, of every tensor that a launch takes."""
        groups, agents = len(self.groups), self.num_agents
        shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "seed": ((), torch.int64),
            "time": ((), torch.int32),
            "alive": ((agents,), torch.bool),
            "group_return": ((groups,), torch.float32),
            "group_steps": ((groups,), torch.int32),
            "truncated": ((), torch.bool),
            "done": ((), torch.bool),
            "record": ((record_words(self.declaration),), torch.int32),
        }
        if self.device.type != "cpu" and not self._backend.layout.staged:
            shapes["workspace"] = ((self._backend.layout.unit_bytes,), torch.uint8)
        for field in persistent_fields(self.declaration):
            per = (agents,) if field.per == "agent" else ()
            shapes[f"state/{field.name}"] = ((*per, *field.shape), field_dtype(field.dtype))
        for group in self.groups.values():
            observation = (group.size, *group.observation_space.shape)
            action_dtype = torch.int32 if group.action_counts else torch.float32
            shapes[f"action/{group.name}"] = ((group.size, *group.action_shape), action_dtype)
            shapes[f"observation/{group.name}"] = (observation, self.obs_dtype)
            if self.autoreset_mode == AutoresetMode.SAME_STEP:
                shapes[f"final_observation/{group.name}"] = (observation, self.obs_dtype)
            shapes[f"reward/{group.name}"] = ((group.size,), torch.float32)
            shapes[f"terminated/{group.name}"] = ((group.size,), torch.bool)
            if group.action_mask:
                shapes[f"action_mask/{group.name}"] = ((group.size, *group.mask_shape), torch.bool)
        return shapes

    def _check_memory(self, bytes_per_copy: int) -> None:
        if bytes_per_copy * self.num_envs > self._backend.free_bytes():
            raise self._too_little_memory(bytes_per_copy)

    def _too_little_memory(self, bytes_per_copy: int) -> OutOfMemoryError:
        fitting = self._backend.free_bytes() // bytes_per_copy
        advice = "ask for fewer" if fitting else "ask for fewer agents or smaller observations"
        return OutOfMemoryError(
            f"{self.num_envs} copies of {self.declaration.id} need {bytes_per_copy * self.num_envs / 1e9:.1f} GB on "
            f"{self.device}, where about {fitting} copies would fit; {advice}."
        )

    def _restored(self) -> None:
        self._started = True
        self._pending_seed = None

    # ---- arguments of a launch ----

    def _bind(self) -> None:
        """Fills the struct that launches take, and remembers the addresses that ``out`` and actions may replace."""
        arguments = np.zeros((), dtype=arguments_dtype(self.declaration))
        for name, tensor in self._tensors.items():
            kind, _, which = name.partition("/")
            if kind == "state":
                arguments[f"state_{which}"] = tensor.data_ptr()
            elif which:
                arguments[kind][list(self.groups).index(which)] = tensor.data_ptr()
            else:
                arguments[name] = tensor.data_ptr()
        arguments["num_envs"] = self.num_envs
        arguments["max_steps"] = self.declaration.max_steps
        arguments["action_bytes"] = 4
        arguments["aligned"] = True  # torch's allocations are
        for parameter in runtime_parameters(self.declaration):
            arguments[f"param_{parameter.name}"] = getattr(self.declaration, parameter.name)
        self._arguments = arguments
        self._action_addresses = arguments["action"]
        self._action_bytes = arguments["action_bytes"]
        self._bound: Mapping[str, Tensor] = self._actions
        self._backend.bind(arguments)

    def _point_at_actions(self, actions: Mapping[str, Tensor]) -> None:
        if actions is self._bound and actions is self._actions:
            return
        for g, tensor in enumerate(actions.values()):
            self._action_addresses[g] = tensor.data_ptr()
            self._action_bytes[g] = tensor.element_size()
        self._bound = actions  # keeps the tensors alive while a GPU reads them

    def _step_into(self, out: Mapping[str, Any]) -> StepResult:
        by_group, per_copy = self._checked_out(out)
        results: dict[str, TensorDict] = {}
        before = self._arguments.copy()
        own = {"observation": self._observation, "reward": self._reward, "terminated": self._terminated}
        for kind in _BY_GROUP:
            results[kind] = own[kind] | by_group.get(kind, {})
            for g, name in enumerate(self.groups):
                self._arguments[kind][g] = results[kind][name].data_ptr()
        for kind, tensor in per_copy.items():
            self._arguments[kind] = tensor.data_ptr()
        self._arguments["aligned"] = not (self._arguments["observation"] % ALIGNMENT).any()
        try:
            self._backend.launch("step")
        finally:
            self._arguments[()] = before
        truncated = per_copy.get("truncated", self._truncated)
        info = self._info | ({"done": per_copy["done"]} if "done" in per_copy else {})
        return results["observation"], results["reward"], results["terminated"], truncated, info

    # ---- what users may get wrong ----

    def _check_usable(self) -> None:
        if self._closed:
            raise UsageError("The environment is closed; make a new one.")
        self._backend.check_process()

    def _checked_mask(self, mask: Tensor | None) -> Tensor | None:
        if mask is None:
            return None
        fits = isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.shape == (self.num_envs,)
        if not fits or mask.device != self.device:
            raise ParameterError(
                f"mask must be a bool tensor of shape [{self.num_envs}] on {self.device}; {given(mask)}."
            )
        return mask.contiguous()

    def _checked_actions(self, actions: Mapping[str, Tensor]) -> TensorDict:
        if not isinstance(actions, Mapping):
            raise ActionError(
                f"Actions must be a dict with a tensor per group ({', '.join(self.groups)}); {given(actions)}."
            )
        for name in actions:
            if name not in self.groups:
                raise ActionError(f"There is no group {name!r} to act; {nearest(str(name), self.groups)}")
        return {name: self._checked_action(group, actions.get(name)) for name, group in self.groups.items()}

    def _checked_action(self, group: Group, action: Any) -> Tensor:
        shape = (self.num_envs, group.size, *group.action_shape)
        dtypes = _INTEGERS if group.action_counts else (torch.float32,)
        if action is None:
            raise ActionError(f"Actions of group {group.name!r} are missing; give a tensor of shape {list(shape)}.")
        fits = isinstance(action, Tensor) and action.shape == shape and action.dtype in dtypes
        fits = fits and action.layout == torch.strided
        if not fits or action.device != self.device:
            names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
            raise ActionError(
                f"Actions of group {group.name!r} must be a {names} tensor of shape {list(shape)} on {self.device}; "
                f"{given(action)}."
            )
        return action if action.is_contiguous() else action.contiguous()

    def _check_values(self, actions: Mapping[str, Tensor]) -> None:
        for g, (name, tensor) in enumerate(actions.items()):
            at = self._backend.find_invalid_action(g, tensor, self._action_counts.get(name))
            if at >= 0:
                index = [int(i) for i in np.unravel_index(at, tensor.shape)]
                what = f"outside {self.action_spaces[name]}" if self.groups[name].action_counts else "not finite"
                raise ActionError(
                    f"Action {tensor.flatten()[at].item()} of group {name!r} at {index} is {what}; nothing was stepped."
                )

    def _checked_out(self, out: Mapping[str, Any]) -> tuple[dict[str, TensorDict], TensorDict]:
        own = {"observation": self._observation, "reward": self._reward, "terminated": self._terminated}
        by_group: dict[str, TensorDict] = {}
        per_copy: TensorDict = {}
        if not isinstance(out, Mapping):
            raise StateError(f"out must be a dict of tensors to write into; {given(out)}.")
        for kind, value in out.items():
            if kind in own:
                if not isinstance(value, Mapping):
                    raise StateError(f"out[{kind!r}] must be a dict with a tensor per group; {given(value)}.")
                for name, tensor in value.items():
                    if name not in self.groups:
                        raise StateError(f"out[{kind!r}] has no group {name!r}; {nearest(str(name), self.groups)}")
                    self._check_out_tensor(tensor, own[kind][name], f"out[{kind!r}][{name!r}]")
                by_group[kind] = dict(value)
            elif kind in _PER_COPY:
                self._check_out_tensor(value, self._tensors[kind], f"out[{kind!r}]")
                per_copy[kind] = value
            else:
                raise StateError(f"out has no entry {kind!r}; {nearest(str(kind), (*_BY_GROUP, *_PER_COPY))}")
        return by_group, per_copy

    def _check_out_tensor(self, tensor: Any, like: Tensor, where: str) -> None:
        fits = isinstance(tensor, Tensor) and tensor.shape == like.shape and tensor.dtype == like.dtype
        if not fits or tensor.device != self.device or not tensor.is_contiguous():
            dtype = str(like.dtype).removeprefix("torch.")
            raise StateError(
                f"{where} must be a contiguous {dtype} tensor of shape {list(like.shape)} on {self.device}; "
                f"{given(tensor)}."
            )
