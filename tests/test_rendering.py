"""Pictures, the window and GIFs, on a machine without a display."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from PIL import Image

from gpu_marl_envs import registry, rendering
from gpu_marl_envs.adapters.pettingzoo import parallel_env
from gpu_marl_envs.errors import BackendUnavailableError, DeclarationError, ParameterError
from gpu_marl_envs.rendering import Canvas, Window, group_colour, record_gif, render_state
from gpu_marl_envs.spec import Environment, Field, Group, param

pytest.importorskip("pygame")


@dataclass(frozen=True, kw_only=True)
class Flock(Environment):
    """Points on a square, with a heading."""

    id = "flock-v0"
    state = (
        Field("x", "float32", "position", low=0, high=10),
        Field("y", "float32", "position", low=0, high=10),
        Field("direction", "float32", "heading"),
    )

    episode_length: int = param(50, "longest episode", low=1)
    size: int = param(3, "agents of each group", low=1, static=True)

    def groups(self) -> tuple[Group, ...]:
        space = Box(-1, 1, (2,), np.float32)
        return Group("hawk", self.size, space, Discrete(2)), Group("dove", self.size, space, Discrete(2))


@dataclass(frozen=True, kw_only=True)
class Board(Flock):
    """The same on cells."""

    id = "board-v0"
    state = (Field("x", "int32", "column", low=0, high=4), Field("y", "int32", "row", low=0, high=4))


@dataclass(frozen=True, kw_only=True)
class Nowhere(Flock):
    """Agents without a position."""

    id = "nowhere-v0"
    state = (Field("mood", "float32", "mood"),)


def flock_state(**changes: Any) -> dict[str, Any]:
    """Hawks on the lower line, doves on the upper line, all heading up."""
    state = {
        "x": np.array([2, 5, 8, 2, 5, 8], np.float32),
        "y": np.array([2, 2, 2, 8, 8, 8], np.float32),
        "direction": np.full(6, np.pi / 2, np.float32),
        "alive": np.ones(6, bool),
        "step": 7,
    }
    return state | changes


def pixel_of(x: float, y: float, view: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[int, int]:
    """Row and column that show a world position in a square view."""
    side = min(size[0] - 2 * rendering.MARGIN, size[1] - rendering.HEADER - rendering.MARGIN)
    scale = side / (view[2] - view[0])
    left = (size[0] - side) / 2
    bottom = rendering.HEADER + (size[1] - rendering.HEADER - rendering.MARGIN + side) / 2
    return round(bottom - (y - view[1]) * scale), round(left + (x - view[0]) * scale)


def test_agents_have_their_groups_colour_where_they_stand() -> None:
    state = flock_state()
    pixels = render_state(Flock(), state)
    assert pixels.shape == (640, 600, 3) and pixels.dtype == np.uint8 and pixels.flags["C_CONTIGUOUS"]
    for i in range(6):
        row, column = pixel_of(state["x"][i], state["y"][i], (0, 0, 10, 10), (600, 640))
        assert tuple(pixels[row, column]) == group_colour(i // 3)


@pytest.mark.parametrize("size", [(600, 640), (320, 240), (200, 500)])
def test_a_picture_of_any_size_shows_the_whole_world_undistorted(size: tuple[int, int]) -> None:
    state = flock_state()
    pixels = render_state(Flock(), state, size)
    assert pixels.shape == (size[1], size[0], 3)
    for i in (0, 5):
        row, column = pixel_of(state["x"][i], state["y"][i], (0, 0, 10, 10), size)
        assert tuple(pixels[row, column]) == group_colour(i // 3)


def test_agents_that_left_are_hollow() -> None:
    alive = np.array([True, False, True, True, True, False])
    state = flock_state(alive=alive)
    pixels = render_state(Flock(), state)
    for i in (1, 5):
        row, column = pixel_of(state["x"][i], state["y"][i], (0, 0, 10, 10), (600, 640))
        assert pixels[row, column].min() > 200  # paper or grid, no agent's colour


def test_the_heading_points_forwards() -> None:
    up = render_state(Flock(), flock_state()).astype(int)
    right = render_state(Flock(), flock_state(direction=np.zeros(6, np.float32))).astype(int)
    row, column = pixel_of(5, 2, (0, 0, 10, 10), (600, 640))
    hawk = np.array(group_colour(0))
    reach = 14  # pixels ahead, beyond the disc and before the tip
    assert np.abs(up[row - reach, column] - hawk).max() < 60 < np.abs(up[row, column + reach] - hawk).max()
    assert np.abs(right[row, column + reach] - hawk).max() < 60 < np.abs(right[row - reach, column] - hawk).max()


def test_agents_of_one_cell_stand_side_by_side() -> None:
    state = {"x": np.array([1, 1, 1, 1, 3, 3]), "y": np.full(6, 2), "alive": np.ones(6, bool), "step": 0}
    pixels = render_state(Board(), state)
    row, column = pixel_of(3, 2, (-0.5, -0.5, 4.5, 4.5), (600, 640))
    cell = 572 // 5
    in_cell = pixels[row - cell // 2 : row + cell // 2, column - cell // 2 : column + cell // 2].reshape(-1, 3)
    assert (in_cell == group_colour(1)).all(1).sum() > 500 and not (in_cell == group_colour(0)).all(1).any()
    left = pixels[row - cell // 2 : row + cell // 2, column - 5 * cell // 2 : column - 3 * cell // 2].reshape(-1, 3)
    assert (left == group_colour(0)).all(1).sum() > 1000 and (left == group_colour(1)).all(1).sum() > 300


@pytest.mark.parametrize("size", [1, 40, 5000])
def test_any_number_of_agents_is_drawn(size: int) -> None:
    rng = np.random.default_rng(0)
    state = {
        "x": rng.uniform(0, 10, 2 * size),
        "y": rng.uniform(0, 10, 2 * size),
        "direction": rng.uniform(0, 6, 2 * size),
        "alive": rng.random(2 * size) < 0.5,
        "step": 3,
    }
    assert len(np.unique(render_state(Flock(size=size), state).reshape(-1, 3), axis=0)) > 10


def test_rendering_does_not_change_the_state() -> None:
    state = flock_state()
    before = {name: np.copy(value) for name, value in state.items()}
    render_state(Flock(), state)
    assert all(np.array_equal(state[name], before[name]) for name in before)


def test_unbounded_positions_are_framed() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Plane(Flock):
        id = "plane-v0"
        state = (Field("x", "float32", "position"), Field("y", "float32", "position"))

    for scale in (1e-3, 1.0, 1e6):
        state = flock_state(x=scale * np.linspace(-9, 8, 6), y=np.full(6, 3 * scale))
        pixels = render_state(Plane(), state)
        assert all((pixels == group_colour(group)).all(-1).any() for group in (0, 1))
        assert np.array_equal(pixels, render_state(Plane(), state))
    nowhere = flock_state(x=np.zeros(6), y=np.zeros(6))
    assert (render_state(Plane(), nowhere) == group_colour(0)).all(-1).any()


def test_an_environment_without_positions_must_draw_itself() -> None:
    state = {"mood": np.zeros(6), "alive": np.ones(6, bool), "step": 0}
    with pytest.raises(DeclarationError, match=r"nowhere-v0 has no state fields x and y to draw; define draw"):
        render_state(Nowhere(), state)


def test_shapes() -> None:
    canvas = Canvas((200, 240))
    canvas.view(-1, -1, 1, 1)
    canvas.rectangle(-1, -1, 0, 0, (255, 0, 0))
    canvas.circle(0.5, 0.5, 0.4, (0, 255, 0))
    canvas.line(-1, 0.5, 0, 0.5, (0, 0, 255), width=6)
    canvas.arrow(0.1, -0.5, 0.8, 0, (0, 128, 128), width=4)
    canvas.arrow(0, 0, 0, 0, (9, 9, 9))
    canvas.bar(-0.9, 0.1, -0.1, 0.3, 0.1, (128, 128, 0))
    canvas.bar(0.1, 0.1, 0.1, 0.1, 0.1, (9, 9, 9))
    canvas.text(-0.5, 0.8, "hello", (200, 0, 200), size=20)
    pixels = canvas.pixels()
    for x, y, colour in (
        (-0.5, -0.5, (255, 0, 0)),
        (0.5, 0.5, (0, 255, 0)),
        (-0.5, 0.5, (0, 0, 255)),
        (0.5, -0.5, (0, 128, 128)),
        (-0.86, 0.14, (128, 128, 0)),
        (-0.5, 0.2, (128, 128, 0)),
    ):
        assert tuple(pixels[pixel_of(x, y, (-1, -1, 1, 1), (200, 240))]) == colour
    assert (np.abs(pixels.astype(int) - (200, 0, 200)).max(-1) < 80).any(), "the text was not written"
    assert not (pixels == (9, 9, 9)).all(-1).any()


def test_edges_are_smooth() -> None:
    canvas = Canvas((100, 140))
    canvas.circle(0.5, 0.5, 0.3, (0, 0, 0))
    assert len(np.unique(canvas.pixels()[60:, :, 0])) > 3, "there are no shades between paper and ink"


@pytest.mark.parametrize("view", [(0, 0, 0, 1), (0, 0, 1, -1), (0, 0, float("inf"), 1), (0, 0, float("nan"), 1)])
def test_an_empty_view_is_refused(view: tuple[float, float, float, float]) -> None:
    with pytest.raises(ParameterError, match="positive finite size"):
        Canvas().view(*view)


def test_gif(tmp_path: Path) -> None:
    frames = [render_state(Flock(), flock_state(step=i, x=flock_state()["x"] + i / 10)) for i in range(5)]
    path = record_gif(iter(frames), tmp_path / "episode.gif", fps=10)
    with Image.open(path) as image:
        assert image.n_frames == 5 and image.size == (600, 640)
        assert image.info["duration"] == 100 and image.info["loop"] == 0
        for i, frame in enumerate(frames):
            image.seek(i)
            difference = np.abs(np.asarray(image.convert("RGB")).astype(int) - frame)
            assert difference.mean() < 2 and np.percentile(difference, 99) < 40
    assert path.stat().st_size < 100_000
    assert [file.name for file in tmp_path.iterdir()] == ["episode.gif"]


def test_a_failing_recording_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "episode.gif"
    path.write_bytes(b"the old one")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        record_gif([np.zeros((8, 8, 3), np.uint8)], path)
    assert path.read_bytes() == b"the old one"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("count", "fps"), [(0, 10.0), (2, 0.0), (2, -1.0), (2, float("nan"))])
def test_a_gif_of_nothing_is_refused(tmp_path: Path, count: int, fps: float) -> None:
    with pytest.raises(ParameterError, match="at least one frame"):
        record_gif([np.zeros((8, 8, 3), np.uint8)] * count, tmp_path / "a.gif", fps=fps)


def test_the_window_shows_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    import pygame

    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    window = Window("flock", fps=1000)
    pixels = render_state(Flock(), flock_state())
    window.show(pixels)
    shown = pygame.surfarray.array3d(pygame.display.get_surface()).transpose(1, 0, 2)
    assert np.array_equal(shown, pixels)
    assert pygame.display.get_caption()[0] == "flock"
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    window.show(pixels)
    assert pygame.display.get_surface() is None
    window.show(pixels)  # the user closed it, so it stays closed
    assert pygame.display.get_surface() is None
    window.close()
    window.close()


def test_no_display_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "nonexistent")
    with pytest.raises(BackendUnavailableError, match="use render_mode='rgb_array'"):
        Window("flock", fps=10)


def test_a_missing_package_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(BackendUnavailableError, match=r"needs pygame.*gpu-marl-envs\[render\]"):
        render_state(Flock(), flock_state())
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(BackendUnavailableError, match=r"needs Pillow.*gpu-marl-envs\[render\]"):
        record_gif([np.zeros((8, 8, 3), np.uint8)], tmp_path / "a.gif")


def test_pictures_need_no_display_and_importing_needs_no_pygame() -> None:
    code = """
import sys
import gpu_marl_envs.rendering as rendering
assert not {"pygame", "PIL"} & set(sys.modules), "rendering imported pygame or Pillow"
canvas = rendering.Canvas()
canvas.title("hello", [("word", (1, 2, 3))])
assert canvas.pixels().shape == (640, 600, 3)
import pygame
assert not pygame.display.get_init(), "a picture opened the display"
"""
    environment = {k: v for k, v in os.environ.items() if k not in {"DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"}}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "", "pygame's greeting was printed"


def test_a_heading_lists_the_groups_or_what_it_is_given() -> None:
    pixels = []
    for legend in (None, (), [("word", (1, 2, 3))]):
        canvas = Canvas()
        canvas.view(0, 0, 10, 10)
        canvas.heading(Flock(), flock_state(), legend)
        pixels.append(canvas.pixels()[: rendering.HEADER])
    colours = [{tuple(colour) for colour in picture.reshape(-1, 3)} for picture in pixels]
    assert {group_colour(0), group_colour(1)} <= colours[0] and (1, 2, 3) in colours[2]
    assert not {group_colour(0), group_colour(1), (1, 2, 3)} & colours[1]


@pytest.mark.parametrize("env_id", registry.ids())
def test_every_environment_draws_what_changes(env_id: str) -> None:
    env = parallel_env(env_id, render_mode="rgb_array", seed=0)
    env.reset()
    first = env.render()
    for agent in env.agents:
        env.action_space(agent).seed(0)
    for _ in range(5):
        env.step({agent: env.action_space(agent).sample() for agent in env.agents})
    second = env.render()
    assert first is not None and second is not None
    world = slice(rendering.HEADER, None)
    assert (first[world] != second[world]).any(), "the picture shows nothing of the state"
    assert len(np.unique(second[world].reshape(-1, 3), axis=0)) > 2
    env.close()
