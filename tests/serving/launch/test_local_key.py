"""The key that a stack makes for the command line of its own machine."""

import os
import stat
from pathlib import Path

import pytest

from serving.access.keyring import ADMIN_KEY_VARIABLE, admin_key_of
from serving.config import Config, load_config
from serving.launch import local_key
from serving.launch.instance import Instance, plan


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Instance:
    """A run folder of its own, and an environment without a key, which what is set ends with the test."""
    monkeypatch.setenv(ADMIN_KEY_VARIABLE, "")
    made = plan("127.0.0.1", 8000)._replace(folder=tmp_path)
    monkeypatch.setattr(local_key, "plan", lambda *_: made)
    return made


def test_a_stack_without_a_key_makes_one_that_its_owner_alone_can_read(instance: Instance, monkeypatch) -> None:
    assert local_key.admin_key(Config()) is None
    local_key.make_local_key(Config(), instance)
    made = os.environ[ADMIN_KEY_VARIABLE]
    assert len(made) == 32
    assert admin_key_of(Config()) == made  # what the market's application gets
    assert stat.S_IMODE((instance.folder / "admin-key").stat().st_mode) == 0o600
    monkeypatch.setenv(ADMIN_KEY_VARIABLE, "")  # as another process has it
    assert local_key.admin_key(Config()) == made
    local_key.make_local_key(Config(), instance)
    assert os.environ[ADMIN_KEY_VARIABLE] != made  # each run has its own


def test_a_configured_key_is_not_replaced_and_its_owners_command_line_finds_it(instance: Instance) -> None:
    local_key.make_local_key(Config(), instance)
    config = load_config(None, {"market": {"admin_key": "own"}})
    local_key.make_local_key(config, instance)
    assert local_key.admin_key(config) == "own"
    without = Config()  # as a running stack tells it: without keys
    os.environ[ADMIN_KEY_VARIABLE] = ""
    assert local_key.admin_key(without) == "own"
    assert stat.S_IMODE((instance.folder / "admin-key").stat().st_mode) == 0o600
