"""Hands finished records on: as JSON lines to standard output or a launcher's socket, and as log records to an OTLP
collector.

A record goes out once both its halves have come, or after some seconds without the second. Vectors, prompts, answers
and asks stay in the store, which erases them; a log that is sent elsewhere could not.
"""

import json
import logging
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import IO, Any, NamedTuple, Protocol

from serving.decisions.store import PAGE, DecisionStore
from serving.otlp import otlp_url
from specs.errors import DecisionsUnavailable

logger = logging.getLogger("ray.serve")

WAIT_S = 3.0
"""Seconds that a record waits for its other half: each is sent within half a second, unless its process is dying."""
MOST_WAITING = 20_000
"""The most records that wait; beyond it the oldest are not handed on, but kept in the store all the same."""
SOCKET_S = 1.0
"""Seconds that a launcher may take for a batch of lines before it is given up."""
RETRY_S = 5.0
"""Seconds until a launcher that took none is tried again."""
LOGS_PATH = "/v1/logs"
"""Path of OTLP's log records over HTTP, where the endpoint's URL names none."""
_KEPT_BACK = frozenset({"vectors", "text"})
_ASK = "ask"
_OF_ATTRIBUTES = ("id", "decision", "tenant", "path", "model", "learnware", "version", "reason", "score", "status")
_MORE_ATTRIBUTES = ("stream", "replica", "tier", "ttft_s", "seconds", "queue_s", "route_ms", "trace")


class Outlet(Protocol):
    """Takes records that are finished; it neither blocks for long nor raises."""

    def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Hands records on."""

    def close(self) -> None:
        """Hands on what is left."""


class _Waiting(NamedTuple):
    tenant: str
    request_id: str
    decision: str | None
    came: float


class Outlets:
    """The records on their way out of one store. Its methods are called by one thread at a time."""

    def __init__(
        self, store: DecisionStore, outlets: Sequence[Outlet], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._outlets, self._clock = store, outlets, clock
        self._waiting: deque[_Waiting] = deque(maxlen=MOST_WAITING)

    def note(self, parts: Iterable[Mapping[str, Any]]) -> None:
        """Notes the replicas' halves among parts that were just stored."""
        if self._outlets:
            now = self._clock()
            self._waiting.extend(
                _Waiting(part["tenant"], part["id"], part.get("decision"), now) for part in parts if "id" in part
            )

    def emit(self) -> None:
        """Hands on the records that are finished. While the store cannot be used, all go on waiting."""
        ready: list[dict[str, Any]] = []
        unfinished: list[_Waiting] = []
        left, now = len(self._waiting), self._clock()
        while left:
            page = list(islice(self._waiting, min(left, PAGE)))
            try:
                records = self._store.get_all([(one.tenant, one.request_id) for one in page])
            except DecisionsUnavailable:
                break
            left -= len(page)
            for one in page:
                self._waiting.popleft()
                record = records.get((one.tenant, one.request_id))
                if record is None:
                    continue
                if one.decision is not None and record["choice"] is None and now - one.came < WAIT_S:
                    unfinished.append(one)
                else:
                    ready.append(_without_texts(record))
        self._waiting.extendleft(reversed(unfinished))
        if ready:
            for outlet in self._outlets:
                outlet.write(ready)

    def close(self) -> None:
        """Hands on what is finished, and closes the outlets."""
        self.emit()
        for outlet in self._outlets:
            outlet.close()


def _without_texts(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of a record without what the store may have to erase, the ask inside its choice too."""
    kept = {name: value for name, value in record.items() if name not in _KEPT_BACK}
    if kept["choice"] is not None:
        kept["choice"] = {name: value for name, value in kept["choice"].items() if name != _ASK}
    return kept


class JsonLines:
    """Writes each record as a line: to a launcher's Unix socket, and where there is none, or nobody listens, to
    standard output."""

    def __init__(self, path: str | None = None, stream: IO[str] | None = None) -> None:
        """Makes an outlet for the socket at `path` (None: none) and `stream` (None: standard output)."""
        self._path = path
        self._stream = stream
        self._socket: socket.socket | None = None
        self._next_try = float("-inf")

    def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Writes lines."""
        text = "".join(json.dumps(record, separators=(",", ":")) + "\n" for record in records)
        if not self._sent(text.encode()):
            stream = self._stream or sys.stdout
            try:
                stream.write(text)
                stream.flush()
            except (OSError, ValueError) as error:
                logger.warning("%d records could not be written to standard output: %s", len(records), error)

    def close(self) -> None:
        """Ends the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _sent(self, content: bytes) -> bool:
        if self._path is None or (self._socket is None and time.monotonic() < self._next_try):
            return False
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self._socket.settimeout(SOCKET_S)
                self._socket.connect(self._path)
            self._socket.sendall(content)
        except OSError:
            self.close()
            self._next_try = time.monotonic() + RETRY_S
            return False
        return True


class OtlpLogs:
    """Sends each record as a log record (OTLP over HTTP, protobuf) with its figures as attributes and all of it as
    JSON in the body. OpenTelemetry batches and bounds what waits, and drops what the collector does not take."""

    def __init__(self, endpoint: str) -> None:
        """Makes the exporter for a collector's URL; without a path it is that of OTLP's logs."""
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
        from opentelemetry.sdk.resources import Resource

        self._provider = LoggerProvider(Resource.create({"service.name": "learnware-serving"}), shutdown_on_exit=False)
        exporter = OTLPLogExporter(endpoint=otlp_url(endpoint, LOGS_PATH))
        self._provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
        self._logger = self._provider.get_logger("learnware.decisions")

    def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Queues log records."""
        from opentelemetry._logs import LogRecord, SeverityNumber

        for record in records:
            self._logger.emit(
                LogRecord(
                    timestamp=int(record["time"] * 1e9),
                    severity_number=SeverityNumber.INFO,
                    severity_text="INFO",
                    body=json.dumps(record, separators=(",", ":")),
                    attributes=attributes_of(record),
                    event_name="learnware.decision",
                )
            )

    def close(self) -> None:
        """Sends what waits."""
        self._provider.shutdown()


def attributes_of(record: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """Returns the figures of a record by the names that they have in logs; what is not known is left out."""
    found = {f"learnware.{name}": record.get(name) for name in (*_OF_ATTRIBUTES, *_MORE_ATTRIBUTES)}
    tokens = record.get("tokens") or {}
    found["gen_ai.usage.input_tokens"], found["gen_ai.usage.output_tokens"] = (
        tokens.get("prompt"),
        tokens.get("generated"),
    )
    found["gen_ai.response.model"] = record.get("learnware")
    return {name: value for name, value in found.items() if value is not None}
