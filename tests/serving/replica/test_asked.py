"""How much a body asks for, by its path, whatever types its values have."""

import math

import pytest

from serving.replica.asked import BATCH_PATH, COMPLETIONS_PATH, GENERATE_PATH, SCORING_PATH, asked, whole

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("path", "payload", "choices", "prompts"),
    [
        (CHAT, {"messages": []}, 1, 1),
        (CHAT, {"n": 16}, 16, 1),
        (CHAT, {"n": "16"}, 16, 1),
        (CHAT, {"n": 16.0}, 16, 1),
        (CHAT, {"n": None}, 1, 1),
        (CHAT, {"n": -3}, 1, 1),
        (CHAT, {"n": [1]}, 1, 1),
        (COMPLETIONS_PATH, {"n": 2, "best_of": 5, "prompt": ["a", "b"]}, 5, 2),
        (COMPLETIONS_PATH, {"prompt": "a"}, 1, 1),
        (COMPLETIONS_PATH, {"prompt": [1, 2, 3]}, 1, 1),
        (COMPLETIONS_PATH, {"prompt": [[1, 2], [3]]}, 1, 2),
        (COMPLETIONS_PATH, {"prompt": [1, "a", 2]}, 1, 3),
        (COMPLETIONS_PATH, {"prompt": "a", "prompt_embeds": ["x", "y"]}, 1, 3),
        (COMPLETIONS_PATH, {"prompt_embeds": ["x", "y"]}, 1, 2),
        (COMPLETIONS_PATH, {"prompt": []}, 1, 1),
        (COMPLETIONS_PATH, {}, 1, 1),
        (BATCH_PATH, {"messages": [[], [], []]}, 1, 3),
        (SCORING_PATH, {"items": ["a", "b"], "query": "c"}, 1, 2),
        (GENERATE_PATH, {"token_ids": [1, 2], "sampling_params": {"n": 7}}, 7, 1),
        (GENERATE_PATH, {"sampling_params": 5}, 1, 1),
        ("/invocations", {"messages": [], "prompt": ["a", "b"], "n": 3}, 3, 2),
    ],
)
def test_choices_and_prompts(path, payload, choices, prompts):
    one = asked(path, payload)
    assert (one.choices, one.prompts, one.places) == (choices, prompts, choices * prompts)


@pytest.mark.parametrize(
    ("path", "payload", "tokens", "explicit"),
    [
        (CHAT, {}, None, False),
        (CHAT, {"max_tokens": 5}, 5, True),
        (CHAT, {"max_tokens": 5, "max_completion_tokens": 7}, 7, True),
        (CHAT, {"max_tokens": 5, "max_completion_tokens": None}, 5, True),
        (CHAT, {"max_tokens": "5"}, 5, True),
        (CHAT, {"max_tokens": -1}, 0, True),
        (COMPLETIONS_PATH, {}, 16, False),
        ("/v1/responses", {"max_output_tokens": 9, "max_tokens": 5}, 9, True),
        ("/v1/messages", {"max_tokens": 9}, 9, True),
        ("/invocations", {"messages": []}, None, False),
        ("/invocations", {"prompt": "a"}, 16, False),
        (GENERATE_PATH, {"max_tokens": 5, "sampling_params": {"max_tokens": 9}}, 9, True),
        (SCORING_PATH, {"max_tokens": 5}, 1, False),
    ],
)
def test_tokens_of_an_answer(path, payload, tokens, explicit):
    one = asked(path, payload)
    assert (one.max_tokens, one.is_explicit) == (tokens, explicit)


def test_the_estimate_counts_every_answer_and_a_quarter_of_the_body():
    assert asked(COMPLETIONS_PATH, {"prompt": ["a", "b"], "n": 3, "max_tokens": 10}).tokens(400) == 160
    assert asked(CHAT, {"max_tokens": 10}).tokens(400) < asked(CHAT, {}).tokens(400)


@pytest.mark.parametrize(
    ("value", "number"),
    [(3, 3), ("3", 3), (" 3 ", 3), (3.0, 3), ("3.0", 3), (True, 1), (2.5, 2), ("x", None), (None, None), ([3], None)],
)
def test_whole_numbers_in_all_their_forms(value, number):
    assert whole(value) == number


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "nan", "inf", "9" * 5000, "1e999"])
def test_what_is_no_number_counts_as_not_given(value):
    assert whole(value) is None
