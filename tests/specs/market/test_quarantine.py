"""What is in quarantine stays out until it is released, and takes no more room than it may."""

import sqlite3
from pathlib import Path

import pytest

from specs.errors import DuplicateLearnware, InvalidInput, InvalidLearnware, UnknownLearnware
from specs.market import quarantine
from specs.market.catalogue import read_catalogue
from specs.market.journal import State
from specs.market.objects import size
from specs.market.store import Market
from tests.specs.market.support import edit_card, pack, variant


def put(market: Market, source: Path, *, replace: bool = False) -> None:
    with market.stage(source) as staged:
        (market.replace if replace else market.submit)(staged)


def served(market: Market) -> dict[str, int]:
    return {entry.id: entry.version for entry in read_catalogue(market.root).entries}


@pytest.fixture
def bad(whole: Path, tmp_path: Path) -> Path:
    folder = variant(whole, tmp_path / "bad", "bad")
    edit_card(folder, base_model={"id": "another"})
    return folder


def test_what_was_withdrawn_stays_out_and_is_served_again_when_released(
    market: Market, whole: Path, tmp_path: Path
) -> None:
    put(market, whole)
    market.quarantine("colours-objects", "answers at random")
    market.collect_garbage(kept_s=0)
    for source in (whole, pack(whole, tmp_path / "same.zip")):
        with pytest.raises(InvalidLearnware, match=r"answers at random.*market release colours-objects"):
            put(market, source)
    assert len(market.records(None)) == 1  # said, not kept once more
    record = market.release("colours-objects")
    assert record.state is State.ACTIVE
    assert served(market) == {"colours-objects": 1}
    assert Market(market.root, lock_timeout_s=2).check_integrity() == []
    with pytest.raises(UnknownLearnware, match="no learnware 'colours-objects' is in quarantine"):
        market.release("colours-objects")


def test_what_was_never_served_may_be_submitted_again_when_released(market: Market, bad: Path) -> None:
    with pytest.raises(InvalidLearnware, match="'another'"):
        put(market, bad)
    with pytest.raises(InvalidLearnware, match="these very files are in quarantine since"):
        put(market, bad)
    released = market.release("bad")
    assert released.state is State.REMOVED
    assert "released from quarantine, where it was because: learnware bad" in str(released.reason)
    with pytest.raises(InvalidLearnware, match="'another'"):  # checked anew
        put(market, bad)
    assert [record.state for record in market.records(None)] == [State.REMOVED, State.QUARANTINED]


def test_mended_files_are_not_held_back(market: Market, bad: Path, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidLearnware):
        put(market, bad)
    put(market, variant(whole, tmp_path / "mended", "bad"))
    assert served(market) == {"bad": 1}


def test_a_refusal_after_something_was_added_holds_the_submitted_files_back(market: Market, whole: Path) -> None:
    """Over HTTP the trial's measurements are written into the folder before it is served."""
    with market.stage(whole) as staged:
        (staged.folder / "README.md").write_text("measured")
        market.submit(staged._replace(sha256=quarantine.fingerprint(staged.folder)))
    market.quarantine("colours-objects", "answers at random")
    with pytest.raises(InvalidLearnware, match="answers at random"):
        put(market, whole)


def test_a_version_never_goes_back(market: Market, whole: Path, tmp_path: Path) -> None:
    second, third = (variant(whole, tmp_path / f"{n}", "colours-objects", n, n) for n in (2, 3))
    put(market, second)
    market.remove("colours-objects")
    for older in (whole, second):
        with pytest.raises(InvalidLearnware, match=r"was served in version 2 before.*needs 3 or higher in learnware"):
            put(market, older)
    put(market, third)
    market.quarantine("colours-objects", "wrong")
    put(market, variant(whole, tmp_path / "4", "colours-objects", 4, 4))
    with pytest.raises(DuplicateLearnware, match=r"in version 4; remove that before version 3 is released"):
        market.release("colours-objects")
    market.remove("colours-objects")
    with pytest.raises(InvalidLearnware, match="was served in version 4 since"):
        market.release("colours-objects")
    assert served(market) == {}
    assert market.check_integrity() == []


def test_quarantine_is_bounded_in_bytes_and_in_number(
    market: Market, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        put(market, variant(whole, tmp_path / f"{number}", f"l{number}", scale=number + 1))
        market.quarantine(f"l{number}", "wrong")
    one = size(whole)
    monkeypatch.setattr(quarantine, "QUARANTINE_BYTES", int(2.5 * one))
    market.collect_garbage(kept_s=0)
    kept = [record.id for record in market.records(State.QUARANTINED) if market.folder(record) is not None]
    assert kept == ["l2", "l3"]  # the latest
    monkeypatch.setattr(quarantine, "QUARANTINE_KEPT", 1)
    market.collect_garbage(kept_s=0)
    assert [record.id for record in market.records(State.QUARANTINED) if market.folder(record)] == ["l3"]
    with pytest.raises(InvalidLearnware, match="in quarantine"):  # its reason is known without its files
        put(market, tmp_path / "0")
    assert market.release("l0").state is State.REMOVED
    assert market.check_integrity() == []


def test_a_purge_frees_what_is_not_served_and_says_how_much(market: Market, whole: Path, tmp_path: Path) -> None:
    put(market, whole)
    put(market, variant(whole, tmp_path / "2", "colours-objects", 2, 2), replace=True)
    put(market, variant(whole, tmp_path / "gone", "gone", scale=3))
    put(market, variant(whole, tmp_path / "wrong", "wrong", scale=4))
    market.remove("gone")
    market.quarantine("wrong", "wrong")
    before = size(market.root / "objects") + size(market.root / "quarantine")
    freed = market.purge()
    assert freed.learnwares == 3
    assert freed.bytes == before - size(market.root / "objects") > 0
    assert served(market) == {"colours-objects": 2}
    assert market.check_integrity() == []
    assert market.purge() == (0, 0)


def test_an_engine_that_cannot_load_one_has_its_files_looked_after(market: Market, whole: Path, tmp_path: Path) -> None:
    put(market, whole)
    put(market, variant(whole, tmp_path / "b", "b", scale=2))
    sequence = read_catalogue(market.root).sequence
    record = market.active("b")
    assert record.sha256 is not None
    assert market.check_files("b", record.sha256, "out of memory") is None  # its files are what they were
    assert market.check_files("b", "0" * 64, "gone") is None  # another version meanwhile
    assert market.check_files("c", record.sha256, "gone") is None
    assert read_catalogue(market.root).sequence == sequence
    folder = market.folder(record)
    assert folder is not None
    (folder / "adapter_model.safetensors").unlink()
    found = market.check_files("b", record.sha256, "No such file")
    assert found is not None
    assert found.state is State.QUARANTINED
    assert served(market) == {"colours-objects": 1}
    assert read_catalogue(market.root).unserved == {"quarantined": 1}


@pytest.mark.parametrize(
    ("version", "missing"), [(1, ("unfit", "origin", "notes", "share", "since")), (2, ("share", "since"))]
)
def test_a_market_of_an_earlier_format_is_brought_to_todays(
    market: Market, whole: Path, tmp_path: Path, version: int, missing: tuple[str, ...]
) -> None:
    put(market, whole)
    put(market, variant(whole, tmp_path / "b", "b", scale=2))
    market.quarantine("b", "wrong")
    connection = sqlite3.connect(market.root / "market.sqlite", isolation_level=None)
    for column in missing:
        connection.execute(f"ALTER TABLE learnwares DROP COLUMN {column}")
    connection.execute(f"PRAGMA user_version = {version}")
    opened = Market(market.root, lock_timeout_s=2)
    assert served(opened) == {"colours-objects": 1}
    with pytest.raises(InvalidLearnware, match="wrong"):
        put(opened, tmp_path / "b")
    assert opened.release("b").state is State.ACTIVE
    assert opened.check_integrity() == []
    with opened.stage(variant(whole, tmp_path / "c", "b", 2, 3)) as staged:
        assert opened.submit_canary(staged, 0.1).share == 0.1
    connection.execute("PRAGMA user_version = 4")
    with pytest.raises(InvalidInput, match="has format 4, of a later version of this project"):
        Market(market.root, lock_timeout_s=2)
    connection.close()


def test_a_reason_is_shown_without_control_characters_and_not_without_end(market: Market, whole: Path) -> None:
    put(market, whole)
    market.quarantine("colours-objects", "\x1b[2Jcleared\n\u202ereversed" + 5000 * "x")
    (record,) = market.records(State.QUARANTINED)
    assert str(record.reason).startswith("\\x1b[2Jcleared\\n\\u202ereversedx")
    assert str(record.reason).isprintable()
    assert len(str(record.reason)) < 2100
