"""`learnware-serving evaluations`, against answers that the test plays."""

import json
from typing import Any, Self

import pytest

from serving.cli import evaluations as module
from serving.cli.main import main

CANARY = "finance/x (finance/x@canary@abc)"
FOUND: dict[str, Any] = {
    "object": "evaluations",
    "since": 1000.0,
    "pairs": [
        {
            "first": "finance/x",
            "second": "base",
            "kind": "shadow",
            "source": "judge",
            "comparisons": 4,
            "wins": 2,
            "ties": 1,
            "losses": 1,
            "win_rate": 0.625,
            "interval": [0.25, 0.9],
        }
    ],
    "canaries": [
        {
            "learnware": "finance/x",
            "version": "finance/x@canary@abc",
            "share": 0.05,
            "since": 0.0,
            "answers": 70,
            "state": "running",
            "verdict": "waiting",
            "why": "That does not tell yet.",
        }
    ],
    "judge": None,
    "waiting": 3,
    "failed": 1,
}


class Stack:
    def __init__(self, found: dict[str, Any]) -> None:
        self.found = found
        self.asked: list[tuple[str, str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(self, method: str, path: str, params: Any) -> str:
        self.asked.append((method, path, params))
        return json.dumps(self.found)


def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stack: Stack, *options: str) -> list[str]:
    monkeypatch.setattr(module, "stack_of", lambda _: stack)
    assert main(["evaluations", *options]) == 0
    return capsys.readouterr().out.splitlines()


def test_pairs_and_canaries_in_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    stack = Stack(FOUND)
    assert said(monkeypatch, capsys, stack, "--learnware", "finance/x", "--after", "1970-01-01T00:00:10+00:00") == [
        "base over finance/x (shadow, judge): wins 62.5% (25.0% to 90.0%) of 4: 2 wins, 1 ties, 1 losses",
        f"canary of {CANARY}, 5.0% since 1970-01-01T00:00:00Z, 70 answers: running, waiting. That does not tell yet.",
        "judge: none; 3 comparisons wait, 1 got no verdict",
    ]
    assert stack.asked == [("GET", "/v1/evaluations", {"learnware": "finance/x", "after": "10.000000"})]


def test_what_a_tenant_is_not_told_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    canary = {**FOUND["canaries"][0], "answers": None, "why": None}
    lines = said(monkeypatch, capsys, Stack({**FOUND, "pairs": [], "canaries": [canary]}))
    assert lines[0].endswith("since 1970-01-01T00:00:00Z: running, waiting")


def test_nothing_compared_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    empty = {**FOUND, "pairs": [], "canaries": [], "judge": "a-judge"}
    assert said(monkeypatch, capsys, Stack(empty))[:1] == ["no answers were compared"]
    assert json.loads(said(monkeypatch, capsys, Stack(empty), "--json")[0]) == empty
