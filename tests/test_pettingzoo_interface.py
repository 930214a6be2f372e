"""The PettingZoo interface around the episode: attributes, pictures, the registry, the modules, and errors."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pettingzoo
import pytest
from pettingzoo.utils.wrappers import RecordVideo, RecordVideoParallel
from pettingzoo_play import errors_of, module_of, random_actions, trajectory

import gpu_marl_envs
from gpu_marl_envs import registry
from gpu_marl_envs.adapters import pettingzoo_registry
from gpu_marl_envs.adapters.pettingzoo import parallel_env
from gpu_marl_envs.errors import ActionError, ParameterError, UnknownEnvironmentError, UsageError

# ---- spaces and attributes ----


def test_spaces_and_attributes() -> None:
    env = parallel_env("tag_gridworld-v0", num_taggers=2)
    assert env.possible_agents == ["tagger_0", "tagger_1", "runner_0"]
    assert env.max_num_agents == 3 and env.render_mode is None and env.unwrapped is env
    assert str(env) == env.metadata["name"] == "tag_gridworld_v0"
    assert env.metadata["render_modes"] == ["human", "rgb_array"] and env.metadata["is_parallelizable"] is True
    for agent in env.possible_agents:
        assert env.observation_space(agent) is env.observation_spaces[agent] is env.observation_space(agent)
        assert env.action_space(agent) is env.action_spaces[agent] is env.action_space(agent)
    assert env.action_space("tagger_0") is not env.action_space("tagger_1"), "agents would share a random state"
    spaces = [env.action_space(agent) for agent in env.possible_agents]
    env.reset(seed=0)
    env.max_cycles = 7
    env.reset()
    assert spaces == [env.action_space(agent) for agent in env.possible_agents]
    assert all(env.action_space(agent) is space for agent, space in zip(env.possible_agents, spaces, strict=True))


def test_state_vector() -> None:
    env = parallel_env("tag_gridworld-v0", num_taggers=2, grid_length=30)
    env.reset(seed=0)
    env.step(random_actions(env))
    state = env.batched.state
    expected = [*state.x[0].tolist(), *state.y[0].tolist(), 1.0, 1.0, 1.0, 1.0]
    assert env.state().tolist() == expected and env.state().dtype == np.float32
    assert env.state_space.shape == (len(expected),)
    assert (env.state_space.high[6:] == [env.max_cycles, 1, 1, 1]).all() and (env.state_space.low == 0).all()


def test_max_cycles_can_be_changed() -> None:
    env = parallel_env("tag_continuous-v0", tagging_distance=0.0)
    env.reset(seed=1)
    env.max_cycles = 3
    assert env.max_cycles == 3
    env.step(random_actions(env))
    assert env.declaration.max_steps != 3, "the running episode has changed"
    unchanged = parallel_env("tag_continuous-v0", tagging_distance=0.0, seed=1)
    unchanged.reset()
    env.reset(), unchanged.reset()
    assert env.state().tolist() == unchanged.state().tolist(), "the random streams were left"
    steps = len(list(trajectory(env)))
    assert steps == 3 == env.declaration.max_steps
    assert env.state_space.high[-12] == 3 and unchanged.state_space.high[-12] == 100
    with pytest.raises(ParameterError, match="episode_length must be a whole number of at least 1"):
        env.max_cycles = 0
    assert env.max_cycles == 3


# ---- pictures ----


def test_pictures() -> None:
    pytest.importorskip("pygame")
    env = parallel_env("tag_continuous-v0", render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    assert isinstance(first, np.ndarray) and first.shape == (640, 600, 3) and first.dtype == np.uint8
    assert np.array_equal(first, env.render())
    env.step(random_actions(env))
    assert not np.array_equal(first, env.render())
    assert np.array_equal(env.render(), copy.deepcopy(env).render())


def test_the_window_opens_by_itself_and_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    pygame = pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = parallel_env("tag_gridworld-v0", render_mode="human")
    env.metadata["render_fps"] = 1000
    env.reset(seed=0)
    assert pygame.display.get_surface() is not None and pygame.display.get_caption()[0] == "tag_gridworld-v0"
    twin = pickle.loads(pickle.dumps(env))
    env.step(random_actions(env))
    assert env.render() is None
    env.close()
    assert pygame.display.get_surface() is None
    assert twin.render() is None and pygame.display.get_surface() is not None
    twin.close()
    twin.close()


def test_render_without_a_mode_says_so() -> None:
    env = parallel_env("tag_gridworld-v0")
    env.reset()
    with pytest.warns(UserWarning, match="render\\(\\) draws nothing without a render_mode"):
        assert env.render() is None


@pytest.fixture
def videos(monkeypatch: pytest.MonkeyPatch) -> list[list[np.ndarray]]:
    """What the video wrappers record; encoding it is left out, so that no encoder is needed."""
    recorded: list[list[np.ndarray]] = []

    class Clip:
        def __init__(self, frames: list[np.ndarray], fps: float) -> None:
            assert fps > 0
            recorded.append(list(frames))

        def write_videofile(self, path: str, logger: Any) -> None:
            pass

    names = ["moviepy", "moviepy.video", "moviepy.video.io", "moviepy.video.io.ImageSequenceClip"]
    for name in names:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules[names[-1]].ImageSequenceClip = Clip  # type: ignore[attr-defined]
    return recorded


def test_video_wrappers(videos: list[list[np.ndarray]], tmp_path: Any) -> None:
    pytest.importorskip("pygame")
    module = module_of("tag_continuous-v0")
    env = RecordVideoParallel(
        module.parallel_env(render_mode="rgb_array", max_cycles=5, tagging_distance=0.0),
        str(tmp_path / "parallel"),
        episode_trigger=lambda _: True,
    )
    for _ in range(2):
        env.reset()
        while env.agents:
            env.step(random_actions(env))
    env.close()
    assert [len(frames) for frames in videos] == [6, 6]
    turns = RecordVideo(
        module.env(render_mode="rgb_array", max_cycles=2, num_runners=1, tagging_distance=0.0),
        str(tmp_path / "aec"),
        episode_trigger=lambda _: True,
    )
    turns.reset()
    for agent in turns.agent_iter():
        _, _, termination, truncation, _ = turns.last()
        turns.step(None if termination or truncation else turns.action_space(agent).sample())
    turns.close()
    assert len(videos[2]) == 7  # the start, two turns of two agents, and two agents that leave
    assert all(frame.shape == (640, 600, 3) and frame.dtype == np.uint8 for frames in videos for frame in frames)


# ---- registry and modules ----


@pytest.mark.parametrize("env_id", registry.ids())
def test_registry(env_id: str) -> None:
    parallel = pettingzoo.make("parallel", f"gpu_marl/{env_id}")
    turns = pettingzoo.make("aec", f"gpu_marl/{pettingzoo_registry.module_name(env_id)}")
    assert isinstance(parallel, pettingzoo.ParallelEnv) and isinstance(turns, pettingzoo.AECEnv)
    assert parallel.possible_agents == turns.possible_agents
    assert parallel.declaration == registry.get(env_id)()
    short = pettingzoo.make("parallel", f"gpu_marl/{env_id}", max_cycles=5, render_mode="rgb_array")
    assert short.max_cycles == 5 and short.render_mode == "rgb_array"
    spec = pettingzoo.spec("parallel", f"gpu_marl/{env_id}")
    assert isinstance(spec.entry_point, str) and spec.namespace == "gpu_marl"


@pytest.mark.parametrize("env_id", registry.ids())
def test_registering_again_changes_nothing(env_id: str) -> None:
    before = dict(pettingzoo.aec_registry), dict(pettingzoo.parallel_registry), module_of(env_id)
    with warnings.catch_warnings(action="error"):
        pettingzoo_registry.register(registry.get(env_id))
    assert before == (pettingzoo.aec_registry, pettingzoo.parallel_registry, module_of(env_id))


@pytest.mark.parametrize("env_id", registry.ids())
def test_modules(env_id: str) -> None:
    name = pettingzoo_registry.module_name(env_id)
    module = getattr(gpu_marl_envs, name)
    assert module is module_of(env_id) is pettingzoo_registry.module_for(registry.get(env_id))
    assert module.__doc__ == registry.get(env_id).__doc__
    for function in (module.env, module.raw_env, module.parallel_env):
        assert pickle.loads(pickle.dumps(function)) is function and function.__doc__
    parameters = inspect.signature(module.parallel_env).parameters
    assert set(registry.get(env_id)().params()) | {"render_mode", "seed", "device", "max_cycles"} == set(parameters)
    assert module.parallel_env().declaration == registry.get(env_id)()


def test_a_new_process_finds_the_modules_and_loads_nothing_heavy() -> None:
    code = """
import sys
from gpu_marl_envs import tag_continuous_v0
import gpu_marl_envs.tag_gridworld_v0
import pettingzoo
for registry in (pettingzoo.parallel_registry, pettingzoo.aec_registry):
    assert {"gpu_marl/tag_continuous-v0", "gpu_marl/tag_gridworld-v0"} <= registry.keys()
heavy = {"pygame", "PIL", "pycuda", "supersuit", "stable_baselines3", "matplotlib", "tensorboard"} & set(sys.modules)
assert not heavy, heavy
env = tag_continuous_v0.parallel_env()
env.reset()
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


# ---- errors ----


def test_errors_of_arguments() -> None:
    make = parallel_env
    assert "tag_continuous-v0" in errors_of(lambda: make("tag_continuos-v0"), UnknownEnvironmentError)
    assert "num_runners" in errors_of(lambda: make("tag_continuous-v0", num_runner=3), ParameterError)
    assert "at least 1" in errors_of(lambda: make("tag_continuous-v0", max_cycles=0), ParameterError)
    assert "'rgb_array'" in errors_of(lambda: make("tag_continuous-v0", render_mode="ansi"), ParameterError)
    assert "seed" in errors_of(lambda: make("tag_continuous-v0", seed=-1), ParameterError)
    assert "seed" in errors_of(lambda: make("tag_continuous-v0").reset(seed="one"), ParameterError)
    both = errors_of(lambda: make("tag_continuous-v0", max_cycles=5, episode_length=5), ParameterError)
    assert both == "tag_continuous-v0: max_cycles is another name of episode_length; give one of them."
    env = make("tag_continuous-v0")
    assert "did you mean 'runner_1'" in errors_of(lambda: env.action_space("runer_1"), ParameterError)
    assert "has no agent" in errors_of(lambda: env.observation_space("x"), ParameterError)


def test_unknown_options_warn() -> None:
    env = parallel_env("tag_gridworld-v0")
    with pytest.warns(UserWarning, match="tag_gridworld-v0 has no reset option 'speed'; it is ignored"):
        env.reset(options={"speed": 1})
    env.reset(options={})


def test_calls_out_of_order() -> None:
    env = parallel_env("tag_gridworld-v0", render_mode="rgb_array")
    for call in (env.state, env.render, lambda: env.step(random_actions(env))):
        assert "reset" in errors_of(call, UsageError)
    env.reset()
    env.close()
    env.close()
    for call in (env.reset, env.state, env.render, lambda: env.step(random_actions(env))):
        assert "closed" in errors_of(call, UsageError)


WRONG = {
    "tag_gridworld-v0": [5, -1, 1.0, "1", None, np.array([1]), np.float32(2), 2**70, [1]],
    "tag_continuous-v0": [3, [3, 11], [-1, 0], [3.0, 1.0], [1, 2, 3], None, "ab", np.zeros((1, 2), int), [2**70, 1]],
    "box": [3.0, [float("nan"), 0.0], [0.0, float("inf")], [0.0], None, "ab", np.zeros((2, 1)), [[0.0], [1.0, 2.0]]],
}


@pytest.mark.parametrize(
    ("case", "action"), [(case, action) for case in WRONG for action in WRONG[case]], ids=lambda value: repr(value)[:20]
)
def test_an_invalid_action_steps_nothing(case: str, action: Any) -> None:
    env_id, params = (case, {}) if case != "box" else ("tag_continuous-v0", {"continuous_actions": True})
    env = parallel_env(env_id, **params)
    env.reset(seed=0)
    before = env.state()
    last = env.agents[-1]
    message = errors_of(lambda: env.step(random_actions(env) | {last: action}), ActionError)
    assert repr(last) in message and env_id in message and "must be one of" in message
    assert np.array_equal(env.state(), before)
    env.step(random_actions(env))


def test_missing_and_unknown_agents() -> None:
    env = parallel_env("tag_continuous-v0", num_runners=2)
    env.reset(seed=0)
    before, actions = env.state(), random_actions(env)
    missing = errors_of(lambda: env.step({a: actions[a] for a in env.agents[:-1]}), ActionError)
    assert missing == "tag_continuous-v0: there is no action of 'runner_1'; give one for every agent in env.agents."
    assert "'runner_7'" in errors_of(lambda: env.step(actions | {"runner_7": actions["runner_1"]}), ActionError)
    assert "must be a dict" in errors_of(lambda: env.step(list(actions.values())), ActionError)  # type: ignore[arg-type]
    assert "must be a dict" in errors_of(lambda: env.step(None), ActionError)  # type: ignore[arg-type]
    assert np.array_equal(env.state(), before)


def test_actions_of_every_integer_type() -> None:
    for env_id, action in (("tag_gridworld-v0", 3), ("tag_continuous-v0", [3, 1])):
        states = []
        for convert in (np.int64, np.int32, np.uint8, np.array, lambda value: value):
            env = parallel_env(env_id)
            env.reset(seed=0)
            env.step({agent: convert(action) for agent in env.agents})
            states.append(env.state().tolist())
        assert all(state == states[0] for state in states)


def test_the_aec_environment_refuses_at_once() -> None:
    env = module_of("tag_gridworld-v0").env(num_taggers=1, grid_length=1, max_cycles=1)
    env.reset(seed=0)
    assert "must be one of" in errors_of(lambda: env.step(9), ActionError)
    assert env.agent_selection == "tagger_0"
    env.step(1)
    env.step(2)
    assert env.terminations["tagger_0"] or env.truncations["tagger_0"]
    assert "must be stepped with None" in errors_of(lambda: env.step(1), ActionError)
    env.step(None)
    env.step(None)
    assert env.agents == []


def test_the_example_plays_and_records(tmp_path: Path) -> None:
    pytest.importorskip("pygame")
    example, gif = Path(__file__).parents[1] / "examples" / "pettingzoo_play.py", tmp_path / "episode.gif"
    command = [sys.executable, "-W", "error", str(example), "--seed", "1", "--gif", str(gif)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "the runner was caught" in run.stdout and "tagger_2" in run.stdout
    assert gif.read_bytes().startswith(b"GIF89a")
