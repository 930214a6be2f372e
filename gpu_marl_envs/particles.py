"""What the declarations of the particle environments share: parameters, spaces, state fields, pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from gpu_marl_envs.errors import DeclarationError
from gpu_marl_envs.rendering import INK, Canvas, Colour
from gpu_marl_envs.spec import ActionSpace, Environment, Field, Group, param

MOVES = 5  # nothing, left, right, down, up
SHOWN = 0.9  # of the picture's half side, up to the body that lies farthest out
SMALLEST = 0.1  # half side of a picture

Shade = tuple[float, float, float]  # red, green and blue as in the original, mostly up to 1
Look = tuple[float, Shade]  # radius and colour

RED: Shade = (0.85, 0.35, 0.35)
GREEN: Shade = (0.35, 0.85, 0.35)
BLUE: Shade = (0.35, 0.35, 0.85)
DARK: Shade = (0.25, 0.25, 0.25)


@dataclass(frozen=True)
class Disc:
    """A body as it is drawn."""

    x: float
    y: float
    radius: float
    colour: Shade


@dataclass(frozen=True, kw_only=True)
class Particles(Environment):
    """Base of the declarations whose dynamics include ``shared/particles.cuh``; it is no environment itself.

    A declaration defines ``groups``, ``state_fields`` and ``discs``, and ``words`` if agents speak.
    """

    truncate_after = "max_cycles"
    agents_leave = False

    max_cycles: int = param(25, "longest episode", low=1, unit="steps")
    continuous_actions: bool = param(False, "an action is how much of each move and word, else which one")
    dynamic_rescaling: bool = param(True, "bodies shrink in a picture that shows a larger area", dynamics=False)
    benchmark_data: bool = param(
        False, 'PettingZoo\'s infos hold "benchmark_data", what the original reports of each agent', dynamics=False
    )

    def group(self, name: str, size: int, observation: int, *, words: int = 0, moves: int = MOVES) -> Group:
        """Agents that observe ``observation`` floats, move if ``moves`` is not 0, and say one of so many ``words``."""
        action: ActionSpace = Discrete(max(moves, 1) * max(words, 1))
        if self.continuous_actions:
            action = Box(0.0, 1.0, (moves + words,), np.float32)
        return Group(name, size, Box(-np.inf, np.inf, (observation,), np.float32), action)

    def bodies(self, landmarks: int, *, contact: bool = False) -> tuple[Field, ...]:
        """State fields of agents that move and of landmarks; with ``contact`` also what pushing needs."""
        fields = tuple(
            Field(name, "float32", doc)
            for name, doc in (
                ("x", "position"),
                ("y", "position"),
                ("velocity_x", "change of x in ten steps, a unit of time"),
                ("velocity_y", "change of y in ten steps, a unit of time"),
            )
        )
        fields += tuple(
            Field(name, "float32", "positions of the landmarks", per="environment", shape=(landmarks,))
            for name in ("landmark_x", "landmark_y")
        )
        forces = tuple(Field(name, "float32", "force on the agent", scratch=True) for name in ("force_x", "force_y"))
        return fields + forces * contact

    def stage(self, name: str, doc: str, last: int, *, curriculum: bool) -> Field:
        """A state field for a stage of the curriculum, 0 to ``last``; without a curriculum it has no entries."""
        return Field(name, "int32", doc, per="environment", shape=() if curriculum else (0,), low=0, high=last)

    def assignment(self) -> tuple[Field, ...]:
        """What ``shared/assignment.cuh`` needs to assign agents to targets."""
        numbers = (
            ("target_x", "where targets are"),
            ("target_y", "where targets are"),
            ("agent_price", "potential of an agent"),
            ("target_price", "potential of a target"),
            ("slack", "least reduced cost of a target so far"),
        )
        indices = (
            ("assigned", "agent of a target"),
            ("before", "target before this one on the path"),
            ("visited", "whether the path has come to a target"),
        )
        return (
            *(Field(name, "float32", doc, scratch=True) for name, doc in numbers),
            *(Field(name, "int32", doc, scratch=True) for name, doc in indices),
        )

    # ---- infos ----

    @property
    def has_infos(self) -> bool:
        return self.benchmark_data

    def infos(self, state: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
        return {agent: {"benchmark_data": self.report(i, state)} for i, agent in enumerate(self.agent_names)}

    def report(self, i: int, state: Mapping[str, np.ndarray]) -> Any:
        """What the original reports of agent ``i``, in its types; ``{}`` where it reports nothing."""
        return {}

    # ---- pictures ----

    def discs(self, state: Mapping[str, Any]) -> list[Disc]:
        """Every body, in the order in which they are drawn one over another; ``state`` as for ``draw``."""
        raise DeclarationError(f"{type(self).__name__} must define discs().")

    def words(self, state: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """How much of each word ``[words]`` the agents say that can speak, by agent."""
        return {}

    def agent_discs(self, state: Mapping[str, Any], looks: Sequence[Look]) -> list[Disc]:
        """The agents, with a look for each, the first on top."""
        agents = zip(state["x"].tolist(), state["y"].tolist(), looks, strict=True)
        return [Disc(x, y, *look) for x, y, look in agents][::-1]

    def landmark_discs(self, state: Mapping[str, Any], looks: Sequence[Look]) -> list[Disc]:
        """The landmarks, with a look for each."""
        landmarks = zip(state["landmark_x"].tolist(), state["landmark_y"].tolist(), looks, strict=True)
        return [Disc(x, y, *look) for x, y, look in landmarks]

    def draw(self, canvas: Canvas, state: dict[str, np.ndarray]) -> None:
        """Discs on white, zoomed out until the farthest is in sight, and what agents say below."""
        discs = self.discs(state)
        reach = max(SMALLEST, *(max(abs(disc.x), abs(disc.y)) / SHOWN for disc in discs))
        canvas.view(-reach, -reach, reach, reach)
        scale = 1.0 if self.dynamic_rescaling else reach * SHOWN
        for disc in discs:
            canvas.circle(disc.x, disc.y, disc.radius * scale, _colour(disc.colour))
            if disc.radius * scale > 4 * canvas.pixel:  # a smaller one would be nothing but its outline
                canvas.circle(disc.x, disc.y, disc.radius * scale, INK, width=1)
        spoken = [f"{agent} says {_spelled(said)}" for agent, said in self.words(state).items()]
        for line, text in enumerate(reversed(spoken)):
            canvas.text(-0.95 * reach, (-0.95 + 0.06 * line) * reach, text, size=16, anchor="bottomleft")
        name = self.id.rpartition("-v")[0].replace("_", " ")
        step = f"step {int(state['step'])} / {self.max_steps}"
        canvas.title(f"{name}    {step}", short=step)


def agent_places(state: Mapping[str, np.ndarray]) -> np.ndarray:
    """The agents' positions, float64 ``[num_agents, 2]``."""
    return np.stack([state["x"], state["y"]], axis=-1).astype(np.float64)


def landmark_places(state: Mapping[str, np.ndarray]) -> np.ndarray:
    """The landmarks' positions, float64 ``[landmarks, 2]``."""
    return np.stack([state["landmark_x"], state["landmark_y"]], axis=-1).astype(np.float64)


def distances(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """From each place of ``[n, 2]`` to each of ``[m, 2]``: ``[n, m]``."""
    return np.linalg.norm(here[:, None] - there, axis=-1)


def _colour(shade: Shade) -> Colour:
    red, green, blue = (min(round(200 * part), 255) for part in shade)
    return red, green, blue


def _spelled(said: np.ndarray) -> str:
    """The letter of a word that is said alone; the shares of several."""
    if not said.any():
        return "_"
    if np.count_nonzero(said) == 1 and said.max() == 1.0:
        return chr(ord("A") + int(said.argmax()))
    return "[" + ", ".join(f"{share:.2f}" for share in said) + "]"
