"""What a prompt asks for, apart from its material."""

import time

import pytest
from hypothesis import given, settings, strategies as st

from specs.encoding.ask import ASK_CHARS, HEAD_CHARS, MOST, TAIL_CHARS, split_prompt
from specs.prompts import domain_questions, everyday_prompts, other_asks

MATERIAL = "The carrier reported a net loss of 12 million euros. Fuel costs rose by a fifth over the year."
LINES = "Aspirin, 100 mg, once daily\nMetformin, 500 mg, twice daily"


@pytest.mark.parametrize("material", [MATERIAL, LINES])
@pytest.mark.parametrize(
    "ask",
    [
        "Translate this into French.",
        "Is the sentiment of this headline positive, negative or neutral?",
        "Summarise the following in one sentence:",
        "Which of these is the most expensive?",
        "traduce este texto al inglés",
        "Résume ce texte en une phrase.",
        "Übersetze den folgenden Text ins Englische:",
        "请把下面的文字翻译成英文。",
        "这段话的情感是什么？",
    ],
)
def test_the_ask_is_found_before_and_after_its_material(ask: str, material: str) -> None:
    for prompt in (f"{ask}\n{material}", f"{material}\n{ask}", f"{ask}\n\n{material}\n"):
        found = split_prompt(prompt)
        assert found.ask == (ask,)
        assert found.material.split() == material.split()


def test_an_instruction_before_and_a_question_after_are_both_asked() -> None:
    first, last = "Read the table and answer with yes or no.", "Did fuel costs rise?"
    found = split_prompt(f"{first}\n{MATERIAL}\n{last}")
    assert found.ask == (first, last)
    assert found.material.split() == MATERIAL.split()


@pytest.mark.parametrize(
    ("prompt", "ask", "material"),
    [
        (
            "Summarize the following: the cat sleeps on the sofa",
            ("Summarize the following:",),
            "the cat sleeps on the sofa",
        ),
        ("Sentiment towards BP: shares fell by 4 % today", ("Sentiment towards BP:",), "shares fell by 4 % today"),
        ("in French: the cat sleeps on the sofa", ("in French:",), None),
        ("How many apples cost Rs. 240 in all?", ("How many apples cost Rs. 240 in all?",), None),
        ("hi", ("hi",), None),
    ],
)
def test_cues_and_short_notes_are_asks(prompt: str, ask: tuple[str, ...], material: str | None) -> None:
    found = split_prompt(prompt)
    assert found.ask[: len(ask)] == ask
    assert found.material == (prompt if material is None else material)


def test_options_stay_with_their_letters_and_are_no_ask() -> None:
    found = split_prompt("Which drug lowers blood sugar?\nA. Metformin\nB. Aspirin\nC. Heparin\nD. Warfarin")
    assert found.ask == ("Which drug lowers blood sugar?",)
    assert found.material.split("\n") == ["A. Metformin", "B. Aspirin", "C. Heparin", "D. Warfarin"]


@pytest.mark.parametrize("courtesy", ["Thank you!", "Thanks", "Please help me with this", "Kind regards,"])
def test_courtesy_asks_for_nothing(courtesy: str) -> None:
    assert split_prompt(f"Translate this into French.\n{MATERIAL}\n{courtesy}").ask == ("Translate this into French.",)
    assert split_prompt(f"Hello there,\n{MATERIAL}\ntl;dr\n{courtesy}").ask[-1] == "tl;dr"


@pytest.mark.parametrize("end", [" Thanks!", "\nThank you!", " Please help me with this.", "\nAnswer:", "\n\nAntwort:"])
def test_courtesy_and_cues_after_a_question_are_not_what_it_is_about(end: str) -> None:
    question = "What is asthma and what causes it?"
    assert split_prompt(question + end) == split_prompt(question) == ((question,), question, True)


@pytest.mark.parametrize("end", ["\nAnswer:", " Thanks a lot!", "\n\nPlease help me with this.", "\nResponse: "])
@pytest.mark.parametrize("beginning", ["", "Hello,\n", "Question: ", "Please help me with this. "])
def test_what_surrounds_a_request_changes_neither_part(beginning: str, end: str) -> None:
    problem = "A bus has 40 seats. Nine of them are free. How many people sit in the bus?"
    assert split_prompt(f"{beginning}{problem}{end}") == split_prompt(problem)
    assert split_prompt(f"Translate this into French.\n{MATERIAL}{end}") == split_prompt(
        f"Translate this into French.\n{MATERIAL}"
    )


def test_an_instruction_line_with_a_colon_is_not_cut() -> None:
    options = "A. Aspirin\nB. Heparin"
    found = split_prompt(f"MCQ, medicine: one letter as the answer.\nWhich of them thins the blood fastest?\n{options}")
    assert found.ask == ("MCQ, medicine: one letter as the answer.", "Which of them thins the blood fastest?")
    found = split_prompt(f"Medical quiz: a letter, please.\nThe drug of choice in hypertension.\n{options}")
    assert found.ask == ("Medical quiz: a letter, please.",)


def test_an_option_is_no_ask_where_nothing_looks_like_one() -> None:
    found = split_prompt("the drug that thins the blood\nA. Aspirin\nB. Heparin")
    assert found.ask == ("the drug that thins the blood",)


def test_the_name_of_a_field_asks_for_nothing() -> None:
    found = split_prompt(f"What is the sentiment of the text?\nText:\n{MATERIAL}\nAnswer:")
    assert found.ask == ("What is the sentiment of the text?",)


def test_an_instruction_like_a_system_prompt_is_found_before_what_follows() -> None:
    system = "Classify each message as complaint, praise or question. Answer with one word."
    found = split_prompt(f"{system}\n{MATERIAL}")
    assert " ".join(found.ask) == system
    assert found.material.split() == MATERIAL.split()


def test_of_a_long_text_only_the_ends_are_read() -> None:
    middle = "Which year was it? " * 200_000
    found = split_prompt(f"Translate this into French.\n{MATERIAL * 30}{middle}{MATERIAL * 30}\nAnswer in one word.")
    assert found.ask == ("Translate this into French.", "Answer in one word.")
    assert len(found.material) <= HEAD_CHARS + TAIL_CHARS + 1


def test_a_sentence_without_end_counts_with_its_beginning() -> None:
    found = split_prompt("Translate this into French " + "and then that " * 100)
    assert [len(sentence) for sentence in found.ask] == [ASK_CHARS]


def test_an_empty_prompt_asks_for_nothing() -> None:
    assert split_prompt("") == ((), "", False)
    assert split_prompt(" \n ").ask == ()


def test_nearly_every_one_of_our_prompts_has_an_ask_that_is_a_part_of_it() -> None:
    for prompt in (*everyday_prompts(), *other_asks(), *sum(domain_questions().values(), ())):
        found = split_prompt(prompt)
        assert 1 <= len(found.ask) <= MOST
        assert all(sentence in prompt for sentence in found.ask)


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("aA1 .?!:\n\"')(。？请答"), max_size=300) | st.text(max_size=300))
def test_any_text_is_split_the_same_way_each_time_and_nothing_is_made_up(text: str) -> None:
    found = split_prompt(text)
    assert found == split_prompt(text)
    assert len(found.ask) <= MOST
    assert all(0 < len(sentence) <= ASK_CHARS for sentence in found.ask)
    assert bool(found.ask) == bool(text.strip())
    # cues and options are put together anew, so white space aside
    squeezed = "".join(text.split())
    assert all("".join(sentence.split()) in squeezed for sentence in found.ask)


@pytest.mark.parametrize(
    "text",
    [
        "a" * 1_000_000,
        "." * 1_000_000,
        "or " * 1_000_000,
        ": " * 1_000_000,
        "\n" * 1_000_000,
        "A. " * 300_000,
        "thank you " * 100_000,
        "'\"”’)]" * 200_000,
        ("hi " + "-" * 30) * 30_000,
        "?" * 1_000_000,
        "\ud800" * 1000,
        "\x00" * 100_000,
    ],
    ids=lambda text: ascii(text[:8]),
)
def test_hostile_texts_take_no_longer_than_others(text: str) -> None:
    """The bound is generous: a pattern that goes back over 2,000 characters would take minutes."""
    started = time.process_time()
    split_prompt(text)
    assert time.process_time() - started < 0.25
