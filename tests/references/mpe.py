"""The originals of the particle environments, mpe2, one copy at a time: put into a state, stepped, and read.

mpe2 computes in float64. Where it compares a distance with a threshold, or sorts by distance, rounding can decide; an
:class:`Original` says of every result by how much the closest of these comparisons was decided: its margin.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np

from gpu_marl_envs.spec import Environment

VERSION = "1.1.1"  # of mpe2
POSITIONS = ("x", "y", "landmark_x", "landmark_y")
Fields = dict[str, np.ndarray]


class Original:
    """One world of mpe2 for the parameters of a declaration."""

    def __init__(self, declaration: Environment) -> None:
        module = importlib.import_module("mpe2." + declaration.id.replace("-", "_"))
        self.declaration = declaration
        self.env = module.raw_env(**declaration.params())
        self.world, self.scenario = self.env.world, self.env.scenario
        # A property of mpe2's base class holds the curriculum at stage 0, whatever is set; an attribute of this class
        # hides the property, so that stages are what mpe2 documents.
        self.scenario.__class__ = type("Staged", (type(self.scenario),), {"curriculum_stage": 0})
        self.env.reset(seed=0)
        self._margin = math.inf
        for name in ("is_collision", "_is_collision"):
            if hasattr(self.scenario, name):
                setattr(self.scenario, name, self._watched(getattr(self.scenario, name)))

    def _watched(self, touches: Any) -> Any:
        """The original's test for a collision, which notes how close it was."""

        def watched(one: Any, other: Any) -> bool:
            distance = math.dist(one.state.p_pos, other.state.p_pos)
            self._margin = min(self._margin, abs(distance - (one.size + other.size)))
            return touches(one, other)

        return watched

    def put(self, state: Fields, step: int) -> None:
        """Puts it into one copy's ``state``, after ``step`` steps."""
        self.set_stage(state)
        self.env.reset()
        for k, entity in enumerate(self.world.agents):
            entity.state.p_pos = np.array([state["x"][k], state["y"][k]], np.float64)
            entity.state.p_vel = np.array([state["velocity_x"][k], state["velocity_y"][k]], np.float64)
        for k, entity in enumerate(self.world.landmarks):
            entity.state.p_pos = np.array([state["landmark_x"][k], state["landmark_y"][k]], np.float64)
        self.put_more(state)
        self.env.steps = step

    def observe(self) -> tuple[list[np.ndarray], float]:
        """Every agent's observation in float64, and the margin."""
        self._margin = math.inf
        observations = [self.scenario.observation(agent, self.world) for agent in self.world.agents]
        return observations, min(self._margin, self.closest_order())

    def step(self, actions: list[Any]) -> tuple[list[float], bool, bool, float]:
        """Rewards, whether the episode was terminated, whether it was truncated, and the margin of the two first."""
        env = self.env
        self._margin = math.inf
        for action in actions:
            # What mpe2's own wrapper does to actions outside of their space.
            env.step(np.clip(action, 0.0, 1.0) if self.declaration.params()["continuous_actions"] else action)
        flags = [set(values.values()) for values in (env.terminations, env.truncations)]
        assert all(len(values) == 1 for values in flags)
        rewards = [env.rewards[agent] for agent in env.possible_agents]
        return rewards, flags[0].pop(), flags[1].pop(), min(self._margin, self.closest_comparison())

    def read(self) -> Fields:
        """The state fields that it has, in float64 or as integers."""
        agents = [agent.state for agent in self.world.agents]
        fields = {
            "x": [state.p_pos[0] for state in agents],
            "y": [state.p_pos[1] for state in agents],
            "velocity_x": [state.p_vel[0] for state in agents],
            "velocity_y": [state.p_vel[1] for state in agents],
            "landmark_x": [entity.state.p_pos[0] for entity in self.world.landmarks],
            "landmark_y": [entity.state.p_pos[1] for entity in self.world.landmarks],
        }
        return {name: np.array(values) for name, values in (fields | self.read_more()).items()}

    # ---- what differs between environments ----

    def set_stage(self, state: Fields) -> None:
        """Sets the stage of the curriculum."""
        if state.get("curriculum_stage", np.zeros(0)).ndim == 0:
            self.scenario.set_curriculum_stage(int(state.get("present_stage", state["curriculum_stage"])))

    def put_more(self, state: Fields) -> None:
        """Puts in what not all environments have."""

    def foresee(self, after: Fields) -> None:
        """Has the coming step draw random numbers that lead to the state ``after``."""

    def read_more(self) -> dict[str, Any]:
        """Reads what not all environments have."""
        return {}

    def closest_comparison(self) -> float:
        """By how much the closest comparison with a threshold was decided, apart from collisions."""
        return math.inf

    def closest_order(self) -> float:
        """By how much the closest two of what an observation sorts by differ; two at one distance are no tie to us."""
        params, closest = self.declaration.params(), math.inf
        for limit, entities in (
            (params.get("num_agent_neighbors"), self.world.agents),
            (params.get("num_landmark_neighbors"), self.world.landmarks),
        ):
            for agent in self.world.agents if limit else ():
                closest = min(closest, closest_distances(agent, [entity for entity in entities if entity is not agent]))
        return closest


def closest_distances(agent: Any, entities: list[Any]) -> float:
    """The least difference between two of the distances from an agent to entities."""
    distances = sorted(math.dist(agent.state.p_pos, entity.state.p_pos) for entity in entities)
    return min(np.diff(distances), default=math.inf)


class Spread(Original):
    """Compares the distance of each landmark to the nearest agent with the capture radius."""

    def closest_comparison(self) -> float:
        places = [agent.state.p_pos for agent in self.world.agents]
        nearest = [min(math.dist(place, entity.state.p_pos) for place in places) for entity in self.world.landmarks]
        return min(abs(distance - self.scenario.CAPTURE_RADIUS) for distance in nearest)


ORIGINALS: dict[str, type[Original]] = {
    "simple-v3": Original,
    "simple_spread-v3": Spread,
    "simple_tag-v3": Original,
}
