"""`learnware-serving market …` on a small market of its own."""

import errno
import json
from pathlib import Path

import pytest

from serving import base_model
from serving.cli.main import main
from specs.market import publishing
from tests.serving.sources.servers import Answer, serving
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


LATER = "as soon as a stack runs on this market (market.path: "


def test_a_learnware_comes_is_found_replaced_and_goes(market, whole: Path, tmp_path: Path, capsys):
    assert market("submit", pack(whole, tmp_path / "a.zip"), "--create") == 0
    assert f"colours-objects, version 1, is in the market; it is served {LATER}" in capsys.readouterr().out
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
    assert f"colours-objects, version 2, is served no more {LATER}" in capsys.readouterr().out
    assert market("list") == 0
    assert capsys.readouterr().out == ""
    assert market("list", "--all") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("    note: ")]
    assert [line.split()[3] for line in lines] == ["replaced", "removed"]
    assert market("submit", whole) == 1
    assert "versions never go back: it needs 3 or higher in learnware.yaml, not 1" in capsys.readouterr().err


def test_quarantine_is_released_and_purged(market, whole: Path, capsys):
    market("submit", whole, "--create")
    market("quarantine", "colours-objects", "--reason", "answers at random")
    capsys.readouterr()
    assert market("submit", whole) == 1
    assert "in quarantine since" in capsys.readouterr().err
    assert market("list") == 0
    assert "not served: 1 quarantined (--quarantined)" in capsys.readouterr().err
    assert market("release", "colours-objects") == 0
    assert "colours-objects, version 1, is in the market" in capsys.readouterr().out
    market("quarantine", "colours-objects", "--reason", "answers at random")
    capsys.readouterr()
    assert market("purge") == 0
    assert "MiB: the files of 1 learnwares that are not served" in capsys.readouterr().out
    assert market("release", "colours-objects") == 0
    assert "is out of quarantine and may be submitted again" in capsys.readouterr().out
    assert market("release", "colours-objects") == 1


def test_a_change_that_cannot_be_published_is_said_to_be_made_and_not_served(
    market, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    market("submit", whole, "--create")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(publishing, "write_catalogue", full)
    capsys.readouterr()
    assert market("remove", "colours-objects") == 0
    said = capsys.readouterr().out
    assert "colours-objects, version 1, is served no more as soon as the market's catalogue can be written" in said
    assert "No space left on device" in said
    monkeypatch.undo()


def test_a_mistyped_folder_makes_no_market(market, whole: Path, tmp_path: Path, capsys):
    for command in (["list"], ["submit", str(whole)], ["show", "a"], ["check"], ["purge"]):
        assert market(*command, "--market", tmp_path / "markte") == 1
        message = capsys.readouterr().err
        assert f"there is no market in {tmp_path / 'markte'}" in message
        assert "--create" in message
    assert not (tmp_path / "markte").exists()


def test_every_option_says_what_holds_without_it(capsys):
    changes = ("submit", "replace", "remove", "quarantine", "release", "promote", "roll-back", "purge")
    for command in (*changes, "list", "show", "search", "check"):
        with pytest.raises(SystemExit):
            main(["market", command, "--help"])
        text = " ".join(capsys.readouterr().out.split())
        for option in ("--config", "--market", "--port"):
            assert "(default: " in text.split(f" {option} ")[-1][:400], (command, option)


def test_what_is_refused_says_why_and_stands_in_quarantine(market, whole: Path, tmp_path: Path, capsys):
    market("submit", whole, "--create")
    market("remove", "colours-objects")
    capsys.readouterr()
    bad = variant(whole, tmp_path / "bad", "bad")
    edit_card(bad, base_model={"id": "another"})
    assert market("check", bad) == 1
    assert "it is an adapter for 'another'" in capsys.readouterr().err
    assert market("list", "--quarantined") == 0
    assert capsys.readouterr().out == ""  # a check alone leaves nothing
    assert market("submit", bad) == 1
    capsys.readouterr()
    assert market("list", "--quarantined") == 0
    assert "it is an adapter for 'another'" in capsys.readouterr().out
    assert market("submit", variant(whole, tmp_path / "two", "colours-objects", 2)) == 0
    assert market("quarantine", "colours-objects", "--reason", "answers at random") == 0
    capsys.readouterr()
    assert market("list", "--quarantined") == 0
    assert "answers at random" in capsys.readouterr().out


def test_check_finds_what_is_wrong_with_the_market(market, whole: Path, tmp_path: Path, capsys):
    market("submit", whole, "--create")
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
    assert main(["market", "list", "--port", "18998"]) == 1
    assert "no stack runs on port 18998" in capsys.readouterr().err


def test_what_is_not_on_this_machine_is_fetched_first_and_called_by_its_name(
    market, whole: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    content = pack(whole, tmp_path / "colours.zip").read_bytes()
    with serving(lambda asked: Answer(200, content)) as place:
        assert market("submit", f"{place.url}/a/colours.zip", "--create") == 0
        assert "colours-objects, version 1, is in the market" in capsys.readouterr().out
        wide = variant(whole, tmp_path / "wide", "wide")
        edit_card(wide, base_model={"id": "another"})
        content = pack(wide, tmp_path / "wide.zip").read_bytes()
        assert market("submit", f"{place.url}/a/wide.zip") == 1
    assert "it is an adapter for 'another'" in capsys.readouterr().err
    assert market("submit", f"{place.url}/a/gone.zip") == 1
    assert "/a/gone.zip" in capsys.readouterr().err


def test_a_canary_comes_and_is_promoted_or_rolled_back(market, whole: Path, tmp_path: Path, capsys):
    second, third = (variant(whole, tmp_path / f"v{number}", "colours-objects", number, number) for number in (2, 3))
    market("submit", whole, "--create")
    assert market("submit", second, "--canary", "5") == 1
    assert "the share of a canary is a number above 0 and below 1" in capsys.readouterr().err
    assert market("submit", second, "--canary", "5%") == 0
    said = capsys.readouterr().out
    assert f"colours-objects@canary, version 2, is in the market; it is served {LATER}" in said
    assert "it gets 5 % of the requests for which colours-objects is chosen" in said
    assert market("list") == 0
    listed = capsys.readouterr().out
    assert "colours-objects@canary  version 2  active" in listed
    assert "    canary with 5 % of the requests" in listed
    assert market("replace", third) == 1
    assert "has a canary, version 2: promote it or roll it back" in capsys.readouterr().err
    assert market("promote", "colours-objects", "--reason", "as good") == 0
    assert "colours-objects, version 2, is in the market" in capsys.readouterr().out
    assert market("submit", third, "--canary", "0.25") == 0
    assert market("roll-back", "colours-objects", "--reason", "worse") == 0
    assert f"colours-objects@canary, version 3, is served no more {LATER}" in capsys.readouterr().out
    assert market("roll-back", "colours-objects", "--reason", "worse") == 1
    assert "has no canary" in capsys.readouterr().err
    assert market("show", "colours-objects") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["version"], shown["canary"]) == (2, None)
    told = [(one["version"], one["share"], one["outcome"], one["reason"]) for one in shown["canaries"]]
    assert told == [(2, 0.05, "promoted", "as good"), (3, 0.25, "rolled back", "worse")]
    assert market("check") == 0
