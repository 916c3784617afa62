"""Selection over the shipped specifications: what is asked decides, and not what a prompt is about."""

import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from router import selection
from router.choice import LOW_CONFIDENCE, MATCHED, TASK
from router.conversation import Conversations, ConversationSettings, by_readings
from router.follow_ups import FollowUps
from router.selection import Candidate, Choice, Selector, next_best
from router.settings import SelectionSettings
from router.turn import Conversation
from specs.answers.form import asked_form
from specs.capability import Capability, ProbeScore
from specs.card import CARD_FILE, load_card, save_card
from specs.encoding.encoder import STATIC_ENCODER, load_encoder, load_prompt_encoder
from specs.errors import InvalidSpecification
from specs.learnware import SPECIFICATION_FOLDER, Learnware, load_learnware, load_learnwares
from specs.prompts import everyday_prompts
from tests.specs.learnware_folder import card, write_format_1, write_learnware

ROOT = Path(__file__).parents[2]
QUESTIONS = ROOT / "benchmarks" / "questions"

MUST_MATCH = {
    "Is the sentiment of this financial news positive, neutral or negative?\n"
    "Operating profit rose to EUR 13.1 mn from EUR 8.7 mn.": "finance",
    "Is the sentiment of this tweet about the markets bullish, bearish or neutral?\n"
    "$AAPL beats on earnings and raises guidance, shares jump 6% after hours.": "finance",
    "What does goodwill mean on a balance sheet?": "finance",
    "Abstract: 120 patients were randomised to metformin or placebo; HbA1c fell in both arms (p = 0.41). Does "
    "metformin lower HbA1c in this population? yes, no or maybe": "healthcare",
    "What is asthma and what causes it?": "healthcare",
    "A shop sells 3 apples for 2 euros. How much do 12 apples cost?": "mathematics",
}
ROWS = (
    "Operating profit rose to EUR 13.1 mn from EUR 8.7 mn in the same quarter of last year.",
    "$AAPL beats on earnings and raises guidance, shares jump 6% after hours.",
    "A 54-year-old man has crushing chest pain radiating to his left arm and ST elevation in the anterior leads.",
    "120 patients were randomised to metformin or placebo; HbA1c fell in both arms (p = 0.41).",
    "Jack had 8 pens, lost 3 of them on the way to school and then bought 12 more in the shop.",
)
"""Texts such as learnwares label."""


@pytest.fixture(scope="module")
def learnwares() -> list[Learnware]:
    return load_learnwares(ROOT / "serving" / "starter_learnwares")


@pytest.fixture(scope="module")
def selector(learnwares: list[Learnware]) -> Selector:
    return Selector(learnwares, load_prompt_encoder(), SelectionSettings())


def questions(name: str) -> list[str]:
    lines = (QUESTIONS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line.replace("\\n", "\n") for line in lines if line]


@pytest.mark.slow
def test_a_copy_is_expected_to_answer_as_well_and_a_stranger_is_not(
    learnwares: list[Learnware], selector: Selector
) -> None:
    text = next(iter(MUST_MATCH))
    original = next(learnware for learnware in learnwares if learnware.id == selector.choose(text).learnware_id)
    with_copy = [*learnwares, replace(original, id="copy")]
    copied = Selector(with_copy, load_prompt_encoder(), SelectionSettings())
    first, second, *others = copied.choose(text).candidates
    assert {first.learnware_id, second.learnware_id} == {original.id, "copy"}
    assert (first.quality, second.quality) == (1.0, 1.0)
    assert others
    assert all(0 <= other.quality < 1 for other in others)
    assert [other.quality for other in others] == sorted((other.quality for other in others), reverse=True)


def only_labels(learnwares: list[Learnware], learnware_id: str | None) -> bool:
    found = [one.specification.answers for one in learnwares if one.id == learnware_id]
    return any(answers is not None and not answers.in_sentences for answers in found)


def test_what_a_learnware_answers_with_is_known_by_its_id(learnwares: list[Learnware], selector: Selector) -> None:
    assert not selector.answers_in_sentences("finance-tfns")
    assert selector.answers_in_sentences("finance-xbrl_term")
    assert not selector.answers_in_sentences("nobody")
    assert sum(only_labels(learnwares, one.id) for one in learnwares) >= 9


@pytest.mark.parametrize(("text", "domain"), MUST_MATCH.items())
def test_who_asks_what_a_learnware_answers_gets_one_of_the_domain(selector: Selector, text: str, domain: str) -> None:
    choice = selector.choose(text)
    assert choice.reason == MATCHED
    assert choice.learnware_id is not None
    assert choice.learnware_id.startswith(domain)
    assert choice.candidates[0].expected > choice.base
    assert choice.probabilities[0][0].startswith(domain)


@pytest.mark.parametrize(
    "text",
    [
        "What are the side effects of metformin?",
        "Should I buy bonds when interest rates fall?",
        "A shop sells 3 apples for 2 euros. How much do 12 apples cost?",
        "max dose of tramadol",
        "Is it safe to take ibuprofen and paracetamol together?",
        "How do central banks set interest rates?",
        "Explain the chain rule with an example.",
    ],
)
def test_a_question_never_goes_to_a_learnware_that_only_labels(
    selector: Selector, learnwares: list[Learnware], text: str
) -> None:
    assert not only_labels(learnwares, selector.choose(text).learnware_id)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("ask", ["Translate this into French: {}", "{}\ntl;dr", "Turn this into a limerick.\n\n{}"])
def test_another_ask_on_what_learnwares_label_goes_to_the_base_model(selector: Selector, ask: str, row: str) -> None:
    choice = selector.choose(ask.format(row))
    assert choice.learnware_id is None
    assert choice.probabilities[0][0].startswith("base:")


LETTERED = {
    "healthcare-medqa_usmle": """
A 61-year-old woman with atrial fibrillation takes warfarin. After a week of antibiotics for a urinary tract
infection her gums bleed and her INR is 6.8. Which drug was most likely given? | Nitrofurantoin |
Trimethoprim-sulfamethoxazole | Amoxicillin | Fosfomycin

A 3-year-old boy has a barking cough and inspiratory stridor that is worse at night. An X-ray of the neck
shows narrowing below the glottis. What is the most likely cause? | Respiratory syncytial virus |
Parainfluenza virus | Haemophilus influenzae type b | Bordetella pertussis

A 45-year-old man vomits bright red blood. He has spider angiomas, ascites and an enlarged spleen. Which of
the following is the next best step? | Beta blocker | Octreotide and endoscopy | Barium swallow | Exploratory
laparotomy

A newborn does not pass meconium in the first 48 hours of life; his abdomen is distended. A biopsy of the
rectum is most likely to show which finding? | Absent ganglion cells | Granulomas | Crypt abscesses | Villous
atrophy
""",
    "mathematics-aqua_rat": """
A sum of money at simple interest amounts to 815 in 3 years and to 854 in 4 years. What is the sum? | 650 |
690 | 698 | 700 | 720

The average age of 8 men increases by 2 years when two of them aged 21 and 23 are replaced by two others. What
is the average age of the two others? | 22 | 24 | 28 | 30 | 32

A and B can do a piece of work in 12 days, B and C in 15 days, A and C in 20 days. In how many days can A, B
and C finish it together? | 5 | 8 | 10 | 12 | 18

A shopkeeper sells an article at a loss of 10%. Had he sold it for 90 more, he would have gained 8%. What is
the cost price? | 400 | 450 | 500 | 540 | 600
""",
}
"""Questions, each with its options, by the learnware that answers such ones with a letter."""


@pytest.mark.parametrize("style", ["\n{}. ", "\n{}) ", "\n({}) "])
@pytest.mark.parametrize("learnware_id", LETTERED)
def test_options_with_letters_ask_for_a_letter_without_a_word(
    selector: Selector, learnware_id: str, style: str
) -> None:
    """Without the options a sentence is the right answer and a letter none; with them it is the other way round."""
    chosen = []
    for text in LETTERED[learnware_id].strip().split("\n\n"):
        question, *options = " ".join(text.split()).split(" | ")
        lettered = [style.format(letter) + option for letter, option in zip("ABCDE", options, strict=False)]
        choice = selector.choose(question + "".join(lettered))
        in_sentences = [one for one in choice.candidates if selector.answers_in_sentences(one.learnware_id)]
        assert all(one.score == 0.0 for one in in_sentences)
        chosen.append(choice.learnware_id)
        assert selector.choose(question).learnware_id != learnware_id
    assert chosen.count(learnware_id) >= 3, chosen
    assert set(chosen) <= {learnware_id, None}


@pytest.mark.parametrize("text", ["why?", "Explain that in one sentence.", "and what does it cost?", "thanks!"])
def test_a_follow_up_alone_asks_for_no_learnware(selector: Selector, text: str) -> None:
    assert selector.choose(text).learnware_id is None


def test_in_a_conversation_what_is_asked_decides_turn_by_turn(selector: Selector, learnwares: list[Learnware]) -> None:
    follow_ups = FollowUps(load_encoder(STATIC_ENCODER))
    conversations = Conversations(
        by_readings(selector.choose),
        follow_ups.kind,
        selector.answers_in_sentences,
        lambda text, system: False,
        ConversationSettings(),
    )
    tweet = next(text for text in MUST_MATCH if "tweet" in text)
    turns = [tweet]
    first = conversations.choose(Conversation("", tuple(turns)))
    assert only_labels(learnwares, first.learnware_id)
    turns.append("Why? Explain your answer.")
    assert conversations.choose(Conversation("", tuple(turns))).learnware_id is None
    turns.append("and this one: $TSLA recalls 40,000 cars, shares slide 5%")
    assert conversations.choose(Conversation("", tuple(turns))).learnware_id == first.learnware_id
    turns.append("Write a poem of four lines about autumn leaves in the rain.")
    assert conversations.choose(Conversation("", tuple(turns))).learnware_id is None
    turns.append("What is asthma and what causes it?")
    assert not only_labels(learnwares, conversations.choose(Conversation("", tuple(turns))).learnware_id)


@pytest.mark.parametrize(
    "text",
    [
        "hi",
        "Tell me a joke",
        "Write a poem about autumn",
        "Write a Python function that reverses a linked list.",
        "def f(x):\n    return x + 1\nWhat does this function do?",
        "What is the capital of France?",
        "",
        " \n ",
        "🙂",
    ],
)
def test_everyday_prompts_go_to_the_base_model(selector: Selector, text: str) -> None:
    choice = selector.choose(text)
    assert (choice.learnware_id, choice.reason) == (None, LOW_CONFIDENCE)
    assert choice.score < SelectionSettings().min_match
    assert choice.candidates


@pytest.mark.slow
def test_users_free_questions_hardly_ever_go_to_a_learnware_that_only_labels(
    selector: Selector, learnwares: list[Learnware]
) -> None:
    """Hundreds of questions as users put them, most of which no learnware answers."""
    lines = (QUESTIONS / "free_questions.jsonl").read_text(encoding="utf-8").splitlines()
    choices = [selector.choose(json.loads(line)["prompt"]) for line in lines]
    assert len(choices) > 300
    labelled = [choice for choice in choices if only_labels(learnwares, choice.learnware_id)]
    assert len(labelled) <= 0.015 * len(choices)


def test_our_everyday_questions_go_to_the_base_model(selector: Selector) -> None:
    choices = [selector.choose(text) for text in questions("general")]
    assert np.mean([choice.learnware_id is None for choice in choices]) >= 0.97


def test_no_measured_question_is_an_example_or_an_everyday_prompt(
    learnwares: list[Learnware],
) -> None:
    known = set(everyday_prompts()) | {
        example for learnware in learnwares for example in load_card(learnware.folder / "learnware.yaml").examples
    }
    asked = [text for name in ("finance", "healthcare", "mathematics") for text in questions(name)]
    assert not known.intersection([*asked, *MUST_MATCH])


def test_the_choice_says_what_is_expected_of_whom(selector: Selector) -> None:
    choice = selector.choose(next(iter(MUST_MATCH)), top=4)
    expected = [candidate.expected for candidate in choice.candidates]
    assert len(expected) == 4
    assert expected == sorted(expected, reverse=True)
    assert choice.score == choice.candidates[0].score >= SelectionSettings().min_match
    assert choice.candidates[0].quality == 1.0
    for candidate in choice.candidates:
        assert 0 <= candidate.score <= 1
        assert candidate.quality == pytest.approx(max(0.0, 1 - (expected[0] - candidate.expected)))
    probabilities = [p for _, p in choice.probabilities]
    assert len(probabilities) == 4
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) <= 1 + 1e-9


def test_a_larger_least_match_sends_more_to_the_base_model(learnwares: list[Learnware], selector: Selector) -> None:
    text = "What does goodwill mean on a balance sheet?"
    found = selector.choose(text)
    assert found.learnware_id is not None
    strict = Selector(learnwares, load_prompt_encoder(), SelectionSettings(min_match=1.0)).choose(text)
    assert (strict.learnware_id, strict.reason) == (None, LOW_CONFIDENCE)
    assert (strict.score, strict.base) == (pytest.approx(found.score), pytest.approx(found.base))
    assert strict.candidates[0].learnware_id == found.learnware_id


@pytest.mark.parametrize("text", ["\ud800", "\x00" * 100, "7" * 1_000_000, "语" * 5000, "A1: 1; " * 300])
def test_odd_text_never_raises(selector: Selector, text: str) -> None:
    assert 0 <= selector.choose(text).confidence <= 1


def test_a_vector_chooses_what_its_text_chooses(selector: Selector) -> None:
    text = next(iter(MUST_MATCH))
    assert selector.choose_embedded(selector.embed(text), form=asked_form(text)) == (
        selector.choose(text)._replace(read=None)
    )


def test_threads_get_the_same_answers(selector: Selector) -> None:
    texts = list(MUST_MATCH) * 10
    expected = [selector.choose(text) for text in texts]
    found: dict[int, list[object]] = {}

    def ask(number: int) -> None:
        found[number] = [selector.choose(text) for text in texts]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[number] == expected for number in range(4))


def test_only_learnwares_that_pass_the_filter_are_candidates(learnwares: list[Learnware]) -> None:
    settings = SelectionSettings(domains=("healthcare",), languages=("en",))
    choice = Selector(learnwares, load_prompt_encoder(), settings).choose(next(iter(MUST_MATCH)), top=50)
    assert {candidate.learnware_id.split("-")[0] for candidate in choice.candidates} == {"healthcare"}


def test_a_filter_that_nothing_passes_is_refused(learnwares: list[Learnware]) -> None:
    with pytest.raises(InvalidSpecification, match="no learnware passes the filter"):
        Selector(learnwares, load_prompt_encoder(), SelectionSettings(domains=("law",)))


def test_specifications_of_another_encoder_are_refused(learnwares: list[Learnware]) -> None:
    strange = replace(learnwares[0], specification=replace(learnwares[0].specification, encoder_id="other"))
    with pytest.raises(InvalidSpecification, match="specified with encoder 'other'"):
        Selector([strange], load_prompt_encoder(), SelectionSettings())


def test_one_learnware_alone_still_tells_its_texts_from_others(learnwares: list[Learnware]) -> None:
    only = next(learnware for learnware in learnwares if learnware.id == "healthcare-medqa_usmle")
    selector = Selector([only], load_prompt_encoder(), SelectionSettings())
    question = load_card(only.folder / "learnware.yaml").examples[0]
    assert selector.choose(question).learnware_id == only.id
    assert selector.choose("Write a poem about autumn").learnware_id is None


@pytest.mark.slow
def test_without_a_learnware_its_requests_go_to_the_base_model(learnwares: list[Learnware]) -> None:
    """A snapshot is whole by itself: with the finance learnwares gone, finance goes to nobody else, and the rest
    stays."""
    rest = [learnware for learnware in learnwares if learnware.domain != "finance"]
    selector = Selector(rest, load_prompt_encoder(), SelectionSettings())
    for text, domain in MUST_MATCH.items():
        choice = selector.choose(text)
        assert all(not candidate.learnware_id.startswith("finance") for candidate in choice.candidates)
        if domain == "finance":
            assert choice.learnware_id is None
        else:
            assert choice.candidates[0].learnware_id.startswith(domain)


@pytest.mark.parametrize(
    "wrong", [{"min_match": 1.5}, {"min_task_match": -0.1}, {"min_confidence": 0.5}, {"gamma": 0}, {"boarder": 2}]
)
def test_settings_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        SelectionSettings(**wrong)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_selector_needs_neither_ray_nor_torch() -> None:
    program = "import router.selection, sys; assert not {'ray', 'vllm', 'torch', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_a_task_is_chosen_for_by_its_mean_alone(selector: Selector, learnwares: list[Learnware]) -> None:
    generator = np.random.default_rng(0)
    for learnware in learnwares:
        view = learnware.specification.views[0]
        mean = (view.weights / view.weights.sum()) @ view.points
        noisy = (mean + generator.normal(0, 0.005, len(mean))).astype(np.float32)
        choice = selector.choose_task(noisy, 0.005)
        assert (choice.learnware_id, choice.reason) == (learnware.id, TASK)
        assert (choice.candidates[0].learnware_id, choice.candidates[0].score) == (learnware.id, choice.score)
        assert {candidate.quality for candidate in choice.candidates} == {0.0}  # a task keeps its learnware
        assert len({candidate.learnware_id for candidate in choice.candidates}) == 5
        expected = [candidate.expected for candidate in choice.candidates]
        assert expected == sorted(expected, reverse=True)


@pytest.mark.slow
def test_a_task_that_no_learnware_fits_goes_to_the_base_model(selector: Selector) -> None:
    everyday = load_prompt_encoder().encode(everyday_prompts()[::8]).mean(0)
    choice = selector.choose_task(everyday)
    assert (choice.learnware_id, choice.reason) == (None, LOW_CONFIDENCE)
    assert choice.score < SelectionSettings().min_match
    assert choice.candidates


@pytest.mark.slow
@pytest.mark.parametrize("measured", [False, True])
def test_a_changed_selector_chooses_as_a_new_one_with_the_same_metric(
    learnwares: list[Learnware], measured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, settings = load_prompt_encoder(), SelectionSettings()
    if measured:
        score = ProbeScore(96, 0.8, 0.8, -1.0, 0.9, 0.3, 0.3, -2.0)
        learnwares = [
            replace(one, capability=Capability(one.base_model, "0", "p", {f"{one.domain}-{one.tasks[0]}": score}))
            for one in learnwares
        ]
    first = Selector(learnwares[:9], encoder, settings)
    version_2 = replace(learnwares[4], id=learnwares[0].id)
    changed = first.changed(learnwares[9:], [learnwares[4].id]).changed([version_2], [learnwares[0].id])
    assert len(changed) == len(learnwares) - 1
    assert changed.changes == len(learnwares) - 9 + 3
    assert changed.check_integrity() == []
    monkeypatch.setattr(selection, "_fit", lambda *_: first.metric)
    kept = [one for one in learnwares if one.id not in {learnwares[0].id, learnwares[4].id}]
    new = Selector([*kept, version_2], encoder, settings)
    # The tasks of those that are gone stay classes until the next new selector, so probabilities differ a little.
    same = []
    for text in [*MUST_MATCH, *questions("general")[:40], *questions("healthcare")[:40]]:
        vector = changed.embed(text)
        form = asked_form(text)
        found = changed.choose_embedded(vector, form=form)
        expected = new.choose_embedded(vector, form=form)
        assert not {learnwares[0].id, learnwares[4].id} & {one.learnware_id for one in found.candidates} - {
            version_2.id
        }
        same.append(found.learnware_id == expected.learnware_id)
        if text in MUST_MATCH:
            assert found.candidates[0].learnware_id == expected.candidates[0].learnware_id
            assert found.score == pytest.approx(expected.score, abs=0.1)
    assert np.mean(same) >= 0.95


def test_a_first_measured_learnware_makes_the_selector_rank(learnwares: list[Learnware]) -> None:
    encoder, settings = load_prompt_encoder(), SelectionSettings()
    tfns = next(one for one in learnwares if one.id == "finance-tfns")
    score = ProbeScore(96, 0.95, 0.95, -1.0, 1.0, 0.3, 0.3, -2.0)
    twin = replace(tfns, id="twin", capability=Capability(tfns.base_model, "0", "p", {"finance-tfns": score}))
    low = Capability(tfns.base_model, "0", "p", {"finance-tfns": replace(score, probability=0.1)})
    poor = replace(tfns, id="poor", capability=low)
    text = "Is the sentiment of this tweet about the markets bullish or bearish? $MSFT announces $60 billion buyback"
    others = Selector(learnwares, encoder, settings)
    assert others.choose(text).learnware_id == "finance-tfns"
    assert others.changed([twin, poor], []).changed([], ["finance-fiqa_sa"]).choose(text).learnware_id == "twin"


@pytest.mark.slow
def test_a_specification_of_the_first_format_is_chosen_by_the_asks_of_its_card(
    learnwares: list[Learnware], tmp_path: Path
) -> None:
    folder = write_learnware(tmp_path / "old")
    write_format_1(folder / SPECIFICATION_FOLDER)
    examples = ("Which colour has my bicycle? It stands in the hall.", "Tell me the colour of the door in room 3.")
    save_card(card(examples=examples), folder / CARD_FILE)
    old = load_learnware(folder)
    selector = Selector([*learnwares, old], load_prompt_encoder(), SelectionSettings())
    own = "Which colour has object number 71?\nIt stands in room 5.\nAnswer:"
    assert selector.choose(own).learnware_id == old.id
    assert selector.choose("Translate this into French.\nObject number 71 stands in room 5.").learnware_id is None


@pytest.mark.slow
def test_a_selector_never_becomes_empty(learnwares: list[Learnware]) -> None:
    selector = Selector(learnwares[:2], load_prompt_encoder(), SelectionSettings())
    with pytest.raises(InvalidSpecification, match="no learnware passes the filter"):
        selector.changed([], [one.id for one in learnwares[:2]])
    assert len(selector.changed(learnwares[2:3], [one.id for one in learnwares])) == 1


@pytest.mark.parametrize(
    ("reason", "second", "expected"),
    [
        ("matched", Candidate("b", 0.6, 0.9, 0.7), "b"),
        ("matched:resident", Candidate("b", 0.6, 0.9, 0.7), "b"),
        ("matched", Candidate("b", 0.6, 0.7, 0.4), "c"),  # not expected to be better than the base model
        ("matched", Candidate("b", 0.4, 0.9, 0.7), "c"),  # probably asked for something else
        ("session", Candidate("b", 0.6, 0.9, 0.7), None),
        ("task", Candidate("b", 0.6, 0.9, 0.7), None),
    ],
)
def test_the_next_best_is_chosen_by_the_same_rule(reason: str, second: Candidate, expected: str | None) -> None:
    candidates = (Candidate("a", 0.8, 1.0, 0.8), second, Candidate("c", 0.55, 0.6, 0.5))
    assert next_best(Choice("a", 0.8, 0.8, reason, candidates, base=0.45, bound=0.5)) == expected
    assert next_best(Choice(None, 0.8, 0.8, LOW_CONFIDENCE, candidates, base=0.45, bound=0.5)) is None
    assert next_best(Choice("a", 0.8, 0.8, reason, candidates[:1], base=0.45, bound=0.5)) is None
