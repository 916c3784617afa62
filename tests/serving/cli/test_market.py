"""`learnware-serving market …` on a small market of its own."""

import json
from pathlib import Path

import pytest

from serving import base_model
from serving.cli.main import main
from tests.specs.learnware_folder import BASE, write_learnware
from tests.specs.market.support import edit_card, pack, requirements, variant


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_learnware(tmp_path_factory.mktemp("whole") / "colours-objects")


@pytest.fixture
def market(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs one subcommand on a market whose base is the tiny one."""
    requirements(tmp_path / "base")
    monkeypatch.setattr(base_model, "ensure_base_model", lambda *_: tmp_path / "base")
    config = tmp_path / "config.yaml"
    config.write_text(
        json.dumps(
            {"base_model": {"id": BASE}, "market": {"path": str(tmp_path / "market")}, "engine": {"max_rank": 8}}
        )
    )

    def run(command: str, *arguments: object) -> int:
        return main(["market", command, "--config", str(config), *map(str, arguments)])

    return run


def test_a_learnware_comes_is_found_replaced_and_goes(market, whole: Path, tmp_path: Path, capsys):
    assert market("submit", pack(whole, tmp_path / "a.zip")) == 0
    assert "colours-objects, version 1, is served from now on" in capsys.readouterr().out
    assert market("search", "colours", "--domain", "colours") == 0
    assert "colours: objects  Colours of objects" in capsys.readouterr().out
    assert market("search", "motorcycles") == 1
    assert market("replace", variant(whole, tmp_path / "two", "colours-objects", 2, 2)) == 0
    capsys.readouterr()
    assert market("show", "colours-objects") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["version"], shown["state"], shown["card"]["domain"]) == (2, "active", "colours")
    assert Path(shown["folder"], "adapter_model.safetensors").is_file()
    assert market("remove", "colours-objects") == 0
    assert market("list") == 0
    assert "colours-objects" not in capsys.readouterr().out.replace("is served no more", "").partition("\n")[2]
    assert market("list", "--all") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("    note: ")]
    assert [line.split()[3] for line in lines] == ["replaced", "removed"]


def test_what_is_refused_says_why_and_stands_in_quarantine(market, whole: Path, tmp_path: Path, capsys):
    bad = variant(whole, tmp_path / "bad", "bad")
    edit_card(bad, base_model={"id": "another"})
    assert market("check", bad) == 1
    assert "but learnware.yaml says 'another'" in capsys.readouterr().err
    assert market("list", "--quarantined") == 0
    assert capsys.readouterr().out == ""  # a check alone leaves nothing
    assert market("submit", bad) == 1
    capsys.readouterr()
    assert market("list", "--quarantined") == 0
    assert "but learnware.yaml says 'another'" in capsys.readouterr().out
    assert market("submit", whole) == 0
    assert market("quarantine", "colours-objects", "--reason", "answers at random") == 0
    capsys.readouterr()
    assert market("list", "--quarantined") == 0
    assert "answers at random" in capsys.readouterr().out


def test_check_finds_what_is_wrong_with_the_market(market, whole: Path, tmp_path: Path, capsys):
    market("submit", whole)
    capsys.readouterr()
    assert market("check", whole) == 0
    checked = capsys.readouterr().out
    assert "every check passed that needs no engine; what it answers is tried when it is submitted over HTTP" in checked
    assert market("list") == 0
    assert "note: it was submitted from the command line, so no engine has tried" in capsys.readouterr().out
    assert market("check") == 0
    assert "1 learnwares, 0 problems" in capsys.readouterr().out


def test_without_a_market_it_says_how_to_name_one(capsys):
    assert main(["market", "list", "--config", "nowhere.yaml"]) == 1
    assert "cannot read the configuration" in capsys.readouterr().err


def test_without_a_path_the_market_is_the_running_stacks(tmp_path: Path, monkeypatch, capsys):
    config = tmp_path / "config.yaml"
    config.write_text("http: {port: 18999}")
    assert main(["market", "list", "--config", str(config)]) == 1
    assert "market.path is not set, and no stack runs on port 18999" in capsys.readouterr().err
