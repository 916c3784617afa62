"""Error objects: the form of the API that was called, the status, and the headers that tell a client what to do."""

import json

import pytest

from serving.openai_errors import error_response
from specs.errors import (
    InvalidInput,
    LearnwareError,
    NotReady,
    Overloaded,
    StoreFull,
    TooLarge,
    Unauthorized,
    UnknownModel,
)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messagesx", "/", ""])
def test_openais_form_is_the_rule(path: str) -> None:
    answer = error_response(Overloaded("busy", retry_after_s=7), path)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert json.loads(answer.body) == {
        "error": {"message": "busy", "type": "rate_limit_error", "param": None, "code": "router_overloaded"}
    }


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidInput("x"), "invalid_request_error"),
        (Unauthorized("x"), "authentication_error"),
        (UnknownModel("x"), "not_found_error"),
        (TooLarge("x"), "request_too_large"),
        (Overloaded("x"), "rate_limit_error"),
        (NotReady("x"), "overloaded_error"),
        (StoreFull("x"), "api_error"),
        (LearnwareError("x"), "api_error"),
    ],
)
def test_anthropics_paths_have_anthropics_form(path: str, error: LearnwareError, kind: str) -> None:
    answer = error_response(error, path)
    assert answer.status_code == error.status
    assert json.loads(answer.body) == {"type": "error", "error": {"type": kind, "message": "x"}}


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/models"])
def test_who_lacks_a_key_is_told_the_scheme(path: str) -> None:
    assert error_response(Unauthorized("x"), path).headers["www-authenticate"] == "Bearer"
    assert "www-authenticate" not in error_response(UnknownModel("x"), path).headers
