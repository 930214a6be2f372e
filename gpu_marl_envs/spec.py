"""What an environment declares: parameters, agent groups, spaces and state fields.

An environment is a frozen dataclass that derives from :class:`Environment`. Its dataclass fields are
its parameters; from this one declaration the package derives the C++ structs and constants, the torch
tensors, the spaces, the PettingZoo agents, the validation of arguments and the command-line flags.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from gymnasium import spaces

from gpu_marl_envs.errors import DeclarationError
from gpu_marl_envs.parameters import Parameter, Parametrised, param
from gpu_marl_envs.sources import sources_folder

if TYPE_CHECKING:
    from gpu_marl_envs.rendering import Canvas

__all__ = ["ActionSpace", "Environment", "Field", "Group", "Parameter", "param"]

ActionSpace = spaces.Discrete | spaces.MultiDiscrete | spaces.Box

PACKAGE_KERNELS = "envs"  # folder of the packaged dynamics files, below the kernel sources


@dataclass(frozen=True)
class Group:
    """Agents of one kind: they share an observation space and an action space.

    Attributes:
        name: lower-case letters; the agents of a group of name ``tagger`` are ``tagger_0``, ``tagger_1``, …
        size: number of agents of this group in one copy of the environment.
        observation_space: of one agent; a float32 ``Box``.
        action_space: of one agent; ``Discrete``, ``MultiDiscrete`` or a float32 ``Box``, of at most one dimension.
        action_mask: whether the dynamics say by ``allowed`` which choices of discrete actions an agent has.
    """

    name: str
    size: int
    observation_space: spaces.Box
    action_space: ActionSpace
    action_mask: bool = False

    @cached_property
    def observation_size(self) -> int:
        """Number of floats in one agent's observation."""
        return int(np.prod(self.observation_space.shape))

    @cached_property
    def action_counts(self) -> tuple[int, ...]:
        """For discrete actions the number of choices of each component; empty for a ``Box``."""
        if isinstance(self.action_space, spaces.Discrete):
            return (int(self.action_space.n),)
        if isinstance(self.action_space, spaces.MultiDiscrete):
            return tuple(int(n) for n in self.action_space.nvec)
        return ()

    @cached_property
    def action_shape(self) -> tuple[int, ...]:
        """Shape of one agent's action: ``()`` for ``Discrete``, else one dimension."""
        return tuple(self.action_space.shape or ())

    @cached_property
    def mask_shape(self) -> tuple[int, ...]:
        """Shape of one agent's mask: choices for ``Discrete``; components and choices of the largest one otherwise."""
        return (*self.action_shape, max(self.action_counts))


@dataclass(frozen=True)
class Field:
    """One field of the state.

    Attributes:
        name: the attribute of ``env.state`` in Python and the array's name in the dynamics.
        dtype: ``"float32"`` or ``"int32"``.
        doc: what it is, with its unit.
        per: ``"agent"`` gives a tensor ``[num_envs, num_agents, *shape]``, ``"environment"`` ``[num_envs, *shape]``.
        shape: the shape of one entry.
        low: smallest value that the dynamics produce; for ``state_space``.
        high: largest value that the dynamics produce; for ``state_space``.
        scratch: the dynamics need it within a step only: it is not part of ``env.state`` and holds nothing at first.
    """

    name: str
    dtype: Literal["float32", "int32"]
    doc: str
    per: Literal["agent", "environment"] = "agent"
    shape: tuple[int, ...] = ()
    low: float = -math.inf
    high: float = math.inf
    scratch: bool = False

    def length(self, num_agents: int) -> int:
        """Number of entries in one copy."""
        return math.prod(self.shape) * (num_agents if self.per == "agent" else 1)


@dataclass(frozen=True, kw_only=True)
class Environment(Parametrised):
    """Base of every declaration; see ``envs/tag_gridworld.py`` for the template.

    Class attributes that a declaration sets:
        id: the environment's name with its version, as in ``"tag_gridworld-v0"``.
        state: the state fields, or a method ``state_fields`` where they depend on parameters.
        truncate_after: name of the parameter that holds the longest episode in steps; an episode is truncated then.
        agents_leave: whether an agent may leave the game while others stay. If not, every ``terminated`` entry must be
            set in the same step, and the kernels need not count who is there.
        loop_by_loop: whether the dynamics read and write state in loops over agents alone, and what lies between loops
            depends on nothing but parameters, ``time`` and what calls return. A GPU may then run many large copies loop
            by loop, with all of them in each. Which calls there are must follow from static parameters, and what they
            return is only to be used in later loops: a kernel for an earlier one passes by without it.

    Raises:
        ParameterError: a parameter has the wrong type or lies outside its valid range.
    """

    id: ClassVar[str]
    state: ClassVar[tuple[Field, ...]] = ()
    truncate_after: ClassVar[str] = "episode_length"
    agents_leave: ClassVar[bool] = True
    loop_by_loop: ClassVar[bool] = False

    def groups(self) -> tuple[Group, ...]:
        """The agent groups, in the order in which their agents are numbered."""
        raise DeclarationError(f"{type(self).__name__} must define groups().")

    def state_fields(self) -> tuple[Field, ...]:
        """The state fields, in the order in which the dynamics see them."""
        return self.state

    def neighbors(self) -> int:
        """The largest K of nearest<K> in the dynamics, for which the kernels keep memory."""
        return 0

    def check(self) -> None:
        """Raises ParameterError where parameters contradict each other."""

    def draw(self, canvas: Canvas, state: dict[str, np.ndarray]) -> None:
        """Draws one copy.

        Args:
            canvas: what to draw on.
            state: the copy's state fields by name (``[num_agents, …]``), and ``alive`` (bool) and ``step`` (int).
        """
        canvas.draw_agents(self, state)

    @property
    def has_infos(self) -> bool:
        """Whether PettingZoo's infos hold what :meth:`infos` returns, instead of nothing."""
        return False

    def infos(self, state: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
        """What PettingZoo's infos hold after a step, for every agent.

        Args:
            state: the copy's state fields by name (``[num_agents, …]``), to be read only.
        """
        return {agent: {} for agent in self.agent_names}

    # ---- what the rest of the package derives from a declaration ----

    def __post_init__(self) -> None:
        if self.truncate_after not in {parameter.name for parameter in self.parameters()}:
            raise DeclarationError(
                f"{self.id} must declare the parameter {self.truncate_after!r}, the longest episode in steps, or name "
                "another one as truncate_after."
            )
        super().__post_init__()
        self.check()

    @classmethod
    def label(cls) -> str:
        """The id."""
        return cls.id

    @classmethod
    def kernel(cls) -> Path:
        """The file with the dynamics: ``<module>.cuh`` beside the declaration, or the packaged one of that name."""
        module = getattr(sys.modules[cls.__module__], "__file__", None)
        if module is None:
            raise DeclarationError(f"{cls.id} must be declared in a file, with its .cuh file beside it.")
        beside = Path(module).with_suffix(".cuh")
        if beside.exists():
            return beside
        packaged = sources_folder() / PACKAGE_KERNELS / beside.name
        if packaged.exists():
            return packaged
        raise DeclarationError(f"{cls.id}: there is no dynamics file {beside}; write it beside its declaration.")

    @cached_property
    def agent_groups(self) -> tuple[Group, ...]:
        """The checked result of :meth:`groups`, always the same objects."""
        groups = self.groups()
        for group in groups:
            _check_group(self.id, group)
        if len({group.name for group in groups}) != len(groups) or not groups:
            raise DeclarationError(f"{self.id} must have at least one group, and every group its own name.")
        return groups

    @cached_property
    def masks_actions(self) -> bool:
        """Whether a group masks actions."""
        return any(group.action_mask for group in self.agent_groups)

    @cached_property
    def num_agents(self) -> int:
        """Number of agents in one copy, over all groups."""
        return sum(group.size for group in self.agent_groups)

    @cached_property
    def agent_names(self) -> tuple[str, ...]:
        """``<group>_<i>`` for every agent of one copy, in state order."""
        return tuple(f"{group.name}_{i}" for group in self.agent_groups for i in range(group.size))

    @property
    def max_steps(self) -> int:
        """Steps after which an episode is truncated."""
        return int(getattr(self, self.truncate_after))


def _check_group(owner: str, group: Group) -> None:
    where = f"{owner}: group {group.name!r}"
    if not re.fullmatch(r"[a-z]+(_[a-z]+)*", group.name):
        raise DeclarationError(f"{where} must be named in lower-case letters, with underscores between words.")
    if not isinstance(group.size, int) or group.size < 1:
        raise DeclarationError(f"{where} must have at least one agent.")
    observation, action = group.observation_space, group.action_space
    if not isinstance(observation, spaces.Box) or observation.dtype != np.float32:
        raise DeclarationError(f"{where} must observe a float32 Box.")
    if isinstance(action, spaces.Discrete | spaces.MultiDiscrete) and np.any(action.start != 0):
        raise DeclarationError(f"{where} must have actions that start at 0.")
    if isinstance(action, spaces.Box) and action.dtype != np.float32:
        raise DeclarationError(f"{where} must have float32 actions.")
    known = isinstance(action, spaces.Discrete | spaces.MultiDiscrete | spaces.Box)
    if not known or len(group.action_shape) != (0 if isinstance(action, spaces.Discrete) else 1):
        raise DeclarationError(f"{where} must have a Discrete, MultiDiscrete or one-dimensional Box action space.")
    if group.action_mask and isinstance(action, spaces.Box):
        raise DeclarationError(f"{where} cannot mask the actions of a Box; mask Discrete or MultiDiscrete ones.")
