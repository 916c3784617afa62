"""The suite goes on where it was cut, shares a stack among those that ask for the same, and fails on a missed aim."""

import json
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.chaos import main as suite
from benchmarks.chaos.figures import Findings
from benchmarks.chaos.main import Kept, Scenario, main, summarise
from benchmarks.chaos.target import Setting, Target
from benchmarks.tables.cells import Results
from benchmarks.tables.chaos_table import SCENARIOS as LINES, chaos

GOOD = Findings({"malformed_5xx": 0.0, "malformed_unanswered": 0.0, "malformed_good_failed": 0.0}, {}, [], {"seed": 1})
BAD = GOOD._replace(figures=GOOD.figures | {"malformed_5xx": 2.0}, faults=["/v1/completions: 500"])


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happened: the starts of stacks and the scenarios that ran."""
    events: list[str] = []

    @contextmanager
    def running(setting: Setting, scratch: Path, *, with_keys: bool, logs: Path):
        events.append(f"start {dict(setting.limits)}")
        yield Target("http://127.0.0.1:1", replicas=2), None
        events.append("stop")

    def scenario(name: str, setting: Setting | None = Setting(), ends_stack: bool = False) -> Scenario:  # noqa: B008
        def run(*_: object, **__: object) -> Findings:
            events.append(name)
            return GOOD

        return Scenario(name, run, setting, ends_stack)

    monkeypatch.setattr(suite, "running", running)
    monkeypatch.setattr(suite, "wait_until_whole", lambda *_: 0.0)
    names = [
        scenario("malformed"),
        scenario("cancelled"),
        scenario("soak", ends_stack=True),
        scenario("kills", Setting(limits=(("max_waiting", 9),))),
        scenario("disk", None),
    ]
    monkeypatch.setattr(suite, "SCENARIOS", names)
    return events


def test_a_stack_is_shared_by_those_that_ask_for_the_same(started: list[str], tmp_path: Path):
    main(["--short", "--out", str(tmp_path)])
    assert started == [
        *("start {}", "malformed", "cancelled", "soak", "stop"),
        *("start {'max_waiting': 9}", "kills", "stop"),
        "disk",
    ]


def test_what_is_finished_is_not_run_again(started: list[str], tmp_path: Path):
    assert main(["malformed", "--out", str(tmp_path)]) == 0
    assert "malformed" in started
    started.clear()
    assert main(["malformed", "--out", str(tmp_path), "--json", str(tmp_path / "chaos.json")]) == 0
    assert started == []
    content = json.loads((tmp_path / "chaos.json").read_text())
    assert content["figures"]["malformed_5xx"] == 0
    assert content["details"]["malformed"]["seed"] == 1


def test_a_short_result_is_not_taken_for_a_full_one(started: list[str], tmp_path: Path):
    main(["malformed", "--short", "--out", str(tmp_path)])
    started.clear()
    main(["malformed", "--out", str(tmp_path)])
    assert "malformed" in started


def test_an_aim_that_is_missed_is_the_exit_status(started: list[str], tmp_path: Path, capsys):
    Kept(tmp_path / "full").write("malformed", BAD)
    assert main(["malformed", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "fault: /v1/completions: 500" in said
    assert "missed: malformed_5xx" in said


def test_a_figure_that_is_missing_is_a_miss():
    assert summarise({"malformed": GOOD._replace(figures={})})[4] == list(GOOD.figures)


def test_a_figure_that_is_no_number_is_left_out_and_is_a_miss():
    findings = Findings({"door_ttft_p99_ratio": float("nan"), "door_others_failed": 0.0}, {}, [], {})
    figures, _, _, _, missed = summarise({"door": findings})
    assert figures == {"door_others_failed": 0.0}
    assert missed == ["door_ttft_p99_ratio"]


@pytest.mark.parametrize("url", ["http://example.org:80", "http://127.0.0.1", "https://127.0.0.1:80"])
def test_only_loopback_is_attacked(url: str, capsys):
    with pytest.raises(SystemExit):
        main(["--url", url])
    assert "loopback" in capsys.readouterr().err


def test_an_unknown_scenario_is_refused_with_the_names(capsys):
    with pytest.raises(SystemExit):
        main(["kill"])
    assert "overload" in capsys.readouterr().err


def test_every_scenario_has_lines_in_the_table():
    assert {one.name for one in suite.SCENARIOS} == set(LINES)


def test_the_table_shows_figures_with_their_aims_once_there_are_some(tmp_path: Path):
    assert "Not measured yet" in chaos(Results(tmp_path)).markdown()
    content = {
        "figures": {"door_ttft_p99_ratio": 1.5},
        "setup": {"cpu": "a CPU", "cores": 2, "revision": "abc"},
        "details": {"intervals_95": {"door_ttft_p99_ratio": [1.2, 1.9]}},
    }
    (tmp_path / "chaos.json").write_text(json.dumps(content), encoding="utf-8")
    made = chaos(Results(tmp_path)).markdown()
    assert "| 1.50 (1.20 to 1.90) | ≤ 1.2 ✗ |" in made
    assert "(a CPU, 2 cores; revision abc)" in made
