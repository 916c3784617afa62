"""A router or an engine replica starts, whatever has become of the catalogue and the journal."""

import shutil
from pathlib import Path

import pytest

from specs.market.catalogue import CATALOGUE_FILE, Catalogue, read_catalogue
from specs.market.follower import Follower
from specs.market.journal import JOURNAL_FILE
from specs.market.startup import current_catalogue
from specs.market.store import Market
from tests.specs.learnware_folder import write_learnware
from tests.specs.market.support import requirements
from tests.specs.market.test_follower import until

HARM = {
    "empty": lambda whole: b"",
    "cut in the middle": lambda whole: whole[: len(whole) // 2],
    "cut at its end": lambda whole: whole[:-3],
    "garbage": lambda whole: b"\x00\xff" * 100,
    "another JSON": lambda whole: b"[1, 2]",
    "nested": lambda whole: b"[" * 200_000,
    "another version": lambda whole: whole.replace(b'"format":1', b'"format":2'),
    "a number that is none": lambda whole: whole.replace(b'"sequence":1', b'"sequence":"x"'),
    "an entry that is none": lambda whole: whole.replace(b'"version":1', b'"version":null'),
}


@pytest.fixture
def market(tmp_path: Path) -> Market:
    market = Market(tmp_path / "market", requirements(tmp_path / "base"))
    with market.stage(write_learnware(tmp_path / "colours-objects")) as staged:
        market.submit(staged)
    return market


@pytest.mark.slow
@pytest.mark.parametrize("harm", HARM)
def test_a_harmed_catalogue_costs_no_start(market: Market, tmp_path: Path, harm: str):
    whole = read_catalogue(market.root)
    path = market.root / CATALOGUE_FILE
    harmed = HARM[harm](path.read_bytes())
    assert harmed != path.read_bytes()
    path.write_bytes(harmed)
    assert current_catalogue(market.root, tmp_path) == whole
    path.unlink()
    assert current_catalogue(market.root, tmp_path) == whole


def test_without_a_journal_the_base_model_is_served_alone(market: Market, tmp_path: Path):
    (market.root / CATALOGUE_FILE).write_text("{")
    for harmed in (b"no database" * 1000, (market.root / JOURNAL_FILE).read_bytes()[:2000], b""):
        (market.root / JOURNAL_FILE).write_bytes(harmed)
        assert current_catalogue(market.root, tmp_path) == Catalogue(0, ())
    shutil.rmtree(market.root)
    assert current_catalogue(market.root, tmp_path) == Catalogue(0, ())


async def test_a_running_follower_keeps_what_it_has_and_says_so(market: Market, caplog):
    seen: list[int] = []

    async def apply(catalogue: Catalogue) -> None:
        seen.append(catalogue.sequence)

    path = market.root / CATALOGUE_FILE
    follower = Follower(market.root, apply, 1)
    follower.start()
    path.write_bytes(path.read_bytes()[:-9])
    await until(lambda: follower.fault is not None)
    assert (seen, follower.sequence, follower.faults) == ([], 1, 1)
    assert caplog.text.count("change 1 stays in effect") == 1
    assert market.reconcile()
    await until(lambda: follower.fault is None)
    market.remove("colours-objects")
    await until(lambda: seen == [2])
    assert (follower.fault, follower.faults) == (None, 1)


async def test_a_catalogue_that_could_not_be_applied_is_tried_again(market: Market, monkeypatch):
    monkeypatch.setattr("specs.market.follower.RETRY_S", 0.05)
    tries: list[int] = []

    async def apply(catalogue: Catalogue) -> None:
        tries.append(catalogue.sequence)
        if len(tries) < 3:
            raise OSError(5, "Input/output error")

    follower = Follower(market.root, apply, 0)
    follower.start()
    await until(lambda: follower.sequence == 1)
    assert (tries, follower.fault) == ([1, 1, 1], None)
