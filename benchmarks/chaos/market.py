"""Changes of a stack's market over HTTP: copies of a starter under other ids are submitted and removed."""

import io
import json
import zipfile

import yaml

from benchmarks.chaos.target import Target
from benchmarks.common.tasks import STARTER_LEARNWARES

STARTER = "finance-tfns"
CARD = "learnware.yaml"
PATIENCE_S = 180.0
"""Seconds that a submission may take: it is tried on an engine that has other things to do."""


def zipped(learnware_id: str) -> bytes:
    """Returns the zip of a starter's copy under this id."""
    content = io.BytesIO()
    source = STARTER_LEARNWARES / STARTER
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(source.rglob("*")):
            if not file.is_file():
                continue
            name = f"{learnware_id}/{file.relative_to(source)}"
            if file.name == CARD:
                card = yaml.safe_load(file.read_text(encoding="utf-8")) | {"id": learnware_id}
                archive.writestr(name, yaml.safe_dump(card))
            else:
                archive.write(file, name)
    return content.getvalue()


def submit(target: Target, learnware_id: str, content: bytes | None = None) -> None:
    """Submits a starter's copy under this id.

    Raises:
        OSError: it was refused, or not answered.
    """
    headers = {"Content-Type": "application/zip", **target.admin_headers}
    body = zipped(learnware_id) if content is None else content
    target.call("POST", "/v1/learnwares", body, headers=headers, timeout_s=PATIENCE_S)


def remove(target: Target, learnware_id: str) -> None:
    """Serves a learnware no more.

    Raises:
        OSError: the stack would not, or did not answer.
    """
    target.call("DELETE", f"/v1/learnwares/{learnware_id}", headers=target.admin_headers, timeout_s=PATIENCE_S)


def served(target: Target) -> set[str]:
    """Returns the ids of the learnwares that the market lists.

    Raises:
        OSError: it did not answer.
    """
    content = json.loads(target.get("/v1/learnwares", timeout_s=30))
    return {str(row["id"]) for row in content["data"]}
