"""What the selection benchmarks compute, on small known cases; and their figures where the task data is there."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.common.cases import Case, said
from benchmarks.common.scores import TaskScores, evaluate, read_scores
from benchmarks.common.tasks import STARTER_LEARNWARES, data_folder, read_prompts, read_questions, task_of
from benchmarks.routing import measure as routing
from benchmarks.selection import evaluate as selection
from router.index.index import SpecificationIndex
from specs.errors import InvalidInput
from specs.learnware import load_learnwares


def bits(text: str) -> np.ndarray:
    return np.array([bit == "1" for bit in text])


MATRIX = {
    "a-one": TaskScores([0, 1, 2, 3], {"base": bits("1000"), "a-one": bits("1110"), "b-two": bits("0001")}, {}, {}),
    "b-two": TaskScores([0, 2, 4, 6], {"base": bits("1100"), "a-one": bits("0000"), "b-two": bits("1111")}, {}, {}),
}

GOLD = {"base": [-0.5, -2.0], "a-one": [-0.25, -1.0]}


def test_routed_scores_take_each_row_from_the_chosen_system() -> None:
    routed = {"a-one": ["a-one", None, "a-one", "b-two"], "b-two": [None, "x", "b-two", "x", "a-one", "x", "b-two"]}
    scores = evaluate(MATRIX, routed)
    assert scores.by_task["a-one"]["routed"] == 0.75
    assert scores.by_task["b-two"]["routed"] == 0.75
    assert scores.base == pytest.approx((0.25 + 0.5) / 2)


def test_the_oracle_is_chosen_on_the_other_half() -> None:
    scores = evaluate(MATRIX, {"a-one": ["a-one"] * 4, "b-two": ["b-two"] * 7})
    # Task a-one: on even rows a-one is best (2 of 2); on odd rows it has 1 of 2, as b-two has, and comes first.
    assert scores.by_task["a-one"]["oracle"] == 0.75
    assert scores.by_task["b-two"]["oracle"] == 1.0
    # The best single learnware is a-one by the even rows (a tie, by name) and b-two by the odd ones.
    assert scores.best_single_id == "a-one / b-two"
    assert scores.best_single == pytest.approx((1 / 4 + 2 / 4) / 2)


def test_a_matrix_reads_back(tmp_path: Path) -> None:
    gold = {name: base64.b64encode(np.array(values, "<f2").tobytes()).decode() for name, values in GOLD.items()}
    entry = {"rows": [0, 2], "right": {"base": "01", "a-one": "11"}, "gold": gold, "among": gold}
    path = tmp_path / "matrix.json"
    path.write_text(json.dumps({"tasks": {"a-one": entry}}))
    scores = read_scores(path)["a-one"]
    assert scores.rows == [0, 2]
    assert {name: list(right) for name, right in scores.right.items()} == {"base": [False, True], "a-one": [True, True]}
    assert {name: list(values) for name, values in scores.gold.items()} == GOLD


def test_a_file_that_is_no_matrix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="not a score matrix"):
        read_scores(tmp_path / "nothing.json")
    path = tmp_path / "short.json"
    entry = {"rows": [0, 2, 4], "right": {"base": "01"}, "gold": {"base": "AAAAAA=="}, "among": {"base": "AAAAAA=="}}
    path.write_text(json.dumps({"tasks": {"a-one": entry}}))
    with pytest.raises(InvalidInput, match="base has 2 scores for 3 rows"):
        read_scores(path)


def test_resampled_learnwares_are_distinct() -> None:
    made = routing.resample(load_learnwares(STARTER_LEARNWARES), 40)
    assert len({learnware.id for learnware in made}) == 40
    first_points = {learnware.specification.views[0].points[0].tobytes() for learnware in made}
    assert len(first_points) == 40
    norms = np.linalg.norm(made[-1].specification.views[0].points.astype(np.float32), axis=1)
    assert norms == pytest.approx(np.ones(len(norms)), abs=1e-2)


def test_recall_counts_misses() -> None:
    sets = [(np.full((1, 2), float(place), np.float32), np.ones(1)) for place in range(4)]

    class Wrong(SpecificationIndex):
        def search(self, x, top):  # type: ignore[no-untyped-def]
            return super().search(-x, top)

    probes = np.array([[0.1, 0.0], [3.0, 3.0]], np.float32)
    assert routing.recall(SpecificationIndex(sets, 1.0), probes) == 1.0
    assert routing.recall(Wrong(sets, 1.0), probes) == 0.5


@pytest.mark.slow
def test_routing_is_measured_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "SHORT_ROUNDS", 60)
    monkeypatch.setattr(routing, "SHORT_PROBES", 40)
    assert routing.main(["--counts", "12", "40", "--short", "--json", str(tmp_path / "routing.json")]) == 0
    figures = json.loads((tmp_path / "routing.json").read_text())["figures"]
    assert figures["index_recall_n40"] == 1.0
    assert 0 < figures["route_p50_ms_n12"] <= figures["route_p99_ms_n12"]
    assert 0 < figures["route_new_ask_cpu_p50_ms"] <= figures["route_new_ask_cpu_p99_ms"]
    assert figures["route_new_ask_cpu_p50_ms"] > figures["route_cpu_p50_ms_n12"]
    assert "recall@1" in capsys.readouterr().out


def test_there_are_sixty_questions_a_domain_and_none_twice() -> None:
    asked = [read_questions(name) for name in ("finance", "healthcare", "mathematics", "general")]
    assert min(map(len, asked)) >= 60
    together = [text for questions in asked for text in questions]
    assert len(set(together)) == len(together)


def test_without_data_the_benchmark_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    defaults = {"data": None, "learnwares": STARTER_LEARNWARES}
    monkeypatch.setattr(selection, "add_data_option", lambda parser: parser.set_defaults(**defaults))
    assert selection.main([]) == 2
    assert "LEARNWARE_DATA" in capsys.readouterr().err


@pytest.mark.skipif(data_folder() is None, reason="needs the task data: LEARNWARE_DATA=folder")
def test_tasks_are_read_by_learnware_id() -> None:
    data = data_folder()
    assert data is not None
    prompts = read_prompts(data, task_of("finance-tfns"), "test", 3)
    assert len(prompts.whole) == len(prompts.bare) == 3
    assert all(bare and bare in whole for whole, bare in zip(prompts.whole, prompts.bare, strict=True))
    with pytest.raises(InvalidInput, match=r"nothing\.test\.jsonl"):
        read_prompts(data, "finance/nothing", "test")


@pytest.mark.slow
@pytest.mark.skipif(data_folder() is None, reason="needs the task data: LEARNWARE_DATA=folder")
def test_what_is_reported_is_what_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """End to end on a few cases, the two rules that need none among them."""
    data = data_folder()
    assert data is not None
    rows = read_prompts(data, "finance/tfns", "test", 3).whole
    cases = [Case("whole", said(row), "finance-tfns", "finance", "finance-tfns") for row in rows]
    cases.append(Case("everyday", said("Write a poem about autumn."), None, "general", "our own"))
    monkeypatch.setattr(selection, "make_cases", lambda *_: cases)
    monkeypatch.setattr(selection, "TIMED_QUESTIONS", 4)
    monkeypatch.setattr(selection, "with_parts_off", lambda *_: iter(()))  # tested with the rules
    out = tmp_path / "selection.json"
    assert selection.main(["--data", str(data), "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["figures"]["task_accuracy"] == 1.0
    assert found["figures"]["everyday_to_base"] == 1.0
    assert found["details"]["rules"]["always base"]["task_accuracy"] == 0.0
    assert found["details"]["rules"]["by domain alone"]["everyday_to_base"] == 0.0
    assert found["setup"]["half"] == "report"
    assert "by domain alone" in capsys.readouterr().out


def test_scores_need_every_test_row(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert selection.main(["--data", str(tmp_path), "--scores", "matrix.json", "--short"]) == 1
    assert "leave --short out" in capsys.readouterr().err
