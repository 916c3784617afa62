"""The limits of a replica: what one request may ask for, how much may wait, and what a tenant may take in a minute.

`Limits` is the ASGI middleware in front of `LearnwareMiddleware`. It refuses what can be refused unread, reads the body
within its bounds of size and time, and puts a `Turn` into the request's scope: `LearnwareMiddleware`, which parses the
body, asks it before any adapter is leased, so that no body is parsed twice.

What is refused, in this order, each with the name of its limit:

    503  the engine cannot serve                                    unread
    429  the replica is full (`serving.replica.places`)             unread, and again by the number of sequences
    413  a body larger than http.max_body_mib                       while it is read
    408  a body that takes longer than http.body_wait_s             while it is read
    400  more choices, prompts or tokens than allowed
    404  a model that the tenant may not use
    429  the tenant's tokens a minute (`serving.replica.token_budgets`)

Answers to tenants with a limit on tokens carry OpenAI's `x-ratelimit-*-tokens` headers. Limits hold for each replica.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.access.account import Account, account
from serving.access.caller import caller
from serving.access.tenant import ANONYMOUS, Tenant
from serving.config_access import LimitSettings
from serving.config_sections import MIB, HTTPSettings
from serving.names import GENERATING_PATHS
from serving.openai_errors import error_response
from serving.replica.asked import GENERATE_PATH, SAMPLING, Asked, asked
from serving.replica.places import Places
from serving.replica.request_body import replay
from serving.replica.token_budgets import TokenBudgets
from specs.canary import learnware_of
from specs.errors import EngineUnavailable, InvalidInput, LearnwareError, TooLarge, TooSlow, UnknownModel
from specs.task import TASK_PREFIX

TURN = "learnware.turn"
"""Key of the ASGI scope under which a request's `Turn` stands."""
LONGEST_NAME = 128
"""Characters of a client's name for a model that a message repeats."""


class ReplicaLimits(NamedTuple):
    """The bounds of the requests to a replica."""

    limits: LimitSettings
    http: HTTPSettings
    max_num_seqs: int
    """The most sequences in one batch of the engine."""
    auto_names: frozenset[str]
    """Values of `model` for which the router chooses."""


class Engine(Protocol):
    """The engine as `serving.paging.gate.AdapterGate` knows it."""

    @property
    def residency(self) -> Any:
        """The newest reports (`serving.paging.residency.Residency`)."""
        ...


class Limits:
    """ASGI middleware that bounds what enters a replica (see the module)."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: ReplicaLimits,
        engine: Engine,
        able: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Wraps `app`.

        Args:
            settings: the limits.
            engine: tells what waits.
            able: whether the engine can serve.
            clock: monotonic time in seconds.
        """
        limits, http, max_num_seqs, self.auto_names = settings
        self._app = app
        self._able = able
        self._body_bytes, self._body_wait_s = int(http.max_body_mib * MIB), http.body_wait_s
        self.settings = limits
        self.budgets = TokenBudgets(clock)
        self.places = Places(
            max_num_seqs,
            limits.most_waiting(max_num_seqs),
            limits.max_wait_s,
            lambda: engine.residency.scheduler,
            clock,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        turn = Turn(self, caller.get(), scope["path"])
        send = turn.announcing(send)
        try:
            if scope["path"] in GENERATING_PATHS:
                if not self._able():
                    raise EngineUnavailable("The engine of this replica cannot serve now. Try again in a few seconds.")
                self.places.check(turn.tenant)
            body = await self._read(scope, receive)
        except ClientDisconnect:
            return
        except LearnwareError as error:
            response = error_response(error, scope["path"])
            if isinstance(error, TooLarge | TooSlow):
                response.headers["connection"] = "close"  # the rest of the body is not waited for
            await response(scope, receive, send)
            return
        turn.body_bytes = len(body)
        await self._app({**scope, TURN: turn}, replay(body, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        """Returns the whole body.

        Raises:
            ClientDisconnect: the client hung up before it was complete.
            TooLarge: it is larger than allowed, by its header or as it comes; no more of it is read.
            TooSlow: it did not arrive in time.
        """
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and (len(value) > 18 or int(value) > self._body_bytes):
                raise self._too_large()
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._body_wait_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    chunks.append(message.get("body", b""))
                    size += len(chunks[-1])
                    if size > self._body_bytes:
                        raise self._too_large()
                    if not message.get("more_body"):
                        return b"".join(chunks)
        except TimeoutError:
            raise TooSlow(
                f"The request's body did not arrive within {self._body_wait_s} s (http.body_wait_s)."
            ) from None

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"The request's body is larger than {self._body_bytes / MIB:g} MiB, the most that is taken "
            "(http.max_body_mib)."
        )


def quoted(model: str) -> str:
    """Quotes a name of the client's for a message, its beginning where it is longer than any name."""
    return repr(model if len(model) <= LONGEST_NAME else model[:LONGEST_NAME] + "…")


class Turn:
    """One request's way through the limits."""

    def __init__(self, limits: Limits, tenant: Tenant, path: str) -> None:
        self.tenant = tenant
        self.body_bytes = 0
        self._limits = limits
        self._path = path
        self._wanted = Asked(1, 1, None, False, ())
        self._tokens_per_minute = tenant.tokens_per_minute
        if tenant == ANONYMOUS:  # nobody has a key, so no key says what holds
            self._tokens_per_minute = limits.settings.tokens_per_minute

    def may_use(self, model: str, automatic: bool) -> bool:
        """Whether the tenant may be answered by `model`: one that it lists, also as its canary, or any that the router
        chooses where it lists nothing but automatic names and tasks."""
        listed = self.tenant.models
        if listed is None or model in listed or learnware_of(model) in listed:
            return True
        return automatic and all(name in self._limits.auto_names or name.startswith(TASK_PREFIX) for name in listed)

    def check_model(self, model: str | None) -> None:
        """Raises UnknownModel, as OpenAI's API does, where the tenant may not name this model. Whoever may use an
        automatic name may use tasks, and whoever may use a learnware may use its canary."""
        listed = self.tenant.models
        if listed is None or not model or model in listed or learnware_of(model) in listed:
            return
        if model.startswith(TASK_PREFIX) and self._limits.auto_names & set(listed):
            return
        raise self.no_access(model)

    def no_access(self, model: str) -> UnknownModel:
        """Returns the error for a model that the tenant may not use."""
        return UnknownModel(
            f"The model {quoted(model)} does not exist or you do not have access to it; your key allows "
            f"{', '.join(self.tenant.models or ())}."
        )

    def bounded(self, payload: dict[str, Any], automatic: bool) -> dict[str, Any]:
        """Returns the body within the limits on one request: an answer's tokens are set to the tenant's most where the
        client leaves them open, and where the router chooses they are shortened to it.

        Raises:
            InvalidInput: the request asks for more choices, prompts or tokens than allowed.
        """
        wanted, limits = asked(self._path, payload), self._limits.settings
        self._wanted = wanted
        if wanted.choices > limits.max_choices:
            raise InvalidInput(
                f"n (or best_of) is larger than {limits.max_choices}, the most that is taken (limits.max_choices)."
            )
        if wanted.prompts > limits.max_prompts:
            raise InvalidInput(
                f"The request has {wanted.prompts} prompts; at most {limits.max_prompts} are taken "
                "(limits.max_prompts)."
            )
        most = self.tenant.max_tokens
        if most is None or not wanted.token_fields or (wanted.max_tokens is not None and wanted.max_tokens <= most):
            return payload
        if wanted.is_explicit and not automatic:
            raise InvalidInput(
                f"{wanted.token_fields[-1]} is larger than {most}, the most tokens of an answer that your key allows."
            )
        self._wanted = wanted._replace(max_tokens=most)
        return self._with_tokens(payload, wanted.token_fields, most)

    def _with_tokens(self, payload: dict[str, Any], names: tuple[str, ...], tokens: int) -> dict[str, Any]:
        if self._path == GENERATE_PATH:
            sampling = payload.get(SAMPLING)
            if not isinstance(sampling, dict):
                return payload  # vLLM's own validation says what is wrong
            return {**payload, SAMPLING: {**sampling, "max_tokens": tokens}}
        rest = {field: value for field, value in payload.items() if field not in names}
        return {**rest, names[-1]: tokens}

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Takes the places of the request that `bounded` has read, and charges its tokens, while it runs; afterwards it
        is charged what it has really taken.

        Raises:
            InvalidInput: the replica never has that many places.
            RateLimited: the replica is full, or the tenant has used up its tokens.
        """
        wanted, limit = self._wanted, self._tokens_per_minute
        places, budgets = self._limits.places, self._limits.budgets
        places.check(self.tenant, wanted.places)
        estimate = wanted.tokens(self.body_bytes)
        charged = 0 if limit is None else budgets.charge(self.tenant.name, limit, estimate)
        places.take(self.tenant, wanted.places)

        def settle(one: Account) -> None:
            places.give_back(self.tenant, wanted.places)
            if limit is not None:
                taken = max(charged, one.tokens) if one.unseen else one.tokens
                budgets.correct(self.tenant.name, limit, charged, taken)

        opened = Account(settle)
        before = account.set(opened)
        try:
            yield
        finally:
            account.reset(before)
            opened.close()

    def announcing(self, send: Send) -> Send:
        """Returns an ASGI `send` that adds the headers of the tenant's limit on tokens, where it has one."""
        limit = self._tokens_per_minute
        if limit is None or self._path not in GENERATING_PATHS:
            return send

        async def announce(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = self._limits.budgets.headers(self.tenant.name, limit)
                message = {**message, "headers": [*message.get("headers", ()), *headers]}
            await send(message)

        return announce
