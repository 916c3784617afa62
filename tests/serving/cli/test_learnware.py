"""`learnware-serving learnware …`, through the command line's own parser."""

import argparse
import json
from pathlib import Path

import pytest

from serving.cli.learnware import add_parser
from specs.errors import InvalidLearnware
from specs.learnware import load_learnware
from specs.market.objects import fingerprint
from tests.specs.learnware_folder import PROMPTS, write_learnware


def run(*arguments: str | Path) -> int:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    options = parser.parse_args(["learnware", *map(str, arguments)])
    return int(options.run(options))


def test_a_learnware_goes_out_and_comes_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = write_learnware(tmp_path / "colours-objects")
    assert run("export", folder, "-o", tmp_path / "out.zip", "--base", "owner/base", "--needs", "00000001") == 0
    assert "colours-objects, version 1" in capsys.readouterr().out
    assert run("import", tmp_path / "out.zip", tmp_path / "back") == 0
    assert "colours-objects, for tiny-base" in capsys.readouterr().out
    assert fingerprint(tmp_path / "back") == fingerprint(folder)


def test_rows_specify_it_anew(tmp_path: Path):
    folder = write_learnware(tmp_path / "colours-objects")
    run("export", folder, "-o", tmp_path / "out.zip")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS[:21]))
    run("import", tmp_path / "out.zip", tmp_path / "back", "--rows", tmp_path / "rows.jsonl", "--id", "other")
    learnware = load_learnware(tmp_path / "back")
    assert learnware.id == "other"
    assert [(view.name, view.rows) for view in learnware.specification.views] == [("whole", 21)]


def test_what_is_no_learnware_is_not_exported(tmp_path: Path):
    with pytest.raises(InvalidLearnware):
        run("export", tmp_path, "-o", tmp_path / "out.zip")
