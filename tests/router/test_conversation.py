"""A conversation stays with its learnware until its topic or what is asked changes."""

import threading
from collections import Counter

import pytest
from hypothesis import given, strategies as st

from router.choice import (
    BASE_BETTER,
    EXPLANATION,
    INTERFACE_TASK,
    LOW_CONFIDENCE,
    MATCHED,
    MIXED_PROMPTS,
    NO_TEXT,
    SESSION,
)
from router.conversation import (
    FAR,
    LONGEST,
    NEW_TURNS,
    REMEMBERED_TURNS,
    Conversations,
    ConversationSettings,
    by_readings,
)
from router.follow_ups import FollowUp
from router.selection import Candidate, Choice
from router.turn import Conversation, Turn
from specs.routed_rows import says_what_to_do


def matched(learnware, score, *others):
    candidates = (Candidate(learnware, score), *(Candidate(*other) for other in others))
    return Choice(learnware, score, 0.9, MATCHED, candidates)


def unmatched(score, reason=LOW_CONFIDENCE):
    return Choice(None, score, 0.9, reason, (Candidate("money", score), Candidate("health", score)))


SENTENCES = {"money", "health"}
"""The other two learnwares, mood and count, answer with a label."""

ALONE = {
    "shares fell": matched("money", 0.8, ("health", 0.1)),
    "revenue rose": matched("money", 0.7, ("health", 0.2)),
    "a rash on the arm": matched("health", 0.9, ("money", 0.1)),
    "is this tweet positive? shares fell": matched("mood", 0.9, ("money", 0.2)),
    "which operation solves it? 3 apples": matched("count", 0.9, ("mood", 0.1)),
    "what does accretive mean?": matched("money", 0.50, ("mood", 0.48)),
    "why is this tweet so negative?": matched("mood", 0.8),
    "and in 2019?": matched("health", 0.31, ("money", 0.30)),
    "why?": unmatched(0.05),
    "hm": unmatched(0.05),
    "explain that in one sentence": unmatched(0.0),
    "would you mind": unmatched(0.0),
    "and this one: sales were flat": unmatched(0.0),
    "sales were flat in the last quarter": unmatched(0.4),
    "a long question that the base answers better": unmatched(0.4, BASE_BETTER),
    "translate this into French: " + "un texte à part " * 20: unmatched(0.0),
    "hi": unmatched(0.01),
    "write a poem about autumn leaves": unmatched(0.02),
    "a long question on something near": unmatched(0.4),
    "### give the chat a title": matched("money", 0.9),
}
FOLLOW_UPS = {
    "why?": FollowUp.EXPLANATION,
    "explain that in one sentence": FollowUp.EXPLANATION,
    "why is this tweet so negative?": FollowUp.EXPLANATION,
    "would you mind": FollowUp.EITHER,
    "and this one: sales were flat": FollowUp.CONTINUATION,
    "translate this into French: " + "un texte à part " * 20: FollowUp.EXPLANATION,
}
TWEET = "is this tweet positive? shares fell"
TRANSLATE = "translate this into French: " + "un texte à part " * 20


class Counted:
    """Chooses for a turn from ALONE; any other text is a follow-up without a topic."""

    def __init__(self):
        self.calls = Counter()

    def __call__(self, turn):
        self.calls[turn] += 1
        return ALONE.get(turn.text, unmatched(0.05))


def conversations(choose=None):
    return Conversations(
        choose or Counted(),
        lambda text: FOLLOW_UPS.get(text) if text in ALONE else FollowUp.CONTINUATION,
        SENTENCES.__contains__,
        lambda text, _: text.startswith("###"),
        ConversationSettings(),
    )


def decide(*turns):
    choice = conversations().choose(Conversation("", turns))
    return choice.learnware_id, choice.reason


def test_no_turn_goes_to_the_base():
    assert decide() == (None, NO_TEXT)


def test_one_turn_decides_alone():
    assert decide("shares fell") == ("money", MATCHED)
    assert decide("hi") == (None, LOW_CONFIDENCE)
    assert decide("why is this tweet so negative?") == ("mood", MATCHED)


def test_the_same_topic_is_matched_again():
    assert decide("shares fell", "revenue rose") == ("money", MATCHED)


@pytest.mark.parametrize(
    "follow_up",
    ["why?", "explain that in one sentence", "would you mind", "and in 2019?", "a long question on something near"],
)
def test_a_follow_up_without_a_topic_of_its_own_stays(follow_up):
    assert decide("shares fell", follow_up) == ("money", SESSION)


def test_a_clear_new_topic_moves_it_and_then_holds():
    assert decide("shares fell", "a rash on the arm") == ("health", MATCHED)
    assert decide("shares fell", "a rash on the arm", "why?") == ("health", SESSION)


def test_a_greeting_does_not_hold_it_at_the_base():
    assert decide("hi", "shares fell") == ("money", MATCHED)


@pytest.mark.parametrize("turn", ["write a poem about autumn leaves", TRANSLATE])
def test_a_clear_turn_to_something_unknown_leaves_for_the_base(turn):
    assert decide("shares fell", turn) == (None, LOW_CONFIDENCE)


def test_where_the_base_answers_better_it_answers():
    assert decide("shares fell", "a long question that the base answers better") == (None, BASE_BETTER)


@pytest.mark.parametrize("turn", ["why?", "explain that in one sentence", "would you mind", "hm", TRANSLATE])
def test_what_asks_for_words_after_a_label_goes_to_the_base_and_the_next_item_returns(turn):
    assert decide(TWEET, turn) == (None, EXPLANATION)
    assert decide(TWEET, turn, turn) == (None, EXPLANATION)
    assert decide(TWEET, turn, "and this one: sales were flat") == ("mood", SESSION)


def test_a_question_on_a_label_goes_to_the_base_though_its_topic_matches_the_labeller():
    assert decide(TWEET, "why is this tweet so negative?") == (None, EXPLANATION)


@pytest.mark.parametrize("turn", ["and this one: sales were flat", "sales were flat in the last quarter"])
def test_the_next_item_stays_with_a_labeller(turn):
    assert decide(TWEET, turn) == ("mood", SESSION)


def test_from_a_labeller_to_one_that_answers_in_sentences_any_match_moves_it():
    assert decide(TWEET, "what does accretive mean?") == ("money", MATCHED)
    assert decide("which operation solves it? 3 apples", "and in 2019?") == ("health", MATCHED)


def test_a_front_ends_own_task_goes_to_the_base_and_leaves_the_conversation_as_it_is():
    assert decide("### give the chat a title") == (None, INTERFACE_TASK)
    assert decide("shares fell", "### give the chat a title") == (None, INTERFACE_TASK)
    assert decide("shares fell", "### give the chat a title", "why?") == ("money", SESSION)


@pytest.mark.parametrize("later", [7, 8, 9, 40, NEW_TURNS - 1, NEW_TURNS, NEW_TURNS + 1, 200, 1_000])
@pytest.mark.parametrize("distinct", [False, True])
def test_a_topic_switch_at_the_second_turn_is_not_forgotten(later, distinct):
    follow_ups = [f"and {n}?" if distinct else "why?" for n in range(later)]
    assert decide("shares fell", "a rash on the arm", *follow_ups) == ("health", SESSION)


LONG_FOLLOW_UPS = [f"and what about number {n}, please?" for n in range(1_000)]
"""Longer than the turns with a topic."""


def test_a_conversation_that_grows_never_flips_in_a_replica_that_sees_each_third_request():
    turns = ["shares fell", "a rash on the arm", *LONG_FOLLOW_UPS]
    deciding = conversations()
    for end in range(2, len(turns) + 1, 3):
        assert deciding.choose(Conversation("", tuple(turns[:end]))).learnware_id == "health", end


def test_a_replica_that_remembers_nothing_finds_a_topic_that_took_words():
    topic = "a rash on the arm " + "that itches " * 20
    deciding = Conversations(
        lambda turn: ALONE["a rash on the arm"] if turn.text == topic else Counted()(turn),
        lambda _: FollowUp.CONTINUATION,
        SENTENCES.__contains__,
        lambda *_: False,
        ConversationSettings(),
    )
    conversation = Conversation("", ("shares fell", topic, *LONG_FOLLOW_UPS))
    assert deciding.choose(conversation).learnware_id == "health"


def test_a_replica_that_remembers_nothing_reaches_any_topic_within_some_requests():
    choose = Counted()
    deciding = conversations(choose)
    conversation = Conversation("", ("shares fell", "a rash on the arm", *LONG_FOLLOW_UPS))
    found = [deciding.choose(conversation).learnware_id for _ in range(len(LONG_FOLLOW_UPS) // NEW_TURNS + 1)]
    assert found == sorted(found, reverse=True)  # "money" holds, the conversation's first topic, and then "health"
    assert found[-1] == "health"
    assert set(choose.calls.values()) == {1}


@given(st.lists(st.sampled_from(sorted(ALONE)), max_size=12))
def test_starting_at_the_turn_that_speaks_for_itself_is_the_same_as_replaying_all(texts):
    whole, held = conversations(), None
    for number, text in enumerate(texts):
        turn = Turn(text)
        own = whole._recall(turn) or whole._choose_alone(turn, lambda: None)
        if number == 0:
            own, held = own._replace(follow_up=None), Choice(None, 0.0, 0.0, NO_TEXT, ())
        held, answer = whole._next(held, turn, own)
    assert not texts or conversations().choose(Conversation("", tuple(texts))) == answer


def test_eight_turns_choose_once_for_each_over_eight_requests():
    turns = [f"and no. {n}?" for n in range(7)]
    choose = Counted()
    deciding = conversations(choose)
    for end in range(9):
        deciding.choose(Conversation("be brief", ("shares fell", *turns)[:end]))
    assert set(choose.calls.values()) == {1}
    assert len(choose.calls) == 8


def test_a_turn_that_speaks_for_itself_ends_the_search():
    choose = Counted()
    conversations(choose).choose(Conversation("", (*(f"and no. {n}?" for n in range(50)), "a rash on the arm", "why?")))
    assert sum(choose.calls.values()) == 2


@pytest.mark.parametrize("turns", [10 * FAR, 200])
def test_however_long_a_conversation_is_the_work_is_bounded(turns):
    choose = Counted()
    conversations(choose).choose(Conversation("", tuple(f"and number {n}?" for n in range(turns))))
    assert sum(choose.calls.values()) <= NEW_TURNS + LONGEST + 1


def test_what_is_said_again_and_again_is_looked_up_once():
    choose = Counted()
    deciding = conversations(choose)
    assert deciding.choose(Conversation("", ("shares fell", *["why?"] * 10 * FAR))).learnware_id == "money"
    assert sum(choose.calls.values()) == 2


def test_the_system_prompt_belongs_to_what_is_remembered():
    choose = Counted()
    deciding = conversations(choose)
    for system in ("", "a", "b"):
        deciding.choose(Conversation(system, ("shares fell",)))
    assert len(choose.calls) == 3


@pytest.mark.slow
def test_what_is_remembered_is_bounded():
    deciding = conversations()
    for n in range(REMEMBERED_TURNS + 100):
        deciding.choose(Conversation("", (f"and no. {n}?",)))
    assert len(deciding._remembered) == REMEMBERED_TURNS


def test_threads_that_share_it_agree():
    deciding = conversations()
    turns = ("shares fell", "a rash on the arm", *(f"and no. {n}?" for n in range(60)))
    found = []
    threads = [
        threading.Thread(
            target=lambda: found.extend(deciding.choose(Conversation("", turns[:n])) for n in range(2, 62))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 240
    assert {choice.learnware_id for choice in found} == {"health"}


def of(text):
    return Conversation("", (text,) if text else ())


def test_prompts_that_choose_alike_get_their_learnware_with_the_least_score():
    choice = conversations().choose_for_all([of("shares fell"), of("revenue rose")])
    assert (choice.learnware_id, choice.score, choice.reason) == ("money", 0.7, MATCHED)
    assert choice.candidates == (Candidate("money", 0.7), Candidate("health", 0.1))


@pytest.mark.parametrize("second", ["a rash on the arm", "hi", ""])
def test_prompts_that_choose_differently_get_the_base(second):
    for prompts in ([of("shares fell"), of(second)], [of(second), of("shares fell")]):
        choice = conversations().choose_for_all(prompts)
        assert (choice.learnware_id, choice.reason) == (None, MIXED_PROMPTS)


def test_prompts_that_all_go_to_the_base_keep_their_reason():
    assert conversations().choose_for_all([of("hi"), of("write a poem about autumn leaves")]).reason == LOW_CONFIDENCE
    assert conversations().choose_for_all([]).reason == NO_TEXT


@pytest.mark.parametrize(
    ("system", "user", "learnware"),
    [
        ("neutral", "shares fell", "money"),  # the policy hides the question
        ("classify", "plain material", "mood"),  # the instruction is in the system prompt
        ("classify" + " policy" * 100, "plain material", "mood"),
        ("policy " * 100 + "classify", "plain material", "mood"),
        ("neutral", "hi", None),
        ("", "shares fell", "money"),
    ],
)
def test_a_system_prompt_neither_hides_the_question_nor_is_overlooked(system, user, learnware):

    def choose_text(text):
        asked = len(text) < 500 and "classify" in text and text.endswith("\nplain material")
        return matched("mood", 0.9) if asked else ALONE.get(text, unmatched(0.0))

    choose = by_readings(choose_text, lambda system: "classify" in system)
    assert choose(Turn(user, system)).learnware_id == learnware


@pytest.mark.parametrize("instructs", [True, False])
def test_under_a_system_prompt_that_says_what_to_do_a_message_alone_does_not_count(instructs):
    choose = by_readings(lambda text: ALONE.get(text, unmatched(0.0)), lambda _: instructs)
    assert choose(Turn("shares fell", "Translate it.")).learnware_id == (None if instructs else "money")
    assert choose(Turn("shares fell")).learnware_id == "money"


def test_which_system_prompts_say_what_to_do():
    assert says_what_to_do("You are a translator. Translate every message into Dutch.")
    assert not says_what_to_do("You are a helpful assistant.")
