"""The files of the console's pages, as they are served: the built ones that the package holds, with the headers that
keep a browser from doing anything else with them.

They are few and small, so all are read when the application starts. A path is then a key of a table, and none leads
out of the folder.
"""

import gzip
import hashlib
import mimetypes
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

STATIC_FOLDER = Path(__file__).parent.parent / "console" / "static"
"""Folder of the built pages; `make console` writes it from the folder `console` of the repository."""
INDEX = "index.html"
"""Name of the file that is the page."""
HASHED = "assets/"
"""Beginning of the names of files that have a hash of their content in their name."""
SMALLEST_COMPRESSED = 512
"""Size in bytes below which a file is sent as it is."""

_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self'",
    "frame-ancestors": "'none'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
}
CONTENT_POLICY = "; ".join(f"{name} {value}" for name, value in _POLICY.items())
"""Content security policy of the pages: nothing from elsewhere, nothing inline, and no text that becomes HTML."""
SECURITY_HEADERS: Mapping[str, str] = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
"""Headers of every answer of the console's application."""
FOR_EVER = "public, max-age=31536000, immutable"
"""Cache-Control of files whose name changes with their content."""
ASK_AGAIN = "no-cache"
"""Cache-Control of all others: a browser may keep them, and asks each time whether they still hold."""


class PageFile(NamedTuple):
    """A file, and its content as gzip where that is smaller."""

    content: bytes
    compressed: bytes | None
    media_type: str
    etag: str
    cache: str


class PageFiles:
    """The files of a folder by their path from it."""

    def __init__(self, folder: Path = STATIC_FOLDER) -> None:
        """Reads all files of the folder.

        Raises:
            FileNotFoundError: it holds no page.
        """
        self._files = {
            path.relative_to(folder).as_posix(): _page_file(path, path.relative_to(folder).as_posix())
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        if INDEX not in self._files:
            raise FileNotFoundError(f"{folder} holds no {INDEX}; `make console` builds the pages")

    def answer(self, path: str, request: Request) -> Response | None:
        """Returns the response to a GET or HEAD request for the file at `path` ("" for the page), None where there is
        none."""
        file = self._files.get(path or INDEX)
        if file is None:
            return None
        headers = {"cache-control": file.cache, "etag": file.etag, "vary": "accept-encoding"}
        if file.etag in _listed(request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers=headers)
        if file.compressed is not None and _takes_gzip(request.headers.get("accept-encoding", "")):
            headers["content-encoding"] = "gzip"
            return Response(file.compressed, media_type=file.media_type, headers=headers)
        return Response(file.content, media_type=file.media_type, headers=headers)


def _page_file(path: Path, name: str) -> PageFile:
    content = path.read_bytes()
    packed = gzip.compress(content, mtime=0) if len(content) >= SMALLEST_COMPRESSED else content
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return PageFile(
        content,
        packed if len(packed) < len(content) else None,
        "text/javascript" if name.endswith(".js") else kind,  # whatever this machine's table of types says
        # weak: the same file has two encodings
        f'W/"{hashlib.sha256(content).hexdigest()[:16]}"',
        FOR_EVER if name.startswith(HASHED) else ASK_AGAIN,
    )


def _listed(header: str) -> list[str]:
    """Returns the values of a header with a list of entity tags."""
    return [value.strip() for value in header.split(",")]


def _takes_gzip(header: str) -> bool:
    """Returns whether an Accept-Encoding header names gzip, and not with a weight of 0."""
    for item in header.split(","):
        coding, *parameters = (part.strip().lower() for part in item.split(";"))
        if coding in ("gzip", "*"):
            weight = next((one[2:] for one in parameters if one.startswith("q=")), "1")
            return weight.strip("0.") != ""
    return False
