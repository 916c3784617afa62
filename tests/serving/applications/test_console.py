"""The console's application: its files and their headers, who gets what, and one scrape for all who look."""

import asyncio
import gzip
import hashlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from serving.access.keyring import Keyring, digest_of
from serving.access.tenant import Tenant
from serving.applications.access import Access
from serving.applications.console import FRESH_S, About, ConsoleAPI, about
from serving.applications.console_files import STATIC_FOLDER, PageFiles
from serving.config import Config
from tests.support import ROOT

SOURCES = ROOT / "console"
OPEN = Access(Keyring())
WITH_KEYS = Access(
    Keyring(
        None, [(digest_of("reader"), Tenant("reader")), (digest_of("watcher"), Tenant("watcher", metrics=True))], "top"
    )
)
ABOUT = About("tiny-base", ("auto", "any"), True, False, 1 << 20)
EXPOSITION = 'learnware_requests_total{learnware="a",reason="matched",deployment="engine",replica="r"} 3\n'


class Scrapes:
    """Counts scrapes, and tells the time."""

    def __init__(self) -> None:
        self.count = 0
        self.now = 100.0

    async def __call__(self) -> str:
        self.count += 1
        await asyncio.sleep(0.01)
        return EXPOSITION


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "static" / "assets").mkdir(parents=True)
    (tmp_path / "static" / "index.html").write_text("<!doctype html><title>page</title>" + " " * 600)
    (tmp_path / "static" / "assets" / "console-0123.js").write_text("let answer = 42;\n" * 100)
    (tmp_path / "static" / "icon.svg").write_text("<svg/>")
    (tmp_path / "secret.txt").write_text("nobody's business")
    return tmp_path / "static"


@pytest.fixture
def scrapes() -> Scrapes:
    return Scrapes()


def client_of(folder: Path, scrapes: Scrapes, access: Access) -> httpx.AsyncClient:
    app = ConsoleAPI(PageFiles(folder), access, ABOUT, scrapes, lambda: scrapes.now).application()
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://console")


@pytest.fixture
async def client(folder: Path, scrapes: Scrapes) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(folder, scrapes, WITH_KEYS) as client:
        yield client


@pytest.mark.parametrize("path", ["/console", "/console/", "/console/assets/console-0123.js", "/console/icon.svg"])
async def test_the_shell_needs_no_key(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 200


@pytest.mark.parametrize(
    "path", ["/console/", "/console/assets/console-0123.js", "/console/nothing", "/console/api/session"]
)
async def test_every_answer_forbids_whatever_is_not_the_console_itself(client: httpx.AsyncClient, path: str) -> None:
    headers = (await client.get(path)).headers
    policy = dict(line.split(" ", 1) for line in headers["content-security-policy"].split("; "))
    own = {"script-src", "style-src", "connect-src", "img-src"}
    none = {"default-src", "frame-ancestors", "base-uri", "form-action"}
    assert {policy[name] for name in own} == {"'self'"}
    assert {policy[name] for name in none} == {"'none'"}
    assert "unsafe" not in headers["content-security-policy"]
    assert policy["require-trusted-types-for"] == "'script'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in headers


async def test_a_browser_keeps_what_has_its_hash_in_its_name_and_asks_about_all_else(client: httpx.AsyncClient) -> None:
    asset = await client.get("/console/assets/console-0123.js")
    assert asset.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert asset.headers["content-type"].startswith("text/javascript")
    page = await client.get("/console/")
    assert page.headers["cache-control"] == "no-cache"
    same = await client.get("/console/", headers={"if-none-match": f'"other", {page.headers["etag"]}'})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", page.headers["etag"])
    assert (await client.get("/console/", headers={"if-none-match": '"other"'})).status_code == 200


@pytest.mark.parametrize(
    ("asked", "compressed"),
    [
        ("gzip", True),
        ("br, gzip;q=0.5", True),
        ("*", True),
        ("gzip;q=0", False),
        ("gzip;q=0.0, br", False),
        ("br", False),
    ],
)
async def test_gzip_is_sent_where_it_is_asked_for(
    client: httpx.AsyncClient, folder: Path, asked: str, compressed: bool
) -> None:
    path = "assets/console-0123.js"
    async with client.stream("GET", f"/console/{path}", headers={"accept-encoding": asked}) as answer:
        raw = b"".join([part async for part in answer.aiter_raw()])
    assert (answer.headers.get("content-encoding") == "gzip") is compressed
    assert answer.headers["vary"] == "accept-encoding"
    assert (gzip.decompress(raw) if compressed else raw) == (folder / path).read_bytes()


async def test_head_has_the_headers_of_get(client: httpx.AsyncClient) -> None:
    head, get = await client.head("/console/"), await client.get("/console/")
    assert head.status_code == 200
    assert {name: head.headers[name] for name in ("content-length", "etag", "content-type")} == {
        name: get.headers[name] for name in ("content-length", "etag", "content-type")
    }


@pytest.mark.parametrize(
    "path",
    [
        "/console/../secret.txt",
        "/console/%2e%2e/secret.txt",
        "/console/..%2fsecret.txt",
        "/console/assets/%2e%2e/%2e%2e/secret.txt",
        "/console//secret.txt",
        "/console/%00",
        "/console/assets",
        "/console/index.html/x",
    ],
)
async def test_no_path_leads_out_of_the_folder(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(httpx.URL("http://console", raw_path=path.encode()))
    assert answer.status_code == 404
    assert "nobody" not in answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_files_are_only_read(client: httpx.AsyncClient) -> None:
    assert (await client.post("/console/", content=b"x")).status_code == 405
    assert (await client.put("/console/index.html", content=b"x")).status_code == 405


async def test_what_is_fetched_needs_a_key(client: httpx.AsyncClient, scrapes: Scrapes) -> None:
    for path in ("/console/api/session", "/console/api/live", "/console/api/nothing"):
        assert (await client.get(path)).status_code == 401
    reader, watcher = {"authorization": "Bearer reader"}, {"authorization": "Bearer watcher"}
    assert (await client.get("/console/api/live", headers=reader)).status_code == 403
    assert (await client.get("/console/api/nothing", headers=reader)).status_code == 404
    assert scrapes.count == 0
    assert (await client.get("/console/api/live", headers=watcher)).status_code == 200
    assert (await client.get("/console/api/live", headers={"authorization": "Bearer top"})).status_code == 200


async def test_the_session_says_whose_key_it_is(client: httpx.AsyncClient) -> None:
    async def session(key: str) -> dict[str, object]:
        answer = await client.get("/console/api/session", headers={"authorization": f"Bearer {key}"})
        assert answer.headers["cache-control"] == "no-store"
        found: dict[str, object] = answer.json()
        return found

    reader = await session("reader")
    assert {
        "tenant": "reader",
        "admin": False,
        "metrics": False,
        "keys": True,
        "changes": True,
    }.items() <= reader.items()
    assert {"base": "tiny-base", "auto": ["auto", "any"], "decisions": True, "learns": False}.items() <= reader.items()
    assert (await session("top"))["admin"] is True


async def test_without_keys_everybody_sees_the_state_and_nobody_is_admin(folder: Path, scrapes: Scrapes) -> None:
    async with client_of(folder, scrapes, OPEN) as client:
        session = (await client.get("/console/api/session")).json()
        assert (session["keys"], session["admin"], session["metrics"], session["changes"]) == (
            False,
            False,
            True,
            False,
        )
        state = (await client.get("/console/api/live")).json()
    assert state["learnwares"]["a"]["requests"] == 3


async def test_a_long_state_is_compressed(folder: Path) -> None:
    async def long() -> str:
        names = (f"learnware-{number}" for number in range(100))
        lines = (
            f'learnware_requests_total{{learnware="{name}",reason="matched",deployment="engine"}} 1' for name in names
        )
        return "\n".join(lines) + "\n"

    app = ConsoleAPI(PageFiles(folder), OPEN, ABOUT, long).application()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://console") as client:
        state = await client.get("/console/api/live", headers={"accept-encoding": "gzip"})
    assert state.headers["content-encoding"] == "gzip"
    assert len(state.json()["learnwares"]) == 100


async def test_one_scrape_is_enough_for_all_who_look_at_a_time(folder: Path, scrapes: Scrapes) -> None:
    async with client_of(folder, scrapes, OPEN) as client:
        await asyncio.gather(*(client.get("/console/api/live") for _ in range(8)))
        assert scrapes.count == 1
        scrapes.now += FRESH_S
        await client.get("/console/api/live")
        assert scrapes.count == 2


def test_a_folder_without_a_page_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="`make console` builds the pages"):
        PageFiles(tmp_path)


def test_the_pages_are_told_what_the_configuration_says() -> None:
    config = Config.model_validate({"decisions": {"enabled": False}, "market": {"max_upload_mib": 3}})
    told = about(config)
    assert (told.base, told.decisions, told.learns) == (config.base_model.served_id, False, False)
    assert told.max_upload_bytes == 3 << 20


# The build


def hash_of_sources() -> str:
    """The hash that console/build.mjs writes into build.json."""
    own = [SOURCES / name for name in ("build.mjs", "package.json", "package-lock.json", "tsconfig.json")]
    inside = [path for path in (SOURCES / "src").rglob("*") if path.is_file()]
    lines = [
        f"{path.relative_to(SOURCES).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n"
        for path in own + inside
    ]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def test_the_built_pages_are_those_of_the_sources() -> None:
    built = json.loads((STATIC_FOLDER / "build.json").read_text())
    assert built["sources"] == hash_of_sources(), "the pages are stale: run `make console` and commit what it writes"


def test_the_page_names_files_that_are_there_and_nothing_elsewhere() -> None:
    page = (STATIC_FOLDER / "index.html").read_text()
    named = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(named) == 3
    for path in named:
        assert (STATIC_FOLDER / path.removeprefix("/console/")).is_file()
    assert len(list((STATIC_FOLDER / "assets").iterdir())) == 2
    assert not re.search(r"<script(?![^>]* src=)|<style| on\w+=| style=", page)


def test_assets_have_the_hash_of_their_content_in_their_name() -> None:
    for path in (STATIC_FOLDER / "assets").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest()[:12] in path.name


def test_the_pages_are_small_and_make_no_html_of_text() -> None:
    (script,) = (STATIC_FOLDER / "assets").glob("*.js")
    assert len(gzip.compress(script.read_bytes())) < 60_000
    sources = "".join(path.read_text() for path in (SOURCES / "src").glob("*.ts*"))
    assert not re.search(
        r"dangerouslySetInnerHTML|innerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", sources
    )
