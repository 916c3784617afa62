"""Ray Serve's file with the configuration's content: another limit is another version of the application."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.cli.main import main
from serving.config import Config, load_config
from serving.serve_file import configured, serve_file
from specs.errors import InvalidConfig

pytest.importorskip("ray.serve")

from ray.serve._private.deploy_utils import get_app_code_version
from ray.serve.schema import ServeDeploySchema


def deployed(text: str) -> ServeDeploySchema:
    return ServeDeploySchema.model_validate(yaml.safe_load(text))


def versions(config: Config) -> list[str]:
    return [get_app_code_version(application) for application in deployed(serve_file(config)).applications]


def test_a_changed_limit_is_another_version_of_each_application() -> None:
    before, after = Config(), Config.model_validate({"limits": {"max_choices": 3}})
    assert not set(versions(before)) & set(versions(after))
    assert versions(after) == versions(after)


def test_the_content_is_read_back(tmp_path: Path) -> None:
    content: dict[str, Any] = {
        "market": {"path": str(tmp_path)},
        "engine": {"options": {"seed": 3}, "pinned": ["a"]},
        "router": {"auto_names": ["auto", "beliebig"]},
        "drain_seconds": 5.0,
    }
    config = Config.model_validate(content)
    file = deployed(serve_file(config))
    assert [configured(application.args) for application in file.applications] == 6 * [config]
    prefixes = {application.name: application.route_prefix for application in file.applications}
    assert prefixes == {
        "learnware": "/",
        "metrics": "/metrics",
        "console": "/console",
        "market": "/v1/learnwares",
        "task-specs": "/v1/task-specs",
        "decisions": "/v1/decisions",
    }


def test_without_a_shared_folder_there_is_no_market_and_the_file_says_so() -> None:
    text = serve_file(Config())
    names = [application.name for application in deployed(text).applications]
    assert names == ["learnware", "metrics", "console", "decisions"]
    assert "# Without market.path" in text


@pytest.mark.parametrize("section", ["decisions", "console"])
def test_without_the_log_of_decisions_or_the_console_there_is_no_application_for_it(section: str) -> None:
    text = serve_file(Config.model_validate({section: {"enabled": False}}))
    left = {"decisions", "console"} - {section}
    assert {application.name for application in deployed(text).applications} == {"learnware", "metrics"} | left


def test_a_path_is_read_and_said_not_to_be_seen_by_serve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("http: {port: 9000}")
    assert configured({"config": str(path), "digest": "2"}) == load_config(path)
    assert "args.digest" in capsys.readouterr().out
    assert configured({}) == configured({"config": {}}) == Config()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"conf": {}}, "unknown argument conf of the application; valid here: config, digest"),
        ({"config": {"engine": {"slot": 1}}}, "unknown key engine.slot; did you mean engine.slots?"),
        ({"config": [1]}, "args.config must be a mapping or the path of a file, not a list"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidConfig) as raised:
        configured(arguments)
    assert str(raised.value) == reason


def test_the_command_prints_it_and_warns_of_keys(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    path = tmp_path / "my own.yaml"
    path.write_text("api_keys: [clé]\n", encoding="utf-8")
    assert main(["serve-file", "--config", str(path)]) == 0
    said = capfdbinary.readouterr()
    assert said.out.decode() == serve_file(load_config(path), str(path))
    assert f"learnware-serving environment --config '{path}'" in said.out.decode()
    assert b"plain text" in said.err
