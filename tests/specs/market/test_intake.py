"""Submissions as they arrive: every form that is accepted, and every trick that is not, with a real file for each."""

import json
import shutil
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from specs.errors import InvalidInput, InvalidLearnware
from specs.market import folders
from specs.market.intake import Limits, take
from specs.market.journal import State
from specs.market.store import Market
from tests.specs.market.support import pack


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("prefix", ["", "colours-objects/"], ids=["files", "files in one folder"])
def test_a_folder_and_its_zip_arrive_alike(whole: Path, target: Path, tmp_path: Path, prefix: str) -> None:
    seen: list[int] = []
    take(pack(whole, tmp_path / "a.zip", prefix), target, Limits(), seen.append)
    assert names(target) == names(whole)
    for name in names(whole):
        assert (target / name).read_bytes() == (whole / name).read_bytes()
    assert sum(seen) == sum((whole / name).stat().st_size for name in names(whole))
    other = tmp_path / "other"
    other.mkdir()
    take(whole, other, Limits())
    assert names(other) == names(whole)


def entry(name: str, content: bytes = b"x", mode: int = stat.S_IFREG | 0o644) -> Callable[[zipfile.ZipFile], None]:
    def add(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        info.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(info, content)

    return add


def twice(archive: zipfile.ZipFile) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("learnware.yaml", "a: 1")


BAD_ENTRIES: dict[str, tuple[Callable[[zipfile.ZipFile], None], str]] = {
    "zip slip": (entry("../../evil.json"), "leads out of the learnware's folder"),
    "zip slip inside": (entry("specification/../../evil.json"), "leads out"),
    "absolute name": (entry("/etc/evil.json"), "leads out"),
    "backslashes": (entry("..\\evil.json"), "leads out"),
    "drive letter": (entry("C:evil.json"), "leads out"),
    "symbolic link": (entry("README.md", b"/etc/passwd", stat.S_IFLNK | 0o777), "a symbolic link or another special"),
    "device": (entry("README.md", b"", stat.S_IFCHR | 0o666), "a symbolic link or another special"),
    "the same name twice": (twice, "holds learnware.yaml twice"),
    "names that differ in case": (entry("Learnware.yaml"), "holds Learnware.yaml twice"),
    "a link that is not read": (entry("latest", b"checkpoint-1", stat.S_IFLNK | 0o777), "a symbolic link or another"),
    "a name without end": (entry("a/" * 600 + "b"), "a name of more than 1024 characters"),
    "a bomb": (entry("README.md", bytes(40 << 20)), "unpacks to more than 100 times"),
    "bzip2": (
        lambda archive: archive.writestr("README.md", b"x", compress_type=zipfile.ZIP_BZIP2),
        "neither stored nor deflated",
    ),
    "more entries than anybody needs": (
        lambda archive: [archive.writestr(f"runs/{number}", b"") for number in range(10_001)],
        "the zip holds more than 10000 entries",
    ),
}
LEFT_OUT = (
    ".DS_Store",
    ".git",
    "__MACOSX",
    "adapter_model.bin",
    "adapter_model.safetensors.index.json",
    "added_tokens.json",
    "chat_template.jinja",
    "checkpoint-10/",
    "modeling.py",
    "more.zip",
    "notes.txt",
    "optimizer.pt",
    "rng_state.pth",
    "runs/",
    "specification/points.pkl",
    "training_args.bin",
)
"""What stands beside adapters as their trainers write them, each once; folders end with a slash, if looked into."""


@pytest.mark.parametrize("trick", BAD_ENTRIES)
def test_a_zip_with_a_bad_entry_is_refused_and_nothing_leaves_the_folder(
    whole: Path, market: Market, tmp_path: Path, trick: str
) -> None:
    add, reason = BAD_ENTRIES[trick]
    path = pack(whole, tmp_path / "bad.zip")
    with zipfile.ZipFile(path, "a") as archive:
        add(archive)
    before = names(tmp_path) - {"market/market.sqlite"}
    with pytest.raises(InvalidLearnware) as caught, market.stage(path):
        pass
    assert reason in str(caught.value)
    assert names(tmp_path) - {"market/market.sqlite"} == before
    (record,) = market.records(State.QUARANTINED)
    assert record.reason is not None
    assert reason in record.reason
    assert market.records() == []


def with_clutter(whole: Path, folder: Path) -> Path:
    shutil.copytree(whole, folder)
    for name in LEFT_OUT:
        if name.endswith("/") or name in (".git", "__MACOSX"):
            (folder / name / "deep").mkdir(parents=True)
            (folder / name / "deep" / "adapter_model.safetensors").write_bytes(b"x" * 9000)
            (folder / name / "deep" / "adapter_config.json").write_bytes(b"{}")
        else:
            (folder / name).write_bytes(b"x" * 9000)
    return folder


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_what_is_not_read_is_left_out_named_and_not_counted(
    whole: Path, target: Path, tmp_path: Path, packed: bool
) -> None:
    source = with_clutter(whole, tmp_path / "cluttered")
    size = sum((whole / name).stat().st_size for name in names(whole))
    limits = Limits(files=len(names(whole)), bytes=size)
    left_out = take(pack(source, tmp_path / "a.zip") if packed else source, target, limits)
    assert left_out == LEFT_OUT
    assert names(target) == names(whole)


def test_a_bomb_an_encrypted_entry_and_a_bad_method_that_are_not_read_cost_nothing(
    whole: Path, target: Path, tmp_path: Path
) -> None:
    path = pack(whole, tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("bomb", bytes(40 << 20), compress_type=zipfile.ZIP_DEFLATED)
        archive.writestr("other", b"x", compress_type=zipfile.ZIP_LZMA)
    assert take(path, target, Limits(bytes=1 << 20)) == ("bomb", "other")
    assert names(target) == names(whole)


def test_a_directory_larger_than_any_zips_is_not_read(tmp_path: Path, target: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(70):
            info = zipfile.ZipInfo(f"{number}")
            info.extra = struct.pack("<HH", 0x7777, 65000) + bytes(65000)
            archive.writestr(info, b"")
    with pytest.raises(InvalidLearnware, match="more than 10000 entries"):
        take(path, target, Limits())


def test_an_encrypted_entry_is_refused(whole: Path, target: Path, tmp_path: Path) -> None:
    path = pack(whole, tmp_path / "a.zip")
    content = bytearray(path.read_bytes())
    central = content.index(b"PK\x01\x02")
    for at in (6, central + 8):  # the flags of the first entry, in its own header and in the directory
        content[at] |= 1
    path.write_bytes(content)
    with pytest.raises(InvalidLearnware, match="is encrypted"):
        take(path, target, Limits())


def test_a_size_that_lies_is_found_while_reading(whole: Path, target: Path, tmp_path: Path) -> None:
    path = pack(whole, tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("README.md", bytes(range(256)) * 40)
    content = bytearray(path.read_bytes())
    central = content.rindex(b"PK\x01\x02")
    content[central + 24 : central + 28] = struct.pack("<I", 10)
    path.write_bytes(content)
    with pytest.raises(InvalidLearnware, match="not a whole zip file"):
        take(path, target, Limits())
    assert not (target / "README.md").exists() or (target / "README.md").stat().st_size <= 10


@pytest.mark.parametrize(
    ("limits", "reason"),
    [(Limits(files=3), "more than 3 files"), (Limits(bytes=1 << 10), "more than 0.000976562 MiB")],
    ids=["files", "bytes"],
)
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_limits_hold(whole: Path, target: Path, tmp_path: Path, limits: Limits, reason: str, packed: bool) -> None:
    source = pack(whole, tmp_path / "a.zip") if packed else whole
    with pytest.raises(InvalidLearnware, match=reason):
        take(source, target, limits)


@pytest.mark.parametrize("cut", [0.3, 0.9, 0.999])
def test_a_zip_that_is_cut_is_refused(whole: Path, target: Path, tmp_path: Path, cut: float) -> None:
    path = pack(whole, tmp_path / "a.zip")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * cut)])
    with pytest.raises(InvalidLearnware, match=r"a\.zip is not a whole zip file"):
        take(path, target, Limits())


def test_a_damaged_entry_is_refused(whole: Path, target: Path, tmp_path: Path) -> None:
    path = pack(whole, tmp_path / "a.zip", method=zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.index(b"lora_A")] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InvalidLearnware, match="not a whole zip file: Bad CRC-32"):
        take(path, target, Limits())


def test_a_link_that_leads_out_or_a_pipe_is_refused_where_it_would_be_read(
    whole: Path, tmp_path: Path, target: Path
) -> None:
    def link(folder: Path) -> None:
        (folder / "README.md").symlink_to("/etc/hostname")

    def dangling(folder: Path) -> None:
        (folder / "README.md").symlink_to("gone")

    def loop(folder: Path) -> None:
        (folder / "README.md").symlink_to("README.md")

    def indirect(folder: Path) -> None:
        (folder / "near").symlink_to(tmp_path)
        (folder / "README.md").symlink_to("near/secret")

    def specification(folder: Path) -> None:
        (folder / "specification").rename(tmp_path / "elsewhere")
        (folder / "specification").symlink_to(tmp_path / "elsewhere")

    def pipe(folder: Path) -> None:
        import os

        os.mkfifo(folder / "README.md")

    (tmp_path / "secret").write_text("secret")
    cases = {
        link: r"README\.md is a symbolic link that leads out of the folder",
        dangling: "a symbolic link to a file that is missing",
        loop: "a symbolic link that leads nowhere",
        indirect: "a symbolic link that leads out of the folder",
        specification: "specification is a symbolic link",
        pipe: "no regular file",
    }
    for spoil, reason in cases.items():
        folder = Path(shutil.copytree(whole, tmp_path / spoil.__name__))
        spoil(folder)
        place = target / spoil.__name__
        place.mkdir()
        with pytest.raises(InvalidLearnware, match=reason):
            take(folder, place, Limits())
        assert not (place / "README.md").exists()


def test_a_link_that_is_not_read_is_left_out_and_one_inside_is_followed(
    whole: Path, tmp_path: Path, target: Path
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "linked"))
    (folder / "more").symlink_to(tmp_path)
    (folder / "tokenizer.json").symlink_to("/etc/hostname")
    (folder / "text").write_text("about")
    (folder / "README.md").symlink_to("text")
    assert take(folder, target, Limits()) == ("more", "text", "tokenizer.json")
    assert (target / "README.md").read_text() == "about"
    assert not (target / "README.md").is_symlink()


def in_hub_cache(whole: Path, cache: Path, *, shared: bool = False, revision: str = "c0ffee") -> Path:
    """A learnware as `huggingface_hub` keeps it: links into the model's blobs, which may be links themselves into those
    that all models share."""
    model = cache / "models--someone--colours"
    snapshot = model / "snapshots" / revision
    (model / "blobs").mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(sorted(names(whole))):
        place = snapshot / name
        place.parent.mkdir(parents=True, exist_ok=True)
        blob = model / "blobs" / f"{revision}{number}"
        if shared:
            (cache / "blobs" / "ab").mkdir(parents=True, exist_ok=True)
            shutil.copy(whole / name, cache / "blobs" / "ab" / blob.name)
            blob.symlink_to(Path("../../blobs/ab") / blob.name)
        else:
            shutil.copy(whole / name, blob)
        place.symlink_to(blob)
    return model


@pytest.mark.parametrize("shared", [False, True], ids=["own blobs", "shared blobs"])
@pytest.mark.parametrize("inner", ["", "snapshots/c0ffee"], ids=["model", "snapshot"])
def test_links_inside_a_hub_cache_are_followed(
    whole: Path, tmp_path: Path, target: Path, shared: bool, inner: str
) -> None:
    take(in_hub_cache(whole, tmp_path / "hub", shared=shared) / inner, target, Limits())
    assert names(target) == names(whole)
    assert not any(path.is_symlink() for path in target.rglob("*"))


def test_of_several_snapshots_main_is_taken_or_one_must_be_named(whole: Path, tmp_path: Path, target: Path) -> None:
    model = in_hub_cache(whole, tmp_path / "hub")
    (model / "snapshots" / "feed").mkdir()
    with pytest.raises(InvalidLearnware, match=r"holds 2 snapshots \(c0ffee, feed\); name one"):
        take(model, target, Limits())
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("c0ffee")
    take(model, target, Limits())
    assert names(target) == names(whole)


def test_a_link_from_a_hub_cache_to_elsewhere_is_refused(whole: Path, tmp_path: Path, target: Path) -> None:
    model = in_hub_cache(whole, tmp_path / "hub")
    (tmp_path / "hub" / "token").write_text("hf_secret")
    (model / "snapshots" / "c0ffee" / "README.md").symlink_to("../../../token")
    with pytest.raises(InvalidLearnware, match="leads out of the folder"):
        take(model, target, Limits())


def test_what_is_neither_folder_nor_zip_is_refused(tmp_path: Path, target: Path) -> None:
    with pytest.raises(InvalidInput, match="neither a folder nor a zip file"):
        take(tmp_path / "nothing", target, Limits())
    (tmp_path / "text.zip").write_text("hello")
    with pytest.raises(InvalidLearnware, match="not a whole zip file"):
        take(tmp_path / "text.zip", target, Limits())


def test_many_files_beside_an_adapter_do_not_matter_but_a_haystack_is_refused(
    whole: Path, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "ENTRIES", 50)
    folder = Path(shutil.copytree(whole, tmp_path / "data-beside"))
    (folder / "data").mkdir()
    for number in range(51):
        (folder / "data" / str(number)).touch()
    assert take(folder, target, Limits()) == ("data/",)
    assert names(target) == names(whole)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(InvalidLearnware, match="data-beside holds more than 50 files; name the adapter's own folder"):
        take(folder, tmp_path / "other", Limits())


@pytest.mark.parametrize("method", ["pissa", True], ids=["PiSSA", "plain"])
def test_a_second_adapter_is_kept_only_where_the_first_began_from_it(
    whole: Path, tmp_path: Path, target: Path, method: str | bool
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "two"))
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"init_lora_weights": method}))
    (folder / "start").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", "README.md"):
        (folder / "start" / name).write_text("{}")
    left_out = take(folder, target, Limits())
    kept = {name for name in names(target) if name.startswith("initial_adapter/")}
    if method is True:
        assert (kept, left_out) == (set(), ("start/",))
    else:
        assert kept == {"initial_adapter/adapter_config.json", "initial_adapter/adapter_model.safetensors"}
        assert left_out == ("start/README.md",)
