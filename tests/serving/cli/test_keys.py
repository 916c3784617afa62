"""`learnware-serving keys`: what is printed where, what is kept, and what is refused."""

import json
from pathlib import Path

import pytest
import yaml

from serving.access.key_file import read_keys
from serving.access.keyring import Keyring, digest_of
from serving.cli.keys import KEY_PREFIX
from serving.cli.main import main
from specs.errors import Unauthorized


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def add(path: Path, capsys: pytest.CaptureFixture[str], name: str, *options: str) -> str:
    assert main(["keys", "add", name, "--file", str(path), *options]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    output = capsys.readouterr()
    assert output.out == ""
    assert len(output.err.splitlines()) == 1, output.err
    return output.err


def test_the_key_is_alone_on_standard_output_and_nowhere_else(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = add(path, capsys, "alice").removesuffix("\n")
    assert key.startswith(KEY_PREFIX)
    assert len(key) >= len(KEY_PREFIX) + 32  # 192 bits in 6 a character
    assert key.isascii()
    assert key.isprintable()
    assert "\n" not in key
    assert key not in path.read_text()
    assert read_keys(path)[0].sha256 == digest_of(key)
    assert main(["keys", "list", "--file", str(path)]) == 0
    listed = capsys.readouterr().out
    assert key not in listed
    assert digest_of(key)[:12] in listed
    assert digest_of(key) not in listed
    assert add(path, capsys, "bob").strip() != key


def test_each_option_is_kept_and_listed(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--requests-per-minute 60 --tokens-per-minute any --concurrent-requests 4 --max-tokens 512"
    options += " --models auto finance-tfns --weight 2 --priority -3 --metrics"
    key = add(path, capsys, "alice", *options.split()).strip()
    tenant = Keyring(path, defaults={"tokens_per_minute": 5}).tenant(f"Bearer {key}")
    assert tenant._asdict() == {
        "name": "alice",
        "weight": 2.0,
        "priority": -3,
        "requests_per_minute": 60,
        "tokens_per_minute": None,
        "concurrent_requests": 4,
        "max_tokens": 512,
        "models": ("auto", "finance-tfns"),
        "metrics": True,
        "admin": False,
    }
    main(["keys", "list", "--file", str(path)])
    listed = capsys.readouterr().out
    for shown in ("alice", "requests_per_minute 60", "tokens_per_minute any", "models auto finance-tfns"):
        assert shown in listed


def test_another_key_of_a_name_has_its_limits_and_either_can_be_revoked(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = add(path, capsys, "alice", "--max-tokens", "5", "--models", "auto").strip()
    new = add(path, capsys, "alice", "--max-tokens", "9").strip()
    assert [entry.limits for entry in read_keys(path)] == [
        {"max_tokens": 5, "models": ("auto",)},
        {"max_tokens": 9, "models": ("auto",)},
    ]
    assert main(["keys", "revoke", "alice", "--file", str(path)]) == 1
    assert "stands for several keys" in refused(capsys)
    assert main(["keys", "revoke", digest_of(old)[:8].upper(), "--file", str(path)]) == 0
    keyring = Keyring(path)
    assert keyring.tenant(f"Bearer {new}").name == "alice"
    with pytest.raises(Unauthorized):
        keyring.tenant(f"Bearer {old}")
    assert main(["keys", "revoke", "alice", "--file", str(path)]) == 0
    assert read_keys(path) == ()


def test_all_keys_of_a_name_go_at_once_and_no_others(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("alice", "bob", "alice"):
        add(path, capsys, name)
    assert main(["keys", "revoke", "alice", "--all", "--file", str(path)]) == 0
    assert [entry.name for entry in read_keys(path)] == ["bob"]


def test_a_name_that_is_also_a_digest_is_refused(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = digest_of("k")
    entries = [{"name": "alice", "sha256": digest}, {"name": digest[:8], "sha256": digest_of("other")}]
    path.write_text(json.dumps({"format": 1, "keys": entries}))
    for option in ([], ["--all"]):
        assert main(["keys", "revoke", digest[:8], *option, "--file", str(path)]) == 1
        assert "several keys" in refused(capsys)
    assert len(read_keys(path)) == 2


@pytest.mark.parametrize("named", ["nobody", digest_of("k")[:5], "", "*"])
def test_what_names_no_key_revokes_none(path: Path, capsys: pytest.CaptureFixture[str], named: str) -> None:
    path.write_text(json.dumps({"format": 1, "keys": [{"name": "alice", "sha256": digest_of("k")}]}))
    assert main(["keys", "revoke", named, "--file", str(path)]) == 1
    assert "no key has this name or digest" in refused(capsys)
    assert len(read_keys(path)) == 1


def test_revoking_where_there_is_no_file_makes_none(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "revoke", "alice", "--file", str(path)]) == 1
    assert "there is no key file" in refused(capsys)
    assert not path.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["admin"], "reserved"),
        (["a/b"], "a name must have"),
        (["alice", "--weight", "nan"], "weight"),
        (["alice", "--weight", "0"], "weight"),
        (["alice", "--priority", "2"], "priority"),
        (["alice", "--models", ""], "models"),
    ],
)
def test_a_key_that_could_not_be_read_again_is_not_made(
    path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert main(["keys", "add", *options, "--file", str(path)]) == 1
    assert said in refused(capsys)
    assert not path.exists()


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many", "", "٣"])
def test_a_limit_is_a_positive_whole_number_or_any(path: Path, capsys: pytest.CaptureFixture[str], value: str) -> None:
    with pytest.raises(SystemExit):
        main(["keys", "add", "alice", "--max-tokens", value, "--file", str(path)])
    assert "neither a whole number from 1 nor" in capsys.readouterr().err
    assert not path.exists()


def test_the_configuration_says_where_the_keys_are(
    tmp_path: Path, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "stack.yaml"
    config.write_text(yaml.safe_dump({"keys": {"file": str(path)}}))
    assert main(["keys", "add", "alice", "--config", str(config)]) == 0
    assert [entry.name for entry in read_keys(path)] == ["alice"]
    config.write_text("{}")
    capsys.readouterr()
    assert main(["keys", "add", "alice", "--config", str(config)]) == 1
    assert "set keys.file in" in refused(capsys)


def test_a_broken_file_is_told_and_kept(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text("{}")
    for command in (["add", "alice"], ["list"], ["revoke", "alice"]):
        assert main(["keys", *command, "--file", str(path)]) == 1
        assert "cannot be used" in refused(capsys)
    assert path.read_text() == "{}"
