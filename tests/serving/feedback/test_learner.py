"""What is learnt from pieces of feedback, over made learnwares of tasks that are clearly different."""

import base64
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from router.prospects import known_tasks, prospects
from router.selection import Selector
from router.settings import SelectionSettings
from serving.config_insight import FeedbackSettings
from serving.feedback import learner
from serving.feedback.learner import learn
from serving.feedback.pieces import LARGEST_GAIN, Gain, Piece, read_pieces
from specs.encoding.encoder import load_prompt_encoder
from specs.evidence import Posterior, Span, dump, parse
from tests.router.made_learnwares import HARMLESS, capability, learnware, probe, request, specification_of

SETTINGS = FeedbackSettings(learn=True, tenant_share=1.0, hold_above=1.0)
NOW = 1e9
DAY = 86400.0


@pytest.fixture(scope="module")
def selector() -> Selector:
    """Learnwares for recipes and spam; nobody's task are species and verdicts."""
    spam = specification_of("spam")
    made = [
        learnware("recipe", specification_of("recipe"), ["recipe"], capability({"d-recipe": probe(0.8)}, HARMLESS)),
        learnware("spam", spam, ["spam"], capability({"d-spam": probe(0.8)}, HARMLESS)),
        learnware("spam2", spam, ["spam"], capability({"d-spam": probe(0.75)}, HARMLESS)),
    ]
    return Selector(made, load_prompt_encoder(), SelectionSettings())


def vectors(task: str, count: int, first: int = 200) -> np.ndarray:
    return load_prompt_encoder().encode([request(task, first + number) for number in range(count)])


SPECIES = vectors("species", 40)


def answers(values: Mapping[str, float], some: np.ndarray = SPECIES, tenants: int = 5, age: float = 0.0) -> list[Piece]:
    """Pieces with right answers, under which learnwares gain as told."""
    return [
        Piece(
            f"tenant {number % tenants}",
            NOW - age + number,
            vector,
            gains={name: Gain(value, value >= 0) for name, value in values.items()},
            base=0.5,
        )
        for number, vector in enumerate(some)
    ]


def expected(selector: Selector, vector: np.ndarray) -> dict[str, float]:
    return dict(zip((one.id for one in selector.learnwares), selector.gains(vector).tolist(), strict=True))


def chosen(selector: Selector, some: np.ndarray) -> set[str | None]:
    return {selector.choose_embedded(vector).learnware_id for vector in some}


def test_requests_like_those_that_were_told_of_get_who_is_good_there(selector: Selector) -> None:
    fresh = vectors("species", 20, 400)
    assert chosen(selector, fresh) == {None}
    evidence = learn(answers({"spam2": 0.4, "recipe": -0.3}), selector, SETTINGS, NOW)
    (task,) = evidence.tasks
    assert (task.pieces, task.tenants) == (40, 5)
    taught = selector.taught(parse(dump(evidence)))
    assert chosen(taught, fresh) == {"spam2"}
    for task_name, own in (("recipe", {"recipe"}), ("spam", {"spam"}), ("verdict", {None})):
        some = vectors(task_name, 20, 400)
        assert chosen(selector, some) == chosen(taught, some) == own


def test_below_the_fewest_pieces_nothing_changes(selector: Selector) -> None:
    pieces = answers({"spam2": 0.9})[: SETTINGS.min_pieces - 1]
    evidence = learn(pieces, selector, SETTINGS, NOW)
    assert not evidence.tasks
    assert not evidence.posteriors
    assert learn(answers({"spam2": 0.9})[: SETTINGS.min_pieces], selector, SETTINGS, NOW).posteriors


def test_where_too_little_is_told_nothing_is_worked_out(selector: Selector, monkeypatch: pytest.MonkeyPatch) -> None:
    few = answers({"spam2": 0.9}, vectors("spam", SETTINGS.min_pieces - 1))
    monkeypatch.setattr(Selector, "gains", lambda *_: pytest.fail("of a task that feedback says nothing of"))
    assert not learn(few, selector, SETTINGS, NOW).posteriors


def test_every_learnware_with_feedback_has_a_posterior(selector: Selector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner, "MOST_POSTERIORS", 1)
    evidence = learn(answers({"spam2": 0.4, "recipe": -0.3}), selector, SETTINGS, NOW)
    assert set(evidence.posteriors[evidence.tasks[0].name]) == {"spam2", "recipe"}


def test_feedback_on_a_known_task_is_evidence_there_beside_the_probes(selector: Selector) -> None:
    some = vectors("spam", 30)
    assert set(known_tasks(selector, some)) == {"d-spam"}
    evidence = learn(answers({"spam": -0.2, "spam2": 0.4}, some), selector, SETTINGS, NOW)
    assert not evidence.tasks
    assert set(evidence.posteriors) == {"d-spam"}
    assert chosen(selector, some) == {"spam"}
    assert chosen(selector.taught(evidence), vectors("spam", 10, 500)) == {"spam2"}


def test_scores_alone_turn_away_from_who_answers_badly(selector: Selector) -> None:
    some = vectors("spam", 30)
    pieces = [Piece("t", NOW, vector, "spam", score=0.0) for vector in some]
    row = learn(pieces, selector, SETTINGS, NOW).posteriors["d-spam"]
    assert row["spam"].gain < expected(selector, some[0])["spam"] - 0.1
    good = [replace(piece, score=1.0) for piece in pieces]
    assert learn(good, selector, SETTINGS, NOW).posteriors["d-spam"]["spam"].gain > row["spam"].gain + 0.2


def test_old_pieces_are_forgotten_by_halves(selector: Selector) -> None:
    def gain(age_days: float) -> tuple[float, float]:
        found = learn(answers({"spam2": 0.4}, age=age_days * DAY), selector, SETTINGS, NOW)
        posterior = found.posteriors[found.tasks[0].name]["spam2"]
        return posterior.gain, posterior.pieces

    (new, weight), (old, less) = gain(0), gain(2 * SETTINGS.half_life_days)
    assert less == pytest.approx(weight / 4, rel=1e-3)
    assert old < new


def test_a_large_change_is_held_until_it_is_approved(selector: Selector) -> None:
    strict = SETTINGS.model_copy(update={"hold_above": 0.1})
    evidence = learn(answers({"spam2": 0.6, "spam": 0.3}), selector, strict, NOW)
    (task,) = evidence.tasks
    row = evidence.posteriors[task.name]
    assert {one.learnware for one in evidence.held} == {"spam", "spam2"}
    assert row["spam2"].gain == pytest.approx(0.1)
    assert 0 < row["spam"].gain < row["spam2"].gain  # in part, in the same order
    approved = evidence.approving(evidence.held, 2, NOW)
    again = learn(answers({"spam2": 0.6, "spam": 0.3}), selector, strict, NOW, approved)
    assert again.held == ()
    assert again.posteriors[task.name]["spam2"].gain > 0.4


def test_an_approval_ends_with_the_version_that_it_was_given_for(selector: Selector) -> None:
    strict = SETTINGS.model_copy(update={"hold_above": 0.1})
    pieces = answers({"spam2": 0.6})
    evidence = learn(pieces, selector, strict, NOW, versions={"spam2": "spam2@1"})
    approved = evidence.approving(evidence.held, 2, NOW)

    def held(version: str) -> list[str]:
        return [one.learnware for one in learn(pieces, selector, strict, NOW, approved, {"spam2": version}).held]

    assert held("spam2@1") == []
    assert held("spam2@2") == ["spam2"]


def test_many_small_steps_are_no_way_around_approval(selector: Selector) -> None:
    strict = SETTINGS.model_copy(update={"hold_above": 0.1})
    evidence = None
    for step in range(1, 7):
        evidence = learn(answers({"spam2": 0.1 * step}), selector, strict, NOW, evidence)
    assert evidence is not None
    assert evidence.posteriors[evidence.tasks[0].name]["spam2"].gain == pytest.approx(0.1)


def test_a_learnt_task_keeps_its_name_as_it_grows(selector: Selector) -> None:
    first = learn(answers({"spam2": 0.4})[:20], selector, SETTINGS, NOW)
    second = learn(answers({"spam2": 0.4}), selector, SETTINGS, NOW, first)
    both = answers({"spam2": 0.4}) + answers({"recipe": 0.4}, vectors("verdict", 50))
    third = learn(both, selector, SETTINGS, NOW, second)
    assert [one.name for one in first.tasks] == [one.name for one in second.tasks]
    assert len(third.tasks) == 2
    assert first.tasks[0].name in {one.name for one in third.tasks}
    assert (first.number, third.number) == (1, 3)


def test_pieces_on_another_version_say_nothing_of_the_one_that_is_served(selector: Selector) -> None:
    pieces = [replace(one, gains={"spam2": Gain(0.5, True, "spam2@old")}) for one in answers({"spam2": 0.5})]

    def told(served: str) -> Posterior:
        evidence = learn(pieces, selector, SETTINGS, NOW, versions={"spam2": served})
        return evidence.posteriors[evidence.tasks[0].name]["spam2"]

    assert told("spam2@old").gain > 0.4
    assert told("spam2@new").gain < 0.05
    assert told("spam2@new").pieces == 0


def test_what_was_set_aside_is_not_learnt_again(selector: Selector) -> None:
    before = replace(learn([], selector, SETTINGS, NOW), set_aside=(Span(NOW - 1, NOW + 1000),))
    after = learn(answers({"spam2": 0.5}), selector, SETTINGS, NOW, before)
    assert not after.posteriors
    assert after.set_aside == before.set_aside


def test_one_tenant_of_ten_that_tells_the_opposite_turns_no_choice(selector: Selector) -> None:
    honest = answers({"spam2": 0.4, "spam": 0.1}, tenants=10)
    lying = [
        replace(one, gains={name: Gain(-gain.value, False) for name, gain in one.gains.items()})
        if one.tenant == "tenant 3"
        else one
        for one in honest
    ]
    fresh = vectors("species", 20, 400)
    for pieces in (honest, lying):
        assert chosen(selector.taught(learn(pieces, selector, SETTINGS, NOW)), fresh) == {"spam2"}


def test_the_same_pieces_in_another_order_give_the_same_evidence(selector: Selector) -> None:
    pieces = answers({"spam2": 0.4}) + answers({"spam": 0.2}, vectors("verdict", 10))
    assert dump(learn(pieces, selector, SETTINGS, NOW)) == dump(learn(pieces[::-1], selector, SETTINGS, NOW))


def test_those_near_are_asked_about_beside_those_of_whom_much_is_expected(selector: Selector) -> None:
    found = prospects(selector, SPECIES)
    assert set(found.likeliest(12)) == {"recipe", "spam", "spam2"}
    assert len(found.likeliest(2)) == 2


def record(**changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    vector = base64.b64encode(np.ones(4, "<f2").tobytes()).decode()
    whole: dict[str, Any] = {
        "id": "r1",
        "tenant": "t",
        "learnware": "spam",
        "version": "spam@1",
        "vectors": {"encoder": "f", "vector": vector, "form": None},
        "time": 5.0,
        "label": "right",
    }
    whole |= changes
    told = {key: whole.pop(key) for key in ("time", "label", "score", "measured") if key in whole}
    return whole, told


def cases() -> Iterator[Any]:
    measured = {"base": {"right": False, "gold": -3.0, "among": 0.1}, "spam": {"right": 1, "gold": -1.0, "among": 0.4}}
    yield pytest.param(record(), 1.0, {}, id="label")
    yield pytest.param(record(label=None, score=0.25), 0.25, {}, id="score")
    yield pytest.param(record(label=None, measured=measured), None, {"spam": 0.7}, id="answer")
    named = {name: one | {"choices": 3} for name, one in measured.items()}
    yield pytest.param(record(label=None, measured=named), None, {"spam": 0.3}, id="answer among choices")
    far = measured | {"spam": {"right": 1, "gold": 30.0, "among": 0.9}}
    yield pytest.param(record(label=None, measured=far), None, {"spam": LARGEST_GAIN}, id="bounded")


@pytest.mark.parametrize(("row", "score", "gains"), list(cases()))
def test_records_are_read_as_pieces(row: tuple[dict[str, Any], dict[str, Any]], score: Any, gains: Any) -> None:
    (piece,) = read_pieces([row], "f")
    assert (piece.tenant, piece.learnware, piece.version, piece.score) == ("t", "spam", "spam@1", score)
    assert {name: gain.value for name, gain in piece.gains.items()} == pytest.approx(gains)
    assert piece.base == (0.1 if gains else None)


def test_a_score_of_the_base_model_is_its_own_though_records_name_it() -> None:
    (piece,) = read_pieces([record(learnware="base-8b", version=None)], "f")
    assert (piece.learnware, piece.version, piece.score) == (None, "", 1.0)


def test_of_several_on_one_request_the_last_counts() -> None:
    rows = [record(time=1.0), record(time=9.0, label="wrong"), record(time=3.0), record(id="r2")]
    assert [piece.score for piece in read_pieces(rows, "f")] == [0.0, 1.0]


@pytest.mark.parametrize(
    "row",
    [
        record(vectors=None),
        record(vectors={"encoder": "g", "vector": "", "form": None}),
        record(vectors={"encoder": "f", "vector": "?", "form": None}),
        record(label=None),
        record(score="much", label=None),
        record(measured={"spam": {"right": 1, "gold": 0, "among": 0}}),
        record(time="noon"),
        record(learnware=None, version=None),
        record(learnware="spam@canary", version="spam@canary@2"),
    ],
    ids=["no vector", "encoder", "damaged", "silent", "text", "no base", "time", "nobody answered", "canary"],
)
def test_records_that_say_nothing_are_left_out(row: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assert read_pieces([row], "f") == []
