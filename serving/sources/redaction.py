"""Keeps secrets out of messages and logs: passwords and signatures in URLs, tokens, keys of the environment."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote

SECRET_VARIABLES = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
)
"""Environment variables whose values are never shown."""
_LOGGERS = (
    "aiobotocore",
    "aiohttp",
    "botocore",
    "fsspec",
    "gcsfs",
    "httpcore",
    "httpx",
    "httpx2",
    "huggingface_hub",
    "s3fs",
    "urllib3",
)
"""Loggers of the libraries that fetch. httpx writes each URL at level INFO, with its query; botocore, at DEBUG, the
headers that it signs with."""
_SHORTEST = 8
"""Characters from which on a secret is looked for by itself: a shorter one would blot out words."""
_SHORTEST_PASSWORD = 4
"""Characters from which on the password in a URL is looked for by itself."""

_USERINFO = re.compile(r"(?<=://)[^\s/?#@]*(?:@[^\s/?#@]*)*@")
_QUERY = re.compile(r"(\w+://[^\s?#'\"<>]*)\?[^\s'\"<>]*")
_TOKEN = re.compile(r"\bhf_\w{8,}|\b(?:A3T|AKIA|ASIA)[A-Z0-9]{12,}")
_HEADER = re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]+", re.IGNORECASE)


def redact(text: str, source: str = "") -> str:
    """Returns `text` without what may be secret: user and password of URLs, their queries, tokens of the hub, keys of
    an object store, and whatever of that kind `source` and the environment hold."""
    text = _USERINFO.sub("", text)
    text = _QUERY.sub(r"\1?…", text)
    for secret in sorted(_secrets(source), key=len, reverse=True):
        text = text.replace(secret, "…")
    return _HEADER.sub(r"\1 …", _TOKEN.sub("…", text))


@contextmanager
def quiet_clients() -> Iterator[None]:
    """Keeps the fetching libraries from writing logs: they hold URLs and headers whole. What goes wrong arrives as an
    exception."""
    known = {*_LOGGERS, *(name for name in logging.root.manager.loggerDict if name.partition(".")[0] in _LOGGERS)}
    before = {name: logging.getLogger(name).level for name in known}
    for name in known:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def _secrets(source: str) -> set[str]:
    """Returns the secrets that a source and the environment hold, as they are written and decoded."""
    found = {os.environ.get(name, "") for name in SECRET_VARIABLES}
    if "://" in source:
        authority, _, rest = source.partition("://")[2].partition("/")
        userinfo = authority.rpartition("@")[0]
        password = userinfo.partition(":")[2]
        found |= {password} if len(password) >= _SHORTEST_PASSWORD else set()
        query = (authority + "/" + rest).partition("?")[2].partition("#")[0]
        found |= {userinfo, query, *(pair.partition("=")[2] for pair in query.split("&"))}
    else:
        password = ""
    found |= {unquote(each) for each in found}
    return {each for each in found if len(each) >= _SHORTEST or each in {password, unquote(password)} - {""}}
