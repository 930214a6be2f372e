"""The tables of the pages are those of the committed results."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("tables")
    del sys.modules["tables"]


def test_the_pages_are_up_to_date(tables: ModuleType) -> None:
    stale = [page.name for page in tables.PAGES if tables.rendered(page.read_text()) != page.read_text()]
    assert not stale, "run: python benchmarks/tables.py"


def test_every_table_stands_somewhere(tables: ModuleType) -> None:
    text = "".join(page.read_text() for page in tables.PAGES)
    assert set(re.findall(r"<!-- table: (\w+) -->", text)) == tables.TABLES.keys()
    assert text.count("<!-- table:") == text.count("<!-- end of table -->")


def test_a_changed_figure_is_put_right(tables: ModuleType) -> None:
    page = tables.PAGES[0].read_text()
    figure = re.search(r"\d[\d.]* [GM] ", tables.cpu())
    assert figure is not None
    changed = page.replace(f"| {figure[0]}|", "| 999 G |")
    assert changed != page
    assert tables.rendered(changed) == page


def test_what_a_table_shows(tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert "No counters are committed" in tables.profile()
    base = {"env_id": "tag_gridworld-v0", "observed": "partial", "num_envs": 2000, "num_agents": 5, "params": {}}
    base |= {"bytes_per_agent_step": 55.2, "microseconds_per_step": 4.76, "fraction_of_limit": 0.027}
    rows = [base | {"state": "fresh", "agent_steps_per_second": 1.5e9}, {"case": "another", "left_out": "too large"}]
    rows.append(base | {"state": "played", "agent_steps_per_second": 2.08e9})
    (tmp_path / "simulation_gpu.json").write_text(json.dumps({"results": rows}))
    assert tables.cpu().count("\n") == 1  # nothing but the header
    peer = {"system": "WarpDrive", "version": "2.7.1", "workload": "tag", "agent_steps_per_second": 104e6, "note": ""}
    silent = {"agent_steps_per_second": None, "note": "does not launch", "num_envs": 7}
    peers = [base | peer, base | peer | silent]
    (tmp_path / "peers_h200.json").write_text(json.dumps({"results": peers}))
    last = tables.simulation().splitlines()[-1]
    assert last.endswith("| 2,000 × 5 | 55 | 1.50 G (3 %) | 2.08 G (3 %) | – | 4.8 |")
    assert tables.overview().splitlines()[-1].endswith("| 2,000 × 5 | 2.08 G | 3 % | 104 M |")
    assert tables.peers().splitlines()[-2:] == [
        "| WarpDrive 2.7.1 | tag, 2,000 × 5 | 104 M | 2.08 G | 20 × |",
        "| WarpDrive 2.7.1 | tag, 7 × 5 | does not launch | – | – |",
    ]
    noted = {"provenance": {"note": "Of an earlier version."}, "results": rows}
    (tmp_path / "simulation_gpu.json").write_text(json.dumps(noted))
    for table in (tables.simulation, tables.overview, tables.peers):
        assert table().endswith("|\n\nOf an earlier version.")
