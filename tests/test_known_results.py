"""Training by the recipes reaches what is known of their environments."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gpu_marl_envs.training import algorithms

ROOT = Path(__file__).parents[1]
RECIPES = sorted(path.stem for path in (ROOT / "examples" / "recipes").glob("*.yaml"))
TOO_LONG = {"simple_spread", "tag_continuous_crowd"}  # for a test: small batches, and two hundred million steps

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def learning(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("learning")
    del sys.modules["learning"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted(set(RECIPES) - TOO_LONG))
def test_a_recipe_reaches_the_known_result(learning: ModuleType, device: str, recipe: str) -> None:
    row = learning.learn(recipe, device, seed=0, episodes=1000)
    assert row["reached"], learning.table([row])


def test_every_recipe_has_a_known_result(learning: ModuleType) -> None:
    assert list(RECIPES) == sorted(learning.KNOWN_RESULTS)
    for name in RECIPES:
        config = learning.recipe(name)
        assert name.startswith(config.environment.rpartition("-")[0])
        algorithms()[config.algorithm].read(config.settings[config.algorithm])


def of_run(returns: dict[tuple[str, str], tuple[float, float]]) -> dict[str, Any]:
    """A run of simple_tag in which mixes of players have these returns, give or take 1."""
    entries = []
    for mix, values in returns.items():
        estimates = [{"mean": value, "standard_error": 0.5, "half_width": 1.0} for value in values]
        names = ("adversary", "agent")
        entries.append(
            {"players": dict(zip(names, mix, strict=True)), "returns": dict(zip(names, estimates, strict=True))}
        )
    curve = {"adversary": [(100, 5.0), (200, 9.0)], "agent": [(100, -5.0), (200, -9.0)]}
    more = {"env_id": "simple_tag-v3", "seed": 0, "seconds": 3.0, "agent_steps": 200, "device": "CPU", "num_envs": 8}
    return {"recipe": "simple_tag", "scores": entries, "curve": curve, **more}


def test_each_side_has_to_do_better_than_a_random_one(learning: ModuleType) -> None:
    others = {("random", "random"): (0.0, 0.0)}
    both = {
        ("trained", "trained"): (9.0, -9.0),
        ("random", "trained"): (2.0, -2.0),
        ("trained", "random"): (20.0, -20.0),
    }
    assert learning.reached(of_run(both | others))
    doubtful = both | {("trained", "random"): (20.0, -10.0)}  # 1 ± 1.4
    assert not learning.reached(of_run(doubtful | others))


def test_a_return_has_to_be_as_high_as_is_known(learning: ModuleType) -> None:
    def run(mean: float) -> dict[str, Any]:
        means = {"trained": mean, "random": 20.0}
        returns = {
            key: {"agent": {"mean": value, "standard_error": 1, "half_width": 2}} for key, value in means.items()
        }
        entries = [{"players": {"agent": key}, "returns": value} for key, value in returns.items()]
        return {"recipe": "cartpole", "scores": entries, "curve": {"agent": []}}

    assert learning.reached(run(477.0))
    assert not learning.reached(run(476.0))  # it may be 474


def test_what_is_shown(learning: ModuleType, tmp_path: Path) -> None:
    both = {
        ("trained", "trained"): (9.0, -9.0),
        ("random", "trained"): (2.0, -2.0),
        ("trained", "random"): (20.0, -20.0),
    }
    row = of_run(both) | {"reached": True}
    assert learning.table([json.loads(json.dumps(row))]).splitlines()[-1].split("  ")[0] == "simple_tag"
    assert learning.plot([row], tmp_path / "curves.png").stat().st_size > 1000


def test_a_curve_is_thinned_and_leaves_out_what_is_not_known(learning: ModuleType) -> None:
    history = [{"agent_steps": 10.0 * i, "return": float("nan") if i % 2 else float(i)} for i in range(1000)]
    curve = learning._thinned(history, "return")
    assert len(curve) <= learning.CURVE_POINTS and curve[-1][0] == 9980
    assert curve[0][1] == pytest.approx(sum(range(0, 18, 2)) / 9)
