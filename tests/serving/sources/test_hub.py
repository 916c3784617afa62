"""A local stand-in for the hub: which files are downloaded, who gets the token, and what is said."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.sources import fetch
from serving.sources.hub import HubModel, hub_page, parse_hub
from specs.errors import InvalidInput, InvalidLearnware
from specs.market.intake import Limits
from tests.serving.sources.conftest import CLUTTER, LEFT_OUT, content, paths
from tests.serving.sources.servers import Answer, Place, hub, serving

TOKEN = "hf_abcdefghijklmnop"
SHA = "c0ffee" * 6 + "beef"


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def storage(files: dict[str, bytes]) -> Iterator[Place]:
    with serving(lambda asked: Answer(200, files[asked.path.rpartition("/")[2]])) as place:
        yield place


@pytest.mark.parametrize(
    "source", ["someone/colours", "someone/colours@v1", "HF://someone/colours", "hf://someone/colours@v1"]
)
def test_only_what_is_taken_is_downloaded(
    source: str, files: dict[str, bytes], storage: Place, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(hub(files | CLUTTER, storage.url, token=TOKEN)) as place:
        monkeypatch.setenv("HF_ENDPOINT", place.url)
        fetched = fetch(source, target, Limits())
    assert content(target) == files
    assert (fetched.name, fetched.revision, fetched.left_out) == ("someone/colours", SHA, LEFT_OUT)
    assert {path.rpartition("/")[2] for path in paths(place) if "/resolve/" in path} == set(files)
    assert all("authorization" not in asked.headers for asked in storage.asked), "the token is the hub's alone"
    assert paths(storage) == {"/adapter_model.safetensors"}


@pytest.mark.parametrize("source", ["hf://someone/colours/second@v1", "hf://someone/colours@v1/second"])
def test_a_folder_of_a_model_is_an_adapter(
    source: str, files: dict[str, bytes], storage: Place, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = {f"{folder}/{name}": value for folder in ("first", "second") for name, value in files.items()}
    with serving(hub(two, storage.url)) as place:
        monkeypatch.setenv("HF_ENDPOINT", place.url)
        fetch(source, target, Limits())
        assert content(target) == files
        with pytest.raises(
            InvalidLearnware, match=r"2 adapters, in first, second; name one .* such as hf://someone/colours@v1/first$"
        ):
            fetch("hf://someone/colours@v1", target.with_name("other"), Limits())
        with pytest.raises(InvalidInput, match="someone/colours has no folder 'third'"):
            fetch("hf://someone/colours/third", target.with_name("third"), Limits())


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("hf://someone/other", "cannot get someone/other from the hub: there is no such model, or it is private"),
        (
            "hf://someone/colours@v9",
            "cannot get someone/colours at revision v9 from the hub: there is no such revision",
        ),
        ("hf://colours", "does not name a model of the hub; the form is hf://owner/name@revision"),
        ("hf://datasets/someone/colours", "does not name a model of the hub"),
        ("hf://someone/colours@", "no revision after the @"),
    ],
)
def test_what_is_not_there_is_named(
    source: str, reason: str, files: dict[str, bytes], storage: Place, target: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    with serving(hub(files, storage.url, token=TOKEN)) as place:
        monkeypatch.setenv("HF_ENDPOINT", place.url)
        with pytest.raises(InvalidInput) as caught:
            fetch(source, target, Limits())
    assert reason in str(caught.value)
    assert TOKEN not in str(caught.value) + caplog.text


def test_a_file_that_is_cut_or_too_large_is_refused(
    files: dict[str, bytes], storage: Place, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(hub(files, storage.url)) as place:
        monkeypatch.setenv("HF_ENDPOINT", place.url)
        with pytest.raises(InvalidLearnware, match="hold more than"):
            fetch("someone/colours", target, Limits(bytes=100))
        assert not any("/resolve/" in path for path in paths(place)), "known before anything is downloaded"
        whole = dict(files)
        files["adapter_model.safetensors"] = files["adapter_model.safetensors"][:-9]
    with serving(hub(whole, storage.url)) as place:
        monkeypatch.setenv("HF_ENDPOINT", place.url)
        with pytest.raises(InvalidLearnware, match=r"adapter_model.safetensors has \d+ bytes instead of"):
            fetch("someone/colours", target.with_name("other"), Limits())


def test_a_hub_that_is_not_there_is_named(
    files: dict[str, bytes], target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(hub(files, "")) as place:
        monkeypatch.setenv("HF_ENDPOINT", place.url)
    with pytest.raises(InvalidInput, match=r"cannot get someone/colours from the hub: .*refused"):
        fetch("someone/colours", target, Limits())


def test_offline_the_cache_answers(
    files: dict[str, bytes], tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(InvalidInput, match=r"someone/colours is not in the hub's local cache, and HF_HUB_OFFLINE"):
        fetch("someone/colours", target, Limits())
    model = tmp_path / "hub" / "models--someone--colours"
    for folder in ("blobs", "refs", f"snapshots/{SHA}"):
        (model / folder).mkdir(parents=True)
    (model / "refs" / "main").write_text(SHA)
    for name, value in files.items():
        (model / "blobs" / name).write_bytes(value)
        (model / "snapshots" / SHA / name).symlink_to(f"../../blobs/{name}")
    fetched = fetch("someone/colours", target, Limits())
    assert content(target) == files
    assert (fetched.name, fetched.revision) == ("someone/colours", SHA)


def test_forms_of_a_model_are_read() -> None:
    assert parse_hub("a/b") == HubModel("a/b", None, "")
    assert parse_hub("hf://a/b@refs/pr/3/x") == HubModel("a/b", "refs/pr/3", "x")
    assert parse_hub("hf://a/b@feature%2Fone/x/y") == HubModel("a/b", "feature/one", "x/y")
    assert parse_hub("hf://a/b/x/y@v1.0") == HubModel("a/b", "v1.0", "x/y")
    assert hub_page("https://huggingface.co/a/b") == HubModel("a/b", None, "")
    assert hub_page("https://huggingface.co/a/b/tree/main/x?y=1") == HubModel("a/b", "main", "x")
    assert hub_page("https://huggingface.co/a/b/resolve/main/x.zip") is None
    assert hub_page("https://host.example/a/b") is None
