"""The key file: what is accepted, what is said of what is not, and that a change is whole and alone."""

import json
import os
import stat
import threading
from pathlib import Path

import pytest

from serving.access import key_file
from serving.access.key_file import KeyEntry, changing, read_keys
from serving.access.keyring import digest_of
from specs.errors import InvalidConfig

DIGEST = digest_of("key")
ENTRY = {"name": "alice", "sha256": DIGEST, "created": "2026-01-31T12:00:00Z"}


def written(path: Path, *entries: object, **file: object) -> Path:
    path.write_text(json.dumps({"format": 1, "keys": entries, **file}))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_limit_left_out_is_the_default_and_null_is_none(path: Path) -> None:
    (entry,) = read_keys(written(path, {**ENTRY, "tokens_per_minute": None, "models": ["auto"], "weight": 2}))
    tenant = entry.tenant({"tokens_per_minute": 100, "requests_per_minute": 7})
    assert (tenant.tokens_per_minute, tenant.requests_per_minute) == (None, 7)
    assert (tenant.models, tenant.weight, tenant.metrics, tenant.admin) == (("auto",), 2.0, False, False)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"name": "admin"}, r"keys\[0\].name: the name admin is reserved"),
        ({"name": "Anonymous"}, "reserved"),
        ({"name": "../etc"}, "letters, digits"),
        ({"name": "a b"}, "letters, digits"),
        ({"name": ""}, "1 to 64"),
        ({"name": "a" * 65}, "1 to 64"),
        ({"name": "a\n"}, "1 to 64"),
        ({"name": 3}, r"keys\[0\].name"),
        ({"sha256": DIGEST.upper()}, r"keys\[0\].sha256: must be the key's SHA-256 digest"),
        ({"sha256": "key"}, "64 characters"),
        ({"created": "<script>"}, r"keys\[0\].created"),
        ({"requests_per_minute": 0}, r"keys\[0\].requests_per_minute: .*greater than or equal to 1"),
        ({"tokens_per_minute": 1.5}, "tokens_per_minute"),
        ({"concurrent_requests": True}, "concurrent_requests"),
        ({"max_tokens": "8"}, "max_tokens"),
        ({"weight": 0}, "weight"),
        ({"weight": 1e9}, "weight"),
        ({"priority": 1}, "priority"),
        ({"models": "auto"}, "models"),
        ({"models": ["\x1b[2J"]}, "printable"),
        ({"metrics": "yes"}, "metrics"),
        ({"admin": True}, "admin is not known; known are name, sha256"),
    ],
)
def test_each_fault_is_named_with_its_place(path: Path, entry: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidConfig, match=said):
        read_keys(written(path, ENTRY | entry))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be used"),
        (b"{", "cannot be used"),
        (b"\xff\xfe", "cannot be used"),
        (b"[]", "cannot be used"),
        (b'{"format": 2, "keys": []}', "format"),
        (b'{"keys": []}', "format"),
        (b'{"format": 1, "keys": {}}', "keys"),
        (b'{"format": 1, "keys": [], "more": 1}', "more is not known; known are format, keys"),
        (b'{"format": 1, "keys": ' + b"[" * 100_000, "cannot be used"),
        (b'{"format": 1, "keys": [{"name": "a", "sha256": "' + DIGEST.encode() + b'", "weight": NaN}]}', "weight"),
        (b" " * (key_file.MAX_BYTES + 1), "larger than 8 MiB"),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_a_file_that_is_none_is_refused_in_one_sentence(path: Path, content: bytes, said: str) -> None:
    path.write_bytes(content)
    with pytest.raises(InvalidConfig, match=said) as refused:
        read_keys(path)
    assert str(path) in str(refused.value)
    assert len(str(refused.value)) < 500


def test_one_key_twice_is_refused(path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"keys\[1\] and keys\[0\] are the same key"):
        read_keys(written(path, ENTRY, ENTRY | {"name": "bob"}))


def test_a_missing_file_says_what_makes_one(path: Path) -> None:
    with pytest.raises(InvalidConfig, match="keys add"):
        read_keys(path)


def test_a_change_is_whole_private_and_keeps_what_was_left_out(path: Path) -> None:
    written(path, ENTRY | {"models": None})
    path.chmod(0o644)
    with changing(path) as entries:
        entries.append(KeyEntry(name="bob", sha256=digest_of("other"), max_tokens=5))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text()) == {
        "format": 1,
        "keys": [ENTRY | {"models": None}, {"name": "bob", "sha256": digest_of("other"), "max_tokens": 5}],
    }
    assert sorted(each.name for each in path.parent.iterdir()) == [".keys.json.lock", "keys.json"]


def test_a_change_that_fails_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = written(path, ENTRY).read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InvalidConfig, match="No space left"), changing(path) as entries:
        entries.clear()
    assert path.read_bytes() == before
    assert sorted(each.name for each in path.parent.iterdir()) == [".keys.json.lock", "keys.json"]


def test_a_broken_file_is_not_written_over(path: Path) -> None:
    path.write_text("{")
    with pytest.raises(InvalidConfig), changing(path) as entries:
        entries.clear()
    assert path.read_text() == "{"


def test_changes_at_once_lose_none(path: Path) -> None:
    def add(number: int) -> None:
        with changing(path) as entries:
            entries.append(KeyEntry(name=f"t{number}", sha256=digest_of(str(number))))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {entry.name for entry in read_keys(path)} == {f"t{number}" for number in range(8)}


def test_a_link_stays_a_link(path: Path, tmp_path: Path) -> None:
    target = written(tmp_path / "elsewhere.json", ENTRY)
    path.symlink_to(target)
    with changing(path) as entries:
        entries.clear()
    assert path.is_symlink()
    assert read_keys(target) == ()
