"""Declarations, the registry and a user's own environment."""

from __future__ import annotations

import dataclasses
import importlib.util
import pickle
import sys
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pettingzoo
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from gymnasium.vector import AutoresetMode
from hypothesis import given
from hypothesis import strategies as st

import gpu_marl_envs
from gpu_marl_envs import envs, registry
from gpu_marl_envs.backends.layout import cpu_layout
from gpu_marl_envs.backends.names import check_names
from gpu_marl_envs.backends.source import translation_unit
from gpu_marl_envs.errors import DeclarationError, KernelCompileError, ParameterError, UnknownEnvironmentError, nearest
from gpu_marl_envs.sources import sources_folder
from gpu_marl_envs.spec import Environment, Field, Group, param
from gpu_marl_envs.testing import check_environment

SEEN = Box(0.0, 1.0, (3,), np.float32)
HEADINGS = [
    "## Description",
    "## Agents",
    "## Action space",
    "## Observation space",
    "## Rewards",
    "## Start",
    "## End",
    "## Source",
    "## Version history",
]


@dataclass(frozen=True, kw_only=True)
class Sample(Environment):
    """A declaration with every kind of parameter; it has no dynamics."""

    id = "sample-v0"
    state = (Field("x", "float32", "place"), Field("map", "int32", "cells", per="environment", shape=(4, 4)))

    size: int = param(2, "number of cats", low=1, high=9, static=True)
    speed: float = param(0.5, "speed of a cat", low=0.0, unit="m/s")
    drift: float = param(-1.0, "never positive", high=0.0)
    offset: float = param(0.0, "any number")
    fast: bool = param(False, "whether to hurry")
    mood: Literal["calm", "wild"] = param("calm", "what it is like")
    episode_length: int = param(50, "longest episode", low=1, unit="steps")

    def groups(self) -> tuple[Group, ...]:
        return Group("cat", self.size, SEEN, Discrete(3)), Group("mouse", 2, SEEN, MultiDiscrete([2, 4]))


# ---- parameters ----


def test_parameters_keep_their_declared_order_kind_and_documentation() -> None:
    parameters = {parameter.name: parameter for parameter in Sample.parameters()}
    assert list(parameters) == ["size", "speed", "drift", "offset", "fast", "mood", "episode_length"]
    assert [parameter.kind for parameter in parameters.values()] == [int, float, float, float, bool, str, int]
    assert [name for name, parameter in parameters.items() if parameter.static] == ["size", "fast", "mood"]
    assert parameters["speed"].doc == "speed of a cat" and parameters["speed"].unit == "m/s"
    assert parameters["mood"].choices == ("calm", "wild")
    assert Sample().params() == {name: parameter.default for name, parameter in parameters.items()}


def test_valid_values_are_told_in_words() -> None:
    assert {parameter.name: parameter.valid for parameter in Sample.parameters()} == {
        "size": "a whole number from 1 to 9",
        "speed": "a number of at least 0",
        "drift": "a number of at most 0",
        "offset": "a number",
        "fast": "True or False",
        "mood": "one of 'calm', 'wild'",
        "episode_length": "a whole number of at least 1",
    }


@pytest.mark.parametrize(
    ("name", "given_value", "kept"),
    [
        ("size", np.int64(3), 3),
        ("speed", 1, 1.0),
        ("speed", np.float32(0.25), 0.25),
        ("drift", -0.0, 0.0),
        ("fast", np.bool_(True), True),
        ("mood", "wild", "wild"),
    ],
)
def test_valid_values_become_plain_python_values(name: str, given_value: Any, kept: Any) -> None:
    value = getattr(Sample.make(**{name: given_value}), name)
    assert value == kept and type(value) is type(kept)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", 0), ("size", 10), ("size", 2.0), ("size", "2"), ("size", True), ("size", None), ("size", [2]),
        ("speed", -0.1), ("speed", True), ("speed", "fast"), ("speed", None), ("speed", 1j),
        ("drift", 1e-9), ("offset", float("nan")), ("offset", float("inf")), ("offset", 1e39),
        ("fast", 1), ("fast", "yes"), ("fast", None), ("mood", "grim"), ("mood", 0), ("mood", None),
        ("episode_length", 2**31),
    ],
)  # fmt: skip
def test_invalid_values_are_refused_with_the_valid_ones(name: str, value: Any) -> None:
    valid = next(parameter.valid for parameter in Sample.parameters() if parameter.name == name)
    with pytest.raises(ParameterError) as caught:
        Sample.make(**{name: value})
    assert str(caught.value) == f"sample-v0: {name} must be {valid}, but {value!r} was given."


@given(value=st.floats() | st.integers() | st.text() | st.booleans() | st.none() | st.binary())
def test_any_value_is_either_in_range_or_refused(value: Any) -> None:
    for parameter in Sample.parameters():
        try:
            kept = getattr(Sample.make(**{parameter.name: value}), parameter.name)
        except ParameterError:
            continue
        assert type(kept) is parameter.kind
        assert parameter.low is None or kept >= parameter.low
        assert parameter.high is None or kept <= parameter.high
        assert not parameter.choices or kept in parameter.choices


@dataclass(frozen=True, kw_only=True)
class Flexible(Sample):
    """Parameters that may be None, that only drawing uses, and that is called as PettingZoo calls it."""

    id = "flexible-v0"
    truncate_after = "max_cycles"

    others: int | None = param(None, "cats that a cat sees", low=1, high=9, static=True)
    colourful: bool = param(True, "whether pictures have colours", dynamics=False)
    max_cycles: int = param(25, "longest episode", low=1)


def test_a_parameter_may_be_none() -> None:
    others = next(parameter for parameter in Flexible.parameters() if parameter.name == "others")
    assert others.optional and others.kind is int and others.valid == "a whole number from 1 to 9 or None"
    assert Flexible().others is None and Flexible.make(others=np.int64(3)).others == 3
    with pytest.raises(ParameterError, match="others must be a whole number from 1 to 9 or None, but 0 was given"):
        Flexible.make(others=0)


def test_the_dynamics_see_none_as_zero_and_nothing_of_what_only_python_uses() -> None:
    def source(**params: Any) -> str:
        environment = dataclasses.replace(registry.get("simple_tag-v3").make(), **params)
        return translation_unit(environment, cpu_layout(environment), AutoresetMode.DISABLED, cuda=False)

    assert "int num_agent_neighbors = 0;" in source() and "int num_agent_neighbors = 2;" in source(
        num_agent_neighbors=2
    )
    assert source(dynamic_rescaling=False) == source()
    assert "max_cycles" in source()


def test_only_the_longest_episode_may_be_called_as_the_constructors_call_it() -> None:
    check_names(Flexible())

    @dataclass(frozen=True, kw_only=True)
    class Taken(Flexible):
        truncate_after = "episode_length"

    with pytest.raises(DeclarationError, match="'max_cycles' is an argument of the functions that make environments"):
        check_names(Taken())


@pytest.mark.parametrize("options", [dict(low=1), dict(static=True), dict(low=0, static=True)])
def test_a_parameter_that_may_be_none_must_leave_zero_free(options: dict[str, Any]) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Ambiguous(Sample):
        others: int | None = param(None, "cats that a cat sees", **options)

    with pytest.raises(DeclarationError, match="others may be None, so it must be static and have low=1 or more"):
        Ambiguous.parameters()


def test_an_unknown_parameter_names_the_nearest() -> None:
    with pytest.raises(ParameterError, match=r"^sample-v0 has no parameter 'spead'; did you mean 'speed'\?$"):
        Sample.make(spead=1.0)
    with pytest.raises(ParameterError, match="known: drift, episode_length, fast, mood, offset, size, speed"):
        Sample.make(qqq=1.0)


def test_a_declaration_is_frozen_comparable_and_picklable() -> None:
    declaration = Sample.make(size=3)
    with pytest.raises(FrozenInstanceError):
        declaration.size = 4  # type: ignore[misc]
    assert declaration == Sample.make(size=3) != Sample.make(size=4)
    assert pickle.loads(pickle.dumps(declaration)) == declaration
    assert declaration.agent_groups is declaration.agent_groups
    assert declaration.agent_names == ("cat_0", "cat_1", "cat_2", "mouse_0", "mouse_1")
    assert declaration.num_agents == 5 and declaration.max_steps == 50


# ---- groups and fields ----


def test_groups_derive_sizes_and_counts() -> None:
    box = Group("dog", 1, Box(0.0, 1.0, (2, 3), np.float32), Box(-1.0, 1.0, (4,), np.float32))
    cat, mouse = Sample().agent_groups
    assert [group.observation_size for group in (cat, mouse, box)] == [3, 3, 6]
    assert [group.action_counts for group in (cat, mouse, box)] == [(3,), (2, 4), ()]
    assert [group.action_shape for group in (cat, mouse, box)] == [(), (2,), (4,)]


def test_fields_know_their_length() -> None:
    assert [field.length(5) for field in Sample().state_fields()] == [5, 16]


@pytest.mark.parametrize(
    ("group", "fault"),
    [
        (Group("Cat", 1, SEEN, Discrete(2)), "lower-case"),
        (Group("a cat", 1, SEEN, Discrete(2)), "lower-case"),
        (Group("cat", 0, SEEN, Discrete(2)), "at least one agent"),
        (Group("cat", 1, Discrete(3), Discrete(2)), "float32 Box"),  # type: ignore[arg-type]
        (Group("cat", 1, Box(0.0, 1.0, (3,), np.float64), Discrete(2)), "float32 Box"),
        (Group("cat", 1, SEEN, Discrete(2, start=1)), "start at 0"),
        (Group("cat", 1, SEEN, Box(0.0, 1.0, (2,), np.float64)), "float32 actions"),
        (Group("cat", 1, SEEN, Box(0.0, 1.0, (2, 2), np.float32)), "one-dimensional"),
        (Group("cat", 1, SEEN, MultiBinary(3)), "Discrete, MultiDiscrete"),  # type: ignore[arg-type]
        (Group("mouse", 1, SEEN, Discrete(2)), "its own name"),
    ],
)
def test_a_bad_group_is_refused(group: Group, fault: str) -> None:
    class Bad(Sample):
        def groups(self) -> tuple[Group, ...]:
            return Group("mouse", 1, SEEN, Discrete(2)), group

    with pytest.raises(DeclarationError, match=fault):
        _ = Bad().agent_groups


def test_a_declaration_without_groups_is_refused() -> None:
    class Empty(Sample):
        def groups(self) -> tuple[Group, ...]:
            return ()

    with pytest.raises(DeclarationError, match="at least one group"):
        _ = Empty().agent_groups
    with pytest.raises(DeclarationError, match=r"must define groups\(\)"):
        Environment.groups(Sample())


def test_a_bad_parameter_declaration_is_refused() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Untold(Environment):
        id = "untold-v0"
        size: int = 3

    @dataclass(frozen=True, kw_only=True)
    class Mistyped(Environment):
        id = "mistyped-v0"
        size: complex = param(1j, "cannot be passed to a kernel")

    with pytest.raises(DeclarationError, match="untold-v0: declare size with param"):
        Untold()
    with pytest.raises(DeclarationError, match="mistyped-v0: size must be annotated"):
        Mistyped.make()


# ---- the registry ----


def test_the_folder_and_the_registry_agree() -> None:
    folder = Path(envs.__path__[0])
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    declared = {registry.get(env_id).__module__.rpartition(".")[2] for env_id in registry.ids()}
    assert declared == modules
    kernels = {path.stem for path in (sources_folder() / "envs").glob("*.cuh")}
    assert kernels == modules
    for env_id in registry.ids():
        assert registry.get(env_id).kernel().parent == sources_folder() / "envs"


@pytest.mark.parametrize("env_id", registry.ids())
def test_every_environment_documents_itself(env_id: str) -> None:
    declaration = registry.get(env_id)
    lines = (declaration.__doc__ or "").splitlines()
    assert [line.strip() for line in lines if line.strip().startswith("## ")] == HEADINGS
    for parameter in declaration.parameters():
        assert parameter.doc and parameter.coerce(parameter.default, env_id) == parameter.default
    for field in declaration().state_fields():
        assert field.doc


def test_environments_are_found_by_id_with_and_without_the_namespace() -> None:
    assert registry.get("tag_gridworld-v0") is registry.get("gpu_marl/tag_gridworld-v0")
    assert registry.ids() == sorted(registry.ids())
    with pytest.raises(UnknownEnvironmentError, match="did you mean 'tag_gridworld-v0'"):
        registry.get("tag_gridworld")
    with pytest.raises(UnknownEnvironmentError, match=r"known: .*tag_gridworld-v0"):
        registry.get("zzz")


@pytest.mark.parametrize("env_id", ["nameless", "half-v", "-v0", "half-vx"])
def test_an_id_needs_a_name_and_a_version(env_id: str) -> None:
    with pytest.raises(DeclarationError, match="version"):
        registry.register(type("Nameless", (Sample,), {"id": env_id}))


def test_an_id_belongs_to_one_class() -> None:
    with pytest.raises(DeclarationError, match=r"tag_gridworld-v0 is already registered by .*tag_gridworld"):
        registry.register(type("Impostor", (Sample,), {"id": "tag_gridworld-v0"}))
    assert registry.register(registry.get("tag_gridworld-v0")) is registry.get("tag_gridworld-v0")


def test_the_nearest_names_are_close() -> None:
    assert nearest("tagr", ["runner", "tagger"]) == "did you mean 'tagger'?"
    assert nearest("zzz", ["runner", "tagger"]) == "known: runner, tagger."


# ---- a user's own environment ----

Declare = Callable[..., type[Environment]]

DECLARATION = '''
from dataclasses import dataclass

import numpy as np
from gymnasium.spaces import Box, Discrete

from gpu_marl_envs import register
from gpu_marl_envs.spec import Environment, Field, Group, param


@register
@dataclass(frozen=True, kw_only=True)
class Race(Environment):
    """Racers run forwards as far as they dare; who passes the cliff is out."""

    id = "{id}"
    state = (
        Field("place", "float32", "distance from the start", low=0.0),
        Field("cliff", "float32", "where the cliff is", per="environment", low=5.0, high=10.0),
    )

    num_racers: int = param(3, "number of racers", low=1, static=True)
    stride: float = param(1.0, "longest step", low=0.0)
    episode_length: int = param(20, "longest episode", low=1)

    def groups(self):
        return (Group("racer", self.num_racers, Box(0.0, 100.0, (2,), np.float32), Discrete(3)),)
'''
DYNAMICS = """
struct Race : Environment {
  METHOD void reset() {
    each(agents, [&](int i) {
      place[i] = 0.0f;
      if (i == 0) cliff[0] = 5.0f + 5.0f * common_random(0).uniform();
    });
  }

  METHOD void step() {
    each(agents, [&](int i) {
      if (!alive[i]) return;
      const float ahead = stride * float(action(i)) / 2.0f;
      place[i] += ahead;
      reward[i] += ahead;
      if (place[i] > cliff[0]) {
        reward[i] -= 10.0f;
        terminated[i] = true;
      }
    });
  }

  METHOD void observe() {
    each_observation(agents, [&](int i, auto row) {
      row[0] = place[i];
      row[1] = float(time) / float(episode_length);
    });
  }
};
"""


@pytest.fixture
def declare(tmp_path: Path) -> Iterator[Declare]:
    """Writes the two files of an environment, imports the declaration and returns it; forgets it after the test."""
    before = dict(registry._registered)

    def declare_race(name: str, dynamics: str) -> type[Environment]:
        file = tmp_path / f"{name}.py"
        file.write_text(DECLARATION.replace("{id}", f"{name}-v0"))
        file.with_suffix(".cuh").write_text(dynamics)
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module.Race

    yield declare_race
    for env_id in set(registry._registered) - set(before):
        del registry._registered[env_id]
        sys.modules.pop(env_id.rpartition("-v")[0], None)
        for known in (pettingzoo.parallel_registry, pettingzoo.aec_registry):
            known.pop(f"gpu_marl/{env_id}", None)
        sys.modules.pop(f"gpu_marl_envs.{env_id.replace('-', '_')}", None)


def test_a_users_environment_is_two_files_and_one_call(declare: Declare, device: str) -> None:
    declare("race", DYNAMICS)
    assert "race-v0" in registry.ids()
    env = gpu_marl_envs.make_batched("race-v0", num_envs=4, device=device, stride=4.0, autoreset_mode="DISABLED")
    env.reset()
    assert env.state.cliff.shape == (4,)
    assert (env.state.cliff == env.state.cliff[0]).all()
    actions = torch.tensor([[0, 1, 2]] * 4, dtype=torch.int32, device=env.device)
    gone = 0
    for step in range(1, 4):
        observation, _, terminated, _, _ = env.step({"racer": actions})
        assert env.state.place[:, :2].tolist() == [[0.0, 2.0 * step]] * 4
        assert observation["racer"][..., 1].tolist() == [[pytest.approx(step / 20)] * 3] * 4
        gone += int(terminated["racer"][0, 2])
    assert gone > 0 and env.state.place[0, 2] <= 12.0
    env.close()


def test_a_users_environment_passes_the_conformance_suite(declare: Declare) -> None:
    declare("relay", DYNAMICS)
    check_environment("relay-v0", num_racers=4)
    parallel = pettingzoo.make("parallel", "gpu_marl/relay-v0", num_racers=2)
    assert parallel.possible_agents == ["racer_0", "racer_1"]
    parallel.close()


def test_the_conformance_suite_finds_an_observation_outside_its_space(
    declare: Declare,
) -> None:
    declare("cheat", DYNAMICS.replace("row[0] = place[i]", "row[0] = place[i] - 0.5f"))
    with pytest.raises(AssertionError, match=r"cheat-v0: at step 0, the observation\[0\] of racer_0 in copy 0 is -0.5"):
        check_environment("cheat-v0")


def test_dynamics_that_do_not_compile_name_file_and_line(declare: Declare, device: str) -> None:
    declare("broken", DYNAMICS.replace("place[i] = 0.0f;", "plaice[i] = 0.0f;"))
    with pytest.raises(KernelCompileError, match=r"broken\.cuh:5: .*plaice.*"):
        gpu_marl_envs.make_batched("broken-v0", num_envs=1, device=device)


def test_missing_dynamics_name_the_file(declare: Declare, tmp_path: Path) -> None:
    declaration = declare("lonely", DYNAMICS)
    (tmp_path / "lonely.cuh").unlink()
    with pytest.raises(DeclarationError, match=r"lonely\.cuh"):
        declaration.kernel()


def test_a_name_of_the_engine_is_refused(declare: Declare) -> None:
    declaration = declare("shadow", DYNAMICS)

    @dataclass(frozen=True, kw_only=True)
    class Shadow(declaration):  # type: ignore[misc, valid-type]
        """Declares a parameter that the engine has a function for."""

        id = "shadow-v1"
        random: float = param(0.0, "hides the engine's random()")

    Shadow.__module__ = declaration.__module__
    registry._registered["shadow-v1"] = Shadow
    with pytest.raises(DeclarationError, match=r"shadow-v1: 'random' is a name of"):
        gpu_marl_envs.make_batched("shadow-v1", num_envs=1)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"state": (Field("key", "int32", "hides the random keys"),)}, "'key'"),
        ({"state": (Field("save", "int32", "hides a method"),)}, "'save'"),
        ({"state": (Field("visit", "int32", "hides the engine's"),)}, "'visit'"),
        *(
            ({"state": (Field(name, "int32", "lies where something else does"),)}, f"'{name}'")
            for name in ("actions", "lists", "positions", "scratch", "search", "words")
        ),
        ({"truncate_after": "horizon"}, "'horizon'"),
    ],
)
def test_a_declaration_that_cannot_work_is_refused(changes: dict[str, Any], named: str) -> None:
    broken = type("Broken", (Sample,), {"id": "broken-v0", **changes})
    with pytest.raises(DeclarationError, match=named):
        check_names(broken())


@pytest.mark.parametrize("choice", ["default", "2d", "a-b"])
def test_a_choice_that_is_no_name_in_cpp_is_refused(choice: str) -> None:
    field = param(choice, "an option")
    broken = dataclass(frozen=True, kw_only=True)(
        type("Broken", (Sample,), {"id": "broken-v0", "mode": field, "__annotations__": {"mode": Literal[choice]}})
    )
    with pytest.raises(DeclarationError, match=f"choice '{choice}' of mode"):
        check_names(broken())


@pytest.mark.parametrize("env_id", ["nameless", "my game/x-v0", "-v0", 3])
def test_an_id_without_name_or_version_is_refused(env_id: Any) -> None:
    with pytest.raises(DeclarationError, match="a name and a version"):
        registry.register(type("Broken", (Sample,), {"id": env_id}))
    assert env_id not in gpu_marl_envs.ids()


@pytest.mark.parametrize(
    "group",
    [
        Group("Upper", 1, Box(0, 1, (1,)), Discrete(2)),
        Group("a", 2.0, Box(0, 1, (1,)), Discrete(2)),  # type: ignore[arg-type]
        Group("a", 1, Box(0, 1, (1,)), MultiDiscrete([3, 3], start=[1, 1])),
        Group("a", 1, Box(0, 1, (1,)), Box(0, 1, ())),
        Group("a", 1, Box(0, 1, (1,)), Box(0, 1, (2, 2))),
    ],
)
def test_a_group_that_cannot_work_is_refused(group: Group) -> None:
    broken = type("Broken", (Sample,), {"id": "broken-v0", "groups": lambda self: (group,)})
    with pytest.raises(DeclarationError, match=f"group {group.name!r}"):
        _ = broken().agent_groups
