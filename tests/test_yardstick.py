"""The plain C loop plays the game of our CPU build, and the comparison notices when it does not."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="the yardstick is compiled by gcc"),
]


@pytest.fixture
def yardstick(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script as a module."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("yardstick")
    del sys.modules["yardstick"]


@pytest.mark.parametrize("full", [False, True])
def test_it_plays_the_same_game(yardstick: ModuleType, tmp_path: Path, full: bool) -> None:
    env = yardstick.make_ours(50, full)
    steps, ended = yardstick.check_same_game(env, yardstick.PlainLoop(env, tmp_path), 300)
    assert steps == 15_000
    assert ended > 100


@pytest.mark.parametrize(
    ("field", "difference"),
    [("wall_hit_penalty", "reward"), ("episode_length_limit", "observation"), ("grid_length", "reward")],
)
def test_other_rules_are_noticed(yardstick: ModuleType, tmp_path: Path, field: str, difference: str) -> None:
    env = yardstick.make_ours(200, False)
    plain = yardstick.PlainLoop(env, tmp_path)
    setattr(plain._game, field, getattr(plain._game, field) + 1)
    with pytest.raises(AssertionError, match=difference):
        yardstick.check_same_game(env, plain, 60)


def test_the_ratio_is_that_of_the_speeds(yardstick: ModuleType) -> None:
    found = yardstick.compare(100, False, rounds=3, seconds=0.01)
    low, high = found.ratio_range
    assert low <= found.ratio <= high
    assert low * (1 - 1e-9) <= found.plain / found.ours <= high * (1 + 1e-9)  # medians, up to rounding
    assert found.compared_ends > 0
