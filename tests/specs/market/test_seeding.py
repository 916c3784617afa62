"""A new market takes in a folder of learnwares once; a broken one costs itself."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from specs.errors import InvalidLearnware
from specs.learnware import load_learnware
from specs.market import seeding
from specs.market.catalogue import read_catalogue, static_catalogue
from specs.market.fitness import examine
from specs.market.journal import State
from specs.market.seeding import seed
from specs.market.store import Market
from tests.specs.learnware_folder import BASE
from tests.specs.market.support import edit_card, requirements, variant

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def served(market: Market) -> dict[str, int]:
    return {entry.id: entry.version for entry in read_catalogue(market.root).entries}


def again(market: Market, **changes: object) -> Market:
    """The market opened anew, with other requirements."""
    needed = dataclasses.replace(requirements(market.root.parent / "base"), **changes)  # type: ignore[arg-type]
    return Market(market.root, needed, lock_timeout_s=2)


def with_rank(folder: Path, rank: int) -> Path:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"r": rank}))
    shapes = {"A": (rank, 8), "B": (8, rank)}
    tensors = {name: np.ones(shapes[name.split(".")[-2][-1]], np.float32) for name in load_file(folder / WEIGHTS)}
    save_file(tensors, folder / WEIGHTS)
    return folder


def truncate(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-5])


def spoil(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    next(iter(tensors.values()))[0, 0] = np.nan
    save_file(tensors, folder / WEIGHTS)


def reshape(folder: Path) -> None:
    tensors = {
        name: np.ones((4, 6) if "lora_A" in name else (6, 4), np.float32) for name in load_file(folder / WEIGHTS)
    }
    save_file(tensors, folder / WEIGHTS)


def foreign_specification(folder: Path) -> None:
    path = next((folder / "specification").glob("*.json"))
    path.write_text(path.read_text().replace('"sha256": "', '"sha256": "0'))


BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (truncate, "truncated"),
    "nan": (spoil, "NaN"),
    "shapes": (reshape, "the adapter maps 6 features to 6"),
    "lost": (lambda folder: (folder / CONFIG).unlink(), f"{CONFIG} is missing"),
    "card": (lambda folder: edit_card(folder, tasks=7), "tasks"),
    "rank": (lambda folder: with_rank(folder, 16), "its rank is 16"),
    "foreign": (foreign_specification, "encoder"),
}
"""Seven ways to break a learnware, each with a word of the reason. Beside them one takes another's id."""


def make(root: Path, whole: Path, count: int) -> Path:
    """A folder of `count` good learnwares, each with weights of its own."""
    for number in range(count):
        shutil.copytree(whole, root / f"l{number:03}")
        edit_card(root / f"l{number:03}", id=f"l{number:03}")
    return root


@pytest.fixture
def hundred(whole: Path, tmp_path: Path) -> Path:
    """A folder of which 93 are good and eight are not: broken in seven ways, and one with an id that is taken."""
    folder = make(tmp_path / "hundred", whole, 93)
    for name, (break_it, _) in BREAKS.items():
        break_it(variant(whole, folder / name, name))
    edit_card(variant(whole, folder / "zz-twin", "zz-twin"), id="l000")
    return folder


@pytest.mark.slow
def test_of_a_hundred_folders_the_good_ones_are_served_and_each_other_is_named(market: Market, hundred: Path) -> None:
    said: list[str] = []
    seed(market, hundred, said.append)
    good = {f"l{number:03}": 1 for number in range(93)}
    assert served(market) == good
    assert said[-1].endswith("begins with 93 learnwares")
    named = [line for line in said if line.startswith("not served: ")]
    assert len(named) == len(BREAKS) + 1
    for name, (_, words) in BREAKS.items():
        assert any(name in line and words in line for line in named), (name, named)
    assert any("'l000': l000 is served, zz-twin is not" in line for line in named)
    reasons = {record.id: str(record.reason) for record in market.records(State.QUARANTINED)}
    assert set(reasons) == {"cut", "nan", "lost", "card", "foreign", "l000"}
    assert {record.id for record in market.records(State.UNFIT)} == {"shapes", "rank"}
    assert market.unserved() == read_catalogue(market.root).unserved == {"unfit": 2, "quarantined": 6}
    assert market.check_integrity() == []
    said.clear()
    seed(again(market), hundred, said.append)
    assert said == []


def test_a_folder_without_a_market_serves_the_good_ones_too(hundred: Path, tmp_path: Path, caplog) -> None:
    catalogue = static_catalogue(hundred, requirements(tmp_path / "base"))
    left_out = set(BREAKS) - {"nan"}  # values are the engine's to check
    assert {entry.id for entry in catalogue.entries} == {f"l{number:03}" for number in range(93)} | {"nan"}
    assert catalogue.unserved == {"broken": len(left_out) - 2, "unfit": 2, "duplicate": 1}
    assert all(any(name in line for line in caplog.messages) for name in [*left_out, "zz-twin"])
    assert catalogue == static_catalogue(hundred, requirements(tmp_path / "base"))


def test_strictly_each_of_them_is_an_error_and_nothing_is_lost(market: Market, whole: Path, tmp_path: Path) -> None:
    folder = make(tmp_path / "three", whole, 1)
    truncate(variant(whole, folder / "cut", "cut"))
    with_rank(variant(whole, folder / "wide", "wide"), 16)
    edit_card(variant(whole, folder / "twin", "twin"), id="l000")
    with pytest.raises(InvalidLearnware, match=r"cut: .*truncated.*; .*'l000': l000 is served.*; .*its rank is 16"):
        seed(market, folder, print, strict=True)
    assert not market.seeded
    assert served(market) == {"l000": 1}
    assert market.records(State.QUARANTINED) == market.records(State.UNFIT) == []
    for name in ("cut", "wide", "twin"):
        shutil.rmtree(folder / name)
    variant(whole, folder / "cut", "cut")
    seed(market, folder, print, strict=True)
    assert served(market) == {"l000": 1, "cut": 1}


def test_one_that_does_not_fit_is_served_when_the_configuration_fits_it(
    market: Market, whole: Path, tmp_path: Path
) -> None:
    folder = make(tmp_path / "folder", whole, 1)
    with_rank(variant(whole, folder / "wide", "wide"), 16)
    seed(market, folder, print)
    (unfit,) = market.records(State.UNFIT)
    assert (unfit.id, market.active("wide")) == ("wide", unfit)
    assert again(market, max_rank=8).refit() == [unfit.reason]
    assert served(market) == {"l000": 1}
    assert again(market, max_rank=16).refit() == []
    assert served(market) == {"l000": 1, "wide": 1}
    assert read_catalogue(market.root).unserved == {}


def test_a_changed_base_destroys_nothing(market: Market, whole: Path, tmp_path: Path) -> None:
    seed(market, make(tmp_path / "folder", whole, 2), print)
    sequence = read_catalogue(market.root).sequence
    for change in ({"base_model": "another"}, {"max_rank": 2}, {"layers": {"model.layers.0.mlp.up_proj": (8, 8)}}):
        other = again(market, **change)
        assert len(other.refit()) == 2
        assert served(other) == {}
        assert other.unserved() == {"unfit": 2}
        assert other.collect_garbage(kept_s=0) == []
        assert other.check_integrity() == []
        mended = again(market)
        assert mended.refit() == []
        assert served(mended) == {"l000": 1, "l001": 1}
    moved = read_catalogue(market.root).sequence
    assert moved > sequence
    assert again(market).refit() == []
    assert read_catalogue(market.root).sequence == moved  # nothing changed, nothing is followed


def test_one_whose_adapter_broke_between_two_runs_leaves_alone(market: Market, whole: Path, tmp_path: Path) -> None:
    seed(market, make(tmp_path / "folder", whole, 3), print)
    folder = market.folder(market.active("l001"))
    assert folder is not None
    shutil.rmtree(folder)
    assert market.refit() == [f"learnware l001: {CONFIG} is missing"]
    assert served(market) == {"l000": 1, "l002": 1}
    assert again(market).check_integrity() == []
    with again(market).stage(tmp_path / "folder" / "l001") as staged:  # the files were not to blame
        market.submit(staged)
    assert served(market) == {"l000": 1, "l001": 1, "l002": 1}


def test_filling_goes_on_after_it_was_cut(
    market: Market, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seeding, "SEED_BATCH", 2)
    folder = make(tmp_path / "folder", whole, 4)
    truncate(variant(whole, folder / "cut", "cut"))
    said: list[str] = []

    def stop(line: str) -> None:
        said.append(line)
        if len(said) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        seed(market, folder, stop)
    assert said == ["2 of 5 learnwares are in the market", "4 of 5 learnwares are in the market"]
    assert served(market) == {"l000": 1, "l001": 1, "l002": 1}
    seed(again(market), folder, print)
    assert served(market) == {f"l{number:03}": 1 for number in range(4)}
    assert [record.id for record in market.records(State.QUARANTINED)] == ["cut"]  # once
    market.remove("l000")
    seed(again(market), folder, print)
    assert "l000" not in served(market)


def test_folders_are_examined_without_their_values(whole: Path, tmp_path: Path) -> None:
    folder = make(tmp_path / "folder", whole, 1)
    spoil(folder / "l000")
    (lazily,) = examine(folder, requirements(tmp_path / "base"))
    (whole_read,) = examine(folder, requirements(tmp_path / "base"), values=True)
    assert getattr(lazily, "id", None) == "l000"
    assert getattr(whole_read, "kind", None) == "broken"
    assert load_learnware(folder / "l000", values=False).base_model == BASE
