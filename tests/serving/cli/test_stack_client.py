"""A stack with TLS, as the command line reaches it: on this machine, and by its URL."""

import argparse
import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.cli.delivery import find_target
from serving.cli.main import main
from serving.cli.stack_client import StackClient
from serving.config import Config, load_config
from specs.errors import InvalidInput
from tests.support import certificate


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as a stack without learnwares and without decisions."""

    def do_GET(self) -> None:
        models = {"data": [{"id": "auto", "parent": "some-base", "owned_by": "learnware-serving"}]}
        body = json.dumps(models).encode() if self.path == "/v1/models" else b""
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    """The configuration of a stack that runs on loopback, with a certificate for a public name."""
    pem = certificate(tmp_path, "stack.example.org")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    path = tmp_path / "config.yaml"
    values = {"http": {"host": "0.0.0.0", "port": server.server_address[1], "tls_certificate": str(pem)}}
    path.write_text(json.dumps(values))
    yield path
    server.shutdown()
    server.server_close()


def url_of(config: Path) -> str:
    return f"https://127.0.0.1:{load_config(config).http.port}"


def test_the_stack_of_this_machine_is_asked_for_decisions_whatever_name_its_certificate_has(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["decisions", "list", "--config", str(config), "--key", "x"]) == 0
    assert main(["decisions", "list", "--config", str(config), "--key", "x", "--url", url_of(config)]) == 1
    assert "CERTIFICATE_VERIFY_FAILED" in capsys.readouterr().err


def test_a_learnware_goes_to_the_stack_of_this_machine_whatever_name_its_certificate_has(config: Path) -> None:
    options = {"market": None, "out": None, "dry_run": False, "key": "x", "url": None}
    with ExitStack() as open_:
        target = find_target(argparse.Namespace(**options), load_config(config), open_)
        assert target.stack is not None
        assert (target.stack.url, target.base) == (url_of(config), "some-base")
        named = argparse.Namespace(**options | {"url": url_of(config)})
        with pytest.raises(InvalidInput, match=r"cannot be trusted.*give --url the name that it is issued for"):
            find_target(named, load_config(config), open_)


@pytest.mark.parametrize(
    ("host", "verified"),
    [
        ("127.0.0.1", False),
        ("localhost", False),
        ("::1", False),
        ("0.0.0.0", False),
        ("10.0.0.5", True),
        ("stack.example.org", True),
    ],
)
def test_a_certificate_goes_unverified_on_loopback_alone(
    monkeypatch: pytest.MonkeyPatch, host: str, verified: bool
) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(httpx, "Client", lambda **options: made.append(options))
    StackClient.on_this_machine(Config.model_validate({"http": {"host": host, "tls_certificate": "door.pem"}}), "key")
    StackClient("https://127.0.0.1:8000")
    assert [options["verify"] for options in made] == [verified, True]
