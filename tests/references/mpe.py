"""The originals of the particle environments, mpe2, one copy at a time: put into a state, stepped, and read.

mpe2 computes in float64. Where it compares a distance with a threshold, or sorts by distance, rounding can decide; an
:class:`Original` says of every result by how much the closest of these comparisons was decided: its margin.
"""

from __future__ import annotations

import importlib
import itertools
import math
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from gpu_marl_envs.backends.source import persistent_fields
from gpu_marl_envs.spec import Environment

VERSION = "1.1.1"  # of mpe2
Fields = dict[str, np.ndarray]


class Outcome(NamedTuple):
    """What a step gives, of one copy; the margin is that of rewards and termination."""

    rewards: list[float]
    terminated: bool
    truncated: bool
    margin: float


class Original:
    """One world of mpe2 for the parameters of a declaration.

    Attributes:
        most_left_out: share of the comparisons with it that rounding may decide, from all kinds of states.
    """

    most_left_out = 0.01

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
        if "x" in state:
            for k, agent in enumerate(self.world.agents):
                agent.state.p_pos = np.array([state["x"][k], state["y"][k]], np.float64)
                agent.state.p_vel = np.array([state["velocity_x"][k], state["velocity_y"][k]], np.float64)
            for k, landmark in enumerate(self.world.landmarks):
                landmark.state.p_pos = np.array([state["landmark_x"][k], state["landmark_y"][k]], np.float64)
        if "communication" in state:
            for agent, said in zip(self.speakers(), np.atleast_2d(state["communication"]), strict=True):
                agent.state.c = said.astype(np.float64)
        self.put_more(state)
        self.env.steps = step

    def observe(self) -> tuple[list[np.ndarray], float]:
        """Every agent's observation in float64, and the margin."""
        self._margin = math.inf
        observations = [self.scenario.observation(agent, self.world) for agent in self.world.agents]
        return observations, min(self._margin, self.closest_order())

    def step(self, actions: list[Any]) -> Outcome:
        """Takes a step, one action for each agent."""
        env = self.env
        self._margin = math.inf
        for action in actions:
            # What mpe2's own wrapper does to actions outside of their space.
            env.step(np.clip(action, 0.0, 1.0) if self.declaration.params()["continuous_actions"] else action)
        flags = [set(values.values()) for values in (env.terminations, env.truncations)]
        assert all(len(values) == 1 for values in flags)
        rewards = [env.rewards[agent] for agent in env.possible_agents]
        return Outcome(rewards, flags[0].pop(), flags[1].pop(), min(self._margin, self.closest_comparison()))

    def read(self) -> Fields:
        """The state fields that it has, in float64 or as integers."""
        agents, landmarks = ([entity.state for entity in part] for part in (self.world.agents, self.world.landmarks))
        fields: dict[str, Any] = {
            "x": [state.p_pos[0] for state in agents],
            "y": [state.p_pos[1] for state in agents],
            "velocity_x": [state.p_vel[0] for state in agents],
            "velocity_y": [state.p_vel[1] for state in agents],
            "landmark_x": [state.p_pos[0] for state in landmarks],
            "landmark_y": [state.p_pos[1] for state in landmarks],
            "communication": [agent.state.c for agent in self.speakers()],
        }
        declared = {field.name: field for field in persistent_fields(self.declaration)}
        fields = {name: values for name, values in fields.items() if name in declared} | self.read_more()
        # The words of a single speaker are a field of the environment, without a dimension for agents.
        single = "communication" in fields and declared["communication"].per == "environment"
        fields |= {"communication": fields["communication"][0]} if single else {}
        return {name: np.array(values) for name, values in fields.items()}

    def speakers(self) -> list[Any]:
        """The agents that speak."""
        return [agent for agent in self.world.agents if not agent.silent]

    # ---- what differs between environments ----

    def set_stage(self, state: Fields) -> None:
        """Sets the stage of the curriculum."""
        if state.get("curriculum_stage", np.zeros(0)).ndim == 0:
            self.scenario.set_curriculum_stage(int(state.get("present_stage", state["curriculum_stage"])))

    def make_possible(self, states: Fields, rng: np.random.Generator) -> None:
        """Changes random ``states`` of many copies to such as may occur, or would seldom occur at random."""

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


class Gathering(Original):
    """The game is won when agents are where they should be, in whatever order."""

    def make_possible(self, states: Fields, rng: np.random.Generator) -> None:
        """Puts the agents of a third of the copies near their targets."""
        for copy in range(0, len(states["x"]), 3):
            self.put({name: values[copy] for name, values in states.items()}, 0)
            targets = rng.permutation(self.targets())
            targets += rng.uniform(-0.05, 0.05, targets.shape) * rng.choice([0.3, 1.0])
            states["x"][copy], states["y"][copy] = targets.T
            states["velocity_x"][copy] = states["velocity_y"][copy] = 0.0

    def targets(self) -> list[np.ndarray]:
        """Where the targets are, as many as agents."""
        return [landmark.state.p_pos for landmark in self.world.landmarks]


class Spread(Gathering):
    """Compares the distance of each landmark to the nearest agent with the capture radius."""

    def closest_comparison(self) -> float:
        places = [agent.state.p_pos for agent in self.world.agents]
        nearest = [min(math.dist(place, entity.state.p_pos) for place in places) for entity in self.world.landmarks]
        return min(abs(distance - self.scenario.CAPTURE_RADIUS) for distance in nearest)


class Goal(Original):
    """All agents have one landmark as their goal, which gives some of them their colour."""

    def put_more(self, state: Fields) -> None:
        goal = self.world.landmarks[int(state["goal"])]
        for agent in self.world.agents:
            agent.goal_a = goal

    def read_more(self) -> dict[str, Any]:
        goals = {self.world.landmarks.index(agent.goal_a) for agent in self.world.agents}
        assert len(goals) == 1
        return {"goal": goals.pop()}


class Push(Goal):
    """The agent's colour shows its goal."""

    def put_more(self, state: Fields) -> None:
        super().put_more(state)
        colour = np.array([0.25, 0.25, 0.25])
        colour[int(state["goal"]) + 1] += 0.5
        self.world.agents[1].color = colour


class Crypto(Goal):
    """Alice's key is the colour of a landmark."""

    def put_more(self, state: Fields) -> None:
        super().put_more(state)
        self.world.agents[2].key = self.world.landmarks[int(state["private_key"])].color

    def read_more(self) -> dict[str, Any]:
        keys = [landmark.color.tolist() for landmark in self.world.landmarks]
        return super().read_more() | {"private_key": keys.index(self.world.agents[2].key.tolist())}


class Reference(Original):
    """Each agent has a goal for the other one."""

    def put_more(self, state: Fields) -> None:
        for agent, goal in zip(self.world.agents, state["goal"], strict=True):
            agent.goal_b = self.world.landmarks[goal]

    def read_more(self) -> dict[str, Any]:
        return {"goal": [self.world.landmarks.index(agent.goal_b) for agent in self.world.agents]}


class SpeakerListener(Original):
    """The speaker has a goal for the listener."""

    def put_more(self, state: Fields) -> None:
        self.world.agents[0].goal_b = self.world.landmarks[int(state["goal"])]

    def read_more(self) -> dict[str, Any]:
        return {"goal": self.world.landmarks.index(self.world.agents[0].goal_b)}


class Assigned(Gathering):
    """Compares distances to targets with a threshold, and assigns agents to targets.

    The sum of distances does not jump where another assignment becomes the best one. What counts of them beyond the
    farthest distance does, and so may the threshold; hence all assignments that are nearly best must agree on these.
    """

    def closest_comparison(self) -> float:
        places = [agent.state.p_pos for agent in self.world.agents]
        distances = np.array([[math.dist(place, target) for target in self.targets()] for place in places])
        orders = np.array(list(itertools.permutations(range(len(places)))))
        chosen = distances[np.arange(len(places)), orders]  # [assignments, agents]
        sums = chosen.sum(axis=1)
        near = chosen[sums < sums.min() + 1e-4]
        rewards = np.minimum(near, 2.0).mean(axis=1)
        threshold = self.scenario.DIST_THRESHOLD
        arrived = (near < threshold).all(axis=1)
        if np.ptp(rewards) > 1e-4 or arrived.any() != arrived.all():
            return 0.0
        return np.abs(near - threshold).min()


class Formation(Assigned):
    """The targets turn with the agent of the least angle, which jumps at the positive x axis."""

    most_left_out = 0.02

    def targets(self) -> list[np.ndarray]:
        count, middle = len(self.world.agents), self.world.landmarks[0].state.p_pos
        turn = min(self.angles()) + np.arange(count) * 2 * np.pi / count
        return list(middle + 0.5 * np.stack([np.cos(turn), np.sin(turn)], axis=1))

    def angles(self) -> list[float]:
        """Of all agents, in [0, 2π)."""
        offsets = [agent.state.p_pos - self.world.landmarks[0].state.p_pos for agent in self.world.agents]
        return [math.atan2(y, x) % (2 * math.pi) for x, y in offsets]

    def closest_comparison(self) -> float:
        offsets = [agent.state.p_pos - self.world.landmarks[0].state.p_pos for agent in self.world.agents]
        at_axis = min((abs(y) for x, y in offsets if x > 0), default=math.inf)
        # A rounding error of a position turns an agent that is near the landmark farther.
        too_near = np.linalg.norm(offsets[int(np.argmin(self.angles()))]) < 0.03
        return 0.0 if too_near else min(at_axis, super().closest_comparison())


class Line(Assigned):
    """The targets are set at the start."""

    def put_more(self, state: Fields) -> None:
        self.scenario._expected_positions = self.targets()

    def targets(self) -> list[np.ndarray]:
        first, last = (landmark.state.p_pos for landmark in self.world.landmarks)
        count = len(self.world.agents)
        return [first + k / max(count - 1, 1) * (last - first) for k in range(count)]


class Treasure(Original):
    """Collectors hold something, treasures come back somewhere, and observations sort all of them by distance."""

    most_left_out = 0.02

    def make_possible(self, states: Fields, rng: np.random.Generator) -> None:
        states["holding"][:, self.world.num_collectors :] = -1

    def put_more(self, state: Fields) -> None:
        for agent, held in zip(self.world.agents, state["holding"].tolist(), strict=True):
            agent.holding = held if held >= 0 and agent.collector else None
        for landmark, kind in zip(self.world.landmarks, state["treasure"].tolist(), strict=True):
            landmark.alive, landmark.type = kind >= 0, max(kind, 0)

    def foresee(self, after: Fields) -> None:
        gone = [k for k, landmark in enumerate(self.world.landmarks) if not landmark.alive]
        places = iter([np.array([after["landmark_x"][k], after["landmark_y"][k]], np.float64) for k in gone])
        types = iter([int(after["treasure"][k]) for k in gone])
        self.world._np_random = SimpleNamespace(
            uniform=lambda *bounds: next(places) if bounds else 0.5, integers=lambda *_: next(types)
        )

    def read(self) -> Fields:
        fields = super().read()
        alive = np.array([landmark.alive for landmark in self.world.landmarks])
        for name in ("landmark_x", "landmark_y"):
            fields[name] = np.where(alive, fields[name], np.nan)  # nobody sees where a treasure was
        return fields

    def read_more(self) -> dict[str, Any]:
        treasures = [landmark.type if landmark.alive else -1 for landmark in self.world.landmarks]
        return {"treasure": treasures, "holding": [-1 if a.holding is None else a.holding for a in self.world.agents]}

    def closest_order(self) -> float:
        closest, agents = math.inf, self.world.agents
        treasures = [landmark for landmark in self.world.landmarks if landmark.alive]
        for agent in agents:
            others = [other for other in agents if other is not agent]
            closest = min(closest, closest_distances(agent, others), closest_distances(agent, treasures))
        return closest


ORIGINALS: dict[str, type[Original]] = {
    "collect_treasure-v1": Treasure,
    "simple-v3": Original,
    "simple_adversary-v3": Goal,
    "simple_crypto-v3": Crypto,
    "simple_formation-v1": Formation,
    "simple_line-v1": Line,
    "simple_push-v3": Push,
    "simple_reference-v3": Reference,
    "simple_speaker_listener-v4": SpeakerListener,
    "simple_spread-v3": Spread,
    "simple_tag-v3": Original,
    "simple_world_comm-v3": Original,
}
