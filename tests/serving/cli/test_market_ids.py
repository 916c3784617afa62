"""`learnware-serving market …` with ids that hold a slash, where sources may be `owner/name` too."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from serving import base_model
from serving.cli.main import main
from specs.market.store import Market
from tests.specs.learnware_folder import BASE, write_learnware
from tests.specs.market.support import requirements, variant

ID = "acme/tfns"


@pytest.fixture
def market(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs one subcommand on a market whose base is the tiny one."""
    requirements(tmp_path / "base")
    monkeypatch.setattr(base_model, "ensure_base_model", lambda *_: tmp_path / "base")
    config = tmp_path / "config.yaml"
    values = {"base_model": {"id": BASE}, "market": {"path": str(tmp_path / "market")}, "engine": {"max_rank": 8}}
    config.write_text(json.dumps(values))

    Market(tmp_path / "market")

    def run(command: str, *arguments: object) -> int:
        return main(["market", command, "--config", str(config), *map(str, arguments)])

    return run


@pytest.fixture
def learnware(tmp_path: Path) -> Path:
    return variant(write_learnware(tmp_path / "whole"), tmp_path / "elsewhere", ID)


def test_every_command_takes_the_id_as_it_is(
    market: Callable[..., int], learnware: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert market("submit", learnware) == 0
    assert market("replace", variant(learnware, tmp_path / "two", ID, 2, 2.0)) == 0
    capsys.readouterr()
    assert market("show", ID) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["id"], shown["version"]) == (ID, 2)
    assert "acme" not in shown["folder"]
    assert market("search", ID) == 0
    assert capsys.readouterr().out.startswith("acme/tfns  version 2  active")
    assert market("quarantine", ID, "--reason", "wrong") == 0
    assert market("submit", variant(learnware, tmp_path / "three", ID, 3, 3.0)) == 0
    assert market("remove", ID) == 0
    assert market("remove", ID) == 1
    assert "there is no learnware 'acme/tfns' in the market" in capsys.readouterr().err


def test_what_is_submitted_is_a_source_and_not_an_id(
    market: Callable[..., int],
    learnware: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`acme/tfns` is a folder where there is one, else the hub's: never what the market has under this id."""

    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.chdir(tmp_path)
    assert market("submit", learnware) == 0
    assert market("submit", ID) == 1
    assert "cannot get acme/tfns from the hub" in capsys.readouterr().err
    variant(learnware, tmp_path / "acme" / "tfns", ID, 2, 2.0)
    assert market("replace", ID) == 0
    assert "acme/tfns, version 2, is in the market" in capsys.readouterr().out
