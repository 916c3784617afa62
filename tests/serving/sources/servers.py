"""Stand-ins for the places that adapters come from: real HTTP servers on loopback that keep what they were asked."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

UNSTATED = -1
"""As the length of an answer: none is stated, and the end of the connection is the end of the body."""


class Asked(NamedTuple):
    """A request: method, path, query, and headers by lower-case name."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


class Answer(NamedTuple):
    """A response; a body of another length than `length` says is a connection that breaks."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}
    length: int | None = None


class Place(NamedTuple):
    """A running server: its URL, and what it was asked so far."""

    url: str
    asked: list[Asked]


@contextmanager
def serving(answer: Callable[[Asked], Answer]) -> Iterator[Place]:
    asked: list[Asked] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Asked(self.command, unquote(parts.path), dict(parse_qsl(parts.query)), headers)
            asked.append(request)
            status, body, more, length = answer(request)
            self.send_response(status)
            for name, value in more.items():
                self.send_header(name, value)
            if length != UNSTATED:
                self.send_header("content-length", str(len(body) if length is None else length))
            self.send_header("connection", "close")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)
            self.close_connection = True

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield Place(f"http://127.0.0.1:{server.server_port}", asked)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ranged(asked: Asked, content: bytes) -> Answer:
    """A file, or the part of it that the request asks for."""
    span = asked.headers.get("range")
    if span is None:
        return Answer(200, content, {"accept-ranges": "bytes"})
    first, _, last = span.removeprefix("bytes=").partition("-")
    start = int(first)
    end = min(int(last) if last else len(content) - 1, len(content) - 1)
    return Answer(
        206,
        content[start : end + 1],
        {"accept-ranges": "bytes", "content-range": f"bytes {start}-{end}/{len(content)}"},
    )


def object_store(objects: Mapping[str, bytes], *, public: bool = False, page: int = 3) -> Callable[[Asked], Answer]:
    """An S3 server with one bucket, `models`: ListObjectsV2 in pages of `page` keys, HeadObject, GetObject with ranges;
    unsigned requests are refused unless it is public."""

    def answer(asked: Asked) -> Answer:
        if not public and "Signature=" not in asked.headers.get("authorization", ""):
            return _s3_error(403, "AccessDenied")
        bucket, _, key = asked.path.lstrip("/").partition("/")
        if bucket != "models":
            return _s3_error(404, "NoSuchBucket")
        if not key:
            return _listing(objects, asked.query, page)
        if key not in objects:
            return _s3_error(404, "NoSuchKey")
        found = ranged(asked, objects[key])
        more = {"etag": f'"{len(objects[key])}"', "last-modified": "Sat, 28 Nov 2026 00:00:00 GMT"}
        return found._replace(headers={**found.headers, **more})

    return answer


def _s3_error(status: int, code: str) -> Answer:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
    return Answer(status, body.encode(), {"content-type": "application/xml"})


def _listing(objects: Mapping[str, bytes], query: Mapping[str, str], page: int) -> Answer:
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    entries: dict[str, int | None] = {}
    for key in sorted(objects):
        if key.startswith(prefix):
            head, mark, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            entries[prefix + head + mark if mark else key] = None if mark else len(objects[key])
    names = [name for name in entries if name > query.get("continuation-token", "")]
    count = min(page, int(query.get("max-keys", page)))
    shown = names[:count]
    xml = "".join(
        f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
        if entries[name] is None
        else f"<Contents><Key>{escape(name)}</Key><Size>{entries[name]}</Size><ETag>&quot;{entries[name]}&quot;</ETag>"
        "<LastModified>2026-11-28T00:00:00.000Z</LastModified><StorageClass>STANDARD</StorageClass></Contents>"
        for name in shown
    )
    rest = len(names) > count
    more = f"<NextContinuationToken>{escape(shown[-1])}</NextContinuationToken>" if rest else ""
    body = (
        f"<?xml version='1.0'?><ListBucketResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'><Name>models</Name>"
        f"<Prefix>{escape(prefix)}</Prefix><KeyCount>{len(shown)}</KeyCount><MaxKeys>{count}</MaxKeys>"
        f"<IsTruncated>{str(rest).lower()}</IsTruncated>{more}{xml}</ListBucketResult>"
    )
    return Answer(200, body.encode(), {"content-type": "application/xml"})


def hub(
    files: Mapping[str, bytes], storage: str, *, token: str | None = None, sha: str = "c0ffee" * 6 + "beef"
) -> Callable[[Asked], Answer]:
    """A hub with the model `someone/colours`, whose branch `main` and tag `v1` are the commit `sha`. Weights are
    redirected to `storage`, as large files are on the real one. With `token`, others are told that there is nothing."""

    def answer(asked: Asked) -> Answer:
        steps = asked.path.strip("/").split("/")
        known = token is None or asked.headers.get("authorization") == f"Bearer {token}"
        if not known or "someone/colours" not in asked.path:
            return Answer(401, b'{"error":"no"}', {"x-error-code": "RepoNotFound", "x-error-message": "not found"})
        if steps[:2] == ["api", "models"]:
            revision = steps[5] if len(steps) > 5 else "main"
            if revision not in ("main", "v1", sha):
                return Answer(404, b'{"error":"no"}', {"x-error-code": "RevisionNotFound", "x-error-message": "none"})
            siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
            body = {"_id": "1", "id": "someone/colours", "sha": sha, "siblings": siblings}
            return Answer(200, json.dumps(body).encode(), {"content-type": "application/json"})
        name = "/".join(steps[4:])
        if steps[2:4] != ["resolve", sha] or name not in files:
            return Answer(404, b"", {"x-error-code": "EntryNotFound"})
        if name.endswith(".safetensors"):
            return Answer(302, b"", {"location": f"{storage}/{name}?X-Amz-Signature=not-for-eyes"})
        return Answer(200, files[name])

    return answer
