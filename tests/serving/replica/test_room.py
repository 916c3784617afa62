"""An answer that is to be longer than there is room for: shortened where the router chooses, else refused with the
room."""

from types import SimpleNamespace

import pytest

from serving.replica.shortening import shortened

pytestmark = pytest.mark.vllm

MODEL = SimpleNamespace(max_model_len=100)


@pytest.fixture(scope="module", autouse=True)
def replaced():
    from serving.replica import room

    before = [(one, one.build_tok_params) for one, _ in room.LIMITED]
    room.shorten_answers_to_the_room()
    room.shorten_answers_to_the_room()  # a second time changes nothing
    yield
    for one, build in before:
        one.build_tok_params = build


def requests(tokens, **fields):
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

    messages = [{"role": "user", "content": "a"}]
    return {
        "max_tokens": ChatCompletionRequest.model_validate({"messages": messages, "max_tokens": tokens} | fields),
        "max_completion_tokens": ChatCompletionRequest.model_validate(
            {"messages": messages, "max_completion_tokens": tokens, "max_tokens": 5} | fields
        ),
        "prompt": CompletionRequest.model_validate({"prompt": "a", "max_tokens": tokens} | fields),
        "max_output_tokens": ResponsesRequest.model_validate({"input": "a", "max_output_tokens": tokens}),
    }


KINDS = ["max_tokens", "max_completion_tokens", "prompt", "max_output_tokens"]


def check(params, prompt):
    return params.apply_post_tokenization(None, {"prompt_token_ids": [7] * prompt})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [71, 100, 101, 5000])
def test_it_is_shortened_where_the_router_chooses(kind, tokens):
    with shortened(shorten=True):
        params = requests(tokens)[kind].build_tok_params(MODEL)
    assert len(check(params, 30)["prompt_token_ids"]) == 30


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [71, 100, 101, 5000])
def test_a_named_model_refuses_it_and_says_the_room(kind, tokens):
    from vllm.exceptions import VLLMValidationError

    params = requests(tokens)[kind].build_tok_params(MODEL)
    field = "max_tokens" if kind == "prompt" else kind
    with pytest.raises(VLLMValidationError, match=rf"{field}={tokens} .* prompt has 30 tokens.* at most 70"):
        check(params, 30)


@pytest.mark.parametrize("shorten", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_what_fits_passes_and_a_prompt_without_room_is_refused(kind, shorten):
    from vllm.exceptions import VLLMValidationError

    with shortened(shorten):
        params = requests(70)[kind].build_tok_params(MODEL)
    check(params, 30)
    with pytest.raises(VLLMValidationError, match="maximum context length is 100"):
        check(params, 100)


@pytest.mark.parametrize(("shorten", "tokens", "left"), [(True, 70, 30), (False, 70, 30), (True, 5000, 50)])
def test_a_prompt_that_is_to_be_cut_leaves_its_answer_the_room(shorten, tokens, left):
    with shortened(shorten):
        params = requests(tokens, truncate_prompt_tokens=-1)["prompt"].build_tok_params(MODEL)
    assert params.max_input_tokens == left


def test_without_a_limit_nothing_changes():
    params = requests(None)["max_tokens"].build_tok_params(MODEL)
    assert params.max_output_tokens == 0


def test_vllm_shortens_the_answer_itself_once_the_prompt_is_taken():
    from vllm.entrypoints.serve.utils.api_utils import get_max_tokens

    assert get_max_tokens(100, 5000, 30, {}) == 70
