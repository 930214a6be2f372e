"""Nearest agents are the same on every device, however they stand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gpu_marl_envs import make_batched
from gpu_marl_envs.spec import Environment
from gpu_marl_envs.testing import sample_actions

LENGTH = 64.0
COPIES = 3


def _anywhere(draw: Tensor) -> Tensor:
    return draw * LENGTH


def _on_a_lattice(draw: Tensor) -> Tensor:
    return (draw * 12).floor() * 4  # many pairs are equally far, and several agents share a point


def _at_the_walls(draw: Tensor) -> Tensor:
    return ((draw * 1.6 - 0.3) * LENGTH).clamp(0, LENGTH)


def _in_the_corners(draw: Tensor) -> Tensor:
    return draw.round() * LENGTH


def _all_at_one_point(draw: Tensor) -> Tensor:
    return torch.full_like(draw, 0.3 * LENGTH)


def _in_a_crowd_with_strays(draw: Tensor) -> Tensor:
    return torch.where(draw < 0.02, draw * 50 * LENGTH, 1.0 + 1e-3 * draw).clamp(0, LENGTH)


def _on_a_diagonal(draw: Tensor) -> Tensor:
    return draw[..., :1].expand_as(draw) * LENGTH


def _on_a_wall(draw: Tensor) -> Tensor:
    return torch.stack([torch.zeros_like(draw[..., 0]), draw[..., 1] * LENGTH], dim=-1)


def _half_of_them_far_away(draw: Tensor) -> Tensor:
    return torch.where(draw[..., :1] < 0.5, draw, 1e20 * draw)


def _hardly_apart(draw: Tensor) -> Tensor:
    return 1e-40 * draw


def _some_nowhere(draw: Tensor) -> Tensor:
    positions = draw * LENGTH
    positions[:, ::7, 0] = torch.nan
    positions[:, 3::11, 1] = torch.inf
    return positions


LAYOUTS: list[Callable[[Tensor], Tensor]] = [
    _anywhere,
    _on_a_lattice,
    _at_the_walls,
    _in_the_corners,
    _all_at_one_point,
    _in_a_crowd_with_strays,
    _on_a_diagonal,
    _on_a_wall,
]
ODD_LAYOUTS = [_some_nowhere, _half_of_them_far_away, _hardly_apart]
# Runners and neighbours: found alone, among candidates, in cells; in lists that stay in registers and longer ones.
SIZES = [
    (20, 5),
    (34, 1),
    (40, 31),
    (110, 10),
    (160, 14),
    (189, 3),
    (190, 14),
    (500, 2),
    (1000, 10),
    (1500, 30),
    (3491, 10),
    (7000, 10),
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_step_observes_the_nearest(layout: Callable[[Tensor], Tensor], device: str) -> None:
    """Against distances that torch sorts; ties are broken by the index, since the sort is stable."""
    runners, neighbors = 60, 7
    agents = runners + 3
    env = make_batched(
        "tag_continuous-v0",
        COPIES,
        device,
        num_taggers=3,
        num_runners=runners,
        grid_length=LENGTH,
        use_full_observation=False,
        num_other_agents_observed=neighbors,
    )
    env.reset(seed=1)
    positions = layout(torch.rand(COPIES, agents, 2, generator=torch.Generator().manual_seed(1)))
    env.state.x.copy_(positions[..., 0])
    env.state.y.copy_(positions[..., 1])
    x, y = positions.unbind(-1)
    distances = (x[:, None] - x[:, :, None]).square() + (y[:, None] - y[:, :, None]).square()
    distances.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    nearest = distances.sort(dim=2, stable=True).indices[..., :neighbors]
    observation = torch.cat([part.cpu() for part in env.observe().values()], dim=1)
    per_diagonal = 1.0 / (LENGTH * 2**0.5)
    for row, of in ((0, x), (1, y)):
        seen = observation[..., row * neighbors : (row + 1) * neighbors]
        expected = (of[:, None].expand(-1, agents, -1).gather(2, nearest) - of[..., None]) * per_diagonal
        torch.testing.assert_close(seen, expected, rtol=1e-6, atol=1e-7)
    taggers = observation[..., 5 * neighbors : 6 * neighbors]
    assert torch.equal(taggers, (nearest < 3).float())


@pytest.mark.gpu
@pytest.mark.parametrize("layout", [*LAYOUTS, *ODD_LAYOUTS])
@pytest.mark.parametrize(("runners", "neighbors"), SIZES)
def test_devices_find_the_same(layout: Callable[[Tensor], Tensor], runners: int, neighbors: int) -> None:
    """Observations and tags of a step from the same positions, of all agents and of those that are left."""
    taggers = max(runners // 10, 1)
    envs = [
        make_batched(
            "tag_continuous-v0",
            COPIES,
            device,
            num_taggers=taggers,
            num_runners=runners,
            grid_length=LENGTH,
            max_speed=0.25,
            tagging_distance=0.02,
            use_full_observation=False,
            num_other_agents_observed=neighbors,
        )
        for device in ("cpu", "cuda")
    ]
    draws = torch.rand(COPIES, taggers + runners, 2, generator=torch.Generator().manual_seed(2))
    positions = layout(draws)
    actions = sample_actions(envs[0], torch.Generator().manual_seed(3))
    outcomes = []
    for env in envs:
        env.reset(seed=4)
        env.state.x.copy_(positions[..., 0])
        env.state.y.copy_(positions[..., 1])
        own = {name: action.to(env.device) for name, action in actions.items()}
        outcome = [part.clone() for part in env.observe().values()]
        for _ in range(2):
            observation, reward, *_ = env.step(own)
            outcome += [part.clone() for part in (*observation.values(), *reward.values(), env.alive)]
        outcomes.append([part.cpu() for part in outcome])
    for one, other in zip(*outcomes, strict=True):
        assert torch.equal(one.nan_to_num(nan=7.0), other.nan_to_num(nan=7.0))


def _defined(x: np.ndarray, y: np.ndarray, visible: np.ndarray, within: float, neighbors: int) -> np.ndarray:
    """Whom each finds by definition: those who are visible, itself apart, by their squared distance and number."""
    with np.errstate(all="ignore"):
        squared = (x - x[:, None]) ** 2 + (y - y[:, None]) ** 2
        found = (squared < np.float32(within) * np.float32(within)) & visible & ~np.eye(x.size, dtype=bool)
    order = np.argsort(np.where(found, squared, np.inf), axis=1, kind="stable")[:, :neighbors]
    nearest = np.where(np.take_along_axis(found, order, 1), order, -1)
    return np.pad(nearest, ((0, 0), (0, neighbors - nearest.shape[1])), constant_values=-1)


# Those among whom all look, and neighbours: in cells, for lists of every length, and more than there are.
@pytest.mark.parametrize(("hiders", "neighbors"), [(64, 10), (65, 3), (90, 100), (300, 1), (700, 10), (700, 33)])
@settings(max_examples=60)
@given(
    layout=st.sampled_from([*LAYOUTS, *ODD_LAYOUTS]),
    seed=st.integers(0, 2**30),
    offset=st.sampled_from([0.0, 0.0, 1e6, -3e6, 1e20]),
    scale=st.sampled_from([1.0, 1.0, 1e-44, 1e-30, 1e-20, 1e15, 1e18, 1e36]),
    chance=st.sampled_from([1.0, 1.0, 0.6, 0.02, 0.0]),
    within=st.sampled_from([1e30, 1e30, 1e-3, 0.1, 2.0, 50.0, 0.0]),
)
def test_everybody_finds_who_is_nearest_by_definition(
    seekers: type[Environment],
    make: Callable[..., Any],
    hiders: int,
    neighbors: int,
    layout: Callable[[Tensor], Tensor],
    seed: int,
    offset: float,
    scale: float,
    chance: float,
    within: float,
) -> None:
    within = float(np.float32(min(within * scale, 1e30)))
    env = make(seekers.id, 2, num_hiders=hiders, neighbors_observed=neighbors, within=within)
    env.reset(seed=1)
    generator = torch.Generator().manual_seed(seed)
    positions = offset + scale * layout(torch.rand(2, env.num_agents, 2, generator=generator))
    visible = torch.rand(2, env.num_agents, generator=generator) < chance
    visible[:, :7] = True  # watchers, among whom nobody looks
    env.state.x.copy_(positions[..., 0])
    env.state.y.copy_(positions[..., 1])
    env.state.visible.copy_(visible)
    observed = torch.cat([part.cpu() for part in env.observe().values()], dim=1).numpy()
    visible[:, :7] = False
    for copy in range(2):
        x, y = positions[copy].numpy().T
        assert np.array_equal(observed[copy], _defined(x, y, visible[copy].numpy(), within, neighbors))
