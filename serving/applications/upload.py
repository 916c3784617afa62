"""Takes the bodies of requests as they arrive, up to a limit: an uploaded file to disk, a small one into memory."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

from starlette.requests import ClientDisconnect, Request

from specs.errors import InvalidInput, TooLarge
from specs.market.writing import unwritable_as_error

ACCEPTED = frozenset({"application/zip", "application/x-zip-compressed", "application/octet-stream"})
"""Content types of an uploaded zip file."""

STALLED_S = 20.0
"""Seconds in which an upload must send something: one that stands still keeps its place in the line from others."""
LONGEST_S = 900.0
"""Seconds that an upload may take altogether; 1 GiB then needs 1.2 MiB a second."""


@asynccontextmanager
async def uploaded(
    request: Request, name: str, max_bytes: int, pool: Executor | None = None, stalled_s: float = STALLED_S
) -> AsyncIterator[Path]:
    """Yields the path of the request's body as the file `name`, which is removed at the end. Threads of `pool` write it
    (default: the loop's own).

    Raises:
        InvalidInput: the body is not a zip file by its content type, is empty, or the client hung up or stalled.
        TooLarge: it is larger than `max_bytes`; no more of it is read.
        MarketUnwritable: the disk is full.
    """
    loop = asyncio.get_running_loop()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ACCEPTED:
        raise InvalidInput(f"The body must be a zip file (Content-Type: application/zip), not {kind or 'untyped'}.")
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    with tempfile.TemporaryDirectory(prefix="learnware-upload-") as folder:
        path = Path(folder) / name
        taken = 0
        with unwritable_as_error("the folder for uploads"):
            file = await loop.run_in_executor(pool, _opened, path)
            try:
                async for chunk in _chunks(request, stalled_s):
                    taken += len(chunk)
                    if taken > max_bytes:
                        raise _too_large(max_bytes)
                    await loop.run_in_executor(pool, file.write, chunk)
            except ClientDisconnect:
                raise InvalidInput("The upload was cut off.") from None
            finally:
                await loop.run_in_executor(pool, file.close)
        if not taken:
            raise InvalidInput("The body is empty; it must be a zip file.")
        yield path


async def bounded_body(request: Request, most: int, too_large: str) -> bytes:
    """Returns the whole body of a request, of at most `most` bytes.

    Raises:
        TooLarge: there is more, which is not read; its message is `too_large`.
        InvalidInput: the client hung up before the body's end.
    """
    taken = bytearray()
    try:
        async for chunk in request.stream():
            taken += chunk
            if len(taken) > most:
                raise TooLarge(too_large)
    except ClientDisconnect:
        raise InvalidInput("The body was cut off.") from None
    return bytes(taken)


def _opened(path: Path) -> IO[bytes]:
    return path.open("wb")


async def _chunks(request: Request, stalled_s: float) -> AsyncIterator[bytes]:
    """Yields the parts of the body as they arrive, and bounds the time that each may take."""
    stream, end = request.stream(), asyncio.get_running_loop().time() + LONGEST_S
    while True:
        if asyncio.get_running_loop().time() > end:
            raise InvalidInput(f"The upload took more than {LONGEST_S:g} s.")
        try:
            chunk = await asyncio.wait_for(anext(stream), stalled_s)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise InvalidInput(f"The upload stood still for more than {stalled_s:g} s.") from None
        yield chunk


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"The upload is larger than {max_bytes / (1 << 20):g} MiB (market.max_upload_mib).")
