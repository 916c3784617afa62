"""The scenarios of `benchmarks.chaos` that kill, stop, fill and end a stack, in short, on keyed stacks of their own.

They come after the end of the shared stack (mark `last`, and the module's name), so that two stacks do not share the
machine. The scenarios that harm nobody run on the shared stack (`tests/e2e/test_chaos.py`). They take a quarter of an
hour, so they run only where they are asked for:
`LEARNWARE_CHAOS=1 .venv/bin/python -m pytest tests/e2e/test_whole_chaos_suite.py`.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chaos.main import main
from benchmarks.tables.chaos_table import SCENARIOS as LINES

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.extra,
    pytest.mark.last,
    pytest.mark.timeout(2_400),
    pytest.mark.skipif(not os.environ.get("LEARNWARE_CHAOS"), reason="long: LEARNWARE_CHAOS=1 asks for it"),
]

SCENARIOS = ("overload", "soak", "kills", "disk")

COUNTED = [
    pytest.param(name, line.quantity, id=f"{name}: {line.title}")
    for name in SCENARIOS
    for line in LINES[name]
    if line.quantity.aim is not None and line.quantity.aim.is_upper and line.quantity.aim.bound == 0
]
"""The aims that count what must not happen. Those of times and rates are for a quiet machine, and for the full run."""


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("chaos")
    main([*SCENARIOS, "--short", "--out", str(folder), "--json", str(folder / "chaos.json")])
    content: dict[str, Any] = json.loads((folder / "chaos.json").read_text())
    return content


def test_every_scenario_ran(result: dict[str, Any]):
    assert set(result["details"]) >= set(SCENARIOS)


@pytest.mark.parametrize(("name", "quantity"), COUNTED)
def test_what_must_not_happen_did_not(result: dict[str, Any], name: str, quantity: Any):
    assert result["figures"][quantity.figure] == 0, result["details"][name]["faults"]


def test_streams_waited_when_processes_were_killed(result: dict[str, Any]):
    assert result["figures"]["kills_least_waiting"] >= 50
