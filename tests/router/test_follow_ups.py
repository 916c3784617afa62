"""Turns with and without a topic of their own. None of them stands in the router's own lists."""

import pytest

from router.follow_ups import FollowUps
from specs.encoder import STATIC_ENCODER, load_encoder


@pytest.fixture(scope="module")
def follow_ups() -> FollowUps:
    return FollowUps(load_encoder(STATIC_ENCODER))


@pytest.mark.parametrize(
    "turn",
    [
        "Could you elaborate on your reasoning?",
        "Hmm, can you explain that in a different way?",
        "Are you completely certain that this is right?",
        "Please repeat the last step slowly.",
        "Why did you choose this label and not the other?",
        "Can you rewrite it so that a child understands?",
        "And what happens if we take only half of it?",
        "That does not look right to me, could you recompute it?",
    ],
)
def test_a_follow_up_has_no_topic_of_its_own(follow_ups, turn):
    assert follow_ups.includes(turn)


@pytest.mark.parametrize(
    "turn",
    [
        "Plan a three day trip to Rome",
        "Who won the world cup in 1998?",
        "Recommend a good science fiction novel",
        "What's the weather like in spring in Oslo?",
        "Draft an email to my landlord about the heating",
        "Give me ideas for a birthday party for a five year old",
        "Write a Python class for a linked list",
    ],
)
def test_a_new_topic_is_no_follow_up(follow_ups, turn):
    assert not follow_ups.includes(turn)
