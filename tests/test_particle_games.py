"""What particle environments have besides single steps: arguments, spaces, starts, stages of a curriculum, pictures."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from references import mpe
from references.harness import by_group
from references.particles import SETTINGS, STEERED, cases, copies_of, every_environment, random_state
from scipy import stats

from gpu_marl_envs import registry
from gpu_marl_envs.adapters.pettingzoo import parallel_env
from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.errors import ParameterError
from gpu_marl_envs.rendering import render_state

Make = Callable[..., BatchedEnv]
ROOT = Path(__file__).parents[1]


# ---- arguments, agents and spaces ----


@every_environment
def test_arguments_and_defaults_are_the_originals(env_id: str) -> None:
    module = importlib.import_module("mpe2." + env_id.replace("-", "_"))
    theirs = {name: p.default for name, p in inspect.signature(module.raw_env.__init__).parameters.items()}
    for name in ("self", "render_mode"):
        del theirs[name]
    ours = {parameter.name: parameter.default for parameter in registry.get(env_id).parameters()}
    assert ours == theirs and all(type(ours[name]) is type(theirs[name]) for name in ours)


@cases(SETTINGS)
def test_agents_and_spaces_are_the_originals(env_id: str, static: dict[str, Any]) -> None:
    ours = parallel_env(env_id, **static)
    theirs = mpe.ORIGINALS[env_id](ours.declaration).env
    assert ours.possible_agents == theirs.possible_agents
    for agent in ours.possible_agents:
        assert ours.observation_space(agent) == theirs.observation_space(agent), agent
        assert ours.action_space(agent) == theirs.action_space(agent), agent
    ours.close()


# ---- size ----


def lines_beside_docstring(path: Path, kind: type[ast.Module | ast.ClassDef]) -> int:
    """Lines of a Python file without the docstring of the module, or of its class, which is its page."""
    source = path.read_text()
    documented = next(node for node in ast.walk(ast.parse(source)) if isinstance(node, kind))
    docstring = documented.body[0]
    assert isinstance(docstring, ast.Expr) and docstring.end_lineno is not None
    return len(source.splitlines()) - (docstring.end_lineno - docstring.lineno + 1)


@every_environment
def test_a_game_is_no_longer_than_the_original(env_id: str) -> None:
    name = env_id.rpartition("-")[0]
    original = Path(importlib.import_module(f"mpe2.{name}.{name}").__file__ or "")
    ours = lines_beside_docstring(ROOT / "gpu_marl_envs" / "envs" / f"{name}.py", ast.ClassDef)
    ours += len((ROOT / "cuda_src" / "envs" / f"{name}.cuh").read_text().splitlines())
    assert ours <= lines_beside_docstring(original, ast.Module)


# ---- infos ----


def numbers(report: Any) -> np.ndarray:
    """All that a report says, NaN for None."""
    parts = report if isinstance(report, tuple) else (report,)
    return np.hstack([[], *(np.nan if part is None else part for part in parts if not isinstance(part, dict))])


@every_environment
def test_infos_report_what_the_original_does(env_id: str) -> None:
    ours = parallel_env(env_id, seed=4, benchmark_data=True, max_cycles=40)
    original = mpe.ORIGINALS[env_id](ours.declaration)
    ours.reset()
    assert not any(parallel_env(env_id).reset()[1].values())
    rng, compared = np.random.default_rng(4), 0
    for _ in range(40):
        actions = {agent: int(rng.integers(ours.action_space(agent).n)) for agent in ours.agents}
        if "x" in ours.batched.state.fields():  # everyone together, so that there is something to report
            ours.batched.state.x *= 0.8
            ours.batched.state.y *= 0.8
        before = copies_of(ours.batched)[0]
        *_, infos = ours.step(actions)
        original.put(before, 0)
        original.foresee(copies_of(ours.batched)[0])
        if original.step(list(actions.values())).margin < 1e-5:
            continue
        for agent, info in infos.items():
            expected = original.env.infos[agent]
            assert info.keys() == expected.keys() == {"benchmark_data"}
            report, truth = info["benchmark_data"], expected["benchmark_data"]
            assert isinstance(report, tuple) == isinstance(truth, tuple)
            np.testing.assert_allclose(numbers(report), numbers(truth), rtol=1e-5, atol=1e-5)
            compared += 1
    assert compared > 30
    ours.close()


# ---- starts ----


def originals_starts(env: BatchedEnv, count: int) -> dict[str, np.ndarray]:
    original = mpe.ORIGINALS[env.declaration.id](env.declaration)
    starts = []
    for _ in range(count):
        original.env.reset()
        starts.append(original.read())
    return {name: np.stack([start[name] for start in starts]).reshape(count, -1) for name in starts[0]}


@every_environment
def test_starts_are_distributed_as_the_originals(make: Make, env_id: str) -> None:
    copies, count = 4096, 1500
    env = make(env_id, copies, seed=5)
    env.reset()
    theirs = originals_starts(env, count)
    ours = {name: getattr(env.state, name).cpu().numpy().reshape(copies, -1) for name in theirs}
    for name, expected in theirs.items():
        assert ours[name].shape[1] == expected.shape[1]
        for k in range(expected.shape[1]):
            column, other = ours[name][:, k], expected[:, k]
            if column.dtype.kind == "i":
                values = np.union1d(column, other)
                table = [[(part == value).sum() for value in values] for part in (column, other)]
                p = stats.chi2_contingency(table).pvalue if len(values) > 1 else 1.0
            elif np.ptp(other) == 0:
                p = float((column == other[0]).all())
            else:
                p = stats.ks_2samp(column, other).pvalue
            assert p > 1e-4, (name, k)
    spread = 5 * np.sqrt(1 / copies + 1 / count)
    assert np.abs(correlations(ours) - correlations(theirs)).max() < spread


def correlations(start: dict[str, np.ndarray]) -> np.ndarray:
    columns = np.concatenate(list(start.values()), axis=1)
    return np.corrcoef(columns[:, np.ptp(columns, axis=0) > 0], rowvar=False)


def test_treasures_come_back_anywhere_with_any_type(make: Make) -> None:
    copies = 4096
    env = make("collect_treasure-v1", copies, seed=6, autoreset_mode="DISABLED", num_treasures=2, num_deposits=3)
    env.reset()
    env.state.treasure = torch.full((copies, 2), -1)
    env.step(env.actions)
    places = torch.cat([env.state.landmark_x, env.state.landmark_y], dim=1).cpu().numpy()
    for k in range(4):
        assert stats.kstest(places[:, k], stats.uniform(-0.95, 1.9).cdf).pvalue > 1e-4
    assert np.abs(np.corrcoef(places, rowvar=False) - np.eye(4)).max() < 5 / np.sqrt(copies)
    for k in range(2):
        assert stats.chisquare(np.bincount(env.state.treasure[:, k].cpu().numpy(), minlength=3)).pvalue > 1e-4


# ---- stages of a curriculum ----


def test_prey_gets_faster_with_the_stage_from_the_next_episode_on(make: Make) -> None:
    env = make("simple_tag-v3", 5, curriculum=True, max_cycles=2, seed=1)
    env.reset()
    assert env.state.curriculum_stage.tolist() == env.state.present_stage.tolist() == [0] * 5
    env.state.curriculum_stage = torch.tensor([0, 1, 2, 9, -4], dtype=torch.int32)
    right = by_group(env, np.full((5, env.num_agents), 2))
    for _ in range(2):
        env.step(right)
        assert env.state.present_stage.tolist() == [0] * 5
    env.step(right)  # begins the next episode
    assert env.state.present_stage.tolist() == [0, 1, 2, 2, 0]
    env.state.landmark_x = torch.full((5, 2), 50.0)  # out of the way
    env.state.x = torch.tensor([[10.0, 20.0, 30.0, 0.0]] * 5)
    env.step(right)
    np.testing.assert_allclose(env.state.velocity_x[:, 3].cpu(), [0.2, 0.3, 0.4, 0.4, 0.2], rtol=1e-6)
    np.testing.assert_allclose(env.state.velocity_x[:, 0].cpu(), [0.3] * 5, rtol=1e-6)


def test_without_a_curriculum_there_are_no_stages(make: Make) -> None:
    env = make("simple_tag-v3", 2)
    env.reset()
    assert env.state.curriculum_stage.shape == env.state.present_stage.shape == (2, 0)
    env.state.restore(env.state.save())


# ---- what random states do not meet ----


def test_of_equally_near_bodies_the_lowest_comes_first(make: Make) -> None:
    env = make("simple_spread-v3", 1, N=4, num_agent_neighbors=2, num_landmark_neighbors=3)
    env.reset()
    env.state.x, env.state.y = torch.tensor([[0.0, 0.5, 0.0, -0.5]]), torch.tensor([[0.0, 0.0, 0.5, 0.0]])
    env.state.landmark_x, env.state.landmark_y = torch.tensor([[0.0, 2.0, 2.0, 0.0]]), torch.tensor([[1.0, 0, 0, -1]])
    row = env.observe()["agent"][0, 0].cpu()
    assert row[4:14].tolist() == [0.0, 1.0, 0.0, -1.0, 2.0, 0.0, 0.5, 0.0, 0.0, 0.5]


@pytest.mark.parametrize("env_id", [env_id for env_id in SETTINGS if env_id != "simple_crypto-v3"])
def test_bodies_at_one_point_stay_finite(make: Make, env_id: str) -> None:
    env = make(env_id, 2, autoreset_mode="DISABLED")
    env.reset()
    for name in ("x", "y", "landmark_x", "landmark_y"):
        getattr(env.state, name).fill_(0.25)
    for _ in range(3):
        observation, reward, *_ = env.step(env.actions)
        tensors = [*observation.values(), *reward.values(), *env.state.fields().values()]
        assert all(tensor.isfinite().all() for tensor in tensors)


@pytest.mark.parametrize("env_id", ["simple_formation-v1", "simple_line-v1"])
def test_assignment_ends_whatever_the_state(make: Make, env_id: str) -> None:
    env = make(env_id, 4, N=5, autoreset_mode="DISABLED")
    env.reset()
    env.state.x = torch.tensor([[np.nan] * 5, [np.inf] * 5, [1e30, -1e30, 0, 1, 2], [0.0] * 5])
    env.step(env.actions)
    assert env.state.step.tolist() == [1] * 4


def test_what_the_original_cannot_play_is_refused() -> None:
    for env_id, params in (
        ("simple_world_comm-v3", dict(num_food=0)),
        ("collect_treasure-v1", dict(num_deposits=7)),
        ("simple_spread-v3", dict(local_ratio=1.5)),
        ("simple_tag-v3", dict(num_agent_neighbors=0)),
    ):
        with pytest.raises(ParameterError, match=next(iter(params))):
            registry.get(env_id).make(**params)


# ---- pictures ----


def picture_state(env_id: str, **params: Any) -> tuple[Any, dict[str, Any]]:
    declaration = registry.get(env_id).make(**params)
    state: dict[str, Any] = random_state(declaration, 1, np.random.default_rng(1))
    state = {name: values[0] for name, values in state.items()}
    return declaration, state | {"alive": np.ones(declaration.num_agents, bool), "step": 3}


def shades(pixels: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in np.unique(pixels.reshape(-1, 3), axis=0).tolist()}


@every_environment
def test_every_body_is_drawn_in_the_originals_colour(env_id: str) -> None:
    pytest.importorskip("pygame")
    declaration, state = picture_state(env_id)
    for name in {"x", "y", "landmark_x", "landmark_y"} & state.keys():  # far from each other
        size = len(state[name])
        grid = np.arange(size) * 0.7 - 2 if name[-1] == "x" else np.full(size, -1.0 if name == "y" else 1.0)
        state[name] = grid.astype(np.float32)
    state |= {"treasure": np.zeros_like(state["treasure"])} if "treasure" in state else {}
    drawn = shades(render_state(declaration, state))
    original = mpe.ORIGINALS[env_id](declaration)
    if env_id == "simple_crypto-v3":
        state["goal"] = np.int64(original.read()["goal"])
        drawn = shades(render_state(declaration, state))
        agents = [agent.color[:3] for agent in original.world.agents]
        assert {tuple(round(float(part) * 200) for part in colour) for colour in agents} <= drawn
        return
    original.put(state, 3)
    for entity in repaint(env_id, original, state):
        assert tuple(round(float(part) * 200) for part in entity.color) in drawn, entity.name


def repaint(env_id: str, original: mpe.Original, state: dict[str, Any]) -> list[Any]:
    """The entities, with the colours that the original gives them at the start from their goals and kinds."""
    agents, landmarks = original.world.agents, original.world.landmarks
    if env_id == "simple_adversary-v3":
        for k, landmark in enumerate(landmarks):
            landmark.color = np.array([0.15, 0.65 if k == state["goal"] else 0.15, 0.15])
    if env_id == "simple_reference-v3":
        for agent, goal in zip(agents, state["goal"][::-1], strict=True):
            agent.color = landmarks[goal].color
    if env_id == "simple_speaker_listener-v4":
        agents[1].color = landmarks[int(state["goal"])].color + 0.45
    if env_id == "collect_treasure-v1":
        palette = original.world.treasure_colors
        for agent in agents:
            if agent.collector and agent.holding is not None:
                agent.color = 0.85 * palette[agent.holding]
        for landmark in landmarks:
            landmark.color = palette[landmark.type]
    return [*agents, *landmarks]


def test_bodies_shrink_as_the_picture_zooms_out_if_asked_for() -> None:
    pytest.importorskip("pygame")
    _, state = picture_state("simple-v3")
    state |= {"x": np.array([-0.5]), "y": np.array([0.0]), "landmark_y": np.array([0.0])}
    areas = {}
    for rescaling in (True, False):
        for reach in (1.0, 2.0):
            pixels = render_state(
                registry.get("simple-v3").make(dynamic_rescaling=rescaling), state | {"landmark_x": np.array([reach])}
            )
            areas[rescaling, reach] = int((pixels == (150, 50, 50)).all(axis=-1).sum())
    assert areas[True, 1.0] == pytest.approx(areas[False, 1.0], rel=0.05)
    assert areas[True, 2.0] == pytest.approx(areas[True, 1.0] / 4, rel=0.4)  # less its outline
    assert areas[False, 2.0] == pytest.approx(areas[False, 1.0], rel=0.05)


def test_treasures_that_are_gone_are_not_drawn() -> None:
    pytest.importorskip("pygame")
    declaration, state = picture_state("collect_treasure-v1", num_deposits=1, num_treasures=1)
    state |= {"holding": np.full(7, -1), "x": np.arange(7) / 7, "y": np.zeros(7)}
    state |= {"landmark_x": np.array([0.0]), "landmark_y": np.array([0.9])}
    colour = (42, 82, 155)
    for kind, is_there in ((0, True), (-1, False)):
        assert (colour in shades(render_state(declaration, state | {"treasure": np.array([kind])}))) == is_there


def test_what_agents_say_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygame")
    from gpu_marl_envs.rendering import Canvas

    lines: list[str] = []
    monkeypatch.setattr(Canvas, "text", lambda self, x, y, text, **_: lines.append(text))
    declaration, state = picture_state("simple_reference-v3")
    state["communication"] = np.zeros((2, 10), np.float32)
    state["communication"][1, 2] = 1.0
    render_state(declaration, state)
    assert sorted(lines) == ["agent_0 says _", "agent_1 says C"]
    lines.clear()
    declaration, state = picture_state("simple_speaker_listener-v4", **STEERED)
    state["communication"] = np.array([0.25, 0.0, 1.0], np.float32)
    render_state(declaration, state)
    assert lines == ["speaker_0 says [0.25, 0.00, 1.00]"]


def test_drawing_parameters_change_nothing_else(make: Make) -> None:
    batches = [make("simple_push-v3", 3, seed=2, dynamic_rescaling=rescaling) for rescaling in (True, False)]
    for env in batches:
        env.reset()
        for _ in range(3):
            env.step(env.actions)
    ours, others = (copies_of(env) for env in batches)
    assert all(np.array_equal(one[name], two[name]) for one, two in zip(ours, others, strict=True) for name in one)
    assert dataclasses.replace(batches[0].declaration, dynamic_rescaling=False) == batches[1].declaration
