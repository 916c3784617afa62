"""Additions beside requests, on a small market: what is reported is what happened."""

import sys

import pytest

from benchmarks.common.tasks import STARTER_LEARNWARES
from benchmarks.routing import measure as routing
from benchmarks.routing.living_market import figures, measure_additions, named
from router import snapshot
from router.settings import SelectionSettings
from specs.learnware import load_learnwares
from specs.market.follower import POLL_S


@pytest.mark.slow
def test_additions_are_applied_and_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "ALWAYS_REBUILT", 12)
    starters = load_learnwares(STARTER_LEARNWARES)
    market = routing.resample(starters, 30)
    interval = sys.getswitchinterval()
    added = named(routing.resample(starters, len(starters) + 3, seed=3)[len(starters) :], "new")
    found = measure_additions(market, added, ["What is 2 + 3?", "Is $AAPL bullish?"], SelectionSettings())
    assert sys.getswitchinterval() == interval
    assert len(found.selector) == 33
    assert found.selector.changes == 0
    assert all(len(window.waits) for window in (*found.with_addition, *found.without, found.rebuilding))
    flat = figures(found, 30)
    assert flat["add_visible_s_n30"] > POLL_S
    assert flat["add_blocks_ms_n30"] >= flat["add_blocks_median_ms_n30"]
    assert {"control_blocks_ms_n30", "add_apply_s_n30", "rebuild_wait_max_ms_n30"} <= set(flat)
