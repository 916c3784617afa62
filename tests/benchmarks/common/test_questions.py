"""The hand-made evaluation sets: whole, balanced, and true to the data that they were made from."""

import json
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.common import questions as questions_sets
from benchmarks.common.questions import (
    FreeText,
    Labelling,
    Material,
    Wording,
    half_of,
    lower_case,
    material_of,
    prompt_hash,
    read_follow_ups,
    read_free_questions,
    read_harm_prompts,
    read_other_asks,
    read_rewordings,
    read_system_prompts,
    read_users_labels,
    read_users_questions,
    read_wrappers,
    three_typos,
)
from benchmarks.common.tasks import STARTER_LEARNWARES, data_folder, read_prompts, task_of
from specs.errors import InvalidInput

LABELLING = frozenset(Labelling.__args__)
FREE_TEXT = frozenset(FreeText.__args__)
HALVES = ("tune", "report")


def counts(rows: list) -> Counter:
    return Counter(row.half for row in rows)


def test_labelling_starters_are_in_the_project() -> None:
    assert {folder.name for folder in STARTER_LEARNWARES.iterdir() if folder.is_dir()} >= LABELLING


def test_labels_of_users_cover_enough_and_state_their_rule() -> None:
    given = read_users_labels()
    assert len(given.rule) >= 3
    assert len(given.labels) >= 300
    assert Counter(label.set for label in given.labels.values()) == {
        "liveqa_medical": 53,
        "medication_qa": 157,
        "arena_hard_math": 134,
        "alignbench_math_zh": 47,
        "financebench_question": 72,
        "strategyqa": 30,
        "arena_hard_creative": 30,
        "fiqa_questions": 120,
    }


def test_a_starter_is_asked_for_in_its_own_domain() -> None:
    for row in [*read_users_labels().labels.values(), *read_free_questions()]:
        assert row.asks == "none" or row.asks.startswith(f"{row.domain}-"), row


def test_questions_in_another_language_ask_for_no_starter_that_answers_in_english() -> None:
    for label in read_users_labels().labels.values():
        assert label.language is None or label.asks not in FREE_TEXT
        assert label.in_english is None or (label.language and label.asks == "none")


def test_own_and_users_questions_give_each_free_text_starter_enough() -> None:
    own = read_free_questions()
    asked = Counter(label.asks for label in read_users_labels().labels.values()) + Counter(row.asks for row in own)
    assert all(asked[starter] >= 45 for starter in FREE_TEXT), asked
    by_half = Counter((row.asks, row.half) for row in own)
    assert all(by_half[starter, half] >= 15 for starter in FREE_TEXT for half in HALVES), by_half
    assert sum(by_half["none", half] for half in HALVES) >= 150


def test_halves_of_single_questions_follow_their_hash() -> None:
    for row in [*read_free_questions(), *read_harm_prompts()]:
        assert row.half == half_of(row.prompt), row.prompt


def test_no_question_stands_twice() -> None:
    prompts = [row.prompt for row in [*read_free_questions(), *read_harm_prompts(), *read_wrappers().other_languages]]
    assert [prompt for prompt, times in Counter(map(str.lower, prompts)).items() if times > 1] == []
    assert not {prompt_hash(prompt) for prompt in prompts} & read_users_labels().labels.keys()


def test_harm_prompts_reach_every_domain_in_both_halves() -> None:
    rows = read_harm_prompts()
    assert len(rows) >= 260
    by_domain = Counter((row.domain, row.half) for row in rows)
    assert all(by_domain[domain, half] >= 20 for domain in ("finance", "healthcare", "mathematics") for half in HALVES)


def test_each_starter_has_enough_rewordings_in_both_halves() -> None:
    rewordings = read_rewordings()
    assert rewordings.keys() == LABELLING | FREE_TEXT
    for starter, wordings in rewordings.items():
        least = 10 if starter in LABELLING else 8
        assert len(wordings) >= least, starter
        assert min(counts(wordings)[half] for half in HALVES) >= least // 2, starter
        assert len({(wording.before, wording.after) for wording in wordings}) == len(wordings), starter
        places = {(bool(wording.before.strip()), bool(wording.after.strip())) for wording in wordings}
        assert places == {(True, False), (False, True), (True, True)}, starter
        if starter in ("finance-fin_ner_type", "finance-fiqa_sa"):
            unnamed = [wording for wording in wordings if "{about}" not in wording.before + wording.after]
            assert not unnamed, starter


def test_other_asks_are_enough_for_each_labelling_starter() -> None:
    asks = read_other_asks()
    assert len(asks) >= 45
    assert len({(ask.before, ask.after) for ask in asks}) == len(asks)
    assert min(counts(asks)[half] for half in HALVES) >= 20
    for starter in LABELLING:
        assert sum(ask.fits(starter) for ask in asks) >= 20
        assert any(ask.starters and ask.fits(starter) for ask in asks), starter


def test_system_prompts() -> None:
    prompts = read_system_prompts()
    assert counts(prompts.neutral) == {"tune": 4, "report": 4}
    assert all(40 <= len(prompt.text) <= 1500 and prompt.starter is None for prompt in prompts.neutral)
    assert len({prompt.starter for prompt in prompts.with_ask}) == 6
    assert None not in {prompt.starter for prompt in prompts.with_ask}


def test_follow_ups() -> None:
    follow_ups = read_follow_ups()
    assert len(follow_ups.explain) >= 30
    assert any(turn.language for turn in follow_ups.explain)
    for kind in (follow_ups.explain, follow_ups.same_task, follow_ups.new_topic):
        assert all(counts(kind)[half] >= 5 for half in HALVES)
    for turn in follow_ups.new_topic:
        assert (turn.side == "base") == (turn.asks == "none"), turn.text
    assert len(follow_ups.long_conversations) == 6
    for conversation in follow_ups.long_conversations:
        assert 9 <= 1 + len(conversation.turns) <= 12
        assert all(turn.asks != conversation.first for turn in conversation.turns)


def test_wrappers_hold_the_request_and_all_that_they_fill_in() -> None:
    given = read_wrappers()
    for wrapper in given.wrappers:
        messages = wrapper.around("What is {answer}?", "It is {request}.", given.passages_text(0))
        text = "\n".join(message["content"] for message in messages)
        assert text.count("What is {answer}?") == 1, wrapper.name
        assert messages[-1]["role"] == "user"
        assert "{passages}" not in text
    assert {wrapper.expect for wrapper in given.wrappers} == {"hold", "base", "hold_or_base"}
    for half in HALVES:
        assert {wrapper.expect for wrapper in given.wrappers if wrapper.half == half} == {
            "hold",
            "base",
            "hold_or_base",
        }


def test_passages_are_long_enough_and_differ_with_the_seed() -> None:
    given = read_wrappers()
    assert 6000 <= len(given.passages_text(0)) <= 8000
    assert given.passages_text(0) != given.passages_text(1)
    assert given.passages_text(1) == given.passages_text(1)


def test_questions_in_other_languages_for_each_free_text_starter() -> None:
    asked = Counter((row.in_english, row.language) for row in read_wrappers().other_languages)
    assert asked.keys() == {(starter, language) for starter in FREE_TEXT for language in ("de", "es", "zh")}
    assert min(asked.values()) >= 4


def test_a_wording_keeps_the_braces_of_its_material() -> None:
    wording = Wording(before="Type of {about}?\n", after="\n{about}:", half="tune")
    assert wording.around(Material('{"x": "{about}"}', "Acme")) == 'Type of Acme?\n{"x": "{about}"}\nAcme:'


def test_material_has_neither_instruction_nor_cue() -> None:
    ask = "What is the entity type of 'Acme' in this sentence from a financial agreement? Answer with one of: a, b."
    assert material_of("finance-fin_ner_type", f"{ask}\nT\nAnswer:") == Material("T", "Acme")
    row = "Solve.\nQuestion: Q\nA. 1\nB. 2\nAnswer with the letter only.\nAnswer:"
    assert material_of("mathematics-aqua_rat", row) == Material("Question: Q\nA. 1\nB. 2", "")
    assert material_of("finance-xbrl_term", "Explain this line: Debt: Net") == Material("Debt: Net", "")
    assert material_of("healthcare-medquad_qa", "What is X?\nAnd Y?") == Material("What is X?\nAnd Y?", "")
    with pytest.raises(InvalidInput, match="finance-fiqa_sa"):
        material_of("finance-fiqa_sa", "Something else.\nT")


def test_three_typos_change_three_words_and_nothing_else() -> None:
    text = "Please explain what the symptoms of pneumonia are, in 3 sentences."
    typed = three_typos(text)
    changed = [word for word, other in zip(text.split(), typed.split(), strict=True) if word != other]
    assert len(changed) == 3
    assert three_typos(text) == typed
    assert three_typos("a b 12") == "a b 12"
    assert lower_case("What IS it?") == "what is it?"


def test_a_file_with_an_unknown_field_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other_asks.json").write_text(json.dumps([{"before": "", "after": "", "half": "tune", "x": 1}]))
    monkeypatch.setattr(questions_sets, "QUESTIONS", tmp_path)
    with pytest.raises(InvalidInput, match=r"other_asks.json"):
        read_other_asks()
    with pytest.raises(InvalidInput, match="No such file"):
        read_wrappers()


def test_labelled_questions_that_are_not_in_the_data_are_named(tmp_path: Path) -> None:
    (tmp_path / "users_questions.jsonl").write_text(json.dumps({"prompt": "another"}) + "\n")
    (tmp_path / "finance_questions.txt").write_text("one more\n")
    with pytest.raises(InvalidInput, match="labelled questions are not there"):
        read_users_questions(tmp_path)


@pytest.fixture
def data() -> Path:
    folder = data_folder()
    if folder is None or not (folder.parent / "prompts").is_dir():
        pytest.skip("no data: set LEARNWARE_DATA to a folder of <domain>/<task>.train.jsonl beside prompts/")
    return folder


def test_every_labelled_question_is_in_the_data(data: Path) -> None:
    questions = read_users_questions(data.parent / "prompts")
    assert len(questions) == len(read_users_labels().labels)
    assert all(read_users_labels().labels[prompt_hash(row.prompt)] == row.label for row in questions[:20])


def test_material_of_every_starter_is_found_in_its_rows(data: Path) -> None:
    for starter in LABELLING | FREE_TEXT:
        for prompt in read_prompts(data, task_of(starter), "train", 50).whole:
            text, about = material_of(starter, prompt)
            assert text, prompt
            assert text in prompt
            assert "Answer with" not in text
            assert bool(about) == (starter in ("finance-fin_ner_type", "finance-fiqa_sa"))


def test_own_texts_are_not_the_data_s(data: Path) -> None:
    public = {
        json.loads(line)["prompt"].strip().lower()
        for path in [*data.glob("*/*.jsonl"), data.parent / "prompts" / "users_questions.jsonl"]
        for line in path.read_text(encoding="utf-8").splitlines()
    }
    own = [row.prompt for row in [*read_free_questions(), *read_harm_prompts()]]
    assert [prompt for prompt in own if prompt.strip().lower() in public] == []
