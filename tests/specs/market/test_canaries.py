"""Canaries: what each operation of the market does to them, and to the learnware beside which they are served."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from specs.canary import canary_id, is_canary, learnware_of, read_share, share_in_words
from specs.card import id_fault
from specs.engine_name import engine_name, split_engine_name
from specs.errors import CanaryRuns, InvalidInput, InvalidLearnware, UnknownCanary, UnknownLearnware
from specs.market import journal
from specs.market.canaries import outcome
from specs.market.catalogue import CATALOGUE_FILE, read_catalogue
from specs.market.checks import Requirements
from specs.market.integrity import examine_market
from specs.market.journal import Record, State
from specs.market.store import Market
from tests.specs.market.support import variant
from tests.specs.market.test_store import again, put, served

NAME = "colours-objects"
CANARY = "colours-objects@canary"


def put_canary(market: Market, source: Path, share: float = 0.05) -> Record:
    with market.stage(source) as staged:
        return market.submit_canary(staged, share)


@pytest.fixture
def second(whole: Path, tmp_path: Path) -> Path:
    return variant(whole, tmp_path / "second", NAME, 2, 2)


@pytest.fixture
def third(whole: Path, tmp_path: Path) -> Path:
    return variant(whole, tmp_path / "third", NAME, 3, 3)


def shares(market: Market) -> dict[str, float | None]:
    return {entry.id: entry.canary for entry in read_catalogue(market.root).entries}


def test_a_canarys_id_is_nobodys_and_has_engine_names() -> None:
    assert canary_id("a/b") == "a/b@canary"
    assert (is_canary("a/b@canary"), is_canary("a/b")) == (True, False)
    assert (learnware_of("a/b@canary"), learnware_of("a/b")) == ("a/b", "a/b")
    assert id_fault("a/b@canary") is not None
    assert split_engine_name(engine_name("a/b@canary", "f" * 64)) == ("a/b@canary", "f" * 12)


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("0.05", 0.05), (" 12.5 % ", 0.125), ("1e-3", 0.001)])
def test_a_share_is_a_number_or_in_per_cent(text: str, share: float) -> None:
    assert read_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "5", "0", "1", "100%", "0%", "-1%", "nan", "inf", "5%%", "5% of all", "five"])
def test_any_other_share_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"above 0 and below 1, such as 0\.05, or in per cent, such as 5%"):
        read_share(text)


def test_a_share_in_words() -> None:
    assert (share_in_words(0.05), share_in_words(0.125)) == ("5 %", "12.5 %")


def test_a_canary_is_served_beside_its_learnware_and_promoted(market: Market, whole: Path, second: Path) -> None:
    first = put(market, whole)
    before = read_catalogue(market.root).sequence
    canary = put_canary(market, second, 0.05)
    assert (canary.id, canary.version, canary.share, canary.state) == (CANARY, 2, 0.05, State.ACTIVE)
    assert canary.since is not None
    assert datetime.now(UTC) - canary.since < timedelta(minutes=5)
    assert served(market) == {NAME: 1, CANARY: 2}
    assert shares(market) == {NAME: None, CANARY: 0.05}
    assert read_catalogue(market.root).sequence == before + 1
    assert again(market).check_integrity() == []
    assert (market.canaries(), market.canary(NAME)) == ([canary], canary)
    assert [record.id for record in market.search()] == [NAME]
    assert market.show(CANARY) == canary

    promoted = market.promote(NAME, reason="as good")
    assert (promoted.id, promoted.version, promoted.sha256) == (NAME, 2, canary.sha256)
    assert (promoted.share, promoted.notes, promoted.origin) == (None, canary.notes, canary.origin)
    assert served(market) == {NAME: 2}
    assert (market.canaries(), market.canary(NAME)) == ([], None)
    (past,) = market.past_canaries(NAME)
    assert (outcome(past), past.reason, past.share, past.since) == ("promoted", "as good", 0.05, canary.since)
    assert [(each.id, each.version, each.state) for each in market.records(None)] == [
        (NAME, 1, State.REPLACED),
        (NAME, 2, State.ACTIVE),
        (CANARY, 2, State.REPLACED),
    ]
    assert market.collect_garbage(kept_s=0) == [first.sha256]
    assert served(market) == {NAME: 2}
    assert again(market).check_integrity() == []


def test_a_canary_that_is_rolled_back_goes_with_its_files(
    market: Market, whole: Path, second: Path, third: Path
) -> None:
    put(market, whole)
    canary = put_canary(market, second)
    with pytest.raises(InvalidInput, match="with a reason"):
        market.roll_back(NAME, " ")
    over = market.roll_back(NAME, "worse than version 1")
    assert (outcome(over), over.reason, over.state) == ("rolled back", "worse than version 1", State.REMOVED)
    assert served(market) == {NAME: 1}
    assert market.past_canaries(NAME) == [over]
    assert market.folder(canary) is not None  # requests that run still need them
    assert market.collect_garbage(kept_s=0) == [canary.sha256]
    assert market.folder(canary) is None
    assert market.highest_version(NAME) == 2
    shutil.rmtree(second)
    with pytest.raises(InvalidLearnware, match=r"was served in version 2 before.* needs 3 or higher"):
        put_canary(market, variant(whole, second, NAME, 2, 5))
    put_canary(market, third)
    assert [outcome(each) for each in (*market.past_canaries(NAME), *market.canaries())] == ["rolled back", None]
    assert again(market).check_integrity() == []


def test_there_is_one_canary_and_nothing_else_comes_until_it_is_over(
    market: Market, whole: Path, second: Path, third: Path
) -> None:
    with pytest.raises(UnknownLearnware):
        put_canary(market, second)
    put(market, whole)
    with pytest.raises(InvalidLearnware, match=r"needs a higher one in learnware\.yaml, not 1"):
        put_canary(market, whole)
    canary = put_canary(market, second)
    for change in (put_canary, lambda *args: put(*args, replace=True)):
        with pytest.raises(CanaryRuns, match=r"has a canary, version 2: promote it or roll it back") as refused:
            change(market, third)
        assert refused.value.status == 409
    with market.stage(third) as staged:
        for kind in ({"replace": True}, {"replace": True, "canary": True}):
            with pytest.raises(CanaryRuns):
                market.check_acceptable(staged, **kind)
    assert market.canaries() == [canary]
    market.promote(NAME)
    put(market, third, replace=True)
    assert served(market) == {NAME: 3}


def test_what_is_not_there_cannot_be_promoted_or_rolled_back(market: Market, whole: Path, second: Path) -> None:
    put(market, whole)
    for change in (market.promote, lambda *args, **more: market.roll_back(*args, "bad", **more)):
        with pytest.raises(UnknownCanary, match=f"'{NAME}' has no canary"):
            change(NAME)
        with pytest.raises(UnknownLearnware, match="there is no learnware 'other'"):
            change("other")
    put_canary(market, second)
    sequence = market.sequence
    for change in (market.promote, lambda *args, **more: market.roll_back(*args, "bad", **more)):
        with pytest.raises(UnknownCanary, match="is another one by now, version 2"):
            change(NAME, sha256="0" * 64)
    assert (market.sequence, served(market)) == (sequence, {NAME: 1, CANARY: 2})


def test_a_canary_may_be_named_by_its_own_id_as_well(market: Market, whole: Path, second: Path, third: Path) -> None:
    put(market, whole)
    put_canary(market, second)
    assert market.promote(CANARY).id == NAME
    put_canary(market, third)
    assert market.roll_back(CANARY, "worse").id == CANARY


@pytest.mark.parametrize("way", ["remove", "quarantine", "harm", "check"])
def test_a_learnware_that_goes_takes_its_canary_along(market: Market, whole: Path, second: Path, way: str) -> None:
    first = put(market, whole)
    put_canary(market, second)
    folder = market.folder(first)
    assert folder is not None
    if way == "remove":
        market.remove(NAME)
    elif way == "quarantine":
        market.quarantine(NAME, "wrong answers")
    else:
        (folder / "adapter_model.safetensors").unlink()
        if way == "check":
            assert market.check_files(NAME, str(first.sha256), "no such file") is not None
        else:
            market = again(market)
    assert served(market) == {}
    (over,) = market.past_canaries(NAME)
    assert outcome(over) == "rolled back"
    why = {"remove": "was removed", "quarantine": "was put into quarantine: wrong answers"}
    assert str(over.reason).startswith(f"its learnware {why.get(way, 'was put into quarantine: ')}")
    assert again(market).check_integrity() == []


def test_a_canary_that_ends_with_its_learnware_is_not_looked_at_once_more(
    market: Market, whole: Path, second: Path
) -> None:
    first = put(market, whole)
    put_canary(market, second)
    opened = Market(market.root, Requirements("another-base", max_rank=8), lock_timeout_s=2)
    (opened.folder(first) or Path()).joinpath("adapter_model.safetensors").unlink()
    (problem,) = opened.refit()
    assert "adapter_model.safetensors" in problem
    (over,) = opened.past_canaries(NAME)
    assert (over.state, outcome(over)) == (State.REMOVED, "rolled back")


def test_a_learnware_goes_back_into_service_whatever_canaries_it_had(market: Market, whole: Path, second: Path) -> None:
    put(market, whole)
    put_canary(market, second)
    market.quarantine(NAME, "wrong answers")
    assert market.release(NAME).version == 1
    assert served(market) == {NAME: 1}


def test_a_canary_whose_files_are_harmed_ends_alone(market: Market, whole: Path, second: Path, third: Path) -> None:
    put(market, whole)
    canary = put_canary(market, second)
    folder = market.folder(canary)
    assert folder is not None
    (folder / "adapter_model.safetensors").unlink()
    assert market.check_integrity() == [f"{CANARY}: the files in {canary.sha256} are not what was submitted"]
    found = market.check_files(CANARY, str(canary.sha256), "no such file")
    assert found is not None
    assert served(market) == {NAME: 1}
    assert [outcome(each) for each in market.past_canaries(NAME)] == ["rolled back"]
    assert market.release(CANARY).state is State.REMOVED  # it does not run again by itself
    assert served(market) == {NAME: 1}
    put_canary(market, third)
    assert again(market).check_integrity() == []


def test_a_canary_of_a_learnware_that_does_not_fit_waits_with_it(
    market: Market, whole: Path, second: Path, third: Path
) -> None:
    put(market, whole)
    put_canary(market, second)
    unfit = Market(market.root, Requirements("another-base", max_rank=8), lock_timeout_s=2)
    assert len(unfit.refit()) == 2
    assert served(unfit) == {}
    with pytest.raises(InvalidLearnware, match="the canary of learnware 'colours-objects' is not served"):
        unfit.promote(NAME)
    fit = Market(market.root, Requirements(), lock_timeout_s=2)
    assert fit.refit() == []
    assert shares(fit) == {NAME: None, CANARY: 0.05}
    fit.roll_back(NAME, "enough")
    Market(market.root, Requirements("another-base"), lock_timeout_s=2).refit()
    with pytest.raises(InvalidLearnware, match=r"is not served .* so a canary could be compared with nothing"):
        put_canary(Market(market.root, lock_timeout_s=2), third)


def test_a_canary_is_not_published_without_its_learnware(market: Market, whole: Path, second: Path) -> None:
    put(market, variant(whole, second.parent / "wide", NAME, 1, 3))
    put_canary(market, second)
    record = market.active(NAME)
    with journal.writing(market.root, 2) as book:
        book.set_unfit(record, "its rank is 16")
    assert served(again(market)) == {}


def test_an_examination_of_the_market_knows_learnwares_alone(market: Market, whole: Path, second: Path) -> None:
    put(market, whole)
    put_canary(market, second)
    (found,) = examine_market(market.root, Requirements())
    assert (getattr(found, "id", None), getattr(found, "version", None)) == (NAME, 1)


@pytest.mark.parametrize("share", ["0", "1", "1.0", "true", '"0.05"', "-0.5", "NaN"])
def test_a_catalogue_with_another_share_is_not_believed(market: Market, whole: Path, second: Path, share: str) -> None:
    put(market, whole)
    put_canary(market, second)
    path = market.root / CATALOGUE_FILE
    path.write_text(path.read_text().replace('"canary":0.05', f'"canary":{share}'))
    with pytest.raises(InvalidInput, match="is no canary with a share of"):
        read_catalogue(market.root)
