"""Whichever write of a change the disk refuses: the change is made whole or not at all, and reads go on."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from specs.errors import InvalidLearnware, MarketUnwritable
from specs.market.catalogue import CATALOGUE_FILE, read_catalogue
from specs.market.journal import State
from specs.market.store import Market
from tests.specs.learnware_folder import write_learnware
from tests.specs.market.failing_disk import Disk, disk
from tests.specs.market.support import edit_card, requirements, variant

__all__ = ["disk"]

Change = Callable[[Market, Path], object]


def submit(market: Market, sources: Path) -> None:
    with market.stage(sources / "b") as staged:
        market.submit(staged)


def replace(market: Market, sources: Path) -> None:
    with market.stage(sources / "a2") as staged:
        market.replace(staged)


def refuse(market: Market, sources: Path) -> None:
    with pytest.raises(InvalidLearnware), market.stage(sources / "bad"):
        pass


CHANGES: dict[str, Change] = {
    "submit": submit,
    "replace": replace,
    "remove": lambda market, _: market.remove("a"),
    "quarantine": lambda market, _: market.quarantine("a", "wrong answers"),
    "release": lambda market, _: market.release("held"),
    "refuse": refuse,  # in any case; only the note of it may be lost
}
AFTER = {
    "submit": {"a": 1, "b": 1},
    "replace": {"a": 2},
    "remove": {},
    "quarantine": {},
    "release": {"a": 1, "held": 1},
    "refuse": {"a": 1},
}
BEFORE = {"a": 1}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Submissions, and a market with one learnware that is served and one in quarantine that was."""
    place = tmp_path_factory.mktemp("prepared")
    whole = write_learnware(place / "whole")
    for name, learnware_id, version in (("a", "a", 1), ("a2", "a", 2), ("b", "b", 1), ("held", "held", 1)):
        variant(whole, place / name, learnware_id, version, 1.0 + version + ord(name[0]))
    edit_card(variant(whole, place / "bad", "bad"), base_model={"id": "another"})
    market = open_market(place)
    for name in ("a", "held"):
        with market.stage(place / name) as staged:
            market.submit(staged)
    market.quarantine("held", "to be looked at")
    return place


def open_market(place: Path) -> Market:
    return Market(place / "market", requirements(place / "base"))


def served(market: Market) -> dict[str, int]:
    return {record.id: record.version for record in market.records()}


def published(market: Market) -> dict[str, int]:
    return {entry.id: entry.version for entry in read_catalogue(market.root).entries}


@pytest.mark.slow
@pytest.mark.parametrize("lasting", [True, False], ids=["the disk stays full", "one write fails"])
@pytest.mark.parametrize("name", CHANGES)
def test_whichever_write_fails_nothing_is_half_done(
    prepared: Path, tmp_path: Path, disk: Disk, name: str, lasting: bool
):
    outcomes = set()
    for number in range(200):
        place = tmp_path / str(number)
        shutil.copytree(prepared / "market", place / "market")
        market = open_market(place)
        disk.fails(number, lasting=lasting)
        try:
            CHANGES[name](market, prepared)
            made = True
        except MarketUnwritable:
            made = False
        failed = disk.writes > number
        expected = AFTER[name] if made else BEFORE
        assert served(market) == expected  # read while the disk is full
        behind = published(market) != expected
        assert not behind or market.unpublished is not None
        outcomes.add((made, behind))
        disk.fails(None)
        assert market.reconcile() or market.unpublished is None
        assert (published(market), market.unpublished) == (expected, None)
        again = open_market(place)
        assert (served(again), again.check_integrity()) == (expected, [])
        shutil.rmtree(place)
        if not failed:
            break
    else:
        pytest.fail("more writes than a change has")
    if name != "refuse":
        assert (False, False) in outcomes  # some write failed before the change was made
        assert (True, True) in outcomes  # and some after, when only publishing was left
    assert (True, False) in outcomes


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"format":9,"sequence":1,"learnwares":[\n]}\n'])
def test_a_harmed_catalogue_is_written_anew_while_the_market_runs(prepared: Path, tmp_path: Path, content: bytes):
    shutil.copytree(prepared / "market", tmp_path / "market")
    market = open_market(tmp_path)
    assert market.reconcile()
    (market.root / CATALOGUE_FILE).write_bytes(content)
    assert market.reconcile()
    assert published(market) == BEFORE
    (market.root / CATALOGUE_FILE).unlink()
    assert market.reconcile()
    assert published(market) == BEFORE


def test_what_another_process_could_not_publish_is_published(prepared: Path, tmp_path: Path, disk: Disk, monkeypatch):
    shutil.copytree(prepared / "market", tmp_path / "market")
    market, other = open_market(tmp_path), open_market(tmp_path)
    assert market.reconcile()
    monkeypatch.setattr(
        "specs.market.publishing.write_catalogue", lambda *_: (_ for _ in ()).throw(OSError(28, "full"))
    )
    other.remove("a")
    assert (other.unpublished, published(market)) == ("full", BEFORE)
    assert not market.reconcile()
    monkeypatch.undo()
    assert market.reconcile()
    assert published(market) == {}


def test_a_market_whose_disk_is_full_is_opened_to_be_read(prepared: Path, tmp_path: Path, disk: Disk):
    shutil.copytree(prepared / "market", tmp_path / "market")
    needed = requirements(tmp_path / "base")
    (tmp_path / "market" / CATALOGUE_FILE).write_text("torn")
    (tmp_path / "market" / "objects" / ("0" * 64)).mkdir()  # nothing refers to it: opening removes it
    disk.fails(0)
    with pytest.raises(MarketUnwritable):
        Market(tmp_path / "market", needed)
    market = Market(tmp_path / "market", needed, lenient=True)
    assert served(market) == BEFORE
    assert [record.id for record in market.records(State.QUARANTINED)] == ["held"]
    disk.fails(None)
    assert market.reconcile()
    assert (published(market), market.check_integrity()) == (BEFORE, [])


def test_a_torn_rollback_journal_loses_nothing_that_was_answered(prepared: Path, tmp_path: Path):
    """SQLite writes the pages that a transaction will change beside the database first; a crash leaves a part."""
    shutil.copytree(prepared / "market", tmp_path / "market")
    (tmp_path / "market" / "market.sqlite-journal").write_bytes(b"\xd9\xd5\x05\xf9 \xa1c\xd7" + b"\x00" * 300)
    market = open_market(tmp_path)
    assert (served(market), market.check_integrity()) == (BEFORE, [])
