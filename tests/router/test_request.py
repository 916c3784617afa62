"""What the router reads from a request's body."""

import json

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from router.request import MAX_TURNS, SYSTEM_HEAD_CHARS, read_request


def body(**fields):
    return json.dumps({"model": "auto", **fields}).encode()


def user(text):
    return {"role": "user", "content": text}


def test_a_single_question_is_one_turn():
    request = read_request(body(messages=[user(" Will shares of ACME rise? ")]))
    assert request == ("auto", ("Will shares of ACME rise?",), True)


def test_assistant_and_tool_messages_do_not_count():
    messages = [
        user("What does metformin do?"),
        {"role": "assistant", "content": "It lowers blood glucose."},
        {"role": "tool", "tool_call_id": "t1", "content": "stock price 12.5"},
        user("And in children?"),
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "tool_call_id": "t2", "content": "42"},
    ]
    assert read_request(body(messages=messages)).turns == ("What does metformin do?", "And in children?")


def test_the_head_of_the_system_prompt_goes_before_the_first_turn_only():
    system = {"role": "system", "content": "Classify the tweet." + "x" * 10_000}
    first, second = read_request(body(messages=[system, user("one"), user("two")])).turns
    assert first.startswith("Classify the tweet.")
    assert first.endswith("\none")
    assert len(first) == SYSTEM_HEAD_CHARS + len("\none")
    assert second == "two"


def test_a_system_prompt_alone_is_routed_on():
    assert read_request(body(messages=[{"role": "system", "content": "Solve: 2 + 2"}])).turns == ("Solve: 2 + 2",)


def test_content_parts_count_as_their_text():
    parts = [
        {"type": "text", "text": "What is"},
        {"type": "image_url", "image_url": {"url": "data:"}},
        {"type": "text", "text": "this rash?"},
    ]
    assert read_request(body(messages=[user(parts)])).turns == ("What is\nthis rash?",)


def test_of_many_turns_the_first_and_the_latest_are_kept():
    turns = read_request(body(messages=[user(f"turn {n}") for n in range(30)])).turns
    assert len(turns) == MAX_TURNS
    assert turns[0] == "turn 0"
    assert turns[1:] == tuple(f"turn {n}" for n in range(30 - MAX_TURNS + 1, 30))


def test_a_completion_prompt_is_the_turn():
    assert read_request(body(prompt="Tom has 3 apples")).turns == ("Tom has 3 apples",)
    assert read_request(body(prompt=["first", "second"])).turns == ("first",)


def test_token_ids_are_decoded_and_ignored_without_a_decoder():
    def decode(ids):
        return " ".join(f"<{i}>" for i in ids)

    assert read_request(body(prompt=[1, 2, 3]), decode).turns == ("<1> <2> <3>",)
    assert read_request(body(prompt=[[4, 5], [6]]), decode).turns == ("<4> <5>",)
    assert read_request(body(prompt=[1, 2, 3])).turns == ()
    assert read_request(body(prompt=[1, "x"]), decode).turns == ()


def test_input_of_the_responses_route_is_read():
    assert read_request(body(input="a question")).turns == ("a question",)
    assert read_request(body(input=[user("a question")], instructions="Be brief.")).turns == ("Be brief.\na question",)


@pytest.mark.parametrize("keep", [120, 400, 5_000])
def test_a_body_cut_at_the_edge_is_read_as_far_as_it_goes(keep):
    whole = body(messages=[user("A company reported lower revenue. " * 5_000)])
    request = read_request(whole[:keep])
    assert request.model == "auto"
    assert not request.whole
    assert request.turns[0].startswith("A company reported lower revenue.")


def test_a_cut_body_whose_model_comes_last_has_no_model_but_a_text():
    cut = json.dumps({"messages": [user("What is 3 + 4?" * 100)], "model": "auto"}).encode()[:500]
    request = read_request(cut)
    assert request.model is None
    assert request.turns[0].startswith("What is 3 + 4?")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"not json",
        b"[]",
        b"null",
        b"12",
        b'{"model": 5}',
        b'{"messages": "hi"}',
        b'{"messages": [1, null, {}]}',
        b'{"prompt": {}}',
        b'{"messages": [{"role": "user", "content": {"a": 1}}]}',
        b"\xff\xfe{",
        b'{"a":' * 50_000,
        b'{"prompt": "\\ud800"}',
    ],
)
def test_odd_bodies_are_read_without_an_error(raw):
    read_request(raw)


@given(st.binary(max_size=300))
def test_no_bytes_make_it_raise(raw):
    read_request(raw)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["role", "content", "text", "type"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # a busy machine draws the first example slowly
@given(
    st.dictionaries(
        st.sampled_from(["model", "messages", "prompt", "input", "instructions", "system"]), json_values, max_size=6
    )
)
def test_no_json_object_makes_it_raise(payload):
    raw = json.dumps(payload).encode()
    read_request(raw)
    read_request(raw[: len(raw) * 2 // 3])
