"""A local stand-in for S3, read by the real s3fs; and the same code on another store."""

import io
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from serving.sources import fetch
from specs.errors import InvalidInput, InvalidLearnware
from specs.market.intake import Limits
from tests.serving.sources.conftest import CLUTTER, LEFT_OUT, content
from tests.serving.sources.servers import object_store, serving

SECRET = "wJalrXUtnFEMIbPxRfiCYEXAMPLEKEY"


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))


def under(prefix: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {prefix + name: value for name, value in files.items()}


def test_a_prefix_is_fetched_and_only_what_is_taken_is_read(
    files: dict[str, bytes], target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("s3fs")
    objects = under("runs/colours/", files | CLUTTER | {"": b""}) | {"runs/colours-2/adapter_config.json": b"{}"}
    with serving(object_store(objects)) as place:
        monkeypatch.setenv("AWS_ENDPOINT_URL", place.url)
        fetched = fetch("s3://models/runs/colours/", target, Limits())
    assert content(target) == files
    assert (fetched.name, fetched.revision, fetched.left_out) == ("colours", None, LEFT_OUT)
    read = {asked.path for asked in place.asked if asked.method == "GET" and asked.path.strip("/") != "models"}
    assert read == set(under("/models/runs/colours/", files))


def test_a_zip_in_a_bucket_is_fetched(files: dict[str, bytes], target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, value in under("first/", files).items() | under("second/", files).items():
            archive.writestr(name, value)
    with serving(object_store({"a/colours.zip": buffer.getvalue()})) as place:
        monkeypatch.setenv("AWS_ENDPOINT_URL", place.url)
        with pytest.raises(
            InvalidLearnware, match=r"2 adapters, in first, second; .* such as s3://models/a/colours.zip#first$"
        ):
            fetch("s3://models/a/colours.zip", target, Limits())
        assert fetch("s3://models/a/colours.zip#second", target, Limits()).name == "colours"
    assert content(target) == files


@pytest.mark.slow
def test_a_public_bucket_needs_no_credentials(
    files: dict[str, bytes], target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("s3fs")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with serving(object_store(under("colours/", files), public=True)) as place:
        monkeypatch.setenv("AWS_ENDPOINT_URL", place.url)
        fetch("s3://models/colours", target, Limits())
    assert content(target) == files


def test_what_cannot_be_read_is_named_without_secrets(
    files: dict[str, bytes], target: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("s3fs")
    caplog.set_level("DEBUG")
    with serving(object_store(under("colours/", files))) as place:
        monkeypatch.setenv("AWS_ENDPOINT_URL", place.url)
        for source, reason in {
            "s3://models/none": "there is nothing at s3://models/none",
            "s3://absent/colours": "s3://absent/colours",
            "s3://": "a s3:// source is s3://bucket/prefix",
            f"s3://AKIAIOSFODNN7EXAMPLE:{SECRET}@models/colours": "without credentials",
        }.items():
            with pytest.raises(InvalidInput) as caught:
                fetch(source, target, Limits())
            assert reason in str(caught.value)
            assert SECRET not in str(caught.value) + caplog.text
            assert "AKIAIOSFODNN7EXAMPLE" not in str(caught.value) + caplog.text


def test_limits_hold_before_anything_is_read(
    files: dict[str, bytes], target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("s3fs")
    with serving(object_store(under("colours/", files))) as place:
        monkeypatch.setenv("AWS_ENDPOINT_URL", place.url)
        with pytest.raises(InvalidLearnware, match="hold more than"):
            fetch("s3://models/colours", target, Limits(bytes=100))
    assert content(target) == {}
    assert {asked.path.strip("/") for asked in place.asked if asked.method == "GET"} == {"models"}


def test_a_store_whose_package_is_absent_is_named_with_the_command(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    monkeypatch.setattr(fsspec, "get_filesystem_class", _absent)
    with pytest.raises(InvalidInput, match="reading gs:// needs the package gcsfs: pip install gcsfs"):
        fetch("gs://models/colours", target, Limits())
    with pytest.raises(InvalidInput, match="reading s3:// needs the package s3fs: pip install s3fs"):
        fetch("s3://models/colours", target, Limits())


def _absent(_: str) -> None:
    raise ImportError


def test_another_store_is_read_by_the_same_code(
    files: dict[str, bytes], target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    class Store(MemoryFileSystem):
        store = {}  # noqa: RUF012
        pseudo_dirs = [""]  # noqa: RUF012

    for name, value in under("/models/colours/", files | CLUTTER).items():
        Store().pipe(name, value)
    monkeypatch.setattr(fsspec, "get_filesystem_class", lambda _: Store)
    fetched = fetch("gs://models/colours", target, Limits())
    assert content(target) == files
    assert fetched.left_out == LEFT_OUT
    assert "gcsfs" not in sys.modules
