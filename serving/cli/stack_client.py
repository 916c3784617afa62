"""A running stack as the command line speaks with it, over HTTP."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import quote, urlsplit

from specs.errors import InvalidInput, LearnwareError, NotReady

if TYPE_CHECKING:
    from serving.config import Config

LOOK_TIMEOUT_S = 5.0
"""Seconds that a stack may take to say which models it has."""
CHANGE_TIMEOUT_S = 300.0
"""Seconds that a change may take: an upload, the trial on the engine, and the replicas that follow."""
MARKET = "/v1/learnwares"
"""Path of the market below a stack's URL."""
OWNER = "learnware-serving"
"""The owner that `GET /v1/models` names for what is this project's."""


class Refused(LearnwareError):
    """The stack answered with an error; `answered` is its HTTP status."""

    status = 400
    type = "invalid_request_error"

    def __init__(self, message: str, answered: int) -> None:
        super().__init__(message)
        self.answered = answered


class Look(NamedTuple):
    """A first look at an address: whether a stack answers, and its base model's id, None where it does not say."""

    answers: bool
    base: str | None


class Served(NamedTuple):
    """A learnware as the stack describes it after a change."""

    id: str
    version: int
    served: bool


class StackClient:
    """Speaks with the stack at `url`. Requests of the market bear `key`, others `api_key`, where there is one. The
    certificate of a stack with TLS is verified unless `verify` is false."""

    def __init__(self, url: str, key: str | None = None, api_key: str | None = None, *, verify: bool = True) -> None:
        import httpx

        self.url = url.rstrip("/").removesuffix("/v1")
        self._key, self._api_key = key or api_key, api_key or key
        self._client = httpx.Client(base_url=self.url, timeout=LOOK_TIMEOUT_S, verify=verify)

    @classmethod
    def on_this_machine(cls, config: "Config", key: str | None, api_key: str | None = None) -> Self:
        """Returns a client of this machine's stack of a configuration.

        On loopback, which no other machine can answer at, the stack's certificate is not verified: it is issued for the
        name by which clients come.
        """
        from serving.launch.edge_settings import is_loopback
        from serving.launch.instance import local_url

        url = local_url(config)
        return cls(url, key, api_key, verify=not is_loopback(urlsplit(url).hostname or ""))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def look(self) -> Look:
        """Returns whether a stack of this project answers, and which base model it serves. Another program at its
        address counts as none.

        Raises:
            NotReady: the stack is still starting.
            InvalidInput: its certificate is not valid for this address, or was issued by nobody who is trusted here.
        """
        import httpx

        try:
            answer = self._client.get("/v1/models", headers=_bearer(self._api_key))
        except (httpx.TransportError, httpx.InvalidURL) as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):  # not for want of a stack
                raise InvalidInput(
                    f"the certificate at {self.url} cannot be trusted ({error}): give --url the name that it is issued "
                    "for, and SSL_CERT_FILE the issuer where it is your own"
                ) from None
            return Look(False, None)
        if answer.status_code == 503:
            raise NotReady(f"the stack at {self.url} is still starting; try again when it says that it is ready")
        if answer.status_code == 401:
            return Look(True, None)
        try:
            # every automatic name and every learnware of ours says whose it is, and its base
            own = [model for model in answer.json()["data"] if model.get("owned_by") == OWNER and model.get("parent")]
        except (ValueError, KeyError, TypeError, AttributeError):
            own = []
        return Look(bool(own), str(own[0]["parent"]) if own else None)

    def show(self, learnware_id: str) -> dict[str, Any] | None:
        """Returns the description of the learnware of this id, of the latest that had it if none is served; None if
        none ever had.

        Raises:
            Refused: the stack answers with another error than that there is none.
        """
        try:
            return self._json("GET", self._path(learnware_id))
        except Refused as refused:
            if refused.answered == 404:
                return None
            raise

    def chosen(self, messages: Sequence[Mapping[str, str]]) -> str | None:
        """Returns the id of the learnware that `auto` gives a conversation to; None for the base model, or where the
        stack does not say. Generates nothing."""
        try:
            return self._json("POST", "/v1/route", json={"messages": list(messages)}).get("learnware")
        except (Refused, InvalidInput):
            return None

    def submit(self, zipped: Path, replaced: str | None = None, share: float | None = None) -> Served:
        """Sends a learnware's zip, as a new one, in the place of `replaced`, or beside that with a share of its
        requests; the stack checks it, tries it on an engine, and serves it.

        Raises:
            Refused: the stack refuses it; the message says why.
            InvalidInput: the connection broke.
        """
        method, path = ("POST", MARKET) if replaced is None else ("PUT", self._path(replaced))
        path += "" if share is None else f"?canary={share}"
        content = zipped.read_bytes()
        found = self._json(method, path, content=content, headers={"content-type": "application/zip"})
        return Served(str(found["id"]), int(found["version"]), bool(found.get("served")))

    def ask(self, method: str, path: str, **request: Any) -> str:
        """Returns the text of an answer that is none of the market's.

        Raises:
            Refused: the stack answers with an error.
            InvalidInput: the connection broke.
        """
        answer = self._request(method, path, **request)
        if answer.is_success:
            text: str = answer.text
            return text
        raise self._refused(answer, method, path)

    def _json(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        answer = self._request(method, path, **request)
        try:
            found = answer.json()
        except ValueError:
            found = None
        if answer.is_success and isinstance(found, dict):
            return found
        raise self._refused(answer, method, path)

    def _request(self, method: str, path: str, **request: Any) -> Any:
        import httpx

        headers = _bearer(self._key if path.startswith(MARKET) else self._api_key) | request.pop("headers", {})
        try:
            return self._client.request(method, path, timeout=CHANGE_TIMEOUT_S, headers=headers, **request)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise InvalidInput(f"the stack at {self.url} did not answer: {error}") from None

    def _refused(self, answer: Any, method: str, path: str) -> Refused:
        try:
            found = answer.json()
        except ValueError:
            found = None
        error_object = found.get("error") if isinstance(found, dict) else None
        message = error_object.get("message") if isinstance(error_object, dict) else None
        return Refused(
            str(message or f"the stack at {self.url} answers {answer.status_code} to {method} {path}"),
            answer.status_code,
        )

    @staticmethod
    def _path(learnware_id: str) -> str:
        return f"{MARKET}/{quote(learnware_id, safe='/')}"


def _bearer(key: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}
