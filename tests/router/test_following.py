"""A router replica follows the market: new snapshots come whole, and an error keeps the old one."""

import asyncio
import shutil
import time
from pathlib import Path

import pytest

from router.following import POLL_S, Follower
from router.settings import SelectionSettings
from router.snapshot import Snapshot, SnapshotBuilder
from specs.errors import InvalidLearnware
from specs.market.catalogue import Catalogue, read_catalogue
from specs.market.store import Market
from tests.specs.market.support import edit_card

STARTER = Path(__file__).parents[2] / "serving" / "starter_learnwares"
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


def test_weights_are_not_read_for_a_snapshot(market: Market):
    for entry in read_catalogue(market.root).entries:
        (entry.folder / "adapter_model.safetensors").unlink()
    snapshot = SnapshotBuilder(SelectionSettings()).build(read_catalogue(market.root))
    assert nearest(snapshot) == ["finance-fiqa_sa", "mathematics-svamp_operation"]


def test_a_version_is_read_once(market: Market):
    builder = SnapshotBuilder(SelectionSettings())
    builder.build(read_catalogue(market.root))
    for entry in read_catalogue(market.root).entries:
        shutil.rmtree(entry.folder)
    assert builder.build(read_catalogue(market.root)) is not None
    with pytest.raises(InvalidLearnware):
        SnapshotBuilder(SelectionSettings()).build(read_catalogue(market.root))
