"""What the router reads from a request's body."""

import itertools
import json

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from router.request import EDGE_TOKENS, MAX_PROMPTS, read_request
from router.turn import Conversation, Turn
from router.wrappers import OwnWords, RequestSettings
from specs.routed_rows import SYSTEM_CHARS


def body(**fields):
    return json.dumps({"model": "auto", **fields}).encode()


def user(content):
    return {"role": "user", "content": content}


def system(content):
    return {"role": "system", "content": content}


def read(**fields):
    """The one prompt of a request with these fields."""
    (prompt,) = read_request(body(**fields)).prompts
    return prompt


def turns(*messages):
    return read(messages=list(messages)).turns


def texts(**fields):
    """The single turn of each prompt."""
    return [prompt.turns[0] for prompt in read_request(body(**fields)).prompts]


def test_a_single_question_is_one_turn():
    request = read_request(body(messages=[user(" Will shares of ACME rise? ")]))
    assert request == ("auto", (Conversation("", ("Will shares of ACME rise?",)),), True)


def test_assistant_and_tool_messages_do_not_count():
    messages = [
        user("What does metformin do?"),
        {"role": "assistant", "content": "It lowers blood glucose."},
        {"role": "tool", "tool_call_id": "t1", "content": "stock price 12.5"},
        user("And in children?"),
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "tool_call_id": "t2", "content": "42"},
        user([{"type": "tool_result", "tool_use_id": "t3", "content": "NASDAQ"}]),
        user([{"type": "tool_result", "tool_use_id": "t3", "text": "NASDAQ"}]),
        {"type": "function_call_output", "call_id": "c1", "output": "12"},
    ]
    assert turns(*messages) == ("What does metformin do?", "And in children?")


def test_the_system_prompt_counts_for_every_turn():
    prompt = read(messages=[system("Classify the tweet."), user("one"), user("two")])
    assert prompt == Conversation("Classify the tweet.", ("one", "two"))


@pytest.mark.parametrize("length", [0, SYSTEM_CHARS, SYSTEM_CHARS + 1, 3 * SYSTEM_CHARS, 100_000])
def test_of_a_long_system_prompt_both_ends_are_read_with_the_turn(length):
    text = "Classify." + "x" * length + "Be brief."
    turn = Turn("one", read(messages=[system(text), user("one")]).system)
    alone, *others = turn.readings()
    assert turn.readings(instructed=True) == tuple(others)
    assert alone == "one"
    assert others[0] == f"{text[:SYSTEM_CHARS]}\none"
    assert others[-1] == f"{text[-SYSTEM_CHARS:]}\none"
    assert len(others) == 1 + (len(text) > SYSTEM_CHARS)


def test_several_system_prompts_are_read_in_their_order():
    messages = [system("Be brief."), {"role": "developer", "content": "Classify."}, user("one")]
    assert read(messages=messages).system == "Be brief.\nClassify."


def test_a_system_prompt_alone_is_routed_on_as_a_whole():
    text = "Solve: 2 + 2" + " or so" * 500
    assert read(messages=[system(text)]) == Conversation("", (text,))


def test_content_parts_count_as_their_text():
    parts = [
        {"type": "text", "text": "What is"},
        {"type": "image_url", "image_url": {"url": "data:"}},
        {"type": "input_text", "text": "this rash?"},
    ]
    assert turns(user(parts)) == ("What is\nthis rash?",)


@pytest.mark.parametrize("number", [1, 9, 1_000])
def test_every_turn_is_kept_whole(number):
    said = [f"turn {n} " + "word " * 2_000 * (n % 100 == 7) + "end" for n in range(number)]
    assert turns(*map(user, said)) == tuple(said)


@pytest.mark.parametrize(
    "text",
    [
        "ما هي أعراض السكري؟",
        "\u202bשאלה\u202c",
        "股票会涨吗？",
        "🤒 fever",
        "a\u0301 e\u0301",
        "\u200fمرحبا",
        "lone \ud800 surrogate",
    ],
)
def test_no_language_loses_a_character(text):
    assert turns(user(text)) == (text,)


def test_a_completion_prompt_is_the_turn_and_each_of_a_list_is_a_prompt():
    assert texts(prompt="Tom has 3 apples") == ["Tom has 3 apples"]
    assert texts(prompt=["first", "second"]) == ["first", "second"]
    assert read_request(body(prompt=["first", ""])).prompts[1] == Conversation("", ())


def test_a_batch_of_conversations_is_one_prompt_each():
    first, second = [system("Be brief."), user("one"), user("two")], [user("three")]
    prompts = read_request(body(messages=[first, second])).prompts
    assert prompts == (Conversation("Be brief.", ("one", "two")), Conversation("", ("three",)))
    assert read_request(body(messages=[first, "odd", []])).prompts[1:] == (Conversation("", ()),) * 2


@pytest.mark.parametrize("number", [MAX_PROMPTS, MAX_PROMPTS + 1, 1_000])
def test_of_many_prompts_some_are_looked_at_from_the_first_to_the_last(number):
    for found in (
        texts(prompt=[str(n) for n in range(number)]),
        texts(messages=[[user(str(n))] for n in range(number)]),
    ):
        assert len(set(found)) == MAX_PROMPTS
        assert (found[0], found[-1]) == ("0", str(number - 1))
        steps = [int(after) - int(before) for before, after in itertools.pairwise(found)]
        assert max(steps) - min(steps) <= 1


def test_token_ids_are_decoded_and_ignored_without_a_decoder():
    def decode(ids):
        return " ".join(f"<{i}>" for i in ids)

    def decoded(prompt, decoder=decode):
        return [one.turns for one in read_request(body(prompt=prompt), decoder).prompts]

    assert decoded([1, 2, 3]) == [("<1> <2> <3>",)]
    assert decoded([[4, 5], [6]]) == [("<4> <5>",), ("<6>",)]
    assert decoded([1, 2, 3], None) == [()]
    assert decoded([1, "x"]) == [()]
    assert decoded([True]) == [()]
    ((long,),) = decoded(list(range(3 * EDGE_TOKENS)))
    assert len(long.split()) == 2 * EDGE_TOKENS
    assert (long.split()[0], long.split()[-1]) == ("<0>", f"<{3 * EDGE_TOKENS - 1}>")


@pytest.mark.parametrize(
    "given",
    [
        "a question",
        [user("a question")],
        [{"type": "message", **user([{"type": "input_text", "text": "a question"}])}],
        [
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "NASDAQ"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "It fell."}]},
            {"type": "function_call", "call_id": "c1", "name": "price", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "12.5"},
            user([{"type": "input_text", "text": "a question"}, {"type": "input_image", "image_url": "data:"}]),
        ],
    ],
    ids=["a text", "a message", "an item of parts", "items of all kinds"],
)
def test_input_of_the_responses_route_is_read_with_its_instructions(given):
    assert read(input=given) == Conversation("", ("a question",))
    assert read(input=given, instructions="Be brief.") == Conversation("Be brief.", ("a question",))
    assert read(input=given, instructions=None, previous_response_id="resp_1") == Conversation("", ("a question",))
    assert read_request(body(input=given, instructions="Be brief.", stream=True)).whole


def test_an_input_that_says_nothing_leaves_the_instructions_and_one_that_is_none_leaves_nothing():
    assert read(input="", instructions="Solve: 2 + 2") == Conversation("", ("Solve: 2 + 2",))
    for nothing in (5, None, [], {}):
        prompts = read_request(body(input=nothing, instructions="Be brief.")).prompts
        assert not any(prompt.turns for prompt in prompts)


@pytest.mark.parametrize(
    "instruction", ["Classify.", [{"type": "text", "text": "Classify."}]], ids=["a text", "content blocks"]
)
def test_system_of_the_messages_route_is_the_system_prompt(instruction):
    answered = {"role": "assistant", "content": [{"type": "text", "text": "negative"}]}
    prompt = read(system=instruction, messages=[user("one"), answered, user([{"type": "text", "text": "two"}])])
    assert prompt == Conversation("Classify.", ("one", "two"))


@pytest.mark.parametrize("place", ["field", "message"])
def test_what_a_client_wrote_for_its_providers_accounts_is_no_instruction(place):
    blocks = [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=1.0.0; cch=3f9a2;"},
        {"type": "text", "text": "Classify."},
    ]
    if place == "field":
        assert read(system=blocks, messages=[user("one")]).system == "Classify."
    else:
        assert read(messages=[system(blocks), user("one")]).system == "Classify."


def test_token_ids_of_the_generate_route_are_decoded():
    def decode(ids):
        return " ".join(f"<{i}>" for i in ids)

    (prompt,) = read_request(body(token_ids=[1, 2], sampling_params={"max_tokens": 1}), decode).prompts
    assert prompt.turns == ("<1> <2>",)


def test_what_programs_wrote_into_messages_does_not_count():
    said = [
        "<system-reminder>today is Monday</system-reminder>",
        "Explain bonds.<environment_details>open tabs</environment_details>",
    ]
    assert turns(*map(user, said)) == ("Explain bonds.",)
    assert turns(user(said[0])) == (said[0],)  # there is nothing else
    assert turns(user(said[1]), user("This session is being continued from a previous conversation that …")) == (
        "Explain bonds.",
    )
    assert texts(prompt=said[1]) == ["Explain bonds."]


def test_other_settings_are_followed():
    words = OwnWords(RequestSettings(wrapper_tags=("memo",)))
    messages = [system("Be brief."), user("one<memo>two</memo><rules>three</rules>")]
    assert read_request(body(messages=messages), None, words).prompts == (
        Conversation("Be brief.", ("one<rules>three</rules>",)),
    )


@pytest.mark.parametrize("keep", [120, 400, 5_000])
def test_a_body_cut_at_the_edge_is_read_as_far_as_it_goes(keep):
    whole = body(messages=[user("A company reported lower revenue. " * 5_000)])
    request = read_request(whole[:keep])
    assert request.model == "auto"
    assert not request.whole
    assert request.prompts[0].turns[0].startswith("A company reported lower revenue.")


def test_a_cut_body_whose_model_comes_last_has_no_model_but_a_text():
    cut = json.dumps({"messages": [user("What is 3 + 4?" * 100)], "model": "auto"}).encode()[:500]
    request = read_request(cut)
    assert request.model is None
    assert request.prompts[0].turns[0].startswith("What is 3 + 4?")


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
        b'{"messages": [[[[]]]]}',
        b'{"messages": [[1], {"role": "user"}]}',
        b'{"prompt": [[], [[1]], null, {}]}',
        b'{"prompt": [99999999999999999999999]}',
        b'{"messages": [{"role": [], "content": [[], {"type": [], "text": 5}]}]}',
        b'{"token_ids": ["a", {}]}',
        b'{"input": [{"role": "user"}, 5, null], "instructions": [1, {"text": {}}]}',
        b'{"messages": [{"role": "system", "content": [5, [[]], {"text": 1}]}], "system": {"text": []}}',
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
        st.sampled_from(["model", "messages", "prompt", "input", "instructions", "system", "token_ids"]),
        json_values,
        max_size=6,
    )
)
def test_no_json_object_makes_it_raise(payload):
    raw = json.dumps(payload).encode()
    read_request(raw)
    read_request(raw[: len(raw) * 2 // 3])
