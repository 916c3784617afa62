"""The choice as it travels from the router to an engine replica: one signed header.

HAProxy strips client headers named `x-serve-router-*` while a router replica runs, and the edge strips them always; but
a client that reaches a replica's own port, or Ray's fallback proxy, could still write one. So the value is signed with
a secret made at each start and known to the router and the engine replicas only; an unsigned or altered value counts as
no choice.

Ray 2.60's Lua code (`ingress_request_router.lua.tmpl`, `set_router_response_headers`) copies values that hold no quote
and no brace, so the value is URL-encoded: `learnware=…&reason=…&score=…&ms=…&sign=…`.
"""

import hashlib
import hmac
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

CHOICE_HEADER = "x-serve-router-learnware"

FAILED_HEADER = "x-serve-router-failed"
"""Set by the edge when it asked for a choice and got none; it only explains, so it needs no signature."""
FAILED_TIMEOUTS = frozenset({"router_timeout", "router_unreachable"})
"""Its values when a router may live but gave no answer in time. Unreachable is what Ray's script calls its own time
limit; since it asks a socket of the edge's own, which is always there, it means nothing else."""

MATCHED = "matched"
NAMED = "named"
SESSION = "session"
TASK = "task"
RESIDENT = ":resident"
"""After a reason: another learnware was as good within the margin, and nearer to the device."""
LOW_CONFIDENCE = "base:low-confidence"
BASE_BETTER = "base:better"
"""No learnware is expected to answer as well as the base model."""
NO_TEXT = "base:no-text"
MIXED_PROMPTS = "base:mixed-prompts"
"""The prompts of one request, which has one `model`, ask for different learnwares."""
EXPLANATION = "base:explanation"
"""A turn asks for words about an answer of a learnware that only labels."""
INTERFACE_TASK = "base:interface-task"
"""A chat front end asks for something for itself, such as a title of the conversation."""
NO_LEARNWARE = "base:no-learnware"
UNKNOWN_TASK = "base:unknown-task"
"""Never answered from the base model: the replica turns it into a 404."""
ROUTER_ERROR = "base:router-error"
ROUTER_DEADLINE = "base:router-deadline"
ROUTER_OVERLOAD = "base:router-overload"
"""More requests than the router can decide on in time. Where overload is refused, the edge does so; the replica, where
only it could read the request's model."""
NO_CHOICE = "base:no-choice"
ROUTER_UNREACHABLE = "base:router-unreachable"
ROUTER_TIMEOUT = "base:router-timeout"
"""A router took the request and did not answer the edge in time."""
GENERATES_NOTHING = "base:generates-nothing"
"""The request's path generates nothing, so there is nothing to choose: no router was asked."""

_SIGNATURE_CHARS = 32
"""128 bits of the HMAC: forging one needs 2^127 tries on average, and the header stays short."""


class RoutedChoice(NamedTuple):
    """One learnware (None: the base model), why, how good the match was in [0, 1], and the router's own time in
    milliseconds."""

    learnware: str | None
    reason: str
    score: float
    milliseconds: float


def encode_choice(choice: RoutedChoice, secret: bytes) -> str:
    """The header's value, signed."""
    payload = urlencode(
        {
            "learnware": choice.learnware or "",
            "reason": choice.reason,
            "score": f"{choice.score:.4f}",
            "ms": f"{choice.milliseconds:.3f}",
        }
    )
    return f"{payload}&sign={_sign(payload, secret)}"


def decode_choice(value: str, secret: bytes) -> RoutedChoice | None:
    """The choice in a header's value; None when it is missing, malformed or not signed with this secret."""
    payload, separator, signature = value.rpartition("&sign=")
    if not separator or not hmac.compare_digest(signature.encode(), _sign(payload, secret).encode()):
        return None
    fields = dict(parse_qsl(payload, keep_blank_values=True))
    return RoutedChoice(fields["learnware"] or None, fields["reason"], float(fields["score"]), float(fields["ms"]))


def _sign(payload: str, secret: bytes) -> str:
    return hmac.new(secret, payload.encode(), hashlib.sha256).hexdigest()[:_SIGNATURE_CHARS]
