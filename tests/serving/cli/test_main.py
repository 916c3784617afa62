"""The command line: what an operator gets wrong is said in one line, at once, and nothing is started."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from serving import engine_check
from serving.cli.main import main
from serving.config import Config, load_config
from serving.config_file import default_file
from serving.paths import STARTER_FOLDER

TWO = ("finance-tfns", "mathematics-svamp_operation")


@pytest.fixture
def market(tmp_path: Path) -> Path:
    """A folder with two of the starter learnwares."""
    folder = tmp_path / "learnwares"
    for name in TWO:
        shutil.copytree(STARTER_FOLDER / name, folder / name)
    return folder


def run(tmp_path: Path, command: str, *options: str, **sections: object) -> int:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(sections))
    return main([command, "--config", str(path), *options])


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    output = capsys.readouterr()
    assert len(output.err.splitlines()) == 1, output.err
    return output.err


@pytest.fixture(autouse=True)
def the_engine_is_not_checked(monkeypatch):
    """vLLM takes ten seconds to import; `tests.serving.test_engine_check` has that part."""

    def cannot(config, base):
        raise engine_check.CannotCheck("this test does not")

    monkeypatch.setattr(engine_check, "check_in_a_process", cannot)


def test_a_good_configuration_is_checked_and_its_learnwares_listed(tmp_path, market, capsys):
    assert run(tmp_path, "check", learnwares={"folder": str(market)}) == 0
    output = capsys.readouterr().out
    assert all(name in output for name in TWO)
    assert "2 learnwares" in output


def test_the_starter_learnwares_are_valid(capsys):
    assert main(["check"]) == 0
    assert "15 learnwares over SmolLM2-135M-Instruct" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["check", "serve", "environment"])
def test_an_unknown_key_is_refused_with_the_nearest(tmp_path, capsys, command):
    assert run(tmp_path, command, engine={"slotz": 1}) == 1
    assert "did you mean engine.slots?" in refused(capsys)


@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_truncated_adapter_is_refused_before_anything_starts(tmp_path, market, capsys, command):
    weights = market / TWO[0] / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert run(tmp_path, command, "--strict", learnwares={"folder": str(market)}, http={"port": 18_499}) == 1
    message = refused(capsys)
    assert TWO[0] in message
    assert "truncated" in message


def test_a_broken_learnware_is_named_and_the_rest_is_checked(tmp_path, market, capsys):
    weights = market / TWO[0] / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert run(tmp_path, "check", learnwares={"folder": str(market)}) == 0
    output = capsys.readouterr()
    assert "1 learnwares over SmolLM2-135M-Instruct, 1 not served" in output.out
    assert f"not served: learnware {TWO[0]}: adapter_model.safetensors is truncated" in output.err


def test_an_adapter_for_another_base_is_refused(tmp_path, market, capsys):
    for name in TWO:
        edit_json(market / name / "adapter_config.json", base_model_name_or_path="Other-1B")
        edit_yaml(market / name / "learnware.yaml", "base_model", "id", "Other-1B")
    assert run(tmp_path, "check", "--strict", learnwares={"folder": str(market)}) == 1
    message = refused(capsys)
    assert "Other-1B" in message
    assert "SmolLM2-135M-Instruct" in message


def test_two_learnwares_with_one_id_are_refused(tmp_path, market, capsys):
    shutil.copytree(market / TWO[0], market / "copy")
    assert run(tmp_path, "check", "--strict", learnwares={"folder": str(market)}) == 1
    message = refused(capsys)
    assert "two learnwares with the id" in message
    assert "copy" in message


def test_a_rank_that_no_slot_holds_is_refused(tmp_path, market, capsys):
    rank = json.loads((market / TWO[0] / "adapter_config.json").read_text())["r"]
    wanted = 32
    while wanted <= rank:
        wanted *= 2
    edit_json(market / TWO[0] / "adapter_config.json", r=wanted)
    assert run(tmp_path, "check", "--strict", learnwares={"folder": str(market)}, engine={"max_rank": 16}) == 1
    assert TWO[0] in refused(capsys)


def test_a_learnware_may_not_take_the_name_auto(tmp_path, market, capsys):
    assert run(tmp_path, "check", "--strict", learnwares={"folder": str(market)}, router={"auto_names": [TWO[0]]}) == 1
    assert "must not be" in refused(capsys)


def test_a_missing_learnware_folder_is_said(tmp_path, capsys):
    assert run(tmp_path, "check", learnwares={"folder": str(tmp_path / "none")}) == 1
    assert "does not exist" in refused(capsys)


def test_a_missing_base_folder_is_said_before_ray_starts(tmp_path, capsys):
    source = {"source": str(tmp_path / "no-base"), "id": "SmolLM2-135M-Instruct"}
    assert run(tmp_path, "serve", base_model=source, http={"port": 18_498}) == 1
    assert "no-base" in refused(capsys)


def test_the_environment_is_printed_for_a_shell(tmp_path, capsys):
    assert run(tmp_path, "environment", http={"port": 18_497}) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("export ") for line in lines)
    assert "export RAY_SERVE_ENABLE_HA_PROXY=1" in lines


def test_the_default_configuration_is_printed_and_can_be_checked(tmp_path, capsys):
    assert main(["config"]) == 0
    path = tmp_path / "my.yaml"
    path.write_text(capsys.readouterr().out, encoding="utf-8")
    assert load_config(path) == Config()
    assert main(["check", "--config", str(path)]) == 0


def test_the_default_configuration_is_printed_as_utf_8_whatever_the_terminal_takes(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", terminal)
    assert main(["config"]) == 0
    assert terminal.buffer.getvalue().decode() == default_file()


def edit_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_yaml(path: Path, section: str, key: str, value: str) -> None:
    data = yaml.safe_load(path.read_text())
    data[section][key] = value
    path.write_text(yaml.safe_dump(data))


def test_the_parser_waits_for_nothing_that_takes_long_to_import() -> None:
    """`--help` and completion are there at once; a command imports what it needs when it runs."""
    program = "import sys, serving.cli.main as main; main._parser(); print(*sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    slow = {"ray", "vllm", "torch", "transformers", "scipy", "onnxruntime", "router.selection"}
    assert slow & set(said.split()) == set()
