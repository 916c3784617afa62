"""The body of a request on its way to vLLM's application: the model that it asks for, and its form for the model that
answers.

At `/invocations` a header may name the model: vLLM 0.29 writes SageMaker's adapter header over the body's `model`, and
null where the client sent none. So it counts as the client's `model` here, and carries the one that answers.

What says nothing, and what no client may decide, is taken out (`serving.replica.request_edits`). Requests for
log-probabilities of tokens that the client lists are refused, since they would spoil other clients'
(`CHOSEN_LOGPROBS`).
"""

import json
from typing import Any, NamedTuple

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope

from serving.replica.asked import SAGEMAKER_PATH
from serving.replica.request_edits import PRIORITY_HEADER, mended
from serving.replica.request_shape import parse_object
from specs.errors import InvalidInput

EXPLAIN_PATH = "/v1/route"
"""Path of the explanation of a choice, which the middleware passes on unchanged: the router must see `model` as the
client wrote it."""
_SAGEMAKER_ADAPTER = b"x-amzn-sagemaker-adapter-identifier"
"""`inject_adapter_id` on the route of `vllm.entrypoints.serve.sagemaker.api_router` reads it."""

CHOSEN_LOGPROBS = frozenset({"logprob_token_ids", "label_token_ids"})
"""Fields of a body, or of its `sampling_params`, that list tokens: chat's, and those of `/generative_scoring`. With one
such request in the batch vLLM 0.29 gives all others that ask for log-probabilities the listed tokens' places in the
stead of their own likeliest ones, filled with minus infinity (`vllm.v1.sample.sampler.Sampler.forward`)."""


def _takes_a_model(scope: Scope) -> bool:
    if scope["method"] != "POST" or scope["path"] == EXPLAIN_PATH:
        return False
    return any(name == b"content-type" and b"json" in value.lower() for name, value in scope["headers"])


def _sagemaker_adapter(scope: Scope) -> str | None:
    value = dict(scope["headers"]).get(_SAGEMAKER_ADAPTER)
    return value.decode("latin-1") if value else None


class IncomingRequest(NamedTuple):
    """A request on its way to vLLM's application. `body` is None where it was not read; `payload` is the body's JSON
    object, or None for a request that is passed on as it is."""

    scope: Scope
    receive: Receive
    body: bytes | None = None
    payload: dict[str, Any] | None = None
    model: str | None = None
    """The model that the client asks for."""
    edited: bool = False
    """Whether `payload` is another than the one in `body`."""

    def carrying(self, payload: dict[str, Any]) -> "IncomingRequest":
        """Returns the request with another JSON object."""
        return self if payload is self.payload else self._replace(payload=payload, edited=True)

    def naming(self, model: str) -> "IncomingRequest":
        """Returns the request with `model` in its body, and at `/invocations` in SageMaker's header; a body that names
        no model is left as it is."""
        scope, body = self.scope, self.body
        if self.payload is not None and (self.edited or self.model not in (None, model)):
            payload = self.payload if self.model is None else {**self.payload, "model": model}
            body = json.dumps(payload, separators=(",", ":")).encode()
            scope = _with_length(scope, len(body))
        if scope["path"] == SAGEMAKER_PATH:
            scope = _with_header(scope, _SAGEMAKER_ADAPTER, model)
        return self._replace(scope=scope, body=body)

    def replay(self) -> Receive:
        """Returns the ASGI `receive` by which vLLM's application reads this request."""
        return self.receive if self.body is None else replay(self.body, self.receive)


async def read_request(scope: Scope, receive: Receive) -> IncomingRequest:
    """Reads the body of a request that may name a model; any other request is left unread.

    Raises:
        ClientDisconnect: the client hung up before the body was complete.
        InvalidInput: the body is not UTF-8, it is larger or deeper than any request needs to be, or it asks for
            log-probabilities of listed tokens.
    """
    if not _takes_a_model(scope):
        return IncomingRequest(scope, receive)
    # Each process that needs something of a body parses it: the router, for the prompts (`router.request`); this one,
    # for `model` and for what is edited or limited; then vLLM's application, which takes bytes alone. They are written
    # anew only where the model is another one than the client named, or something was edited.
    body = await _read_body(receive)
    payload = parse_object(body)
    if payload is None:
        return IncomingRequest(scope, receive, body)
    _refuse_chosen_logprobs(payload)
    model = payload.get("model")
    if scope["path"] == SAGEMAKER_PATH:
        model = _sagemaker_adapter(scope) or model
    if not isinstance(model, str | None):
        return IncomingRequest(scope, receive, body)  # vLLM's own validation says what is wrong
    if PRIORITY_HEADER in dict(scope["headers"]):
        scope = {**scope, "headers": [header for header in scope["headers"] if header[0] != PRIORITY_HEADER]}
    return IncomingRequest(scope, receive, body, payload, model).carrying(mended(payload))


def _refuse_chosen_logprobs(payload: dict[str, Any]) -> None:
    """Raises InvalidInput for a body that asks for log-probabilities of listed tokens."""
    sampling = payload.get("sampling_params")
    for place in (payload, sampling if isinstance(sampling, dict) else {}):
        given = sorted(field for field in CHOSEN_LOGPROBS if place.get(field) is not None)
        if given:
            raise InvalidInput(
                f"Log-probabilities of listed tokens ({given[0]}) are not available: vLLM would give the same tokens "
                "to everybody whose request runs beside. Leave the field out; logprobs with top_logprobs are there."
            )


async def _read_body(receive: Receive) -> bytes:
    """Returns the whole body.

    Raises:
        ClientDisconnect: the client hung up before it was complete.
    """
    chunks: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(chunks)


def replay(body: bytes, receive: Receive) -> Receive:
    """Returns an ASGI `receive` that yields the body once and then the server's own messages; a disconnect among them
    aborts the request in the engine."""
    sent = False

    async def once() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return once


def _with_length(scope: Scope, length: int) -> Scope:
    headers = [header for header in scope["headers"] if header[0] != b"transfer-encoding"]
    return _with_header({**scope, "headers": headers}, b"content-length", str(length))


def _with_header(scope: Scope, name: bytes, value: str) -> Scope:
    headers = [header for header in scope["headers"] if header[0] != name]
    return {**scope, "headers": [*headers, (name, value.encode())]}
