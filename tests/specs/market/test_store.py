"""The market: what each operation does to what is served, and what a start finds and mends."""

import fcntl
import json
import shutil
import sqlite3
import threading
from pathlib import Path

import pytest

from specs.errors import DuplicateLearnware, InvalidInput, InvalidLearnware, MarketBusy, UnknownLearnware
from specs.market.catalogue import CatalogueWatch, read_catalogue
from specs.market.journal import Record, State, describe
from specs.market.store import Market
from tests.specs.market.support import edit_card, pack, variant


def put(market: Market, source: Path, *, replace: bool = False) -> Record:
    with market.stage(source) as staged:
        return (market.replace if replace else market.submit)(staged)


def served(market: Market) -> dict[str, int]:
    """Ids and versions as a replica reads them, their folders looked into."""
    catalogue = read_catalogue(market.root)
    assert all((entry.folder / "adapter_model.safetensors").is_file() for entry in catalogue.entries)
    return {entry.id: entry.version for entry in catalogue.entries}


def again(market: Market) -> Market:
    return Market(market.root, lock_timeout_s=2)


def test_a_submission_is_served_until_it_is_removed(market: Market, whole: Path, tmp_path: Path) -> None:
    record = put(market, pack(whole, tmp_path / "a.zip"))
    assert (record.id, record.version, record.state) == ("colours-objects", 1, State.ACTIVE)
    assert served(market) == {"colours-objects": 1}
    (entry,) = read_catalogue(market.root).entries
    assert entry.engine_name == f"colours-objects@{record.sha256 and record.sha256[:12]}"
    assert market.show("colours-objects") == record
    market.remove("colours-objects")
    assert served(market) == {}
    assert market.show("colours-objects").state is State.REMOVED
    with pytest.raises(UnknownLearnware):
        market.remove("colours-objects")
    assert market.check_integrity() == []


def test_notes_stay_with_the_version_that_they_are_on(market: Market, whole: Path, tmp_path: Path) -> None:
    notes = ("it gives no answer to 1 of 8 examples of its card", 'it answers "x"')
    with market.stage(whole) as staged:
        assert market.submit(staged._replace(notes=notes)).notes == notes
    assert again(market).show("colours-objects").notes == notes
    assert describe(market.show("colours-objects"))["notes"] == list(notes)
    with market.stage(variant(whole, tmp_path / "second", "colours-objects", 2, 2)) as staged:
        assert market.replace(staged._replace(notes=notes[:1])).notes == notes[:1]
    third = put(market, variant(whole, tmp_path / "third", "colours-objects", 3, 3), replace=True)
    assert [record.notes for record in market.records(None)] == [notes, notes[:1], ()]
    assert market.remove("colours-objects").notes == third.notes == ()


def test_a_new_version_takes_the_place_of_the_old_one(market: Market, whole: Path, tmp_path: Path) -> None:
    first = put(market, whole)
    with pytest.raises(DuplicateLearnware, match=r"in the market already \(version 1\)"):
        put(market, whole)
    second = variant(whole, tmp_path / "second", "colours-objects", version=2, scale=2)
    with pytest.raises(InvalidLearnware, match=r"a replacement needs a higher one in learnware\.yaml, not 1"):
        put(market, whole, replace=True)
    record = put(market, second, replace=True)
    assert record.sha256 != first.sha256
    assert served(market) == {"colours-objects": 2}
    assert [each.state for each in market.records(None)] == [State.REPLACED, State.ACTIVE]
    with pytest.raises(UnknownLearnware, match="did you mean colours-objects"):
        put(market, variant(whole, tmp_path / "other", "colours-object", 3), replace=True)
    assert market.check_integrity() == []


def test_a_quarantined_learnware_is_kept_with_its_reason_and_not_served(market: Market, whole: Path) -> None:
    put(market, whole)
    with pytest.raises(InvalidInput, match="with a reason"):
        market.quarantine("colours-objects", " ")
    record = market.quarantine("colours-objects", "answers in another language")
    assert served(market) == {}
    assert market.records(State.QUARANTINED) == [record]
    market.collect_garbage(kept_s=0)
    folder = market.folder(record)
    assert folder is not None
    assert folder.parent.name == "quarantine"
    assert market.check_integrity() == []


def test_search_looks_into_names_tags_and_descriptions(market: Market, whole: Path, tmp_path: Path) -> None:
    put(market, whole)
    tools = variant(whole, tmp_path / "tools", "tools-shapes")
    edit_card(
        tools, name="Shapes", description="Not about a colour", domain="tools", tasks=["shapes"], languages=["de"]
    )
    put(market, tools)

    def ids(text: str = "", **fields: str) -> list[str]:
        return [record.id for record in market.search(text, **fields)]

    assert ids() == ["colours-objects", "tools-shapes"]
    assert ids("COLOUR") == ["colours-objects", "tools-shapes"]  # in a name before in a description
    assert ids("colour shapes") == ["tools-shapes"]
    assert ids("colour", language="en") == ["colours-objects"]
    assert ids(domain="tools") == ids(task="shapes") == ids(language="de") == ["tools-shapes"]
    assert ids("colour", domain="none") == []


def test_files_are_kept_while_requests_may_need_them_and_then_go(market: Market, whole: Path, tmp_path: Path) -> None:
    first = put(market, whole)
    put(market, variant(whole, tmp_path / "second", "colours-objects", 2, 2), replace=True)
    assert market.collect_garbage() == []
    assert market.folder(first) is not None
    assert market.collect_garbage(kept_s=0) == [first.sha256]
    assert market.folder(first) is None
    assert served(market) == {"colours-objects": 2}
    assert market.check_integrity() == []


def test_a_second_writer_waits_and_then_says_why_it_cannot(market: Market, whole: Path) -> None:
    put(market, whole)
    quick = Market(market.root, lock_timeout_s=0.2)
    with (market.root / "market.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(MarketBusy, match="another process has been changing the market"):
            quick.remove("colours-objects")
        assert quick.records()[0].id == "colours-objects"  # reading needs no lock
        threading.Timer(0.3, lambda: fcntl.flock(lock, fcntl.LOCK_UN)).start()
        market.remove("colours-objects")
    assert served(market) == {}


def test_a_locked_database_is_named(market: Market, whole: Path) -> None:
    quick = Market(market.root, lock_timeout_s=0.2)
    connection = sqlite3.connect(market.root / "market.sqlite", isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    with pytest.raises(MarketBusy, match="locked by another process"):
        put(quick, whole)
    connection.close()
    put(quick, whole)


def test_writers_at_once_lose_nothing(market: Market, whole: Path, tmp_path: Path) -> None:
    folders = [variant(whole, tmp_path / f"l{i}", f"l{i}", scale=i + 1) for i in range(8)]
    threads = [threading.Thread(target=put, args=(again(market), folder)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert served(market) == {f"l{i}": 1 for i in range(8)}
    assert read_catalogue(market.root).sequence == 8
    assert market.check_integrity() == []


def test_the_watch_tells_a_change_once(market: Market, whole: Path) -> None:
    watch = CatalogueWatch(market.root)
    first = watch.changed()
    assert first is not None
    assert first.entries == ()
    assert watch.changed() is None
    put(market, whole)
    second = watch.changed()
    assert second is not None
    assert second.sequence == first.sequence + 1
    assert [entry.id for entry in second.entries] == ["colours-objects"]
    assert watch.changed() is None
    assert CatalogueWatch(market.root / "nowhere").changed() is None


class TestRepair:
    """What is broken by hand is first seen by `check_integrity`, then mended by the next start."""

    @pytest.fixture(autouse=True)
    def two(self, market: Market, whole: Path, tmp_path: Path) -> None:
        put(market, whole)
        put(market, variant(whole, tmp_path / "other", "other", scale=3))

    def test_an_outdated_catalogue_is_written_again(self, market: Market) -> None:
        path = market.root / "catalogue.json"
        path.write_text(json.dumps({"sequence": 1, "learnwares": []}))
        assert market.check_integrity() == ["catalogue: sequence 1 differs from the journal"]
        assert again(market).check_integrity() == []
        assert served(market) == {"colours-objects": 1, "other": 1}
        path.write_text("{")
        assert "cannot be read" in market.check_integrity()[0]
        assert again(market).check_integrity() == []

    def test_what_nothing_refers_to_goes(self, market: Market, whole: Path) -> None:
        shutil.copytree(whole, market.root / "objects" / ("0" * 64))
        shutil.copytree(whole, market.root / "quarantine" / ("1" * 64))
        shutil.copytree(whole, market.root / "incoming" / "half")
        (market.root / "incoming" / "gone.lock").touch()
        assert len(market.check_integrity()) == 4
        assert again(market).check_integrity() == []

    def test_a_submission_on_its_way_is_not_swept(self, market: Market, whole: Path, tmp_path: Path) -> None:
        with market.stage(variant(whole, tmp_path / "third", "third")) as staged:
            assert again(market).check_integrity() == []
            market.submit(staged)
        assert served(market) == {"colours-objects": 1, "other": 1, "third": 1}

    @pytest.mark.parametrize("harm", ["changed", "cut", "missing"])
    def test_learnwares_whose_files_were_harmed_leave_for_quarantine(self, market: Market, harm: str) -> None:
        folder = market.folder(market.show("other"))
        assert folder is not None
        weights = folder / "adapter_model.safetensors"
        if harm == "missing":
            shutil.rmtree(folder)
        else:
            weights.chmod(0o644)
            content = bytearray(weights.read_bytes())
            content[-1] ^= 1
            weights.write_bytes(content if harm == "changed" else content[:-5])
        (problem,) = market.check_integrity()
        assert problem.startswith("other: ")
        mended = again(market)
        assert mended.check_integrity() == []
        assert served(market) == {"colours-objects": 1}
        assert "missing or not what was submitted" in str(mended.show("other").reason)

    def test_files_that_were_only_touched_stay(self, market: Market) -> None:
        folder = market.folder(market.show("other"))
        assert folder is not None
        (folder / "learnware.yaml").touch()
        again(market)
        assert served(market) == {"colours-objects": 1, "other": 1}
