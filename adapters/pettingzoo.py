"""PettingZoo's parallel and AEC APIs over one copy of an environment.

The environment runs on the CPU build by default: one step of a small environment takes tens of microseconds there,
while a GPU pays off only for batches (:func:`gpu_marl_envs.make_batched`).
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from itertools import chain, compress
from typing import Any, Literal, NoReturn

import gymnasium
import numpy as np
import pettingzoo
import torch
from gymnasium import spaces
from pettingzoo.utils.conversions import parallel_to_aec_wrapper
from pettingzoo.utils.wrappers import OrderEnforcingWrapper

from gpu_marl_envs import registry, rendering
from gpu_marl_envs.adapters.arrays import (
    MaskedObservations,
    Mirror,
    StepResult,
    action_writer,
    observation_space,
    shown,
)
from gpu_marl_envs.adapters.pettingzoo_registry import module_name
from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.errors import ActionError, ParameterError, UsageError, nearest
from gpu_marl_envs.spec import Environment

RenderMode = Literal["human", "rgb_array"]

RENDER_MODES: tuple[RenderMode, ...] = ("human", "rgb_array")
RENDER_FPS = 12  # slow enough to follow agents that move by a tenth of the world in a step


def parallel_env(
    env_id: str,
    *,
    render_mode: RenderMode | None = None,
    seed: int | None = None,
    device: str | torch.device = "cpu",
    max_cycles: int | None = None,
    **params: Any,
) -> ParallelEnvironment:
    """An environment with PettingZoo's parallel API.

    Args:
        env_id: as in ``"tag_continuous-v0"``.
        render_mode: ``"human"`` shows every step in a window, ``"rgb_array"`` makes ``render()`` return pictures.
        seed: of the first episode where ``reset`` gets none; by default a fresh one for every environment.
        device: ``"cpu"``, or a GPU as in ``"cuda"``.
        max_cycles: steps after which an episode is truncated; PettingZoo's name for the environment's own parameter.
        params: the environment's parameters.

    Raises:
        UnknownEnvironmentError: there is no such environment.
        ParameterError: an argument is unknown, of the wrong type or out of range.
        BackendUnavailableError: the device, or a compiler for it, is not there.
    """
    return ParallelEnvironment(
        env_id, render_mode=render_mode, seed=seed, device=device, max_cycles=max_cycles, **params
    )


def raw_env(env_id: str, **arguments: Any) -> TurnEnvironment:
    """An environment with PettingZoo's AEC API, without wrappers; arguments as for :func:`parallel_env`."""
    return TurnEnvironment(parallel_env(env_id, **arguments))


def env(env_id: str, **arguments: Any) -> OrderEnforcingWrapper:
    """An environment with PettingZoo's AEC API; arguments as for :func:`parallel_env`.

    Calls in a wrong order (as before ``reset``) are reported by PettingZoo's ``OrderEnforcingWrapper``.
    """
    return OrderEnforcingWrapper(raw_env(env_id, **arguments))


class ParallelEnvironment(pettingzoo.ParallelEnv[str, np.ndarray, Any]):
    """One copy of an environment with PettingZoo's parallel API; make it with :func:`parallel_env`.

    Agents leave ``agents`` when they terminate; truncation ends the episode for all. Everything returned is fresh and
    belongs to the caller. Pickles and deep copies continue with the same bits; a window is not copied with them.

    Attributes:
        agents: the agents in the game, in order.
        possible_agents: all agents.
        declaration: the environment's declaration, with the values of its parameters.
        batched: the underlying batch of one copy.
        render_mode: ``"human"``, ``"rgb_array"`` or none.
        metadata: ``name``, ``render_modes``, ``render_fps`` and ``is_parallelizable``.
    """

    def __init__(
        self,
        env_id: str,
        *,
        render_mode: RenderMode | None = None,
        seed: int | None = None,
        device: str | torch.device = "cpu",
        max_cycles: int | None = None,
        **params: Any,
    ) -> None:
        kind = registry.get(env_id)
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise ParameterError(
                f"{kind.id}: render_mode must be 'human', 'rgb_array' or None, but {render_mode!r} was given."
            )
        if max_cycles is not None:
            if kind.truncate_after in params:
                raise ParameterError(
                    f"{kind.id}: max_cycles is another name of {kind.truncate_after}; give one of them."
                )
            params[kind.truncate_after] = max_cycles
        self.render_mode = render_mode
        self.metadata: dict[str, Any] = {
            "name": module_name(kind.id),
            "render_modes": list(RENDER_MODES),
            "render_fps": RENDER_FPS,
            "is_parallelizable": True,
        }
        self._first_seed = seed
        self._started = False  # whether the random streams have a seed
        self._closed = False
        self._attach(_single(kind.make(**params), device, seed))
        self._max_cycles = self.declaration.max_steps
        self._window: rendering.Window | None = None
        self.possible_agents = list(self.declaration.agent_names)
        self.agents = list(self.possible_agents)

    def _attach(self, batched: BatchedEnv) -> None:
        """Takes over a batch of one copy."""
        self.batched = batched
        self.declaration = batched.declaration
        self._fields = [field.name for field in self.declaration.state_fields() if not field.scratch]
        self._state = Mirror([*(getattr(batched.state, name) for name in (*self._fields, "step")), batched.alive])
        self._action_tensors = batched.actions
        self._actions = Mirror(self._action_tensors.values())
        self._result: StepResult | None = None
        self._masked: MaskedObservations | None = None
        if batched.action_masks:
            self._masked = MaskedObservations(self.declaration.agent_groups, batched.action_masks)
        self._writers: dict[str, Callable[[Any], None]] = {}
        for group, actions in zip(self.declaration.agent_groups, self._actions.arrays, strict=True):
            self._writers.update((f"{group.name}_{i}", action_writer(group, actions, i)) for i in range(group.size))

    # ---- spaces ----

    @cached_property
    def observation_spaces(self) -> dict[str, spaces.Space[Any]]:
        """The observation space of every agent; the agents of a group share one.

        Where the environment masks actions it is ``{"observation": …, "action_mask": …}``. The action space's
        ``sample`` takes the mask: int8 ``[choices]``, 1 for what is allowed, or a tuple of them for ``MultiDiscrete``.
        """
        shared = {group.name: observation_space(group) for group in self.declaration.agent_groups}
        return {f"{g.name}_{i}": shared[g.name] for g in self.declaration.agent_groups for i in range(g.size)}

    @cached_property
    def action_spaces(self) -> dict[str, spaces.Space[Any]]:
        """The action space of every agent; each its own, as spaces hold the random state that ``sample`` uses."""
        groups = self.declaration.agent_groups
        return {f"{g.name}_{i}": copy.deepcopy(g.action_space) for g in groups for i in range(g.size)}

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        """The agent's observation space; always the same object."""
        self._require_agent(agent)
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """The agent's action space; always the same object."""
        self._require_agent(agent)
        return self.action_spaces[agent]

    @cached_property
    def state_space(self) -> spaces.Box:
        """The space of :meth:`state`: a float32 ``Box`` with the bounds that the state fields declare."""
        declaration = self.declaration
        bounds = [(field.low, field.high) for field in declaration.state_fields() if not field.scratch]
        bounds += [(0.0, declaration.max_steps), (0.0, 1.0)]
        sizes = [array.size for array in self._state.arrays]
        low, high = (np.repeat(np.asarray(column, np.float32), sizes) for column in zip(*bounds, strict=True))
        return spaces.Box(low, high, dtype=np.float32)

    # ---- the episode ----

    @property
    def max_cycles(self) -> int:
        """Steps after which an episode is truncated; a new value holds from the next reset."""
        return self._max_cycles

    @max_cycles.setter
    def max_cycles(self, value: int) -> None:
        declaration = self.declaration
        parameter = next(p for p in declaration.parameters() if p.name == declaration.truncate_after)
        self._max_cycles = parameter.coerce(value, declaration.id)

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Starts an episode.

        Args:
            seed: restarts the random streams; without one, the next episode of the present streams begins.
            options: none are known; others are ignored with a warning.

        Returns:
            Observations and infos of all agents.

        Raises:
            ParameterError: the seed is not a whole number in range.
            UsageError: the environment is closed.
        """
        self._require_open()
        for name in options or ():
            warnings.warn(f"{self.declaration.id} has no reset option {name!r}; it is ignored.", stacklevel=2)
        if self._max_cycles != self.declaration.max_steps:
            self._rebuild()
        if seed is None and not self._started:
            seed = _fresh_seed() if self._first_seed is None else self._first_seed
        mirror = Mirror(self.batched.reset(seed=seed).values())
        mirror.fetch()
        self._started = True
        self.agents = list(self.possible_agents)
        if self.render_mode == "human":
            self.render()
        observations: Iterable[Any] = chain.from_iterable(array.copy() for array in mirror.arrays)
        if self._masked is not None:
            observations = self._masked.of(observations)
        return dict(zip(self.agents, observations, strict=True)), {agent: {} for agent in self.agents}

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Takes one step.

        Args:
            actions: of every agent in ``agents``; those of agents that have left are ignored.

        Returns:
            Observations, rewards, terminations, truncations and infos of the agents that were in the game before
            the step; empty once the episode is over.

        Raises:
            ActionError: an action is missing or invalid, or for an unknown agent; nothing was stepped then.
            UsageError: there was no reset yet, or the environment is closed.
        """
        agents = self.agents
        if not agents:
            self._require_open()
            return {}, {}, {}, {}, {}
        self._write(actions)
        self._actions.send()
        observation, reward, terminated, truncated, _ = self.batched.step(self._action_tensors)
        if self._result is None:  # a batch returns the same storage every time
            self._result = StepResult(observation, reward, terminated, truncated)
        observations: list[Any]
        observations, rewards, terminations, is_truncated = self._result.read()
        if self._masked is not None:
            observations = self._masked.of(observations)
        if len(agents) < len(self.possible_agents):
            playing = set(agents)
            here = [agent in playing for agent in self.possible_agents]
            observations, rewards = list(compress(observations, here)), list(compress(rewards, here))
            terminations = list(compress(terminations, here))
        if is_truncated:
            self.agents = []
        elif True in terminations:
            self.agents = [agent for agent, left in zip(agents, terminations, strict=True) if not left]
        if self.render_mode == "human":
            self.render()
        return (
            dict(zip(agents, observations, strict=True)),
            dict(zip(agents, rewards, strict=True)),
            dict(zip(agents, terminations, strict=True)),
            dict.fromkeys(agents, is_truncated),
            self._infos(agents) if self.declaration.has_infos else {agent: {} for agent in agents},
        )

    def _infos(self, agents: list[str]) -> dict[str, dict[str, Any]]:
        self._state.fetch()
        infos = self.declaration.infos(dict(zip(self._fields, self._state.arrays, strict=False)))
        return {agent: infos[agent] for agent in agents}

    def state(self) -> np.ndarray:
        """The whole state: every state field, flattened, then the step count, then who is in the game (0 or 1).

        Returns:
            float32 of one dimension, in :attr:`state_space`.

        Raises:
            UsageError: there was no reset yet.
        """
        self._require_reset("state")
        self._state.fetch()
        return np.concatenate([array.ravel() for array in self._state.arrays], dtype=np.float32, casting="unsafe")

    def render(self) -> np.ndarray | None:
        """Draws the present state.

        Returns:
            With ``render_mode="rgb_array"`` a picture, uint8 ``[height, width, 3]``; none otherwise.

        Raises:
            UsageError: there was no reset yet.
            BackendUnavailableError: pygame is not installed, or ``"human"`` finds no display.
        """
        if self.render_mode is None:
            gymnasium.logger.warn(f"{self.declaration.id}: render() draws nothing without a render_mode.")
            return None
        self._require_reset("render")
        self._state.fetch()
        *fields, step, alive = (array.copy() for array in self._state.arrays)
        state = dict(zip(self._fields, fields, strict=True), step=int(step), alive=alive)
        pixels = rendering.render_state(self.declaration, state)
        if self.render_mode == "rgb_array":
            return pixels
        if self._window is None:
            self._window = rendering.Window(self.declaration.id, self.metadata["render_fps"])
        self._window.show(pixels)
        return None

    def close(self) -> None:
        """Closes the window and frees the environment; closing twice is harmless."""
        if self._window is not None:
            self._window.close()
            self._window = None
        self._closed = True
        self.batched.close()

    # ---- actions ----

    def check_action(self, agent: str, action: Any) -> None:
        """Raises ActionError unless ``action`` is one of the agent's action space; a ``Box`` takes any finite numbers.

        Numbers outside a ``Box`` are clipped by the environment.
        """
        self._require_open()
        self._require_agent(agent)
        try:
            self._writers[agent](action)
        except (TypeError, ValueError, OverflowError):
            raise ActionError(
                f"{self.declaration.id}: the action of {agent!r} must be one of {self.action_spaces[agent]}, "
                f"but {shown(action)} was given."
            ) from None

    def _write(self, actions: dict[str, Any]) -> None:
        writers, agents = self._writers, self.agents
        try:
            for agent in agents:
                writers[agent](actions[agent])
            valid = len(actions) == len(agents) or actions.keys() <= writers.keys()
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError, IndexError):
            valid = False
        if not valid:
            self._reject(actions)

    def _reject(self, actions: Any) -> NoReturn:
        name = self.declaration.id
        if not isinstance(actions, Mapping):
            raise ActionError(
                f"{name}: actions must be a dict with the action of every agent in env.agents, "
                f"but {type(actions).__name__} was given."
            )
        for agent in self.agents:
            if agent not in actions:
                raise ActionError(f"{name}: there is no action of {agent!r}; give one for every agent in env.agents.")
            self.check_action(agent, actions[agent])
        unknown = next(iter(actions.keys() - self._writers.keys()))
        raise ActionError(f"{name}: there is an action of {unknown!r}, but {nearest(str(unknown), self._writers)}")

    # ---- housekeeping ----

    def _require_agent(self, agent: str) -> None:
        if agent not in self._writers:
            raise ParameterError(f"{self.declaration.id} has no agent {agent!r}; {nearest(str(agent), self._writers)}")

    def _require_open(self) -> None:
        if self._closed:
            raise UsageError(f"{self.declaration.id}: the environment is closed; make a new one.")

    def _require_reset(self, method: str) -> None:
        self._require_open()
        if not self._started:
            raise UsageError(f"{self.declaration.id}: call reset() before {method}().")

    def _rebuild(self) -> None:
        """Makes the batch again for a changed ``max_cycles``, at the same place of its random streams."""
        old = self.batched
        changed = dataclasses.replace(self.declaration, **{self.declaration.truncate_after: self._max_cycles})
        new = _single(changed, old.device)
        if self._started:
            new.state.restore(old.state.save())
        self._attach(new)
        old.close()
        self.__dict__.pop("state_space", None)  # its bound on the step count has changed

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in _BOUND}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _window=None)
        self._attach(self.batched)


# Tied to this object's memory or to the screen: a copy makes its own.
_BOUND = {"_action_tensors", "_actions", "_masked", "_result", "_state", "_window", "_writers"}


class TurnEnvironment(parallel_to_aec_wrapper[str, np.ndarray, Any]):
    """One copy of an environment with PettingZoo's AEC API; make it with :func:`env` or :func:`raw_env`.

    The agents act in turn and the environment steps after the last of them. Invalid actions are refused at the turn in
    which they are given, so that the agent can act again.
    """

    env: ParallelEnvironment

    def step(self, action: Any) -> None:
        """Takes the action of ``agent_selection``; none if that agent has left the game.

        Raises:
            ActionError: the action is invalid; nothing has changed then.
        """
        agent = self.agent_selection
        if not (self.terminations[agent] or self.truncations[agent]):
            self.env.check_action(agent, action)
        elif action is not None:
            raise ActionError(
                f"{self.env.declaration.id}: {agent!r} has left the game and must be stepped with None, "
                f"but {shown(action)} was given."
            )
        super().step(action)


def _single(declaration: Environment, device: str | torch.device, seed: int | None = None) -> BatchedEnv:
    """A batch of one copy that waits for a reset when its episode is over."""
    seed = 0 if seed is None else seed
    # Actions are checked before they reach the batch.
    return BatchedEnv(declaration, 1, device=device, seed=seed, autoreset_mode="DISABLED", check_actions=False)


def _fresh_seed() -> int:
    return int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
