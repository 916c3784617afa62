"""What a start serves: the market follows the configuration, and whatever is left out is said."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from router.options import RouterOptions
from serving.config import Config, load_config
from serving.requirements import check_folder, examined_learnwares, fill_market, market_requirements
from specs.errors import InvalidLearnware
from specs.market.catalogue import read_catalogue
from specs.market.store import Market
from tests.specs.learnware_folder import BASE, write_learnware
from tests.specs.market.support import requirements, variant

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_learnware(tmp_path_factory.mktemp("whole") / "colours-objects")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    requirements(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def folder(tmp_path: Path, whole: Path) -> Path:
    """Two learnwares and a broken one."""
    for name in ("a", "b", "broken"):
        variant(whole, tmp_path / "learnwares" / name, name)
    (tmp_path / "learnwares" / "broken" / WEIGHTS).write_bytes(b"x")
    return tmp_path / "learnwares"


def config(folder: Path, **engine: Any) -> Config:
    return load_config(None, {"base_model": {"id": BASE}, "learnwares": {"folder": str(folder)}, "engine": engine})


def served(market: Path) -> list[str]:
    return [entry.id for entry in read_catalogue(market).entries]


def test_a_new_market_begins_without_the_broken_one_and_says_so(folder: Path, base: Path, tmp_path: Path) -> None:
    said: list[str] = []
    market = fill_market(config(folder), tmp_path / "market", base, said.append)
    assert served(market) == ["a", "b"]
    assert [line for line in said if line.startswith("not served: learnware broken: ")]


def test_strictly_it_is_an_error(folder: Path, base: Path, tmp_path: Path) -> None:
    for _ in range(2):  # also of the start after it
        with pytest.raises(InvalidLearnware, match="learnware broken"):
            fill_market(config(folder), tmp_path / "market", base, print, strict=True)
    shutil.rmtree(folder / "broken")
    fill_market(config(folder), tmp_path / "market", base, print, strict=True)
    assert served(tmp_path / "market") == ["a", "b"]


def test_a_reopened_market_follows_the_configuration_and_says_what_is_left_out(
    folder: Path, base: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    market = fill_market(config(folder), tmp_path / "market", base, print)
    known = Market(market)
    place = known.folder(known.active("b"))
    assert place is not None
    (place / WEIGHTS).unlink()
    fill_market(config(folder), market, base, said.append)
    assert served(market) == ["a"]
    assert said[0].startswith("not served: learnware b: its files in the market are missing")
    assert said[-1].endswith("holds 1 learnwares that are served")
    with pytest.raises(InvalidLearnware, match="learnware b: its files"):
        fill_market(config(folder), market, base, print, strict=True)
    other = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(other | {"hidden_size": 16}))
    said.clear()
    fill_market(config(folder), market, base, said.append)
    assert served(market) == []
    assert "not served: learnware a: model.layers.0.self_attn.q_proj: the adapter maps 8 features to 8" in said[0]
    (base / "config.json").write_text(json.dumps(other))
    fill_market(config(folder), market, base, print)
    assert served(market) == ["a"]


def test_examining_changes_nothing(folder: Path, base: Path, tmp_path: Path) -> None:
    found = examined_learnwares(config(folder), tmp_path / "market")
    assert ([each.id for each in found.served], [each.folder.name for each in found.unserved]) == (
        ["a", "b"],
        ["broken"],
    )
    assert not (tmp_path / "market").exists()
    market = fill_market(config(folder), tmp_path / "market", base, print)
    known = Market(market)
    place = known.folder(known.active("b"))
    assert place is not None
    (place / WEIGHTS).write_bytes(b"x")
    found = examined_learnwares(config(folder), market)
    assert [each.id for each in found.served] == ["a"]
    assert found.unserved[0].reason.startswith("learnware b: adapter_model.safetensors is truncated")
    assert served(market) == ["a", "b"]


def test_a_missing_folder_is_said_before_anything_is_prepared(base: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidLearnware, match="does not exist"):
        check_folder(config(tmp_path / "nowhere"), tmp_path / "market")
    Market(tmp_path / "market")
    check_folder(config(tmp_path / "nowhere"), tmp_path / "market")


def test_requirements_travel_to_the_replicas(folder: Path, base: Path) -> None:
    """Where there is no market, each replica finds out by itself what it serves."""
    needed = market_requirements(config(folder), base)
    fields = dict.fromkeys(("market", "base_model")) | {"learnwares": folder, "requirements": needed}
    settings = {"auto_names": ("auto",), "deadline_ms": 1, "max_wait_ms": 1, "on_overload": "refuse"}
    options = RouterOptions(**fields, **settings, selection={}, conversation={}, on_loopback=True)  # type: ignore[arg-type]
    assert pickle.loads(pickle.dumps(options)).requirements == needed
