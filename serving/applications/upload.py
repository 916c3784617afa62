"""Writes an uploaded file to disk as it arrives, up to a limit."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.requests import ClientDisconnect, Request

from specs.errors import InvalidInput, TooLarge

ACCEPTED = frozenset({"application/zip", "application/x-zip-compressed", "application/octet-stream"})
"""Content types of an uploaded zip file."""


@asynccontextmanager
async def uploaded(request: Request, name: str, max_bytes: int) -> AsyncIterator[Path]:
    """Yields the path of the request's body as the file `name`, which is removed at the end.

    Raises:
        InvalidInput: the body is not a zip file by its content type, is empty, or the client hung up.
        TooLarge: it is larger than `max_bytes`; no more of it is read.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ACCEPTED:
        raise InvalidInput(f"The body must be a zip file (Content-Type: application/zip), not {kind or 'untyped'}.")
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    with tempfile.TemporaryDirectory(prefix="learnware-upload-") as folder:
        path = Path(folder) / name
        taken = 0
        file = await asyncio.to_thread(path.open, "wb")
        try:
            async for chunk in request.stream():
                taken += len(chunk)
                if taken > max_bytes:
                    raise _too_large(max_bytes)
                await asyncio.to_thread(file.write, chunk)
        except ClientDisconnect:
            raise InvalidInput("The upload was cut off.") from None
        finally:
            await asyncio.to_thread(file.close)
        if not taken:
            raise InvalidInput("The body is empty; it must be a zip file.")
        yield path


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"The upload is larger than {max_bytes / (1 << 20):g} MiB (market.max_upload_mib).")
