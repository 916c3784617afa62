"""A market of learnwares whose ids hold a slash: an id is a key there, and never a path."""

from pathlib import Path

import pytest

from specs.errors import DuplicateLearnware, InvalidLearnware, UnknownLearnware
from specs.learnware import load_learnwares
from specs.market.catalogue import read_catalogue, static_catalogue
from specs.market.checks import Requirements, check_learnware
from specs.market.journal import State
from specs.market.store import Market
from tests.specs.learnware_folder import BASE
from tests.specs.market.support import pack, variant

ID = "acme/tfns"
LIKE_IT = ("acme-tfns", "acme_tfns", "acme.tfns", "tfns", "acme")
"""Ids that `ID` might be mixed up with, were its slash replaced or a part of it left out."""


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_it_is_submitted_replaced_quarantined_and_found(market: Market, whole: Path, tmp_path: Path) -> None:
    with market.stage(variant(whole, tmp_path / "first", ID)) as staged:
        assert market.submit(staged).id == ID
        with pytest.raises(DuplicateLearnware, match="learnware 'acme/tfns' is in the market already"):
            market.submit(staged)
    (entry,) = read_catalogue(market.root).entries
    assert (entry.id, entry.folder.parent) == (ID, market.root / "objects")
    assert entry.engine_name == f"acme/tfns@{entry.sha256[:12]}"
    with market.stage(pack(variant(whole, tmp_path / "second", ID, 2, 2.0), tmp_path / "second.zip")) as staged:
        assert market.replace(staged).version == 2
    assert [record.id for record in market.search("acme/tfns")] == [ID]
    record = market.quarantine(ID, "wrong answers")
    assert market.show(ID).reason == "wrong answers"
    market.collect_garbage(kept_s=0)
    folder = market.folder(record)
    assert folder is not None
    assert folder.parent == market.root / "quarantine"
    assert names(market.root / "objects") | names(market.root / "quarantine") == {record.sha256}
    assert names(market.root / "incoming") == set()
    assert market.check_integrity() == []


def test_it_is_no_other_learnware(market: Market, whole: Path, tmp_path: Path) -> None:
    for number, learnware_id in enumerate((ID, *LIKE_IT), 1):
        with market.stage(variant(whole, tmp_path / f"l{number}", learnware_id, scale=number)) as staged:
            market.submit(staged)
    assert {entry.id for entry in read_catalogue(market.root).entries} == {ID, *LIKE_IT}
    assert [record.id for record in market.records()] == sorted((ID, *LIKE_IT))
    market.remove(ID)
    assert {entry.id for entry in read_catalogue(market.root).entries} == set(LIKE_IT)
    with pytest.raises(UnknownLearnware, match=r"no learnware 'acme/tfns' in the market; did you mean acme"):
        market.remove(ID)
    assert market.check_integrity() == []


def test_one_whose_card_cannot_be_read_is_recorded_under_the_id_that_it_came_for(
    market: Market, whole: Path, tmp_path: Path
) -> None:
    path = tmp_path / "upload.zip"
    path.write_bytes(b"no zip")
    with pytest.raises(InvalidLearnware, match="learnware acme/tfns: "), market.stage(path, recorded_as=ID):
        pass
    broken = pack(variant(whole, tmp_path / "broken", ID), tmp_path / "broken.zip")
    folder = tmp_path / "broken"
    (folder / "learnware.yaml").write_text("id: [")
    pack(folder, broken)
    with pytest.raises(InvalidLearnware), market.stage(broken, recorded_as=ID):
        pass
    assert [record.id for record in market.records(State.QUARANTINED)] == [ID, ID]
    assert market.check_integrity() == []


def test_a_base_model_with_the_same_id_comes_first(whole: Path, tmp_path: Path) -> None:
    folder = variant(whole, tmp_path / "one", "org/model")
    with pytest.raises(InvalidLearnware, match="its id must not be 'org/model'"):
        check_learnware(folder, Requirements(BASE, reserved=frozenset({"org/model", "auto"})))
    assert check_learnware(folder, Requirements(BASE, reserved=frozenset({"model", "auto"}))).id == "org/model"


def test_a_plain_folder_of_learnwares_may_hold_it(whole: Path, tmp_path: Path) -> None:
    for name in (ID, "acme-tfns"):
        variant(whole, tmp_path / "all" / name.replace("/", "--"), name)
    assert [one.id for one in load_learnwares(tmp_path / "all")] == ["acme-tfns", ID]
    assert {entry.id for entry in static_catalogue(tmp_path / "all").entries} == {ID, "acme-tfns"}
