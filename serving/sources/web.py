"""Downloads over HTTP: with bounded redirects, never from https to http, and with bounded sizes and times.

A zip on a server that answers ranges (`Accept-Ranges: bytes`) is read where it lies, so that only its directory and the
files that are taken travel. Otherwise it is downloaded whole first.
"""

import io
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

import httpx

from serving.sources.redaction import redact
from specs.errors import InvalidInput, InvalidLearnware
from specs.market.intake import Limits, Progress

MAX_REDIRECTS = 5
"""Redirects that are followed. A release's download takes one or two."""
TIMEOUT = httpx.Timeout(60.0, connect=15.0)
"""Seconds that a server may take to accept a connection, and to send the next bytes."""
RANGE_BYTES = 8 << 20
"""Bytes of one range request."""
WHOLE_BYTES = 16 << 20
"""Size in bytes up to which a zip is downloaded whole: one request is faster than many."""
_CHUNK = 1 << 20
"""Bytes that are read at a time."""
_PRIVATE = frozenset({"authorization", "cookie"})
"""Names of headers that only the server that they are meant for gets."""


@contextmanager
def request(url: str, headers: Mapping[str, str] | None = None) -> Iterator[httpx.Response]:
    """Gets `url`, following redirects, and yields the response, whose body is not read yet.

    A redirect to another server gets neither the private headers nor the user and password in the URL.

    Raises:
        InvalidInput: there is no usable answer; the message holds no secrets.
    """
    try:
        with httpx.Client(timeout=TIMEOUT, headers={"accept-encoding": "identity"}) as client:
            response = _follow(client, httpx.URL(url), dict(headers or {}))
            try:
                _check_status(response)
                yield response
            finally:
                response.close()
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        reason = redact(str(error) or type(error).__name__, url)
        raise InvalidInput(f"cannot get {shown(url)}: {reason}") from None


def _follow(client: httpx.Client, url: httpx.URL, headers: dict[str, str]) -> httpx.Response:
    for _ in range(MAX_REDIRECTS + 1):
        response = client.send(client.build_request("GET", url, headers=headers), stream=True)
        if not response.has_redirect_location:
            return response
        response.close()
        target = url.join(response.headers["location"])
        if target.scheme not in ("http", "https"):
            raise InvalidInput(f"{shown(str(url))} redirects to {target.scheme}:, which is not followed")
        if url.scheme == "https" and target.scheme == "http":
            raise InvalidInput(
                f"{shown(str(url))} redirects from https to http ({shown(str(target))}), which is not followed"
            )
        if (target.scheme, target.host, target.port) != (url.scheme, url.host, url.port):
            headers = {name: value for name, value in headers.items() if name.lower() not in _PRIVATE}
        url = target
    raise InvalidInput(f"more than {MAX_REDIRECTS} redirects, the last to {shown(str(url))}")


def _check_status(response: httpx.Response) -> None:
    if response.is_success:
        return
    place = shown(str(response.url))
    match response.status_code:
        case 401 | 403:
            raise InvalidInput(
                f"{place} may not be read ({response.status_code}): it needs credentials, or the link has expired"
            )
        case 404 | 410:
            raise InvalidInput(f"there is nothing at {place} ({response.status_code})")
        case status:
            raise InvalidInput(f"{place} cannot be read: the server answered {status} {response.reason_phrase}")


def shown(url: str) -> str:
    """Returns a URL as it may be shown: without user, password, query and fragment."""
    return redact(url.partition("#")[0].partition("?")[0], url)


class Body(io.RawIOBase):
    """The body of a response as a file that is read once, from front to back."""

    def __init__(self, response: httpx.Response) -> None:
        self._chunks = response.iter_bytes(_CHUNK)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """Says that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills the front of `buffer` and returns how many bytes that are; 0 at the end."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


@contextmanager
def opened(url: str, headers: Mapping[str, str] | None = None) -> Iterator[IO[bytes]]:
    """Gets `url` and yields the body as a file. Raises as `request` does."""
    with request(url, headers) as response:
        yield io.BufferedReader(Body(response), _CHUNK)


@contextmanager
def open_zip(url: str, limits: Limits, progress: Progress) -> Iterator[IO[bytes]]:
    """Yields the zip file at `url` as a file that can seek; `progress` is called while it is downloaded whole.

    Raises:
        InvalidInput: there is no usable answer, or it is a page instead of a file.
        InvalidLearnware: it must be downloaded whole and is larger than `limits` allow.
    """
    with tempfile.TemporaryFile() as file:
        size = _download(url, file, limits, progress)
        if size is None:
            file.seek(0)
            yield file
        else:
            yield io.BufferedReader(RangedFile(url, size), RANGE_BYTES)


def _download(url: str, file: IO[bytes], limits: Limits, progress: Progress) -> int | None:
    """Downloads a zip into `file`; or, where it is large and its server answers ranges, downloads nothing and returns
    its size in bytes."""
    with request(url) as response:
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "text/html":
            raise InvalidInput(f"{shown(url)} is a page, not a zip file; a link to the file itself is needed")
        length = response.headers.get("content-length", "")
        size = int(length) if length.isdecimal() else 0
        if response.headers.get("accept-ranges", "").lower() == "bytes" and size > WHOLE_BYTES:
            return size
        _check_size(size, limits)
        body = Body(response)
        while chunk := body.read(_CHUNK):
            file.write(chunk)
            _check_size(file.tell(), limits)
            progress(0)
    return None


def _check_size(size: int, limits: Limits) -> None:
    if size > limits.bytes:
        raise InvalidLearnware(
            f"the zip is larger than {limits.bytes / (1 << 20):g} MiB, and its server answers no ranges, so that it "
            "could be read in part; pack the adapter's own files alone"
        )


class RangedFile(io.RawIOBase):
    """A file of `size` bytes behind a URL whose server answers ranges; each read is one request."""

    def __init__(self, url: str, size: int) -> None:
        self._url = url
        self._size = size
        self._place = 0

    def readable(self) -> bool:
        """Says that it can be read."""
        return True

    def seekable(self) -> bool:
        """Says that it can seek."""
        return True

    def tell(self) -> int:
        """Returns the present place."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to another place, as every file does."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise OSError("negative seek position")
        self._place = start + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Fills `buffer` from the present place on, and returns how many bytes that are; 0 at the end."""
        count = min(len(buffer), self._size - self._place)
        if count <= 0:
            return 0
        last = self._place + count - 1
        with request(self._url, {"range": f"bytes={self._place}-{last}"}) as response:
            if not response.headers.get("content-range", "").startswith(f"bytes {self._place}-{last}/{self._size}"):
                raise InvalidInput(f"{shown(self._url)} changed while it was read, or its server mistook a range")
            target = memoryview(buffer)
            place = 0
            body = Body(response)
            while place < count and (read := body.readinto(target[place:count])):
                place += read
        self._place += place
        return place
