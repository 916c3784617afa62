"""A conversation stays with its learnware unless its topic really changes."""

from router.choice import LOW_CONFIDENCE, MATCHED, NO_TEXT, SESSION
from router.conversation import ConversationSettings, choose_for_conversation
from router.selection import Candidate, Choice

SETTINGS = ConversationSettings()
FOLLOW_UPS = {"explain that in one sentence"}


def matched(learnware, score, *others):
    candidates = (Candidate(learnware, score), *(Candidate(*other) for other in others))
    return Choice(learnware, score, 0.9, MATCHED, candidates)


def unmatched(confidence):
    return Choice(None, 0.1, confidence, LOW_CONFIDENCE, (Candidate("money", 0.1), Candidate("health", 0.1)))


ALONE = {
    "shares fell": matched("money", 0.8, ("health", 0.1)),
    "revenue rose": matched("money", 0.7, ("health", 0.2)),
    "a rash on the arm": matched("health", 0.9, ("money", 0.1)),
    "and in 2019?": matched("health", 0.31, ("money", 0.30)),
    "why?": unmatched(0.05),
    "explain that in one sentence": unmatched(0.0),
    "hi": unmatched(0.01),
    "write a poem about autumn leaves": unmatched(0.02),
    "a long question on something near": unmatched(0.4),
}


def decide(*turns):
    choice = choose_for_conversation(turns, ALONE.__getitem__, FOLLOW_UPS.__contains__, SETTINGS)
    return choice.learnware_id, choice.reason


def test_no_turn_goes_to_the_base():
    assert decide() == (None, NO_TEXT)


def test_one_turn_decides_alone():
    assert decide("shares fell") == ("money", MATCHED)
    assert decide("hi") == (None, LOW_CONFIDENCE)


def test_the_same_topic_is_matched_again():
    assert decide("shares fell", "revenue rose") == ("money", MATCHED)


def test_a_follow_up_without_a_topic_of_its_own_stays():
    assert decide("shares fell", "why?") == ("money", SESSION)
    assert decide("shares fell", "explain that in one sentence") == ("money", SESSION)
    assert decide("shares fell", "and in 2019?") == ("money", SESSION)
    assert decide("shares fell", "a long question on something near") == ("money", SESSION)


def test_a_clear_new_topic_moves_it_and_then_holds():
    assert decide("shares fell", "a rash on the arm") == ("health", MATCHED)
    assert decide("shares fell", "a rash on the arm", "why?") == ("health", SESSION)


def test_a_greeting_does_not_hold_it_at_the_base():
    assert decide("hi", "shares fell") == ("money", MATCHED)


def test_a_clear_turn_to_something_unknown_leaves_for_the_base():
    assert decide("shares fell", "write a poem about autumn leaves") == (None, LOW_CONFIDENCE)
