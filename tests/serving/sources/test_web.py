"""Zips behind a URL, on a real server: redirects, sizes, ranges, and what messages say."""

import io
import logging
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import serving.sources.web as web
from serving.sources import fetch
from specs.errors import InvalidInput, InvalidLearnware
from specs.market.intake import Limits
from tests.serving.sources.conftest import CLUTTER, LEFT_OUT, content
from tests.serving.sources.servers import UNSTATED, Answer, Asked, ranged, serving

SIGNED = "?X-Amz-Credential=AKIAIOSFODNN7EXAMPLE&X-Amz-Signature=0123456789abcdef"


def packed(files: Mapping[str, bytes], prefix: str = "") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in files.items():
            archive.writestr(prefix + name, value)
    return buffer.getvalue()


def always(answer: Answer) -> Callable[[Asked], Answer]:
    return lambda _: answer


def test_a_zip_is_fetched_and_what_is_not_read_is_named(files: dict[str, bytes], target: Path) -> None:
    seen: list[int] = []
    with serving(always(Answer(200, packed(files | CLUTTER, "colours/")))) as place:
        fetched = fetch(f"{place.url}/a/colours.zip{SIGNED}", target, Limits(), seen.append)
    assert content(target) == files
    assert fetched.name == "colours"
    assert fetched.revision is None
    assert fetched.left_out == tuple(f"colours/{name}" for name in LEFT_OUT)
    assert sum(seen) == sum(map(len, files.values()))


def test_of_a_large_zip_only_what_is_taken_travels(
    files: dict[str, bytes], target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(web, "RANGE_BYTES", 1000)
    import random

    checkpoint = {"checkpoint-10/optimizer.pt": random.Random(0).randbytes(200_000)}
    whole = packed(checkpoint | files)
    sent = 0

    def answer(asked: Asked) -> Answer:
        nonlocal sent
        if "range" in asked.headers:
            sent += len(ranged(asked, whole).body)
        return ranged(asked, whole)

    with serving(answer) as place:
        fetch(f"{place.url}/colours.zip", target, Limits(bytes=100_000))
    assert content(target) == files
    assert 0 < sent < 10_000


def test_a_zip_on_a_server_without_ranges_is_bounded(files: dict[str, bytes], target: Path) -> None:
    whole = packed(files)
    for length in (None, UNSTATED):
        with (
            serving(always(Answer(200, whole, length=length))) as place,
            pytest.raises(InvalidLearnware, match="the zip is larger than"),
        ):
            fetch(f"{place.url}/colours.zip", target, Limits(bytes=500))


def chain(length: int, files: Mapping[str, bytes]) -> Callable[[Asked], Answer]:
    def answer(asked: Asked) -> Answer:
        step = int(asked.path.strip("/").removesuffix(".zip"))
        return Answer(302, b"", {"location": f"/{step + 1}.zip"}) if step < length else Answer(200, packed(files))

    return answer


def test_redirects_are_followed_and_counted(files: dict[str, bytes], target: Path, tmp_path: Path) -> None:
    with serving(chain(web.MAX_REDIRECTS, files)) as place:
        fetch(f"{place.url}/0.zip", target, Limits())
        assert content(target) == files
    with (
        serving(chain(web.MAX_REDIRECTS + 1, files)) as place,
        pytest.raises(InvalidInput, match="more than 5 redirects"),
    ):
        fetch(f"{place.url}/0.zip", tmp_path / "other", Limits())


def test_a_redirect_from_https_to_http_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    def respond(request: httpx.Request) -> httpx.Response:
        return httpx.Response(302, headers={"location": "http://other.example/colours.zip?signature=0123456789"})

    whole = httpx.Client
    monkeypatch.setattr(httpx, "Client", lambda **options: whole(transport=httpx.MockTransport(respond), **options))
    with (
        pytest.raises(InvalidInput, match=r"redirects from https to http \(http://other.example/colours.zip\)"),
        web.request("https://host.example/colours.zip"),
    ):
        pass


def test_a_redirect_to_a_file_is_not_followed(target: Path) -> None:
    with (
        serving(always(Answer(302, b"", {"location": "file:///etc/passwd"}))) as place,
        pytest.raises(InvalidInput, match="redirects to file:"),
    ):
        fetch(f"{place.url}/colours.zip", target, Limits())


def test_another_server_gets_neither_password_nor_token(files: dict[str, bytes], target: Path) -> None:
    with serving(always(Answer(200, packed(files)))) as storage:
        with serving(always(Answer(307, b"", {"location": f"{storage.url}/colours.zip"}))) as place:
            fetch(place.url.replace("//", "//me:pass-word-1@") + "/colours.zip", target, Limits())
            assert place.asked[0].headers["authorization"].startswith("Basic ")
        assert "authorization" not in storage.asked[0].headers
    with serving(always(Answer(200, b"x"))) as storage:
        with serving(always(Answer(307, b"", {"location": f"{storage.url}/x"}))) as place:
            with web.opened(f"{place.url}/x", {"Authorization": "Bearer t", "x-kept": "1"}) as file:
                assert file.read() == b"x"
            assert place.asked[0].headers["authorization"] == "Bearer t"
        assert "authorization" not in storage.asked[0].headers
        assert storage.asked[0].headers["x-kept"] == "1"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(403, b"<Error>0123456789abcdef</Error>"), "may not be read"),
        (Answer(404), "there is nothing at"),
        (Answer(503), "the server answered 503"),
        (Answer(200, b"<html>log in</html>", {"content-type": "text/html; charset=utf-8"}), "is a page"),
        (Answer(200, b"no zip at all"), "is not a whole zip file"),
        (Answer(200, b"PK\x03\x04", {}, length=4000), "cannot get"),
    ],
    ids=["forbidden", "absent", "broken", "page", "no zip", "cut"],
)
def test_what_went_wrong_is_said_without_secrets(
    answer: Answer, reason: str, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    level = logging.getLogger("httpx").level
    with serving(always(answer)) as place, pytest.raises(InvalidInput) as caught:
        fetch(place.url.replace("//", "//me:pass-word-1@") + f"/a/colours.zip{SIGNED}", target, Limits())
    assert reason in str(caught.value)
    assert "/a/colours.zip" in str(caught.value)
    for text in (str(caught.value), caplog.text):
        for secret in ("pass-word-1", "0123456789abcdef", "AKIAIOSFODNN7EXAMPLE"):
            assert secret not in text
    assert logging.getLogger("httpx").level == level, "the log is as before"


def test_a_server_that_is_not_there_is_named(target: Path) -> None:
    with serving(always(Answer(200))) as place:
        url = place.url
    with pytest.raises(InvalidInput, match=rf"cannot get {url}/colours.zip: "):
        fetch(f"{url}/colours.zip", target, Limits())


def test_the_time_of_a_fetch_is_bounded(files: dict[str, bytes], target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import serving.sources.fetching as fetching

    monkeypatch.setattr(fetching, "TIME_LIMIT_S", -1.0)
    with serving(always(Answer(200, packed(files)))) as place, pytest.raises(InvalidInput, match="minutes to fetch"):
        fetch(f"{place.url}/colours.zip{SIGNED}", target, Limits())
