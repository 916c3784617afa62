"""Records as rows of the store's tables, and rows as records."""

import base64
import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from serving.decisions.open_record import TEXT_CHARS
from serving.decisions.redaction import Redactor

SELECT = """\
SELECT r.seq, r.body, r.text, c.body AS choice, c.ask, c.encoder, c.form, c.vector
FROM records r LEFT JOIN choices c ON c.decision = r.decision"""
"""The query that joins both halves; a WHERE clause may follow."""


def record_row(part: Mapping[str, Any]) -> tuple[Any, ...]:
    """Returns tenant, id, decision, time, learnware, reason, status and body of a replica's half.

    Raises:
        KeyError: it lacks one of them.
    """
    body = {name: value for name, value in part.items() if name != "text"}
    columns = ("tenant", "id", "decision", "time", "learnware", "reason", "status")
    return (*(part[name] for name in columns), json.dumps(body, separators=(",", ":")))


def with_text(part: Mapping[str, Any], redactor: Redactor) -> str | None:
    """Returns the redacted prompt and answer of a replica's half as JSON; None where it has none."""
    text = part.get("text")
    if not isinstance(text, Mapping):
        return None
    prompt, answer = text.get("prompt"), text.get("answer")
    kept = {
        "prompt": None if prompt is None else redactor.redacted(str(prompt))[-TEXT_CHARS:],
        "answer": None if answer is None else redactor.redacted(str(answer))[:TEXT_CHARS],
    }
    return json.dumps(kept)


def choice_row(part: Mapping[str, Any], now: float, *, vectors: bool, redactor: Redactor | None) -> tuple[Any, ...]:
    """Returns a router's half as a row: decision, time, likeliest task, body, ask, encoder, form, vector.

    Args:
        part: the half.
        now: epoch time in seconds.
        vectors: whether its vector is kept.
        redactor: redacts the ask's sentences; None keeps none of them.

    Raises:
        KeyError, ValueError: it is none.
    """
    choice = dict(part["choice"])
    sentences = choice.pop("ask", None)
    tasks = choice.get("tasks") or ()
    kept = part.get("vectors") if vectors else None
    encoder = form = vector = None
    if kept is not None:
        encoder, form, vector = kept["encoder"], json.dumps(kept["form"]), base64.b64decode(kept["vector"])
    return (
        part["decision"],
        now,
        tasks[0]["task"] if tasks else None,
        json.dumps(choice, separators=(",", ":")),
        None
        if redactor is None or sentences is None
        else json.dumps([redactor.redacted(str(one)) for one in sentences]),
        encoder,
        form,
        vector,
    )


def record_of(row: sqlite3.Row, feedback: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the record of a row of `SELECT`. `vectors` and `text` are there only where they are kept."""
    record: dict[str, Any] = json.loads(row["body"])
    choice = None if row["choice"] is None else json.loads(row["choice"])
    if choice is not None and row["ask"] is not None:
        choice["ask"] = json.loads(row["ask"])
    record["choice"] = choice
    record["vectors"] = None
    if row["vector"] is not None:
        vector = base64.b64encode(row["vector"]).decode("ascii")
        record["vectors"] = {"encoder": row["encoder"], "vector": vector, "form": json.loads(row["form"])}
    if row["text"] is not None:
        record["text"] = json.loads(row["text"])
    record["feedback"] = feedback
    return record
