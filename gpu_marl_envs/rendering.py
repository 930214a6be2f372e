"""Pictures of one environment copy: a canvas that declarations draw on, a window, and animated GIFs.

Drawing needs pygame, GIFs need Pillow; both are imported on first use and come with the extra
``gpu-marl-envs[render]``. Pictures are drawn on plain surfaces, so no display is needed except for :class:`Window`.
"""

from __future__ import annotations

import importlib
import math
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from gpu_marl_envs.errors import BackendUnavailableError, DeclarationError, ParameterError
from gpu_marl_envs.spec import Environment, Field

Colour = tuple[int, int, int]

# Okabe and Ito's palette, which stays distinguishable under colour blindness; one colour per agent group, in order.
GROUP_COLOURS: tuple[Colour, ...] = (
    (213, 94, 0),
    (0, 114, 178),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
)
BACKGROUND: Colour = (246, 246, 243)
PAPER: Colour = (255, 255, 255)
GRID: Colour = (231, 232, 230)
BORDER: Colour = (176, 180, 182)
INK: Colour = (45, 52, 58)

SIZE = (600, 640)  # default width and height of a picture in pixels
SUPERSAMPLING = 2  # drawn this many times larger, then averaged down: pygame itself draws without anti-aliasing
HEADER = 40  # pixels above the world, for the title and the legend
MARGIN = 14  # pixels around the world


def group_colour(index: int) -> Colour:
    """The colour of the ``index``-th agent group (repeats after the palette's end)."""
    return GROUP_COLOURS[index % len(GROUP_COLOURS)]


class Canvas:
    """A picture to draw on in world coordinates (x to the right, y upwards).

    Positions and lengths are in world units, as set by :meth:`view`; line widths and text sizes are in pixels.

    Args:
        size: width and height of the picture in pixels.

    Raises:
        BackendUnavailableError: pygame is not installed.
    """

    def __init__(self, size: tuple[int, int] = SIZE) -> None:
        self.size = size
        self._pygame = _module("pygame")
        self._surface = self._pygame.Surface((size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING), 0, 32)
        self.view(0.0, 0.0, 1.0, 1.0)

    def view(self, low_x: float, low_y: float, high_x: float, high_y: float) -> None:
        """Starts a blank picture of the rectangle from (low_x, low_y) to (high_x, high_y), as large as fits.

        Raises:
            ParameterError: the rectangle is empty or not finite.
        """
        width, height = high_x - low_x, high_y - low_y
        if not (0 < width < math.inf and 0 < height < math.inf):
            given = f"({low_x:g}, {low_y:g}) to ({high_x:g}, {high_y:g})"
            raise ParameterError(f"A view must have a positive finite size, but {given} was given.")
        room_x = (self.size[0] - 2 * MARGIN) * SUPERSAMPLING
        room_y = (self.size[1] - HEADER - MARGIN) * SUPERSAMPLING
        self._scale = min(room_x / width, room_y / height)
        left = (self.size[0] * SUPERSAMPLING - width * self._scale) / 2
        bottom = HEADER * SUPERSAMPLING + (room_y + height * self._scale) / 2
        self._origin = (left - low_x * self._scale, bottom + low_y * self._scale)
        self._low, self._high = (low_x, low_y), (high_x, high_y)
        self._surface.fill(BACKGROUND)
        self.rectangle(low_x, low_y, high_x, high_y, PAPER)

    @property
    def pixel(self) -> float:
        """Length of one pixel in world units."""
        return SUPERSAMPLING / self._scale

    # ---- shapes ----

    def circle(self, x: float, y: float, radius: float, colour: Colour, *, width: float = 0) -> None:
        """A disc, or with a ``width`` in pixels a ring, of ``radius`` world units around (x, y)."""
        self._pygame.draw.circle(
            self._surface, colour, self._at(x, y), max(radius * self._scale, 1.0), self._thickness(width)
        )

    def rectangle(
        self, low_x: float, low_y: float, high_x: float, high_y: float, colour: Colour, *, width: float = 0
    ) -> None:
        """A filled rectangle, or with a ``width`` in pixels its outline."""
        left, top = self._at(low_x, high_y)
        right, bottom = self._at(high_x, low_y)
        area = self._pygame.Rect(round(left), round(top), round(right - left), round(bottom - top))
        self._pygame.draw.rect(self._surface, colour, area, self._thickness(width))

    def polygon(self, points: Sequence[tuple[float, float]], colour: Colour) -> None:
        """A filled polygon through the (x, y) of ``points``."""
        self._pygame.draw.polygon(self._surface, colour, [self._at(x, y) for x, y in points])

    def line(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, *, width: float = 1.5) -> None:
        """A line from (x0, y0) to (x1, y1)."""
        self._pygame.draw.line(self._surface, colour, self._at(x0, y0), self._at(x1, y1), self._thickness(width))

    def bar(self, x0: float, y0: float, x1: float, y1: float, thickness: float, colour: Colour) -> None:
        """A straight bar from (x0, y0) to (x1, y1), ``thickness`` world units wide."""
        length = math.hypot(x1 - x0, y1 - y0)
        if length == 0.0:
            return
        side_x, side_y = -(y1 - y0) / length * thickness / 2, (x1 - x0) / length * thickness / 2
        ends = ((x0, y0, 1), (x1, y1, 1), (x1, y1, -1), (x0, y0, -1))
        self.polygon([(x + side * side_x, y + side * side_y) for x, y, side in ends], colour)

    def arrow(self, x: float, y: float, dx: float, dy: float, colour: Colour, *, width: float = 1.5) -> None:
        """An arrow from (x, y) to (x + dx, y + dy)."""
        length = math.hypot(dx, dy)
        if length == 0.0:
            return
        head = min(length, 3.5 * width * self.pixel)
        ux, uy = dx / length, dy / length
        neck_x, neck_y = x + dx - head * ux, y + dy - head * uy
        self.line(x, y, neck_x, neck_y, colour, width=width)
        side = 0.6 * head
        points = [(x + dx, y + dy), (neck_x - side * uy, neck_y + side * ux), (neck_x + side * uy, neck_y - side * ux)]
        self.polygon(points, colour)

    def text(
        self, x: float, y: float, text: str, colour: Colour = INK, *, size: int = 14, anchor: str = "center"
    ) -> None:
        """Text at (x, y), which is the text's ``anchor``: ``"center"``, ``"midleft"``, ``"topright"`` and the like."""
        self._write(self._at(x, y), text, colour, size, anchor)

    def grid(self, spacing: float, colour: Colour = GRID, *, offset: float = 0.0) -> None:
        """Lines every ``spacing`` world units in both directions, through ``offset``, over the whole view."""
        for axis in (0, 1):
            low, high = self._low[axis], self._high[axis]
            first, last = math.ceil((low - offset) / spacing), math.floor((high - offset) / spacing)
            for position in (offset + spacing * i for i in range(first, last + 1)):
                ends = ((position, self._low[1]), (position, self._high[1]))
                if axis == 1:
                    ends = ((self._low[0], position), (self._high[0], position))
                self.line(*ends[0], *ends[1], colour, width=1)

    def title(self, text: str, legend: Sequence[tuple[str, Colour]] = (), *, short: str = "") -> None:
        """Writes the line above the world: ``text`` on the left, the legend's words and colours on the right.

        Where both do not fit, ``short`` takes the place of ``text``, or nothing does.
        """
        middle = (HEADER / 2 + 1) * SUPERSAMPLING
        right = float((self.size[0] - MARGIN) * SUPERSAMPLING)
        for word, colour in reversed(legend):
            left = self._write((right, middle), word, INK, 16, "midright")
            dot = left - 10 * SUPERSAMPLING
            self._pygame.draw.circle(self._surface, colour, (dot, middle - SUPERSAMPLING), 5 * SUPERSAMPLING)
            right = dot - 20 * SUPERSAMPLING
        start = MARGIN * SUPERSAMPLING
        for words in (text, short):
            if start + self._font(18).size(words)[0] <= right:
                self._write((start, middle), words, INK, 18, "midleft")
                return

    # ---- whole pictures ----

    def heading(
        self, declaration: Environment, state: Mapping[str, Any], legend: Sequence[tuple[str, Colour]] | None = None
    ) -> None:
        """Writes the environment's name, the step count and the legend.

        Args:
            declaration: the environment.
            state: the copy's state, as :meth:`Environment.draw` receives it.
            legend: words and colours; by default each group with the number of agents in the game.
        """
        over = not np.asarray(state["alive"]).any()
        if legend is None:
            legend = _groups_in_the_game(declaration, np.asarray(state["alive"]))
        name = declaration.id.rpartition("-v")[0].replace("_", " ")
        steps = f"step {int(state['step'])} / {declaration.max_steps}{'    over' * over}"
        self.title(f"{name}    {steps}", legend, short=steps)

    def draw_agents(self, declaration: Environment, state: Mapping[str, Any], *, radius: float | None = None) -> None:
        """The default picture of a declaration with the state fields ``x`` and ``y``.

        Agents are discs in their group's colour, with a heading if there is a field ``direction``; agents that have
        left the game are faded rings. Integer positions are drawn as cells of a grid, whose agents share the cell.

        Args:
            declaration: the environment.
            state: the copy's state, as :meth:`Environment.draw` receives it.
            radius: of an agent, in world units; by default chosen to suit the number of agents.

        Raises:
            DeclarationError: there are no fields ``x`` and ``y``; such an environment must define ``draw``.
        """
        fields = {field.name: field for field in declaration.state_fields()}
        if not {"x", "y"} <= fields.keys():
            raise DeclarationError(
                f"{declaration.id} has no state fields x and y to draw; define draw(canvas, state) in its declaration."
            )
        x, y = np.asarray(state["x"], np.float64), np.asarray(state["y"], np.float64)
        (low_x, high_x), (low_y, high_y) = (_extent(fields[name], value) for name, value in (("x", x), ("y", y)))
        if fields["x"].dtype == "int32":
            self.view(low_x - 0.5, low_y - 0.5, high_x + 0.5, high_y + 0.5)
            if self.pixel < 1 / 5:  # lines closer than five pixels would only be a grey haze
                self.grid(1.0, offset=0.5)
            x, y, radii = _share_cells(x, y)
        else:
            self.view(low_x, low_y, high_x, high_y)
            self.grid((high_x - low_x) / 10, offset=low_x)
            automatic = max(0.2 * (high_x - low_x) / (8 + math.sqrt(len(x))) * 0.9, 1.5 * self.pixel)
            radii = np.full(len(x), automatic)
        if radius is not None:
            radii = np.full(len(x), radius)
        self._discs(declaration, state, x, y, radii)
        self.rectangle(*self._low, *self._high, BORDER, width=1)
        self.heading(declaration, state)

    def _discs(
        self, declaration: Environment, state: Mapping[str, Any], x: np.ndarray, y: np.ndarray, radii: np.ndarray
    ) -> None:
        alive = np.asarray(state["alive"], bool)
        group_of = np.repeat(
            np.arange(len(declaration.agent_groups)), [group.size for group in declaration.agent_groups]
        )
        direction = state.get("direction")
        for i in np.flatnonzero(~alive):  # below those that still play
            self.circle(x[i], y[i], 0.8 * radii[i], _faded(group_colour(int(group_of[i]))), width=2)
        for i in np.flatnonzero(alive)[::-1]:  # the first group on top
            colour = group_colour(int(group_of[i]))
            if radii[i] < 3 * self.pixel:
                self.circle(x[i], y[i], radii[i], colour)
                continue
            for grown, shade in ((radii[i] + self.pixel, PAPER), (radii[i], colour)):
                if direction is not None:
                    self.polygon(_drop(x[i], y[i], grown, direction[i]), shade)
                self.circle(x[i], y[i], grown, shade)

    def pixels(self) -> np.ndarray:
        """The picture so far: uint8 ``[height, width, 3]``, fresh memory."""
        small = self._pygame.transform.smoothscale(self._surface, self.size)
        return np.ascontiguousarray(self._pygame.surfarray.array3d(small).transpose(1, 0, 2))

    # ---- in pixels of the large surface ----

    def _at(self, x: float, y: float) -> tuple[int, int]:
        # pygame cuts fractions off, which would shift a shape's parts against each other
        return round(self._origin[0] + x * self._scale), round(self._origin[1] - y * self._scale)

    @staticmethod
    def _thickness(width: float) -> int:
        return max(round(width * SUPERSAMPLING), 1) if width > 0 else 0

    def _font(self, size: int) -> Any:
        fonts = self._pygame.font
        if not fonts.get_init():
            fonts.init()
        return fonts.Font(None, round(size * 1.25 * SUPERSAMPLING))

    def _write(self, at: tuple[float, float], text: str, colour: Colour, size: int, anchor: str) -> float:
        """Writes text and returns its left edge."""
        image = self._font(size).render(text, True, colour)
        area = image.get_rect(**{anchor: (round(at[0]), round(at[1]))})
        self._surface.blit(image, area)
        return float(area.left)


class Window:
    """A window on the screen that shows pictures at a steady rate; closing it with the mouse only hides the pictures.

    Args:
        caption: the window's title.
        fps: the most pictures to show per second.

    Raises:
        BackendUnavailableError: there is no display, or pygame is not installed.
    """

    def __init__(self, caption: str, fps: float) -> None:
        self._pygame = _module("pygame")
        self._caption, self._fps = caption, fps
        self._screen: Any = None
        self._dismissed = False
        try:
            self._pygame.display.init()
        except self._pygame.error as error:
            raise BackendUnavailableError(
                f"render_mode='human' found no display ({error}); use render_mode='rgb_array' for pictures without one."
            ) from None
        self._clock = self._pygame.time.Clock()

    def show(self, pixels: np.ndarray) -> None:
        """Shows a picture, uint8 ``[height, width, 3]``, and waits so that the rate is kept."""
        if self._dismissed:
            return
        if self._screen is None:
            self._screen = self._pygame.display.set_mode(pixels.shape[1::-1])
            self._pygame.display.set_caption(self._caption)
        self._screen.blit(self._pygame.surfarray.make_surface(pixels.transpose(1, 0, 2)), (0, 0))
        self._pygame.display.flip()
        if any(event.type == self._pygame.QUIT for event in self._pygame.event.get()):
            self._dismissed = True
            self.close()
            return
        self._clock.tick(self._fps)

    def close(self) -> None:
        """Closes the window; closing twice is harmless."""
        if self._screen is not None:
            self._screen = None
            self._pygame.display.quit()


def render_state(declaration: Environment, state: Mapping[str, Any], size: tuple[int, int] = SIZE) -> np.ndarray:
    """One copy as a picture.

    Args:
        declaration: the environment; its ``draw`` makes the picture.
        state: the copy's state fields by name (``[num_agents, …]``), and ``alive`` (bool) and ``step`` (int).
        size: width and height in pixels.

    Returns:
        uint8 ``[height, width, 3]``.

    Raises:
        BackendUnavailableError: pygame is not installed.
    """
    canvas = Canvas(size)
    declaration.draw(canvas, dict(state))
    return canvas.pixels()


def record_gif(frames: Iterable[np.ndarray], path: str | os.PathLike[str], fps: float = 12.0) -> Path:
    """Writes an endless animation; a file of that name is replaced only once the new one is complete.

    Args:
        frames: pictures, uint8 ``[height, width, 3]``, all of one size.
        path: the file to write; its folder must exist.
        fps: pictures per second; GIF rounds the time per picture to hundredths of a second.

    Returns:
        The path.

    Raises:
        ParameterError: there are no frames, or ``fps`` is not positive.
        BackendUnavailableError: Pillow is not installed.
    """
    image_module = _module("PIL.Image", package="Pillow")
    images = [image_module.fromarray(np.asarray(frame)) for frame in frames]
    if not images or not 0 < fps < math.inf:
        raise ParameterError("record_gif needs at least one frame and a positive number of frames per second.")
    indexed = _with_one_palette(image_module, images)
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    duration = max(round(100 / fps), 2) * 10  # milliseconds; viewers slow down animations that ask for less than 20
    try:
        indexed[0].save(
            temporary, format="GIF", save_all=True, append_images=indexed[1:], duration=duration, loop=0, optimize=True
        )
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def _with_one_palette(image_module: ModuleType, images: list[Any]) -> list[Any]:
    """Quantises all frames to one palette: flat areas then keep their colour between frames and compress away."""
    width, height = images[0].size
    sample = images[:: max(len(images) // 6, 1)][:8]
    sheet = image_module.new("RGB", (width, height * len(sample)))
    for row, image in enumerate(sample):
        sheet.paste(image, (0, row * height))
    palette = sheet.quantize(colors=128, method=image_module.Quantize.MEDIANCUT, dither=image_module.Dither.NONE)
    return [image.quantize(palette=palette, dither=image_module.Dither.NONE) for image in images]


def _groups_in_the_game(declaration: Environment, alive: np.ndarray) -> list[tuple[str, Colour]]:
    """Each group's name with its number of agents in the game, and its colour."""
    legend, first = [], 0
    for index, group in enumerate(declaration.agent_groups):
        present = int(alive[first : first + group.size].sum())
        count = f"{present} of {group.size}" if present < group.size and alive.any() else f"{group.size}"
        legend.append((f"{group.name} {count}", group_colour(index)))
        first += group.size
    return legend


def _faded(colour: Colour) -> Colour:
    """The colour of agents that have left the game: halfway to a light grey."""
    red, green, blue = ((part + 222) // 2 for part in colour)
    return red, green, blue


def _extent(field: Field, values: np.ndarray) -> tuple[float, float]:
    """What to show of one coordinate: up to the declared bounds, or where one is missing to a round number."""
    low = field.low if math.isfinite(field.low) else -_round_up(-float(values.min()))
    high = field.high if math.isfinite(field.high) else _round_up(float(values.max()))
    return (low, high) if low < high else (low, low + 1.0)


def _round_up(value: float) -> float:
    """The next 1, 2 or 5 times a power of ten; zero for what is not positive."""
    if value <= 0.0:
        return 0.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * factor for factor in (1, 2, 5, 10, 20) if power * factor >= value)


def _drop(x: float, y: float, radius: float, direction: float) -> list[tuple[float, float]]:
    """The pointed part of a drop: from its tip, two radii ahead, to where its sides touch the disc."""
    offsets = ((2.0, 0.0), (1.0, math.pi / 3), (1.0, -math.pi / 3))
    return [(x + r * radius * math.cos(direction + a), y + r * radius * math.sin(direction + a)) for r, a in offsets]


def _share_cells(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places the agents of one cell side by side: positions and radii in cells, for integer x and y."""
    cells = np.stack([x, y], axis=1)
    _, cell_of, counts = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    cell_of = cell_of.reshape(-1)
    order = np.argsort(cell_of, kind="stable")
    rank = np.empty(len(x), int)
    rank[order] = np.arange(len(x)) - np.repeat(np.cumsum(counts) - counts, counts)
    side = np.ceil(np.sqrt(counts))[cell_of]  # a cell of k agents is divided into side × side places
    rows = np.ceil(counts[cell_of] / side)
    in_row = np.minimum(side, counts[cell_of] - (rank // side) * side)
    place_x = (rank % side - (in_row - 1) / 2) * 0.86 / side
    place_y = ((rows - 1) / 2 - rank // side) * 0.86 / side
    return x + place_x, y + place_y, 0.33 / side


def _module(name: str, package: str | None = None) -> Any:
    """Imports what only rendering needs.

    Raises:
        BackendUnavailableError: it is not installed.
    """
    if name == "pygame":
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "hide")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BackendUnavailableError(
            f"Rendering needs {package or name}, which cannot be imported ({error}); "
            "install it with: pip install 'gpu-marl-envs[render]'"
        ) from None
