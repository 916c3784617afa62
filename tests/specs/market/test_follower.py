"""A router replica follows the market: new snapshots come whole, and an error keeps the old one."""

import asyncio
import shutil
import time
from pathlib import Path

import pytest

import router.snapshot as snapshot_module
from router.settings import SelectionSettings
from router.snapshot import Snapshot, SnapshotBuilder
from specs.errors import InvalidLearnware
from specs.market.catalogue import Catalogue, CatalogueReader, read_catalogue
from specs.market.follower import POLL_S, Follower
from specs.market.store import Market
from tests.specs.market.support import edit_card

STARTER = Path(__file__).parents[3] / "serving" / "starter_learnwares"
QUESTION = (
    "Is the sentiment of this financial news positive, neutral or negative?\nNet sales fell to EUR 2.1 mn from 3.4 mn."
)


@pytest.fixture
def market(tmp_path: Path) -> Market:
    market = Market(tmp_path / "market")
    for name in ("finance-fiqa_sa", "mathematics-svamp_operation"):
        with market.stage(STARTER / name) as staged:
            market.submit(staged)
    return market


def nearest(snapshot: Snapshot | None) -> list[str]:
    assert snapshot is not None
    return [candidate.learnware_id for candidate in snapshot.selector.choose(QUESTION).candidates]


async def until(condition, seconds: float = 10.0) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds
        await asyncio.sleep(0.01)
    return time.monotonic() - started


async def test_each_change_is_applied_once_and_waited_for(market: Market):
    first = read_catalogue(market.root)
    seen: list[int] = []

    async def apply(catalogue: Catalogue) -> None:
        seen.append(catalogue.sequence)

    follower = Follower(market.root, apply, first.sequence)
    follower.start()
    assert await follower.reached(first.sequence) == first.sequence
    waiting = asyncio.create_task(follower.reached(first.sequence + 1))
    await asyncio.sleep(2 * POLL_S)
    assert seen == []
    assert not waiting.done()
    await asyncio.to_thread(market.remove, "finance-fiqa_sa")
    assert await asyncio.wait_for(waiting, 2) == first.sequence + 1
    assert seen == [first.sequence + 1]


async def test_a_change_that_cannot_be_followed_leaves_the_next_one_free(market: Market, caplog):
    seen: list[int] = []

    async def apply(catalogue: Catalogue) -> None:
        if not seen:
            seen.append(catalogue.sequence)
            raise InvalidLearnware("unreadable")
        seen.append(catalogue.sequence)

    follower = Follower(market.root, apply, 2)
    follower.start()
    await asyncio.to_thread(market.remove, "finance-fiqa_sa")
    await until(lambda: seen == [3])
    assert follower.sequence == 2
    await asyncio.to_thread(market.remove, "mathematics-svamp_operation")
    assert await asyncio.wait_for(follower.reached(4), 2) == 4
    assert "could not be followed" in caplog.text


@pytest.mark.slow
def test_a_snapshot_chooses_among_what_the_catalogue_holds(market: Market, tmp_path: Path):
    builder = SnapshotBuilder(SelectionSettings())

    def candidates() -> list[str]:
        return nearest(builder.build(read_catalogue(market.root)))

    assert candidates() == ["finance-fiqa_sa", "mathematics-svamp_operation"]
    other = Path(shutil.copytree(STARTER / "finance-fiqa_sa", tmp_path / "other"))
    edit_card(other, id="finance-other")
    market.remove("finance-fiqa_sa")
    assert candidates() == ["mathematics-svamp_operation"]
    with market.stage(other) as staged:
        market.submit(staged)
    assert candidates() == ["finance-other", "mathematics-svamp_operation"]
    for record in market.records():
        market.remove(record.id)
    assert builder.build(read_catalogue(market.root)) is None


class TestLargeMarket:
    """What a market of more than `ALWAYS_REBUILT` learnwares does, with that number set to 0."""

    @pytest.fixture(autouse=True)
    def every_market_is_large(self, monkeypatch) -> None:
        monkeypatch.setattr(snapshot_module, "ALWAYS_REBUILT", 0)
        monkeypatch.setattr(snapshot_module, "AT_ONCE_SHARE", 2.0)

    @pytest.mark.slow
    def test_changes_keep_the_metric_until_a_rebuild(self, market: Market):
        builder = SnapshotBuilder(SelectionSettings())
        reader = CatalogueReader(market.root)
        first = builder.build(reader.read()).selector
        assert not builder.rebuild_due
        with market.stage(STARTER / "healthcare-pubmedqa") as staged:
            market.submit(staged)
        market.remove("finance-fiqa_sa")
        second = builder.build(reader.read())
        assert second is builder.snapshot
        assert second.selector.metric is first.metric
        assert set(nearest(second)) == {"healthcare-pubmedqa", "mathematics-svamp_operation"}
        assert set(second.adapters) == {"healthcare-pubmedqa", "mathematics-svamp_operation"}
        assert builder.rebuild_due
        builder.rebuild()
        assert not builder.rebuild_due
        assert builder.snapshot.selector.metric is not first.metric
        assert builder.snapshot.selector.check_integrity() == []

    @pytest.mark.slow
    def test_what_changes_during_a_rebuild_is_in_its_result(self, market: Market, monkeypatch):
        builder = SnapshotBuilder(SelectionSettings())
        builder.build(read_catalogue(market.root))
        whole = builder._selector

        def meanwhile(known):
            selector = whole(known)
            market.remove("finance-fiqa_sa")
            with market.stage(STARTER / "healthcare-pubmedqa") as staged:
                market.submit(staged)
            builder.build(read_catalogue(market.root))
            return selector

        monkeypatch.setattr(builder, "_selector", meanwhile)
        builder.rebuild()
        assert set(nearest(builder.snapshot)) == {"healthcare-pubmedqa", "mathematics-svamp_operation"}
        assert set(builder.snapshot.adapters) == {"healthcare-pubmedqa", "mathematics-svamp_operation"}
        assert builder.snapshot.selector.check_integrity() == []

    @pytest.mark.slow
    def test_a_new_version_takes_the_place_of_the_old_one(self, market: Market, tmp_path: Path):
        builder = SnapshotBuilder(SelectionSettings())
        builder.build(read_catalogue(market.root))
        other = Path(shutil.copytree(STARTER / "healthcare-pubmedqa", tmp_path / "other"))
        edit_card(other, id="finance-fiqa_sa", version=2)
        with market.stage(other) as staged:
            market.replace(staged)
        catalogue = read_catalogue(market.root)
        after = builder.build(catalogue)
        assert len(after.selector) == 2
        assert after.adapters["finance-fiqa_sa"] == catalogue.entries[0].engine_name
        medical = (
            "Abstract: 120 patients were randomised to metformin or placebo. Does metformin lower HbA1c? yes or no"
        )
        assert after.selector.choose(medical).candidates[0].learnware_id == "finance-fiqa_sa"

    @pytest.mark.slow
    def test_a_learnware_that_cannot_be_read_costs_itself_until_it_can(self, market: Market):
        builder = SnapshotBuilder(SelectionSettings())
        before = builder.build(read_catalogue(market.root))
        with market.stage(STARTER / "healthcare-pubmedqa") as staged:
            market.submit(staged)
        catalogue = read_catalogue(market.root)
        entry = next(entry for entry in catalogue.entries if entry.id == "healthcare-pubmedqa")
        card = (entry.folder / "learnware.yaml").read_text()
        (entry.folder / "learnware.yaml").write_text("{")
        assert builder.build(catalogue) is before
        (entry.folder / "learnware.yaml").write_text(card)
        assert len(builder.build(catalogue).selector) == 3
        (entry.folder / "learnware.yaml").write_text("{")
        assert set(SnapshotBuilder(SelectionSettings()).build(catalogue).adapters) == {
            each.id for each in catalogue.entries if each is not entry
        }


@pytest.mark.slow
def test_weights_are_not_read_for_a_snapshot(market: Market):
    for entry in read_catalogue(market.root).entries:
        (entry.folder / "adapter_model.safetensors").unlink()
    snapshot = SnapshotBuilder(SelectionSettings()).build(read_catalogue(market.root))
    assert nearest(snapshot) == ["finance-fiqa_sa", "mathematics-svamp_operation"]


@pytest.mark.slow
def test_a_version_is_read_once(market: Market):
    builder = SnapshotBuilder(SelectionSettings())
    builder.build(read_catalogue(market.root))
    for entry in read_catalogue(market.root).entries:
        shutil.rmtree(entry.folder)
    assert builder.build(read_catalogue(market.root)) is not None
    assert SnapshotBuilder(SelectionSettings()).build(read_catalogue(market.root)) is None


def without_specification(starter: str, folder: Path) -> Path:
    """A starter's adapter and card under the id of its new folder's name."""
    shutil.copytree(STARTER / starter, folder, ignore=shutil.ignore_patterns("specification"))
    edit_card(folder, id=folder.name)
    return folder


@pytest.mark.slow
def test_what_has_no_specification_answers_to_its_name_and_is_never_chosen(market: Market, tmp_path: Path):
    for name, source in (("nameless", "finance-tfns"), ("other", "healthcare-pubmedqa")):
        folder = without_specification(source, tmp_path / name)
        with market.stage(folder) as staged:
            market.submit(staged)
    builder = SnapshotBuilder(SelectionSettings())
    snapshot = builder.build(read_catalogue(market.root))
    assert snapshot is not None
    assert {"nameless", "other"} < set(snapshot.adapters)
    assert nearest(snapshot) == ["finance-fiqa_sa", "mathematics-svamp_operation"]
    for name in ("finance-fiqa_sa", "mathematics-svamp_operation"):
        market.remove(name)
    alone = builder.build(read_catalogue(market.root))
    assert alone is not None
    assert (alone.selector, set(alone.adapters)) == (None, {"nameless", "other"})
    assert not builder.rebuild_due
    builder.rebuild()
    again = shutil.copytree(STARTER / "finance-fiqa_sa", tmp_path / "again")
    edit_card(again, version=9)
    with market.stage(again) as staged:
        market.submit(staged)
    assert nearest(builder.build(read_catalogue(market.root))) == ["finance-fiqa_sa"]


@pytest.mark.slow
def test_in_a_large_market_a_learnware_without_a_specification_is_a_change_too(
    market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("router.snapshot.ALWAYS_REBUILT", 0)
    monkeypatch.setattr("router.snapshot.AT_ONCE_SHARE", 1.0)
    builder = SnapshotBuilder(SelectionSettings())
    builder.build(read_catalogue(market.root))
    folder = without_specification("finance-tfns", tmp_path / "nameless")
    with market.stage(folder) as staged:
        market.submit(staged)
    came = builder.build(read_catalogue(market.root))
    assert came is not None
    assert "nameless" in came.adapters
    assert nearest(came) == ["finance-fiqa_sa", "mathematics-svamp_operation"]
    market.remove("nameless")
    gone = builder.build(read_catalogue(market.root))
    assert gone is not None
    assert "nameless" not in gone.adapters
    assert gone.selector.check_integrity() == []
