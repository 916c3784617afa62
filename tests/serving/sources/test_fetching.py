"""Sources on this machine, and what a source's text means."""

import zipfile
from pathlib import Path

import pytest

from serving.sources import fetch
from specs.errors import InvalidInput, InvalidLearnware
from specs.market.intake import Limits
from tests.serving.sources.conftest import CLUTTER, LEFT_OUT, content


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, value in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(value)
    return folder


def test_a_folder_and_a_zip_are_brought_alike(files: dict[str, bytes], tmp_path: Path) -> None:
    folder = write(tmp_path / "colours", files | CLUTTER)
    with zipfile.ZipFile(tmp_path / "colours.zip", "w") as archive:
        for name, value in (files | CLUTTER).items():
            archive.writestr(name, value)
    for number, source in enumerate(
        (str(folder), f"{folder}/", f"{folder}.zip", folder.as_uri(), f"{folder.as_uri()}.zip")
    ):
        target = tmp_path / f"target-{number}"
        seen: list[int] = []
        fetched = fetch(source, target, Limits(), seen.append)
        assert fetched == (target, LEFT_OUT, "colours", None, ())
        assert content(target) == files
        assert sum(seen) == sum(map(len, files.values()))


def test_a_path_with_one_slash_is_a_path_where_it_exists(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "someone" / "colours", files)
    monkeypatch.chdir(tmp_path)
    assert fetch("someone/colours", tmp_path / "target", Limits()).name == "colours"


def test_a_checkpoint_goes_by_its_runs_name_and_is_said(files: dict[str, bytes], tmp_path: Path) -> None:
    steps = {f"checkpoint-{step}/{name}": value for step in (9, 20) for name, value in files.items()}
    run = write(tmp_path / "colours", steps)
    fetched = fetch(str(run), tmp_path / "last", Limits())
    assert fetched.notes[0].startswith("checkpoint-20, at step 20, the last of 2 checkpoints")
    assert fetched.left_out == ("checkpoint-9/",)
    assert fetch(str(run / "checkpoint-9"), tmp_path / "named", Limits()).name == "colours"


def test_a_snapshot_of_the_hubs_cache_goes_by_its_models_name(files: dict[str, bytes], tmp_path: Path) -> None:
    model = tmp_path / "models--someone--colours"
    snapshot = model / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    write(model / "blobs", files)
    for name in files:
        (snapshot / name).symlink_to(Path("../../blobs") / name)
    for number, source in enumerate((model, snapshot)):
        fetched = fetch(str(source), tmp_path / f"target-{number}", Limits())
        assert (fetched.name, fetched.revision) == ("someone/colours", "c0ffee")
        assert content(fetched.folder) == files


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("ftp://host/colours.zip", "ftp:// is not read; a source is a folder, a zip, hf://owner/name@revision"),
        ("https://[host/colours.zip", "the source is no URL"),
        ("/no/such/folder", "/no/such/folder is neither a folder nor a zip file"),
    ],
)
def test_what_is_no_source_is_refused_with_what_would_be(source: str, reason: str, target: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        fetch(source, target, Limits())
    assert reason in str(caught.value)


def test_a_folder_that_is_not_empty_is_left_alone(files: dict[str, bytes], tmp_path: Path) -> None:
    write(tmp_path / "target", {"mine": b"x"})
    with pytest.raises(InvalidInput, match="is not empty"):
        fetch(str(write(tmp_path / "colours", files)), tmp_path / "target", Limits())
    assert content(tmp_path / "target") == {"mine": b"x"}


def test_a_zips_folder_that_is_not_there_is_named(files: dict[str, bytes], tmp_path: Path, target: Path) -> None:
    with zipfile.ZipFile(tmp_path / "colours.zip", "w") as archive:
        for name, value in files.items():
            archive.writestr(f"first/{name}", value)
    with pytest.raises(InvalidLearnware, match=r"colours\.zip has no folder 'second'"):
        fetch(f"{tmp_path}/colours.zip#second", target, Limits())
    fetch(f"{(tmp_path / 'colours.zip').as_uri()}#first", target, Limits())
    assert content(target) == files
