"""What the configuration tells the edge, and that a stack which strangers could use without a key does not start."""

import json
import resource
import subprocess
from pathlib import Path
from typing import Any

import pytest

from serving.access.keyring import API_KEYS_VARIABLE
from serving.cli.main import main
from serving.config import Config
from serving.edge.settings import EdgeSettings, read_settings
from serving.launch import environment
from serving.launch.edge_settings import (
    check_exposure,
    edge_settings,
    is_loopback,
    total_requests,
)
from serving.launch.instance import haproxy_binary
from specs.errors import InvalidConfig


def config(**sections: Any) -> Config:
    return Config.model_validate(sections)


def test_the_settings_come_back_from_their_file(tmp_path: Path) -> None:
    edge = edge_settings("127.0.0.1", config(api_keys=["a"], http={"cors_origins": ["https://a.example"]}))
    (tmp_path / "edge.json").write_text(edge.text())
    read = read_settings(str(tmp_path / "edge.json"))
    assert json.loads(read.text()) == json.loads(edge.text())
    assert isinstance(read, EdgeSettings)
    assert "Bearer a" not in edge.text()
    (tmp_path / "edge.json").write_text('{"else": 1}')
    with pytest.raises(ValueError, match="does not hold the edge's settings"):
        read_settings(str(tmp_path / "edge.json"))


def test_the_total_follows_from_what_replicas_take() -> None:
    assert total_requests(Config()) == 32  # 16 that run, and 16 that wait
    many = config(engine={"replicas": 2, "max_num_seqs": 4}, limits={"max_waiting": 6})
    assert total_requests(many) == 20


@pytest.mark.slow
@pytest.mark.parametrize("files", [1024, 4096, 20_000, 1_048_576])
def test_haproxy_starts_with_the_connections_that_it_is_given(
    files: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It computes the files that it needs, and refuses to start where it may not have them."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    most = environment.max_connections()
    monkeypatch.undo()
    assert 200 <= most <= environment.MAX_CONNECTIONS
    _, own = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = files if own == resource.RLIM_INFINITY else min(files, own)
    if own != resource.RLIM_INFINITY and own < files:
        most = min(most, (own - 500) * 2 // 5)
    config = tmp_path / "haproxy.cfg"
    servers = "".join(f"    server s{number} 127.0.0.1:9 check\n" for number in range(20))
    config.write_text(
        f"global\n    maxconn {most}\ndefaults\n    mode http\n    option splice-request\n    timeout client 1s\n"
        "    timeout connect 1s\n    timeout server 1s\n"
        f"listen x\n    bind unix@{tmp_path}/x\n{servers}"
    )
    limit = f"ulimit -n {allowed}; exec timeout 1 {haproxy_binary()} -db -f {config}"
    done = subprocess.run(["sh", "-c", limit], capture_output=True, text=True, timeout=20, check=False)
    assert "Cannot raise FD limit" not in done.stderr
    assert done.returncode == 124, done.stderr  # it ran until it was ended


@pytest.mark.parametrize(
    ("host", "here"), [("127.0.0.1", True), ("127.9.9.9", True), ("localhost", True), ("::1", True), ("0.0.0.0", False)]
)
def test_loopback_is_told_from_the_network(host: str, here: bool) -> None:
    assert is_loopback(host) is here
    assert edge_settings(host, Config()).open_without_keys is here


def test_a_host_of_the_network_needs_a_key_or_the_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(API_KEYS_VARIABLE, raising=False)
    public = {"host": "0.0.0.0"}
    with pytest.raises(InvalidConfig, match=r"0\.0\.0\.0 opens the stack to the network.*keys add NAME.*--insecure"):
        check_exposure(config(http=public))
    with pytest.raises(InvalidConfig, match="opens the stack"):  # the owner's key is not for clients
        check_exposure(config(http=public, market={"admin_key": "y"}))
    check_exposure(Config())
    check_exposure(config(http=public | {"insecure": True}))
    check_exposure(config(http=public, api_keys=["x"]))
    file = tmp_path / "keys.json"
    check_exposure(config(http=public, keys={"file": str(file)}))  # it lets nobody in until there is a key
    file.write_text(json.dumps({"format": 1, "keys": [{"name": "a", "sha256": "0" * 64}]}))
    check_exposure(config(http=public, keys={"file": str(file)}))
    file.write_text("{")
    with pytest.raises(InvalidConfig, match=r"the key file .* cannot be used"):
        check_exposure(config(keys={"file": str(file)}))


def test_serve_and_check_refuse_it_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(API_KEYS_VARIABLE, raising=False)
    path = tmp_path / "my.yaml"
    path.write_text("http: {host: 0.0.0.0}\n")
    for command in (["serve", "--config", str(path)], ["check", "--config", str(path)], ["serve", "--host", "::"]):
        assert main(command) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "opens the stack to the network, and there is no key" in said


@pytest.mark.parametrize(
    ("http", "said"),
    [
        ({"more_paths": ["v1/x"]}, "each path begins with /"),
        ({"more_paths": ["/a b"]}, "http.more_paths: '/a b' holds a character"),
        ({"cors_origins": ["https://a'"]}, "http.cors_origins: "),
        ({"trusted_proxies": ["proxy"]}, "http.trusted_proxies: 'proxy' is no network such as"),
        ({"tls_certificate": "/nowhere.pem"}, "http.tls_certificate: there is no file /nowhere.pem"),
    ],
)
def test_what_the_edge_cannot_use_is_named(http: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidConfig, match=said):
        check_exposure(config(http=http))
