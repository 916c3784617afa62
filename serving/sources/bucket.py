"""Object stores through fsspec: `s3://bucket/prefix`, `gs://bucket/prefix`, or a zip in one.

Credentials come from where the stores' own tools find them: the environment, files in the home folder, the machine's
role. `AWS_ENDPOINT_URL` names another S3 server. Where there are none, S3 is asked without: public buckets answer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

from serving.sources.redaction import redact
from specs.errors import InvalidInput, InvalidLearnware, LearnwareError
from specs.market.intake import Item, Limits, Progress, Taken, split_part, take_items, take_zip
from specs.market.submission import ENTRIES

PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
"""The package that reads each kind of store."""
OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"connect_timeout": 15, "read_timeout": 60, "retries": {"max_attempts": 3}}},
    "gs": {},
}
"""Options of each kind of store's client; times in seconds."""
BLOCK_BYTES = 4 << 20
"""Bytes that are read at a time."""
DEPTH = 6
"""Levels of folders that are looked into."""


def take_bucket(
    source: str, folder: Path, limits: Limits, progress: Progress = lambda _: None, *, pickled: bool = False
) -> Taken:
    """Takes the adapter at `source`, a prefix or a zip of an object store, into `folder`.

    Raises:
        InvalidInput: the store cannot be read, or its package is not installed.
        InvalidLearnware: as `take_items` does.
    """
    scheme, _, rest = source.partition("://")
    place, part = split_part(rest)
    place = place.strip("/")
    if not place or "@" in place.partition("/")[0]:
        raise InvalidInput(
            f"a {scheme}:// source is {scheme}://bucket/prefix, without credentials: those come from the environment"
        )
    store = _store(scheme)
    with _explained(f"{scheme}://{place}"):
        try:
            kind = store.info(place)["type"]
        except Exception as error:  # botocore, whose it is, is not there where s3fs is not
            if scheme != "s3" or type(error).__name__ != "NoCredentialsError":
                raise
            store = _store(scheme, anon=True)
            kind = store.info(place)["type"]
        if kind == "file":
            with store.open(place, "rb", block_size=BLOCK_BYTES) as file:
                return take_zip(file, place.rpartition("/")[2], folder, limits, progress, part=part, pickled=pickled)
        items = _items(store, place)
        if not items:
            raise InvalidInput(f"there is nothing at {scheme}://{place}")
        return take_items(items, folder, limits, progress, pickled=pickled)


def _store(scheme: str, **options: Any) -> Any:
    import fsspec

    try:
        kind = fsspec.get_filesystem_class(scheme)
    except ImportError:
        package = PACKAGES[scheme]
        raise InvalidInput(
            f"reading {scheme}:// needs the package {package}: pip install {package} (or `learnware-serving[cloud]`)"
        ) from None
    # not the instance that fsspec keeps: its listings, and credentials that were read once, would stay
    return kind(skip_instance_cache=True, use_listings_cache=False, **OPTIONS[scheme], **options)


def _items(store: Any, place: str) -> dict[str, Item]:
    items: dict[str, Item] = {}
    for _, folders, files in store.walk(place, maxdepth=DEPTH, detail=True, on_error="raise"):
        for hidden in [name for name in folders if name.startswith(".")]:
            del folders[hidden]
        for info in files.values():
            key = info["name"]
            name = key.lstrip("/").removeprefix(f"{place}/")
            if name and not name.endswith("/"):  # some tools mark a folder with an empty object
                items[name] = Item(int(info["size"] or 0), partial(_opened, store, key))
        if len(items) > ENTRIES:
            raise InvalidLearnware(f"{place} holds more than {ENTRIES} files; name the adapter's own prefix")
    return items


@contextmanager
def _opened(store: Any, key: str) -> Iterator[IO[bytes]]:
    with store.open(key, "rb", block_size=BLOCK_BYTES, cache_type="readahead") as file:
        yield file


@contextmanager
def _explained(place: str) -> Iterator[None]:
    """Turns what a store's client raises into one sentence without secrets."""
    try:
        yield
    except LearnwareError:
        raise
    except FileNotFoundError:
        raise InvalidInput(f"there is nothing at {place}") from None
    except PermissionError as error:
        raise InvalidInput(f"{place} may not be read with the credentials at hand: {_line(error)}") from None
    except Exception as error:  # noqa: BLE001 (each store's client has errors of its own)
        raise InvalidInput(f"cannot read {place}: {_line(error)}") from None


def _line(error: Exception) -> str:
    lines = redact(str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__
