"""Log lines as JSON objects (`traces.logs: json`): time, level, logger, message, process, and the request's ids.

The variable `LOGS_VARIABLE` tells every process of a stack, since a small application or a worker of the engine knows
no configuration. Ray's own processes (controller, proxies) write JSON by Ray's `LoggingConfig`, with Ray's names of
fields; here the project's own processes write, Ray's and vLLM's loggers in them too. What is printed past `logging`
stays text.
"""

import json
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serving.tracing.context import correlation

LOGS_VARIABLE = "LEARNWARE_LOGS"
"""Environment variable with the form of log lines."""
JSON = "json"

VLLM_CONFIGURATION = Path(__file__).with_name("vllm_logging.json")
"""The configuration of vLLM's loggers, which the engine's own processes read when they start."""

_STANDARD_ERROR = 2
_LOGGERS = ("", "ray", "ray.serve", "vllm", "uvicorn", "uvicorn.error", "uvicorn.access")
"""Loggers that other packages give handlers to; the first is the root."""


class JsonFormatter(logging.Formatter):
    """Writes a record as a JSON object in one line."""

    def __init__(self, process: str = "", replica: str | None = None) -> None:
        """Makes a formatter for a process of the kind `process`; `replica` says which of its kind. A process that this
        one has started goes by its own name."""
        super().__init__()
        self._process, self._replica = process, replica

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line, without its end."""
        name = multiprocessing.current_process().name
        line = head(record.levelname, record.name, record.getMessage(), record.created)
        line["process"] = self._process if self._process and name == "MainProcess" else name
        line["pid"] = os.getpid()
        if self._replica is not None:
            line["replica"] = self._replica
        if (current := correlation.get()) is not None:
            if current.request_id is not None:
                line["request_id"] = current.request_id
            if current.trace_id is not None:
                line["trace_id"] = current.trace_id
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:
            line["exception"] = record.exc_text
        if record.stack_info:
            line["stack"] = record.stack_info
        return json.dumps(line)


class RawHandler(logging.Handler):
    """Writes to the standard error's descriptor: vLLM puts a name before each line that its processes write to the
    stream (`vllm/utils/system_utils.py`, `decorate_logs`), and Ray may turn the stream into log records."""

    def __init__(self) -> None:
        super().__init__(os.environ.get("VLLM_LOGGING_LEVEL", "INFO"))

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record in one piece, so that lines of several processes do not mix."""
        try:
            os.write(_STANDARD_ERROR, self.format(record).encode() + b"\n")
        except (OSError, TypeError, ValueError, KeyError):
            self.handleError(record)


def head(level: str, logger: str, message: str, created: float) -> dict[str, Any]:
    """Returns the fields that every line begins with; `created` is in seconds since the epoch."""
    written = datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"time": written, "level": level, "logger": logger, "message": message}


def wanted() -> bool:
    """Returns whether this process is to write its log lines as JSON."""
    return os.environ.get(LOGS_VARIABLE) == JSON


def begin_json_logs() -> None:
    """Makes this process, a replica of Ray Serve, write its log lines as JSON if that is wanted; does nothing
    otherwise. Calling it twice is harmless."""
    if not wanted():
        return
    formatter = JsonFormatter(*_replica_here())
    if "VLLM_LOGGING_CONFIG_PATH" not in os.environ:
        os.environ["VLLM_LOGGING_CONFIG_PATH"] = str(VLLM_CONFIGURATION)  # for the engine's processes
        engine = logging.getLogger("vllm")
        if engine.handlers:  # vLLM is imported here, and has read its own configuration
            engine.handlers[:] = [RawHandler()]  # `dictConfig` would close all handlers, those of Ray Serve's files too
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(RawHandler())
        for name in _LOGGERS[1:]:  # what has a handler of its own would be written twice
            logger = logging.getLogger(name)
            logger.propagate = logger.propagate and not logger.handlers
    logging.captureWarnings(capture=True)
    for handler in _handlers():
        handler.setFormatter(formatter)


def _handlers() -> Iterator[logging.Handler]:
    for name in _LOGGERS:
        for handler in logging.getLogger(name).handlers:
            yield handler
            target = getattr(handler, "target", None)  # Ray Serve's file stands behind a handler that buffers
            if isinstance(target, logging.Handler):
                yield target


def _replica_here() -> tuple[str, str | None]:
    """Returns the deployment that this process is a replica of, and which one; its own name outside of Ray Serve."""
    serve = sys.modules.get("ray.serve")
    if serve is None:
        return "", None
    try:
        context = serve.get_replica_context()
    except serve.exceptions.RayServeException:
        return "", None
    return context.deployment, context.replica_id.unique_id


def say_json(process: str) -> Callable[..., None]:
    """Returns a function that prints a line of progress as a JSON object, at once; its second argument is the level,
    `INFO` if it has none."""

    def say(message: str, level: str = "INFO") -> None:
        line = head(level, "learnware-serving", message, time.time())
        print(json.dumps(line | {"process": process, "pid": os.getpid()}), flush=True)

    return say
