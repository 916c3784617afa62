"""The log of decisions becomes evidence in the market's folder, and an operator's command shows and changes it."""

import base64
import pickle
from pathlib import Path
from typing import Any

import pytest

from router import snapshot
from router.evidence_follower import EvidenceFollower
from router.settings import SelectionSettings
from serving.cli.main import main
from serving.config_insight import FeedbackSettings
from serving.feedback import teacher as module
from serving.feedback.description import describe_evidence
from serving.feedback.teacher import Teacher
from specs.encoding.encoder import load_prompt_encoder
from specs.evidence import Evidence
from specs.evidence_store import FOLDER, EvidenceStore
from specs.market.catalogue import Catalogue, Entry

STARTERS = Path(__file__).parents[3] / "serving" / "starter_learnwares"
NAMES = ("finance-tfns", "healthcare-pubmedqa")
ENTRIES = tuple(Entry(name, 1, f"{number}" * 64, STARTERS / name) for number, name in enumerate(NAMES, start=1))


def rows(count: int, label: str = "wrong") -> list[tuple[dict[str, Any], dict[str, Any]]]:
    encoder = load_prompt_encoder()
    texts = [
        f"Which bird sings this song? Answer with its name.\nIt has {n} notes and ends high." for n in range(count)
    ]
    return [
        (
            {
                "id": f"r{number}",
                "tenant": f"t{number % 4}",
                "learnware": "base-8b",
                "version": None,
                "vectors": {
                    "encoder": encoder.fingerprint,
                    "vector": base64.b64encode(vector.astype("<f2").tobytes()).decode(),
                    "form": None,
                },
            },
            {"seq": number, "time": 100.0 + number, "label": label, "tenant": f"t{number % 4}"},
        )
        for number, vector in enumerate(encoder.encode(texts))
    ]


@pytest.fixture
def teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Teacher:
    monkeypatch.setattr(module, "read_catalogue", lambda _root: Catalogue(7, ENTRIES))
    settings = FeedbackSettings(learn=True, hold_above=0.05)
    return Teacher(tmp_path, settings, SelectionSettings(), lambda: 1000.0)


def test_evidence_is_published_once_for_the_same_feedback(teacher: Teacher, tmp_path: Path) -> None:
    assert teacher.learn([]) is None
    found = teacher.learn(rows(12))
    assert found is not None
    assert found.number == 1
    assert [task.pieces for task in found.tasks] == [12]
    assert found.tasks[0].base < 0.4  # it was told wrong every time
    assert teacher.learn(rows(12)) is None
    again = teacher.learn(rows(13))
    assert again is not None
    assert again.number == 2
    taught: list[Evidence] = []
    follower = EvidenceFollower(tmp_path, taught.append)
    follower.look()
    follower.look()
    assert [one.number for one in taught] == [2]


def test_what_an_operator_changes_meanwhile_is_not_written_over(teacher: Teacher, tmp_path: Path) -> None:
    first = teacher.learn(rows(12))
    assert first is not None
    store = EvidenceStore(tmp_path / FOLDER)

    real = module.learn

    def slow(*arguments: Any) -> Evidence:
        store.roll_back(1, 2000.0)
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "learn", slow)
        assert teacher.learn(rows(14)) is None
    assert store.numbers() == [1, 2]
    later = teacher.learn(rows(14))
    assert later is not None
    assert later.set_aside  # and what was set aside is not learnt again


def test_the_command_shows_approves_and_goes_back(
    teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("serving.cli.feedback._store", lambda _options: EvidenceStore(tmp_path / FOLDER))
    assert main(["feedback", "show"]) == 0
    assert "nothing was learnt" in capsys.readouterr().out
    found = teacher.learn(rows(40))
    assert found is not None
    assert found.held
    held = found.held[0]
    assert main(["feedback", "show"]) == 0
    said = capsys.readouterr().out
    assert f"held: {held.learnware} on {held.task}" in said
    assert "40 pieces of 4 tenants" in said
    assert describe_evidence(tmp_path, held.learnware)["held"][0]["task"] == held.task
    assert main(["feedback", "approve", "--learnware", held.learnware]) == 0
    assert describe_evidence(tmp_path, held.learnware)["held"] == []
    assert main(["feedback", "approve", "--learnware", held.learnware]) == 1
    assert "no such change is held" in capsys.readouterr().err
    assert main(["feedback", "roll-back", "1"]) == 0
    assert describe_evidence(tmp_path, held.learnware)["number"] == 3
    assert len(describe_evidence(tmp_path, held.learnware)["held"]) == 1


def test_a_market_that_grows_is_learnt_over_again_and_what_cannot_be_read_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = Entry("gone", 1, "9" * 64, tmp_path / "gone")
    state = [Catalogue(1, (missing,))]
    monkeypatch.setattr(module, "read_catalogue", lambda _root: state[0])
    seen: list[tuple[set[str], set[str]]] = []

    def learn(_pieces: Any, selector: Any, *rest: Any) -> Evidence:
        seen.append(({one.id for one in selector.learnwares}, set(rest[-1])))
        return Evidence(0, 1000.0, "f")

    monkeypatch.setattr(module, "learn", learn)
    loaded: list[str] = []
    load = snapshot.load_for_selection
    monkeypatch.setattr(snapshot, "load_for_selection", lambda entry: loaded.append(entry.id) or load(entry))
    teacher = Teacher(tmp_path, FeedbackSettings(learn=True), SelectionSettings(), lambda: 1000.0)
    assert teacher.learn(rows(6)) is None  # nothing to choose from
    state[0] = Catalogue(2, (*ENTRIES[:1], missing))
    assert teacher.learn(rows(6)) is not None
    state[0] = Catalogue(3, (*ENTRIES, missing))
    assert teacher.learn(rows(6)) is not None
    assert [names for names, _ in seen] == [set(NAMES[:1]), set(NAMES)]
    assert all(names == versions for names, versions in seen)
    assert [one for one in loaded if one != "gone"] == list(NAMES)  # each is read once


def test_where_no_learnware_passes_the_filter_nothing_is_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "read_catalogue", lambda _root: Catalogue(7, ENTRIES))
    selection = SelectionSettings(languages=("tlh",))
    assert Teacher(tmp_path, FeedbackSettings(learn=True), selection, lambda: 1000.0).learn(rows(6)) is None


def test_it_can_be_sent_to_the_process_that_learns(tmp_path: Path) -> None:
    sent = pickle.loads(pickle.dumps(Teacher(tmp_path, FeedbackSettings(learn=True), SelectionSettings())))
    assert isinstance(sent, Teacher)
