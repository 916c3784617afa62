"""Evidence as a file: what is written is read back, and what is impossible is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from specs import safetensors_file
from specs.errors import InvalidInput
from specs.evidence import MAX_BYTES, Change, Evidence, LearntTask, Posterior, Span, dump, parse
from specs.evidence_store import KEPT, EvidenceStore
from specs.rkme import ReducedSet

REDUCED = ReducedSet(np.array([[1.0, 0.0], [0.0, 1.0]], np.float32), np.array([0.25, 0.75]))
HELD = Change("learnt:ab", "two", 0.1, Posterior(0.6, 0.9, 12.0, "two@1"))
EVIDENCE = Evidence(
    3,
    1000.0,
    "fingerprint",
    (LearntTask("learnt:ab", REDUCED, 0.4, 17, 5),),
    {"learnt:ab": {"one": Posterior(0.2, 0.8, 12.5, "one@1"), "two": Posterior(0.1, 0.7)}, "d-x": {}},
    (HELD,),
    {"d-x": {"one": Posterior(0.3, 0.9, 7.0, "one@1")}},
    (Span(10.0, 20.0),),
)


def test_evidence_is_read_back_as_it_was_written() -> None:
    again = parse(dump(EVIDENCE))
    assert replace(again, tasks=()) == replace(EVIDENCE, tasks=())
    (task,) = again.tasks
    assert (task.name, task.base, task.pieces, task.tenants) == ("learnt:ab", 0.4, 17, 5)
    assert np.array_equal(task.reduced.points, REDUCED.points)
    assert task.reduced.weights == pytest.approx(REDUCED.weights)
    assert dump(again) == dump(EVIDENCE)


def test_evidence_without_learnt_tasks_is_a_file_as_well() -> None:
    assert parse(dump(Evidence(1, 2.0, "f"))) == Evidence(1, 2.0, "f")


def changed(**values: object) -> bytes:
    tensors, description = safetensors_file.parse(dump(EVIDENCE))
    return safetensors_file.dump(tensors, json.loads(json.dumps(description)) | values)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no whole file"),
        (dump(EVIDENCE)[:-5], "no whole file"),
        (changed(format=2), "format 2"),
        (changed(made="noon"), "noon"),
        (changed(made=float("inf")), "no whole file"),
        (changed(tasks=[{"name": "d-x", "base": 0, "pieces": 1, "tenants": 1}]), "d-x"),
        (changed(tasks=[{"name": "learnt:ab", "base": 0, "pieces": 1, "tenants": 1}] * 2), "name of its own"),
        (changed(posteriors={"d-x": {"one": [0.1]}}), "no whole file"),
        (changed(approved={"d-x": {"one": 0.1}}), "no whole file"),
        (b"x" * (MAX_BYTES + 1), "at most"),
    ],
    ids=["empty", "cut", "format", "text", "infinite", "name", "twice", "short", "approved", "large"],
)
def test_a_file_that_is_not_whole_is_refused_in_words(content: bytes, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        parse(content)


def test_points_that_are_not_finite_are_refused() -> None:
    tensors, description = safetensors_file.parse(dump(EVIDENCE))
    tensors["learnt:ab.points"][0, 0] = np.nan
    with pytest.raises(InvalidInput, match="finite points"):
        parse(safetensors_file.dump(tensors, description))


def test_a_new_version_of_a_learnware_starts_from_its_probes() -> None:
    other = EVIDENCE.of_versions({"one": "one@2", "two": "two@1"})
    assert set(other.posteriors["learnt:ab"]) == {"two"}
    assert other.approved == {"d-x": {}}
    same = EVIDENCE.of_versions({"one": "one@1"})
    assert set(same.posteriors["learnt:ab"]) == {"one", "two"}
    assert same.approved == EVIDENCE.approved


def test_an_approved_change_is_in_effect_and_later_ones_are_measured_from_it() -> None:
    approved = EVIDENCE.approving([HELD], 4, 2000.0)
    assert approved.posteriors["learnt:ab"]["two"] == HELD.after
    assert approved.approved["learnt:ab"] == {"two": HELD.after}
    assert approved.held == ()
    assert EVIDENCE.posteriors["learnt:ab"]["two"].gain == 0.1  # nothing is changed in place
    with pytest.raises(InvalidInput, match="no change of two"):
        approved.approving([HELD], 5, 3000.0)


def test_the_newest_version_counts_and_only_the_last_ones_are_kept(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path / "evidence")
    assert store.read() is None
    for _ in range(KEPT + 3):
        written = store.write(Evidence(0, 5.0, "f"))
        assert written is not None
    assert written.number == KEPT + 3
    assert store.read() == written
    assert store.numbers() == list(range(4, KEPT + 4))
    with pytest.raises(InvalidInput, match="no evidence of number 1; there are: 4, 5"):
        store.read(1)


def test_rolling_back_sets_aside_what_came_since(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path)
    store.write(replace(EVIDENCE, made=100.0))
    store.write(Evidence(0, 200.0, "f", set_aside=(Span(1.0, 2.0),)))
    back = store.roll_back(1, 300.0)
    assert back.number == 3
    assert back.posteriors == EVIDENCE.posteriors
    assert set(back.set_aside) == {Span(10.0, 20.0), Span(1.0, 2.0), Span(100.0, 300.0)}
    assert store.read() is not None
    assert store.read().set_aside == back.set_aside  # type: ignore[union-attr]
    with pytest.raises(InvalidInput, match="no evidence of number 9"):
        store.roll_back(9, 400.0)


def test_evidence_made_from_another_version_than_the_newest_is_not_written(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path)
    assert store.write(EVIDENCE, 0) is not None
    assert store.write(EVIDENCE, 0) is None
    assert store.numbers() == [1]
    assert store.write(EVIDENCE, 1) is not None


def test_an_operator_approves_what_is_held_by_task_or_learnware(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path)
    with pytest.raises(InvalidInput, match="there are: none"):
        store.approve(None, None, 10.0)
    store.write(EVIDENCE)
    with pytest.raises(InvalidInput, match="there are: two on learnt:ab"):
        store.approve("d-x", None, 10.0)
    assert store.approve(None, "two", 2000.0) == [HELD]
    newest = store.read()
    assert newest is not None
    assert (newest.number, newest.held) == (2, ())
    assert newest.posteriors["learnt:ab"]["two"].gain == 0.6
