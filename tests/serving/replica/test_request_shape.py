"""Bodies that are larger or deeper than any request needs to be are refused before they cost anything."""

import json

import pytest

from serving.replica.request_shape import FORMS, LARGE_BYTES, MAX_DEPTH, MAX_ITEMS, MAX_VALUES, parse_object
from specs.errors import InvalidInput


def nested(depth: int, opening: str = '{"a":', closing: str = "}") -> bytes:
    return (opening * depth + "1" + closing * depth).encode()


def chat(messages: object) -> bytes:
    return json.dumps({"model": "auto", "messages": messages}).encode()


@pytest.mark.parametrize("body", [b"", b"not json", b"[1]", b"5", b"{", b'{"a":' + b"9" * 5000 + b"}"])
def test_what_is_no_object_is_passed_over(body):
    assert parse_object(body) is None


@pytest.mark.parametrize(
    "body",
    [
        nested(MAX_DEPTH + 1),
        nested(3000),
        nested(200_000),
        b'{"messages":' + nested(200_000, "[", "]") + b"}",
        b'{"messages":' + nested(MAX_DEPTH + 1, "[", "]") + b"}",
    ],
)
def test_deep_bodies_are_refused(body):
    with pytest.raises(InvalidInput, match=r"nested too deeply|too many values"):
        parse_object(body)


@pytest.mark.parametrize(
    "body",
    [
        chat([[]] * (MAX_ITEMS + 1)),
        chat([1] * (MAX_ITEMS + 1)),
        chat([[1] * (MAX_ITEMS + 1)]),
        chat([[1] * 100] * 200),
        json.dumps({"prompt": [[[]] * 10] * MAX_ITEMS}).encode(),
        json.dumps({f"k{number}": 1 for number in range(MAX_ITEMS + 1)}).encode(),
        b'{"messages":[' + b"[]," * 1_300_000 + b"[]]}",
        b'{"messages":[' + b'{"a":1},' * 500_000 + b"{}]}",
    ],
)
def test_bodies_of_many_values_are_refused(body):
    with pytest.raises(InvalidInput, match=r"elements|too many values"):
        parse_object(body)


def test_brackets_of_a_large_body_are_counted_before_it_is_parsed(monkeypatch):
    def parse(_: bytes) -> None:
        raise AssertionError("parsed")

    monkeypatch.setattr(json, "loads", parse)
    with pytest.raises(InvalidInput, match=f"at most {MAX_VALUES}"):
        parse_object(b'{"messages":[' + b"[]," * (LARGE_BYTES // 3) + b"[]]}")


@pytest.mark.parametrize(
    "payload",
    [
        {"messages": [{"role": "user", "content": 'if (a[0] == "\\"") { b(); }\n' * 20_000}]},
        {"prompt": [1, 2, 3] * 100_000},
        {"prompt": [[1, 2, 3] * 1_000] * 64},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}] * MAX_ITEMS},
        {"logit_bias": {str(number): 1 for number in range(1024)}},
        json.loads(nested(MAX_DEPTH - 2)),
    ],
)
def test_large_requests_that_are_what_they_should_be_are_taken(payload):
    assert parse_object(json.dumps(payload).encode()) == payload


@pytest.mark.parametrize("field", FORMS)
@pytest.mark.parametrize("value", ["x", "", 5, 0, 1.5, True, False, [1], {"a": 1}])
def test_a_field_of_another_json_type_is_refused_by_name(field, value):
    body = json.dumps({"model": "auto", field: value}).encode()
    if isinstance(value, FORMS[field]):
        assert parse_object(body) == {"model": "auto", field: value}
    else:
        with pytest.raises(InvalidInput, match=f"'{field}' must be an? "):
            parse_object(body)


@pytest.mark.vllm
@pytest.mark.parametrize(
    "text",
    [
        '"\\udfff"', '"\\ud800"', '"\\uD83D and more"', '["fine", "\\ude00\\ud83d"]', '{"\\ud800": 1}',
        '{"deep": [{"er": "\\uDBFF"}]}',
    ],
)  # fmt: skip
def test_half_of_a_surrogate_pair_is_refused(text):
    with pytest.raises(InvalidInput, match="half of a surrogate pair"):
        parse_object(b'{"stop": ' + text.encode() + b"}")


@pytest.mark.parametrize(
    "text", ['"\\ud83d\\ude00"', '"\\\\ud800"', '"C:\\\\udders"', '"😀"', '"\\ud83d\\ude00 and \\\\udfff"']
)
def test_whole_pairs_and_what_only_looks_like_one_are_taken(text):
    assert parse_object(b'{"stop": ' + text.encode() + b"}") == {"stop": json.loads(text)}


@pytest.mark.parametrize(
    "text",
    [
        str(10**30), str(-(10**30)), str(2**63), str(-(2**63)), "1e19", "1E+30", "-1e300", "[1, 10000000000000000000]",
        '{"deep": [{"er": 1e30}]}', "9" * 400,
    ],
)  # fmt: skip
def test_a_number_that_no_engine_takes_is_refused(text):
    with pytest.raises(InvalidInput, match="more than 63 bits"):
        parse_object(b'{"top_k": ' + text.encode() + b"}")


@pytest.mark.parametrize("text", [str(2**63 - 1), str(1 - 2**63), '"1e30"', f'"{10**30}"', "1e-30", "1e10", "1e400"])
def test_other_numbers_and_digits_in_a_text_are_taken(text):
    assert parse_object(b'{"seed": ' + text.encode() + b"}") == {"seed": json.loads(text)}


def test_whatever_is_let_through_vllm_refuses_in_words():
    """vLLM's own classes raise what its handlers answer with 400, or take it."""
    from vllm.entrypoints.openai.chat_completion.protocol import BatchChatCompletionRequest, ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
    from vllm.exceptions import VLLMValidationError

    message = {"role": "user", "content": "x"}
    good = {
        ChatCompletionRequest: {"messages": [message]},
        BatchChatCompletionRequest: {"messages": [[message]]},
        CompletionRequest: {"prompt": "x"},
        ResponsesRequest: {"input": "x"},
    }
    values = [True, 0, -1, 1.5, "x", "", [], [1], [None], [{}], {}, {"a": 1}, {"type": "json_schema"}, {"regex": 5}]
    refused = 0
    for kind, fields in good.items():
        for field in kind.model_fields:
            for value in values:
                body = {"model": "m", **fields, field: value}
                try:
                    kind.model_validate(parse_object(json.dumps(body).encode()))
                except (InvalidInput, VLLMValidationError, ValueError):  # pydantic's error is a ValueError
                    refused += 1
    assert refused > 500
