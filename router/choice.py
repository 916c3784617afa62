"""The choice as it travels from the router to an engine replica: one signed header.

HAProxy strips client headers named `x-serve-router-*` (`serving.edge.frontend`); but a client that reaches a
replica's own port, or Ray's fallback proxy, could still write one. So the value is signed with a secret known to the
router and the engine replicas only (`serving.signing`); an unsigned or altered value counts as no choice.

Ray 2.60's Lua code (`ingress_request_router.lua.tmpl`, `set_router_response_headers`) copies values that hold no quote
and no brace, so the value is URL-encoded: `learnware=…&reason=…&score=…&ms=…&sign=…`, with
`&next=…` before the signature where there is a next best learnware, and `&id=…`, by which the replica's record of the
request finds the router's record of the choice.
"""

import hashlib
import hmac
import secrets
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

CHOICE_HEADER = "x-serve-router-learnware"
"""Name of the header that carries the signed choice."""

FAILED_HEADER = "x-serve-router-failed"
"""Name of the header that HAProxy sets when it asked for a choice and got none; it only explains, so it needs no
signature."""
FAILED_TIMEOUTS = frozenset({"router_timeout", "router_unreachable"})
"""Values of `FAILED_HEADER` when a router may live but gave no answer in time. Unreachable is what Ray's script calls
its own time limit; since it asks a socket of HAProxy's own, which is always there, it means nothing else."""

MATCHED = "matched"
"""Reason: the last turn's text matches the learnware."""
NAMED = "named"
"""Reason: the request names its model."""
SESSION = "session"
"""Reason: an earlier turn of the conversation matched the learnware."""
TASK = "task"
"""Reason: the task that the request names matches the learnware."""
RESIDENT = ":resident"
"""Ending of a reason: another learnware was as good within the margin, and its adapter was in a faster tier."""
NEXT = ":next"
"""Ending of a reason: the replica could not load the chosen learnware's adapter, or does not serve it, and the next
best one answers."""
CANARY = ":canary"
"""Ending of a reason: the request is among the share of a new version of the chosen learnware, which answers it."""
LOW_CONFIDENCE = "base:low-confidence"
"""Reason for the base model: the best learnware's match is below the bound."""
BASE_BETTER = "base:better"
"""Reason for the base model: no learnware's expected quality is above its own."""
NO_TEXT = "base:no-text"
"""Reason for the base model: the request holds no text of the user's."""
MIXED_PROMPTS = "base:mixed-prompts"
"""Reason for the base model: the prompts of one request, which has one `model`, ask for different learnwares."""
EXPLANATION = "base:explanation"
"""Reason for the base model: a turn asks for words about an answer of a learnware that only labels."""
INTERFACE_TASK = "base:interface-task"
"""Reason for the base model: a chat front end asks for something for itself, such as a title of the conversation."""
NO_LEARNWARE = "base:no-learnware"
"""Reason for the base model: the router has no learnware to choose from."""
UNKNOWN_TASK = "base:unknown-task"
"""Reason for no learnware: there is no task with this id. The engine replica turns it into a 404, so the base model
never answers."""
ROUTER_ERROR = "base:router-error"
"""Reason for the base model: the router failed on this request."""
ROUTER_DEADLINE = "base:router-deadline"
"""Reason for the base model: the decision took longer than its deadline."""
ROUTER_OVERLOAD = "base:router-overload"
"""Reason for no choice: more requests than the router can decide on in time. Where overload is refused, HAProxy
answers; the engine replica answers where only it could read the request's model."""
NO_CHOICE = "base:no-choice"
"""Reason for no choice: no header came with the request, and HAProxy says nothing of the router."""
ROUTER_UNREACHABLE = "base:router-unreachable"
"""Reason for no choice: HAProxy could not reach a router."""
ROUTER_TIMEOUT = "base:router-timeout"
"""Reason for no choice: a router took the request and did not answer HAProxy in time."""
GENERATES_NOTHING = "base:generates-nothing"
"""Reason for no choice: the request's path generates nothing, so no router was asked."""

_ID_BYTES = 8
"""Random bytes of a decision's id: among a million decisions two are alike once in 37 million times."""
_SIGNATURE_CHARS = 32
"""Hexadecimal digits of the signature, 128 bits of the HMAC: forging one needs 2^127 tries on average, and the header
stays short."""


class RoutedChoice(NamedTuple):
    """A choice as the header carries it: one learnware (None: the base model), the reason, the score of the match in
    [0, 1], the router's own time in milliseconds, the learnware that answers where the chosen one cannot be loaded
    (None: the base model), and the decision's id."""

    learnware: str | None
    reason: str
    score: float
    milliseconds: float
    next: str | None = None
    id: str | None = None


def new_decision_id() -> str:
    """Returns an id for a decision: 16 random hexadecimal characters."""
    return secrets.token_hex(_ID_BYTES)


def encode_choice(choice: RoutedChoice, secret: bytes) -> str:
    """Returns the header's value, signed."""
    payload = urlencode(
        {
            "learnware": choice.learnware or "",
            "reason": choice.reason,
            "score": f"{choice.score:.4f}",
            "ms": f"{choice.milliseconds:.3f}",
        }
        | ({} if choice.next is None else {"next": choice.next})
        | ({} if choice.id is None else {"id": choice.id})
    )
    return f"{payload}&sign={_sign(payload, secret)}"


def decode_choice(value: str, *secrets: bytes) -> RoutedChoice | None:
    """Returns the choice in a header's value, or None when it is missing, malformed or signed with none of the secrets.

    More than one secret is accepted while one takes the place of another, when routers of both are alive.
    """
    payload, separator, signature = value.rpartition("&sign=")
    signed = [hmac.compare_digest(signature.encode(), _sign(payload, secret).encode()) for secret in secrets]
    if not separator or not any(signed):
        return None
    fields = dict(parse_qsl(payload, keep_blank_values=True))
    return RoutedChoice(
        fields["learnware"] or None,
        fields["reason"],
        float(fields["score"]),
        float(fields["ms"]),
        fields.get("next"),
        fields.get("id"),
    )


def _sign(payload: str, secret: bytes) -> str:
    return hmac.new(secret, payload.encode(), hashlib.sha256).hexdigest()[:_SIGNATURE_CHARS]
