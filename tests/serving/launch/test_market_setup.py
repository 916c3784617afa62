"""The command line finds the stack that runs, its market and its configuration, and knows when it has followed."""

import http.server
import json
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import base_model
from serving.cli.main import main
from serving.config import Config, load_config
from serving.launch import instance as instance_module, market_setup
from serving.launch.instance import Claim, plan
from serving.launch.local_key import KEY_FILE
from serving.launch.market_setup import announce_market, find_market, running_stacks
from specs.errors import InvalidInput
from specs.files import file_lock
from specs.market.catalogue import read_catalogue
from specs.market.store import Market
from tests.specs.learnware_folder import BASE, write_learnware
from tests.specs.market.support import requirements, variant


class Stack:
    """Stands for a running stack: it holds the lock of its run folder, and shows metrics."""

    def __init__(self, folder: Path) -> None:
        self.market = Market(folder)
        self.sequences = {"engine": [0], "router": [0, 0]}
        self.failures = 0
        self.scrapes = 0
        self.follows = True
        self.key: str | None = None
        stack = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = stack.metrics().encode()
                allowed = stack.key is None or self.headers["authorization"] == f"Bearer {stack.key}"
                self.send_response(200 if allowed else 401)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.port = self.server.server_address[1]

    def metrics(self) -> str:
        self.scrapes += 1
        if self.follows and self.scrapes > 1:  # some time after the change
            sequence = read_catalogue(self.market.root).sequence
            self.sequences = {name: [sequence] * len(values) for name, values in self.sequences.items()}
        lines = [f'learnware_scrape_failures{{deployment="engine"}} {self.failures}']
        lines += [
            f'learnware_market_sequence{{deployment="{name}",replica="{number}"}} {value}.0'
            for name, values in self.sequences.items()
            for number, value in enumerate(values)
        ]
        return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_learnware(tmp_path_factory.mktemp("whole") / "colours-objects")


@pytest.fixture
def run_folders() -> Iterator[str]:
    """A temporary folder without other stacks; short, since pytest's own paths are too long for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="", dir="/tmp") as folder:
        yield folder


@pytest.fixture
def stack(tmp_path: Path, run_folders: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    monkeypatch.setattr(instance_module.tempfile, "gettempdir", lambda: run_folders)
    requirements(tmp_path / "base")
    monkeypatch.setattr(base_model, "ensure_base_model", lambda *_: tmp_path / "base")
    stack = Stack(tmp_path / "market")
    config = load_config(
        None,
        {
            "http": {"port": stack.port},
            "base_model": {"id": BASE},
            "engine": {"max_rank": 8},
            "api_keys": ["topsecret"],
            "market": {"admin_key": "topsecret"},
        },
    )
    folder = plan("127.0.0.1", stack.port).folder
    folder.mkdir(parents=True, exist_ok=True)  # a run that was cut may have left one of the same port
    lock = file_lock(folder / "lock")
    with lock, (folder / "lock").open("a+") as file:
        announce_market(Claim(plan("127.0.0.1", stack.port), file), config, stack.market.root)
        assert "topsecret" not in (folder / "lock").read_text()
        yield stack
    stack.server.shutdown()
    stack.server.server_close()


def asked(port: int, **sections: object) -> Config:
    return load_config(None, {"http": {"port": port}, **sections})


def test_without_a_file_the_stack_on_the_port_says_where_its_market_is_and_what_fits(stack: Stack) -> None:
    (found,) = running_stacks(Config())
    assert (found.port, found.market) == (stack.port, stack.market.root)
    place = find_market(asked(stack.port), given=False)
    assert (place.folder, place.stack) == (stack.market.root, found)
    assert place.config.base_model.served_id == BASE
    named = find_market(asked(1234), given=False, market=stack.market.root)  # whatever its port
    assert named.stack == found


def test_with_a_file_its_own_settings_count(stack: Stack, tmp_path: Path) -> None:
    place = find_market(asked(stack.port), given=True)
    assert place.folder == stack.market.root
    assert place.config.base_model.served_id != BASE
    other = Market(tmp_path / "other")
    place = find_market(asked(stack.port, market={"path": str(other.root)}), given=True)
    assert (place.folder, place.stack) == (other.root, None)


def test_a_stack_that_has_ended_or_says_nothing_is_not_found(stack: Stack) -> None:
    dead = plan("127.0.0.1", stack.port + 1).folder
    dead.mkdir()
    (dead / "lock").write_text((plan("127.0.0.1", stack.port).folder / "lock").read_text())
    assert len(running_stacks(Config())) == 1
    with pytest.raises(InvalidInput, match=f"no stack runs on port {stack.port + 1}"):
        find_market(asked(stack.port + 1), given=False)
    (plan("127.0.0.1", stack.port).folder / "lock").write_text(json.dumps({"pid": 1}))
    assert running_stacks(Config()) == []


def test_it_is_said_to_be_served_when_every_replica_serves_it(
    stack: Stack, whole: Path, tmp_path: Path, capsys
) -> None:
    arguments = ["--port", str(stack.port)]
    assert main(["market", "submit", str(whole), *arguments]) == 0
    assert "colours-objects, version 1, is served from now on" in capsys.readouterr().out
    assert stack.scrapes > 1
    assert stack.sequences == {"engine": [1], "router": [1, 1]}
    assert main(["market", "remove", "colours-objects", *arguments]) == 0
    assert "colours-objects, version 1, is served no more\n" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("why", ["router", "failure", "gone"])
def test_until_then_it_is_not_said(stack: Stack, whole: Path, tmp_path: Path, monkeypatch, capsys, why: str) -> None:
    monkeypatch.setattr(market_setup, "FOLLOW_TIMEOUT_S", 0.3)
    if why == "router":
        stack.follows = False
        stack.sequences = {"engine": [9], "router": [9, 0]}
    elif why == "failure":
        stack.failures = 1
    else:
        stack.server.shutdown()
        stack.server.server_close()
    folder = variant(whole, tmp_path / "one", "one")
    assert main(["market", "submit", str(folder), "--port", str(stack.port)]) == 0
    said = capsys.readouterr().out
    assert "from now on" not in said
    assert f"is in the market; it is served as soon as the stack on port {stack.port} has followed" in said


def test_a_stack_with_keys_is_asked_with_the_key_of_its_run(stack: Stack) -> None:
    running = next(each for each in running_stacks(asked(stack.port)) if each.port == stack.port)
    sequence = read_catalogue(stack.market.root).sequence
    stack.key = "of this run"
    stack.scrapes = 1
    assert not running.has_followed(sequence)
    (plan("127.0.0.1", stack.port).folder / KEY_FILE).write_text("of this run")
    assert running.has_followed(sequence)
