"""Which files of a release may be installed, with their hashes: what an index publishes, and what of it fits.

An index is asked through the Simple API, in JSON (PEP 691) or, where it has none, as a page of links (PEP 503).
"""

import re
import ssl
from collections.abc import Iterable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urldefrag, urlsplit
from urllib.request import url2pathname

import httpx
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version
from steps import StepFailure

ACCEPTED = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
PYTHON = (3, 11)
PLACEHOLDER = "any_linux"
INTERPRETERS = frozenset(
    (tag.interpreter, tag.abi)
    for tags in (
        cpython_tags(PYTHON, platforms=[PLACEHOLDER]),
        compatible_tags(PYTHON, f"cp{PYTHON[0]}{PYTHON[1]}", [PLACEHOLDER]),
    )
    for tag in tags
)
"""The pairs of interpreter and ABI tag that CPython 3.11 accepts, whatever the platform."""


class File(NamedTuple):
    """A file of an index: its name, and its SHA-256 in hexadecimal, empty where the index states none."""

    name: str
    sha256: str


class Chosen(NamedTuple):
    """The file that pip took for a package: where from, and its SHA-256, empty where pip's report has none."""

    url: str
    sha256: str

    @property
    def name(self) -> str:
        return file_name(self.url)


class Links(HTMLParser):
    """Collects the files of a page of links, whose hashes stand behind the `#` of each link."""

    def __init__(self) -> None:
        super().__init__()
        self.files: list[File] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get("href")
        if tag == "a" and address:
            found = re.fullmatch(r"sha256=([0-9a-f]{64})", urldefrag(address).fragment)
            self.files.append(File(file_name(address), found[1] if found else ""))


class Index:
    """A package index, asked at most once for each package. `certificates` is a file of trusted ones, or None."""

    def __init__(self, address: str, certificates: str | None = None, proxy: str | None = None) -> None:
        self.address = address.rstrip("/")
        self._asked: dict[str, list[File]] = {}
        self._client = httpx.Client(
            verify=ssl.create_default_context(cafile=certificates),
            proxy=proxy,
            headers={"accept": ACCEPTED},
            follow_redirects=True,
            timeout=60,
        )

    def files(self, name: str) -> list[File]:
        """All files of the package `name`; none if the index does not know it.

        Raises:
            StepFailure: the index does not answer, or not with what the Simple API promises.
        """
        if name not in self._asked:
            self._asked[name] = self._ask(name)
        return self._asked[name]

    def _ask(self, name: str) -> list[File]:
        page = f"{self.address}/{name}/"
        if urlsplit(page).scheme == "file":
            path = Path(url2pathname(urlsplit(page).path)) / "index.html"
            return links(path.read_text(encoding="utf-8")) if path.exists() else []
        try:
            answer = self._client.get(page)
            if answer.status_code == httpx.codes.NOT_FOUND:
                return []
            answer.raise_for_status()
            if "json" not in answer.headers.get("content-type", ""):
                return links(answer.text)
            return [File(file["filename"], file["hashes"].get("sha256", "")) for file in answer.json()["files"]]
        except httpx.HTTPStatusError as error:
            raise StepFailure(f"the index answers {error.response.status_code} for the files of {name}") from None
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise StepFailure(f"the index does not tell which files {name} has: {error!r}") from None


def links(page: str) -> list[File]:
    parser = Links()
    parser.feed(page)
    return parser.files


def file_name(address: str) -> str:
    return unquote(urlsplit(address).path.rpartition("/")[2])


def hashes(version: str, machines: Sequence[str], published: Iterable[File], chosen: Chosen) -> set[str]:
    """The SHA-256 values of all files that may be installed for a version on Linux with CPython 3.11.

    Those are the published wheels that fit one of `machines`, the source distribution only where no wheel fits, and
    the file that pip chose here: a folder of wheels or another index may hold it alone.

    Raises:
        StepFailure: the index publishes the chosen file with another hash.
    """
    of_release = [file for file in published if file.sha256 and is_of(file.name, version)]
    for file in of_release:
        if file.name == chosen.name and chosen.sha256 and file.sha256 != chosen.sha256:
            raise StepFailure(
                f"two different files are called {file.name}: the index publishes one with SHA-256 {file.sha256}, and "
                f"pip took one with {chosen.sha256} from {chosen.url}; remove that, or lock against the index alone"
            )
    wheels = {file.sha256 for file in of_release if fits(file.name, machines)}
    sources = {file.sha256 for file in of_release if not file.name.endswith(".whl")}
    return (wheels or sources) | ({chosen.sha256} if chosen.sha256 else set())


def is_of(file: str, version: str) -> bool:
    """Whether a file's name says that it is a wheel or a source distribution of this version."""
    try:
        found = parse_wheel_filename(file)[1] if file.endswith(".whl") else parse_sdist_filename(file)[1]
        return found == Version(version)
    except (InvalidWheelFilename, InvalidSdistFilename, InvalidVersion):
        return False


def fits(file: str, machines: Sequence[str]) -> bool:
    """Whether a file is a wheel for CPython 3.11 on Linux, with glibc or musl, on one of `machines`."""
    try:
        tags = parse_wheel_filename(file)[3]
    except InvalidWheelFilename:
        return False
    platform = re.compile(rf"any|(?:manylinux\w+|musllinux\w+|linux)_(?:{'|'.join(map(re.escape, machines))})")
    return any((tag.interpreter, tag.abi) in INTERPRETERS and platform.fullmatch(tag.platform) for tag in tags)
